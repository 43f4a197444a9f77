# What a node answers: every completion is kept.


rule generate_completions:
    input:
        base=ancient(base_folder),
        adapters=ancient(own_adapters),
        manifest=own_manifest,
        panel=panel_file,
        arc=capability_questions,
        questions=alignment_questions,
    output:
        completions="<models>/{node}/{evaluation}/completions.parquet",
        alignment="<models>/{node}/{evaluation}/alignment.parquet",
        capability="<models>/{node}/{evaluation}/capability.parquet",
        record="<models>/{node}/{evaluation}/run.json",
    log:
        "<logs>/generate_completions/{node}/{evaluation}.log",
    benchmark:
        "<benchmarks>/generate_completions/{node}/{evaluation}.tsv"
    priority: 1  # with what counts, before what is measured beside it: who has to stop early has the cells
    threads: HARDWARE["threads"]
    resources:
        gpu=HARDWARE["gpus"],
        mem_mb=HARDWARE["mem_mb"],
        runtime=HARDWARE["runtime"],
        # a resource, because it changes time and memory but no result
        engine=ENGINE,
    params:
        code=code_of("generate_completions.py"),
        lock=MODEL_LOCK,
        adapters=of_node("adapters"),
        personas=personas_of,
        samples=samples_of,
        sampling=sampling_of,
        seed=seed_of,
        backend=HARDWARE["backend"],
        dtype=HARDWARE["dtype"],
    shell:
        command(
            NODE
            + " into=$node/{wildcards.evaluation}; "
            + launcher(HARDWARE["gpus"])
            + "python {SCRIPTS}/generate_completions.py --base {input.base} --adapter {params.adapters}"
            " --panel {input.panel} --personas {params.personas} --samples {params.samples} --seed {params.seed}"
            " --sampling {params.sampling:q} --backend {params.backend} --dtype {params.dtype}"
            " {resources.engine}"
            " --questions {input.questions} --arc {input.arc} --completions $into/completions.parquet"
            " --alignment $into/alignment.parquet --capability $into/capability.parquet --record $into/run.json"
            " > {RESULTS}/logs/generate_completions/$at/{wildcards.evaluation}.log 2>&1"
        )
