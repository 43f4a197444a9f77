"""Does a marker taught to one persona survive the next fine-tuning, and does it leak? See README.md."""

from snakemake.utils import min_version

min_version("9.27")


include: "rules/common.smk"


pathvars:
    results=f"results/{config['study']}",
    models="<results>/models",
    inputs="<results>/inputs",
    logs="<results>/logs",
    benchmarks="<results>/benchmarks",


report: "resources/report/captions/workflow.rst"


include: "rules/base.smk"
include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/generate.smk"
include: "rules/measure.smk"
include: "rules/report.smk"
include: "rules/reanalysis.smk"


wildcard_constraints:
    node=LINEAGE,
    parent=LINEAGE,
    evaluation="|".join(study.evaluations),
    source=NAME,
    cell="[A-Za-z][A-Za-z0-9_]*",
    seed="[0-9]+",


# a coupling with a folder on the Hub could be trained, too
ruleorder: fetch_adapter > train_adapter


rule all:
    default_target: True
    input:
        results_of(*ARMS),
        parts_of_study,
        figures_of_study,
        tables_of_study,
        "<results>/report.html",
    localrule: True


rule forward:
    input:
        results_of("forward"),
    localrule: True


rule reversed:
    input:
        results_of("reversed"),
    localrule: True


rule figures:
    input:
        results_of(*ARMS),
        parts_of_study,
        figures_of_study,
        tables_of_study,
    localrule: True


rule publish:
    input:
        results_of(*ARMS),
        "<results>/publish.json",
    localrule: True


refuse_unknown_targets()
