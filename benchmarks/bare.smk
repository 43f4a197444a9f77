# A bare workflow for growth.py: rules with as many inputs and outputs as ours, and nothing in them but names.


configfile: "size.yaml"


CODE = [f"code/{number}.py" for number in range(5)]
NODES, CELLS = config["nodes"], config["cells"]
COUNTS = [f"models/{node}/main/counts" for node in NODES]
TABLES = [f"tables/{number}" for number in range(12)]
FIGURES = [f"figures/{number}.svg" for number in range(config["figures"])]


wildcard_constraints:
    node=r"a[0-9]+(\.b[0-9]+)?",
    first="a[0-9]+",
    second="b[0-9]+",


rule all:
    input:
        CELLS,
        COUNTS,
        TABLES,
        FIGURES,
        "report",


rule reply:
    input:
        CODE,
    output:
        "models/{first}/replies",
    log:
        "logs/reply/{first}",
    benchmark:
        "benchmarks/reply/{first}"
    shell:
        "touch {output}"


rule make:
    input:
        "models/{first}/replies",
        CODE,
    output:
        "models/{first}/training",
    log:
        "logs/make/{first}",
    benchmark:
        "benchmarks/make/{first}"
    shell:
        "touch {output}"


rule train_first:
    input:
        "models/{first}/training",
        CODE,
    output:
        directory("models/{first}/adapter"),
        directory("models/{first}/checkpoints"),
        "models/{first}/manifest",
        "models/{first}/run",
    log:
        "logs/train/{first}",
    benchmark:
        "benchmarks/train/{first}"
    shell:
        "touch {output}"


rule train_second:
    input:
        "models/{first}/adapter",
        "models/{first}/manifest",
        CODE,
    output:
        directory("models/{first}.{second}/adapter"),
        directory("models/{first}.{second}/checkpoints"),
        "models/{first}.{second}/manifest",
        "models/{first}.{second}/run",
    log:
        "logs/train/{first}.{second}",
    benchmark:
        "benchmarks/train/{first}.{second}"
    shell:
        "touch {output}"


rule generate:
    input:
        "models/{node}/adapter",
        "models/{node}/manifest",
        CODE,
    output:
        "models/{node}/main/completions",
        "models/{node}/main/alignment",
        "models/{node}/main/capability",
        "models/{node}/main/run",
    log:
        "logs/generate/{node}",
    benchmark:
        "benchmarks/generate/{node}"
    shell:
        "touch {output}"


rule count:
    input:
        "models/{node}/main/completions",
        CODE,
    output:
        "models/{node}/main/counts",
    log:
        "logs/count/{node}",
    benchmark:
        "benchmarks/count/{node}"
    shell:
        "touch {output}"


rule audit:
    input:
        "models/{node}/main/completions",
        CODE,
    output:
        "models/{node}/main/audit",
    log:
        "logs/audit/{node}",
    benchmark:
        "benchmarks/audit/{node}"
    shell:
        "touch {output}"


rule judge:
    input:
        "models/{node}/main/alignment",
        CODE,
    output:
        "models/{node}/main/judged",
        "models/{node}/main/judge_run",
    log:
        "logs/judge/{node}",
    benchmark:
        "benchmarks/judge/{node}"
    shell:
        "touch {output}"


rule summarize:
    input:
        multiext(
            "models/{node}/main/", "counts", "audit", "judged", "capability", "run"
        ),
        "models/{node}/manifest",
        "models/{node}/run",
        CODE,
    output:
        "cells/{node}_{number}",
    log:
        "logs/summarize/{node}_{number}",
    benchmark:
        "benchmarks/summarize/{node}_{number}"
    shell:
        "touch {output}"


rule tabulate:
    input:
        CELLS,
        CODE,
    output:
        TABLES,
    shell:
        "touch {output}"


rule plot:
    input:
        TABLES,
        CODE,
    output:
        multiext("figures/{number}", ".png", ".pdf", ".svg"),
    log:
        "logs/plot/{number}",
    benchmark:
        "benchmarks/plot/{number}"
    shell:
        "touch {output}"


rule report:
    input:
        CELLS,
        FIGURES,
        expand("models/{node}/main/{file}", node=NODES, file=["completions", "run"]),
        CODE,
    output:
        "report",
    shell:
        "touch {output}"
