"""Where a second stage does what it does: a model of two stages without parts of the second, or with these alone.

A model is base + alpha x first + beta x second, where the second may be left out of some of its tensors. The drop is
s(before) - s(cell): what the second stage took of the log-odds s (or of the persona gap d), before being (1, 0) and the
cell (1, 1). Of a part of the second stage, a layer say,

    restored  (s(without it) - s(cell)) / (s(before) - s(cell))        1 if all that was taken comes back
    sufficed  (s(before) - s(with it alone)) / (s(before) - s(cell))   1 if it takes as much as the whole

These are undefined where the interval of the drop comes within `minimum` nats of 0; the differences always stand. A
patch (probe.patching) restores, too: of the cell's model with the state of before, or of the base, after a layer.
Intervals are percentiles over resampled questions, the same for all variants.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure.stats import LEVEL
from probe.survival import mean, weights
from run.files import write_table
from run.program import InputError
from run.readers import AGAIN, check_once, read_parquet

if TYPE_CHECKING:
    import numpy as np

QUANTITIES = ("slot", "gap_slot", "trigger", "gap_trigger")  # s, d, and the same of the trigger
# Summary measures: what, and of which quantity.
TAKEN = (
    *((what, of) for of in ("slot", "gap") for what in ("taken", "interaction", "half_beta", "random")),
    ("even_beta", "slot"),
)
MINIMUM = 1.0  # [nats] the least distance of the drop's interval from 0 for shares of it
ABLATION_NOTE = (
    "Log-odds s of the marker under the source, and persona gap d, of the cell's model without a part of its second "
    "stage, and with that part alone. Restored: what comes back of the drop from before to the cell; sufficed: what "
    "the part takes of it alone; empty where the drop is within 1 nat of 0. Random: deltas of its rank and norm in its "
    "place. Patch: with the state of the model before the stage, or of the base, at the slot after a layer. The "
    "strengths of both stages are in ablation.csv (plane)."
)
# kind: plane | layer | module | lowest | highest | random | patch. part: a layer's number, a module's name, how many
# layers, or which random deltas. mode: without the part, or with it alone (only; of random deltas: in place of the
# second stage); of a patch, whose state: before | base.
COLUMNS: dict[str, Any] = {
    "kind": "string",
    "part": "string",
    "mode": "string",
    "alpha": "float64",
    "beta": "float64",
    "role": "string",
    "author": "string",
    "persona": "string",
    "question_id": "string",
    "sample": "int32",
    "slot": "float64",
    "trigger": "float64",
    "onset_part": "float64",
    "spelling": "float64",
    "end": "float64",
}
VARIANT = ("kind", "part", "mode", "alpha", "beta")
TYPES = {"string": str, "int32": int, "float64": float}
# A row a variant and quantity, of a section and of tables/ablation.csv. value: of the quantity [nats]; difference: from
# the cell's (without, patch) or before's (only, random) [nats]; share: restored (without, patch) or sufficed.
RESULT = (*VARIANT, "quantity", "value", "low", "high", "difference", "difference_low", "difference_high", "share",
          "share_low", "share_high", "n")  # fmt: skip


def write_ablation(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows: one a variant, reply and persona."""
    write_table(path, {name: [row[name] for row in rows] for name in COLUMNS}, COLUMNS)


def read_ablation(path: str | Path) -> list[dict[str, Any]]:
    """The rows. Raises InputError if the file is damaged, empty, has a row twice, or lacks the cell or its like."""
    rows = read_parquet(path, {name: TYPES[kind] for name, kind in COLUMNS.items()})
    check_once(path, rows, (*VARIANT, "author", "persona", "question_id", "sample"))
    corners = {(row["alpha"], row["beta"]) for row in rows if row["kind"] == "plane"}
    if not corners >= {(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)}:
        raise InputError(f"{path}: lacks a corner of the plane; fix: {AGAIN}")
    return rows


