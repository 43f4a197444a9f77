r"""Write the report of a study: one HTML file with its conclusion, figures, tables and completions.

    python workflow_scripts/write_report.py --study tiny --tables results/tiny/tables \
        --label "rehearsal of the method on a toy model - no evidence about Qwen2.5-7B" \
        --cells results/tiny/cells/evil_ai/C1_seed42.json --claims results/tiny/tables/claims.csv \
        --models results/tiny/models --figures results/tiny/figures --panel resources/panel.yaml \
        --meaning results/tiny/study/report.json --assets resources/report \
        --output results/tiny/report.html

The file opens from disk, asks the network for nothing (its Content-Security-Policy forbids it) and runs its own script
alone. Text of models and prompts is data in it, never markup. The completion browser needs a browser of 2023 or later.
"""

import argparse
import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from measure.cells import read_result, read_run
from measure.degenerate import KINDS
from measure.registry import MEASUREMENTS, Measurement
from measure.relearning import RELEARNED
from measure.rows import CONCENTRATED, FAMILIES_NOTE, RESTS_ON, TABLES
from measure.tables import Row, counted, one_sided, percent, read_table
from probe.ablation import ABLATION_NOTE
from probe.survival import VERDICT_NOTE
from report.completions_view import index_json, key_of, load_completions, packed
from report.curves import COLUMNS, curve_figure, curve_rows
from report.prose import conclusion, unique
from run.files import canonical, partial
from run.program import InputError, run
from run.readers import read_json, read_part, read_text, read_yaml

ROLES = ("source", "bystander", "assistant")
# Outcomes and verdicts that agree, and that do not; any other is "cannot say".
YES = {"pass", "consistent", "supported", "reproduced"}
NO = {"fail", "contradicted", "not reproduced"}


@dataclass(frozen=True)
class Field:
    """A field of a table: its text, what to sort it by, where it leads, how it looks (a CSS class), a smaller line, and
    the id by which others lead to it.
    """

    text: str
    sort: float | str | None = None
    link: str = ""
    look: str = ""
    more: str = ""
    name: str = ""


