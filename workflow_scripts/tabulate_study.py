r"""Turn the results of all cells into the study's tables, each as CSV and Markdown.

    python workflow_scripts/tabulate_study.py --cells results/tiny/cells/evil_ai/*.json \
        --gates results/tiny/study/gates/*.json --meaning results/tiny/study/tables.json \
        --published resources/published --label "rehearsal on a toy model, no evidence about Qwen2.5-7B" \
        --output-dir results/tiny/tables

Tables: headline (cell x seed x source), pooled (over seeds), reversed (reversed and matched order), dose,
persona_by_cell, by_question, concentration, cross_source, effects, selectivity_by_persona, gates, relearning,
retained, equal_distance, published_comparison, measures (measure/registry.py). Every rate stands beside its hits and
completions. The columns low and high are the wider of its Wilson and cluster bounds: completions to one question, and
of one seed, are not independent, so verdicts rest on these.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure.comparison import COMPARISON, comparison_rows
from measure.equal_distance import EQUAL, equal_distance_rows
from measure.gates import evaluate_gates, identical_cells, read_gates
from measure.pooling import (
    CONCENTRATION,
    CROSS,
    EFFECTS,
    POOLED,
    SELECTIVITY,
    concentration_rows,
    cross_source_rows,
    effect_rows,
    pooled_rows,
    selectivity_rows,
    staged,
)
from measure.registry import MEASURES, read_result, study_rows
from measure.relearning import RELEARNING, relearning_rows
from measure.retained import RETAINED, retained_rows
from measure.rows import (
    ABLATION,
    DOSE,
    FAMILIES,
    HEADLINE,
    IDENTITY,
    LAYERS,
    OVERLAP,
    PERSONAS,
    QUESTIONS,
    TABLES,
    VERDICTS,
    ablation_rows,
    adapter_rows,
    dose_row,
    family_rows,
    layer_rows,
    persona_rows,
    question_rows,
    verdict_rows,
    wide_row,
)
from measure.tables import Row, write_csv, write_markdown
from report.markdown import NOTES, markdown_of
from run.program import InputError, run
from run.readers import read_part

GATES = ["gate", "source", "seed", "outcome", "reading", "numbers", "expression", "says"]


def checked_cells(paths: Sequence[str]) -> list[Row]:
    """The results, in the order given. Raises InputError when a file is not one, or a cell comes twice."""
    cells: list[Row] = []
    known: dict[tuple[Any, ...], str] = {}
    for path in paths:
        cell = read_result(path)
        key = tuple(cell[field] for field in IDENTITY)
        if key in known:
            raise InputError(f"{path}: the same source, arm, cell and seed as {known[key]}; fix: give each cell once")
        known[key] = path
        cells.append(cell)
    return cells


def in_order(gates: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The gates in the study's order. Raises InputError for one that the study does not have."""
    if strange := [gate["name"] for gate in gates if gate["name"] not in names]:
        raise InputError(f"--gates: {strange[0]} is no gate of the study; fix: one of {', '.join(names)}")
    return sorted(gates, key=lambda gate: names.index(gate["name"]))


