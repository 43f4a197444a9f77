"""A measurement is a program, a rule and an entry in the registry; everything else follows from them."""

import csv
import json

import pytest
from workspace import rules

pytestmark = pytest.mark.slow

# A table with a row per persona and question of a model, the section of a cell as JSON, and a table of the whole study.
PROGRAMS = {
    "measure_length": """
from run.readers import read_parquet

rows = read_parquet(sys.argv[1], {"persona": str, "question_id": str, "text": str})
with open(sys.argv[2], "w") as file:
    print("persona,question_id,words", file=file)
    for row in rows:
        print(row["persona"], row["question_id"], len(row["text"].split()), sep=",", file=file)
""",
    "measure_depth": """
import json
from run.readers import read_part

cell = read_part(sys.argv[1], ["lineage"])
depth = {"value": cell["lineage"].count("/"), "low": None, "high": None, "n": 1}
with open(sys.argv[2], "w") as file:
    json.dump({"status": "measured", "depth": depth}, file)
""",
    "measure_cells": """
import json

*cells, output = sys.argv[1:]
with open(output, "w") as file:
    print("source,arm,cell,seed,gates,gates_n", file=file)
    for cell in map(json.load, map(open, cells)):
        print(*(cell[name] for name in ("source", "arm", "cell", "seed")), 1.5, len(cell["gates"]), sep=",", file=file)
""",
}
RULES = """

rule measure_length:
    input: "<models>/{node}/{evaluation}/completions.parquet"
    output: "<models>/{node}/{evaluation}/length.csv"
    shell: "python workflow_scripts/measure_length.py {input} {output}"


rule measure_depth:
    input: cell_part
    output: "<results>/measured/{source}/{cell}_seed{seed}/depth.json"
    shell: "python workflow_scripts/measure_depth.py {input} {output}"


rule measure_cells:
    input: cells_of(*ARMS)
    output: "<results>/tables/own_gates.csv"
    shell: "python workflow_scripts/measure_cells.py {input} {output}"
"""
ENTRIES = """
    Measurement("length", "Length of replies", "measure_length", "length.csv", (Measure("words", "words"),),
                columns={"persona": str, "question_id": str, "words": int}),
    Measurement("depth", "Stages of a model", "measure_depth", "depth.json", (Measure("depth", "stages"),), on="cell"),
    Measurement("own_gates", "Gates of one cell", "measure_cells", "own_gates.csv", (Measure("gates", "gates"),),
                on="study"),
)
"""


@pytest.fixture(scope="module")
def results(smallest, tmp_path_factory):
    workspace = smallest.copied(tmp_path_factory.mktemp("measurement") / "study")
    for name, program in PROGRAMS.items():
        (workspace.folder / f"workflow_scripts/{name}.py").write_text(f"import sys\n{program}")
    with (workspace.folder / "rules/measure.smk").open("a") as file:
        file.write(RULES)
    registry = "workflow_scripts/measure/registry.py"
    workspace.edit(registry, "\n)\nfor what, taken in", f"{ENTRIES}for what, taken in")
    assert not {"train_adapter", "generate_completions"} & rules(workspace.plan()).keys()
    workspace.snakemake("--cores", "2", env=workspace.environment)
    assert workspace.plan() == []
    return workspace.folder / "results/smallest"


def test_a_new_measurement_is_in_the_json_of_every_cell(results):
    cells = [json.loads(path.read_text()) for path in sorted(results.glob("cells/*/*.json"))]
    assert [cell["cell"] for cell in cells] == ["C1", "C4"]
    for cell in cells:
        assert [entry["persona"] for entry in cell["length"]["personas"]] == [
            entry["persona"] for entry in cell["personas"]
        ]
        assert cell["depth"]["depth"]["value"] == len(cell["stages"]) - 1
        assert {"words", "depth"} <= {row["measure"] for row in cell["measures"]}


def test_measures_csv_has_its_numbers_per_cell_and_persona_with_interval_n_and_unit(results):
    with (results / "tables/measures.csv").open() as file:
        rows = list(csv.DictReader(file))
    words = [row for row in rows if row["measure"] == "words"]
    assert {(row["cell"], row["n"], row["unit"]) for row in words} == {("C1", "28", "words"), ("C4", "28", "words")}
    assert len({row["persona"] for row in words}) == 12
    for row in words:
        path = (
            results / "models/base/couple-evil_ai.s42" / ("em.s42" if row["cell"] == "C1" else "") / "main/length.csv"
        )
        with path.open() as file:
            own = [int(line["words"]) for line in csv.DictReader(file) if line["persona"] == row["persona"]]
        assert float(row["value"]) == pytest.approx(sum(own) / len(own), abs=1e-6)
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
    depths = {(row["cell"], row["value"], row["persona"]) for row in rows if row["measure"] == "depth"}
    assert depths == {("C1", "2", ""), ("C4", "1", "")}
    gates = {(row["cell"], row["value"], row["unit"]) for row in rows if row["measure"] == "gates"}
    assert gates == {("C1", "1.5", "gates"), ("C4", "1.5", "gates")}


@pytest.mark.parametrize("table", ["length", "depth", "own_gates"])
def test_the_report_has_a_table_of_it(results, table):
    page = (results / "report.html").read_text()
    assert f'<table id="table-{table}"' in page