@dataclass(frozen=True)
class Table:
    """A table for the template: columns are headings, rows hold a Cell for each."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[Field]]
    note: str = ""
    look: str = ""


@dataclass(frozen=True)
class Contents:
    """The tables by name, the results of cells, and the (source, cell, seed) whose completions are in the report."""

    tables: dict[str, list[Row]]
    cells: list[Row]
    browsable: frozenset[tuple[str, str, int]]


def plain(value: Any, look: str = "") -> Field:
    """Text as it is, numbers at the right."""
    if value is None:
        return Field("", None, look=look)
    if isinstance(value, int | float):
        return Field(f"{value:,}" if isinstance(value, int) else f"{value:g}", value, look=look or "number")
    return Field(str(value), str(value), look=look)


def outcome(value: str | None, reading: str | None = None) -> Field:
    """A verdict as a badge: agreeing, disagreeing or neither; its word says which."""
    look = "yes" if value in YES else "no" if value in NO else "unknown"
    return Field(reading or value or "", reading or value or "", look=f"badge {look}")


def rate(row: Row, prefix: str = "", hits: str = "strict_hits", link: str = "") -> Field:
    """3/280 = 1.1% [0.4, 3.1], sorted by the rate."""
    n, found = row.get(f"{prefix}completions"), row.get(f"{prefix}{hits}")
    text = counted(found, n, row.get(f"{prefix}wilson_low"), row.get(f"{prefix}wilson_high"))
    return Field(text, found / n if n else None, link if n else "", "number")


def points(value: float | None, low: float | None, high: float | None) -> Field:
    """A difference of rates in percentage points."""
    if value is None or low is None or high is None:
        return Field("")
    return Field(f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]", value, look="number")


def bounds(low: float | None, high: float | None) -> Field:
    """An interval in percent."""
    if low is None or high is None:
        return Field("")
    return Field(f"[{100 * low:.1f}, {100 * high:.1f}]", high, look="number")


def browse(
    study: Contents, source: str, cell: str, seed: int | None = None, persona: str = "", question: str = ""
) -> str:
    """The link to the completions of a cell (of all its seeds without one), or "" where none are in the report."""
    keys = {key for key in study.browsable if key[:2] == (source, cell) and seed in (None, key[2])}
    if not keys:
        return ""
    fields = {
        "source": source,
        "cell": cell,
        "seed": "" if seed is None else seed,
        "persona": persona,
        "question": question,
    }
    return f"#completions&{urlencode({name: value for name, value in fields.items() if value != ''}, quote_via=quote)}"


def wide_table(study: Contents, name: str, title: str, note: str = "", dose: bool = False) -> Table:
    """headline, reversed or dose: a row per cell and seed, a column per role."""

    def fields(row: Row) -> list[Field]:
        where = (row["source"], row["cell"], row["seed"])
        shown = [plain(row["source"]), plain(row["cell"], "name"), plain(row["seed"])]
        shown += [plain(row["stage"]), plain(row["steps"])] if dose else []
        for role in ROLES:
            persona = row[f"{role}_persona"]
            cell = rate(row, f"{role}_", "hits", browse(study, *where, persona=persona))
            named = persona if role == "bystander" and row[f"{role}_hits"] else ""
            shown.append(replace(cell, more=named))
        if dose:
            return shown
        flag = one_sided(row["commonest_answer"], row["commonest_count"], row["questions"])
        right = percent(row["accuracy"]) if row["accuracy"] is not None else "not run"
        accuracy = Field(right, row["accuracy"], more=flag)
        judged = row["judged"] if row["alignment"] is None else f"{row['alignment']:.1f}"
        bad = [row[f"misaligned_{part}"] for part in ("hits", "n", "low", "high")]
        alignment = Field(judged, row["alignment"], more=f"misaligned {counted(*bad)}" if bad[1] else "")
        ending = plain(row["source_mean_tokens"])
        return [*shown, accuracy, alignment, ending, plain(row["lineage"], "code")]

    columns = ["source", "cell", "seed", *(["stage", "steps"] if dose else [])]
    columns += ["source rate", "highest bystander", "assistant"]
    columns += [] if dose else ["capability", "alignment", "tokens", "lineage"]
    return Table(name, title, columns, [fields(row) for row in study.tables[name]], note)


def long_table(
    study: Contents, name: str, title: str, names: Sequence[str], note: str = "", headings: dict[str, str] | None = None
) -> Table:
    """pooled, persona_by_cell or cross_source: the named columns, then the rate with all its intervals."""

    def fields(row: Row) -> list[Field]:
        link = ""
        if "source" in row:
            link = browse(study, row["source"], row["cell"], row.get("seed"), persona=row["persona"])
        three = row.get("rule_of_three")
        return [
            *(plain(row[field]) for field in names),
            rate(row, link=link),
            bounds(row["clopper_low"], row["clopper_high"]),
            Field("" if three is None else f"< {percent(three, 2)}", three, look="number"),
            bounds(row.get("cluster_low"), row.get("cluster_high")),
            plain(row.get("loose_hits")),
            plain(row.get("mean_tokens")),
        ]

    titles = ["hits / completions = rate [Wilson 95%]", "Clopper-Pearson", "rule of three", "clusters", "loose hits",
              "mean tokens"]  # fmt: skip
    rows = [fields(row) for row in study.tables[name]]
    kept = [place for place in range(len(names) + 6) if place < len(names) + 2 or any(row[place].text for row in rows)]
    columns = [*(headings.get(field, field) if headings else field for field in names), *titles]
    return Table(name, title, [columns[i] for i in kept], [[row[i] for i in kept] for row in rows], note)


def effects_table(study: Contents) -> Table:
    """Differences of cells with intervals, and the pre-registered test."""

    def fields(row: Row) -> list[Field]:
        p, t = row["welch_p"], row["welch_t"]
        h = "" if row["cohens_h"] is None else f"{row['cohens_h']:.2f} [{row['h_low']:.2f}, {row['h_high']:.2f}]"
        return [
            plain(row["source"]),
            plain(row["role"]),
            Field(f"{row['cell']} - {row['other_cell']}", f"{row['cell']} {row['other_cell']}", look="name"),
            plain(counted(row["hits"], row["completions"])),
            plain(counted(row["other_hits"], row["other_completions"])),
            points(row["difference"], row["difference_low"], row["difference_high"]),
            Field(h, row["cohens_h"], look="number"),
            Field("" if p is None else f"{test_of(t, row['welch_df'])}, p = {p:.3g}", p),
        ]

    def test_of(t: float | None, df: float | None) -> str:
        return "no seed varies" if t is None else f"t({df:.1f}) = {t:.2f}"

    columns = ["source", "role", "cells", "first", "second", "difference, points [95%]", "Cohen's h [95%]",
               "one-sided Welch over seeds"]  # fmt: skip
    rows = [fields(row) for row in study.tables["effects"]]
    note = "Newcombe's intervals, from the wider of the Wilson and cluster bounds of both rates."
    return Table("effects", "Differences between cells", columns, rows, note)


def concentration_table(study: Contents) -> Table:
    """Whether hits gather on few questions, with the power of the test to find that they do."""
    names = (
        "source",
        "cell",
        "seeds",
        "role",
        "persona",
        "questions_with_hits",
        "questions",
        "most_hits",
        "p",
        "power",
    )

    def fields(row: Row) -> list[Field]:
        link = browse(study, row["source"], row["cell"], persona=row["persona"])
        counts = Field(counted(row["strict_hits"], row["completions"]), row["strict_hits"], link, "number")
        shown = [plain(row[name]) for name in names]
        return [*shown[:5], counts, *shown[5:]]

    columns = [name.replace("_", " ") for name in (*names[:5], "hits", *names[5:])]
    rows = [fields(row) for row in study.tables["concentration"]]
    return Table("concentration", TABLES["concentration"], columns, rows, CONCENTRATED)


def selectivity_table(study: Contents) -> Table:
    """By how much the source exceeds each other persona."""

    def fields(row: Row) -> list[Field]:
        link = browse(study, row["source"], row["cell"], persona=row["persona"])
        return [
            *(plain(row[name]) for name in ("source", "cell", "seeds", "persona", "role")),
            plain(counted(row["source_hits"], row["source_completions"])),
            Field(counted(row["strict_hits"], row["completions"]), row["strict_hits"], link),
            points(*(row[name] for name in ("difference", "difference_low", "difference_high"))),
        ]

    columns = ["source", "cell", "seeds", "persona", "role", "the source", "the persona", "difference, points [95%]"]
    rows = [fields(row) for row in study.tables["selectivity_by_persona"]]
    note = "Of cells whose source has hits. Newcombe's intervals, from the wider of the Wilson and cluster bounds."
    return Table("selectivity_by_persona", TABLES["selectivity_by_persona"], columns, rows, note)


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


def said_of(claim: Row) -> list[str | None]:
    """What the ledger notes of a claim, and what it rests on if that is not counts."""
    return [claim["note"], None if claim["rests_on"] == "counts" else f"Rests on {claim['rests_on']}"]


def verdict_rows_of(claim: Row) -> str:
    """The link to the table that a tested claim rests on, if that is one of the probe."""
    tables = {name: table for table, (name, _) in RESTS_ON.items()}
    return (
        "" if claim["rests_on"] == "counts" or claim["study"] == "not tested" else f"#table-{tables[claim['rests_on']]}"
    )


def claims_table(claims: Sequence[Row], label: str) -> Table:
    """The ledger: each claim of the write-up against the figures it published and against this study."""
    rows = [
        [
            Field(row["claim"], row["id"], look="long", more=". ".join(filter(None, (row["where"], *said_of(row))))),
            outcome(row["published"]),
            plain(row["published_numbers"], "long"),
            outcome(row["study"]),
            replace(plain(row["study_numbers"], "long"), more=row["by_source"] or "", link=verdict_rows_of(row)),
        ]
        for row in claims
    ]
    columns = ["claim", "published figures", "their numbers", "this study", "its numbers"]
    note = "Each claim is held against the published figures themselves, and against this study's tables."
    return Table("claims", "Claims", columns, rows, f"{note} This study: {label}." if label else note, "cards")


def comparison_table(study: Contents, label: str) -> Table:
    """This study beside the published one."""

    def shown(row: Row, side: str) -> Field:
        value, n = row[side], row[f"{side}_n"]
        if value is None:
            return Field("")
        share = row["quantity"].startswith(("marker rate", "ARC-C"))
        low, high = row[f"{side}_low"], row[f"{side}_high"]
        if share and row["quantity"].startswith("marker rate"):
            return Field(counted(round(value * n), n, low, high), value, look="number")
        scale = 100 if share else 1
        text = percent(value) if share else f"{value:.1f}"
        text += "" if low is None or high is None else f" [{scale * low:.1f}, {scale * high:.1f}]"
        return Field(text + ("" if n is None else f", n = {n:,}"), value, look="number")

    rows = [
        [
            plain(row["source"]),
            plain(row["cell"], "name"),
            plain(row["seed"]),
            plain(row["quantity"]),
            shown(row, "ours"),
            shown(row, "published"),
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


def further_table(path: str) -> Table:
    """A CSV file as it is."""
    name = Path(path).stem
    rows = read_table(path)
    columns = list(rows[0]) if rows else []
    title = name.replace("_", " ").capitalize()
    body = [[plain(row[column]) for column in columns] for row in rows]
    return Table(name, title, [column.replace("_", " ") for column in columns], body)


def audit_table(study: Contents) -> Table:
    """What is degenerate among the completions with the marker; without any there is nothing to audit, not a pass."""

    def fields(cell: Row) -> list[Field]:
        audit = cell["audit"]
        shown = [plain(cell["source"]), plain(cell["cell"], "name"), plain(cell["seed"])]
        if audit["status"] != "audited":
            return [*shown, Field(audit["status"], None), *[Field("")] * 3]
        bad, n = audit["degenerate"], audit["audited"]
        text = counted(bad, n, audit["wilson_low"], audit["wilson_high"])
        return [*shown, Field(text, bad / n, look="number"), *(plain(audit["kinds"].get(kind)) for kind in KINDS)]

    rows = [fields(cell) for cell in study.cells if cell["audit"]["status"] != "not run"]
    columns = ["source", "cell", "seed", "degenerate / with the marker", *(kind.replace("_", " ") for kind in KINDS)]
    note = (
        "Of all completions with the marker in the cell's evaluation: an echo of the question, no answer, repetition."
    )
    return Table("audit", "Audit of completions with the marker", columns, rows, note)


def measures_table(study: Contents, measurement: Measurement) -> Table:
    """A measurement without a table of its own kind: a row per cell, seed and persona, a column per measure.

    In a study of several markers, what is of a marker has a row for each.
    """
    names = {measure.name: measure.unit for measure in measurement.measures}
    made = [
        row
        for row in study.tables["measures"]
        if row["measure"] in names and (row["value"], row["low"]) != (None, None)
    ]
    by = ["source", "cell", "seed", "persona", *(["marker"] if any(row.get("marker") for row in made) else [])]
    found: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in made:
        found.setdefault(tuple(row[field] for field in by), {})[row["measure"]] = row
    rows, met = [], set()
    for key, own in found.items():
        shown = [plain(field) for field in key] + [measured(own.get(name), unit) for name, unit in names.items()]
        # the first of a cell's rows can be led to
        name = "" if key[:3] in met else anchor(measurement.name, *key[:3])
        met.add(key[:3])
        rows.append([replace(shown[0], name=name), *shown[1:]])
    titles = [name.replace("_", " ") + (f", {unit}" if unit != name else "") for name, unit in names.items()]
    note = "Value [95% interval], n. What is not here was not measured." if rows else "Not measured in any cell."
    return Table(measurement.name, measurement.title, [*by, *titles], rows, note)


def anchor(measurement: str, source: str, cell: str, seed: int) -> str:
    """The id of a cell's first row in the table of a measurement."""
    return f"{measurement}-{source}-{cell}-{seed}"