def build_tables(
    cells: Sequence[Row], gates: Sequence[Row], published: str | None, meaning: Row, of_study: Sequence[str] = ()
) -> dict[str, tuple[Sequence[str], list[Row], str]]:
    """Name -> (columns, rows, title) of every table.

    meaning: contrasts and second_stages, see graph/resolved.py. of_study: files of what is measured on the study as a
    whole.
    """
    forward = [cell for cell in cells if cell["arm"] == "forward"]
    dose = [cell for cell in cells if "@" in cell["lineage"].rpartition("/")[2]]
    other = [cell for cell in cells if cell["arm"] != "forward" and cell not in dose]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for cell in cells:
        groups.setdefault((cell["source"], cell["arm"], cell["cell"]), []).append(cell)
    by_cell = groups.values()
    pooled = [row for own in by_cell for row in pooled_rows(own)]
    effects = [
        row
        for source in dict.fromkeys(cell["source"] for cell in cells)
        for row in effect_rows(cells, pooled, source, meaning["contrasts"])
    ]
    measured = [{field: cell[field] for field in IDENTITY} | row for cell in cells for row in cell["measures"]]
    measured += [row for path in of_study for row in study_rows(path)]
    made: dict[str, tuple[Sequence[str], list[Row]]] = {
        "headline": (HEADLINE, [wide_row(cell) for cell in forward]),
        "pooled": (POOLED, staged(pooled, meaning["second_stages"])),
        "reversed": (HEADLINE, [wide_row(cell) for cell in other]),
        "dose": (DOSE, [dose_row(cell) for cell in dose]),
        "persona_by_cell": (
            PERSONAS,
            staged([row for cell in cells for row in persona_rows(cell)], meaning["second_stages"]),
        ),
        "by_question": (QUESTIONS, [row for cell in cells for row in question_rows(cell)]),
        "concentration": (CONCENTRATION, [row for own in by_cell for row in concentration_rows(own)]),
        "cross_source": (CROSS, cross_source_rows(cells, meaning["second_stages"])),
        "effects": (EFFECTS, effects),
        "selectivity_by_persona": (SELECTIVITY, [row for own in by_cell for row in selectivity_rows(own)]),
        "gates": (GATES, evaluate_gates(gates, cells) + identical_cells(cells)),
        "verdicts": (VERDICTS, verdict_rows(cells)),
        "retained": (RETAINED, retained_rows(cells, meaning["contrasted"])),
        "relearning": (RELEARNING, relearning_rows(cells, meaning["contrasts"])),
        "equal_distance": (EQUAL, equal_distance_rows(cells, meaning["contrasted"])),
        "adapters": (OVERLAP, [row for cell in cells for row in adapter_rows(cell)]),
        "ablation": (ABLATION, [row for cell in cells for row in ablation_rows(cell)]),
        "families": (FAMILIES, family_rows(cells)),
        "layers": (LAYERS, [row for cell in cells for row in layer_rows(cell)]),
        "published_comparison": (COMPARISON, comparison_rows(cells, published) if published else []),
        "measures": (MEASURES, measured),
    }
    if any("other_markers" in cell for cell in cells):
        made = carrying_markers(made, cells)
    return {name: (*made[name], title) for name, title in TABLES.items()}


def carrying_markers(
    tables: dict[str, tuple[Sequence[str], list[Row]]], cells: Sequence[Row]
) -> dict[str, tuple[Sequence[str], list[Row]]]:
    """The tables with a column `marker` after that of the cell: whose rates these are, its own.

    measures.csv has the rates of every other marker as well; gates.csv says the marker beside each number.
    """
    own = {(cell["source"], cell["cell"]): cell["marker"] for cell in cells}
    for name, (columns, rows) in tables.items():
        if {"source", "cell"} <= set(columns):
            place = columns.index("cell") + 1
            carried = [{"marker": own.get((row["source"], row["cell"]))} | row for row in rows]
            tables = tables | {name: ([*columns[:place], "marker", *columns[place:]], carried)}
    return tables


def write_tables(tables: dict[str, tuple[Sequence[str], list[Row], str]], label: str, folder: str) -> None:
    """Write every table as CSV and, where it can be read by people, as Markdown."""
    for name, (columns, rows, title) in tables.items():
        write_csv(Path(folder) / f"{name}.csv", columns, rows)
        twin = markdown_of(name, columns, rows)
        if twin:
            note = " ".join(filter(None, (f"**{label}.**" if label else "", NOTES.get(name, ""))))
            write_markdown(Path(folder) / f"{name}.md", title, note, *twin)


def main() -> None:
    """Parse the arguments and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", required=True, help="results of cells, in the order of the tables")
    parser.add_argument("--gates", nargs="*", default=[], help="a JSON file per gate, see measure/gates.py")
    parser.add_argument("--meaning", required=True, help="JSON file: the part `tables` of graph/resolved.py")
    parser.add_argument("--measured", nargs="*", default=[], help="files of what is measured on the whole study")
    parser.add_argument("--published", help="folder with the published figures; without it nothing is compared")
    parser.add_argument("--label", default="", help="what a reader must know of this study, put above every table")
    parser.add_argument("--output-dir", required=True)
    arguments = parser.parse_args()
    cells = checked_cells(arguments.cells)
    meaning = read_part(arguments.meaning, ("contrasts", "contrasted", "second_stages", "gates"))
    gates = in_order(read_gates(arguments.gates), meaning["gates"])
    tables = build_tables(cells, gates, arguments.published, meaning, arguments.measured)
    if arguments.label:
        for row in tables["published_comparison"][1]:
            row["why"] = f"{arguments.label}; by the intervals alone: {row['verdict']}, {row['why']}"
            row["verdict"] = "not comparable"
    write_tables(tables, arguments.label, arguments.output_dir)


if __name__ == "__main__":
    run(main)
