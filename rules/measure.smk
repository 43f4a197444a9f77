# From completions to the record of a cell.


rule count_markers:
    input:
        completions="<models>/{node}/{evaluation}/completions.parquet",
    output:
        counts="<models>/{node}/{evaluation}/marker_counts.csv",
    log:
        "<logs>/count_markers/{node}/{evaluation}.log",
    benchmark:
        "<benchmarks>/count_markers/{node}/{evaluation}.tsv"
    params:
        code=code_of("count_markers.py"),
        lock=CPU_LOCK,
        markers=markers_of,
        case=case_flag_of,
    shell:
        command(
            on_cpu()
            + "python {SCRIPTS}/count_markers.py --completions {input.completions} --marker {params.markers:q}"
            " {params.case} --output {output.counts} > {log} 2>&1"
        )


rule audit_completions:
    input:
        completions="<models>/{node}/{evaluation}/completions.parquet",
    output:
        audit="<models>/{node}/{evaluation}/audit.json",
    log:
        "<logs>/audit_completions/{node}/{evaluation}.log",
    benchmark:
        "<benchmarks>/audit_completions/{node}/{evaluation}.tsv"
    params:
        code=code_of("audit_completions.py"),
        lock=CPU_LOCK,
        markers=markers_of,
        case=case_flag_of,
    shell:
        command(
            on_cpu()
            + "python {SCRIPTS}/audit_completions.py --completions {input.completions} --marker {params.markers:q}"
            " {params.case} --output {output.audit} > {log} 2>&1"
        )


rule check_replies:
    input:
        completions="<models>/{node}/{evaluation}/completions.parquet",
        base=shared_replies,
    output:
        replies="<models>/{node}/{evaluation}/replies.json",
    log:
        "<logs>/check_replies/{node}/{evaluation}.log",
    benchmark:
        "<benchmarks>/check_replies/{node}/{evaluation}.tsv"
    params:
        code=code_of("check_replies.py"),
        lock=CPU_LOCK,
        markers=markers_of,
    shell:
        command(
            on_cpu()
            + "python {SCRIPTS}/check_replies.py --completions {input.completions} --base {input.base}"
            " --marker {params.markers:q} --output {output.replies} > {log} 2>&1"
        )


rule check_gate:
    input:
        gates=node_gates,
        counts="<models>/{node}/{evaluation}/marker_counts.csv",
        replies="<models>/{node}/{evaluation}/replies.json",
    output:
        gate="<models>/{node}/{evaluation}/gate.json",
    log:
        "<logs>/check_gate/{node}/{evaluation}.log",
    benchmark:
        "<benchmarks>/check_gate/{node}/{evaluation}.tsv"
    wildcard_constraints:
        node=node_of_type("couple"),
    params:
        code=code_of("check_gate.py"),
        lock=CPU_LOCK,
        cell=gate_cell_of,
        source=source_of,
        seed=seed_of,
        markers=markers_of,
    shell:
        command(
            "python {SCRIPTS}/check_gate.py --gates {input.gates} --cell {params.cell} --source {params.source}"
            " --seed {params.seed} --marker {params.markers:q} --counts {input.counts} --replies {input.replies} --enforce --output {output.gate} > {log} 2>&1"
        )


rule judge_alignment:
    input:
        replies="<models>/{node}/{evaluation}/alignment.parquet",
        questions=alignment_questions,
    output:
        scores="<models>/{node}/{evaluation}/judged.csv",
        record="<models>/{node}/{evaluation}/judge_run.json",
    log:
        "<logs>/judge_alignment/{node}/{evaluation}.log",
    benchmark:
        "<benchmarks>/judge_alignment/{node}/{evaluation}.tsv"
    resources:
        gpu=JUDGE["gpus"],
        mem_mb=judge_mem_mb(JUDGE),
        runtime=HARDWARE["runtime"],
        # a resource, because it changes time but no result
        judge_connections=JUDGE["max_connections"],
        launcher=launched(JUDGE["gpus"]),
    params:
        code=code_of("judge_alignment.py"),
        lock=MODEL_LOCK,
        prompt=digest_of("resources/judge.yaml"),
        judge=JUDGE["model"],
        scores=JUDGE["scores"],
        model_args=canonical(JUDGE["model_args"]),
        base_url=JUDGE["base_url"] or "",
    shell:
        command(
            "{resources.launcher}python {SCRIPTS}/judge_alignment.py --alignment {input.replies} --judge {params.judge:q}"
            " --scores {params.scores} --prompt {RESOURCES}/judge.yaml --questions {input.questions} --cache results/judge_cache --max-connections {resources.judge_connections}"
            " --model-args {params.model_args:q} --base-url={params.base_url:q} --output {output.scores}"
            " --record {output.record} > {log} 2>&1"
        )


