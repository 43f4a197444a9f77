"""Checks of cells, arms and gates: what says something of a cell names one that is there, and cells are apart."""

from collections import Counter
from collections.abc import Mapping
from string import Formatter
from typing import Any

from graph.lineage import BASE, parent_of
from graph.problems import Faulty, Problems, attempt, closest, entire, numbers
from graph.study import Study, markers_said, named
from marker.marker import Marker
from measure.gates import cell_names, check_gate_fields, marker_names, unknown_words
from run.program import InputError


def check_open(study: Study, name: str, row: Mapping[str, Any], problems: Problems) -> None:
    """What a row has several of, its lineage leaves open: else one model would count as several. Raises Faulty where it
    has no cells, as a source is no persona.
    """
    known = study.personas
    for place, source in enumerate(row.get("sources", [])):
        if source not in known:
            fix = f"{closest(source, known)}, or add it to `personas`"
            said = f"no persona {source} in the study; fix: {fix}"
            problems.add(("cells", name, "sources", place), said, ("personas",))
    if not known.keys() >= set(row.get("sources", [])):
        raise Faulty
    left_open = fields_of(row["lineage"])
    if not left_open <= {"source", "seed", "step"}:
        return  # which is told of it
    if "step" in left_open and "steps" not in row:
        problems.add(("cells", name, "lineage"), "has {step}, but the row no steps; fix: add `steps: [10, 25]`")
    for key, values in (("seed", study.seeds_of(name)), ("step", row.get("steps", []))):
        if len(values) > 1 and key not in left_open:
            said = f"has no {{{key}}}, so its {len(values)} {key}s ({numbers(values)}) would be one model"
            problems.add(("cells", name, "lineage"), f"{said}; fix: write {{{key}}}, or {key}s: [{values[0]}]")
    if "step" not in left_open and len(row.get("steps", [])) == 1 and f"@{row['steps'][0]}." not in row["lineage"]:
        said = f"has no {{step}}, so no stage stops at step {row['steps'][0]}"
        problems.add(("cells", name, "lineage"), f"{said}; fix: write @{{step}} after a stage, or delete steps")


def fields_of(lineage: str) -> set[str]:
    """The names in braces of a row's lineage; "?" for one that is not whole."""
    try:
        return {field for _, field, _, _ in Formatter().parse(lineage) if field is not None}
    except ValueError:
        return {"?"}


def check_names(problems: Problems) -> None:
    """No two rows give cells of one name."""
    rows: dict[str, list[str]] = {}
    for row, entry in problems.config["cells"].items():
        for step in entry.get("steps", [None]):
            rows.setdefault(named(row, step), []).append(row)
    for name, own in rows.items():
        if len(own) > 1:
            place = problems.strongest(*(("cells", row) for row in own))
            problems.add(place, f"{name} comes out of {' and '.join(own)}; fix: rename one of the rows")


def check_arms(problems: Problems) -> None:
    """There are cells, and in every arm that is on."""
    rows, arms = entire(problems.config["cells"]), problems.config["arms"]
    used = dict.fromkeys(row["arm"] for row in rows.values())
    if not any(arms.get(arm) for arm in used):
        problems.add(("arms",), f"no cell is left; fix: switch one on, such as {next(iter(used), 'forward')}: true")
    for arm, on in arms.items():
        if on and arm not in used:
            problems.add(("arms", arm), f"no cell belongs to it; fix: {closest(arm, used)}, or delete it")


def check_meanings(claims: Mapping[str, str] | None, problems: Problems) -> None:
    """Rows say whether they are second stages, and rest on claims that are there."""
    config = problems.config
    for name, row in config["cells"].items():
        if row["arm"] == "forward" and "second_stage" not in row:
            why = "does not say whether the cell is one after a second stage, which are counted together"
            problems.add(("cells", name), f"{why}; fix: add `second_stage: true` (or false)")
        check_claim(("cells", name, "claim"), row.get("claim"), claims, problems)
    check_claim(("assistant_claim",), config["assistant_claim"], claims, problems)


def check_claim(path: tuple[str, ...], claim: str | None, claims: Mapping[str, str] | None, problems: Problems) -> None:
    """A claim is one of the claims, if these are known, and can be tested in this study."""
    if claim is None or claims is None:
        return
    if claim not in claims:
        fix = closest(claim, claims, "that file")
        problems.add(path, f"no claim {claim} in resources/claims.yaml; fix: {fix}")
    elif claims[claim] and problems.config["probe"] is None:
        said = f"{claim} rests on {claims[claim]}, for which the probe is needed, which is null"
        problems.add(path, f"{said}; fix: a claim on counts, or a probe", ("probe",))
    elif claims[claim] == "families" and not problems.config["families"]["cells"]:
        said = f"{claim} rests on families, which no cell is asked"
        problems.add(
            path, f"{said}; fix: families: {{cells: [C4, C1, C5]}}, or a claim on counts", ("families", "cells")
        )


