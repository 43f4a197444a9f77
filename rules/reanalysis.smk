# The published counts, drawn by the rules that draw a study: one whose cells have no weights.


use rule resolve_study as resolve_published with:
    output:
        part="results/reanalysis/study/{part}.json",
    params:
        part=published_part_of_study,


rule enter_published:
    input:
        cells=published_cells,
        gates=published_gates,
    output:
        cells=directory("results/reanalysis/cells"),
    log:
        "results/reanalysis/logs/enter_published.log",
    params:
        code=code_of("enter_published.py"),
        lock=CPU_LOCK,
        schema=digest_of("resources/run_result.schema.json"),
        published=PUBLISHED,
        cells=braced("cells"),
        gates=braced("gates"),
    shell:
        command(
            "python {SCRIPTS}/enter_published.py --published {RESOURCES}/published --cells {params.cells}"
            " --gates {params.gates} --schema {RESOURCES}/run_result.schema.json --output-dir {output.cells} > {log} 2>&1"
        )


use rule tabulate_study as tabulate_published with:
    input:
        cells=rules.enter_published.output.cells,
        gates=published_gates,
        meaning=published_part("tables"),
        measured=[],
    output:
        tables=expand("results/reanalysis/tables/{table}.csv", table=TABLES),
        headline="results/reanalysis/tables/headline.md",
        reversed="results/reanalysis/tables/reversed.md",
    log:
        "results/reanalysis/logs/tabulate_published.log",
    benchmark:
        "results/reanalysis/benchmarks/tabulate_published.tsv"
    params:
        cells=published_results,
        label=published_label,


use rule plot_figures as plot_published with:
    input:
        meaning=published_figure_part,
        tables=rules.tabulate_published.output.tables,
    output:
        multiext("results/reanalysis/figures/{figure}_{source}", ".png", ".pdf"),
        svg="results/reanalysis/figures/{figure}_{source}.svg",
    log:
        "results/reanalysis/logs/plot_published/{figure}_{source}.log",
    benchmark:
        "results/reanalysis/benchmarks/plot_published/{figure}_{source}.tsv"
    params:
        label=published_label,


use rule check_claims as check_published with:
    input:
        tables=rules.tabulate_published.output.tables,
    output:
        claims="results/reanalysis/tables/claims.csv",
        text="results/reanalysis/tables/claims.md",
    log:
        "results/reanalysis/logs/check_published.log",
    benchmark:
        "results/reanalysis/benchmarks/check_published.tsv"
    params:
        label=published_label,


use rule write_report as report_published with:
    input:
        cells=rules.enter_published.output.cells,
        meaning=published_part("report"),
        tables=rules.tabulate_published.output.tables,
        claims=rules.check_published.output.claims,
        figures=published_figures,
        completions=[],
        base=[],
        panel=[],
        datasets=[],
    output:
        report="results/reanalysis/report.html",
    log:
        "results/reanalysis/logs/report_published.log",
    benchmark:
        "results/reanalysis/benchmarks/report_published.tsv"
    resources:
        # a resource: the checkout may lie elsewhere
        further=later_figures(),
    params:
        published=PUBLISHED,
        cells=published_results,
        label=published_label,


rule reanalyse_published:
    input:
        rules.verify_published.output.claims,
        published_figures,
        rules.report_published.output.report,
    localrule: True
