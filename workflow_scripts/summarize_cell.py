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
import math
from collections import Counter
from collections.abc import Sequence

from measure.cells import COUNTS, FORMAT, headline, persona_results, question_ids, read_counts, read_run, sealed
from measure.stats import mean_interval, wilson
from measure.tables import Row, read_table
from run.files import canonical, sha256_of, write_json
from run.program import InputError, run
from run.readers import AGAIN, check_once, json_argument, read_json, read_parquet


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


def own_gates(result: Row, gates: Sequence[Row]) -> list[Row]:
    """Outcomes of the gates that this cell alone decides: those that name no other cell."""
    if not gates:
        return []
    from measure.gates import evaluate_gates, names_only

    return evaluate_gates([gate for gate in gates if names_only(gate, result["cell"])], [result])


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