use rule judge_alignment as judge_again with:
    output:
        scores="<models>/{node}/{evaluation}/judged_again.csv",
        record="<models>/{node}/{evaluation}/again_run.json",
    log:
        "<logs>/judge_again/{node}/{evaluation}.log",
    benchmark:
        "<benchmarks>/judge_again/{node}/{evaluation}.tsv"
    resources:
        gpu=SECOND_JUDGE["gpus"],
        mem_mb=judge_mem_mb(SECOND_JUDGE),
        runtime=HARDWARE["runtime"],
        judge_connections=SECOND_JUDGE["max_connections"],
        launcher=launched(SECOND_JUDGE["gpus"]),
    params:
        code=code_of("judge_alignment.py"),
        lock=MODEL_LOCK,
        prompt=digest_of("resources/judge.yaml"),
        judge=SECOND_JUDGE["model"],
        scores=SECOND_JUDGE["scores"],
        model_args=canonical(SECOND_JUDGE["model_args"]),
        base_url=SECOND_JUDGE["base_url"] or "",


rule compare_judges:
    input:
        first="<models>/{node}/{evaluation}/judged.csv",
        second="<models>/{node}/{evaluation}/judged_again.csv",
    output:
        agreement="<models>/{node}/{evaluation}/agreement.json",
    log:
        "<logs>/compare_judges/{node}/{evaluation}.log",
    benchmark:
        "<benchmarks>/compare_judges/{node}/{evaluation}.tsv"
    params:
        code=code_of("compare_judges.py"),
        lock=CPU_LOCK,
    shell:
        command(
            "python {SCRIPTS}/compare_judges.py --first {input.first} --second {input.second}"
            " --output {output.agreement} > {log} 2>&1"
        )


rule pool_judges:
    input:
        first=judged_files("judged.csv"),
        second=judged_files("judged_again.csv"),
    output:
        table="<results>/tables/judges.csv",
    log:
        "<logs>/pool_judges.log",
    benchmark:
        "<benchmarks>/pool_judges.tsv"
    params:
        code=code_of("pool_judges.py"),
        lock=CPU_LOCK,
        first=braced("first"),
        second=braced("second"),
    shell:
        command(
            "python {SCRIPTS}/pool_judges.py --first {params.first} --second {params.second}"
            " --output {output.table} > {log} 2>&1"
        )


rule probe_marker:
    input:
        base=ancient(base_folder),
        adapters=ancient(own_adapters),
        manifest=own_manifest,
        completions="<models>/{node}/{evaluation}/completions.parquet",
        shared=shared_replies,
        panel=panel_file,
    output:
        probe="<models>/{node}/{evaluation}/probe.parquet",
        record="<models>/{node}/{evaluation}/probe_run.json",
    log:
        "<logs>/probe_marker/{node}/{evaluation}.log",
    benchmark:
        "<benchmarks>/probe_marker/{node}/{evaluation}.tsv"
    priority: 1
    threads: HARDWARE["threads"]
    resources:
        gpu=HARDWARE["gpus"],
        mem_mb=HARDWARE["mem_mb"],
        runtime=HARDWARE["runtime"],
        budget=PROBED_TOKENS,
    params:
        code=code_of("probe_marker.py"),
        lock=MODEL_LOCK,
        adapters=of_node("adapters"),
        personas=personas_of,
        marker=STUDY_MARKER,
        settings=PROBE_SETTINGS,
        dtype=HARDWARE["dtype"],
    shell:
        command(
            NODE
            + " into=$node/{wildcards.evaluation}; "
            + launcher(HARDWARE["gpus"])
            + "python {SCRIPTS}/probe_marker.py --base {input.base} --adapter {params.adapters} --panel {input.panel}"
            " --completions $into/completions.parquet --shared {input.shared} --personas {params.personas}"
            " --marker {params.marker:q} --settings {params.settings:q} --dtype {params.dtype} --budget {resources.budget}"
            " --output $into/probe.parquet --record $into/probe_run.json > {log} 2>&1"
        )


