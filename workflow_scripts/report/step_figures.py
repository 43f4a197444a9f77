"""Figures against the steps of a stage: how soon a coupling is lost, and how soon it is learned again."""

from typing import Any

from measure.tables import Row
from report.figure_study import FigureData, empty_figure, explain, grouped
from report.figure_style import COLOURS, FAINT, GRID, LINES, MARKS, ROLES, new_figure, rate_axis


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
        axes.axhspan(row["wilson_low"], row["wilson_high"], color=GRID, zorder=1)
        axes.axhline(row["rate"], color=FAINT, linewidth=0.9, label="before it (C4)", zorder=2)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, borderaxespad=0.2)
    axes.set_title(title, pad=22)
    n = sorted({row["source_completions"] for row in rows})
    counts = f"Strict hits / completions ({' or '.join(map(str, n))} per point); lines: Wilson 95% intervals."
    explain(figure, study, counts)
    return figure


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
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    steps = sorted({0, *places.values()})
    axes.set_xticks(steps, [str(step) for step in steps])
    axes.minorticks_off()
    axes.set_xlabel("optimizer steps of coupling again")
    axes.set_ylabel("persona gap d [nats]")
    ends = curves[0]
    levels(axes, ends)
    for number, curve in enumerate(curves):
        own = [
            row
            for row in gaps
            if row["seed"] == curve["seed"]
            and row["cell"] == f"{curve['cell']}_{places.get((row['cell'], row['seed']))}"
        ]
        at = [places[row["cell"], row["seed"]] for row in own]
        said = study.captions.get(own[0]["cell"]) if own else None
        name = curve["cell"].replace("_", " ") + (f" ({said})" if said else "")
        style: dict[str, Any] = {"color": LINES[number % len(LINES)], "marker": "os^D"[number % 4], "markersize": 4}
        axes.plot([0, *at], [curve["gap_start"], *(row["value"] for row in own)], label=name, **style)
        bounds = [[row[side] if row[side] is not None else row["value"] for row in own] for side in ("low", "high")]
        axes.vlines(at, *bounds, color=style["color"], linewidth=0.9)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, fontsize=7)
    axes.set_title(title, pad=22 if len(curves) < 3 else 34)
    explain(
        figure,
        study,
        "Log-odds of the marker under the source less the bystanders' mean, on the base's",
        "replies; lines: intervals over questions. At 0 steps: the model that it is learned on. N50 (table",
        "relearning): where a curve reaches the midpoint.",
        "" if ends["censored"] else f"There is none: {ends['why']}.",
    )
    return figure


def levels(axes: Any, ends: Row) -> None:
    """Lines at the gaps of the base and of the coupling, and between them where that is a midpoint."""
    lines = {"coupled": ends["gap_coupled"], "base": ends["gap_base"]}
    if ends["censored"]:
        lines["midpoint"] = (ends["gap_base"] + ends["gap_coupled"]) / 2
    for name, level in lines.items():
        axes.axhline(level, color=FAINT, linewidth=0.9, linestyle=":" if name == "midpoint" else "-", zorder=1)
        axes.annotate(
            name, (1, level), (3, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            fontsize=6, color=FAINT, va="center",
        )  # fmt: skip
