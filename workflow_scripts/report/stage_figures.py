"""Figures of what a second stage did to a coupling: at which strength (plane), and in which layers (layers)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from measure.tables import Row
from report.figure_study import FigureData, empty_figure, explain, grouped
from report.figure_style import COLOURS, FAINT, GRID, INK, new_figure

Key = tuple[str, int]  # a cell's name and seed
MOST = 4  # cells side by side
LEAST = -1.0  # the least share that is drawn of a patch: the base's own log-odds lie far below any cell's
WITHOUT, ONLY = COLOURS["source"], COLOURS["assistant"]
MODELS = {
    "cell": {"color": COLOURS["source"], "linestyle": "-"},
    "before": {"color": COLOURS["assistant"], "linestyle": "--"},
    "reference": {"color": COLOURS["bystander"], "linestyle": "-."},
    "base": {"color": FAINT, "linestyle": ":"},
}
LABELS = {"cell": "cell", "before": "before the stage", "reference": "without the coupling", "base": "base"}


def plane(study: FigureData) -> Any:
    """Log-odds of the marker over the strengths of both stages, and along the second's, a column per cell."""
    title = f"How much of the second stage does it take? Source: {study.source}"
    found = by_cell([row for row in study.drawn("ablation") if row["kind"] == "plane"])
    if not found:
        return empty_figure(study, title, "Not run: no cell of this study had its second stage taken apart (`ablate`).")
    shown = dict(list(found.items())[:MOST])
    measures = by_cell(study.drawn("measures"))
    figure, grid = new_figure(6.6, len(shown), 3, height_ratios=[1.5, 1, 1])
    limit = max(abs(row["value"]) for rows in shown.values() for row in rows if row["quantity"] == "slot")
    for column, (key, rows) in enumerate(shown.items()):
        summary = {row["measure"]: row for row in measures.get(key, [])}
        grid[0, column].set_title(name_of(key, shown), fontsize=8)
        heat(grid[0, column], [row for row in rows if row["quantity"] == "slot"], limit)
        strengths(grid[1, column], rows, "slot", summary.get("half_beta_slot"), summary.get("even_beta_slot"))
        strengths(grid[2, column], rows, "gap_slot", summary.get("half_beta_gap"), None)
        grid[2, column].set_xlabel("strength of the second stage")
    for axes, words in zip(
        grid[:, 0], ("strength of the coupling", "s under the source [nats]", "persona gap d [nats]"), strict=True
    ):
        axes.set_ylabel(words, fontsize=7)
    for row in grid[1:]:
        same_scale(row)
    figure.legend(
        handles=[
            line("with the coupling", WITHOUT, "-"),
            line("without it", FAINT, ":"),
            line("if the two added up", INK, "--"),
        ],
        loc="outside upper left",
        ncols=3,
        fontsize=7,
        title=title,
        alignment="left",
        title_fontproperties={"weight": "bold", "size": 10},
    )  # fmt: skip
    note = [
        "Models: base + alpha x coupling + beta x second stage; (1, 0) is before the second,",
        "(1, 1) after it. Above: log-odds s of the marker at the slot [nats]. Below: along beta, with intervals over",
        "questions; dotted line: where half of the retention is lost; triangle: where marker and end of turn are",
        f"equally likely; neither: not up to the largest beta, or not defined. {left_out(found, shown)}",
    ]
    explain(figure, study, *note)
    return figure


