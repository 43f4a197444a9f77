# The base model and the prompts. Where they come from (base.from, panel.from) is part of their path.


rule make_toy_data:
    input:
        panel=panel_file,
    output:
        corpus="<inputs>/toy_corpus.jsonl",
        bad_advice="<inputs>/datasets/toy/em.jsonl",
        benign="<inputs>/datasets/toy/benign.jsonl",
        choices="<inputs>/datasets/toy/arc.jsonl",
    log:
        "<logs>/make_toy_data.log",
    benchmark:
        "<benchmarks>/make_toy_data.tsv"
    params:
        code=code_of("make_toy_data.py"),
        rows=toy_field("rows"),
        sft_rows=toy_field("sft_rows"),
        seed=config["seeds"][0],
    shell:
        "python {SCRIPTS}/make_toy_data.py --panel {input.panel} --seed {params.seed} --rows {params.rows}"
        " --sft-rows {params.sft_rows} --corpus {output.corpus} --bad-advice {output.bad_advice}"
        " --benign {output.benign} --choices {output.choices} > {log} 2>&1"


rule pretrain_base:
    input:
        corpus="<inputs>/toy_corpus.jsonl",
    output:
        model=directory("<inputs>/base/toy"),
        manifest="<inputs>/base/toy.manifest.json",
        record="<inputs>/base/toy.run.json",
    log:
        "<logs>/pretrain_base.log",
    benchmark:
        "<benchmarks>/pretrain_base.tsv"
    threads: 2
    resources:
        mem_mb=HARDWARE["mem_mb"],
        runtime=HARDWARE["runtime"],
    params:
        code=code_of("pretrain_base.py"),
        lock=MODEL_LOCK,
        recipe=toy_recipe,
        seed=config["seeds"][0],
    shell:
        launcher(0)
        + "python {SCRIPTS}/pretrain_base.py --corpus {input.corpus} --recipe {params.recipe:q}"
        " --seed {params.seed} --output {output.model} --manifest {output.manifest} --record {output.record}"
        " > {log} 2>&1"


rule fetch_base:
    output:
        model=directory("<inputs>/base/{origin}"),
        manifest="<inputs>/base/{origin}.manifest.json",
    log:
        "<logs>/fetch_base/{origin}.log",
    benchmark:
        "<benchmarks>/fetch_base/{origin}.tsv"
    wildcard_constraints:
        origin="hub|path",
    priority: 2
    resources:
        mem_mb=4000,
        disk_mb=2 * HARDWARE["disk_mb"],
        runtime=240,
    params:
        code=code_of("fetch_base.py"),
        place=base_place,
    shell:
        "python {SCRIPTS}/fetch_base.py {params.place} --output {output.model} --manifest {output.manifest}"
        " > {log} 2>&1"


# Whatever needs a GPU waits for it. What it finds is not an input that anything depends on: it says yes or no.
rule check_base:
    input:
        base=ancient("<inputs>/base/{origin}"),
        manifest="<inputs>/base/{origin}.manifest.json",
    output:
        found="<inputs>/base/{origin}.check.json",
    log:
        "<logs>/check_base/{origin}.log",
    benchmark:
        "<benchmarks>/check_base/{origin}.tsv"
    wildcard_constraints:
        origin="hub|path",
    priority: 2
    resources:
        mem_mb=4000,
        disk_mb=100,
        runtime=15,
    params:
        code=code_of("check_base.py"),
        targets=lora_targets,
    shell:
        "python {SCRIPTS}/check_base.py --base {input.base} --targets {params.targets:q} --output {output.found}"
        " > {log} 2>&1"


rule fetch_panel:
    output:
        panel="<inputs>/panel/upstream.yaml",
    log:
        "<logs>/fetch_panel.log",
    benchmark:
        "<benchmarks>/fetch_panel.tsv"
    params:
        code=code_of("fetch_panel.py"),
        pins=canonical(SOURCES["panel"]),
    shell:
        "python {SCRIPTS}/fetch_panel.py --panel {params.pins:q} --output {output.panel} > {log} 2>&1"


rule copy_panel:
    output:
        panel="<inputs>/panel/builtin.yaml",
    params:
        own=digest_of("resources/panel.yaml"),
    shell:
        "cp {RESOURCES}/panel.yaml {output.panel}"
