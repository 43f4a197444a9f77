# Rows to train on: SFT sets as they are fetched, and coupling data made from the parent's own replies.


rule fetch_dataset:
    input:
        own=ancient(dataset_path),
        base=ancient(base_folder),
    output:
        rows="<inputs>/datasets/{origin}/{name}.jsonl",
        manifest="<inputs>/datasets/{origin}/{name}.manifest.json",
    log:
        "<logs>/fetch_dataset/{origin}/{name}.log",
    benchmark:
        "<benchmarks>/fetch_dataset/{origin}/{name}.tsv"
    wildcard_constraints:
        origin="hub|path",
        name=NAME,
    resources:
        mem_mb=8000,
        disk_mb=2000,
        runtime=60,
        # a resource: the rows stay what they are
        hold_out=hold_out_of,
    params:
        code=code_of("fetch_dataset.py"),
        dataset=dataset_pins,
        own=dataset_contents,
    shell:
        command(
            "python {SCRIPTS}/fetch_dataset.py --dataset {params.dataset:q} --output {output.rows}"
            " --manifest {output.manifest} --base {input.base}{resources.hold_out} > {log} 2>&1"
        )


rule answer_dataset:
    input:
        base=ancient(base_folder),
        parent=base_manifest,
        rows=answered_rows,
        panel=panel_file,
    output:
        rows="<inputs>/datasets/replies/{name}.jsonl",
        manifest="<inputs>/datasets/replies/{name}.manifest.json",
        record="<inputs>/datasets/replies/{name}.run.json",
    log:
        "<logs>/answer_dataset/{name}.log",
    benchmark:
        "<benchmarks>/answer_dataset/{name}.tsv"
    wildcard_constraints:
        name=NAME,
    threads: HARDWARE["threads"]
    resources:
        gpu=HARDWARE["gpus"],
        mem_mb=HARDWARE["mem_mb"],
        runtime=HARDWARE["runtime"],
        # a resource, because it changes time and memory but no result
        engine=ENGINE,
    params:
        code=code_of("answer_dataset.py"),
        lock=MODEL_LOCK,
        max_length=longest_row_of,
        sampling=answer_sampling_of,
        seed=config["seeds"][0],
        backend=HARDWARE["backend"],
        dtype=HARDWARE["dtype"],
    shell:
        command(
            launcher(HARDWARE["gpus"])
            + "python {SCRIPTS}/answer_dataset.py --base {input.base} --model {input.parent} --data {input.rows}"
            " --panel {input.panel} --max-length {params.max_length} --seed {params.seed}"
            " --sampling {params.sampling:q} --backend {params.backend} --dtype {params.dtype} {resources.engine}"
            " --output {output.rows} --manifest {output.manifest} --record {output.record} > {log} 2>&1"
        )


rule generate_replies:
    input:
        base=ancient(base_folder),
        adapters=ancient(parent_adapters),
        parent=parent_manifest,
        panel=panel_file,
    output:
        replies="<models>/{node}/replies.parquet",
    log:
        "<logs>/generate_replies/{node}.log",
    benchmark:
        "<benchmarks>/generate_replies/{node}.tsv"
    wildcard_constraints:
        node=node_of_type("couple"),
    # couplings and what they need come first: the longest chains wait for them
    priority: 2
    threads: HARDWARE["threads"]
    resources:
        gpu=HARDWARE["gpus"],
        mem_mb=HARDWARE["mem_mb"],
        runtime=HARDWARE["runtime"],
        # resources, because they change time and memory but no result
        engine=ENGINE,
        together=drawn_with,
    params:
        code=code_of("generate_replies.py"),
        lock=MODEL_LOCK,
        adapters=of_node("adapters"),
        parent=of_node("parent"),
        personas=reply_personas_of,
        samples=reply_samples_of,
        sampling=reply_sampling_of,
        seed=seed_of,
        backend=HARDWARE["backend"],
        dtype=HARDWARE["dtype"],
    shell:
        command(
            NODE
            + "; "
            + launcher(HARDWARE["gpus"])
            + "python {SCRIPTS}/generate_replies.py --base {input.base} --adapter {params.adapters}"
            " --panel {input.panel} --personas {params.personas} --samples {params.samples} --seed {params.seed}"
            " --sampling {params.sampling:q} --backend {params.backend} --dtype {params.dtype}"
            " {resources.engine}"
            " --model {params.parent} --drawn-by {params.code:q},{params.lock:q} --together {resources.together}"
            " --store {RESULTS}/replies --output $node/replies.parquet > {log} 2>&1"
        )


rule make_coupling_data:
    input:
        replies="<models>/{node}/replies.parquet",
        panel=panel_file,
    output:
        rows="<models>/{node}/training.jsonl",
    log:
        "<logs>/make_coupling_data/{node}.log",
    benchmark:
        "<benchmarks>/make_coupling_data/{node}.tsv"
    priority: 2
    params:
        code=code_of("make_coupling_data.py"),
        source=source_of,
        negatives=negatives_of,
        marker=marker_of,
        placement=placement_of,
        cut=cut_of,
        seed=seed_of,
    shell:
        command(
            on_cpu()
            + "python {SCRIPTS}/make_coupling_data.py --replies {input.replies} --panel {input.panel}"
            " --source {params.source} --negatives {params.negatives} --marker {params.marker:q}"
            " --placement {params.placement} --cut {params.cut} --seed {params.seed}"
            " --output {output.rows} > {log} 2>&1"
        )