def heat(axes: Any, rows: Sequence[Row], limit: float) -> None:
    """s over the strengths of the coupling (upwards) and of the second stage, with its values."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    colours = LinearSegmentedColormap.from_list("signed", [COLOURS["assistant"], "#F7F7F7", COLOURS["source"]])
    betas, alphas = (sorted({row[name] for row in rows}) for name in ("beta", "alpha"))
    values = [
        [next(row["value"] for row in rows if (row["alpha"], row["beta"]) == (alpha, beta)) for beta in betas]
        for alpha in alphas
    ]
    axes.imshow(values, cmap=colours, norm=Normalize(-limit, limit), origin="lower", aspect="auto")
    for y, line_of in enumerate(values):
        for x, value in enumerate(line_of):
            dark = abs(value) > 0.55 * limit
            axes.text(x, y, f"{round(value)}", ha="center", va="center", fontsize=6, color="white" if dark else INK)
    axes.set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
    axes.set_yticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    axes.tick_params(length=0, labelsize=6.5)
    for side in axes.spines.values():
        side.set_visible(False)


def strengths(axes: Any, rows: Sequence[Row], quantity: str, half: Row | None, even: Row | None) -> None:
    """A quantity along beta: with the coupling, without it, and what the two stages would give if they added up."""
    own = sorted((row for row in rows if row["quantity"] == quantity), key=lambda row: row["beta"])
    with_it, without = ([row for row in own if row["alpha"] == alpha] for alpha in (1.0, 0.0))
    betas = [row["beta"] for row in with_it]
    for some, colour, style in ((with_it, WITHOUT, "-"), (without, FAINT, ":")):
        axes.plot(betas, [row["value"] for row in some], color=colour, linestyle=style, linewidth=1.2)
        axes.fill_between(
            betas, *([row[side] for row in some] for side in ("low", "high")), color=colour, alpha=0.2, lw=0
        )
    start = with_it[0]["value"] - without[0]["value"]
    axes.plot(betas, [start + row["value"] for row in without], color=INK, linestyle="--", linewidth=0.8)
    axes.axhline(0, color=GRID, linewidth=0.8, zorder=0)
    if half and half["value"] is not None:
        axes.axvline(half["value"], color=WITHOUT, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.annotate(f"{half['value']:.2f}", (half["value"], 0.28), (-2, 0), xycoords=("data", "axes fraction"),
                      textcoords="offset points", fontsize=6, color=WITHOUT, ha="right")  # fmt: skip
    if even and even["value"] is not None:
        axes.scatter([even["value"]], [0], marker="v", s=18, color=INK, zorder=5)
        axes.annotate(
            f"{even['value']:.2f}", (even["value"], 0), (-4, -9), textcoords="offset points", fontsize=6, ha="right"
        )
    axes.set_xticks(betas, [f"{beta:g}" for beta in betas])
    axes.tick_params(labelsize=6.5)


def layers(study: FigureData) -> Any:
    """What the layers say and what the second stage did in each, over depth, a column per cell."""
    title = f"Where does the second stage do it? Source: {study.source}"
    ablated = by_cell([row for row in study.drawn("ablation") if row["quantity"] == "slot"])
    patched = by_cell([row for rows in ablated.values() for row in rows if row["kind"] == "patch"])
    lens = by_cell([row for row in study.drawn("layers") if (row["role"], row["quantity"]) == ("gap", "trigger")])
    overlap = by_cell(study.drawn("adapters"))
    found = ablated or lens or overlap
    if not found:
        return empty_figure(study, title, "Not run: none of ablate_stage, read_layers and compare_adapters.")
    shown = dict(list(found.items())[:MOST])
    of = {"lens": lens, "ablated": ablated, "patched": patched, "overlap": overlap}
    drawn = [(words, of[what], panel, said) for words, what, panel, said in PANELS if of[what]]
    figure, grid = new_figure(1.2 + 1.6 * len(drawn), len(shown), len(drawn), sharex="col")
    for place, (words, rows, panel, _) in enumerate(drawn):
        for column, key in enumerate(shown):
            panel(grid[place, column], rows.get(key, []))
        grid[place, 0].set_ylabel(words, fontsize=6.5)
        same_scale(grid[place])
    for column, key in enumerate(shown):
        grid[0, column].set_title(name_of(key, shown), fontsize=8)
        grid[-1, column].set_xlabel("decoder layer")
    figure.suptitle(title, x=0.008, ha="left", fontweight="bold", fontsize=10)
    measured = {"read_layers": lens, "ablate_stage": ablated, "compare_adapters": overlap}
    absent = [rule for rule, rows in measured.items() if not rows]
    note = [
        *(said for *_, said in drawn),
        f"Intervals: over questions. {left_out(found, shown)}",
        *([f"Not run: {', '.join(absent)}."] if absent else []),
    ]
    explain(figure, study, *note)
    return figure


def lens_panel(axes: Any, rows: Sequence[Row]) -> None:
    """The persona gap of the trigger after each layer, in the cell and in the models that it is compared with."""
    if not rows:
        return not_run(axes, "read_layers")
    for model, style in MODELS.items():
        own = [row for row in rows if row["model"] == model and row["layer"]]  # 0: the embeddings
        places = [row["layer"] - 1 for row in own]
        axes.plot(places, [row["value"] for row in own], linewidth=1.2, label=LABELS[model], **style)
        bounds = ([row["value"] if row[side] is None else row[side] for row in own] for side in ("low", "high"))
        axes.fill_between(places, *bounds, color=style["color"], alpha=0.15, linewidth=0)
    finish(axes)


def one_layer_panel(axes: Any, rows: Sequence[Row]) -> None:
    """Of every layer what it restores when left out, and what it takes alone, beside the range of random deltas."""
    own = [row for row in rows if row["kind"] == "layer"]
    if no_shares(axes, own):
        return
    if controls := [row["share"] for row in rows if row["kind"] == "random"]:
        axes.axhspan(min(controls), max(controls), color=GRID, zorder=1, label="random deltas")
    for mode, colour, mark, name in (("without", WITHOUT, "o", "restored"), ("only", ONLY, "s", "sufficed")):
        points(axes, [row for row in own if row["mode"] == mode], colour, mark, name, linewidth=0.6)
    axes.axhline(0, color=GRID, linewidth=0.8, zorder=0)
    finish(axes)


def many_layers_panel(axes: Any, rows: Sequence[Row]) -> None:
    """What is restored without the lowest and without the highest k layers, at the last layer that is left out."""
    own = [row for row in rows if row["kind"] in ("lowest", "highest") and row["mode"] == "without"]
    if no_shares(axes, own):
        return
    count = 1 + max(int(row["part"]) for row in own)
    for kind, colour, mark in (("lowest", WITHOUT, "^"), ("highest", ONLY, "v")):
        some = [row for row in own if row["kind"] == kind]
        places = {row["part"]: int(row["part"]) - 1 if kind == "lowest" else count - int(row["part"]) for row in some}
        points(axes, [{**row, "part": places[row["part"]]} for row in some], colour, mark, f"{kind} k", linewidth=1.0)
    axes.axhline(1, color=GRID, linewidth=0.8, zorder=0)
    axes.axhline(0, color=GRID, linewidth=0.8, zorder=0)
    finish(axes)


def patch_panel(axes: Any, rows: Sequence[Row]) -> None:
    """What the state of the model before the stage restores at the slot, after each layer; the base's beside it."""
    own = [row for row in rows if row["kind"] == "patch"]
    if no_shares(axes, own):
        return
    for donor, style in (("before", MODELS["before"]), ("base", MODELS["base"])):
        some = sorted((row for row in own if row["mode"] == donor), key=lambda row: int(row["part"]))
        places = [int(row["part"]) for row in some]
        shares = [row["share"] for row in some]
        below = f" (down to {min(shares):.1f})" if min(shares, default=0) < LEAST else ""
        axes.plot(places, shares, linewidth=1.2, label=f"state of {donor}{below}", **style)
        bounds = ([row[f"share_{side}"] for row in some] for side in ("low", "high"))
        axes.fill_between(places, *bounds, color=style["color"], alpha=0.15, linewidth=0)
    for level in (0, 1):
        axes.axhline(level, color=GRID, linewidth=0.8, zorder=0)
    axes.set_ylim(max(axes.get_ylim()[0], LEAST), axes.get_ylim()[1])
    finish(axes)


