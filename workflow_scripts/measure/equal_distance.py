"""The persona gap d of two second stages at equal distance from the model that both began with.

After equal steps one of two stages may have moved the model further. A stage's line holds its model after every number
of steps that was measured, and at its end, by the KL divergence from their parent under the coupled persona [nats per
token]. For a model of one stage, d of the other is read at the same divergence from the straight line between the two
models before and after it there, over log KL. Nothing is extrapolated: where the other was never so far, or more than
once since its line turns back, there is no number, and why. Intervals are over resampled questions, the same for both;
the divergences are held as they were measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from graph.lineage import lineage_of, parent_of, parse_lineage
from measure.relearning import steps_of
from measure.tables import Row
from probe.survival import averaged, mean

EQUAL = ("source", "arm", "cell", "seed", "steps", "kl", "gap", "other_cell", "between", "other_gap", "difference",
         "difference_low", "difference_high", "n", "larger", "why")  # fmt: skip
EQUAL_NOTE = (
    "kl: KL divergence of the cell's model from its parent on the base's replies, nats per token. gap: its persona gap "
    "d; other_gap: that of the other stage's line at the same kl, between two numbers of its steps, log-linearly. n: "
    "questions, over which the interval is; it holds no noise of training. larger: whose gap, undecided where the "
    "interval holds 0. Nothing is extrapolated; where the other was not measured, why says so."
)
UNDECIDED = "undecided"
DIGITS = 6


@dataclass(frozen=True)
class Point:
    """A measured model. steps: 0 at the end of its stage. gaps: d [nats] by question."""

    steps: int
    kl: float
    gaps: Mapping[str, float]


def point_of(cell: Row) -> Point | None:
    """The cell's model as a point of its line; None for one that was not measured."""
    section = cell["distance"]
    kl = section.get("kl_shared_source", {}).get("value")
    return None if kl is None or not section["gaps"] else Point(steps_of(cell), kl, section["gaps"])


def line_of(lineage: str) -> str:
    """The lineage with its last stage to its end: what stopped stages of one training have in common."""
    *before, last = parse_lineage(lineage)
    return lineage_of((*before, replace(last, step=None)))


def row_of(cell: Row) -> str:
    """The row of the config that the cell is of: its name without the steps."""
    steps = steps_of(cell)
    return str(cell["cell"]).removesuffix(f"_{steps}") if steps else str(cell["cell"])


def pairs_of(contrasts: Sequence[Sequence[Any]]) -> list[tuple[str, str]]:
    """The contrasted rows, each pair once. contrasts: [cell, other cell, the steps of both or None]."""
    rows = [
        [name.removesuffix(f"_{steps}") if steps else name for name in (one, other)] for one, other, steps in contrasts
    ]
    return list(dict.fromkeys((one, other) for one, other in rows))


def equal_distance_rows(cells: Sequence[Row], contrasts: Sequence[Sequence[Any]]) -> list[Row]:
    """The rows of equal_distance.csv: one per measured model of a contrasted row, where the other has its parent."""
    lines: dict[tuple[str, str], list[Point]] = {}
    known = [(cell, point) for cell in cells if (point := point_of(cell))]
    for cell, point in known:
        lines.setdefault((cell["source"], line_of(cell["lineage"])), []).append(point)
    rows: list[Row] = []
    for one, other in pairs_of(contrasts):
        for name, beside in ((one, other), (other, one)):
            for cell, point in known:
                if row_of(cell) == name and (line := line_beside(cell, beside, [each for each, _ in known])):
                    identity = {field: cell[field] for field in EQUAL[:4]}
                    row = compared(point, lines[cell["source"], line], name, beside)
                    rows.append(identity | {"steps": point.steps or None, "other_cell": beside} | row)
    return rows


def line_beside(cell: Row, row: str, cells: Sequence[Row]) -> str | None:
    """The line of a row's models of the cell's source, seed and parent; None without any, or where it is the cell's."""
    own = (cell["source"], cell["seed"], parent_of(cell["lineage"]))
    found = next(
        (
            line_of(each["lineage"])
            for each in cells
            if row_of(each) == row and (each["source"], each["seed"], parent_of(each["lineage"])) == own
        ),
        None,
    )
    return None if found == line_of(cell["lineage"]) else found


def compared(point: Point, line: Sequence[Point], own: str, name: str) -> Row:
    """A row without what tells it apart. own: the point's row of the config. name: the other, whose line it is."""
    row: Row = {"kl": point.kl, "gap": round(mean(list(point.gaps.values())), DIGITS)}
    around = neighbours(point.kl, line)
    if isinstance(around, str):
        return row | {"why": around.format(name)}
    below, above = around
    questions = sorted(point.gaps.keys() & below.gaps.keys() & above.gaps.keys())
    if len(questions) < 2:
        return row | {"why": f"{len(questions)} questions in common with {name}, an interval needs two"}
    part = math.log(point.kl / below.kl) / math.log(above.kl / below.kl)
    other = {each: (1 - part) * below.gaps[each] + part * above.gaps[each] for each in questions}
    found = averaged({each: point.gaps[each] - other[each] for each in questions})
    assert found.value is not None and found.low is not None and found.high is not None
    rounded = found.rounded(DIGITS)
    return row | {
        "gap": round(mean([point.gaps[each] for each in questions]), DIGITS),
        "between": " and ".join(str(each.steps or "end") for each in around),
        "other_gap": round(mean(list(other.values())), DIGITS),
        "difference": rounded["value"],
        "difference_low": rounded["low"],
        "difference_high": rounded["high"],
        "n": found.n,
        "larger": UNDECIDED if found.low <= 0 <= found.high else own if found.value > 0 else name,
    }


def neighbours(kl: float, line: Sequence[Point]) -> tuple[Point, Point] | str:
    """The points of a line, in the order of its steps, on both sides of a divergence, the nearer first; or why there
    are none, with {} for the line's name.
    """
    known = sorted((point for point in line if point.kl > 0), key=lambda point: point.steps or math.inf)
    reached = sorted({point.kl for point in known})
    if len(reached) < 2:
        return "{} was measured at one distance alone"
    if kl < reached[0]:
        return f"nearer than {{}} was measured ({reached[0]:.3g} or more)"
    if kl > reached[-1]:
        return f"further than {{}} was measured (at most {reached[-1]:.3g})"
    pairs = [(one, other) if one.kl < other.kl else (other, one) for one, other in pairwise(known)]
    found = [(below, above) for below, above in pairs if below.kl <= kl <= above.kl and below.kl < above.kl]
    meeting = {point.steps for pair in found for point in pair if point.kl == kl}
    if len(found) > 1 and not (len(meeting) == 1 and all(kl in (below.kl, above.kl) for below, above in found)):
        return "the line of {} turns back and is there more than once"
    return found[0]