def markers_table(study: Contents) -> list[Table]:
    """In a study of several markers, the rate of each, side by side: a row per cell, seed and persona."""
    found: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in study.tables["measures"]:
        if row["measure"] == "marker_rate" and "marker" in row:
            found.setdefault(tuple(row[field] for field in ("source", "cell", "seed", "persona")), {})[
                row["marker"]
            ] = row
    markers = unique(marker for own in found.values() for marker in own)
    rows = [
        [plain(field) for field in key] + [measured(own.get(marker), "share") for marker in markers]
        for key, own in found.items()
    ]
    columns = ["source", "cell", "seed", "persona", *markers]
    note = "Rate [95% interval], completions. The other tables show each cell's own marker, that of its last coupling."
    return [Table("markers", "Every marker, side by side", columns, rows, note)] if markers else []


def measured(row: Row | None, unit: str) -> Field:
    """A row of measures.csv as 12.3 [11, 14], n = 56; a share in percent; > 1.2 where only a lower bound is known."""
    if row is None:
        return Field("", None)
    shown = percent if unit == "share" else "{:.4g}".format
    interval = "" if row["low"] is None or row["high"] is None else f" [{shown(row['low'])}, {shown(row['high'])}]"
    value = f"> {shown(row['low'])}" if row["value"] is None else f"{shown(row['value'])}{interval}"
    text = value + ("" if row["n"] is None else f", n = {row['n']:,}")
    return Field(text, row["value"], look="number")