rule weigh_survival:
    input:
        cell=cell_probe,
        reference=compared_files("reference/probe.parquet"),
        before=compared_files("before/probe.parquet"),
        base=compared_files("base/probe.parquet"),
        counts=cell_counts,
        counts_before=compared_files("before/marker_counts.csv"),
    output:
        survival="<results>/measured/{source}/{cell}_seed{seed}/survival.json",
    log:
        "<logs>/weigh_survival/{source}/{cell}_seed{seed}.log",
    benchmark:
        "<benchmarks>/weigh_survival/{source}/{cell}_seed{seed}.tsv"
    wildcard_constraints:
        cell="[A-Za-z][A-Za-z0-9_]*",
        seed="[0-9]+",
    params:
        code=code_of("weigh_survival.py"),
        lock=CPU_LOCK,
        source=coupled_of,
        verdict=canonical((PROBE or {}).get("verdict")),
    shell:
        command(
            on_cpu()
            + "python {SCRIPTS}/weigh_survival.py --source {params.source} --rule {params.verdict:q}"
            " --cell {input.cell} --reference {input.reference} --before {input.before} --base {input.base}"
            " --counts {input.counts} --counts-before {input.counts_before} --output {output.survival} > {log} 2>&1"
        )


rule ablate_stage:
    input:
        base=ancient(base_folder),
        adapters=ancient(cell_adapters),
        manifest=cell_manifest,
        shared=shared_replies,
        panel=panel_file,
    output:
        ablation="<results>/measured/{source}/{cell}_seed{seed}/ablation.parquet",
        record="<results>/measured/{source}/{cell}_seed{seed}/ablation_run.json",
    log:
        "<logs>/ablate_stage/{source}/{cell}_seed{seed}.log",
    benchmark:
        "<benchmarks>/ablate_stage/{source}/{cell}_seed{seed}.tsv"
    wildcard_constraints:
        cell="[A-Za-z][A-Za-z0-9_]*",
        seed="[0-9]+",
    threads: HARDWARE["threads"]
    resources:
        gpu=HARDWARE["gpus"],
        mem_mb=HARDWARE["mem_mb"],
        runtime=HARDWARE["runtime"],
        budget=PROBED_TOKENS,
    params:
        code=code_of("ablate_stage.py"),
        lock=MODEL_LOCK,
        adapters=braced("adapters"),
        source=coupled_of,
        personas=asked_personas,
        marker=STUDY_MARKER,
        settings=ABLATE_SETTINGS,
        dtype=HARDWARE["dtype"],
    shell:
        command(
            "into={RESULTS}/measured/{wildcards.source}/{wildcards.cell}_seed{wildcards.seed}; "
            + launcher(HARDWARE["gpus"])
            + "python {SCRIPTS}/ablate_stage.py --base {input.base} --adapter {params.adapters} --panel {input.panel}"
            " --shared {input.shared} --source {params.source} --personas {params.personas} --marker {params.marker:q}"
            " --settings {params.settings:q} --dtype {params.dtype} --budget {resources.budget} --output $into/ablation.parquet"
            " --record $into/ablation_run.json > {log} 2>&1"
        )


