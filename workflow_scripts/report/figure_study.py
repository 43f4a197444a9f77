"""What every figure is drawn from, and what is written under it."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure.tables import Row, read_table
from report.figure_style import FAINT, caption, new_figure


@dataclass(frozen=True)
class FigureData:
    """What a figure is drawn from: the folder of tables, the study's name, the source persona and the label.

    The others: what the cells mean, see graph/resolved.py; before and limits for the figure `retention` alone.
    """

    tables: Path
    name: str
    source: str
    label: str
    arms: Sequence[str]
    captions: Mapping[str, str]
    last_stages: Mapping[str, str]
    before: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)

    def rows(self, table: str) -> list[Row]:
        """The rows of a table that are of the source."""
        return [row for row in read_table(self.tables / f"{table}.csv") if row["source"] == self.source]

    def drawn(self, table: str) -> list[Row]:
        """The rows of a table for the cells that the figure draws."""
        return [row for row in self.rows(table) if row["arm"] in self.arms]


def labelled(label: str, sentences: Sequence[str]) -> list[str]:
    """A caption's lines, the label first."""
    text = " ".join(filter(None, sentences))
    return [*([f"{label[0].upper()}{label[1:]}."] if label else []), *textwrap.wrap(text, 140)]


def footnote(study: FigureData, sentences: Sequence[str]) -> list[str]:
    """The caption's lines of a figure of the study."""
    return labelled(study.label, sentences)


def ordered_cells(rows: Sequence[Row]) -> list[str]:
    """The cells in the order of the study."""
    return list(dict.fromkeys(row["cell"] for row in rows))


def empty_figure(study: FigureData, title: str, why: str = "") -> Any:
    """A figure that says why it shows nothing."""
    why = why or f"No cell of the {' or '.join(study.arms)} arm for the source {study.source} in this study."
    figure, axes = new_figure(1.6)
    axes[0][0].axis("off")
    axes[0][0].set_title(title)
    why = textwrap.fill(why, 120)
    axes[0][0].text(0, 0.5, why, va="center", transform=axes[0][0].transAxes, color=FAINT)
    caption(figure, footnote(study, [f"Study {study.name}."]))
    return figure
