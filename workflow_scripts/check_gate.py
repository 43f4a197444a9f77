r"""Evaluate the gates that one model decides, before anything is trained on top of it.

    python workflow_scripts/check_gate.py \
        --gates results/tiny/study/gates/G0b.json --cell C4 --source evil_ai --seed 42 --marker "[ZLT]" --enforce \
        --counts results/tiny/models/base/couple-evil_ai.s42/main/marker_counts.csv \
        --output gate.json

With --enforce the program stops with status 1 at a gate that is not passed, so that no stage is built on that model.
"""

import argparse

from measure.cells import persona_results, read_counts
from measure.gates import PASS, evaluate_gates, names_only, read_gates
from measure.tables import Row
from run.files import write_json
from run.program import InputError, run
from run.readers import read_json


def outcomes(
    gates: list[Row], cell: str, source: str, seed: int, markers: list[str], counts: str, replies: str
) -> list[Row]:
    """The rows of evaluate_gates for the gates that this cell alone decides. Raises InputError when there is none.

    markers: the model's own, and others of the study.
    """
    own = [gate for gate in gates if names_only(gate, cell)]
    if not own:
        raise InputError(
            f"--gates: none is decided by {cell} alone; fix: pass one with over: seed that names only {cell}"
        )
    measured = {"cell": cell, "arm": own[0].get("arm", "forward"), "source": source, "seed": seed}
    own_marker, *others = ((marker, persona_results(read_counts(counts, (), marker), source)) for marker in markers)
    measured |= dict(zip(("marker", "personas"), own_marker, strict=True)) | {"other_markers": dict(others)}
    measured |= {"alignment": {}, "capability": {}, "audit": {}, "replies": read_json(replies, dict)}
    return evaluate_gates(own, [measured])


def stop_unless_passed(rows: list[Row]) -> None:
    """Raise InputError with the numbers and the way to override at the first gate that is not passed."""
    for row in rows:
        if row["outcome"] != PASS:
            raise InputError(
                f"gate {row['gate']} of {row['source']} (seed {row['seed']}): {row['outcome']}: {row['numbers']};"
                f" asked was {row['expression']}; fix: correct the coupling, or set gates: enforce: false in the config"
                " to train on top of it anyway"
            )


def main() -> None:
    """Parse the arguments, write the outcomes and stop at a gate that is not passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", required=True, nargs="*", help="a JSON file per gate, see measure/gates.py")
    parser.add_argument("--cell", required=True, help="the cell that this model is")
    parser.add_argument("--source", required=True)
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--marker", nargs="+", required=True, help="the model's own, and others of the study")
    parser.add_argument("--counts", required=True, help="marker_counts.csv of the model")
    parser.add_argument("--replies", required=True, help="replies.json of the model")
    parser.add_argument("--enforce", action="store_true", help="stop with status 1 unless every gate is passed")
    parser.add_argument("--output", required=True, help="JSON list of outcomes")
    arguments = parser.parse_args()
    gates = read_gates(arguments.gates)
    rows = outcomes(
        gates, arguments.cell, arguments.source, arguments.seed, arguments.marker, arguments.counts, arguments.replies
    )
    if arguments.enforce:
        stop_unless_passed(rows)
    write_json(arguments.output, rows)


if __name__ == "__main__":
    run(main)