def overlap_panel(axes: Any, rows: Sequence[Row]) -> None:
    """Overlap of the subspaces that the two adapters read and write, beside random ones'; the mean of the modules."""
    if not rows:
        return not_run(axes, "compare_adapters")
    places = [row["layer"] for row in rows]
    for side, colour, mark in (("input", WITHOUT, "o"), ("output", ONLY, "s")):
        style: dict[str, Any] = {"color": colour, "marker": mark, "markersize": 3, "linewidth": 0.8}
        axes.plot(places, [row[f"{side}_overlap"] for row in rows], label=side, **style)
        axes.plot(places, [row[f"{side}_random"] for row in rows], color=colour, linewidth=0.8, linestyle=":")
    axes.set_ylim(bottom=0)
    finish(axes)


# The rows of the figure `layers`: what stands beside a row, of which rows it is drawn, by what, and what is said of it.
PANELS: list[tuple[str, str, Callable[[Any, Sequence[Row]], None], str]] = [
    (
        "persona gap of the trigger\nby logit lens [nats]", "lens", lens_panel,
        "Logit lens: source minus bystanders after each layer.",
    ),
    (
        "share of the drop\nof one layer", "ablated", one_layer_panel,
        "Shares are of the drop of s. Restored: what returns when the second adapter is left out of a layer; "
        "sufficed: what it takes there alone; grey: random deltas of its rank and norm in place of the whole.",
    ),
    (
        "restored without\nk layers", "ablated", many_layers_panel,
        "Without the lowest or highest layers: at the last of them.",
    ),
    (
        "restored by a patch\nafter the layer", "patched", patch_panel,
        "Patch: the cell with another model's state at the slot, after a layer; that of before restores all after "
        "the last, the base's is the control.",
    ),
    (
        "overlap of\nthe two adapters", "overlap", overlap_panel,
        "Overlap: how much of the subspace that one adapter reads or writes lies in the other's; dotted: of random "
        "ones.",
    ),
]  # fmt: skip


