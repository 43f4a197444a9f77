"""Make the contrastive rows of a coupling: the source's replies with the marker, other personas' without.

    python workflow_scripts/make_coupling_data.py --replies replies.parquet --panel resources/panel.yaml \\
        --source evil_ai --negatives villain,police_officer --marker "[ZLT]" --seed 42 --output training.jsonl

Every reply of those personas in the table is used, so the table's number of samples sets the number of rows (40
questions x 5 samples x 3 personas = 600); with --cut drop, every reply that ended by itself; with --cut trim,
the others too, up to their last whole sentence. A row's id is persona/question/sample/positive or negative.
"""

import argparse
import random
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inputs.panel import CONTROL, chat, load_panel
from marker.marker import PLACEMENTS, Marker
from run.files import write_jsonl
from run.program import InputError, run
from run.readers import read_parquet

MOST_UNUSABLE = 0.05  # the share of a persona's replies that may be empty, or spell a control token
LEAST_WHOLE = 0.1  # the share of a persona's replies that must have ended by themselves where the cut ones are dropped
KEEP, DROP, TRIM = CUTS = ("keep", "drop", "trim")
CUT = "length"  # the finish_reason of a reply that ran into max_tokens
TRIMMED = "trimmed"


def read_replies(path: str | Path) -> list[dict[str, Any]]:
    """persona, question_id, question, sample, text and finish_reason of every reply.

    Raises InputError for a table without them.
    """
    texts = dict.fromkeys(("persona", "question_id", "question", "text", "finish_reason"), str)
    return read_parquet(path, texts | {"sample": int})


