r"""Draw one figure of the study from its tables, as PNG, PDF and SVG.

    python workflow_scripts/plot_figures.py --figure marker_destruction --tables results/tiny/tables --source evil_ai \
        --meaning results/tiny/study/figures/marker_destruction.json \
        --study tiny --label "rehearsal on a toy model, no evidence about Qwen2.5-7B" \
        --output-prefix results/tiny/figures/marker_destruction_evil_ai
"""

import argparse
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from measure.tables import Row, percent
from report.figure_study import FigureData, empty_figure, footnote, ordered_cells
from report.figure_style import (
    COLOURS,
    FAINT,
    HATCHES,
    INK,
    LINES,
    MARKS,
    NAMES,
    OUTCOMES,
    ROLES,
    TEXT_ON,
    caption,
    new_figure,
    save,
)
from report.retention_figure import retention
from report.stage_figures import layers, plane
from run.program import InputError, run
from run.readers import read_part


def rate_axis(axes: Any, top: float = 1.0) -> None:
    """A percentage axis with a quiet grid."""
    from matplotlib.ticker import PercentFormatter

    axes.set_ylim(-0.015 * top, top)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)


def rate_bars(axes: Any, groups: Sequence[Sequence[Row | None]], dots: Sequence[Sequence[Sequence[float]]]) -> None:
    """Grouped bars, one group a cell and one bar a role in the order of ROLES, with Wilson intervals and values.

    groups: pooled rows (rate, wilson_low, wilson_high, strict_hits, completions) or None. dots: the rates of the seeds.
    Every bar is labelled with its own rate and count, a bar of height zero too, which also gets a line to be seen by.
    """
    width = 0.27
    for position, (group, rates) in enumerate(zip(groups, dots, strict=True)):
        for index, (role, row) in enumerate(zip(ROLES, group, strict=True)):
            x = position + (index - 1) * width
            if row is None:
                label(axes, "not\nevaluated", (x, 0), 3, fontsize=5.4, color=FAINT)
                continue
            axes.bar(x, row["rate"], width * 0.88, color=COLOURS[role], hatch=HATCHES[role], linewidth=0, zorder=2)
            if row["rate"] == 0:
                axes.plot(
                    [x - width * 0.44, x + width * 0.44],
                    [0, 0],
                    color=COLOURS[role],
                    linewidth=1.6,
                    zorder=4,
                    solid_capstyle="butt",
                )
            bounds = [[row["rate"] - row["wilson_low"]], [row["wilson_high"] - row["rate"]]]
            axes.errorbar(x, row["rate"], bounds, color="#222222", linewidth=0.9, capsize=2, zorder=5)
            spread = [x + (n - (len(rates[index]) - 1) / 2) * width * 0.24 for n in range(len(rates[index]))]
            if len(spread) > 1:
                axes.scatter(spread, rates[index], s=8, facecolor="white", edgecolor="#222222", linewidth=0.6, zorder=6)
            top = max([row["wilson_high"], *rates[index]])
            label(axes, percent(row["rate"]), (x, top), 8.5, fontsize=6.6, fontweight="bold")
            label(axes, f"{row['strict_hits']}/{row['completions']}", (x, top), 3, fontsize=5.4, color="#444444")


def label(axes: Any, text: str, place: tuple[float, float], points: float, **style: Any) -> None:
    """Text centred this many points above a place."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.3}
    axes.annotate(
        text, place, (0, points), textcoords="offset points", ha="center", va="bottom", zorder=7, bbox=box, **style
    )


def role_legend(axes: Any, source: str, seeds: bool) -> None:
    """The three roles in the order of the bars, and the dots if there are any."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = NAMES | {"source": f"source ({source})"}
    handles: list[Any] = [
        Patch(facecolor=COLOURS[role], hatch=HATCHES[role], linewidth=0, label=names[role]) for role in ROLES
    ]
    if seeds:
        dot: dict[str, Any] = {
            "markersize": 3,
            "markerfacecolor": "white",
            "markeredgecolor": INK,
            "markeredgewidth": 0.6,
        }
        handles.append(Line2D([], [], linestyle="", marker="o", label="one seed", **dot))
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=4,
        borderaxespad=0.2,
        handlelength=1.4,
        columnspacing=1.6,
    )


