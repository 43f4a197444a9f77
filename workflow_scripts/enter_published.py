r"""Enter the published counts as the cells of a study that have no weights, for the programs that draw a study.

    python workflow_scripts/enter_published.py --published resources/published \
        --cells results/reanalysis/study/cells/villain/*.json --gates results/reanalysis/study/gates/*.json \
        --schema resources/run_result.schema.json --output-dir results/reanalysis/cells

Every published count must be one of the cells, and every cell have counts. What was not published (lengths, loose hits
of some sources, other personas, spreads of alignment) is empty in the cell, never a number. A cell's manifests name the
file and the commit of its counts.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

from measure.cells import COUNTS, FORMAT, headline, persona_results, question_ids, sealed
from measure.gates import own_gates, read_gates
from measure.published import count_rows, read_published
from measure.registry import SECTIONS, measure_rows, validated
from measure.stats import wilson
from measure.tables import Row, read_table
from run.files import canonical, write_json
from run.program import InputError, run
from run.readers import read_part

REPOSITORY = "superkaiba/explore-persona-space"
JUDGE = "claude-sonnet-4-5-20250929"
# Of a cell as the resolved study has it, what is the same in its result.
SAME = ("cell", "arm", "source", "seed", "lineage")
QUESTIONS, REPLIES = 1172, 80  # ARC-Challenge's test; alignment questions x samples


def capability(summary: Row | None) -> Row:
    """The section of a published accuracy, which has three digits for some sources: `correct` is the nearest count."""
    if not summary or summary["arc_c"] is None:
        return {"status": "not run"}
    correct = round(summary["arc_c"] * QUESTIONS)
    low, high = wilson(correct, QUESTIONS)
    return {
        "status": "measured",
        "correct": correct,
        "questions": QUESTIONS,
        "accuracy": round(summary["arc_c"], 6),
        "wilson_low": round(low, 6),
        "wilson_high": round(high, 6),
    }


def alignment(summary: Row | None) -> Row:
    """The section of published mean scores, whose spread was not published: without intervals."""
    if not summary or summary["alignment_mean"] is None:
        return {"status": "not judged"}
    errors = summary["judge_errors"]
    n = None if errors is None else REPLIES - errors
    section: Row = {"status": "judged", "judge": [JUDGE], "prompt": ["published"], "replies": REPLIES}
    section |= {} if errors is None else {"parse_failures": errors}
    means = {name: summary[f"{name}_mean"] for name in ("alignment", "coherence")}
    return section | {name: {"n": n, "mean": round(mean, 4), "low": None, "high": None} for name, mean in means.items()}


def stages(lineage: str, origin: Row) -> list[Row]:
    """One entry per node of the lineage; the last one's manifest says where its counts are from."""
    words = lineage.split("/")
    made = []
    for depth, word in enumerate(words):
        manifest: Row = {"published": {"repository": REPOSITORY, "weights": "not here"}}
        if depth == len(words) - 1:
            manifest["published"] |= {name: value for name, value in origin.items() if value is not None}
        digest = hashlib.sha256(canonical(manifest).encode()).hexdigest()
        place = "/".join(words[: depth + 1])
        made.append({"word": word, "lineage": place, "manifest": manifest, "manifest_sha256": digest})
    return made


def entered(
    cell: Row, counts: Sequence[Row], summary: Row | None, origins: dict[str, Row], gates: Sequence[Row]
) -> Row:
    """The result of one cell from its published rows."""
    rows = count_rows(counts)
    name = counts[0]["origin"]
    if name not in origins:
        raise InputError(f"origins.csv: no origin {name}; fix: add it")
    places = {"cell": cell["cell"].lower(), "seed": cell["seed"]}
    origin = {
        field: value.format(**places) if isinstance(value, str) and field in ("counts", "results") else value
        for field, value in origins[name].items()
    }
    personas = persona_results(rows, cell["source"])
    said = canonical([[row[column] for column in ("persona", "question_id", *COUNTS)] for row in rows])
    result = {field: cell[field] for field in SAME}
    result |= {
        "marker": cell["markers"][0],
        # each batch evaluated models of its own, also where this project would share one
        "evaluation": cell["evaluation"] | {"name": name},
        "format": FORMAT,
        "stages": stages(cell["lineage"], origin),
        "counts_sha256": hashlib.sha256(said.encode()).hexdigest(),
        "questions": question_ids(rows),
        "personas": personas,
        "headline": headline(personas),
        "runs": [],
    }
    result |= {each.name: each.section(None) for each in SECTIONS}
    result |= {"capability": capability(summary), "alignment": alignment(summary)}
    result["measures"] = measure_rows(result)
    return sealed(result | {"gates": own_gates(result, gates)})


def enter(cells: Sequence[Row], published: Path, gates: Sequence[Row]) -> list[Row]:
    """The results of all cells. Raises InputError for counts of no cell, and for a cell without counts."""
    origins = {row["origin"]: row for row in read_table(published / "origins.csv", ("origin", "counts", "commit"))}
    summaries = {
        (row["source"], row["cell"], row["seed"]): row
        for row in read_table(published / "cell_summary.csv", ("source", "cell", "seed", "arc_c", "alignment_mean"))
    }
    counts: dict[tuple[object, ...], list[Row]] = {}
    for row in read_published(published / "marker_counts.csv"):
        counts.setdefault((row["source"], row["arm"], row["cell"], row["seed"]), []).append(row)
    results = []
    for cell in cells:
        where = (cell["source"], cell["arm"], cell["cell"])
        # a seed that was not stated is that of the only such cell
        own = counts.pop((*where, cell["seed"]), None) or counts.pop((*where, None), None)
        if own is None:
            raise InputError(
                f"marker_counts.csv: no counts of {' '.join(map(str, where))}, seed {cell['seed']}; fix: add them"
            )
        results.append(entered(cell, own, summaries.get((cell["source"], cell["cell"], cell["seed"])), origins, gates))
    if counts:
        left = ", ".join(" ".join(map(str, key)) for key in counts)
        raise InputError(f"marker_counts.csv: counts of no cell of the study: {left}; fix: add a row to study.yaml")
    return results


def main() -> None:
    """Parse the arguments and write one file per cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", required=True, type=Path, help="folder with the published figures")
    parser.add_argument("--cells", nargs="+", required=True, help="a JSON file per cell, see graph/resolved.py")
    parser.add_argument("--gates", nargs="*", default=[], help="a JSON file per gate")
    parser.add_argument("--schema", required=True, help="resources/run_result.schema.json")
    parser.add_argument("--output-dir", required=True, type=Path)
    arguments = parser.parse_args()
    cells = [read_part(path, (*SAME, "markers", "evaluation")) for path in arguments.cells]
    for result in enter(cells, arguments.published, read_gates(arguments.gates)):
        path = arguments.output_dir / result["source"] / f"{result['cell']}_seed{result['seed']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, validated(result, arguments.schema))


if __name__ == "__main__":
    run(main)