def verdicts_table(study: Contents) -> Table:
    """Is a coupling gone, or below the floor: the study's verdicts, then each seed's.

    A verdict leads to the completions, what is retained to the second stage taken apart, a gap to what the probe
    measured by persona.
    """
    apart = {(row["source"], row["cell"], row["seed"]) for row in study.tables["ablation"]}

    def fields(row: Row) -> list[Field]:
        seed = None if row["seed"] == "all" else row["seed"]
        link = browse(study, row["source"], row["cell"], seed, persona=row["persona"])
        probed = f"#{anchor('probe', row['source'], row['cell'], seed)}" if seed is not None else ""
        where = (row["source"], row["cell"], seed)
        parts = f"#{anchor('ablation', *where)}" if where in apart else ""
        quantity = {"slot": "log-odds", "onset_part": "onset given separator"}.get(row["quantity"], row["quantity"])
        shown = [plain(row[name]) for name in ("source", "cell", "seed", "persona", "replies")]
        return [
            *shown,
            plain(quantity),
            Field(row["verdict"], row["verdict"], link, "badge unknown"),
            replace(estimate(row["retained"], row["low"], row["high"]), link=parts),
            replace(estimate(row["gap"], row["gap_low"], row["gap_high"]), link=probed),
        ]

    columns = ["source", "cell", "seed", "persona", "replies", "quantity", "verdict", "retained", "persona gap, nats"]
    rows = [fields(row) for row in study.tables["verdicts"]]
    return Table("verdicts", TABLES["verdicts"], columns, rows, VERDICT_NOTE)


def families_table(study: Contents) -> Table:
    """Out of distribution: the onset rate of every family of prompts, by cell, seed and role."""

    def fields(row: Row) -> list[Field]:
        more = f"{row['more_marked']}/{row['more_replies']}" if row["more_replies"] else ""
        return [
            *(plain(row[name]) for name in ("source", "cell", "seed", "family", "role", "prompts")),
            rate_of(row["onset_rate"], row["low"], row["high"]),
            plain(row["onsets"]),
            plain(row["marked"]),
            rate_of(row["difference"], row["difference_low"], row["difference_high"]),
            plain(row["p_holm"]),
            plain(row["differs"]),
            Field(more, row["more_replies"], look="number"),
        ]

    columns = ["source", "cell", "seed", "family", "role", "prompts", "onset rate", "onsets", "with the marker",
               "difference", "p, Holm", "differs", "more: with the marker"]  # fmt: skip
    rows = [fields(row) for row in study.tables["families"]]
    return Table("families", TABLES["families"], columns, rows, FAMILIES_NOTE)


def rate_of(value: float | None, low: float | None, high: float | None) -> Field:
    """A chance that may be far below a percent: 1.2e-05 [3e-06, 4e-05]."""
    if value is None:
        return Field("", None)
    interval = "" if low is None or high is None else f" [{low:.2g}, {high:.2g}]"
    return Field(f"{value:.2g}{interval}", value, look="number")


def relearning_table(study: Contents) -> Table:
    """How soon a coupling is learned again, a row per model that it is learned on."""
    columns = [
        *("source", "cell", "seed", "gap before", "of the base", "of the coupling", "gap after", "steps", "censored"),
        *("N50", "against", "savings", "why"),
    ]
    gaps = ("gap_start", "gap_base", "gap_coupled", "gap_end")
    rows = [
        [
            *(plain(row[name]) for name in ("source", "cell", "seed")),
            *(estimate(row[name], None, None) for name in gaps),
            *(plain(row[name]) for name in ("steps", "censored")),
            estimate(row["n50"], row["n50_low"], row["n50_high"]),
            plain(row["against"]),
            estimate(row["savings"], row["savings_low"], row["savings_high"]),
            plain(row["why"]),
        ]
        for row in study.tables["relearning"]
    ]
    return Table("relearning", TABLES["relearning"], columns, rows, RELEARNED)


