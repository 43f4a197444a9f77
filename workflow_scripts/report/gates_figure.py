"""The gates, with what decided them."""

import textwrap
from collections.abc import Sequence
from typing import Any

from measure.tables import Row
from report.figure_study import FigureData, empty_figure, explain
from report.figure_style import GRID, OUTCOMES, TEXT_ON, new_figure, rectangle

NAME = 12  # characters of a gate's name in a line, beside its seed


def gates_figure(study: FigureData) -> Any:
    """Every gate with its outcome and the numbers that decided it."""
    rows = study.rows("gates")
    if not rows:
        return empty_figure(study, "Gates and criteria", "No gate is given in this study's config.")
    names = [textwrap.wrap(str(row["gate"]).replace("_", " "), NAME) for row in rows]
    texts = [textwrap.wrap(str(row["numbers"] or ""), 92) or [""] for row in rows]
    heights = [max(len(name), len(lines)) + 0.7 for name, lines in zip(names, texts, strict=True)]
    figure, grid = new_figure(0.75 + 0.125 * sum(heights))
    axes = grid[0][0]
    y = 0.0
    for row, name, lines, height in zip(rows, names, texts, heights, strict=True):
        gate_row(axes, y, height, row, name, lines)
        y += height
    axes.set_xlim(0, 1)
    axes.set_ylim(y, 0)
    axes.axis("off")
    axes.set_title(f"Gates and criteria. Source: {study.source}")
    explain(figure, study, "Evaluated, not applied. A gate whose numbers were not measured is never passed.")
    return figure


def gate_row(axes: Any, top: float, height: float, row: Row, name: Sequence[str], lines: Sequence[str]) -> None:
    """A gate's name, its seed, its outcome in a box, and the numbers; name and numbers in lines."""
    middle = top + height / 2
    axes.add_patch(rectangle(0.2, top + 0.12, 0.115, height - 0.24, OUTCOMES[row["outcome"]]))
    reading: dict[str, Any] = {"fontsize": 7, "fontweight": "bold", "color": TEXT_ON[row["outcome"]]}
    axes.text(0.2575, middle, row["reading"], ha="center", va="center", **reading)
    axes.text(0, middle, "\n".join(name), va="center", fontweight="bold", fontsize=8, linespacing=1.0)
    seed = "all seeds" if row["seed"] == "pooled" else f"seed {row['seed']}"
    axes.text(0.19, middle, seed, va="center", ha="right", fontsize=6.5, color="#444444")
    axes.text(0.33, middle, "\n".join(lines), va="center", fontsize=6.5, linespacing=1.25)
    axes.axhline(top + height, color=GRID, linewidth=0.6)