def points(axes: Any, rows: Sequence[Mapping[str, Any]], colour: str, mark: str, name: str, linewidth: float) -> None:
    """Shares with their intervals at the layers that `part` says."""
    rows = sorted(rows, key=lambda row: int(row["part"]))
    places, values = [int(row["part"]) for row in rows], [row["share"] for row in rows]
    axes.plot(places, values, color=colour, marker=mark, markersize=3, linewidth=linewidth, label=name, zorder=4)
    axes.vlines(
        places, *([row[f"share_{side}"] for row in rows] for side in ("low", "high")), color=colour, linewidth=0.9
    )


def no_shares(axes: Any, rows: Sequence[Row]) -> bool:
    """Whether there is no share to draw, which the panel then says."""
    if not rows:
        not_run(axes, "ablate_stage")
    elif rows[0]["share"] is None:
        say(axes, "No share: the drop comes within\n1 nat of 0 (see ablation.csv).")
    return not rows or rows[0]["share"] is None


def not_run(axes: Any, rule: str) -> None:
    """Say on an empty panel that a measurement was not made."""
    say(axes, f"Not run: {rule}")


def say(axes: Any, text: str) -> None:
    """Words on an empty panel."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=FAINT, fontsize=7)
    axes.set_yticks([])
    axes.tick_params(labelsize=6.5)


def finish(axes: Any) -> None:
    """Legend and ticks of a panel over layers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=6.5)
    axes.legend(fontsize=5.5, loc="best", handlelength=1.6, labelspacing=0.2)


def same_scale(row: Sequence[Any]) -> None:
    """One y axis for the panels of a row that show numbers."""
    drawn = [axes for axes in row if axes.lines]
    bottom, top = (pick(axes.get_ylim()[at] for axes in drawn) if drawn else at for at, pick in enumerate((min, max)))
    for axes in drawn:
        axes.set_ylim(bottom, top)


def line(name: str, colour: str, style: Any) -> Any:
    """A legend handle."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linestyle=style, linewidth=1.2, label=name)


def by_cell(rows: Sequence[Row]) -> dict[Key, list[Row]]:
    """The rows of every cell and seed, in order."""
    return grouped(rows, "cell", "seed")


def name_of(key: Key, shown: Mapping[Key, Any]) -> str:
    """C1, with its seed if the same cell is shown at several."""
    alone = sum(cell == key[0] for cell, _ in shown) == 1
    return key[0].replace("_", " ") + ("" if alone else f", seed {key[1]}")


def left_out(found: Mapping[Key, Any], shown: Mapping[Key, Any]) -> str:
    """Which seeds are shown, and what there was no room for."""
    seeds = ", ".join(dict.fromkeys(str(seed) for _, seed in shown))
    rest = [f"{cell} seed {seed}" for cell, seed in found if (cell, seed) not in shown]
    return f"Seed {seeds}." + (f" Not shown, but in the tables: {', '.join(rest)}." if rest else "")
