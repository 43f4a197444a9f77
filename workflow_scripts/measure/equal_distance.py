"""The persona gap d of two second stages at equal distance from the model that both began with.

After equal steps one of two stages may have moved the model further. A stage's line holds its model after every number
of steps that was measured, and at its end, by the KL divergence from their parent under the coupled persona [nats per
token]. For a model of one stage, d of the other is read at the same divergence from the straight line between the two
models before and after it there, over log KL. Nothing is extrapolated: where the other was never so far, its nearest
model stands for it if that is NEAR; else, or where it was so far more than once since its line turns back, there is no
number, and why. Intervals are over resampled questions, the same for both; the divergences are held as they were
measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from graph.lineage import lineage_of, parent_of, parse_lineage
from measure.relearning import steps_of
from measure.tables import Row
from probe.survival import averaged, mean

EQUAL = ("source", "arm", "cell", "seed", "steps", "kl", "gap", "other_cell", "between", "other_gap", "difference",
         "difference_low", "difference_high", "n", "larger", "why")  # fmt: skip
EQUAL_NOTE = (
    "kl: KL divergence of the cell's model from its parent on the base's replies, nats per token. gap: its persona gap "
    "d; other_gap: that of the other stage's line at the same kl, between two numbers of its steps, log-linearly; with "
    "one number of steps, of its nearest model, whose kl is within 10 %. n: questions, over which the interval is; it "
    "holds no noise of training. larger: whose gap, undecided where the interval holds 0. Nothing is extrapolated; "
    "where the other was not measured, why says so. "
    "Without a row, no two contrasted rows of cells (contrasts) have measured models that began with one model."
)
UNDECIDED = "undecided"
NEAR = 0.1  # of the smaller divergence: so far apart, two models count as equally far
DIGITS = 6


@dataclass(frozen=True)
class Point:
    """A model on the line of its stage. steps: 0 at the end of it. kl: above 0. gaps: d [nats] by question."""

    steps: int
    kl: float
    gaps: Mapping[str, float]


def point_of(cell: Row) -> Point | str | None:
    """The cell's model as a point of its line, or why it is none; None for one that was not measured."""
    section = cell["distance"]
    kl, weights = (section.get(name, {}).get("value") for name in ("kl_shared_source", "weights_moved"))
    if kl and section["gaps"]:
        return Point(steps_of(cell), kl, section["gaps"])
    if kl is None and weights is None:
        return None
    said = "no KL" if kl is None else f"a KL of {kl:.3g}"
    gap = "" if section["gaps"] else ", and no persona gap"
    moved = "" if weights is None else f" (its weights moved by {weights:.3g})"
    return f"{said}{gap}{moved}"


def line_of(lineage: str) -> str:
    """The lineage with its last stage to its end: what stopped stages of one training have in common."""
    *before, last = parse_lineage(lineage)
    return lineage_of((*before, replace(last, step=None)))


def row_of(cell: Row) -> str:
    """The row of the config that the cell is of: its name without the steps."""
    steps = steps_of(cell)
    return str(cell["cell"]).removesuffix(f"_{steps}") if steps else str(cell["cell"])


def equal_distance_rows(cells: Sequence[Row], contrasted: Sequence[Sequence[str]]) -> list[Row]:
    """The rows of equal_distance.csv: one per measured model of a contrasted row, where the other has its parent.

    contrasted: pairs of rows of the config.
    """
    lines: dict[tuple[str, str], list[Point | str]] = {}
    known = [(cell, point) for cell in cells if (point := point_of(cell))]
    for cell, point in known:
        lines.setdefault((cell["source"], line_of(cell["lineage"])), []).append(point)
    rows: list[Row] = []
    pairs = [(name, beside) for one, other in contrasted for name, beside in ((one, other), (other, one))]
    for name, beside in dict.fromkeys(pairs):
        for cell, point in known:
            others = lines_beside(cell, beside, [each for each, _ in known]) if row_of(cell) == name else {}
            line = others.get(cell["seed"])
            if not others or line == line_of(cell["lineage"]):
                continue
            around: tuple[Point, Point] | str = f"{beside} was measured with seed {', '.join(map(str, others))} alone"
            identity = {field: cell[field] for field in EQUAL[:4]} | {"steps": steps_of(cell) or None}
            identity |= {"other_cell": beside}
            if isinstance(point, str):
                rows.append(identity | {"why": f"{name} has {point}"})
                continue
            if line:
                around = neighbours(point.kl, lines[cell["source"], line], beside)
            rows.append(identity | compared(point, around, name, beside))
    return rows


