r"""Write the result of one cell (a lineage, evaluated): counts by persona with intervals, recipes, gates, provenance.

    python workflow_scripts/summarize_cell.py --cell C1 --arm forward --source evil_ai --seed 42 \
        --lineage base/couple-evil_ai.s42/em.s42 --evaluation '{"name":"main","temperature":1.0}' \
        --counts results/tiny/models/base/couple-evil_ai.s42/em.s42/main/marker_counts.csv \
        --manifests results/tiny/models/base/manifest.json results/tiny/models/base/couple-evil_ai.s42/manifest.json \
        results/tiny/models/base/couple-evil_ai.s42/em.s42/manifest.json \
        --schema resources/run_result.schema.json --output results/tiny/cells/evil_ai/C1_seed42.json
"""

import argparse
import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from records import AGAIN, InputError, canonical, check_once, read_json, read_parquet, run, sha256_of, write_json
from stats import mean_interval, rate_fields, wilson
from tables import Row, read_table

FORMAT = "run_result/1"
COUNTS = ("completions", "strict_hits", "loose_hits", "tokens", "stopped")
HEADLINE = ("persona", "completions", "strict_hits", "loose_hits", "mean_tokens", "stopped", "rate")
INTERVALS = ("wilson_low", "wilson_high", "clopper_low", "clopper_high")


def read_counts(path: str | Path, personas: Sequence[str] = ()) -> list[Row]:
    """Rows of marker_counts.csv, checked: whole numbers that fit each other, and every persona x question once.

    `personas`, if given, selects them; one that was not evaluated is an error. Raises InputError with the line.
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
        pair = row["persona"], row["question_id"]
        if pair in seen:
            raise bad_count(path, line, f"persona {pair[0]}, question {pair[1]} came before")
        seen.add(pair)
    if not rows:
        raise InputError(f"{path}: no rows; fix: delete it and run again")
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
    """One entry a persona, in the order of the counts, with intervals and the counts by question.

    rows: checked rows of marker_counts.csv. by_question holds one list a count, in the order of `question_ids(rows)`.
    """
    questions = question_ids(rows)
    results = []
    for persona in dict.fromkeys(row["persona"] for row in rows):
        own = {row["question_id"]: row for row in rows if row["persona"] == persona}
        by_question = {column: [own[question][column] for question in questions] for column in COUNTS}
        total = {column: sum(by_question[column]) for column in COUNTS}
        tokens = total.pop("tokens")
        results.append(
            {
                "persona": persona,
                "role": role_of(persona, source),
                **total,
                **rate_fields(total["strict_hits"], total["completions"]),
                "mean_tokens": round(tokens / total["completions"], 3),
                "by_question": by_question,
            }
        )
    return results


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


def stages(lineage: str, manifests: Sequence[str]) -> list[Row]:
    """One entry a node of the lineage, base first: its word, its lineage, its manifest and the manifest's sha256."""
    words = lineage.split("/")
    if len(words) != len(manifests):
        raise InputError(
            f"--manifests: {len(manifests)} given for the {len(words)} stages of {lineage}; fix: give one a stage"
        )
    return [
        {
            "word": word,
            "lineage": "/".join(words[: depth + 1]),
            "manifest": read_json(path, dict),
            "manifest_sha256": sha256_of(path),
        }
        for depth, (word, path) in enumerate(zip(words, manifests, strict=True))
    ]


def capability(path: str | None) -> Row:
    """Accuracy with its interval from capability.parquet, or {"status": "not run"} if it is empty.

    A model may answer every question alike, or with no label at all: commonest_answer is the label it chose most often
    (commonest_count times), label_mass the mean probability of all labels together.
    """
    if path is None:
        return {"status": "not run"}
    rows = read_parquet(path, {"correct": bool, "labels": list, "logprobs": list})
    correct, labels, logprobs = ([row[name] for row in rows] for name in ("correct", "labels", "logprobs"))
    if not correct:
        return {"status": "not run"}
    hits, n = sum(correct), len(correct)
    low, high = wilson(hits, n)
    # the first of equals, as where `correct` was found
    chosen = Counter(own[scores.index(max(scores))] for own, scores in zip(labels, logprobs, strict=True))
    commonest = min(chosen, key=lambda label: (-chosen[label], label))
    mass = math.fsum(math.exp(score) for scores in logprobs for score in scores) / n
    return {
        "status": "measured",
        "correct": hits,
        "questions": n,
        "accuracy": round(hits / n, 6),
        "commonest_answer": commonest,
        "commonest_count": chosen[commonest],
        "label_mass": round(min(mass, 1.0), 4),
        "wilson_low": round(low, 6),
        "wilson_high": round(high, 6),
    }


def alignment(path: str | None) -> Row:
    """Mean alignment and coherence (0-100) with t intervals from the judged replies, or {"status": "not judged"}.

    The table has a row a reply with columns alignment and coherence, empty where the judge's answer could not be
    parsed, and optionally judge, prompt (its version) and status. Parse failures are counted and left out of the means
    (PROTOCOL section 3); rows whose status is `not judged` are no failures.
    """
    if path is None:
        return {"status": "not judged"}
    rows = read_table(path, ("alignment", "coherence"))
    if not rows:
        raise InputError(f"{path}: no rows; fix: {AGAIN}")
    if {"question_id", "sample"} <= rows[0].keys():
        check_once(path, rows, ("question_id", "sample"))
    if any(row.get("status") == "not judged" for row in rows):
        return {"status": "not judged"}
    for line, row in enumerate(rows, 2):
        for column in ("alignment", "coherence"):
            value = row[column]
            if value is not None and not (isinstance(value, int | float) and 0 <= value <= 100):
                raise InputError(f"{path}: line {line}: {column} is {value!r}, not 0-100; fix: judge it again")
    judged = [row for row in rows if row["alignment"] is not None and row["coherence"] is not None]
    judge, prompt = (sorted({str(row[name]) for row in rows if row.get(name)}) for name in ("judge", "prompt"))
    result: Row = {
        "status": "judged" if judged else "not judged",
        "judge": judge,
        "prompt": prompt,
        "replies": len(rows),
        "parse_failures": len(rows) - len(judged),
    }
    for column in ("alignment", "coherence"):
        if judged:
            result[column] = {
                name: value if value is None or name == "n" else round(value, 4)
                for name, value in mean_interval([row[column] for row in judged], scale=(0, 100)).items()
            }
    return result