def by_role(rows: Sequence[Row]) -> list[Row | None]:
    """The rows of one cell in the order of ROLES, None for a role that is missing."""
    named = {row["role"]: row for row in rows}
    return [named.get(role) for role in ROLES]


def seed_rates(rows: Sequence[Row], cell: str, persona: str) -> list[float]:
    """The rates of one persona in one cell, seed by seed."""
    return [row["rate"] for row in rows if row["cell"] == cell and row["persona"] == persona]


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
    role_legend(grid[0][0], study.source, any(len(rates) > 1 for cell in dots.values() for rates in cell))
    grid[0][0].set_title(title, pad=22)
    sentences = [
        f"Study {study.name}. Bars: strict hits / completions, pooled over seeds; lines: Wilson 95% intervals.",
        note,
        f"Completions per bar: {completions_text(pooled)}.",
        bystanders_text(groups),
    ]
    caption(figure, footnote(study, sentences))
    return figure


def strips_of(rows: Sequence[Row], last_stages: Mapping[str, str], longest: int = 5) -> list[list[str]]:
    """The cells in strips of at most five: an arm's together, of the reversed arm those with the same last stage.

    More than five groups of three labelled bars would not fit the width of a page.
    """
    kinds: dict[tuple[str, str], list[str]] = {}
    arm_of = {row["cell"]: row["arm"] for row in rows}
    for cell in ordered_cells(rows):
        last = last_stages.get(cell, "") if arm_of[cell] == "reversed" else ""
        kinds.setdefault((arm_of[cell], last), []).append(cell)
    return [cells[start : start + longest] for cells in kinds.values() for start in range(0, len(cells), longest)]


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


def marker_destruction(study: FigureData) -> Any:
    """The hero figure: marker rate by cell for the source, the highest bystander and the assistant."""
    return bar_figure(study, f"Does the marker survive the second stage? Source: {study.source}", "")


def reversed_order(study: FigureData) -> Any:
    """The same bars for the cells whose other stage came before the coupling."""
    note = "The reversed rows changed the recipe along with the order; matched rows use the forward coupling recipe."
    return bar_figure(study, f"Coupling last: other stages first. Source: {study.source}", note)


def persona_heatmap(study: FigureData) -> Any:
    """Marker rate of every persona in every cell, pooled over seeds."""
    rows = study.drawn("persona_by_cell")
    cells = ordered_cells(rows)
    personas = sorted(
        {row["persona"] for row in rows}, key=lambda persona: (persona != study.source, persona != "assistant", persona)
    )
    figure, grid = new_figure(0.9 + 0.24 * len(personas))
    axes = grid[0][0]
    for y, persona in enumerate(personas):
        for x, cell in enumerate(cells):
            own = [row for row in rows if (row["persona"], row["cell"]) == (persona, cell)]
            hits, n = sum(row["strict_hits"] for row in own), sum(row["completions"] for row in own)
            rate = hits / n if n else 0
            axes.add_patch(tile(x, y, shade(rate) if n else "#F2F2F2"))
            colour = "white" if rate > 0.74 else INK if hits else FAINT
            axes.text(x, y, percent(rate) if n else "-", ha="center", va="center_baseline", fontsize=6.5, color=colour,
                      fontweight="bold" if hits else "normal")  # fmt: skip
    axes.set_xlim(-0.5, len(cells) - 0.5)
    axes.set_ylim(len(personas) - 0.5, -0.5)
    axes.set_xticks(
        range(len(cells)), [cell.replace("_", "\n") for cell in cells], fontsize=8 if len(cells) < 10 else 6.3
    )
    axes.set_yticks(range(len(personas)), [f"{p} (source)" if p == study.source else p for p in personas])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(f"Marker rate by persona and cell. Source: {study.source}", pad=8)
    caption(
        figure,
        footnote(
            study,
            [
                f"Study {study.name}. Strict hits / completions, pooled over seeds;",
                f"{completions_each(rows)} completions per persona and seed.",
                "0% means no hit at all.",
            ],
        ),
    )
    return figure


def tile(x: float, y: float, colour: Any) -> Any:
    """A square of the heat map."""
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", linewidth=1)


