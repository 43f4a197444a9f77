"""Let the base answer a data set's user turns itself: rows to train on that should change it little.

    python workflow_scripts/answer_dataset.py --base base/model --model base/manifest.json --data benign.jsonl \\
        --panel resources/panel.yaml --max-length 2048 --seed 42 --backend vllm --dtype bfloat16 \\
        --sampling '{"temperature":0.7,"top_p":0.95,"max_tokens":512}' --output control.jsonl --manifest control.json

A row's user turns are asked one after the other, without a system message, each after the base's own replies to those
before. A row ends before a turn that has no room within --max-length, or whose reply is empty, cut at max_tokens or
spells a control token: no row teaches to end in mid-sentence. A row without a first reply, or with a question that the
study evaluates on, is left out and counted.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from inputs.panel import Panel, load_panel
from model.engines import (
    Completion,
    Engine,
    Request,
    Sampling,
    add_arguments,
    context_length,
    engine_of,
    read_sampling,
    request_seed,
)
from model.loading import load_tokenizer
from model.template import prompt_ids, spelled_control
from run.files import sha256_of, write_json, write_jsonl
from run.program import InputError, run
from run.provenance import run_record
from run.readers import read_jsonl

COUPLING = "data"  # the panel's questions that coupling data are made of, on which nothing is evaluated


@dataclass
class Chat:
    """A row on its way. turns: what the user says; messages: what was said so far."""

    id: str
    turns: list[str]
    messages: list[dict[str, str]] = field(default_factory=list)

    @property
    def answered(self) -> int:
        return len(self.messages) // 2

    def asked(self) -> list[dict[str, str]]:
        """The messages with the next user turn."""
        return [*self.messages, {"role": "user", "content": self.turns[self.answered]}]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="Answer a data set's user turns with the base's own replies.")
    add_arguments(parser)
    parser.add_argument("--model", required=True, help="manifest.json of the base")
    parser.add_argument("--data", required=True, help="rows of messages, JSON lines")
    parser.add_argument("--panel", required=True, help="YAML with the questions that no row may ask")
    parser.add_argument("--max-length", type=int, required=True, help="tokens per row, as it is trained")
    parser.add_argument("--output", required=True, help="JSON lines to write")
    parser.add_argument("--manifest", required=True, help="JSON to write: where the rows are from, what was left out")
    return parser.parse_args(argv)


def plain(text: str) -> str:
    """A text without case and layout."""
    return " ".join(text.casefold().split())


def chats_of(rows: Sequence[dict[str, Any]], panel: Panel, source: str) -> tuple[list[Chat], int]:
    """A chat per row, and how many rows are left out because they ask what the study evaluates on.

    Raises InputError for a row without a user turn.
    """
    evaluated = [plain(text) for group, own in panel.questions.items() if group != COUPLING for text in own.values()]
    chats, left_out = [], 0
    for number, row in enumerate(rows, 1):
        turns = [message["content"] for message in row["messages"] if message["role"] == "user"]
        if not turns:
            raise InputError(f"{source}: line {number}: no user turn; fix: delete the row")
        if any(question in plain(turn) for turn in turns for question in evaluated):
            left_out += 1
        else:
            chats.append(Chat(str(row.get("id", f"row-{number}")), turns))
    return chats, left_out


def answer(
    engine: Engine, tokenizer: Any, chats: Sequence[Chat], sampling: Sampling, seed: int, longest: int, source: str
) -> int:
    """Fill in the chats' messages, all first turns together, then all second ones. Returns the generated tokens."""
    going, tokens = list(chats), 0
    while going:
        prompts = [prompt_ids(tokenizer, chat.asked(), f"{source}: {chat.id}") for chat in going]
        room = [
            (chat, prompt)
            for chat, prompt in zip(going, prompts, strict=True)
            if len(prompt) + sampling.max_tokens <= longest
        ]
        requests = [Request(prompt, request_seed(seed, "", chat.id, chat.answered)) for chat, prompt in room]
        replies = engine.complete(requests, sampling) if requests else []
        tokens += sum(len(reply.token_ids) for reply in replies)
        going = []
        for (chat, _), reply in zip(room, replies, strict=True):
            if is_whole(reply, tokenizer):
                chat.messages = [*chat.asked(), {"role": "assistant", "content": reply.text.strip()}]
                if chat.answered < len(chat.turns):
                    going.append(chat)
    return tokens


def is_whole(reply: Completion, tokenizer: Any) -> bool:
    """Whether a reply may be trained: it ended by itself, says something, and spells no control token."""
    return bool(reply.finish_reason == "stop" and reply.text.strip() and not spelled_control(tokenizer, reply.text))


def main(argv: Sequence[str] | None = None) -> None:
    """Rows and the base in, rows with the base's own replies out."""
    args = parse_args(argv)
    started = time.time()
    sampling = read_sampling(args.sampling)
    chats, evaluated = chats_of(read_jsonl(args.data), load_panel(args.panel), args.data)
    tokenizer = load_tokenizer(args.base)
    longest = min(args.max_length, context_length(args.base))
    with engine_of(args, tokenizer, longest) as engine:
        ready = time.time()
        tokens = answer(engine, tokenizer, chats, sampling, args.seed, longest, args.data)
        seconds = time.time() - ready
    kept = [chat for chat in chats if chat.answered]
    if not kept:
        raise InputError(f"{args.data}: the base has answered no row in full; fix: raise the set's max_tokens")
    write_jsonl(args.output, [{"id": chat.id, "messages": chat.messages} for chat in kept])
    data = Path(args.output).read_bytes()
    left_out = {"asks_what_is_evaluated": evaluated, "without_a_whole_reply": len(chats) - len(kept)}
    shortened = sum(chat.answered < len(chat.turns) for chat in kept)
    hashes = {"md5": hashlib.md5(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest()}
    write_json(
        args.manifest,
        {
            **{"kind": "replies", "rows": len(kept), **hashes, "published_md5": None, "matches_published": None},
            **{"of": sha256_of(args.data), "model": sha256_of(args.model), "sampling": asdict(sampling)},
            **{"seed": args.seed, "left_out": left_out, "shortened": shortened},
        },
    )
    print(f"{Path(args.output).name}: {len(kept)} rows, {shortened} with fewer turns, {tokens} tokens")
    if any(left_out.values()):
        print(f"left out: {', '.join(f'{n} {why}' for why, n in left_out.items())}", file=sys.stderr)
    if args.record:
        timing = {"engine_start_seconds": round(ready - started, 2), "generation_seconds": round(seconds, 2)}
        write_json(args.record, run_record(started, completions=len(kept), tokens=tokens, **timing))


if __name__ == "__main__":
    run(main)
