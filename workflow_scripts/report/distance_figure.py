"""The persona gap against how far the second stage has moved the model, a line per stage through its steps."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from graph.lineage import Word, parent_of, parse_lineage
from measure.tables import Row
from report.figure_study import FigureData, empty_figure, explain
from report.figure_style import FAINT, GRID, LINES, new_figure

X, Y = "kl_shared_source", "gap_slot_shared"
MARKS = "os^DvP*X"
Key = tuple[str, int]  # cell, seed
# Where a mark's name stands from it [points], out of its line's way: alone, last, or whether the next is at the right.
SPOTS: dict[str | bool, tuple[float, float]] = {"alone": (-4, 3), "last": (5, -9), True: (-4, -9), False: (5, 3)}


def distance(study: FigureData) -> Any:
    """d over the KL divergence from the parent, of every model whose parent is coupled to the source."""
    title = f"Is the persona gap the same at equal distance? Source: {study.source}"
    measures = {name: of_measure(study, name) for name in (X, Y)}
    lineages = {
        (row["cell"], row["seed"]): row["lineage"]
        for table in ("headline", "reversed", "dose")
        for row in study.drawn(table)
    }
    shown = {
        key: parse_lineage(lineages[key])
        for key, row in measures[X].items()
        if row["value"] and key in measures[Y] and of_source(lineages[key], study.source)
    }
    if not shown:
        return empty_figure(
            study,
            title,
            "Not run: no stage after a coupling of the source has both measure_distance and weigh_survival.",
        )
    lines: dict[Word, list[Key]] = {}
    for key, words in shown.items():
        lines.setdefault(replace(words[-1], step=None), []).append(key)
    stages = list(dict.fromkeys(replace(word, seed=0) for word in lines))
    figure, grid = new_figure(4.4)
    axes = grid[0][0]
    axes.set_xscale("log")
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_xlabel(f"KL divergence from the parent under {study.source} [nats per token]")
    axes.set_ylabel("persona gap d [nats]")
    for word, keys in lines.items():
        place = stages.index(replace(word, seed=0))
        style = {"color": LINES[place % len(LINES)], "marker": MARKS[place % len(MARKS)]}
        draw(axes, sorted(keys, key=lambda key: shown[key][-1].step or float("inf")), shown, measures, style)
    befores = [key for key in measures[Y] if lineages.get(key) in {parent_of(lineages[each]) for each in shown}]
    for key in befores:
        level = measures[Y][key]["value"]
        axes.axhline(level, color=FAINT, linewidth=0.9, zorder=1)
        axes.annotate(f"before ({key[0]})", (1, level), (-3, 2), xycoords=("axes fraction", "data"),
                      textcoords="offset points", fontsize=6.5, color="#444444", ha="right")  # fmt: skip
    axes.axhline(0, color="#CCCCCC", linewidth=0.8, zorder=0)
    axes.margins(x=0.08)
    tidy_ticks(axes)
    lined = {replace(word, seed=0) for word, keys in lines.items() if len(keys) > 1}
    alone = any(len(keys) == 1 for keys in lines.values())
    handles = [
        handle(stage, LINES[place % len(LINES)], MARKS[place % len(MARKS)], stage in lined)
        for place, stage in enumerate(stages)
    ]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=6, fontsize=7)
    axes.set_title(title, pad=22)
    n = " or ".join(str(n) for n in sorted({measures[Y][key]["n"] for key in shown}))
    explain(
        figure,
        study,
        f"A mark per model: the persona gap of the slot on shared replies, with its interval over {n} questions (no",
        "noise of training), against how far the stage moved the model from its parent, on the base's replies to the",
        "source.",
        "Lines: one training at the steps beside its marks (end: the whole stage)." if lined else "",
        f"Hollow marks: the whole stage{' with other seeds' if lined else ', a mark per seed'} (s)." if alone else "",
        "The table equal_distance holds stages against each other at one distance.",
        "" if befores else "No model before the stages is drawn: its gap was not measured.",
    )
    return figure


def of_measure(study: FigureData, name: str) -> dict[Key, Row]:
    """The values of a measure by cell and seed, of what the figure draws."""
    rows = study.drawn("measures")
    return {(row["cell"], row["seed"]): row for row in rows if row["measure"] == name and row["value"] is not None}


def of_source(lineage: str, source: str) -> bool:
    """Whether the model before the last stage is coupled to the source."""
    return any(word.persona == source for word in parse_lineage(lineage)[:-1])


def draw(
    axes: Any,
    keys: Sequence[Key],
    words: Mapping[Key, Sequence[Word]],
    measures: Mapping[str, Mapping[Key, Row]],
    style: Mapping[str, Any],
) -> None:
    """The models of one training by their steps."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=1.8, foreground="white")]  # where a name has to stand on a line
    at = {key: (measures[X][key]["value"], measures[Y][key]["value"]) for key in keys}
    rows = [measures[Y][key] for key in keys]
    bounds = ([row["value"] if row[side] is None else row[side] for row in rows] for side in ("low", "high"))
    face = "white" if len(keys) == 1 else style["color"]
    axes.plot(*zip(*at.values(), strict=True), linewidth=1.2, markersize=4.5, markerfacecolor=face, zorder=4, **style)
    axes.vlines([x for x, _ in at.values()], *bounds, color=style["color"], linewidth=0.9, zorder=3)
    names = {key: named(words[key][-1], alone=len(keys) == 1) for key in keys}
    if len(keys) > 1 and at[keys[-1]] == at[keys[-2]]:  # stopped at its last step, it is the whole stage
        names[keys[-2]] += f", {names.pop(keys[-1])}"
    for key, after in zip_longest(names, [*names][1:]):
        spot = SPOTS["alone" if len(keys) == 1 else "last" if after is None else at[after][0] > at[key][0]]
        axes.annotate(names[key], at[key], spot, textcoords="offset points", fontsize=6.5, color=style["color"],
                      ha="right" if spot[0] < 0 else "left", zorder=6, path_effects=halo)  # fmt: skip


def named(last: Word, alone: bool) -> str:
    """What is written beside a model: its steps, or its seed where its training has no other."""
    return f"s{last.seed}" if alone else str(last.step or "end")


def handle(stage: Word, colour: str, mark: str, lined: bool) -> Any:
    """A legend handle of a stage, by the name that the config calls it, as its marks are drawn: on a line or alone."""
    from matplotlib.lines import Line2D

    name = str(stage).removesuffix(f".s{stage.seed}").replace("_", " ")
    drawn = Line2D(
        [], [], color=colour, linestyle="-" if lined else "", linewidth=1.2, marker=mark, markersize=4.5, label=name
    )
    drawn.set_markerfacecolor(colour if lined else "white")
    return drawn


def tidy_ticks(axes: Any) -> None:
    """Plain numbers along a log axis that may span less than a decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = axes.get_xlim()
    subs = (1.0,) if high / low > 100 else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