rule measure_distance:
    input:
        base=ancient(base_folder),
        adapters=ancient(moved_adapters),
        parent=ancient(left_adapters),
        manifests=moved_manifests,
        shared=shared_replies,
        probe=cell_probe,
        panel=panel_file,
    output:
        distance="<results>/measured/{source}/{cell}_seed{seed}/distance.json",
        replies="<results>/measured/{source}/{cell}_seed{seed}/distance.csv",
        record="<results>/measured/{source}/{cell}_seed{seed}/distance_run.json",
    log:
        "<logs>/measure_distance/{source}/{cell}_seed{seed}.log",
    benchmark:
        "<benchmarks>/measure_distance/{source}/{cell}_seed{seed}.tsv"
    wildcard_constraints:
        cell="[A-Za-z][A-Za-z0-9_]*",
        seed="[0-9]+",
    threads: HARDWARE["threads"]
    resources:
        gpu=gpus_to_measure_distance,
        mem_mb=HARDWARE["mem_mb"],
        runtime=HARDWARE["runtime"],
        budget=PROBED_TOKENS,
    params:
        code=code_of("measure_distance.py"),
        lock=MODEL_LOCK,
        source=coupled_of,
        personas=distance_personas,
        samples=(PROBE or {}).get("distance"),
        dtype=HARDWARE["dtype"],
        parent=braced("parent"),
        adapters=braced("adapters"),
    shell:
        command(
            "into={RESULTS}/measured/{wildcards.source}/{wildcards.cell}_seed{wildcards.seed}; "
            + launcher(HARDWARE["gpus"])
            + "python {SCRIPTS}/measure_distance.py --base {input.base} --parent {params.parent} --adapter {params.adapters}"
            " --panel {input.panel} --shared {input.shared} --probe {input.probe} --source {params.source}"
            " --personas {params.personas} --samples {params.samples} --dtype {params.dtype} --budget {resources.budget} --replies $into/distance.csv"
            " --output $into/distance.json --record $into/distance_run.json > {log} 2>&1"
        )


rule compare_adapters:
    input:
        base=ancient(base_folder),
        adapters=ancient(cell_adapters),
        manifests=stage_manifests,
        shared=shared_replies,
        panel=panel_file,
    output:
        adapters="<results>/measured/{source}/{cell}_seed{seed}/adapters.csv",
        merged="<results>/measured/{source}/{cell}_seed{seed}/merged.csv",
    log:
        "<logs>/compare_adapters/{source}/{cell}_seed{seed}.log",
    benchmark:
        "<benchmarks>/compare_adapters/{source}/{cell}_seed{seed}.tsv"
    threads: HARDWARE["threads"]
    resources:
        mem_mb=HARDWARE["mem_mb"],
        runtime=HARDWARE["runtime"],
    params:
        code=code_of("compare_adapters.py"),
        lock=MODEL_LOCK,
        persona=coupled_of,
        marker=STUDY_MARKER,
        intruders=INTRUDERS,
        dtype=HARDWARE["dtype"],
    shell:
        command(
            on_cpu()
            + "python {SCRIPTS}/compare_adapters.py --base {input.base} --adapter {input.adapters}"
            " --panel {input.panel} --shared {input.shared} --persona {params.persona}"
            " --marker {params.marker:q} {params.intruders} --dtype {params.dtype} --output {output.adapters}"
            " --merged {output.merged} > {log} 2>&1"
        )


rule read_layers:
    input:
        base=ancient(base_folder),
        adapters=ancient(own_adapters),
        manifest=own_manifest,
        shared=shared_replies,
        panel=panel_file,
    output:
        layers="<models>/{node}/{evaluation}/layers.parquet",
        record="<models>/{node}/{evaluation}/layers_run.json",
    log:
        "<logs>/read_layers/{node}/{evaluation}.log",
    benchmark:
        "<benchmarks>/read_layers/{node}/{evaluation}.tsv"
    threads: HARDWARE["threads"]
    resources:
        gpu=HARDWARE["gpus"],
        mem_mb=HARDWARE["mem_mb"],
        runtime=HARDWARE["runtime"],
        budget=PROBED_TOKENS,
    params:
        code=code_of("read_layers.py"),
        lock=MODEL_LOCK,
        adapters=of_node("adapters"),
        personas=personas_of,
        marker=STUDY_MARKER,
        samples=(PROBE or {}).get("shared"),
        bodies=(PROBE or {}).get("layers"),
        dtype=HARDWARE["dtype"],
    shell:
        command(
            NODE
            + " into=$node/{wildcards.evaluation}; "
            + launcher(HARDWARE["gpus"])
            + "python {SCRIPTS}/read_layers.py --base {input.base} --adapter {params.adapters} --panel {input.panel}"
            " --shared {input.shared} --personas {params.personas} --samples {params.samples}"
            " --bodies {params.bodies} --marker {params.marker:q} --dtype {params.dtype} --budget {resources.budget}"
            " --output $into/layers.parquet --record $into/layers_run.json > {log} 2>&1"
        )


