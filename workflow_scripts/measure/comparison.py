"""This study beside the published figures: reproduced, not reproduced, or cannot tell."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure.cells import role_of
from measure.published import is_published, read_published
from measure.registry import SECTIONS, Measure, Measurement
from measure.rows import HEADLINE_NAMES, IDENTITY, ROLES
from measure.stats import wilson
from measure.tables import Row, read_table

# What the verdicts mean.
COMPARED = (
    "Reproduced: the Wilson intervals overlap at least up to one of the two rates; not reproduced: they are disjoint; "
    "cannot tell: they overlap less, or ours is wider than 20 points. ARC-C: within 3.2 points. Alignment and "
    "coherence are not comparable: our judge is asked in words of our own."
)
COMPARISON = ["source", "arm", "cell", "seed", "quantity", "persona", "ours", "ours_n", "ours_low", "ours_high",
              "published_persona", "published", "published_n", "published_low", "published_high",
              "verdict", "why"]  # fmt: skip
# An interval wider than this agrees with nearly anything.
WIDEST = 0.2


def rate_verdict(hits: int, n: int, published_hits: int, published_n: int) -> tuple[str, str]:
    """(verdict, why) of two proportions by how far their Wilson intervals overlap.

    Disjoint: not reproduced. Up to a rate, ours in the published interval or the published one in ours: reproduced.
    Less, or with an interval of ours that is too wide to tell anything: cannot tell. One rate is enough, because the
    interval of 1/280 leaves out 0 while that of 0/280 holds 1/280. With equal numbers of completions a difference of
    up to 1.4 standard errors is so reproduced (two-sided p > .16), and one of more than 2.8 is not (p < .006).
    """
    low, high = wilson(hits, n)
    published_low, published_high = wilson(published_hits, published_n)
    if high < published_low or published_high < low:
        return "not reproduced", "the intervals are disjoint"
    if high - low > WIDEST:
        return "cannot tell", f"our interval is {100 * (high - low):.0f} points wide"
    if low <= published_hits / published_n <= high or published_low <= hits / n <= published_high:
        return "reproduced", "the intervals overlap up to a rate"
    return "cannot tell", "the intervals overlap, but not up to a rate"


def rate_comparison(identity: Row, ours: Row | None, published: Row) -> Row:
    """One row of published_comparison.csv for a marker rate. ours, published: persona, strict_hits, completions."""
    low, high = wilson(published["strict_hits"], published["completions"])
    row = identity | {
        "quantity": f"marker rate, {identity['role']}",
        "published_persona": published["persona"],
        "published": round(published["strict_hits"] / published["completions"], 6),
        "published_n": published["completions"],
        "published_low": round(low, 6),
        "published_high": round(high, 6),
    }
    if ours is None:
        return row | {"verdict": "cannot tell", "why": "not measured here"}
    own_low, own_high = wilson(ours["strict_hits"], ours["completions"])
    verdict, why = rate_verdict(
        ours["strict_hits"], ours["completions"], published["strict_hits"], published["completions"]
    )
    return row | {
        "persona": ours["persona"],
        "ours": round(ours["strict_hits"] / ours["completions"], 6),
        "ours_n": ours["completions"],
        "ours_low": round(own_low, 6),
        "ours_high": round(own_high, 6),
        "verdict": verdict,
        "why": why,
    }


def comparison_rows(cells: Sequence[Row], published: str) -> list[Row]:
    """The rows of published_comparison.csv: every published number of a source and arm that this study has.

    A cell whose counts are the published ones is not held against itself.
    """
    cells = [cell for cell in cells if not is_published(cell)]
    ours = {tuple(cell[field] for field in IDENTITY): cell for cell in cells}
    has = {(cell["source"], cell["arm"]) for cell in cells}
    folder = Path(published)
    rows = []
    for identity, counts in published_rates(read_published(folder / "marker_counts.csv")):
        found = own_cells(identity, ours)
        if (identity["source"], identity["arm"]) in has:
            entries = [(cell["seed"], cell["headline"][HEADLINE_NAMES[identity["role"]]]) for cell in found]
            rows += [
                rate_comparison(identity | {"seed": seed}, entry, counts)
                for seed, entry in entries or [(identity["seed"], None)]
                if seed is not None
            ]
    for summary in read_table(folder / "cell_summary.csv", ("source", "cell", "seed")):
        if summary["source"] in {cell["source"] for cell in cells}:
            identity = {"arm": "forward"} | {field: summary[field] for field in ("source", "cell", "seed")}
            identity = {field: identity[field] for field in IDENTITY}
            cell = ours.get(tuple(identity.values()))
            rows += [
                identity | measure_comparison(measurement, measure, cell, summary[measure.published.column])
                for measurement in SECTIONS
                for measure in measurement.measures
                if measure.published and summary[measure.published.column] is not None
            ]
    return rows


def own_cells(identity: Row, ours: dict[tuple[Any, ...], Row]) -> list[Row]:
    """This study's cells that a published one is held against: those of every seed, where its own is not stated."""
    if identity["seed"] is None:
        wanted = tuple(identity[field] for field in IDENTITY[:-1])
        return [cell for key, cell in ours.items() if key[:-1] == wanted]
    key = tuple(identity[field] for field in IDENTITY)
    return [ours[key]] if key in ours else []


def published_rates(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """(identity, published counts) of the source, the assistant and the highest bystander of every published cell."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[field] for field in IDENTITY), []).append(row)
    found = []
    for key, group in groups.items():
        identity = dict(zip(IDENTITY, key, strict=True))
        for role in ROLES:
            own = [row for row in group if role_of(row["persona"], identity["source"]) == role]
            if own:
                best = max(own, key=lambda row: (row["strict_hits"] / row["completions"], row["persona"]))
                found.append((identity | {"role": role}, best))
    return found


def measure_comparison(measurement: Measurement, measure: Measure, cell: Row | None, number: float) -> Row:
    """A measure of a cell (None: the study has no such cell) beside the published number."""
    assert measure.published is not None
    row: Row = {"quantity": measure.published.quantity, "published": round(number, measure.published.digits)}
    section = cell[measurement.name] if cell else {}
    ours = measure.estimate(section)
    if ours["value"] is None:
        return row | {"verdict": "cannot tell", "why": f"{measurement.statuses[0]} here"}
    verdict, why = measure.published.verdict(section, ours, number)
    row |= {"ours": ours["value"], "ours_n": ours["n"], "ours_low": ours["low"], "ours_high": ours["high"]}
    return row | {"verdict": verdict, "why": why}
