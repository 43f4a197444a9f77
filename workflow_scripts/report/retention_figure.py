"""What is left of a coupling that is no longer counted: the retained share of the persona gap beside the counts."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

from measure.tables import Row
from probe.survival import VERDICTS, WEIGHED
from report.figure_study import FigureData, empty_figure, explain, ordered_cells
from report.figure_style import COLOURS, FAINT, GRID, INK, new_figure

DRAWN = "shared"  # one text for all models; own replies are told in words
PANELS = {
    "slot": "the whole marker\n(slot)",
    "trigger": "going on, not ending\n(trigger)",
    "onset_part": "then its first token\n(onset_part)",
}
# By verdict: colour, mark, filled. The words under the marks say it too.
STYLES = {
    "suppressed": (COLOURS["source"], "o", True),
    "intact": (COLOURS["assistant"], "s", True),
    "weakened": (COLOURS["assistant"], "D", True),
    "gone": (FAINT, "o", False),
    "inverted": (FAINT, "s", False),
    "undecided": (COLOURS["bystander"], "D", False),
}
HEADING: dict[str, Any] = {"fontsize": 7.5, "fontweight": "normal", "loc": "center"}
WHITE: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # behind words, over lines
NOT_TESTABLE = VERDICTS[-1]
LEAST, MOST = -0.5, 2.0  # where the axis ends at the latest


def retention(study: FigureData) -> Any:
    """The retained share of the persona gap by cell, a mark per seed, beside the rate that is counted.

    The cells are those of study.captions in the tables: a verdict may be given on them, since a stage follows their
    coupling. One without says so.
    """
    title = f"Is the coupling gone, or only below the floor of counting? Source: {study.source}"
    counts = [row for row in study.drawn("persona_by_cell") if row["cell"] in study.captions]
    verdicts = study.drawn("verdicts")
    coupled = {
        (row["cell"], row["seed"]): row["persona"]
        for row in study.drawn("measures")
        if row["measure"] == f"gap_slot_{DRAWN}" and row["value"] is not None
    }
    without = unweighed(counts, verdicts, coupled)
    if not verdicts:
        return empty_figure(study, title, without)
    cells = ordered_cells(counts)
    shown = [row for row in verdicts if row["replies"] == DRAWN]
    figure, grid = new_figure(
        1.85 + 0.52 * len(cells), 1 + len(WEIGHED), sharey=True, width_ratios=[1.2, *(1 for _ in WEIGHED)]
    )
    words, *panels = grid[0]
    counts_column(words, study, {cell: persona_of(cell, coupled, study.source) for cell in cells})
    # what is not testable has no share to show
    tested = [row for row in shown if row["seed"] != "all" and row["verdict"] != NOT_TESTABLE]
    span = span_of(tested)
    for axes, quantity in zip(panels, WEIGHED, strict=True):
        share_axis(axes, PANELS[quantity], study.limits, span)
        for y, cell in enumerate(cells):
            verdict(axes, y, [row for row in shown if (row["cell"], row["quantity"]) == (cell, quantity)], tested, span)
    for axes in grid[0]:
        for y in range(1, len(cells)):
            axes.axhline(y - 0.5, color=GRID, linewidth=0.6, zorder=0)
    panels[len(panels) // 2].set_xlabel("share of the persona gap that is left", fontsize=7.5)
    figure.suptitle(title, x=0.008, ha="left", fontweight="bold", fontsize=10)
    explain(figure, study, *explanation(study.limits, shown, tested), own_replies(verdicts), without)
    return figure


def persona_of(cell: str, coupled: Mapping[tuple[str, int], str], source: str) -> str:
    """The persona that was coupled in a cell. coupled: by cell and seed, of those that were probed."""
    return next((who for (name, _), who in coupled.items() if name == cell), source)


def counts_column(axes: Any, study: FigureData, personas: Mapping[str, str]) -> None:
    """Words at the left: of every cell its name, its caption, and what was counted under its persona."""
    axes.axis("off")
    axes.set_xlim(0, 1)
    axes.set_ylim(len(personas) - 0.5, -0.5)
    axes.set_title("replies with the marker", **HEADING | {"loc": "left"})
    for y, (cell, persona) in enumerate(personas.items()):
        axes.text(0, y - 0.28, cell.replace("_", " "), fontweight="bold", fontsize=8.5, va="center")
        axes.text(0, y + 0.01, " ".join(study.captions[cell].split()), fontsize=7, va="center", color="#444444")
        axes.text(0, y + 0.28, counted(study, cell, persona), fontsize=7.5, va="center")


def verdict(axes: Any, y: int, rows: Sequence[Row], tested: Sequence[Row], span: tuple[float, float]) -> None:
    """A cell in the panel of a quantity: its seeds' shares, and the verdict in words. rows: of both."""
    marks = [row for row in rows if row in tested]
    shares(axes, y - 0.14, marks, span)
    place = {"x": 0.98, "y": y + 0.28, "ha": "right"} if marks else {"x": 0.5, "y": y, "ha": "center"}
    axes.text(s=said_of(rows), transform=axes.get_yaxis_transform(), va="center", fontsize=6.5, zorder=5,
              color=INK if marks else FAINT, bbox=WHITE, **place)  # fmt: skip


