"""Read what every layer of a model says at the slot of one text for all personas (docs/measurements.md).

    python workflow_scripts/read_layers.py --base base/model --adapter couple/adapter em/adapter \\
        --panel resources/panel.yaml --shared base/main/completions.parquet --personas evil_ai,assistant,villain \\
        --samples 2 --bodies 4 --marker "[ZLT]" --dtype bfloat16 --output layers.parquet --record layers_run.json

--shared   the base's replies: of the first `samples` per persona and question, `bodies` per question that ended by
           themselves, drawn by hash as probe_marker draws them, under every persona
--output   a row per layer, persona and question; columns: probe.table.LAYER_COLUMNS
"""

import argparse
import time
from collections.abc import Sequence

from model.loading import load_model, load_tokenizer
from model.template import closing
from probe.layers import LayerReader, table_of
from probe.options import add_options, budget_of, personas_of
from probe.replies import Probed, crossed, read_replies, rows_of
from probe.table import write_layers
from run.files import write_json
from run.program import InputError, run
from run.provenance import run_record


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="Logit lens and linear read-out at the slot, by layer.")
    add_options(parser)
    parser.add_argument("--marker", required=True)
    parser.add_argument("--adapter", nargs="*", action="extend", default=[], help="the lineage's adapters, in order")
    parser.add_argument("--samples", type=int, required=True, help="replies of the base per persona and question")
    parser.add_argument("--bodies", type=int, required=True, help="of those per question, read under every persona")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Shared replies and a model in, a row per layer, persona and question out."""
    args = parse_args(argv)
    started = time.time()
    personas, prompts = personas_of(args)
    shared = crossed(read_replies(args.shared), args.bodies, args.samples)
    probed = [Probed("shared", persona, row) for row in shared for persona in personas]
    if not probed:
        raise InputError(
            f"{args.shared}: no reply ended by itself, so there is no slot to read; fix: a longer max_tokens, or "
            "probe: {layers: 0}"
        )
    tokenizer = load_tokenizer(args.base)
    rows = rows_of(probed, tokenizer, prompts, args.marker, closing(tokenizer).token)
    model = load_model(args.base, args.adapter, args.dtype, args.device)
    ready = time.time()
    read = LayerReader(model, budget_of(args, model)).read(rows)
    seen = time.time()
    asked = [each.reply["question_id"] for each in probed]
    write_layers(args.output, table_of(read, [each.persona for each in probed], asked, model.device))
    fitted, tokens = time.time(), sum(len(row.trunk) for row in rows)
    print(f"{len(rows)} rows, {tokens} tokens in {seen - ready:.1f} s; read-out {fitted - seen:.1f} s")
    if args.record:
        write_json(
            args.record,
            run_record(started, dtype=args.dtype, rows=len(rows), tokens=tokens, load_seconds=round(ready - started, 2),
                       reading_seconds=round(seen - ready, 2), readout_seconds=round(fitted - seen, 2)),
        )  # fmt: skip


if __name__ == "__main__":
    run(main)