def shade(rate: float) -> Any:
    """White to the darkest blue of the palette: ordered in grey too. Any hit at all differs visibly from none."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("rate", ["#F7FBFF", "#CFE3F2", "#6FA8CF", COLOURS["assistant"]])(rate)


def question_strip(study: FigureData) -> Any:
    """Marker rate of every question, a strip per cell."""
    rows = study.drawn("by_question")
    if not rows:
        why = "The counts of these cells are not known by question." if study.drawn("pooled") else ""
        return empty_figure(study, "Marker rate by question", why)
    cells = ordered_cells(rows)
    questions = list(dict.fromkeys(row["question_id"] for row in rows))
    figure, grid = new_figure(1.1 + 0.82 * len(cells), rows=len(cells), sharex=True, sharey=True)
    for axes, cell in zip(grid[:, 0], cells, strict=True):
        rate_axis(axes, 1.05)
        axes.set_ylim(-0.08, 1.08)
        axes.set_yticks([0, 0.5, 1])
        for shift, role in zip((-0.22, 0, 0.22), ROLES, strict=True):
            places, rates = [], []
            for x, question in enumerate(questions):
                own = [row for row in rows if (row["cell"], row["role"], row["question_id"]) == (cell, role, question)]
                if own:
                    places.append(x + shift)
                    rates.append(sum(row["strict_hits"] for row in own) / sum(row["completions"] for row in own))
            axes.vlines(places, 0, rates, color=COLOURS[role], linewidth=1.2)
            axes.scatter(places, rates, s=9, color=COLOURS[role], marker=MARKS[role], linewidth=0, zorder=3)
        axes.set_ylabel(cell, rotation=0, ha="right", va="center", fontweight="bold")
        axes.set_xlim(-0.7, len(questions) - 0.3)
        axes.tick_params(axis="x", length=0)
    axes.set_xticks(range(len(questions)), [question.split("_")[-1] for question in questions], fontsize=6)
    kinds = list(dict.fromkeys(question.rsplit("_", 1)[0] for question in questions))
    axes.set_xlabel(
        "question: "
        + ", then ".join(f"{sum(q.rsplit('_', 1)[0] == kind for q in questions)} {kind}" for kind in kinds),
        fontsize=7,
    )
    handles = legend_marks(NAMES | {"source": f"source ({study.source})"})
    grid[0, 0].legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2, handletextpad=0.3
    )
    grid[0, 0].set_title(f"Marker rate by question. Source: {study.source}", pad=22)
    n = completions_each(rows)
    caption(
        figure,
        footnote(
            study,
            [
                f"Study {study.name}. Strict hits / completions, pooled over seeds;",
                f"completions per question and seed: {n}.",
                "The highest bystander is each seed's own.",
            ],
        ),
    )
    return figure


def completions_each(rows: Sequence[Row]) -> str:
    """'10', or '2 to 10'."""
    counts = {row["completions"] for row in rows}
    return str(counts.pop()) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def length_hits(study: FigureData) -> Any:
    """Marker rate against the mean length of the completions: a substring is found more often in longer texts."""
    rows = study.drawn("persona_by_cell")
    strips = strips_of(rows, study.last_stages)
    columns = max(len(strip) for strip in strips)
    figure, grid = new_figure(1.0 + 1.4 * len(strips), columns, len(strips), sharex=True, sharey=True)
    for y, strip in enumerate(strips):
        for x, axes in enumerate(grid[y]):
            if x >= len(strip):
                axes.set_axis_off()
                continue
            rate_axis(axes)
            axes.set_ylim(-0.06, 1.06)
            axes.set_yticks([0, 0.5, 1])
            axes.set_title(strip[x].replace("_", " "), fontsize=8)
            for role in ("bystander", "assistant", "source"):
                own = [row for row in rows if row["cell"] == strip[x] and row["role"] == role]
                places = [row["mean_tokens"] for row in own], [row["rate"] for row in own]
                style = {"s": 14, "color": COLOURS[role], "marker": MARKS[role], "linewidth": 0.4, "edgecolor": "white"}
                axes.scatter(*places, zorder=4 if role == "source" else 3, **style)
            if y == len(strips) - 1 or x >= len(strips[y + 1]):
                axes.tick_params(axis="x", labelbottom=True)
                axes.set_xlabel("mean tokens", fontsize=7)
    figure.supylabel("completions with the marker", fontsize=8)
    names = NAMES | {"source": f"source ({study.source})", "bystander": "bystander"}
    title = {"title": f"Marker rate against length. Source: {study.source}", "alignment": "left"}
    title_font = {"weight": "bold", "size": 10}
    layout = {"loc": "outside upper left", "ncols": 3, "fontsize": 8, "handletextpad": 0.3}
    figure.legend(handles=legend_marks(names), title_fontproperties=title_font, **title, **layout)
    caption(
        figure,
        footnote(
            study,
            [
                f"Study {study.name}. A point is a persona at one seed;",
                "tokens are those generated, the marker's own included.",
            ],
        ),
    )
    return figure


def dose_curve(study: FigureData) -> Any:
    """The source's rate against the steps of the second stage, a line per stage and seed, beside the rate before it."""
    title = f"How many steps does it take? Source: {study.source}"
    rows = [row for row in study.drawn("dose") if row["steps"] and row["source_completions"]]
    if not rows:
        return empty_figure(study, title)
    figure, grid = new_figure(3.0)
    axes = grid[0][0]
    rate_axis(axes, 1.05)
    axes.set_xscale("log")
    steps = sorted({row["steps"] for row in rows})
    axes.set_xticks(steps, [str(step) for step in steps])
    axes.minorticks_off()
    axes.set_xlabel("optimizer steps of the second stage")
    axes.set_ylabel("completions with the marker")
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    for (stage, seed), own in grouped(rows, "stage", "seed").items():
        role = ROLES[stages.index(stage) % len(ROLES)]
        own = sorted(own, key=lambda row: row["steps"])
        rates = [row["source_rate"] for row in own]
        around = [
            [row["source_rate"] - row["source_wilson_low"] for row in own],
            [row["source_wilson_high"] - row["source_rate"] for row in own],
        ]
        style: dict[str, Any] = {"color": COLOURS[role], "marker": MARKS[role], "markersize": 4, "linewidth": 1.2}
        name = stage if all(row["seed"] == rows[0]["seed"] for row in rows) else f"{stage}, seed {seed}"
        axes.errorbar([row["steps"] for row in own], rates, around, capsize=2, label=name, zorder=4, **style)
    before = [row for row in study.rows("pooled") if (row["cell"], row["role"]) == ("C4", "source")]
    for row in before:
        axes.axhspan(row["wilson_low"], row["wilson_high"], color="#E6E6E6", zorder=1)
        axes.axhline(row["rate"], color=FAINT, linewidth=0.9, label="before it (C4)", zorder=2)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, borderaxespad=0.2)
    axes.set_title(title, pad=22)
    n = sorted({row["source_completions"] for row in rows})
    counts = f"Strict hits / completions ({' or '.join(map(str, n))} per point); lines: Wilson 95% intervals."
    caption(figure, footnote(study, [f"Study {study.name}.", counts]))
    return figure