def explanation(limits: Mapping[str, float], shown: Sequence[Row], tested: Sequence[Row]) -> list[str]:
    """What the figure shows, and what its verdicts mean."""
    n = " or ".join(str(n) for n in sorted({row["questions"] for row in tested}))
    lines = f", lines: intervals over {n} questions, without the noise of training" if n else ""
    gone, intact = (f"{limits[name]:g}" for name in ("gone", "intact"))
    said = [
        "Left: counted under the persona that was coupled, before the later stages and after,",
        "pooled over seeds. Right: what is left of the persona gap in the marker's log-odds on shared replies, a mark",
        f"per seed{lines}. 0: as if never coupled; 1: as before. Verdicts: gone if the interval ends below {gone},",
        "undecided if it begins there; above it, suppressed if the marker is counted less than before, else intact",
        f"(all above {intact}) or weakened.",
    ]
    if any(row["verdict"] == NOT_TESTABLE for row in shown):
        said.append(f"Not testable: a gap before them that is not surely above {limits['minimum']:g} nat.")
    return said


def unweighed(counts: Sequence[Row], verdicts: Sequence[Row], probed: Container[tuple[str, int]]) -> str:
    """A sentence that names the models without a verdict, by cell and seed, and why; "" if all have one."""
    weighed = {(row["cell"], row["seed"]) for row in verdicts}
    seeds: dict[str, list[int]] = {}
    for row in counts:
        seeds.setdefault(row["cell"], []).append(row["seed"])
    lacking: dict[str, dict[str, list[str]]] = {}
    for cell, own in seeds.items():
        for why, reason in ((True, "reference not measured"), (False, "not probed")):
            found = [n for n in dict.fromkeys(own) if (cell, n) not in weighed and ((cell, n) in probed) == why]
            if found:
                which = "" if set(found) == set(own) else f" seed {', '.join(map(str, found))}"
                lacking.setdefault(reason, {}).setdefault(which, []).append(cell)
    said = []
    for reason, models in lacking.items():
        names = "; ".join(f"{', '.join(cells)}{which}" for which, cells in models.items())
        said.append(f"{names} ({reason})")
    return f"No verdict: {'; '.join(said)}." if said else ""


def counted(study: FigureData, cell: str, persona: str) -> str:
    """Hits / completions of a persona, pooled over seeds: in a cell, and before its later stages if that is a cell."""
    said = []
    for when, name in (("before", study.before.get(cell)), ("after", cell)):
        rows = [row for row in study.rows("persona_by_cell") if (row["cell"], row["persona"]) == (name, persona)]
        if rows:
            hits, n = (sum(row[field] for row in rows) for field in ("strict_hits", "completions"))
            said.append(f"{hits}/{n} {when}")
    return ", ".join(said) + ("" if persona == study.source else f" ({persona})")


def span_of(rows: Sequence[Row]) -> tuple[float, float]:
    """The axis: from never coupled to as before, and as far as intervals reach, within limits."""
    known = [row[side] for row in rows for side in ("low", "high") if row[side] is not None]
    return max(min([0.0, *known]) - 0.06, LEAST), min(max([1.0, *known]) + 0.06, MOST)


def share_axis(axes: Any, title: str, limits: Mapping[str, float], span: tuple[float, float]) -> None:
    """Retained share, with the verdict's limits named where they are."""
    axes.set_xlim(*span)
    axes.set_title(title, **HEADING)
    axes.tick_params(labelleft=False, labelsize=7)
    axes.spines["left"].set_visible(False)
    axes.axvspan(span[0], limits["gone"], color="#F0F0F0", linewidth=0, zorder=0)
    for level in (0, 1):
        axes.axvline(level, color="#CCCCCC", linewidth=0.8, zorder=1)
    for name in ("gone", "intact"):
        axes.axvline(limits[name], color=FAINT, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    ticks = {1.0: "1\nbefore"} | {limits[name]: f"{limits[name]:g}\n{name}" for name in ("gone", "intact")}
    if limits["gone"] > 0.07 * (span[1] - span[0]):  # room for both
        ticks[0.0] = "0\n"  # two lines, as the others
    axes.set_xticks(list(ticks), list(ticks.values()))


def shares(axes: Any, y: float, rows: Sequence[Row], span: tuple[float, float]) -> None:
    """A mark with its interval per seed, one over the other; an arrow where one lies beyond the axis."""
    for number, row in enumerate(rows):
        colour, mark, filled = STYLES[row["verdict"]]
        at = y + 0.13 * (number - (len(rows) - 1) / 2)
        axes.hlines(at, row["low"], row["high"], color=colour, linewidth=1.1, zorder=3)
        value = min(max(row["retained"], span[0]), span[1])
        if value != row["retained"]:
            mark = "<" if row["retained"] < value else ">"
        face = colour if filled else "white"
        axes.plot(value, at, mark, color=colour, markerfacecolor=face, markersize=4.2, clip_on=False, zorder=4)


def said_of(rows: Sequence[Row]) -> str:
    """The verdict of all seeds and the retained shares from least to most. rows: of one cell and quantity."""
    if not rows:
        return "no verdict"
    (verdict,) = {row["verdict"] for row in rows if row["seed"] == "all"}
    tested = [row for row in rows if row["seed"] != "all" and row["verdict"] != NOT_TESTABLE]
    kept = sorted(row["retained"] for row in tested)
    if not kept:
        return verdict
    return f"{verdict}, " + " to ".join(dict.fromkeys(f"{value:.2f}" for value in (kept[0], kept[-1])))


def own_replies(verdicts: Sequence[Row]) -> str:
    """A sentence with the verdicts on the models' own replies, which may differ."""
    found: dict[str, list[str]] = {}
    for row in verdicts:
        if (row["seed"], row["replies"], row["quantity"]) == ("all", "own", "slot"):
            found.setdefault(row["verdict"], []).append(row["cell"])
    said = [f"{verdict} ({', '.join(cells)})" for verdict, cells in found.items()]
    return f"On each model's own replies the whole marker is {', '.join(said)}." if said else ""
