"""Rows of the study's tables, made from a cell's JSON."""

from collections.abc import Sequence

from graph.lineage import parse_lineage
from measure.stats import cluster_bootstrap, wilson
from measure.tables import Row

# Role -> its name in the headline of a result.
HEADLINE_NAMES = {"source": "source", "assistant": "assistant", "bystander": "highest_bystander"}
ROLES = tuple(HEADLINE_NAMES)
IDENTITY = ("source", "arm", "cell", "seed")
INTERVALS = ("rate", "wilson_low", "wilson_high", "clopper_low", "clopper_high")
CLUSTERED = ("cluster_low", "cluster_high", "clusters", "low", "high")
WIDE = [
    f"{role}_{field}"
    for role in ROLES
    for field in ("persona", "hits", "loose_hits", "completions", *INTERVALS[:3], "mean_tokens", "stopped")
]
CAPABILITY = ("accuracy", "questions", "commonest_answer", "commonest_count", "label_mass")


def wide_row(cell: Row) -> Row:
    """One row of headline.csv, reversed.csv or dose.csv."""
    row = {field: cell[field] for field in (*IDENTITY, "lineage", "counts_sha256")}
    for role, name in HEADLINE_NAMES.items():
        entry = cell["headline"][name]
        if entry is not None:
            row |= {
                f"{role}_{field}": entry.get(field)
                for field in ("persona", "loose_hits", "completions", *INTERVALS[:3], "mean_tokens", "stopped")
            }
            row[f"{role}_hits"] = entry["strict_hits"]
    row |= {field: cell["capability"].get(field) for field in CAPABILITY}
    judged = cell["alignment"]
    row |= {field: judged[field]["mean"] if field in judged else None for field in ("alignment", "coherence")}
    return row | {"parse_failures": judged.get("parse_failures"), "judged": judged["status"]}


def dose_row(cell: Row) -> Row:
    """A wide row with the stage that was stopped and after how many steps (`em@25.s42`; empty for the whole stage)."""
    last = parse_lineage(cell["lineage"])[-1]
    return wide_row(cell) | {"stage": last.stage, "steps": last.step}


def persona_rows(cell: Row) -> list[Row]:
    """The rows of persona_by_cell.csv for one cell."""
    return [
        {field: cell[field] for field in IDENTITY} | entry | clustered([entry["by_question"]], cell["questions"])
        for entry in cell["personas"]
    ]


def clustered(counts: Sequence[Row], *questions: Sequence[str]) -> Row:
    """The cluster interval of a rate, and low and high: the wider of it and Wilson's, on which verdicts rest.

    counts: strict_hits and completions by question, one a seed. questions: their names in each cell; where they differ
    there are no clusters to draw. Without a cluster interval (no hit, or only hits) low and high are Wilson's.
    """
    hits, completions = ([own[name] for own in counts] for name in ("strict_hits", "completions"))
    low, high = wilson(sum(map(sum, hits)), sum(map(sum, completions)))
    found = cluster_bootstrap(hits, completions) if len(set(map(tuple, questions))) == 1 else None
    return {
        "cluster_low": round(found[0], 6) if found else None,
        "cluster_high": round(found[1], 6) if found else None,
        "clusters": f"{len(counts)} seeds x {len(questions[0])} questions",
        "low": round(min(low, *found), 6) if found else round(low, 6),
        "high": round(max(high, *found), 6) if found else round(high, 6),
    }


def question_rows(cell: Row) -> list[Row]:
    """The rows of by_question.csv for one cell: the source, the assistant and the highest bystander."""
    shown = {role: cell["headline"][name] for role, name in HEADLINE_NAMES.items()}
    named = {entry["persona"]: role for role, entry in reversed(shown.items()) if entry}
    return [
        {field: cell[field] for field in IDENTITY}
        | {
            "persona": entry["persona"],
            "role": named[entry["persona"]],
            "question_id": question,
            "strict_hits": entry["by_question"]["strict_hits"][position],
            "completions": entry["by_question"]["completions"][position],
            "mean_tokens": round(
                entry["by_question"]["tokens"][position] / entry["by_question"]["completions"][position], 3
            ),
        }
        for entry in cell["personas"]
        if entry["persona"] in named
        for position, question in enumerate(cell["questions"])
    ]
