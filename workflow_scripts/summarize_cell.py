r"""Write the result of one cell (a lineage, evaluated): counts by persona with intervals, recipes, gates, provenance.

    python workflow_scripts/summarize_cell.py --cell results/tiny/study/cells/evil_ai/C1_seed42.json \
        --measured results/tiny/models/base/couple-evil_ai.s42/em.s42/main/{marker_counts.csv,audit.json} \
        --manifests results/tiny/models/base/manifest.json results/tiny/models/base/couple-evil_ai.s42/manifest.json \
        results/tiny/models/base/couple-evil_ai.s42/em.s42/manifest.json \
        --schema resources/run_result.schema.json --output results/tiny/cells/evil_ai/C1_seed42.json
"""

import argparse
import hashlib
from collections.abc import Sequence

from measure.cells import COUNTS, FORMAT, headline, persona_results, question_ids, read_counts, read_run, sealed
from measure.gates import own_gates, read_gates
from measure.registry import SECTIONS, measure_rows, of_cell, validated
from measure.tables import Row
from run.files import canonical, sha256_of, write_json
from run.program import InputError, run
from run.readers import read_json, read_part

# Of a cell as the resolved study has it (graph/resolved.py), what is the same in its result.
SAME = ("cell", "arm", "source", "seed", "lineage", "evaluation")


def stages(lineage: str, manifests: Sequence[str]) -> list[Row]:
    """One entry per node of the lineage, base first: its word, its lineage, its manifest and the manifest's sha256."""
    words = lineage.split("/")
    if len(words) != len(manifests):
        raise InputError(
            f"--manifests: {len(manifests)} given for the {len(words)} stages of {lineage}; fix: give one per stage"
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


def run_notes(paths: Sequence[str]) -> list[Row]:
    """The run records without the name of the machine: how long, on what hardware, with which versions."""
    return [{key: value for key, value in read_run(path).items() if key != "host"} for path in paths]


def summarize(arguments: argparse.Namespace) -> Row:
    """The result of one cell, as resources/run_result.schema.json and the registry of measurements describe it."""
    files = of_cell(arguments.measured)
    if "counts" not in files:
        raise InputError("--measured: no marker_counts.csv, without which there is no cell; fix: add it")
    cell = read_part(arguments.cell, (*SAME, "markers", "personas"))
    marker, *others = cell["markers"]
    rows = read_counts(files["counts"], cell["personas"], marker)
    personas = persona_results(rows, cell["source"])
    counted = canonical([[row[column] for column in ("persona", "question_id", *COUNTS)] for row in rows])
    result = {
        "format": FORMAT,
        **{name: cell[name] for name in SAME},
        "marker": marker,
        "stages": stages(cell["lineage"], arguments.manifests),
        "counts_sha256": hashlib.sha256(counted.encode()).hexdigest(),
        "questions": question_ids(rows),
        "personas": personas,
        "headline": headline(personas),
        "runs": run_notes(arguments.runs),
    }
    if others:
        result["other_markers"] = {
            other: persona_results(read_counts(files["counts"], cell["personas"], other), cell["source"])
            for other in others
        }
    counted_personas = [entry["persona"] for entry in personas]
    result |= {each.name: each.section(files.get(each.name), counted_personas) for each in SECTIONS}
    result["measures"] = measure_rows(result)
    return sealed(result | {"gates": own_gates(result, read_gates(arguments.gates))})


def main() -> None:
    """Parse the arguments and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", required=True, help="the cell as the resolved study has it, see graph/resolved.py")
    parser.add_argument(
        "--measured", nargs="+", required=True, help="marker_counts.csv and the files of other measurements, by name"
    )
    parser.add_argument("--gates", nargs="*", default=[], help="a JSON file per gate that this cell alone decides")
    parser.add_argument("--manifests", nargs="+", required=True, help="one per stage, base first")
    parser.add_argument("--runs", nargs="*", default=[], help="run.json, any number")
    parser.add_argument("--schema", required=True, help="resources/run_result.schema.json")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    write_json(arguments.output, validated(summarize(arguments), arguments.schema))


if __name__ == "__main__":
    run(main)
