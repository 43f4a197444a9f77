"""What two contrasted second stages leave of the persona gap, side by side: seed by seed, and over the seeds."""

from collections.abc import Sequence

from measure.equal_distance import row_of
from measure.relearning import steps_of
from measure.tables import Row
from probe.survival import NOT_TESTABLE, mean

RETAINED = ("source", "arm", "cell", "other_cell", "seed", "seeds", "replies", "quantity", "retained", "other_retained",
            "difference", "least", "most")  # fmt: skip
RETAINED_NOTE = (
    "retained, other_retained: the share of the persona gap that is left (verdicts.csv), where that can be tested in "
    "both cells at one seed. difference: of the two. Seed all: the means, and the least and the most difference of so "
    "many seeds; few seeds give no interval, and that of each share, over questions, is in verdicts.csv."
)
SHARES = ("retained", "other_retained", "difference")
DIGITS = 6


def retained_rows(cells: Sequence[Row], contrasted: Sequence[Sequence[str]]) -> list[Row]:
    """The rows of retained.csv: per pair of cells, text and quantity that of all seeds, then each seed's.

    contrasted: pairs of rows of the config. Cells of rows with steps are paired after equal steps.
    """
    weighed = {
        (cell["source"], row_of(cell), steps_of(cell), cell["seed"]): cell
        for cell in cells
        if cell["survival"].get("verdicts")
    }
    rows: list[Row] = []
    for name, beside in dict.fromkeys(map(tuple, contrasted)):
        seeds: dict[tuple[str, str, str, str], list[Row]] = {}
        for (source, row, steps, seed), cell in weighed.items():
            other = weighed.get((source, beside, steps, seed)) if row == name else None
            for made in compared(cell, other) if other else []:
                seeds.setdefault((source, cell["cell"], made["replies"], made["quantity"]), []).append(made)
        for own in seeds.values():
            rows += [of_all(own), *own]
    return rows


def compared(cell: Row, other: Row) -> list[Row]:
    """A row per text and quantity of which both cells' shares are known, and say something."""
    rows = []
    for name in cell["survival"]["verdicts"]:
        quantity, _, replies = name.rpartition("_")
        kept, others = (retained(each["survival"], name) for each in (cell, other))
        if kept is not None and others is not None:
            shares = dict(zip(SHARES, (kept, others, round(kept - others, DIGITS)), strict=True))
            identity = {field: cell[field] for field in ("source", "arm", "cell", "seed")}
            rows.append(identity | {"other_cell": other["cell"], "replies": replies, "quantity": quantity} | shares)
    return rows


def retained(section: Row, name: str) -> float | None:
    """The share of the gap of a quantity on a text, where a verdict rests on it."""
    untested = section["verdicts"].get(name, NOT_TESTABLE) == NOT_TESTABLE
    return None if untested else section[f"retained_gap_{name}"]["value"]


def of_all(seeds: Sequence[Row]) -> Row:
    """The row over all seeds."""
    differences = [row["difference"] for row in seeds]
    means = {field: round(mean([row[field] for row in seeds]), DIGITS) for field in SHARES}
    return seeds[0] | means | {
        "seed": "all", "seeds": len(seeds), "least": min(differences), "most": max(differences),
    }  # fmt: skip
