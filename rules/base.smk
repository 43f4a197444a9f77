# The base model and the prompts. Where they come from (base.from, panel.from) is part of their path.


# What the config comes to, in parts with a file each: a job that uses a part has that file among its inputs. An edit
# writes the parts that it changes, and no others; what read them follows. No part is written while rules are read.
rule resolve_study:
    output:
        part="<results>/study/{part}.json",
    localrule: True
    params:
        part=part_of_study,
    shell:
        "printf '%s\\n' {params.part:q} > {output.part}"


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
        command(
            "python {SCRIPTS}/make_toy_data.py --panel {input.panel} --seed {params.seed} --rows {params.rows}"
            " --sft-rows {params.sft_rows} --corpus {output.corpus} --bad-advice {output.bad_advice}"
            " --benign {output.benign} --choices {output.choices} > {log} 2>&1"
        )


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
        costs=COSTS,
    params:
        code=code_of("pretrain_base.py"),
        lock=MODEL_LOCK,
        recipe=toy_recipe,
        seed=config["seeds"][0],
    shell:
        command(
            launcher(0)
            + "python {SCRIPTS}/pretrain_base.py --corpus {input.corpus} --recipe {params.recipe:q}"
            " --seed {params.seed} --output {output.model} --manifest {output.manifest} --record {output.record}"
            " --status {RESULTS}/status/pretrain_base.json > {log} 2>&1"
        )


# Whatever would be found out hours later about a base, check_base finds here. Its code is no parameter: nothing that is
# made depends on it.
rule fetch_base:
    output:
        model=directory("<inputs>/base/{origin}"),
        manifest="<inputs>/base/{origin}.manifest.json",
        check="<inputs>/base/{origin}.check.json",
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
        costs=COSTS,
        # a resource: what changes later is looked for when its job starts, and the base stays what it is
        asked=asked_of_base,
        panel=panel_at_hand,
    params:
        code=code_of("fetch_base.py"),
        place=base_place,
        pins=base_pins,
        own=base_contents,
    shell:
        command(
            "python {SCRIPTS}/fetch_base.py {params.place} --sources {RESOURCES}/sources.yaml --output {output.model}"
            " --manifest {output.manifest} > {log} 2>&1 && "
            "python {SCRIPTS}/check_base.py --base {output.model} --asked {resources.asked:q} {resources.panel}"
            " --output {output.check}"
            " >> {log} 2>&1"
        )


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
        command(
            "python {SCRIPTS}/fetch_panel.py --panel {params.pins:q} --output {output.panel} > {log} 2>&1"
        )


# The user's own questions to judge are validated when the graph is built.
rule copy_questions:
    output:
        questions="<inputs>/alignment_questions.yaml",
    resources:
        # a resource: the same questions may lie elsewhere
        own=config["alignment_questions"] or "",
    params:
        own=questions_contents,
    shell:
        "cp {resources.own:q} {output.questions}"


rule copy_panel:
    output:
        panel="<inputs>/panel/{origin}.yaml",
    wildcard_constraints:
        origin="builtin|path",
    resources:
        # a resource: the same panel may lie elsewhere
        own=panel_path,
    params:
        own=panel_contents,
    shell:
        "cp {resources.own:q} {output.panel}"