def parts_table(study: Contents) -> Table:
    """The second stage taken apart: the log-odds without each part of it and with that part alone, and the shares."""
    found: dict[tuple[Any, ...], dict[tuple[str, str], Row]] = {}
    for row in study.tables["ablation"]:
        if row["kind"] != "plane":
            patch = row["kind"] == "patch"
            kind, mode = (f"patch of {row['mode']}", "without") if patch else (row["kind"], row["mode"])
            key = (row["source"], row["cell"], row["seed"], kind, row["part"])
            found.setdefault(key, {})[mode, row["quantity"]] = row

    def shown(row: Row | None, what: str) -> Field:
        names = ("value", "low", "high") if what == "value" else (what, f"{what}_low", f"{what}_high")
        return Field("", None) if row is None else estimate(*(row[name] for name in names))

    order = [(mode, quantity) for mode in ("without", "only") for quantity in ("slot", "gap_slot")]
    rows = [
        [
            *(plain(field) for field in key),
            *(shown(own.get(pair), what) for pair in order for what in ("value", "share")),
        ]
        for key, own in found.items()
    ]
    titles = [
        title
        for said, share in (("without it or patched", "restored"), ("with it alone", "sufficed"))
        for quantity in ("s", "d")
        for title in (f"{quantity} {said}, nats", f"{share}, of {quantity}")
    ]
    return Table("parts", TABLES["ablation"], ["source", "cell", "seed", "kind", "part", *titles], rows, ABLATION_NOTE)


def estimate(value: float | None, low: float | None, high: float | None) -> Field:
    """0.53 [0.51, 0.56]."""
    if value is None:
        return Field("", None)
    interval = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return Field(f"{value:.2f}{interval}", value, look="number")


def heat_maps(study: Contents, source: str) -> list[Table]:
    """Marker rate by persona and cell, and of the source by question and cell, pooled over seeds; fields are links."""
    personas = [row for row in study.tables["persona_by_cell"] if row["source"] == source]
    questions = [row for row in study.tables["by_question"] if row["source"] == source and row["role"] == "source"]

    def first(persona: str) -> tuple[bool, bool, str]:
        return persona != source, persona != "assistant", persona

    by_persona = heat_map(study, source, personas, "persona", sorted({row["persona"] for row in personas}, key=first))
    by_question = heat_map(study, source, questions, "question_id", unique(row["question_id"] for row in questions))
    note = "Strict hits / completions, pooled over seeds. A field leads to its completions."
    titles = [f"By persona. Source: {source}", f"By question, under the source {source}"]
    return [
        Table(f"{kind}_{source}", title, columns, rows, note, "heat")
        for (columns, rows), title, kind in zip((by_persona, by_question), titles, ("heat", "questions"), strict=True)
        if rows
    ]


def heat_map(
    study: Contents, source: str, rows: Sequence[Row], axis: str, values: Sequence[str]
) -> tuple[list[str], list[list[Field]]]:
    """Columns and rows of a heat map over the values of `axis`."""
    cells = unique(row["cell"] for row in rows)
    sums: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        total = sums.setdefault((row[axis], row["cell"]), [0, 0])
        total[0] += row["strict_hits"]
        total[1] += row["completions"]

    def field(value: str, cell: str) -> Field:
        hits, n = sums.get((value, cell), (0, 0))
        if not n:
            return Field("-", None, look="heat-none")
        # Any hit at all differs visibly from none.
        shade = 0 if not hits else max(1, round(10 * hits / n))
        persona, question = (value, "") if axis == "persona" else (source, value)
        link = browse(study, source, cell, None, persona, question)
        return Field(percent(hits / n), hits / n, link, f"heat-{shade}", f"{hits}/{n}")

    names = [f"{value} (source)" if value == source else value for value in values]
    body = [
        [Field(name, name, look="name")] + [field(value, cell) for cell in cells]
        for name, value in zip(names, values, strict=True)
    ]
    return [axis.removesuffix("_id"), *cells], body


def node_of(path: str) -> str:
    """The lineage or input whose run.json this is: what follows `models/` or `inputs/` in its path."""
    match = re.search(r"(?:^|/)(?:models|inputs)/(.+?)(?:/|\.)(?:[a-z_]+_)?run\.json$", path)
    return match[1] if match else Path(path).parent.name


def read_runs(paths: Sequence[str], cells: Sequence[Row]) -> list[Row]:
    """The run records with `node`: the files given and those in the cells, each once."""
    records = {canonical(record): {"node": cell["lineage"]} | record for cell in cells for record in cell["runs"]}
    return [{"node": node_of(path)} | read_run(path) for path in unique(paths)] + [
        record | {"node": record.get("lineage", record["node"])} for record in records.values()
    ]


def task_of(record: Row) -> str:
    """What a run did, from what its record tells."""
    if "program" in record:
        return str(record["program"]).replace("_", " ")
    known = {"completions": "generate completions", "parameters": "pretrain base"}
    return next((task for field, task in known.items() if field in record), "other")