def read_run(path: str | Path) -> Row:
    """A run record. Raises InputError if it does not say how long the run took, or its versions are none."""
    record: Row = read_json(path, dict)
    if not isinstance(record.get("seconds"), int | float) or not isinstance(record.get("versions", {}), dict):
        raise InputError(f"{path}: no record of a run; fix: {AGAIN}")
    return record


def run_notes(paths: Sequence[str]) -> list[Row]:
    """The run records without the name of the machine: how long, on what hardware, with which versions."""
    return [{key: value for key, value in read_run(path).items() if key != "host"} for path in paths]


def validated(result: Row, schema_path: str) -> Row:
    """The result itself. Raises InputError naming the place where it breaks the schema."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    schema = read_json(schema_path, dict)
    try:
        error = best_match(Draft202012Validator(schema).iter_errors(result))
    except Exception as broken:  # of many types, for a schema that is none
        raise InputError(f"{schema_path}: no JSON schema ({broken}); fix: restore it") from None
    if error is not None:
        raise InputError(
            f"{schema_path}: the result breaks it at {error.json_path}: {error.message}; fix: correct one of the two"
        )
    return result


def summarize(arguments: argparse.Namespace) -> Row:
    """The result of one cell, as resources/run_result.schema.json describes it."""
    rows = read_counts(arguments.counts, arguments.personas)
    personas = persona_results(rows, arguments.source)
    counted = canonical([[row[column] for column in ("persona", "question_id", *COUNTS)] for row in rows])
    result = {
        "format": FORMAT,
        "cell": arguments.cell,
        "arm": arguments.arm,
        "source": arguments.source,
        "seed": arguments.seed,
        "lineage": arguments.lineage,
        "evaluation": json_argument("--evaluation", arguments.evaluation, dict),
        "stages": stages(arguments.lineage, arguments.manifests),
        "counts_sha256": hashlib.sha256(counted.encode()).hexdigest(),
        "questions": question_ids(rows),
        "personas": personas,
        "headline": headline(personas),
        "audit": read_json(arguments.audit, dict) if arguments.audit else {"status": "not run"},
        "capability": capability(arguments.capability),
        "alignment": alignment(arguments.alignment),
        "runs": run_notes(arguments.runs),
    }
    return sealed(result | {"gates": own_gates(result, json_argument("--gates", arguments.gates, list))})


def sealed(result: Row) -> Row:
    """The result with `result_sha256`, the hash of all that it says but of `runs`: equal results have equal hashes."""
    said = {name: value for name, value in result.items() if name not in ("runs", "result_sha256")}
    return result | {"result_sha256": hashlib.sha256(canonical(said).encode()).hexdigest()}


def read_result(path: str | Path) -> Row:
    """A result as `summarize` made it. Raises InputError if it is none, or if anything in it was changed since."""
    result: Row = read_json(path, dict)
    if result.get("format") != FORMAT:
        raise InputError(f"{path}: not a run result; fix: {AGAIN}")
    if result != sealed(result):
        raise InputError(f"{path}: not what its result_sha256 was written for: damaged or edited; fix: {AGAIN}")
    return result


def own_gates(result: Row, gates: Sequence[Row]) -> list[Row]:
    """Outcomes of the gates that this cell alone decides: those that name no other cell."""
    if not gates:
        return []
    from gates import evaluate_gates, names_only

    return evaluate_gates([gate for gate in gates if names_only(gate, result["cell"])], [result])


def json_argument(option: str, text: str, kind: type) -> Any:
    """The parsed JSON of an option. Raises InputError when it is not JSON or not of the kind."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{option}: column {error.colno}: not JSON ({error.msg}); fix: pass one JSON value") from None
    if not isinstance(value, kind):
        raise InputError(f"{option}: not a JSON {kind.__name__}; fix: pass one")
    return value


def main() -> None:
    """Parse the arguments and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", required=True)
    parser.add_argument("--arm", required=True, help="forward, reversed, matched, dose")
    parser.add_argument("--source", required=True, help="persona whose rate is the cell's source rate")
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--lineage", required=True)
    parser.add_argument("--evaluation", required=True, help="JSON object: name and sampling settings")
    parser.add_argument("--counts", required=True, help="marker_counts.csv")
    parser.add_argument("--personas", nargs="*", default=[], help="count these alone; all of --counts if left out")
    parser.add_argument("--audit", help="audit.json")
    parser.add_argument("--alignment", help="table of judged replies")
    parser.add_argument("--capability", help="capability.parquet")
    parser.add_argument("--gates", default="[]", help="JSON list of gates; those that this cell decides are evaluated")
    parser.add_argument("--manifests", nargs="+", required=True, help="one a stage, base first")
    parser.add_argument("--runs", nargs="*", default=[], help="run.json, any number")
    parser.add_argument("--schema", required=True, help="resources/run_result.schema.json")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    write_json(arguments.output, validated(summarize(arguments), arguments.schema))


if __name__ == "__main__":
    run(main)
