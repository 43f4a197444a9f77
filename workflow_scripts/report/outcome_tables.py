"""The report's tables of outcomes: gates, claims, and this study beside the published one."""

from collections.abc import Sequence
from dataclasses import replace

from measure.rows import RESTS_ON
from measure.tables import Row, counted, percent
from report.fields import Contents, Field, Table, outcome, plain


def gates_table(study: Contents) -> Table:
    """Every gate with its outcome and the numbers that decided it."""
    rows = [
        [
            Field(row["gate"], row["gate"], look="name", more=row["says"] or ""),
            plain(row["source"]),
            plain(row["seed"]),
            outcome(row["outcome"], row["reading"]),
            plain(row["numbers"], "long"),
            plain(row["expression"], "code"),
        ]
        for row in study.tables["gates"]
    ]
    columns = ["gate", "source", "seed", "outcome", "numbers", "passes if"]
    note = "Evaluated, not applied: no seed is dropped and nothing stops at a gate, but with gates: enforce nothing is "
    note += "trained on a coupled base that fails its own. A gate whose numbers were not measured is never passed."
    return Table("gates", "Gates and criteria", columns, rows, note, "cards")


def claims_table(claims: Sequence[Row], label: str) -> Table:
    """The ledger: each claim of the write-up against the figures it published and against this study."""
    rows = [
        [
            Field(row["claim"], row["id"], look="long", more=". ".join(filter(None, (row["where"], *said_of(row))))),
            outcome(row["published"]),
            plain(row["published_numbers"], "long"),
            outcome(row["study"]),
            replace(plain(row["study_numbers"], "long"), more=row["by_source"] or "", link=evidence_of(row)),
        ]
        for row in claims
    ]
    columns = ["claim", "published figures", "their numbers", "this study", "its numbers"]
    note = "Each claim is held against the published figures themselves, and against this study's tables."
    return Table("claims", "Claims", columns, rows, f"{note} This study: {label}." if label else note, "cards")


def said_of(claim: Row) -> list[str | None]:
    """What the ledger notes of a claim, and what it rests on if that is not counts."""
    return [claim["note"], None if claim["rests_on"] == "counts" else f"Rests on {claim['rests_on']}"]


def evidence_of(claim: Row) -> str:
    """The link to the table that a tested claim rests on, if that is one of the probe."""
    tables = {name: table for table, (name, _) in RESTS_ON.items()}
    tested = claim["rests_on"] != "counts" and claim["study"] != "not tested"
    return f"#table-{tables[claim['rests_on']]}" if tested else ""


def comparison_table(study: Contents, label: str) -> Table:
    """This study beside the published one."""
    rows = [
        [
            plain(row["source"]),
            plain(row["cell"], "name"),
            plain(row["seed"]),
            plain(row["quantity"]),
            quantity_of(row, "ours"),
            quantity_of(row, "published"),
            outcome(row["verdict"]),
            plain(row["why"], "long"),
        ]
        for row in study.tables["published_comparison"]
    ]
    columns = ["source", "cell", "seed", "quantity", "this study", "published", "verdict", "why"]
    note = (
        "Reproduced: the intervals overlap up to one of the rates; not: they are disjoint; ARC-C: within 3.2 points. "
        "Our judge is asked in words of our own, so its scores are not comparable."
    )
    note += f" Not comparable: {label}." if label else ""
    return Table("published_comparison", "Beside the published study", columns, rows, note)


def quantity_of(row: Row, side: str) -> Field:
    """What is compared, of one side (ours, published): a marker rate as hits, ARC-C in percent, any other as it is."""
    value, n = row[side], row[f"{side}_n"]
    low, high = row[f"{side}_low"], row[f"{side}_high"]
    if value is None:
        return Field("")
    if row["quantity"].startswith("marker rate"):
        return Field(counted(round(value * n), n, low, high), value, look="number")
    share = row["quantity"].startswith("ARC-C")
    scale = 100 if share else 1
    text = percent(value) if share else f"{value:.1f}"
    text += "" if low is None or high is None else f" [{scale * low:.1f}, {scale * high:.1f}]"
    return Field(text + ("" if n is None else f", n = {n:,}"), value, look="number")