def lines_beside(cell: Row, row: str, cells: Sequence[Row]) -> dict[int, str]:
    """Seed -> the line of a row's models of the cell's source and parent."""
    own = (row, cell["source"], parent_of(cell["lineage"]))
    return {
        each["seed"]: line_of(each["lineage"])
        for each in cells
        if (row_of(each), each["source"], parent_of(each["lineage"])) == own
    }


def compared(point: Point, around: tuple[Point, Point] | str, own: str, name: str) -> Row:
    """A row without what tells it apart. around: of the other's line, or why there is nothing. own, name: the rows."""
    row: Row = {"kl": point.kl, "gap": round(mean(list(point.gaps.values())), DIGITS)}
    if isinstance(around, str):
        return row | {"why": around}
    below, above = around
    questions = sorted(point.gaps.keys() & below.gaps.keys() & above.gaps.keys())
    if len(questions) < 2:
        return row | {"why": f"{len(questions)} questions in common with {name}, an interval needs two"}
    part = 0.0 if below is above else math.log(point.kl / below.kl) / math.log(above.kl / below.kl)
    other = {each: (1 - part) * below.gaps[each] + part * above.gaps[each] for each in questions}
    found = averaged({each: point.gaps[each] - other[each] for each in questions})
    assert found.value is not None and found.low is not None and found.high is not None
    rounded = found.rounded(DIGITS)
    return row | {
        "gap": round(mean([point.gaps[each] for each in questions]), DIGITS),
        "between": " and ".join(dict.fromkeys(str(each.steps or "end") for each in around)),
        "other_gap": round(mean(list(other.values())), DIGITS),
        "difference": rounded["value"],
        "difference_low": rounded["low"],
        "difference_high": rounded["high"],
        "n": found.n,
        "larger": UNDECIDED if found.low <= 0 <= found.high else own if found.value > 0 else name,
    }


def neighbours(kl: float, line: Sequence[Point | str], name: str) -> tuple[Point, Point] | str:
    """The points of a row's line, in the order of its steps, on both sides of a divergence, the nearer first; twice
    the nearest where the line does not go there but comes NEAR; or why there are none.
    """
    known = sorted((each for each in line if isinstance(each, Point)), key=lambda point: point.steps or math.inf)
    if not known:
        return f"{name} has {line[0]}"
    reached = sorted({point.kl for point in known})
    if len(reached) == 1 or not reached[0] <= kl <= reached[-1]:
        nearest = min(known, key=lambda point: abs(point.kl - kl))
        if abs(nearest.kl - kl) <= NEAR * min(nearest.kl, kl):
            return nearest, nearest
    if len(reached) == 1:
        return f"{name} was measured at one distance alone"
    if kl < reached[0]:
        return f"nearer than {name} was measured ({reached[0]:.3g} or more)"
    if kl > reached[-1]:
        return f"further than {name} was measured (at most {reached[-1]:.3g})"
    pairs = [(one, other) if one.kl < other.kl else (other, one) for one, other in pairwise(known)]
    between = [pair for pair in pairs if pair[0].kl < kl < pair[1].kl]
    at = [point for point in known if point.kl == kl]
    if len(between) + len(at) > 1:
        return f"the line of {name} turns back and is there more than once"
    return between[0] if between else next(pair for pair in pairs if at[0] in pair)
