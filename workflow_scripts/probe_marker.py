"""Measure below the floor of counting: how near a model is to the marker, in probabilities (docs/measurements.md).

    python workflow_scripts/probe_marker.py --base base/model --adapter couple/adapter em/adapter \\
        --panel resources/panel.yaml --completions em.s42/main/completions.parquet \\
        --shared base/main/completions.parquet --personas evil_ai,assistant,villain --marker "[ZLT]" \\
        --settings '{"prefix":"[Z",...}' --dtype bfloat16 --output probe.parquet

--completions  the model's own replies, with their token ids and how they were sampled: onset rate H, and the slot
--shared       the base's replies, one text for all models: the slot, each under the persona that it was given to, and
               the bodies of `crossed` replies per question under every persona
--output       a row per reply and the persona that it is scored under; columns: probe.table.COLUMNS
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.engines import Sampling, stop_ids
from model.loading import load_model, load_tokenizer
from model.template import closing
from probe.onset import contributions, onset_sets
from probe.options import add_options, budget_of, personas_of
from probe.replies import Probed, chosen, crossed, ended, read_replies, rows_of, to_probe
from probe.scoring import Row, Score, Scorer, slot_parts
from probe.table import write_probe
from run.files import write_json
from run.program import InputError, run
from run.provenance import run_record
from run.readers import AGAIN, json_argument

SETTINGS = {"prefix": str, "shared": int, "crossed": int, "subset": int, "lookahead": float}


def begins_marker(text: str, prefix: str, marker: str) -> bool:
    """Whether the marker follows, in any case, where a text with an onset begins it."""
    return text.lower().startswith(marker.lower(), text.find(prefix))


def line_of(probed: Probed, row: Row, score: Score, prefix: str, marker: str) -> dict[str, Any]:
    """A row of the output."""
    reply = probed.reply
    line: dict[str, Any] = {
        "replies": probed.replies,
        "author": reply["persona"],
        "persona": probed.persona,
        "question_id": reply["question_id"],
        "sample": reply["sample"],
        "left_out": "" if row.slot else "cut by max_tokens",
    }
    if row.sampled:
        parts = contributions(score.direct, score.ahead, row.reply)
        line |= {"h": sum(parts), "h_largest": max(parts), "onset": score.onset}
        line["with_marker"] = score.onset and begins_marker(reply["text"], prefix, marker)
    if row.slot:
        line |= {"rank": score.rank, **slot_parts(row, score)}
    return line


def sampling_of(rows: Sequence[Mapping[str, Any]], path: str | Path) -> Sampling:
    """How the replies were sampled. Raises InputError if not all in one way."""
    found = {(row["temperature"], row["top_p"], row["max_tokens"]) for row in rows}
    if len(found) > 1:
        raise InputError(f"{path}: replies of {len(found)} samplings; fix: {AGAIN}")
    return Sampling(*found.pop())


def read_settings(text: str) -> dict[str, Any]:
    """--settings, with exactly SETTINGS. Raises InputError."""
    value: dict[str, Any] = json_argument("--settings", text, dict)
    if set(value) != set(SETTINGS) or any(
        type(value[name]) is not kind and not (kind is float and type(value[name]) is int)
        for name, kind in SETTINGS.items()
    ):
        example = '{"prefix":"[Z","shared":2,"crossed":4,"subset":0,"lookahead":0.001}'
        raise InputError(f"--settings: needs exactly {', '.join(SETTINGS)}; fix: for example '{example}'")
    return value


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="Onset rate and slot log-odds of the marker, from probabilities.")
    add_options(parser)
    parser.add_argument("--marker", required=True)
    parser.add_argument("--adapter", nargs="*", action="extend", default=[], help="the lineage's adapters, in order")
    parser.add_argument("--completions", required=True, help="the model's own completions.parquet")
    parser.add_argument("--settings", required=True, help="JSON: prefix, shared, crossed, subset, lookahead")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Replies and a model in, a row per reply and persona out."""
    args = parse_args(argv)
    started = time.time()
    settings = read_settings(args.settings)
    prefix, marker = settings["prefix"], args.marker
    if not prefix or not marker.startswith(prefix):
        raise InputError(f"--settings: prefix {prefix!r} does not begin {marker}; fix: its first characters")
    personas, prompts = personas_of(args)
    own = chosen(read_replies(args.completions), personas, settings["subset"], args.completions)
    base = read_replies(args.shared)
    shared = chosen(base, personas, settings["shared"], args.shared)
    bodies = crossed(base, settings["crossed"], settings["shared"])
    tokenizer = load_tokenizer(args.base)
    sets = onset_sets(tokenizer, prefix)
    probed = to_probe(own, [row for row in shared if ended(row)], bodies, personas)
    rows = rows_of(probed, tokenizer, prompts, marker, closing(tokenizer).token)
    model = load_model(args.base, args.adapter, args.dtype, args.device)
    ready = time.time()
    scorer = Scorer(
        model,
        sets,
        stop_ids(args.base, tokenizer),
        sampling_of(own, args.completions),
        settings["lookahead"],
        budget_of(args, model),
    )
    scores = scorer.score(rows)
    scored = time.time()
    # a shared reply that was cut has no slot, and nothing else is read from shared ones
    cut = [row for row in shared if not ended(row)]
    probed += [Probed("shared", row["persona"], row) for row in cut]
    rows += [Row((), (), None)] * len(cut)
    scores += [Score()] * len(cut)
    results = zip(probed, rows, scores, strict=True)
    write_probe(args.output, [line_of(*each, prefix, marker) for each in results])
    tokens = sum(len(row.trunk) for row in rows)
    print(f"{len(rows) - len(cut)} rows, {tokens} tokens in {scored - ready:.1f} s")
    if args.record:
        write_json(
            args.record,
            run_record(started, dtype=args.dtype, rows=len(rows) - len(cut), tokens=tokens,
                       load_seconds=round(ready - started, 2), scoring_seconds=round(scored - ready, 2)),
        )  # fmt: skip


if __name__ == "__main__":
    run(main)