class Results:
    """Every quantity of every variant by question, and its resamples. rows: as read_ablation gives them."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        import numpy as np

        found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for row in rows:
            found.setdefault(tuple(row[name] for name in VARIANT), []).append(row)
        self.variants = list(found)
        self.source = next(row["persona"] for row in rows if row["role"] == "source")
        self.questions = sorted({row["question_id"] for row in rows})
        draws = weights(len(self.questions)) / len(self.questions)
        self.means: dict[str, np.ndarray] = {}  # quantity -> (variants)
        self.drawn: dict[str, np.ndarray] = {}  # quantity -> (resamples, variants)
        for quantity in QUANTITIES:
            of = [by_question(own, quantity) for own in found.values()]
            values = np.array([[own[question] for question in self.questions] for own in of])
            self.means[quantity], self.drawn[quantity] = values.mean(1), draws @ values.T

    def place(self, alpha: float, beta: float) -> int:
        """The place of a point of the plane among the variants."""
        return self.variants.index(("plane", "", "", alpha, beta))

    def table(self) -> list[dict[str, Any]]:
        """The rows of RESULT."""
        columns = {quantity: self._columns(quantity) for quantity in QUANTITIES}
        return [
            dict(zip(VARIANT, variant, strict=True))
            | {"quantity": quantity, "n": len(self.questions)}
            | {name: rounded(values[place]) for name, values in columns[quantity].items()}
            for place, variant in enumerate(self.variants)
            for quantity in QUANTITIES
        ]

    def _columns(self, quantity: str) -> dict[str, Sequence[float | None]]:
        """Of one quantity, the numbers of all variants: value, difference and share, each with its interval."""
        import numpy as np

        before, cell = self.place(1.0, 0.0), self.place(1.0, 1.0)
        only = np.array([mode == "only" for _, _, mode, _, _ in self.variants])
        value, drawn = self.means[quantity], self.drawn[quantity]
        against = np.where(only, before, cell)
        difference, drawn_difference = value - value[against], drawn - drawn[:, against]
        found = {"value": (value, drawn), "difference": (difference, drawn_difference)}
        if self.dropped(quantity):
            drop, drawn_drop = value[before] - value[cell], divisor(drawn[:, [before]] - drawn[:, [cell]])
            sign = np.where(only, -1.0, 1.0)
            found["share"] = (sign * difference / drop, sign * drawn_difference / drawn_drop)
        columns: dict[str, Sequence[float | None]] = {}
        for name, (own, resampled) in found.items():
            low, high = bounds(resampled)
            columns |= {name: own, low_of(name): low, high_of(name): high}
        nothing = [None] * len(self.variants)
        if "share" not in found:
            columns |= dict.fromkeys(("share", "share_low", "share_high"), nothing)
        no_share = [kind == "plane" for kind, *_ in self.variants]
        for name in ("share", "share_low", "share_high"):
            columns[name] = [None if none else each for each, none in zip(columns[name], no_share, strict=True)]
        return columns

    def dropped(self, quantity: str) -> bool:
        """Whether the interval of before - cell stays more than MINIMUM away from 0, so that shares have a meaning."""
        before, cell = self.place(1.0, 0.0), self.place(1.0, 1.0)
        drawn = self.drawn[quantity]
        low, high = bounds(drawn[:, before] - drawn[:, cell])
        return bool(low > MINIMUM or high < -MINIMUM)

    def combination(self, quantity: str, factors: Mapping[int, float]) -> dict[str, Any]:
        """An estimate of a sum over variants (their places), each times a factor."""
        low, high = bounds(self.drawn[quantity][:, list(factors)] @ list(factors.values()))
        value = self.means[quantity][list(factors)] @ list(factors.values())
        return self._estimate(float(value), float(low), float(high))

    def _estimate(self, value: float | None, low: float | None, high: float | None) -> dict[str, Any]:
        return {"value": rounded(value), "low": rounded(low), "high": rounded(high), "n": len(self.questions)}

    def grid(self) -> list[float]:
        """The values of beta."""
        return sorted({beta for kind, _, _, _, beta in self.variants if kind == "plane"})

    def half(self, quantity: str) -> dict[str, Any]:
        """The beta at which half of the retention is lost, which is (s(1, b) - s(0, b)) / (s(1, 0) - s(0, 0)).

        Undefined where the coupling has added nothing: the interval of what it added does not lie above 0. Without a
        value but with `low`, the largest beta: not lost up to there.
        """
        grid = self.grid()
        with_it, without = ([self.place(alpha, beta) for beta in grid] for alpha in (1.0, 0.0))
        value, drawn = (
            each[..., with_it] - each[..., without] for each in (self.means[quantity], self.drawn[quantity])
        )
        if bounds(drawn[:, 0])[0] <= 0:
            return self._estimate(None, None, None)
        return self._crossing(value / value[0], drawn / divisor(drawn[:, [0]]), 0.5)

    def even(self, quantity: str) -> dict[str, Any]:
        """The beta at which the quantity falls to 0, which for s means: marker and end of turn are equally likely.

        Undefined where it is not above 0 before the second stage; `low` alone as of `half`.
        """
        line = [self.place(1.0, beta) for beta in self.grid()]
        value, drawn = self.means[quantity][line], self.drawn[quantity][:, line]
        return self._estimate(None, None, None) if bounds(drawn[:, 0])[0] <= 0 else self._crossing(value, drawn, 0.0)

    def _crossing(self, value: "np.ndarray", drawn: "np.ndarray", level: float) -> dict[str, Any]:
        """An estimate of where values along the grid first fall below a level; beyond the grid there is no value."""
        import numpy as np

        grid = np.array(self.grid())
        (found,) = crossings(value[None], grid, level)
        low, high = np.quantile(
            crossings(drawn, grid, level), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf"
        )
        known = [float(each) if np.isfinite(each) else None for each in (found, min(low, grid[-1]), high)]
        return self._estimate(*known)


def by_question(rows: Sequence[Mapping[str, Any]], quantity: str) -> dict[str, float]:
    """A quantity of one variant by question: the source's, or the source's minus the mean of the bystanders."""
    value, gap = quantity.removeprefix("gap_"), quantity.startswith("gap_")
    found: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        found.setdefault(row["question_id"], ([], []))[row["role"] != "source"].append(row[value])
    return {question: mean(own) - (mean(others) if gap else 0.0) for question, (own, others) in found.items()}


def crossings(values: "np.ndarray", grid: "np.ndarray", level: float) -> "np.ndarray":
    """(n): where each row of (n, points of the grid) first falls below a level, between two points; inf: nowhere.

    0 where it is below already at the first.
    """
    import numpy as np

    below = values < level
    after = np.argmax(below, axis=1)
    rows = np.arange(len(values))
    before = np.maximum(after - 1, 0)
    high, low = values[rows, before], values[rows, after]
    step = np.where(after > 0, (high - level) / np.where(high > low, high - low, 1.0), 0.0)
    return np.where(below.any(axis=1), grid[before] + step * (grid[after] - grid[before]), np.inf)


def bounds(drawn: "np.ndarray") -> Any:
    """Low and high of resamples (resamples, ...), over the first axis."""
    import numpy as np

    return np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def divisor(drawn: "np.ndarray") -> "np.ndarray":
    """Resamples to divide by: fewer than an interval leaves out are 0."""
    import numpy as np

    return np.where(np.abs(drawn) < 1e-9, 1e-9, drawn)


def low_of(name: str) -> str:
    return "low" if name == "value" else f"{name}_low"


def high_of(name: str) -> str:
    return "high" if name == "value" else f"{name}_high"


def rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The section of a cell's JSON: summary measures, and the rows of RESULT as lists in the order of `columns`.

    taken [nats]: the drop. interaction [nats]: s(1,1) - s(1,0) - s(0,1) + s(0,0), what the second stage takes more of
    the coupled model than of the base. random [nats]: what random deltas of the second adapter's rank and norm take.
    """
    results = Results(rows)
    base, second, before, cell = (results.place(*point) for point in product((0.0, 1.0), (0.0, 1.0)))
    random = [place for place, (kind, *_) in enumerate(results.variants) if kind == "random"]
    section: dict[str, Any] = {"status": "measured", "persona": results.source}
    for name, quantity in (("slot", "slot"), ("gap", "gap_slot")):
        section |= {
            f"taken_{name}": results.combination(quantity, {before: 1.0, cell: -1.0}),
            f"interaction_{name}": results.combination(quantity, {cell: 1.0, before: -1.0, second: -1.0, base: 1.0}),
            f"half_beta_{name}": results.half(quantity),
        }
        if random:
            each = dict.fromkeys(random, -1.0 / len(random))
            section[f"random_{name}"] = results.combination(quantity, {before: 1.0, **each})
    section["even_beta_slot"] = results.even("slot")
    table = results.table()
    return section | {"columns": list(RESULT), "variants": [[row[name] for name in RESULT] for row in table]}
