"""What trainings that were tracked say: the marker's log-odds against the steps, as a table and a figure."""

from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from statistics import mean
from typing import Any

from graph.lineage import parse_lineage
from report.embedded import figure_of
from report.fields import Table, estimate, plain
from report.figure_study import labelled
from report.figure_style import FAINT, LINES, caption, new_figure

NATS = ("slot", "others", "gap")
COLUMNS = ("lineage", "step", "persona", *NATS)
ACROSS = 3  # panels in a row


def curve_rows(records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row per tracked training and step, in nats. slot: of the first persona, the source; others: the mean of theirs.

    records: run records with `node`.
    """
    for record in records:
        personas = record.get("track", {}).get("personas", [])
        for point in record.get("track", {}).get("curve", []):
            slot, *rest = (point["slot"][persona] for persona in personas)
            others = mean(rest) if rest else None
            gap = None if others is None else slot - others
            values = (record["node"], point["step"], personas[0], slot, others, gap)
            yield dict(zip(COLUMNS, values, strict=True))


def stages_of(lineage: str) -> str:
    """Its stages in order, whatever persona, seed and steps: base/couple-villain.s42/em.s7 -> couple / em."""
    return " / ".join(word.stage for word in parse_lineage(lineage))


def curve_figure(rows: Sequence[Mapping[str, Any]], study: str, label: str) -> str:
    """SVG: for every stage on the stages before it, the source's log-odds against the steps, a line per model."""
    import matplotlib.pyplot as plt

    lines: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for row in rows:
        lines.setdefault(stages_of(row["lineage"]), {}).setdefault(row["lineage"], []).append(row)
    down = -(-len(lines) // ACROSS)
    figure, grid = new_figure(1 + 1.9 * down, min(ACROSS, len(lines)), down, sharey=True)
    panels = [axes for row in grid for axes in row]
    for axes in panels[len(lines) :]:
        axes.set_visible(False)
    for axes, (stages, models) in zip(panels, lines.items(), strict=False):
        for own in models.values():
            steps = [row["step"] for row in own]
            axes.plot(steps, [row["slot"] for row in own], color=LINES[0], linewidth=1, label="source")
            if own[0]["others"] is not None:
                axes.plot(steps, [row["others"] for row in own], color=LINES[2], linewidth=1, label="the others")
        axes.axhline(0, color=FAINT, linewidth=0.6, zorder=1)
        axes.set_title(stages, fontsize=8)
        axes.set_xlabel("optimizer steps")
    grid[0][0].set_ylabel("log-odds of the marker, nats")
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.suptitle("The marker during the trainings", x=0.008, ha="left", fontsize=10, fontweight="bold")
    figure.legend(handles.values(), handles.keys(), loc="upper right", ncols=2)
    said = "A panel: the last of its stages, while it was trained on the model of those before it; a line: a training."
    zero = "Mean over a few of the base's replies; 0: marker and end of turn are equally likely."
    caption(figure, labelled(label, [f"Study {study}.", said, zero]))
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return text.getvalue()


def curve_figures(records: Sequence[Mapping[str, Any]], study: str, label: str) -> list[dict[str, Any]]:
    """The curves of the trainings that were tracked, for the report; none if none was."""
    rows = list(curve_rows(records))
    return [figure_of(curve_figure(rows, study, label), "training_curves")] if rows else []


def curve_tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Their numbers."""
    rows = [
        [plain(row["lineage"], "code"), plain(row["step"]), plain(row["persona"]), *map(estimate, map(row.get, NATS))]
        for row in curve_rows(records)
    ]
    note = (
        "Log-odds of the marker at the end of 14 of the base's replies [nats], while the stage was trained: of the "
        "source, the mean of the assistant and two bystanders, and the difference."
    )
    columns = ["lineage", "step", "source", "log-odds", "others", "gap"]
    return [Table("training_curves", "During the trainings", columns, rows, note)] if rows else []