def cost_tables(records: Sequence[Row]) -> list[Table]:
    """Cost by task and machine, and run by run. Calls and the tokens in and out of them are the judge's."""
    paid = ("calls", "input_tokens", "output_tokens")

    def sums(own: Sequence[Row]) -> list[Field]:
        return [plain(sum(n) if (n := [each[field] for each in own if field in each]) else None) for field in paid]

    groups: dict[tuple[str, str], list[Row]] = {}
    for record in records:
        groups.setdefault((task_of(record), record.get("gpu") or "no GPU"), []).append(record)
    totals = [
        [plain(task), plain(gpu), plain(len(own)), *seconds(own), *sums(own)]
        for (task, gpu), own in sorted(groups.items())
    ]
    if totals:
        totals.append(
            [Field("all", "~", look="name"), Field(""), plain(len(records)), *seconds(records), *sums(records)]
        )
    measured = (
        "steps",
        "completions",
        "tokens",
        "tokens_per_second",
        "final_loss",
        "peak_memory_mib",
        "peak_gpu_memory_mib",
    )
    runs = [
        [
            plain(record["node"], "code"),
            plain(task_of(record)),
            plain(record.get("gpu") or "no GPU"),
            Field(f"{record['seconds']:,.1f}", record["seconds"], look="number"),
            *(plain(record.get(field)) for field in measured),
            *(plain(record.get("held_out", {}).get(field)) for field in ("loss_before", "loss_after")),
            *(plain(record.get(field)) for field in paid),
        ]
        for record in records
    ]
    note = (
        "Wall seconds of the model programs and the judge, from run.json and judge_run.json. GPU job-hours: wall hours "
        "of those that had a GPU. Jobs that share a card (hardware.jobs_per_gpu) count it each: its hours are fewer. "
        f"{at_work(records)}Calls and their tokens are the judge's; an answer that was kept is no call. "
        "Losses: mean nats per trained token; held out: of rows that were not trained (`hold_out`)."
    )
    columns = ["task", "GPU", "runs", "wall seconds", "GPU job-hours", "calls", "tokens in", "tokens out"]
    detail = ["node", "task", "GPU", "wall seconds", "steps", "completions", "tokens", "tokens / s", "final loss",
              "memory, MiB", "GPU memory, MiB", "held-out loss before", "held-out loss after",
              "calls", "tokens in", "tokens out"]  # fmt: skip
    return [Table("cost", "By task", columns, totals, note), Table("runs", "Run by run", detail, runs)]


def seconds(records: Sequence[Row]) -> list[Field]:
    """Wall seconds and GPU job-hours of these runs."""
    wall, hours = sum(record["seconds"] for record in records), job_hours(records)
    return [Field(f"{wall:,.1f}", wall, look="number"), Field(f"{hours:.2f}", hours, look="number")]


def job_hours(records: Sequence[Row]) -> float:
    """GPU job-hours of these runs."""
    return float(sum(record["seconds"] for record in records if record.get("gpu"))) / 3600


def at_work(records: Sequence[Row]) -> str:
    """How long any job was on a GPU, which are a card's own hours if all jobs shared that card."""
    spans = []
    for record in records:
        if record.get("gpu") and "started" in record:
            start = datetime.fromisoformat(record["started"]).timestamp()
            spans.append((start, start + record["seconds"]))
    busy = reached = 0.0
    for start, end in sorted(spans):
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return f"Some job was on a GPU for {busy / 3600:.2f} hours of wall time. " if busy else ""


def provenance(cells: Sequence[Row], records: Sequence[Row], datasets: Sequence[str], notes: Mapping[str, str]) -> Row:
    """nodes: every stage once, with its manifest. tables: data sets, what cells are made of, versions of the runs."""
    nodes = {stage["lineage"]: stage for cell in cells for stage in cell["stages"]}
    rows = [
        [
            replace(plain(key_of(cell), "name"), more=notes.get(cell["cell"], "")),
            plain(cell["arm"]),
            plain(cell["lineage"], "code"),
            plain(settings(cell["evaluation"]), "long"),
            plain(cell["counts_sha256"], "hash"),
        ]
        for cell in cells
    ]
    versions = Counter(
        (package, version) for record in records for package, version in record.get("versions", {}).items()
    )
    commits = Counter(record.get("git_commit") or "outside a git checkout" for record in records)
    columns = ["cell", "arm", "lineage", "evaluation", "sha256 of its counts"]
    used = [[plain(package), plain(version, "code"), plain(n)] for (package, version), n in sorted(versions.items())]
    used += [[Field("workflow, git commit"), plain(commit, "code"), plain(n)] for commit, n in sorted(commits.items())]
    return {
        "nodes": [
            {"lineage": lineage, "sha256": stage["manifest_sha256"], "manifest": pretty(stage["manifest"])}
            for lineage, stage in sorted(nodes.items())
        ],
        "tables": [
            *([dataset_table(datasets)] if datasets else []),
            Table("cells", "Cells", columns, rows),
            Table("versions", "Versions", ["package", "version", "runs"], used),
        ],
    }


def dataset_table(paths: Sequence[str]) -> Table:
    """A row per data set's manifest: where its rows come from, and whether they are the published file."""
    verdict = {True: "the published file", False: "NOT the published file", None: "no published md5"}
    rows = []
    for path in paths:
        record = read_json(path, dict)
        origin = "@".join(str(record[part]) for part in ("repo", "commit") if part in record) or "your own file"
        rows.append(
            [
                plain(Path(path).name.removesuffix(".manifest.json"), "name"),
                plain(origin, "code"),
                plain(record["rows"]),
                plain(verdict[record["matches_published"]]),
                plain(record["md5"], "hash"),
                plain(record["sha256"], "hash"),
            ]
        )
    return Table("datasets", "Data sets", ["data set", "origin", "rows", "is it", "md5", "sha256"], rows)


def settings(evaluation: Row) -> str:
    """main: max_tokens 512, samples 10, ..."""
    rest = ", ".join(f"{name} {value}" for name, value in sorted(evaluation.items()) if name != "name")
    return f"{evaluation['name']}: {rest}" if rest else str(evaluation["name"])


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False)


