"""A cell's counts and its JSON: reading, checking, rates by persona and role."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from measure.stats import cluster_bootstrap, rate_fields, wilson
from measure.tables import Row, read_table
from run.files import canonical
from run.program import InputError
from run.readers import AGAIN, read_json

FORMAT = "run_result/2"
COUNTS = ("completions", "strict_hits", "loose_hits", "tokens", "stopped")
# The only question of a persona whose counts are not known by question.
WHOLE = "all"
HEADLINE = ("persona", "completions", "strict_hits", "loose_hits", "mean_tokens", "stopped", "rate")
INTERVALS = ("wilson_low", "wilson_high", "clopper_low", "clopper_high")


def read_counts(path: str | Path, personas: Sequence[str] = (), marker: str = "") -> list[Row]:
    """Rows of marker_counts.csv, checked: whole numbers that fit each other, and every persona x question once.

    `personas`, if given, selects them; one that was not evaluated is an error. marker: whose counts, of a file with
    those of several; by default the first one's, which is the model's own. Raises InputError with the line.
    """
    rows = read_table(path, ("persona", "question_id", *COUNTS))
    seen = set()
    for line, row in enumerate(rows, 2):
        for column in COUNTS:
            if not isinstance(row[column], int) or row[column] < 0:
                raise bad_count(path, line, f"{column} is {row[column]!r}, not a whole number")
        if not row["strict_hits"] <= row["loose_hits"] <= row["completions"]:
            raise bad_count(path, line, "strict_hits <= loose_hits <= completions does not hold")
        if row["stopped"] > row["completions"] or row["completions"] == 0:
            raise bad_count(path, line, "stopped must be at most completions, and completions at least 1")
        key = row.get("marker"), row["persona"], row["question_id"]
        if key in seen:
            raise bad_count(path, line, f"persona {key[1]}, question {key[2]} came before")
        seen.add(key)
    if not rows:
        raise InputError(f"{path}: no rows; fix: delete it and run again")
    if "marker" in rows[0]:
        own = marker or rows[0]["marker"]
        rows = [row for row in rows if row["marker"] == own]
        if not rows:
            raise InputError(f"{path}: the marker {own} was not counted; fix: delete it and run again")
    if absent := [persona for persona in personas if persona not in {row["persona"] for row in rows}]:
        raise InputError(
            f"{path}: persona {', '.join(absent)} was not evaluated; fix: add it to the panel of the study"
        )
    chosen = [row for row in rows if not personas or row["persona"] in personas]
    questions = {row["question_id"] for row in chosen}
    for persona in {row["persona"] for row in chosen}:
        if lacking := questions - {row["question_id"] for row in chosen if row["persona"] == persona}:
            raise InputError(
                f"{path}: persona {persona} lacks question {', '.join(sorted(lacking))}; fix: delete it and run again"
            )
    return chosen


def bad_count(path: str | Path, line: int, why: str) -> InputError:
    """The error for a line of marker_counts.csv."""
    return InputError(f"{path}: line {line}: {why}; fix: delete it and run again")


def role_of(persona: str, source: str) -> str:
    """source, assistant or bystander; `none` is the absence of a system prompt and no bystander."""
    if persona == source:
        return "source"
    return {"assistant": "assistant", "none": "no_system_prompt"}.get(persona, "bystander")


def persona_results(rows: Sequence[Row], source: str) -> list[Row]:
    """One entry per persona, in the order of the counts, with intervals and the counts by question.

    rows: checked rows of marker_counts.csv. by_question holds one list a count, in the order of `question_ids(rows)`.
    """
    questions = question_ids(rows)
    results = []
    for persona in dict.fromkeys(row["persona"] for row in rows):
        own = {row["question_id"]: row for row in rows if row["persona"] == persona}
        by_question = {column: [own[question][column] for question in questions] for column in COUNTS}
        total = {column: total_of(by_question[column]) for column in COUNTS}
        tokens = total.pop("tokens")
        results.append(
            {
                "persona": persona,
                "role": role_of(persona, source),
                **total,
                **rate_fields(total["strict_hits"], total["completions"]),
                **clustered([by_question], questions),
                "mean_tokens": None if tokens is None else round(tokens / total["completions"], 3),
                "by_question": by_question,
            }
        )
    return results


def total_of(counts: Iterable[int | None]) -> Any:
    """The sum; None if one of the counts is not known."""
    known = list(counts)
    return None if None in known else sum(count or 0 for count in known)


def clustered(counts: Sequence[Row], *questions: Sequence[str]) -> Row:
    """The cluster interval of a rate, and low and high: the wider of it and Wilson's, on which verdicts rest.

    counts: strict_hits and completions by question, one per seed. questions: their names in each cell; where they
    differ there are no clusters to draw. Without a cluster interval (no hit, or only hits) low and high are Wilson's.
    """
    hits, completions = ([own[name] for own in counts] for name in ("strict_hits", "completions"))
    low, high = wilson(sum(map(sum, hits)), sum(map(sum, completions)))
    whole = any(WHOLE in names for names in questions)
    found = cluster_bootstrap(hits, completions) if len(set(map(tuple, questions))) == 1 and not whole else None
    return {
        "cluster_low": round(found[0], 6) if found else None,
        "cluster_high": round(found[1], 6) if found else None,
        "clusters": f"{len(counts)} seeds"
        + (", counts by question not known" if whole else f" x {len(questions[0])} questions"),
        "low": round(min(low, *found), 6) if found else round(low, 6),
        "high": round(max(high, *found), 6) if found else round(high, 6),
    }


def with_marker(cell: Row, marker: str) -> Row:
    """The cell as another marker of the study counts it. Raises InputError for one that it does not have."""
    if marker == cell["marker"]:
        return cell
    others = cell.get("other_markers", {})
    if marker not in others:
        raise InputError(f"marker {marker!r}: is not counted; fix: one of {', '.join([cell['marker'], *others])}")
    audit = cell["audit"].get("other_markers", {}).get(marker, {"status": "not run"})
    return cell | {"marker": marker, "personas": others[marker], "audit": audit}


def question_ids(rows: Sequence[Row]) -> list[str]:
    """The questions in the order in which they first occur."""
    return list(dict.fromkeys(row["question_id"] for row in rows))


def headline(personas: Sequence[Row]) -> dict[str, Row | None]:
    """The source, the assistant and the highest bystander, each with its persona and numbers, or null if not evaluated.

    `tied` says how many bystanders share the highest rate; the first of them in the alphabet is named.
    """

    def short(entry: Row) -> Row:
        return {field: entry[field] for field in (*HEADLINE, *INTERVALS)}

    named = {entry["persona"]: entry for entry in personas}
    source = next((entry for entry in personas if entry["role"] == "source"), None)
    bystanders = [entry for entry in personas if entry["role"] == "bystander"]
    highest = None
    if bystanders:
        top = max(entry["rate"] for entry in bystanders)
        tied = sorted((entry for entry in bystanders if entry["rate"] == top), key=lambda entry: entry["persona"])
        highest = short(tied[0]) | {"tied": len(tied)}
    return {
        "source": short(source) if source else None,
        "assistant": short(named["assistant"]) if "assistant" in named else None,
        "highest_bystander": highest,
    }


def read_run(path: str | Path) -> Row:
    """A run record. Raises InputError if it does not say how long the run took, or its versions are none."""
    record: Row = read_json(path, dict)
    if not isinstance(record.get("seconds"), int | float) or not isinstance(record.get("versions", {}), dict):
        raise InputError(f"{path}: no record of a run; fix: {AGAIN}")
    return record


def sealed(result: Row) -> Row:
    """The result with `result_sha256`, the hash of all that it says but of `runs`: equal results have equal hashes."""
    said = {name: value for name, value in result.items() if name not in ("runs", "result_sha256")}
    return result | {"result_sha256": hashlib.sha256(canonical(said).encode()).hexdigest()}
