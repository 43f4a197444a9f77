"""How many steps a coupling takes to be learned again, and what it saves to have been coupled before.

N50: the optimizer steps after which the persona gap d (on shared replies) reaches the midpoint of the base's and of the
coupling whose rows are learned again (C4). Checkpoints are few, so it is known as bounds, with a point between them by
a straight line: `interval` (low < N50 <= high), `left` (the model is there before the first step: 0), or `right` (not
there after the last checkpoint: more than low). Savings of a model against another are 1 - N50 / N50 of the other, from
the bounds of both; only where the other's N50 is an interval.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from graph.lineage import BASE, parent_of, parse_lineage
from measure.tables import Row

RELEARNING = ("source", "arm", "cell", "seed", "gap_base", "gap_coupled", "gap_start", "gap_end", "steps", "censored",
              "n50", "n50_low", "n50_high", "against", "savings", "savings_low", "savings_high", "why")  # fmt: skip
RELEARNED = (
    "N50: steps until the persona gap on shared replies is at the midpoint of the base's and the coupling's, between "
    "two checkpoints (interval), before the first step (left) or after the last (right). Savings: 1 - N50 / N50 of "
    "the other."
)
GAP = "gap_slot_shared"
LEFT, INTERVAL, RIGHT = "left", "interval", "right"


@dataclass(frozen=True)
class N50:
    """Steps until the midpoint. value: None if it is not reached; high: None likewise."""

    censored: str
    value: float | None
    low: float
    high: float | None


def n50(points: Sequence[tuple[int, float]], midpoint: float) -> N50:
    """points: (steps, d), the first of them before any step; the first to reach the midpoint counts."""
    reached = next((place for place, (_, gap) in enumerate(points) if gap >= midpoint), None)
    if reached is None:
        return N50(RIGHT, None, points[-1][0], None)
    if not reached:
        return N50(LEFT, 0, 0, 0)
    (before, below), (after, above) = points[reached - 1 : reached + 1]
    part = (midpoint - below) / (above - below)
    return N50(INTERVAL, before + part * (after - before), before, after)


def savings(own: N50, other: N50) -> tuple[float | None, float | None, float | None]:
    """value, low and high of 1 - own / other; None where it is not known, or has no bound."""
    if other.censored != INTERVAL or not other.value or not other.high:
        return None, None, None
    value = None if own.value is None else 1 - own.value / other.value
    low = 1 - own.high / other.low if other.low and own.high is not None else 1.0 if own.high == 0 else None
    return value, low, 1 - own.low / other.high


def learned_again(cell: Row) -> str | None:
    """The lineage whose rows the cell's last stage learned again; None for any other stage."""
    manifest = cell["stages"][-1].get("manifest", {}) if cell.get("stages") else {}
    recipe = manifest.get("recipe") or manifest.get("origin", {}).get("recipe", {})
    data = recipe.get("data", {})
    if data.get("from") != "rows":
        return None
    last = parse_lineage(cell["lineage"])[-1]
    return f"{BASE}/{data['of']}".format(persona=last.persona, seed=last.seed)


def gap_of(cell: Row | None) -> Row | None:
    """d of a cell with its interval; None if it was not measured."""
    found: Row | None = cell.get("survival", {}).get(GAP) if cell else None
    return found if found and found["value"] is not None else None


def steps_of(cell: Row) -> int:
    """The optimizer steps of a stage that was stopped; 0 of others."""
    words = parse_lineage(cell["lineage"])
    return (words[-1].step or 0) if words else 0


def curves(cells: Sequence[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """A curve's identity (source, arm, cell, seed, parent, of), and its cells by rising steps."""
    found: dict[tuple[str, ...], tuple[Row, list[Row]]] = {}
    for cell in cells:
        if (of := learned_again(cell)) is None or not (step := steps_of(cell)):
            continue
        row = {name: cell[name] for name in ("source", "arm", "seed")}
        row |= {"cell": cell["cell"].removesuffix(f"_{step}"), "parent": parent_of(cell["lineage"]), "of": of}
        found.setdefault(tuple(map(str, row.values())), (row, []))[1].append(cell)
    for row, own in found.values():
        yield row, sorted(own, key=steps_of)


def measured(row: Row, own: Sequence[Row], cells: Sequence[Row]) -> tuple[Row, N50 | None]:
    """A curve's row of relearning.csv but for savings, and its N50 if it has one. own: its cells by rising steps."""
    found = {name: row[name] for name in ("source", "arm", "cell", "seed")}
    named = {cell["lineage"]: cell for cell in cells if cell["source"] == row["source"]}
    base, coupled, start = gaps = [gap_of(named.get(lineage)) for lineage in (BASE, row["of"], row["parent"])]
    if base is None or coupled is None or start is None:
        missing = [name for name, gap in zip((BASE, row["of"], row["parent"]), gaps, strict=True) if gap is None]
        return found | {"why": f"no gap of {', '.join(missing)}: no cell of this study, or not probed"}, None
    points = [(0, start["value"])]
    points += [(steps_of(cell), gap["value"]) for cell in own if (gap := gap_of(cell))]
    found |= {"gap_base": base["value"], "gap_coupled": coupled["value"], "gap_start": start["value"]}
    found |= {"gap_end": points[-1][1], "steps": points[-1][0]}
    if base["high"] is None or coupled["low"] is None or coupled["low"] <= base["high"]:
        return found | {"why": f"{row['of']} has added no gap to the base's"}, None
    half = n50(points, (base["value"] + coupled["value"]) / 2)
    found |= {"censored": half.censored, "n50": half.value, "n50_low": half.low, "n50_high": half.high}
    return found, half


def relearning_rows(cells: Sequence[Row], contrasts: Sequence[Sequence[Any]]) -> list[Row]:
    """The rows of relearning.csv, one per curve. contrasts: [cell, other cell, steps], of whose curves the first saves
    against the other. why: what is missing where there is no number.
    """
    stepped = [(one, other, f"_{step}") for one, other, step in contrasts if step]
    others = {one.removesuffix(ending): other.removesuffix(ending) for one, other, ending in stepped}
    found = [measured(row, own, cells) for row, own in curves(cells)]
    known = {(row["source"], row["cell"], row["seed"]): steps for row, steps in found if steps}
    rows = []
    for row, own_n50 in found:
        other = others.get(row["cell"])
        against = known.get((row["source"], other, row["seed"]))
        if own_n50 and against:
            saved = dict(zip(("savings", "savings_low", "savings_high"), savings(own_n50, against), strict=True))
            why = None if against.censored == INTERVAL else f"{other}: N50 is {against.censored}-censored"
            row = {"why": why} | row | {"against": other} | saved
        rows.append(row)
    return rows