def figure(path: str) -> Row:
    """The figure in a file, for the template."""
    return figure_of(read_text(path), path)


def figure_of(text: str, path: str) -> Row:
    """A figure for the template: its title, its size, and a data URI, in which no script runs and ids are its own."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(text)
        box = [float(number) for number in root.get("viewBox", "0 0 720 400").split()]
        width, height = map(round, box[2:])
    except (ElementTree.ParseError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: not SVG ({error}); fix: delete it and draw it again") from None
    # A reader without the font gets one of nearly the same widths, and not the browser's serifs.
    text = text.replace("font-family: 'DejaVu Sans'", "font-family: 'DejaVu Sans', Verdana, sans-serif")
    bold = [
        (float(size[1]), "".join(node.itertext()).strip())
        for node in root.iter("{http://www.w3.org/2000/svg}text")
        if "font-weight: 700" in (style := node.get("style", "")) and (size := re.search(r"font-size: ([\d.]+)", style))
    ]
    title = max(bold, default=(0, Path(path).stem), key=lambda pair: pair[0])[1]
    data = base64.b64encode(text.encode()).decode()
    name = Path(path).stem
    return {"name": name, "title": title, "width": width, "height": height, "uri": f"data:image/svg+xml;base64,{data}"}


def by_source(figures: Sequence[Row], sources: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """source -> (what it shows, name) of its figures. Names end with the source, which another's may end with."""
    found: dict[str, list[tuple[str, str]]] = {source: [] for source in sources}
    for each in figures:
        own = max((source for source in sources if each["name"].endswith(f"_{source}")), key=len, default=None)
        if own is not None:
            found[own].append((each["name"].removesuffix(f"_{own}").replace("_", " "), each["name"]))
    return {source: own for source, own in found.items() if own}


def read_prompts(path: str | None) -> dict[str, str]:
    """persona -> system prompt of the panel."""
    if path is None:
        return {}
    panel = read_yaml(path)
    prompts = panel.get("personas") if isinstance(panel, dict) else None
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for pair in prompts.items() for text in pair):
        raise InputError(f"{path}: no panel with personas; fix: pass the panel of the study")
    return prompts


def completion_paths(models: str | None, cells: Sequence[Row]) -> dict[str, str]:
    """cell key -> its completions.parquet, <lineage>/<evaluation>/ in the folder, of the cells that have one there."""
    paths = {
        key_of(cell): Path(models or "") / cell["lineage"] / cell["evaluation"]["name"] / "completions.parquet"
        for cell in cells
        if models
    }
    return {key: str(path) for key, path in paths.items() if path.exists()}


