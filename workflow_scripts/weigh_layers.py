"""Weigh what the layers of a cell's model say of its coupled persona, beside the models that it is compared with.

    python workflow_scripts/weigh_layers.py --source evil_ai --cell em.s42/main/layers.parquet \\
        --reference ../em.s42/main/layers.parquet --before couple-evil_ai.s42/main/layers.parquet \\
        --base base/main/layers.parquet --output by_layer.json

--source     the persona that was coupled. Everybody else but the assistant is a bystander
--reference  the same lineage without the coupling; --before: up to the coupling; --base: the base. They go together
What the numbers mean: docs/measurements.md.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from measure.cells import role_of
from probe.compared import add_models, check_alike, check_together, read_models
from probe.survival import STATUSES, ByQuestion, Row, averaged, mean
from probe.table import LENS, READOUT, read_layers
from run.files import write_json
from run.program import InputError, run
from run.readers import AGAIN

DIGITS = 5


def by_question(rows: Sequence[Row], value: str, personas: Sequence[str]) -> ByQuestion:
    """The mean of a column over personas, by question. rows: of one layer, a row per persona and question."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["persona"] in personas:
            found.setdefault(row["question_id"], []).append(row[value])
    return {question: mean(values) for question, values in found.items()}


def minus(one: ByQuestion, other: ByQuestion) -> ByQuestion:
    """The differences by question."""
    return {question: value - other[question] for question, value in one.items() if question in other}


def roles_of(rows: Sequence[Row], value: str, source: str) -> dict[str, ByQuestion]:
    """A lens's values at one layer by role; gap: the source's minus the bystanders' mean."""
    personas = sorted({row["persona"] for row in rows})
    bystanders = [persona for persona in personas if role_of(persona, source) == "bystander"]
    found = {"source": by_question(rows, value, [source])}
    if assistant := [persona for persona in personas if role_of(persona, source) == "assistant"]:
        found["assistant"] = by_question(rows, value, assistant)
    if bystanders:
        found["bystanders"] = by_question(rows, value, bystanders)
        found["gap"] = minus(found["source"], found["bystanders"])
    return found


def lines_of(name: str, rows: Sequence[Row], source: str) -> Iterator[dict[str, Any]]:
    """A model's numbers by layer, role and quantity."""
    for layer in sorted({row["layer"] for row in rows}):
        own = [row for row in rows if row["layer"] == layer]
        found = {(role, value): values for value in LENS for role, values in roles_of(own, value, source).items()}
        found |= {("source", value): by_question(own, value, [source]) for value in READOUT}
        for (role, quantity), values in found.items():
            place = {"model": name, "role": role, "quantity": quantity, "layer": layer}
            yield place | {"depth": round(own[0]["depth"], 5)} | averaged(values).rounded(DIGITS)


def depth_of(lines: Sequence[Row], quantity: str) -> float | None:
    """The depth from which on, to the last layer, the gap's interval lies above 0; None if it does not at the last."""
    found = None
    for line in reversed([line for line in lines if (line["role"], line["quantity"]) == ("gap", quantity)]):
        if line["low"] is None or line["low"] <= 0:
            return found
        found = line["depth"]
    return found


def over_layers(rows: Sequence[Row], value: str, source: str) -> ByQuestion:
    """The source's mean over all layers but the embeddings, by question."""
    return by_question([row for row in rows if row["layer"]], value, [source])


def weigh(models: Mapping[str, Sequence[Row]], source: str) -> dict[str, Any]:
    """The section of a cell's JSON. models: see probe.compared, or the cell alone."""
    personas = {row["persona"] for row in models["cell"]}  # others may know more
    models = {name: [row for row in rows if row["persona"] in personas] for name, rows in models.items()}
    lines = [line for name, rows in models.items() for line in lines_of(name, rows, source)]
    section: dict[str, Any] = {"status": STATUSES[2 if len(models) > 1 else 1], "persona": source, "layers": lines}
    own = [line for line in lines if line["model"] == "cell"]
    questions = len({row["question_id"] for row in models["cell"]})
    for quantity in LENS:
        depth = depth_of(own, quantity)
        section[f"depth_{quantity}"] = {"value": depth, "low": None, "high": None, "n": questions}
    for value in READOUT:
        by_model = {name: over_layers(rows, value, source) for name, rows in models.items()}
        for other in ("reference", "base"):
            if other in by_model:
                section[f"{value}_over_{other}"] = averaged(minus(by_model["cell"], by_model[other])).rounded(DIGITS)
    return section


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="What the layers say of a coupled persona, beside other models.")
    add_models(parser)
    args = parser.parse_args(argv)
    check_together(parser, args)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Layers of models in, a section of the cell's JSON out."""
    args = parse_args(argv)
    read = read_models(args, read_layers)
    check_alike(read, ("layer", "persona", "question_id", "bodies"), "read on other replies, personas or layers")
    path, rows = read["cell"]
    if args.source not in {row["persona"] for row in rows}:
        raise InputError(f"{path}: persona {args.source} was not read; fix: {AGAIN}")
    write_json(args.output, weigh({name: rows for name, (_, rows) in read.items()}, args.source))


if __name__ == "__main__":
    run(main)
