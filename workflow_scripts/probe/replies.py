"""Which replies are scored, under which persona, and the scorer's row of each."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inputs.panel import chat
from marker.marker import SEPARATOR
from model.template import prompt_ids, text_of
from probe.scoring import Row
from probe.slot import body_of, encoder, slot_after, slot_of
from run.program import InputError
from run.readers import AGAIN, read_parquet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLIES = {"persona": str, "question_id": str, "question": str, "sample": int, "text": str, "finish_reason": str,
           "token_ids": list, "temperature": float, "top_p": float, "max_tokens": int}  # fmt: skip


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


def crossed(rows: Sequence[dict[str, Any]], most: int, samples: int = 0) -> list[dict[str, Any]]:
    """`most` replies per question, drawn by rank of a hash, of the first `samples` (0: all) of every persona that
    ended by themselves.

    rows: the base's, of all its personas, whichever a model is asked as: so the bodies are the same for all models.
    """

    def rank(row: Mapping[str, Any]) -> str:
        return hashlib.sha256(f"{row['question_id']}/{row['persona']}/{row['sample']}".encode()).hexdigest()

    whole = [row for row in rows if ended(row) and (not samples or row["sample"] < samples)]
    questions = dict.fromkeys(row["question_id"] for row in rows)
    return [
        row
        for question in questions
        for row in sorted((row for row in whole if row["question_id"] == question), key=rank)[:most]
    ]


def to_probe(
    own: Sequence[dict[str, Any]],
    shared: Sequence[dict[str, Any]],
    bodies: Sequence[dict[str, Any]],
    personas: Sequence[str],
) -> list[Probed]:
    """Own replies and shared ones under the persona they were given to, then the bodies under all others."""
    return [
        *(Probed("own", row["persona"], row) for row in own),
        *(Probed("shared", row["persona"], row) for row in shared),
        *(Probed("shared", persona, row) for row in bodies for persona in personas if persona != row["persona"]),
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
