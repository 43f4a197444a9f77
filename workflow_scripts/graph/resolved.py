"""The resolved study: what the config comes to, in parts that programs read from results/<study>/study/<part>.json.

A program reads the parts it uses and no others, and each has a file of its own, so that an edit reruns exactly what it
concerns. part(study, name) is what the file of that name holds:

    cells/<source>/<cell>_seed<seed>     a cell: its lineage and markers, how and on whom it is evaluated
    recipes/<lineage>                    how the lineage's last stage is trained
    gates/<gate>                         a gate, as the config has it
    figures/<figure>, tables, report     what the cells mean to those who see them
    families                             what is asked out of distribution, and how often
"""

from collections.abc import Callable, Iterator
from typing import Any

from graph.lineage import parse_lineage
from graph.study import Cell, Study
from measure.gates import names_only


def part(study: Study, name: str) -> Any:
    """The value of a part of the study. Raises KeyError if the study has no part of that name."""
    room, _, key = name.partition("/")
    return PARTS[room](study, key) if key else WHOLE[room](study)


def for_cell(study: Study, key: str) -> dict[str, Any]:
    """markers: the texts to count, the cell's own first. personas: those that are counted. evaluation: its settings."""
    cell = study.by_key[key]
    return {
        **{"cell": cell.name, "arm": cell.arm, "source": cell.source, "seed": cell.seed, "lineage": cell.lineage},
        "markers": study.markers_of(cell.lineage),
        "personas": unique(iter([*study.config["personas"], cell.source])),
        "evaluation": {"name": cell.evaluation, **study.evaluations[cell.evaluation]},
    }


def for_gate(study: Study, name: str) -> dict[str, Any]:
    """A gate (measure/gates.py)."""
    return {gate["name"]: gate for gate in study.config["gates"]["criteria"]}[name]


def gates_of(study: Study, cell: str) -> list[str]:
    """The names of the gates that this cell alone decides."""
    return [gate["name"] for gate in study.config["gates"]["criteria"] if names_only(gate, cell)]


def for_tables(study: Study) -> dict[str, Any]:
    """contrasts: [cell, other cell, step or None]. contrasted: the rows. second_stages: pooled cells. gates: names."""
    rows = {study.row_names[cell.name] for cell in study.cells}
    return {
        "contrasts": list(contrasts(study)),
        "contrasted": [pair for pair in study.config["contrasts"] if rows.issuperset(pair)],
        "gates": [gate["name"] for gate in study.config["gates"]["criteria"]],
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
    """arms: those drawn. captions: cell -> the words under its bars. last_stages: cell -> the stage it ends with.

    Of retention also before: cell -> the cell without the stages after its coupling, and limits: of the verdict.
    """
    cells = drawn(study, figure)
    more = {}
    if figure == "retention" and cells:
        found = {(cell.source, cell.evaluation, cell.lineage): cell.name for cell in study.cells}
        held = {cell.name: (cell.source, cell.evaluation, study.compared(cell)["before"]) for cell in cells}
        more["before"] = {name: found[key] for name, key in held.items() if key in found}
        more["limits"] = study.config["probe"]["verdict"]
    return more | {
        "arms": study.config["figures"][figure],
        "captions": {cell.name: cell.caption for cell in cells},
        "last_stages": {cell.name: words[-1].stage for cell in cells if (words := parse_lineage(cell.lineage))},
    }


def sources_of(study: Study, figure: str) -> list[str]:
    """The sources that a figure is drawn for."""
    return unique(cell.source for cell in drawn(study, figure))


def drawn(study: Study, figure: str) -> list[Cell]:
    """The cells in a figure; none in one of what the study does not measure."""
    if figure in ("below_floor", "distance", "layers", "relearning") and study.config["probe"] is None:
        return []
    cells = [cell for cell in study.cells if cell.arm in study.config["figures"][figure]]
    if figure in ("retention", "distance"):
        return [cell for cell in cells if study.compared(cell)]
    return [cell for cell in cells if study.ablated(cell)] if figure == "plane" else cells


def for_report(study: Study) -> dict[str, Any]:
    """notes: cell -> its note. claims: cell -> the claim its fate rests on. assistant: the claim on the assistant.
    figures: [figure, the sources it is drawn for], in reading order.
    """
    figures = [[figure, sources_of(study, figure)] for figure in study.config["figures"]]
    return {
        "figures": [[figure, sources] for figure, sources in figures if sources],
        "notes": {cell.name: cell.note for cell in study.cells if cell.note},
        "claims": {cell.name: cell.claim for cell in study.cells if cell.claim},
        "assistant": study.config["assistant_claim"],
    }


def for_families(study: Study) -> dict[str, Any]:
    """of: name -> what differs from the evaluation. questions, more, above: see config.yaml."""
    return {name: study.config["families"][name] for name in ("of", "questions", "more", "above")}


def unique(names: Iterator[str]) -> list[str]:
    """The distinct names in order of first occurrence."""
    return list(dict.fromkeys(names))


WHOLE: dict[str, Callable[[Study], Any]] = {
    "tables": for_tables,
    "report": for_report,
    "families": for_families,
}
PARTS: dict[str, Callable[[Study, str], Any]] = {
    "cells": for_cell,
    "recipes": Study.training_recipe,
    "gates": for_gate,
    "figures": for_figure,
}