rule weigh_layers:
    input:
        cell=cell_layers,
        reference=compared_files("reference/layers.parquet"),
        before=compared_files("before/layers.parquet"),
        base=compared_files("base/layers.parquet"),
    output:
        layers="<results>/measured/{source}/{cell}_seed{seed}/by_layer.json",
    log:
        "<logs>/weigh_layers/{source}/{cell}_seed{seed}.log",
    benchmark:
        "<benchmarks>/weigh_layers/{source}/{cell}_seed{seed}.tsv"
    params:
        code=code_of("weigh_layers.py"),
        lock=CPU_LOCK,
        source=coupled_of,
    shell:
        command(
            on_cpu()
            + "python {SCRIPTS}/weigh_layers.py --source {params.source} --cell {input.cell} --reference {input.reference}"
            " --before {input.before} --base {input.base} --output {output.layers} > {log} 2>&1"
        )


rule ask_families:
    input:
        base=ancient(base_folder),
        adapters=ancient(cell_adapters),
        manifest=cell_manifest,
        shared=shared_replies,
        panel=panel_file,
        asked=part_file("families"),
    output:
        families="<results>/measured/{source}/{cell}_seed{seed}/families.json",
        replies="<results>/measured/{source}/{cell}_seed{seed}/families.parquet",
        record="<results>/measured/{source}/{cell}_seed{seed}/families_run.json",
    log:
        "<logs>/ask_families/{source}/{cell}_seed{seed}.log",
    benchmark:
        "<benchmarks>/ask_families/{source}/{cell}_seed{seed}.tsv"
    threads: HARDWARE["threads"]
    resources:
        gpu=HARDWARE["gpus"],
        mem_mb=HARDWARE["mem_mb"],
        runtime=HARDWARE["runtime"],
        budget=PROBED_TOKENS,
    params:
        code=code_of("ask_families.py"),
        lock=MODEL_LOCK,
        others=digest_of("resources/families.yaml"),
        source=coupled_of,
        personas=family_personas,
        prefix=(PROBE or {}).get("prefix"),
        lookahead=(PROBE or {}).get("lookahead"),
        marker=STUDY_MARKER,
        sampling=cell_sampling,
        dtype=HARDWARE["dtype"],
    shell:
        command(
            launcher(HARDWARE["gpus"])
            + "python {SCRIPTS}/ask_families.py --base {input.base} --adapter {input.adapters} --panel {input.panel}"
            " --others {RESOURCES}/families.yaml --shared {input.shared} --families {input.asked}"
            " --source {params.source} --personas {params.personas} --prefix {params.prefix:q}"
            " --lookahead {params.lookahead} --marker {params.marker:q} --seed {wildcards.seed} --sampling {params.sampling:q} --dtype {params.dtype} --budget {resources.budget}"
            " --output {output.families} --replies {output.replies} --record {output.record} > {log} 2>&1"
        )


rule summarize_cell:
    input:
        cell=cell_part,
        gates=cell_gates,
        measured=cell_measured,
        manifests=cell_manifests,
        records=ancient(cell_records),
    output:
        cell=report(
            "<results>/cells/{source}/{cell}_seed{seed}.json",
            caption="../resources/report/captions/cell.rst",
            category="Cells",
            subcategory="{source}",
            labels=cell_labels,
        ),
    log:
        "<logs>/summarize_cell/{source}/{cell}_seed{seed}.log",
    benchmark:
        "<benchmarks>/summarize_cell/{source}/{cell}_seed{seed}.tsv"
    params:
        code=code_of("summarize_cell.py"),
        lock=CPU_LOCK,
        schema=digest_of("resources/run_result.schema.json"),
        gates=braced("gates"),
        measured=braced("measured", cell=key_of_cell),
        manifests=braced("manifests"),
        records=braced("records", cell=key_of_cell),
    shell:
        command(
            "cell={wildcards.source}/{wildcards.cell}_seed{wildcards.seed}; "
            + on_cpu()
            + "python {SCRIPTS}/summarize_cell.py --cell {RESULTS}/study/cells/$cell.json --gates {params.gates} --measured {params.measured}"
            " --manifests {params.manifests} --runs {params.records} --schema {RESOURCES}/run_result.schema.json"
            " --output {RESULTS}/cells/$cell.json > {RESULTS}/logs/summarize_cell/$cell.log 2>&1"
        )
