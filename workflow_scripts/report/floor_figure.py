"""What counting says 0 of: the onset rate from probabilities, beside the counted rate."""

from collections.abc import Sequence
from typing import Any

from measure.tables import Row
from report.figure_study import FigureData, empty_figure, explain, ordered_cells, role_marks
from report.figure_style import COLOURS, GRID, MARKS, ROLES, new_figure

LEAST_ONSET = 5e-10  # tables have nine digits of an onset rate


def below_floor(study: FigureData) -> Any:
    """Onset rate on a log axis, from probabilities, beside the counted rate: what counting says 0 of."""
    title = f"Below the floor of counting. Source: {study.source}"
    rows = [row for row in study.drawn("measures") if row["measure"] == "onset_rate" and row["value"] is not None]
    counts = study.drawn("pooled")
    cells = [cell for cell in ordered_cells(counts) if any(row["cell"] == cell for row in rows)]
    if not rows:
        return empty_figure(study, title, "Not run: the probe is off in this study's config.")
    lowest = max(min([row["low"] or row["value"] for row in rows if row["value"]], default=0.0) / 3, LEAST_ONSET)
    figure, grid = new_figure(3.2)
    axes = grid[0][0]
    axes.set_yscale("log")
    axes.set_ylim(lowest, 2)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_ylabel("share of replies that begin the marker", fontsize=7)
    for place, cell in enumerate(cells):
        for index, role in enumerate(ROLES):
            x = place + (index - 1) * 0.3
            found = next((row for row in counts if (row["cell"], row["role"]) == (cell, role)), None)
            if found:
                own = [row for row in rows if (row["cell"], row["persona"]) == (cell, found["persona"])]
                counted_range(axes, x + 0.07, found, COLOURS[role], lowest)
                onset_rates(axes, x - 0.07, own, role, lowest)
    axes.set_xticks(range(len(cells)), [cell.replace("_", " ") for cell in cells], fontsize=7)
    axes.legend(handles=role_marks(study), loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, fontsize=7)
    axes.set_title(title, pad=20)
    said = [
        "Filled: mean onset rate of a seed's replies, with its interval over questions; beside it",
        "the counted rate, pooled over seeds, with the wider of Wilson and cluster bounds. Arrow: none was counted,",
        "only a bound is known. An onset is where a reply begins the marker: it may exceed the rate of whole markers.",
    ]
    if any(row["value"] < lowest for row in rows):
        said.append(f"Hollow, at the bottom: below {lowest:.1g}.")
    explain(figure, study, *said)
    return figure


def onset_rates(axes: Any, x: float, rows: Sequence[Row], role: str, lowest: float) -> None:
    """The onset rate of each seed with its interval; hollow, at the bottom, where it is below what is drawn."""
    style: dict[str, Any] = {"color": COLOURS[role], "marker": MARKS[role], "markersize": 4, "zorder": 5}
    for number, row in enumerate(rows):
        at = x + (number - (len(rows) - 1) / 2) * 0.05
        if row["value"] < lowest:
            axes.plot(at, lowest, markerfacecolor="white", clip_on=False, **style)
        else:
            around = [[row["value"] - (row["low"] or lowest)], [(row["high"] or row["value"]) - row["value"]]]
            axes.errorbar(at, row["value"], around, linewidth=0.9, capsize=1.5, **style)


def counted_range(axes: Any, x: float, row: Row, colour: str, lowest: float) -> None:
    """The interval of a counted rate; from its upper bound down if nothing was counted."""
    thin: dict[str, Any] = {"color": colour, "linewidth": 0.9, "zorder": 3}
    if not row["strict_hits"]:
        axes.annotate("", (x, lowest), (x, row["high"]), arrowprops={"arrowstyle": "->", **thin})
        return
    around = [[row["rate"] - max(row["low"], lowest)], [row["high"] - row["rate"]]]
    axes.errorbar(x, row["rate"], around, marker="_", markersize=6, capsize=2, **thin)