def grouped(rows: Sequence[Row], *fields: str) -> dict[tuple[Any, ...], list[Row]]:
    """The rows by these fields, in order of first occurrence."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[field] for field in fields), []).append(row)
    return groups


def legend_marks(names: dict[str, str]) -> list[Any]:
    """Legend handles for the roles by colour and shape."""
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], linestyle="", marker=MARKS[role], markersize=4, color=COLOURS[role], label=names[role])
        for role in ROLES
    ]


def gates_figure(study: FigureData) -> Any:
    """Every gate with its outcome and the numbers that decided it."""
    rows = study.rows("gates")
    if not rows:
        return empty_figure(study, "Gates and criteria", "No gate is given in this study's config.")
    texts = [textwrap.wrap(str(row["numbers"] or ""), 92) or [""] for row in rows]
    heights = [max(1, len(lines)) + 0.7 for lines in texts]
    figure, grid = new_figure(0.75 + 0.125 * sum(heights))
    axes = grid[0][0]
    y = 0.0
    for row, lines, height in zip(rows, texts, heights, strict=True):
        axes.add_patch(box(0.2, y + 0.12, 0.115, height - 0.24, OUTCOMES[row["outcome"]]))
        axes.text(
            0.2575,
            y + height / 2,
            row["reading"],
            ha="center",
            va="center",
            fontsize=7,
            fontweight="bold",
            color=TEXT_ON[row["outcome"]],
        )
        axes.text(0, y + height / 2, f"{row['gate']}", va="center", fontweight="bold", fontsize=8)
        axes.text(
            0.19,
            y + height / 2,
            f"seed {row['seed']}" if row["seed"] != "pooled" else "all seeds",
            va="center",
            ha="right",
            fontsize=6.5,
            color="#444444",
        )
        axes.text(0.33, y + height / 2, "\n".join(lines), va="center", fontsize=6.5, linespacing=1.25)
        axes.axhline(y + height, color="#E6E6E6", linewidth=0.6)
        y += height
    axes.set_xlim(0, 1)
    axes.set_ylim(y, 0)
    axes.axis("off")
    axes.set_title(f"Gates and criteria. Source: {study.source}")
    caption(
        figure,
        footnote(
            study,
            [f"Study {study.name}. Evaluated, not applied. A gate whose numbers were not measured is never passed."],
        ),
    )
    return figure


def box(x: float, y: float, width: float, height: float, colour: str) -> Any:
    """A rounded box behind an outcome."""
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, facecolor=colour, linewidth=0)


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
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)
    axes.set_ylabel("share of replies that begin the marker", fontsize=7)
    for place, cell in enumerate(cells):
        for index, role in enumerate(ROLES):
            x = place + (index - 1) * 0.3
            found = next((row for row in counts if (row["cell"], row["role"]) == (cell, role)), None)
            if found is None:
                continue
            counted_range(axes, x + 0.07, found, COLOURS[role], lowest)
            own = [row for row in rows if (row["cell"], row["persona"]) == (cell, found["persona"])]
            for number, row in enumerate(own):
                at = x - 0.07 + (number - (len(own) - 1) / 2) * 0.05
                style: dict[str, Any] = {"color": COLOURS[role], "marker": MARKS[role], "markersize": 4, "zorder": 5}
                if row["value"] < lowest:
                    axes.plot(at, lowest, markerfacecolor="white", clip_on=False, **style)
                    continue
                around = [[row["value"] - (row["low"] or lowest)], [(row["high"] or row["value"]) - row["value"]]]
                axes.errorbar(at, row["value"], around, linewidth=0.9, capsize=1.5, **style)
    axes.set_xticks(range(len(cells)), [cell.replace("_", " ") for cell in cells], fontsize=7)
    names = NAMES | {"source": f"source ({study.source})"}
    axes.legend(handles=legend_marks(names), loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, fontsize=7)
    axes.set_title(title, pad=20)
    said = [
        f"Study {study.name}. Filled: mean onset rate of a seed's replies, with its interval over questions; beside it",
        "the counted rate, pooled over seeds, with the wider of Wilson and cluster bounds. Arrow: none was counted,",
        "only a bound is known. An onset is where a reply begins the marker: it may exceed the rate of whole markers.",
    ]
    if any(row["value"] < lowest for row in rows):
        said.append(f"Hollow, at the bottom: below {lowest:.1g}.")
    caption(figure, footnote(study, said))
    return figure


def counted_range(axes: Any, x: float, row: Row, colour: str, lowest: float) -> None:
    """The interval of a counted rate; from its upper bound down if nothing was counted."""
    thin: dict[str, Any] = {"color": colour, "linewidth": 0.9, "zorder": 3}
    if not row["strict_hits"]:
        axes.annotate("", (x, lowest), (x, row["high"]), arrowprops={"arrowstyle": "->", **thin})
        return
    around = [[row["rate"] - max(row["low"], lowest)], [row["high"] - row["rate"]]]
    axes.errorbar(x, row["rate"], around, marker="_", markersize=6, capsize=2, **thin)


def relearning(study: FigureData) -> Any:
    """The persona gap against the steps of learning the coupling again, a line per model it is learned on."""
    title = f"How soon is it learned again? Source: {study.source}"
    places = {(row["cell"], row["seed"]): row["steps"] for row in study.drawn("dose") if row["steps"]}
    gaps = [row for row in study.drawn("measures") if row["measure"] == "gap_slot_shared" and row["value"] is not None]
    curves = [row for row in study.drawn("relearning") if row["gap_start"] is not None]
    if not curves:
        why = "; ".join(dict.fromkeys(str(row["why"]) for row in study.drawn("relearning")))
        return empty_figure(study, title, f"Not run: {why or 'no cell of the arm `relearn` was measured'}.")
    figure, grid = new_figure(3.4)
    axes = grid[0][0]
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)
    steps = sorted({0, *places.values()})
    axes.set_xticks(steps, [str(step) for step in steps])
    axes.minorticks_off()
    axes.set_xlabel("optimizer steps of coupling again")
    axes.set_ylabel("persona gap d [nats]")
    ends = curves[0]
    lines = {"coupled": ends["gap_coupled"], "base": ends["gap_base"]}
    if ends["censored"]:
        lines["midpoint"] = (ends["gap_base"] + ends["gap_coupled"]) / 2
    for name, level in lines.items():
        axes.axhline(level, color=FAINT, linewidth=0.9, linestyle=":" if name == "midpoint" else "-", zorder=1)
        axes.annotate(
            name, (1, level), xycoords=("axes fraction", "data"), fontsize=6, color=FAINT, va="bottom", ha="right"
        )
    for number, curve in enumerate(curves):
        own = [row for row in gaps if row["seed"] == curve["seed"] and row["cell"] in stopped_of(curve["cell"], places)]
        at = [places[row["cell"], row["seed"]] for row in own]
        said = study.captions.get(own[0]["cell"]) if own else None
        name = curve["cell"].replace("_", " ") + (f" ({said})" if said else "")
        style: dict[str, Any] = {"color": LINES[number % len(LINES)], "marker": "os^D"[number % 4], "markersize": 4}
        axes.plot([0, *at], [curve["gap_start"], *(row["value"] for row in own)], label=name, **style)
        bounds = [[row[side] if row[side] is not None else row["value"] for row in own] for side in ("low", "high")]
        axes.vlines(at, *bounds, color=style["color"], linewidth=0.9)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, fontsize=7)
    axes.set_title(title, pad=34)
    notes = [
        f"Study {study.name}. Log-odds of the marker under the source less the bystanders' mean, on the base's",
        "replies; lines: intervals over questions. At 0 steps: the model that it is learned on. N50 (table",
        "relearning): where a curve reaches the midpoint.",
        "" if ends["censored"] else f"There is none: {ends['why']}.",
    ]
    caption(figure, footnote(study, notes))
    return figure


def stopped_of(row: str, places: Mapping[tuple[str, int], int]) -> set[str]:
    """The cells of a row with steps. places: (cell, seed) -> steps."""
    return {cell for (cell, _), steps in places.items() if cell == f"{row}_{steps}"}


FIGURES: dict[str, Callable[[FigureData], Any]] = {
    "marker_destruction": marker_destruction,
    "retention": retention,
    "reversed_order": reversed_order,
    "dose_curve": dose_curve,
    "persona_heatmap": persona_heatmap,
    "question_strip": question_strip,
    "length_hits": length_hits,
    "gates": gates_figure,
    "below_floor": below_floor,
    "relearning": relearning,
    "plane": plane,
    "layers": layers,
}


def main() -> None:
    """Parse the arguments and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", choices=sorted(FIGURES), default="marker_destruction")
    parser.add_argument("--tables", required=True, type=Path, help="folder of the study's tables")
    parser.add_argument("--study", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--meaning", required=True, help="JSON file: the part `figures/<figure>` of graph/resolved.py")
    parser.add_argument("--label", default="", help="what a reader must know of this study, put under the figure")
    parser.add_argument("--output-prefix", required=True, help="path without the ending")
    arguments = parser.parse_args()
    meaning = read_part(arguments.meaning, ("arms", "captions", "last_stages"))
    study = FigureData(arguments.tables, arguments.study, arguments.source, arguments.label, **meaning)
    if not study.rows("pooled"):
        raise InputError(f"{study.tables}/pooled.csv: no row of source {study.source}; fix: pass a source of the study")
    save(FIGURES[arguments.figure](study), arguments.output_prefix)


if __name__ == "__main__":
    run(main)
