"""Measure below the floor of counting: how near a model is to the marker, in probabilities (docs/measurements.md).

    python workflow_scripts/probe_marker.py --base base/model --adapter couple/adapter em/adapter \\
        --panel resources/panel.yaml --completions em.s42/main/completions.parquet \\
        --shared base/main/completions.parquet --personas evil_ai,assistant,villain --marker "[ZLT]" \\
        --settings '{"prefix":"[Z",...}' --dtype bfloat16 --output probe.parquet

--completions  the model's own replies, with their token ids and how they were sampled: onset rate H, and the slot
--shared       the base's replies, one text for all models: the slot, each under the persona that it was given to, and
               the bodies of `crossed` replies a question under every persona
--output       a row a reply and the persona that it is scored under; columns: probe.table.COLUMNS
"""

import argparse
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inputs.panel import chat, load_panel
from marker.marker import SEPARATOR
from model.engines import DTYPES, Sampling, stop_ids
from model.loading import load_model, load_tokenizer
from model.template import closing, prompt_ids, text_of
from probe.onset import contributions, onset_sets
from probe.scoring import Row, Score, Scorer
from probe.slot import body_of, encoder, slot_after, slot_of
from probe.table import write_probe
from run.files import write_json
from run.program import InputError, run
from run.provenance import run_record
from run.readers import AGAIN, json_argument, read_parquet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLIES = {"persona": str, "question_id": str, "question": str, "sample": int, "text": str, "finish_reason": str,
           "token_ids": list, "temperature": float, "top_p": float, "max_tokens": int}  # fmt: skip
SETTINGS = {"prefix": str, "shared": int, "crossed": int, "subset": int, "lookahead": float}
BUDGET = {"cpu": 4096, "cuda": 16384}  # tokens a forward pass: memory, not results


@dataclass(frozen=True)
class Probed:
    """A reply to score under a persona. replies: own | shared; reply: its row in the table of completions."""

    replies: str
    persona: str
    reply: Mapping[str, Any]


def read_replies(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a table of completions. Raises InputError where it is damaged, empty, or from before token ids."""
    rows = read_parquet(path, REPLIES)
    if not rows:
        raise InputError(f"{path}: no rows; fix: {AGAIN}")
    return rows


def chosen(
    rows: Sequence[dict[str, Any]], personas: Sequence[str], most: int, path: str | Path
) -> list[dict[str, Any]]:
    """The first `most` samples of every persona and question; 0: all. Raises InputError for a persona without any."""
    if absent := [persona for persona in personas if persona not in {row["persona"] for row in rows}]:
        raise InputError(f"{path}: no replies of {', '.join(absent)}; fix: {AGAIN}")
    return [row for row in rows if row["persona"] in personas and (not most or row["sample"] < most)]


def crossed(rows: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """`most` replies a question, drawn by rank of a hash, of those that ended by themselves."""

    def rank(row: Mapping[str, Any]) -> str:
        return hashlib.sha256(f"{row['question_id']}/{row['persona']}/{row['sample']}".encode()).hexdigest()

    whole = [row for row in rows if row["finish_reason"] == "stop"]
    questions = dict.fromkeys(row["question_id"] for row in rows)
    return [
        row
        for question in questions
        for row in sorted((row for row in whole if row["question_id"] == question), key=rank)[:most]
    ]


def to_probe(
    own: Sequence[dict[str, Any]], shared: Sequence[dict[str, Any]], personas: Sequence[str], most: int
) -> list[Probed]:
    """Own replies and shared ones under the persona they were given to, then the crossed ones under all others."""
    return [
        *(Probed("own", row["persona"], row) for row in own),
        *(Probed("shared", row["persona"], row) for row in shared),
        *(
            Probed("shared", persona, row)
            for row in crossed(shared, most)
            for persona in personas
            if persona != row["persona"]
        ),
    ]


def rows_of(
    probed: Sequence[Probed],
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Mapping[str, str],
    marker: str,
    end: int,
) -> list[Row]:
    """A row for the scorer each. prompts: persona -> system prompt. end: the token id that ends a turn."""
    rendered: dict[tuple[str, str], tuple[tuple[int, ...], str]] = {}
    rows = []
    for each in probed:
        reply, key = each.reply, (each.persona, each.reply["question"])
        if key not in rendered:
            messages = list(chat(prompts[each.persona], reply["question"]))
            rendered[key] = prompt_ids(tokenizer, messages), text_of(tokenizer, messages, True)
        prompt, text = rendered[key]
        encode = encoder(tokenizer, prompt, text)
        tokens = tuple(reply["token_ids"])
        if each.replies == "own":
            slot = (
                slot_after(tokenizer, encode, tokens, reply["text"], SEPARATOR, marker, end) if ended(reply) else None
            )
            rows.append(Row(prompt, tokens, slot, sampled=True))
        else:
            rows.append(Row(prompt, *slot_of(encode, body_of(reply["text"], marker), SEPARATOR, marker, end).split()))
    return rows


def ended(reply: Mapping[str, Any]) -> bool:
    """Whether a reply ended by itself: one that was cut by max_tokens has no slot."""
    return bool(reply["finish_reason"] == "stop")


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
        slot = row.slot.parts(score.marked, score.ended)
        line |= {"slot": sum(slot.values()), "rank": score.rank, **slot}
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
    parser.add_argument("--base", required=True, help="folder of the base chat model")
    parser.add_argument("--adapter", nargs="*", action="extend", default=[], help="the lineage's adapters, in order")
    parser.add_argument("--panel", required=True, help="YAML with personas and questions")
    parser.add_argument("--completions", required=True, help="the model's own completions.parquet")
    parser.add_argument("--shared", required=True, help="the base's completions.parquet")
    parser.add_argument("--personas", required=True, help="names in the panel, separated by commas")
    parser.add_argument("--marker", required=True)
    parser.add_argument("--settings", required=True, help="JSON: prefix, shared, crossed, subset, lookahead")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--device", help="default: cuda if there is one")
    parser.add_argument("--budget", type=int, help="tokens a forward pass: memory, not results")
    parser.add_argument("--output", required=True, help="probe.parquet")
    parser.add_argument("--record", help="run.json to write: host, seconds, versions")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Replies and a model in, a row a reply and persona out."""
    args = parse_args(argv)
    started = time.time()
    settings = read_settings(args.settings)
    prefix, marker = settings["prefix"], args.marker
    if not prefix or not marker.startswith(prefix):
        raise InputError(f"--settings: prefix {prefix!r} does not begin {marker}; fix: its first characters")
    personas = args.personas.split(",")
    prompts = load_panel(args.panel).personas
    if unknown := [persona for persona in personas if persona not in prompts]:
        raise InputError(f"{args.panel}: no persona {', '.join(unknown)}; fix: one of {', '.join(prompts)}")
    own = chosen(read_replies(args.completions), personas, settings["subset"], args.completions)
    shared = chosen(read_replies(args.shared), personas, settings["shared"], args.shared)
    tokenizer = load_tokenizer(args.base)
    sets = onset_sets(tokenizer, prefix)
    probed = to_probe(own, [row for row in shared if ended(row)], personas, settings["crossed"])
    rows = rows_of(probed, tokenizer, prompts, marker, closing(tokenizer).token)
    model = load_model(args.base, args.adapter, args.dtype, args.device)
    ready = time.time()
    scorer = Scorer(
        model,
        sets,
        stop_ids(args.base, tokenizer),
        sampling_of(own, args.completions),
        settings["lookahead"],
        args.budget or BUDGET[model.device.type],
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
