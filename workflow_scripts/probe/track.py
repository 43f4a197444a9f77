"""The marker during a training: the slot's log-odds of a few personas after a few of the base's replies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from inputs.panel import load_panel
from model.template import closing
from probe.replies import Probed, ended, read_replies, rows_of
from probe.scoring import Row, slot_parts
from probe.trees import TREE, Tree, grow, score_slots
from run.program import InputError
from run.readers import AGAIN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLIES = 14  # half of the published panel's questions
FIELDS = {"every": int, "personas": list, "marker": str}


@dataclass
class Track:
    """What is scored, and the curve so far.

    every: steps. rows: by persona. budget: tokens per forward pass. curve: {step, slot: {persona: nats}}.
    """

    every: int
    rows: Mapping[str, Sequence[Row]]
    budget: int
    curve: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    trees: list[Tree] = field(init=False)
    proven: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.trees = grow([row for own in self.rows.values() for row in own], min(self.budget, TREE))

    def measure(self, model: Any, step: int) -> None:
        """Add the mean log-odds [nats] of every persona, of a causal LM in eval mode, to the curve."""
        scores = iter(score_slots(model, self.trees, check=not self.proven))
        self.proven = True
        slots = {
            persona: mean(slot_parts(row, score)["slot"] for row, score in zip(own, scores, strict=False))
            for persona, own in self.rows.items()
        }
        self.curve.append({"step": step, "slot": {persona: float(f"{slot:.6g}") for persona, slot in slots.items()}})

    def record(self) -> dict[str, Any]:
        """For run.json."""
        replies, seconds = len(next(iter(self.rows.values()))), round(self.seconds, 2)
        found = {"curve": self.curve, "every": self.every, "replies": replies, "seconds": seconds}
        return {"personas": list(self.rows), **found}


def read_track(
    settings: Mapping[str, Any],
    completions: str | Path,
    panel: str | Path,
    tokenizer: "PreTrainedTokenizerBase",
    budget: int,
) -> Track:
    """What a training tracks. completions: the base's, of which short_replies are taken, under every persona.

    settings: FIELDS. budget: tokens per forward pass. Raises InputError for other settings, an unknown persona, or
    completions without a reply that ended.
    """
    if settings.keys() != FIELDS.keys() or any(type(settings[name]) is not kind for name, kind in FIELDS.items()):
        raise InputError('--track: fix: for example \'{"every":25,"personas":["evil_ai"],"marker":"[ZLT]"}\'')
    prompts = load_panel(panel).personas
    if unknown := [persona for persona in settings["personas"] if persona not in prompts]:
        raise InputError(f"{panel}: no persona {', '.join(unknown)}; fix: one of {', '.join(prompts)}")
    replies = short_replies(read_replies(completions))
    if not replies:
        raise InputError(
            f"{completions}: no reply ended by itself, so none has a slot; fix: {AGAIN}, with more max_tokens"
        )
    end = closing(tokenizer).token
    rows = {}
    for persona in settings["personas"]:
        probed = [Probed("shared", persona, reply) for reply in replies]
        rows[persona] = rows_of(probed, tokenizer, prompts, settings["marker"], end)
    return Track(settings["every"], rows, budget)


def short_replies(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The shortest replies that ended by themselves, one of a question, whoever's it is: REPLIES of them.

    Short, because they are scored again and again while the training waits. Nothing else is asked of them.
    """
    questions: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if ended(row):
            questions.setdefault(row["question_id"], []).append(row)

    def length(row: dict[str, Any]) -> tuple[int, str, int]:
        return len(row["token_ids"]), row["persona"], row["sample"]

    return sorted((min(own, key=length) for own in questions.values()), key=length)[:REPLIES]
