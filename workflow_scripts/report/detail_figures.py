"""Figures of where the hits are: by persona, by question, and by the length of the replies."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from measure.tables import Row, percent
from report.figure_study import FigureData, empty_figure, explain, grouped, ordered_cells, role_marks, strips_of
from report.figure_style import COLOURS, FAINT, INK, MARKS, ROLES, new_figure, rate_axis, rectangle


def persona_heatmap(study: FigureData) -> Any:
    """Marker rate of every persona in every cell, pooled over seeds."""
    rows = study.drawn("persona_by_cell")
    cells = ordered_cells(rows)
    personas = sorted(
        {row["persona"] for row in rows}, key=lambda persona: (persona != study.source, persona != "assistant", persona)
    )
    figure, grid = new_figure(0.9 + 0.24 * len(personas))
    axes = grid[0][0]
    found = grouped(rows, "persona", "cell")
    for y, persona in enumerate(personas):
        for x, cell in enumerate(cells):
            tile(axes, x, y, found.get((persona, cell), []))
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
    explain(
        figure,
        study,
        "Strict hits / completions, pooled over seeds;",
        f"{completions_each(rows)} completions per persona and seed.",
        "0% means no hit at all.",
    )
    return figure


def tile(axes: Any, x: float, y: float, rows: Sequence[Row]) -> None:
    """A square of the heat map: the rate of these rows together, white to the darkest blue of the palette.

    So it is ordered in grey, too. Any hit at all differs visibly from none.
    """
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("rate", ["#F7FBFF", "#CFE3F2", "#6FA8CF", COLOURS["assistant"]])
    hits, n = sum(row["strict_hits"] for row in rows), sum(row["completions"] for row in rows)
    rate = hits / n if n else 0
    colour = shades(rate) if n else "#F2F2F2"
    axes.add_patch(rectangle(x - 0.5, y - 0.5, 1, 1, colour, edgecolor="white", linewidth=1))
    ink = "white" if rate > 0.74 else INK if hits else FAINT
    axes.text(x, y, percent(rate) if n else "-", ha="center", va="center_baseline", fontsize=6.5, color=ink,
              fontweight="bold" if hits else "normal")  # fmt: skip


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
        question_rates(axes, [row for row in rows if row["cell"] == cell], questions)
        axes.set_ylabel(cell, rotation=0, ha="right", va="center", fontweight="bold")
    axes = grid[-1, 0]
    axes.set_xticks(range(len(questions)), [question.split("_")[-1] for question in questions], fontsize=6)
    kinds = Counter(question.rsplit("_", 1)[0] for question in questions)
    axes.set_xlabel(f"question: {', then '.join(f'{n} {kind}' for kind, n in kinds.items())}", fontsize=7)
    layout = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "ncols": 3, "borderaxespad": 0.2, "handletextpad": 0.3}
    grid[0, 0].legend(handles=role_marks(study), **layout)
    grid[0, 0].set_title(f"Marker rate by question. Source: {study.source}", pad=22)
    explain(
        figure,
        study,
        "Strict hits / completions, pooled over seeds;",
        f"completions per question and seed: {completions_each(rows)}.",
        "The highest bystander is each seed's own.",
    )
    return figure


def question_rates(axes: Any, rows: Sequence[Row], questions: Sequence[str]) -> None:
    """A cell's rates by question, pooled over seeds, a mark per role."""
    rate_axis(axes, 1.05)
    axes.set_ylim(-0.08, 1.08)
    axes.set_yticks([0, 0.5, 1])
    found = grouped(rows, "role", "question_id")
    for shift, role in zip((-0.22, 0, 0.22), ROLES, strict=True):
        own = {x: found[role, question] for x, question in enumerate(questions) if (role, question) in found}
        places = [x + shift for x in own]
        rates = [sum(row["strict_hits"] for row in some) / sum(row["completions"] for row in some)
                 for some in own.values()]  # fmt: skip
        axes.vlines(places, 0, rates, color=COLOURS[role], linewidth=1.2)
        axes.scatter(places, rates, s=9, color=COLOURS[role], marker=MARKS[role], linewidth=0, zorder=3)
    axes.set_xlim(-0.7, len(questions) - 0.3)
    axes.tick_params(axis="x", length=0)


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
    title = {"title": f"Marker rate against length. Source: {study.source}", "alignment": "left"}
    title_font = {"weight": "bold", "size": 10}
    layout = {"loc": "outside upper left", "ncols": 3, "fontsize": 8, "handletextpad": 0.3}
    handles = role_marks(study, bystander="bystander")
    figure.legend(handles=handles, title_fontproperties=title_font, **title, **layout)
    note = "tokens are those generated, the marker's own included."
    explain(figure, study, "A point is a persona at one seed;", note)
    return figure
