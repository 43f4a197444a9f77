"""Figures of marker rates by cell, as bars: the source, the highest bystander and the assistant."""

from collections.abc import Sequence
from typing import Any

from measure.tables import Row, percent
from report.figure_study import FigureData, empty_figure, explain, ordered_cells, role_names, strips_of
from report.figure_style import COLOURS, FAINT, HATCHES, INK, ROLES, new_figure, rate_axis

BAR = 0.27  # of the place of a cell


def marker_destruction(study: FigureData) -> Any:
    """The hero figure: marker rate by cell for the source, the highest bystander and the assistant."""
    return bar_figure(study, f"Does the marker survive the second stage? Source: {study.source}", "")


def reversed_order(study: FigureData) -> Any:
    """The same bars for the cells whose other stage came before the coupling."""
    note = "The reversed rows changed the recipe along with the order; matched rows use the forward coupling recipe."
    return bar_figure(study, f"Coupling last: other stages first. Source: {study.source}", note)


def bar_figure(study: FigureData, title: str, note: str) -> Any:
    """A figure of grouped bars, in strips of cells that belong together."""
    pooled = study.drawn("pooled")
    if not pooled:
        return empty_figure(study, title)
    per_seed = study.drawn("persona_by_cell")
    groups = {cell: by_role([row for row in pooled if row["cell"] == cell]) for cell in ordered_cells(pooled)}
    dots = {
        cell: [seed_rates(per_seed, cell, entry["persona"]) if entry else [] for entry in group]
        for cell, group in groups.items()
    }
    strips = strips_of(pooled, study.last_stages)
    figure, grid = new_figure(1.4 + (2.3 if len(strips) == 1 else 1.75 * len(strips)), rows=len(strips), sharey=True)
    for axes, strip in zip(grid[:, 0], strips, strict=True):
        rate_axis(axes, 1.14)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        rate_bars(axes, [groups[cell] for cell in strip], [dots[cell] for cell in strip])
        axes.set_xlim(-0.5, max(len(cells) for cells in strips) - 0.5)
        axes.set_xticks(range(len(strip)), [f"{cell}\n{study.captions.get(cell, '')}" for cell in strip])
        axes.tick_params(axis="x", length=0)
    figure.supylabel("completions with the marker", fontsize=8)
    role_legend(grid[0][0], study, any(len(rates) > 1 for cell in dots.values() for rates in cell))
    grid[0][0].set_title(title, pad=22)
    explain(
        figure,
        study,
        "Bars: strict hits / completions, pooled over seeds; lines: Wilson 95% intervals.",
        note,
        f"Completions per bar: {completions_text(pooled)}.",
        bystanders_text(groups),
    )
    return figure


def by_role(rows: Sequence[Row]) -> list[Row | None]:
    """The rows of one cell in the order of ROLES, None for a role that is missing."""
    named = {row["role"]: row for row in rows}
    return [named.get(role) for role in ROLES]


def seed_rates(rows: Sequence[Row], cell: str, persona: str) -> list[float]:
    """The rates of one persona in one cell, seed by seed."""
    return [row["rate"] for row in rows if row["cell"] == cell and row["persona"] == persona]


def rate_bars(axes: Any, groups: Sequence[Sequence[Row | None]], dots: Sequence[Sequence[Sequence[float]]]) -> None:
    """Grouped bars, one group a cell and one bar a role in the order of ROLES, with Wilson intervals and values.

    groups: pooled rows (rate, wilson_low, wilson_high, strict_hits, completions) or None. dots: the rates of the seeds.
    """
    for position, (group, rates) in enumerate(zip(groups, dots, strict=True)):
        for index, (role, row) in enumerate(zip(ROLES, group, strict=True)):
            x = position + (index - 1) * BAR
            if row is None:
                label(axes, "not\nevaluated", (x, 0), 3, fontsize=5.4, color=FAINT)
            else:
                rate_bar(axes, x, role, row, rates[index])


def rate_bar(axes: Any, x: float, role: str, row: Row, rates: Sequence[float]) -> None:
    """One bar, labelled with its own rate and count; one of height zero, too, which gets a line to be seen by."""
    axes.bar(x, row["rate"], BAR * 0.88, color=COLOURS[role], hatch=HATCHES[role], linewidth=0, zorder=2)
    if row["rate"] == 0:
        line: dict[str, Any] = {"color": COLOURS[role], "linewidth": 1.6, "zorder": 4, "solid_capstyle": "butt"}
        axes.plot([x - BAR * 0.44, x + BAR * 0.44], [0, 0], **line)
    bounds = [[row["rate"] - row["wilson_low"]], [row["wilson_high"] - row["rate"]]]
    axes.errorbar(x, row["rate"], bounds, color=INK, linewidth=0.9, capsize=2, zorder=5)
    if len(rates) > 1:
        spread = [x + (n - (len(rates) - 1) / 2) * BAR * 0.24 for n in range(len(rates))]
        axes.scatter(spread, rates, s=8, facecolor="white", edgecolor=INK, linewidth=0.6, zorder=6)
    top = max([row["wilson_high"], *rates])
    label(axes, percent(row["rate"]), (x, top), 8.5, fontsize=6.6, fontweight="bold")
    label(axes, f"{row['strict_hits']}/{row['completions']}", (x, top), 3, fontsize=5.4, color="#444444")


def label(axes: Any, text: str, place: tuple[float, float], points: float, **style: Any) -> None:
    """Text centred this many points above a place."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.3}
    axes.annotate(
        text, place, (0, points), textcoords="offset points", ha="center", va="bottom", zorder=7, bbox=box, **style
    )


def role_legend(axes: Any, study: FigureData, seeds: bool) -> None:
    """The three roles in the order of the bars, and the dots if there are any."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = role_names(study)
    handles: list[Any] = [
        Patch(facecolor=COLOURS[role], hatch=HATCHES[role], linewidth=0, label=names[role]) for role in ROLES
    ]
    if seeds:
        dot: dict[str, Any] = {"markersize": 3, "markerfacecolor": "white", "markeredgecolor": INK}
        handles.append(Line2D([], [], linestyle="", marker="o", label="one seed", markeredgewidth=0.6, **dot))
    spacing = {"borderaxespad": 0.2, "handlelength": 1.4, "columnspacing": 1.6}
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, **spacing)


def bystanders_text(groups: dict[str, list[Row | None]]) -> str:
    """Which bystander is the highest where one gave the marker."""
    highest = {cell: group[ROLES.index("bystander")] for cell, group in groups.items()}
    named = [f"{cell} {row['persona']}" for cell, row in highest.items() if row and row["strict_hits"]]
    if not named:
        return "No bystander gave the marker." if any(highest.values()) else "Bystanders were not evaluated."
    rest = "" if len(named) == len(groups) else "; elsewhere no bystander gave the marker"
    return f"Highest bystander: {', '.join(named)}{rest}."


def completions_text(pooled: Sequence[Row]) -> str:
    """'n = 840 (C1, C2); n = 280 (C4)', or 'n = 280' where all are alike."""
    by_n: dict[int, list[str]] = {}
    for row in pooled:
        cells = by_n.setdefault(row["completions"], [])
        if row["cell"] not in cells:
            cells.append(row["cell"])
    if len(by_n) == 1:
        return f"n\u00a0=\u00a0{next(iter(by_n))}"
    return "; ".join(
        f"n\u00a0=\u00a0{n}\u00a0({', '.join(sorted(cells))})" for n, cells in sorted(by_n.items(), reverse=True)
    )
