"""What every figure is drawn from, and what is written under it."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from measure.tables import Row, read_table
from report.figure_style import COLOURS, FAINT, MARKS, NAMES, ROLES, caption, new_figure


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


def explain(figure: Any, study: FigureData, *sentences: str) -> None:
    """Write under the figure what it shows, the study first."""
    caption(figure, labelled(study.label, [f"Study {study.name}.", *sentences]))


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
    explain(figure, study)
    return figure


def strips_of(rows: Sequence[Row], last_stages: Mapping[str, str], longest: int = 5) -> list[list[str]]:
    """The cells in strips of at most five: an arm's together, of the reversed arm those with the same last stage.

    More than five groups of three labelled bars would not fit the width of a page. An arm with more of them goes on in
    a new strip where its cells begin again, as a second coupling's do with the state before its stages; cells that are
    all of one kind are shared out evenly.
    """
    kinds: dict[tuple[str, str], list[str]] = {}
    arm_of = {row["cell"]: row["arm"] for row in rows}
    for cell in ordered_cells(rows):
        last = last_stages.get(cell, "") if arm_of[cell] == "reversed" else ""
        kinds.setdefault((arm_of[cell], last), []).append(cell)
    strips: list[list[str]] = []
    for cells in kinds.values():
        begins = [at for at, cell in enumerate(cells) if not at or last_stages.get(cell) == last_stages.get(cells[0])]
        even = math.ceil(len(cells) / math.ceil(len(cells) / longest))
        room = even if len(begins) == len(cells) else longest
        strips.append([])
        for start, end in pairwise([*begins, len(cells)]):
            if strips[-1] and len(strips[-1]) + end - start > room:
                strips.append([])
            strips[-1] += cells[start:end]
            while len(strips[-1]) > room:
                strips.append(strips[-1][room:])
                del strips[-2][room:]
    return strips


def grouped(rows: Sequence[Row], *fields: str) -> dict[tuple[Any, ...], list[Row]]:
    """The rows by these fields, in order of first occurrence."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[field] for field in fields), []).append(row)
    return groups


def role_names(study: FigureData, **others: str) -> dict[str, str]:
    """What the roles are called in a legend. others: role -> its name where it is another."""
    return NAMES | {"source": f"source ({study.source})"} | others


def role_marks(study: FigureData, **others: str) -> list[Any]:
    """Legend handles for the roles by colour and shape. others: as above."""
    from matplotlib.lines import Line2D

    names = role_names(study, **others)
    return [
        Line2D([], [], linestyle="", marker=MARKS[role], markersize=4, color=COLOURS[role], label=names[role])
        for role in ROLES
    ]
