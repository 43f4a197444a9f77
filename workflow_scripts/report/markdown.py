"""The Markdown twins of the study's tables: what a person reads of each, and the note above it."""

from collections.abc import Sequence
from typing import Any

from measure.comparison import COMPARED
from measure.equal_distance import EQUAL_NOTE
from measure.relearning import RELEARNED
from measure.retained import RETAINED_NOTE
from measure.rows import CONCENTRATED, FAMILIES_NOTE, ROLES
from measure.tables import Row, one_sided, percent
from probe.survival import VERDICT_NOTE
from report.fields import bounds, rate

Twin = tuple[list[str], list[list[Any]]]  # columns and rows

WIDER = "The CSV's low and high are the wider of the Wilson and cluster bounds; verdicts on claims rest on them."
NOTES = {
    "headline": "Strict hits / completions, with Wilson 95% intervals. "
    "The highest bystander is chosen after the fact, so its interval is too low. "
    "Capability: right answers to the multiple-choice questions of the study's data set.",
    "pooled": "The bystander is the one with the highest pooled rate. Clusters: "
    f"bootstrap over questions and seeds; empty where no or every completion had the marker. {WIDER}",
    "concentration": CONCENTRATED,
    "cross_source": f"A model shared by several sources is counted once. {WIDER}",
    "effects": "Intervals of differences: Newcombe's, from the wider of the Wilson and cluster bounds of both rates.",
    "selectivity_by_persona": "Of cells whose source has hits, pooled over seeds. Where an interval holds 0 the "
    "persona is not told from the source.",
    "gates": "Evaluated, not applied: no seed is dropped and nothing stops at a gate, but with `enforce: true` nothing "
    "is trained on a coupled base that fails its own.",
    "persona_by_cell": "Personas with at least one hit; the CSV has all of them.",
    "verdicts": VERDICT_NOTE,
    "families": FAMILIES_NOTE,
    "relearning": RELEARNED,
    "equal_distance": EQUAL_NOTE,
    "retained": RETAINED_NOTE,
    "published_comparison": COMPARED,
}


def markdown_of(name: str, columns: Sequence[str], rows: Sequence[Row]) -> Twin | None:
    """Columns and rows of the Markdown twin of a table; None for one that is too long to read."""
    if name in ("headline", "reversed"):
        return markdown_wide(rows)
    if name == "dose":
        return markdown_dose(rows)
    if name == "pooled":
        return markdown_long(rows, ("source", "arm", "cell", "role", "persona", "seeds"))
    if name == "cross_source":
        return markdown_long(rows, ("cell", "role", "sources", "models"))
    if name == "persona_by_cell":
        return markdown_long(
            [row for row in rows if row["strict_hits"]], ("source", "arm", "cell", "seed", "persona", "role")
        )
    if name == "gates":
        return markdown_plain(rows, ("gate", "source", "seed", "reading", "numbers", "expression"))
    if name in ("by_question", "layers", "measures", "ablation", "adapters"):
        return None
    return markdown_plain(rows, columns)


def markdown_wide(rows: Sequence[Row]) -> Twin:
    """headline or reversed."""
    columns = ["source", "arm", "cell", "seed", "source rate", "assistant rate", "highest bystander", "capability",
               "alignment", "tokens"]  # fmt: skip
    return columns, [
        [
            *(row[name] for name in ("source", "arm", "cell", "seed")),
            *(role_rate(row, role) for role in ROLES),
            accuracy(row),
            row["judged"] if row["alignment"] is None else f"{row['alignment']:.1f}",
            row.get("source_mean_tokens"),
        ]
        for row in rows
    ]


def role_rate(row: Row, role: str) -> str:
    """The rate of a role in a wide row; of the bystander also who it is, if it gave the marker."""
    shown, persona = rate(row, f"{role}_", "hits").text, row.get(f"{role}_persona")
    return f"{shown} {persona}" if role == "bystander" and row.get("bystander_hits") and persona else shown


def accuracy(row: Row) -> str:
    """The accuracy of a wide row, with a word on a model that answers alike."""
    flag = one_sided(row["commonest_answer"], row["commonest_count"], row["questions"])
    return ", ".join(filter(None, (percent(row["accuracy"]), flag)))


def markdown_dose(rows: Sequence[Row]) -> Twin:
    """dose: what was stopped, and the rates of the roles."""
    names = ("source", "cell", "stage", "steps", "seed")
    return [*names, *ROLES], [[row[n] for n in names] + [role_rate(row, role) for role in ROLES] for row in rows]


def markdown_long(rows: Sequence[Row], names: Sequence[str]) -> Twin:
    """The named columns, then the rate with its intervals."""
    columns = [*names, "hits / completions = rate [Wilson 95%]", "Clopper-Pearson", "rule of three", "clusters"]
    return columns, [
        [
            *(row[name] for name in names),
            rate(row).text,
            bounds(row["clopper_low"], row["clopper_high"]).text,
            "" if row.get("rule_of_three") is None else f"< {percent(row['rule_of_three'], 2)}",
            bounds(row.get("cluster_low"), row.get("cluster_high")).text,
        ]
        for row in rows
    ]


def markdown_plain(rows: Sequence[Row], columns: Sequence[str]) -> Twin:
    """As it stands in the CSV."""
    return list(columns), [[row.get(column) for column in columns] for row in rows]
