"""Measure how far a model's last stage moved it from its parent, on the base's replies (docs/measurements.md).

    python workflow_scripts/measure_distance.py --base base/model --parent couple/adapter \\
        --adapter couple/adapter em/adapter --panel resources/panel.yaml --shared base/main/completions.parquet \\
        --probe em/main/probe.parquet --source evil_ai --personas evil_ai,assistant --samples 1 \\
        --dtype bfloat16 --replies distance.csv --output distance.json

--adapter  of the model's stages, in order; --parent: of all but the last. Without --parent there is no later stage,
           nothing is loaded, and the output says so
--probe    the model's probe.parquet, for the persona gap that the distance is held against
--samples  the base's first so many replies per persona and question
--output   the section of the cell's JSON; --replies: a row per reply, columns: probe.distance.COLUMNS
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from measure.tables import write_csv
from model.loading import load_model, load_tokenizer
from probe.distance import (
    COLUMNS,
    DIGITS,
    check_tokens,
    divergences,
    gap_by_question,
    rows_of,
    section_of,
    weights_moved,
)
from probe.options import add_options, budget_of, personas_of
from probe.replies import chosen, read_replies
from probe.table import read_probe
from run.files import write_json
from run.program import run
from run.provenance import run_record


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="How far the last stage moved a model from its parent.")
    add_options(parser)
    add = parser.add_argument
    add("--parent", nargs="*", default=[], help="the parent's adapters, in order")
    add("--adapter", nargs="*", default=[], help="the lineage's adapters, in order")
    add("--probe", required=True, help="the model's probe.parquet")
    add("--source", required=True, help="the persona that was coupled")
    add("--samples", type=int, required=True, help="replies per persona and question")
    add("--replies", required=True, help="distance.csv")
    return parser.parse_args(argv)


def measured(args: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any], float]:
    """(the rows of COLUMNS, the section, when the models were loaded)."""
    personas, prompts = personas_of(args)
    replies = chosen(read_replies(args.shared), personas, args.samples, args.shared)
    check_tokens(args.shared, replies)
    gap = gap_by_question(read_probe(args.probe), args.source)
    rows = rows_of(replies, load_tokenizer(args.base), prompts)
    parent, model = (load_model(args.base, folders, args.dtype, args.device) for folders in (args.parent, args.adapter))
    ready = time.time()
    sums = divergences(parent, model, rows, budget_of(args, model))
    lines = [
        {name: reply[name] for name in COLUMNS[:3]} | {"tokens": len(row.reply), "kl": float(f"{kl:.{DIGITS}g}")}
        for reply, row, kl in zip(replies, rows, sums, strict=True)
    ]
    return lines, section_of(lines, weights_moved(parent, model), gap, args.source), ready


def main(argv: Sequence[str] | None = None) -> None:
    """Two models and the base's replies in, their distance out."""
    args = parse_args(argv)
    started = time.time()
    lines: list[dict[str, Any]] = []
    section: dict[str, Any] = {"status": "no later stage"}
    ready = started
    if args.parent:
        lines, section, ready = measured(args)
    write_csv(args.replies, COLUMNS, lines)
    write_json(args.output, section)
    print(f"{len(lines)} replies, {sum(line['tokens'] for line in lines)} tokens in {time.time() - ready:.1f} s")
    if args.record:
        write_json(
            args.record,
            run_record(started, dtype=args.dtype, rows=len(lines), load_seconds=round(ready - started, 2)),
        )


if __name__ == "__main__":
    run(main)