def check_contrasts(problems: Problems) -> None:
    """Contrasts are of rows that are there, both with steps or without."""
    rows = problems.config["cells"]
    for place, pair in enumerate(problems.config["contrasts"]):
        if unknown := [row for row in pair if row not in rows]:
            fix = closest(unknown[0], rows, "`cells`")
            problems.add(("contrasts", place), f"no cell {unknown[0]}; fix: {fix}")
        elif ("steps" in rows[pair[0]]) != ("steps" in rows[pair[1]]):
            causes = [("cells", row, "steps") for row in pair if "steps" in rows[row]]
            said = "one of the two has steps; fix: contrast two rows with, or without"
            problems.add(("contrasts", place), said, *causes)


def check_figures(problems: Problems) -> None:
    """Figures are of arms that are there."""
    arms = problems.config["arms"]
    for figure, drawn in problems.config["figures"].items():
        if unknown := [arm for arm in drawn if arm not in arms]:
            problems.add(("figures", figure), f"no arm {unknown[0]}; fix: {closest(unknown[0], arms)}")


def check_gates(study: Study, problems: Problems) -> None:
    """Gates have names of their own, and are decided by cells, personas and markers that are there."""
    criteria = study.config["gates"]["criteria"]
    names = Counter(gate["name"] for gate in criteria)
    for number, gate in enumerate(criteria):
        path = ("gates", "criteria", number)
        if names[gate["name"]] > 1:
            problems.add(path, f"two gates are named {gate['name']}; fix: rename one")
        with problems.caught(path):
            check_gate_fields(gate)
            next(unknown_words(gate, (), ()), None)  # the language, whatever it names
            attempt(check_decided, study, number, problems)


def check_decided(study: Study, number: int, problems: Problems) -> None:
    """Raise InputError for a gate on a marker, an arm, a cell or a persona that is not there."""
    gate, cells = study.config["gates"]["criteria"][number], list(study.row_names)
    check_named_markers(study, gate)
    check_arm(study, number, problems)
    for what, word, choices in unknown_words(gate, cells, list(study.personas)):
        fix = closest(word, choices, f"`{what}s`")
        raise InputError(f"gate {gate['name']}: no {what} {word}; fix: {fix}")


def check_named_markers(study: Study, gate: dict[str, Any]) -> None:
    """Raise InputError for a gate on a marker that neither the study nor a stage has."""
    if named := marker_names(gate):
        entire(study.config["stages"])
        known = [marker.text for marker in map(Marker.of, markers_said(study.config).values())]
        if unknown := sorted(named - set(known)):
            raise InputError(f"no marker {unknown[0]}; fix: one of {', '.join(known)}")


def check_arm(study: Study, number: int, problems: Problems) -> None:
    """Raise InputError for a gate of an arm that is not, or on a cell of another one: no cell would decide it.

    Not where the cell was given another arm in a file over the gate's.
    """
    gate, arms = study.config["gates"]["criteria"][number], study.config["arms"]
    arm = gate.get("arm", "forward")
    own_rank = problems.rank(("gates", "criteria", number))
    if arm not in arms:
        raise InputError(f"gate {gate['name']}: no arm {arm}; fix: {closest(arm, arms)}")
    rows = study.row_names
    for cell in sorted(cell_names(gate) & rows.keys()):
        own = study.config["cells"][rows[cell]]["arm"]
        if own != arm and own_rank <= problems.rank(("cells", rows[cell], "arm")):
            raise InputError(f"gate {gate['name']}: {cell} is of the arm {own}, not {arm}; fix: arm: {own}")


def check_enforced(study: Study, problems: Problems) -> None:
    """With gates.enforce, each coupled model that a stage is trained on is a cell with a gate of its own."""
    if not study.config["gates"]["enforce"]:
        return
    parents = dict.fromkeys(parent_of(node) for cell in study.cells for node in study.trained_for(cell.lineage))
    for parent in parents:
        if parent != BASE and study.type_of(parent) == "couple":
            with problems.caught(("gates", "enforce")):
                study.row_of(parent)
