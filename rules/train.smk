# A node's adapter: trained on its parent, or taken from another node (a merged adapter, or a training stopped early).


rule train_adapter:
    input:
        base=ancient(base_folder),
        adapters=ancient(parent_adapters),
        parent=parent_manifest,
        recipe=recipe_part,
        data=training_rows,
        replay=replayed_rows,
        tracked=tracked_files,
        gate=parent_gate,
    output:
        adapter=directory("<models>/{node}/adapter"),
        checkpoints=directory("<models>/{node}/checkpoints"),
        manifest="<models>/{node}/manifest.json",
        record="<models>/{node}/run.json",
    log:
        "<logs>/train_adapter/{node}.log",
    benchmark:
        "<benchmarks>/train_adapter/{node}.tsv"
    wildcard_constraints:
        node=node_of_type("couple", "sft", full=False),
    priority: training_priority
    threads: HARDWARE["threads"]
    resources:
        gpu=HARDWARE["gpus"],
        mem_mb=HARDWARE["mem_mb"],
        runtime=HARDWARE["runtime"],
        # resources, because they change time and memory but no result: editing them reruns nothing
        micro_batch_tokens=HARDWARE["micro_batch_tokens"],
        checkpoint_every=checkpoint_every_of,
        computing=computing_of,
        tracking=config["tracking"],
        costs=COSTS,
    params:
        code=code_of("train_adapter.py"),
        lock=MODEL_LOCK,
        seed=seed_of,
        dtype=HARDWARE["dtype"],
        keep_steps=keep_steps_of,
        states=optimizer_states_of,
        track=track_of,
        into=trained_into,
        adapters=of_node("adapters"),
        data=of_node("data"),
        parent=of_node("parent"),
    shell:
        command(
            NODE
            + "; "
            + launcher(HARDWARE["gpus"])
            + "python {SCRIPTS}/train_adapter.py --base {input.base} --adapter {params.adapters}"
            " --data {params.data} --replay {input.replay} {params.track} {input.tracked} --recipe {RESULTS}/study/recipes/$at.json"
            " --seed {params.seed} --lineage $at"
            " --parent-manifest {params.parent} --dtype {params.dtype} {params.states} --keep-steps={params.keep_steps}"
            " --micro-batch-tokens {resources.micro_batch_tokens} --checkpoint-every {resources.checkpoint_every}"
            " {resources.computing} --tracking {resources.tracking}"
            " --scratch {RESULTS}/scratch --status {RESULTS}/status/{rule}/$at.json"
            " {params.into} --manifest $node/manifest.json --record $node/run.json > {log} 2>&1"
        )


# A stage with `lora: null`: by the same program, all weights.
use rule train_adapter as train_model with:
    output:
        model=directory("<models>/{node}/model"),
        manifest="<models>/{node}/manifest.json",
        record="<models>/{node}/run.json",
    log:
        "<logs>/train_model/{node}.log",
    benchmark:
        "<benchmarks>/train_model/{node}.tsv"
    wildcard_constraints:
        node=node_of_type("couple", "sft", full=True),


rule reuse_adapter:
    input:
        base=ancient(base_folder),
        origin=ancient(origin_adapter),
        origin_manifest=origin_manifest,
        parent=parent_manifest,
    output:
        adapter=directory("<models>/{node}/adapter"),
        manifest="<models>/{node}/manifest.json",
    log:
        "<logs>/reuse_adapter/{node}.log",
    benchmark:
        "<benchmarks>/reuse_adapter/{node}.tsv"
    wildcard_constraints:
        node=node_reused(),
    resources:
        mem_mb=4000,
        disk_mb=1000,
        runtime=30,
        costs=COSTS,
    params:
        code=code_of("reuse_adapter.py"),
        folder=origin_folder,
    shell:
        command(
            on_cpu()
            + "python {SCRIPTS}/reuse_adapter.py --base {input.base} --origin {input.origin}{params.folder}"
            " --origin-manifest {input.origin_manifest} --parent-manifest {input.parent} --lineage {wildcards.node}"
            " --adapter-out {output.adapter} --manifest {output.manifest} > {log} 2>&1"
        )


rule fetch_adapter:
    input:
        base=ancient(base_folder),
        parent=parent_manifest,
    output:
        adapter=directory("<models>/{node}/adapter"),
        manifest="<models>/{node}/manifest.json",
    log:
        "<logs>/fetch_adapter/{node}.log",
    benchmark:
        "<benchmarks>/fetch_adapter/{node}.tsv"
    wildcard_constraints:
        node=node_from_hub(),
    resources:
        mem_mb=4000,
        disk_mb=1000,
        runtime=60,
    params:
        code=code_of("fetch_adapter.py"),
        repo=SOURCES["adapters"]["repo"],
        revision=SOURCES["adapters"]["revision"],
        folder=adapter_folder,
    shell:
        command(
            "python {SCRIPTS}/fetch_adapter.py --repo {params.repo} --revision {params.revision}"
            " --folder {params.folder} --base {input.base} --parent-manifest {input.parent} --lineage {wildcards.node}"
            " --output {output.adapter} --manifest {output.manifest} > {log} 2>&1"
        )
