"""What the cells of a study mean, as the config says it, for the programs that tabulate, draw and describe them.

Each program gets what it uses and no more, so that an edit reruns exactly what it concerns.
"""

from collections.abc import Iterator
from typing import Any

from graph.lineage import parse_lineage
from graph.study import Cell, Study


def for_tables(study: Study) -> dict[str, Any]:
    """contrasts: [cell, other cell, step or None]. second_stages: the cells that are pooled as such."""
    return {
        "contrasts": list(contrasts(study)),
        "second_stages": unique(cell.name for cell in study.cells if cell.second_stage),
    }


def contrasts(study: Study) -> Iterator[tuple[str, str, int | None]]:
    """The contrasts whose cells are in the study; of rows with steps one per step that both have."""
    present = {cell.name for cell in study.cells}
    for pair in study.config["contrasts"]:
        one, other = (set(study.config["cells"][row].get("steps", [None])) for row in pair)
        for step in sorted(one & other) if None not in one else [None]:
            first, second = (f"{row}_{step}" if step else row for row in pair)
            if {first, second} <= present:
                yield first, second, step


def for_figure(study: Study, figure: str) -> dict[str, Any]:
    """arms: those drawn. captions: cell -> the words under its bars. last_stages: cell -> the stage it ends with."""
    cells = drawn(study, figure)
    return {
        "arms": study.config["figures"][figure],
        "captions": {cell.name: cell.caption for cell in cells},
        "last_stages": {cell.name: parse_lineage(cell.lineage)[-1].stage for cell in cells},
    }


def sources_of(study: Study, figure: str) -> list[str]:
    """The sources that a figure is drawn for."""
    return unique(cell.source for cell in drawn(study, figure))


def drawn(study: Study, figure: str) -> list[Cell]:
    """The cells in a figure; none in one of what the study does not measure."""
    if figure == "below_floor" and study.config["probe"] is None:
        return []
    return [cell for cell in study.cells if cell.arm in study.config["figures"][figure]]


def for_report(study: Study) -> dict[str, Any]:
    """notes: cell -> its note. claims: cell -> the claim its fate rests on. assistant: the claim on the assistant."""
    return {
        "notes": {cell.name: cell.note for cell in study.cells if cell.note},
        "claims": {cell.name: cell.claim for cell in study.cells if cell.claim},
        "assistant": study.config["assistant_claim"],
    }


def unique(names: Iterator[str]) -> list[str]:
    """The distinct names in order of first occurrence."""
    return list(dict.fromkeys(names))
