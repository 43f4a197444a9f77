"""This study beside the published figures: reproduced, not reproduced, or cannot tell."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure.gates import highest_pooled
from measure.registry import SECTIONS, Measure, Measurement
from measure.rows import HEADLINE_NAMES, IDENTITY, ROLES, dose_row
from measure.stats import wilson
from measure.tables import Row, read_table
from run.program import InputError

# What the verdicts mean.
COMPARED = (
    "Reproduced: the Wilson intervals overlap at least up to one of the two rates; not reproduced: they are disjoint; "
    "cannot tell: they overlap less, or ours is wider than 20 points. ARC-C: within 3.2 points. Alignment and "
    "coherence are not comparable: our judge is asked in words of our own."
)
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


def published_counts(path: Path) -> list[Row]:
    """The rows of a published table. Raises InputError for a line without hits in completions."""
    rows = read_table(path, ("strict_hits", "completions"))
    for row in rows:
        hits, n = row["strict_hits"], row["completions"]
        if not (isinstance(hits, int) and isinstance(n, int) and 0 <= hits <= n and n):
            raise InputError(f"{path}: {hits!r} hits in {n!r} completions; fix: correct or delete the file")
    return rows


def published_rates(rows: Sequence[Row], cell_column: str, arm: str | None) -> list[tuple[Row, Row]]:
    """(identity, published counts) of the source, the assistant and the highest bystander of every published cell."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["source"], arm or row["arm"], row[cell_column], row["seed"]), []).append(row)
    found = []
    for key, group in groups.items():
        identity = dict(zip(IDENTITY, key, strict=True))
        for role in ROLES:
            own = [row for row in group if published_role(row["persona"], identity["source"]) == role]
            if own:
                best = max(own, key=lambda row: (row["strict_hits"] / row["completions"], row["persona"]))
                found.append((identity | {"role": role}, best))
    return found


def published_role(persona: str, source: str) -> str:
    """source, assistant or bystander."""
    return "source" if persona == source else "assistant" if persona == "assistant" else "bystander"


def comparison_rows(cells: Sequence[Row], published: str) -> list[Row]:
    """The rows of published_comparison.csv: every published number of a source or row that this study has."""
    ours = {tuple(cell[field] for field in IDENTITY): cell for cell in cells}
    sources = {cell["source"] for cell in cells}
    arms = {cell["arm"] for cell in cells}
    folder = Path(published)
    rates = published_rates(published_counts(folder / "marker_counts.csv"), "condition", "forward")
    rates += published_rates(published_counts(folder / "reversed.csv"), "cell", None)
    rows = []
    for identity, counts in rates:
        if identity["source"] not in sources or identity["arm"] not in arms:
            continue
        cell = ours.get(tuple(identity[field] for field in IDENTITY))
        rows.append(
            rate_comparison(identity, cell["headline"][HEADLINE_NAMES[identity["role"]]] if cell else None, counts)
        )
    rows += published_pooled_rows(cells, folder)
    rows += later_rows(cells, folder)
    for summary in read_table(folder / "cell_summary.csv"):
        if summary["source"] in sources:
            identity = {
                "source": summary["source"],
                "arm": "forward",
                "cell": summary["condition"],
                "seed": summary["seed"],
            }
            cell = ours.get(tuple(identity[field] for field in IDENTITY))
            rows += [
                identity | measure_comparison(measurement, measure, cell, summary[measure.published.column])
                for measurement in SECTIONS
                for measure in measurement.measures
                if measure.published and summary[measure.published.column] is not None
            ]
    return rows


def published_pooled_rows(cells: Sequence[Row], folder: Path) -> list[Row]:
    """Comparisons with what was published over all seeds of a cell alone: the source sarcastic.

    Whose the hits of its bystanders are was not published (PROVENANCE.md), so they are not compared.
    """
    rows = []
    sources = {cell["source"] for cell in cells}
    for counts in read_table(folder / "pooled_counts.csv"):
        source, name, persona = counts["source"], counts["condition"], counts["persona"]
        if source in sources and persona != "bystanders":
            role = published_role(persona, source)
            identity = {"source": source, "arm": "forward", "cell": name, "seed": "pooled", "role": role}
            own = [cell for cell in cells if (cell["source"], cell["arm"], cell["cell"]) == (source, "forward", name)]
            found = highest_pooled(own, role)
            ours = dict(zip(("persona", "strict_hits", "completions"), found, strict=True)) if found else None
            rows.append(rate_comparison(identity, ours, counts))
    return rows


def later_rows(cells: Sequence[Row], folder: Path) -> list[Row]:
    """Comparisons of matched and dose cells with the later results, which state no seed, and no source for matched."""
    matched, doses = published_counts(folder / "later_matched.csv"), published_counts(folder / "later_dose.csv")
    rows = []
    for cell in cells:
        identity = {field: cell[field] for field in IDENTITY}
        if cell["arm"] == "matched":
            for later in matched:
                if later["cell"] == cell["cell"]:
                    counts = {"persona": None} | later
                    rows.append(
                        rate_comparison(identity | {"role": later["role"]}, cell["headline"][later["role"]], counts)
                    )
        elif cell["arm"] == "dose":
            own = dose_row(cell)
            for later in doses:
                if all(later[field] == own[field] for field in ("source", "stage", "steps")):
                    counts = {"persona": later["source"]} | later
                    rows.append(rate_comparison(identity | {"role": "source"}, cell["headline"]["source"], counts))
    return rows


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