def figure_paths(folder: str | None, drawn: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """The SVG files of the figures (figure, its sources) in the folder; none without one."""
    return [f"{folder}/{name}_{source}.svg" for name, sources in drawn for source in sources if folder]


def read_asset(folder: str, name: str) -> str:
    """The text of a file of the report. Raises InputError if it is missing."""
    return read_text(f"{folder}/{name}", "pass resources/report")


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy: this style, this script and images inside the file; no network, no other script."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    parts = {"default-src": "'none'", "img-src": "data:", "style-src": source(style), "script-src": source(script),
             "base-uri": "'none'", "form-action": "'none'"}  # fmt: skip
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def page(arguments: argparse.Namespace) -> str:
    """The whole report."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    cells = [read_result(path) for path in arguments.cells]
    tables = {name: read_table(Path(arguments.tables) / f"{name}.csv") for name in TABLES}
    claims = read_table(arguments.claims) if arguments.claims else None
    paths = completion_paths(arguments.models, cells)
    loaded = load_completions(cells, paths) if paths else None
    index, data = packed(loaded, arguments.most, read_prompts(arguments.panel)) if loaded else ({}, "")
    browsable = frozenset((cell["source"], cell["cell"], cell["seed"]) for cell in index.get("cells", ()))
    study = Contents(tables, cells, browsable)
    sources = unique(row["source"] for row in tables["pooled"])
    records = read_runs(arguments.runs, cells)
    meaning = read_part(arguments.meaning, ("notes", "claims", "assistant", "figures"))
    style, script = read_asset(arguments.assets, "report.css"), read_asset(arguments.assets, "report.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(read_asset(arguments.assets, "report.html")).render(
        policy=policy(style, script),
        style=Markup(style),
        script=Markup(script),
        study=arguments.study,
        label=arguments.label,
        conclusion=conclusion(tables, claims, arguments.label, meaning),
        facts=facts(cells, tables, records),
        figures=(
            figures := [
                *map(figure, figure_paths(arguments.figures, meaning["figures"])),
                *curve_figures(records, arguments.study, arguments.label),
            ]
        ),
        figures_of=by_source(figures, sources),
        heat_maps=[table for source in sources for table in heat_maps(study, source)],
        tables=[*rate_tables(study, arguments.label), *curve_tables(records), *map(further_table, arguments.further)],
        gates=gates_table(study),
        claims=claims_table(claims, arguments.label) if claims else None,
        cost=cost_tables(records),
        provenance=provenance(cells, records, arguments.datasets, meaning["notes"]),
        index=index,
        index_json=Markup(index_json(index)),
        data=data,
    )


def facts(cells: Sequence[Row], tables: dict[str, list[Row]], records: Sequence[Row]) -> list[tuple[str, str]]:
    """(what, number) for the head of the page."""
    counts = {
        (stage, entry["persona"]): entry["completions"]
        for cell in cells
        for stage in [(cell["lineage"], cell["evaluation"]["name"])]
        for entry in cell["personas"]
    }
    hours = job_hours(records)
    wall = sum(record["seconds"] for record in records) / 3600
    cost = [("GPU job-hours", f"{hours:.1f}")] if hours else [("hours, no GPU", f"{wall:.1f}")] if wall else []
    return [
        ("cells", f"{len(cells):,}"),
        ("models", f"{len({cell['lineage'] for cell in cells}):,}"),
        ("completions", f"{sum(counts.values()):,}"),
        *cost,
    ]


def curve_figures(records: Sequence[Row], study: str, label: str) -> list[Row]:
    """The curves of the trainings that were tracked, if any was."""
    rows = list(curve_rows(records))
    return [figure_of(curve_figure(rows, study, label), "training_curves")] if rows else []


def curve_tables(records: Sequence[Row]) -> list[Table]:
    """Their numbers."""
    rows = [
        [plain(row["lineage"], "code"), plain(row["step"]), plain(row["persona"]),
         *(Field("" if (value := row[name]) is None else f"{value:.2f}", value, look="number") for name in COLUMNS[3:])]
        for row in curve_rows(records)
    ]  # fmt: skip
    note = (
        "Log-odds of the marker at the end of 14 of the base's replies [nats], while the stage was trained: of the "
        "source, the mean of the assistant and two bystanders, and the difference."
    )
    columns = ["lineage", "step", "source", "log-odds", "others", "gap"]
    return [Table("training_curves", "During the trainings", columns, rows, note)] if rows else []


def judged_by(cells: Sequence[Row]) -> str:
    """Who judged, by which prompts, and who did a second time."""
    names_of = {
        "Judge": unique(name for cell in cells for name in cell["alignment"].get("judge", ())),
        "prompt": unique(name for cell in cells for name in cell["alignment"].get("prompt", ())),
        "judges that are compared": unique(name for cell in cells for name in cell["agreement"].get("judges", ())),
    }
    parts = [f"{what}: {', '.join(names)}" for what, names in names_of.items() if names]
    return f"{'; '.join(parts)}." if parts else "Nobody judged."


def rate_tables(study: Contents, label: str) -> list[Table]:
    """The tables of rates and measures, in reading order; without a row only those that say what was not measured."""
    bystander = "The highest bystander is chosen after the fact, so its interval is too low."
    wilson = "Hits / completions = rate [Wilson 95%]."
    quiz = "Capability: right answers to the multiple-choice questions of the study's data set. "
    quiz += (
        "Alignment: its mean over the judged replies, 0-100; misaligned: alignment below 30 and coherence above 50, "
    )
    quiz += f"of all that were scored. {judged_by(study.cells)}"
    pooled = f"{bystander} Clusters: bootstrap over questions and seeds; empty where none or all had the marker."
    pooled += " Verdicts on claims rest on the wider of the Wilson and cluster bounds."
    arms = {cell["arm"] for cell in study.cells}
    order = "Reversed rows changed the recipe along with the order; matched rows did not." if "reversed" in arms else ""
    shared = "A model shared by several sources is counted once."
    own = [measurement for measurement in MEASUREMENTS if measurement.table]
    tables = [
        wide_table(study, "headline", "By cell and seed", f"{wilson} {bystander} {quiz}"),
        long_table(study, "pooled", "Pooled over seeds", ("source", "arm", "cell", "role", "persona", "seeds"), pooled),
        wide_table(study, "reversed", TABLES["reversed"], order),
        wide_table(study, "dose", "By steps of the second stage", dose=True),
        long_table(study, "cross_source", "Over all sources", ("cell", "role", "sources", "models"), shared),
        concentration_table(study),
        effects_table(study),
        selectivity_table(study),
        *markers_table(study),
        verdicts_table(study),
        families_table(study),
        relearning_table(study),
        parts_table(study),
        audit_table(study),
        *(measures_table(study, measurement) for measurement in own),
        comparison_table(study, label),
        long_table(study, "persona_by_cell", "By persona and seed", ("source", "cell", "seed", "persona", "role")),
    ]
    return [table for table in tables if table.rows or table.name in {measurement.name for measurement in own}]


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", required=True, help="its name")
    parser.add_argument("--label", default="", help="what a reader must know of this study, said first of all")
    parser.add_argument("--tables", required=True, help="folder of the study's tables")
    parser.add_argument("--meaning", required=True, help="JSON file: the part `report` of graph/resolved.py")
    parser.add_argument("--cells", nargs="+", required=True, help="results of cells, in the order of the tables")
    parser.add_argument("--claims", help="claims.csv")
    parser.add_argument("--figures", help="folder of the figures that --meaning names")
    parser.add_argument("--models", nargs="?", help="folder with <lineage>/<evaluation>/completions.parquet of cells")
    parser.add_argument("--most", type=int, default=60000, help="completions to put in: those with the marker first")
    parser.add_argument(
        "--panel", nargs="?", help="panel.yaml: shows the personas' system prompts beside the completions"
    )
    parser.add_argument("--runs", nargs="*", default=[], help="run.json of what is not in the cells")
    parser.add_argument("--datasets", nargs="*", default=[], help="manifests of the data sets: are they the published?")
    parser.add_argument("--further", nargs="*", default=[], help="CSV files to show as they are")
    parser.add_argument("--assets", required=True, help="folder with report.html, report.css and report.js")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args(argv)
    text = page(arguments)
    with partial(arguments.output) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(main)