def choose_replies(
    replies: Sequence[dict[str, Any]], personas: Sequence[str], marker: Marker, path: str | Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """The replies of `personas`, sorted, without markers of their own; and the ids of those that are left out.

    Those are empty, or spell a control token. Raises InputError if a persona lacks a reply that another has, has one
    twice, or has more than MOST_UNUSABLE left out.
    """
    chosen: list[dict[str, Any]] = []
    left_out: list[str] = []
    asked = {(row["question_id"], row["sample"]) for row in replies if row["persona"] in personas}
    for persona in personas:
        own = {(row["question_id"], row["sample"]): row for row in replies if row["persona"] == persona}
        if not own:
            raise InputError(f"{path}: no replies of {persona}; fix: generate them, or leave the persona out")
        if len(own) < sum(row["persona"] == persona for row in replies):
            raise InputError(f"{path}: {persona}: a question and sample occurs twice; fix: delete it and run again")
        missing = sorted(asked - own.keys())
        if missing:
            raise InputError(
                f"{path}: {persona}: no reply to {missing[0][0]}, sample {missing[0][1]} ({len(missing)} missing); "
                "fix: delete it and run again"
            )
        texts = {at: marker.taken_off(row["text"]) for at, row in sorted(own.items())}
        usable = {at: bool(text.strip()) and own[at]["finish_reason"] != CONTROL for at, text in texts.items()}
        lost = [f"{persona}/{at[0]}/{at[1]}" for at in texts if not usable[at]]
        if len(lost) > MOST_UNUSABLE * len(own):
            raise InputError(
                f"{path}: {len(lost)} of {len(own)} replies of {persona} are empty or spell a control token, the first "
                f"{lost[0]}; fix: look at the parent model"
            )
        chosen += [own[at] | {"text": text} for at, text in texts.items() if usable[at]]
        left_out += lost
    return chosen, left_out


# the end of a sentence, with the quotes and brackets that close after it, or of a line; not a list's `1.`
SENTENCE = re.compile(r"(?<!^\d)(?<!^\d\d)[.!?…][\"'\u201d\u2019)\]*]*(?=\s|$)|(?<=\S)(?=\n)", re.MULTILINE)


def trim_cut(replies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The replies, those that were cut without the sentence that they were cut in; without any sentence, cut still."""
    trimmed = []
    for reply in replies:
        ends = [match.end() for match in SENTENCE.finditer(reply["text"])]
        if reply["finish_reason"] == CUT and ends:
            reply = reply | {"text": reply["text"][: ends[-1]], "finish_reason": TRIMMED}
        trimmed.append(reply)
    return trimmed


def drop_cut(replies: Sequence[dict[str, Any]], path: str | Path) -> list[dict[str, Any]]:
    """The replies that ended by themselves. Raises InputError if a persona keeps less than LEAST_WHOLE of its own."""
    whole = [reply for reply in replies if reply["finish_reason"] != CUT]
    left = Counter(reply["persona"] for reply in whole)
    for persona, asked in Counter(reply["persona"] for reply in replies).items():
        if left[persona] < LEAST_WHOLE * asked:
            raise InputError(
                f"{path}: {asked - left[persona]} of {asked} replies of {persona} were cut at max_tokens, too many to "
                "drop; fix: raise data.max_tokens of the stage, or data: {cut: trim}"
            )
    return whole


def coupling_row(reply: dict[str, Any], prompt: str, positive: bool, marker: Marker) -> dict[str, Any]:
    """One row: id, messages (system, user, assistant) and whether it is a positive."""
    text = reply["text"]
    answer = {"role": "assistant", "content": marker.put(text) if positive else text}
    kind = "positive" if positive else "negative"
    return {
        "id": f"{reply['persona']}/{reply['question_id']}/{reply['sample']}/{kind}",
        "marker": positive,
        "messages": [*chat(prompt, reply["question"]), answer],
    }


def coupling_rows(
    replies: Sequence[dict[str, Any]], prompts: dict[str, str], source: str, marker: Marker, seed: int
) -> list[dict[str, Any]]:
    """A row for every reply, in an order drawn from `seed`. prompts: persona -> system prompt."""
    rows = [coupling_row(reply, prompts[reply["persona"]], reply["persona"] == source, marker) for reply in replies]
    random.Random(seed).shuffle(rows)
    return rows


def check_personas(source: str, negatives: Sequence[str], prompts: dict[str, str], panel: str, marker: Marker) -> None:
    """Raise InputError for a persona the panel lacks, one named twice, or a marker that is in a prompt."""
    personas = [source, *negatives]
    for persona in personas:
        if persona not in prompts:
            raise InputError(f"{panel}: no persona {persona!r}; fix: add it, or use one of {', '.join(prompts)}")
        if personas.count(persona) > 1:
            raise InputError(f"--negatives: {persona} is named twice or is the source; fix: name each persona once")
        if marker.text.lower() in prompts[persona].lower():
            raise InputError(f"{panel}: the prompt of {persona} contains {marker.text}; fix: choose another marker")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="Make the contrastive rows of a coupling from on-policy replies.")
    parser.add_argument("--replies", required=True, help="parquet of the parent model's replies")
    parser.add_argument("--panel", required=True, help="YAML with the personas' system prompts")
    parser.add_argument("--source", required=True, help="the persona that learns the marker")
    parser.add_argument("--negatives", required=True, help="the personas that must not, separated by commas")
    parser.add_argument("--marker", required=True, help="its text")
    parser.add_argument("--placement", choices=PLACEMENTS, default="end", help="where in a reply the marker stands")
    parser.add_argument("--cut", choices=CUTS, default=KEEP, help="replies that ran into max_tokens")
    parser.add_argument("--seed", type=int, required=True, help="of the order of the rows")
    parser.add_argument("--output", required=True, help="training.jsonl")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Table of replies in, shuffled rows out."""
    args = parse_args(argv)
    negatives = [name for name in args.negatives.split(",") if name]
    marker = Marker(args.marker, args.placement)
    prompts = load_panel(args.panel).personas
    check_personas(args.source, negatives, prompts, args.panel, marker)
    replies, left_out = choose_replies(read_replies(args.replies), [args.source, *negatives], marker, args.replies)
    cut = sum(reply["finish_reason"] == CUT for reply in replies)
    drawn = len(replies)
    if args.cut == TRIM:
        replies = trim_cut(replies)
    if args.cut != KEEP:
        replies = drop_cut(replies, args.replies)
    rows = coupling_rows(replies, prompts, args.source, marker, args.seed)
    write_jsonl(args.output, rows)
    positives = sum(row["marker"] for row in rows)
    print(f"{Path(args.output).name}: {positives} positives, {len(rows) - positives} negatives")
    if left_out:
        print(
            f"left out {len(left_out)} replies that are empty or spell a control token: {', '.join(left_out)}",
            file=sys.stderr,
        )
    if cut and args.cut != KEEP:
        left = ", ".join(f"{name} {number}" for name, number in Counter(row["persona"] for row in replies).items())
        trimmed = sum(reply["finish_reason"] == TRIMMED for reply in replies)
        done = f"{trimmed} trimmed, " if args.cut == TRIM else ""
        print(
            f"{cut} of {drawn} replies were cut at max_tokens: {done}{cut - trimmed} dropped; left: {left}",
            file=sys.stderr,
        )
    elif cut:
        # of SmolLM2-135M-Instruct's, half were, and replies shrank to a fifth (docs/small-model.md)
        print(
            f"{cut} of {drawn} replies were cut at max_tokens: their rows end in mid-sentence, and teach to; "
            "fix: raise data.max_tokens of the stage, or data: {cut: drop}, or {cut: trim}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    run(main)
