# Tables over all cells of the study, and figures drawn from the tables.


rule tabulate_study:
    input:
        cells=cells_of(*ARMS),
        gates=all_gates,
        meaning=part_file("tables"),
        measured=study_measured,
    output:
        tables=report(
            expand("<results>/tables/{table}.csv", table=TABLES),
            caption="../resources/report/captions/table.rst",
            category="Tables",
        ),
        headline="<results>/tables/headline.md",
        reversed="<results>/tables/reversed.md",
    log:
        "<logs>/tabulate_study.log",
    benchmark:
        "<benchmarks>/tabulate_study.tsv"
    params:
        code=code_of("tabulate_study.py"),
        lock=CPU_LOCK,
        published=PUBLISHED,
        cells=braced("cells"),
        label=config["label"] or "",
        gates=braced("gates"),
        folder=folder_of_output,
    shell:
        command(
            on_cpu()
            + "python {SCRIPTS}/tabulate_study.py --cells {params.cells} --published {RESOURCES}/published"
            " --measured {input.measured} --label={params.label:q} --gates {params.gates}"
            " --meaning {input.meaning} --output-dir {params.folder} > {log} 2>&1"
        )


rule plot_figures:
    input:
        meaning=figure_part,
        tables=expand("<results>/tables/{table}.csv", table=TABLES),
    output:
        multiext("<results>/figures/{figure}_{source}", ".png", ".pdf"),
        svg=report(
            "<results>/figures/{figure}_{source}.svg",
            caption="../resources/report/captions/figure.rst",
            category="Figures",
            labels={"figure": "{figure}", "source": "{source}"},
        ),
    log:
        "<logs>/plot_figures/{figure}_{source}.log",
    benchmark:
        "<benchmarks>/plot_figures/{figure}_{source}.tsv"
    wildcard_constraints:
        figure="|".join(FIGURES),
    params:
        code=code_of("plot_figures.py"),
        lock=CPU_LOCK,
        label=config["label"] or "",
        study=study_of_output,
        tables=folder_of_tables,
        prefix=prefix_of_output,
    shell:
        command(
            on_cpu()
            + "python {SCRIPTS}/plot_figures.py --figure {wildcards.figure} --tables {params.tables}"
            " --study {params.study} --source {wildcards.source} --label={params.label:q} --meaning {input.meaning}"
            " --output-prefix {params.prefix} > {log} 2>&1"
        )


rule check_claims:
    input:
        tables=expand("<results>/tables/{table}.csv", table=TABLES),
    output:
        claims=report(
            "<results>/tables/claims.csv",
            caption="../resources/report/captions/claims.rst",
            category="Claims",
        ),
        text="<results>/tables/claims.md",
    log:
        "<logs>/check_claims.log",
    benchmark:
        "<benchmarks>/check_claims.tsv"
    params:
        code=code_of("check_claims.py"),
        lock=CPU_LOCK,
        claims=digest_of("resources/claims.yaml"),
        published=PUBLISHED,
        label=config["label"] or "",
        tables=folder_of_tables,
    shell:
        command(
            on_cpu()
            + "python {SCRIPTS}/check_claims.py --claims {RESOURCES}/claims.yaml --published {RESOURCES}/published"
            " --tables {params.tables} --label={params.label:q} --output {output.claims} > {log} 2>&1"
        )


rule verify_published:
    output:
        claims="results/verify_published/claims.csv",
        text="results/verify_published/claims.md",
    params:
        code=code_of("check_claims.py"),
        lock=CPU_LOCK,
        claims=digest_of("resources/claims.yaml"),
        published=PUBLISHED,
    shell:
        command(
            "python {SCRIPTS}/check_claims.py --claims {RESOURCES}/claims.yaml --published {RESOURCES}/published"
            " --output {output.claims}"
        )


rule publish_study:
    input:
        cells_of(*ARMS),
        tables_of_study,
        figures_of_study,
        "<results>/report.html",
    output:
        receipt="<results>/publish.json",
    log:
        "<logs>/publish_study.log",
    benchmark:
        "<benchmarks>/publish_study.tsv"
    params:
        code=code_of("publish_study.py"),
        lock=CPU_LOCK,
        cards=digest_of("resources/cards/adapter.md", "resources/cards/study.md"),
        repo=publish_repo,
        private=private_flag,
        label=config["label"] or "",
    shell:
        command(
            "python {SCRIPTS}/publish_study.py --results {RESULTS} --cards {RESOURCES}/cards"
            " --repo={params.repo:q} {params.private}"
            " --label={params.label:q} --record {output.receipt} > {log} 2>&1"
        )


rule write_report:
    input:
        cells=cells_of(*ARMS),
        meaning=part_file("report"),
        tables=expand("<results>/tables/{table}.csv", table=TABLES),
        claims="<results>/tables/claims.csv",
        figures=svgs_of_study,
        completions=completions_of_study,
        base=ancient(base_record),
        panel=panel_file,
        datasets=dataset_manifests,
    output:
        report="<results>/report.html",
    log:
        "<logs>/write_report.log",
    benchmark:
        "<benchmarks>/write_report.tsv"
    resources:
        further="",
    params:
        code=code_of("write_report.py"),
        lock=CPU_LOCK,
        page=digest_of(
            "resources/report/report.html",
            "resources/report/report.css",
            "resources/report/report.js",
        ),
        cells=braced("cells"),
        models=folder_of_models,
        figures=folder_of_figures,
        datasets=braced("datasets"),
        label=config["label"] or "",
        study=study_of_output,
        tables=folder_of_tables,
    shell:
        command(
            "python {SCRIPTS}/write_report.py --study {params.study} --label={params.label:q} --meaning {input.meaning}"
            " --tables {params.tables} --cells {params.cells} --claims {input.claims} --figures {params.figures}"
            " --models {params.models} --panel {input.panel} --runs {input.base}"
            " --datasets {params.datasets} --further {resources.further} --assets {RESOURCES}/report --output {output.report} > {log} 2>&1"
        )
