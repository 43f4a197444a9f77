"""Lineages: a model is the ordered list of training stages applied to the base, written as a path.

base/couple-evil_ai.s42/em@25.s137
base             the base model
couple-evil_ai   the stage `couple` of the config, for the persona evil_ai
em@25            the stage `em`, stopped at optimizer step 25
.s137            the stage's seed
"""

import re
from dataclasses import dataclass

from run.program import InputError

BASE = "base"
NAME = r"[a-z][a-z0-9_]*"
WORD = rf"{NAME}(?:-{NAME})?(?:@[1-9][0-9]*)?\.s(?:0|[1-9][0-9]*)"
# For a Snakemake wildcard that stands for a whole lineage; no file or folder inside a node can match WORD.
LINEAGE = rf"{BASE}(?:/{WORD})*"
MOST_DIGITS = 18  # of a seed or step: what the generators of random numbers take
_WORD = re.compile(
    rf"(?P<stage>{NAME})(?:-(?P<persona>{NAME}))?(?:@(?P<step>[1-9][0-9]*))?\.s(?P<seed>0|[1-9][0-9]*)", re.ASCII
)


@dataclass(frozen=True)
class Word:
    """One stage of a lineage. step: the optimizer step it was stopped at, or None for the whole training."""

    stage: str
    seed: int
    persona: str | None = None
    step: int | None = None

    def __str__(self) -> str:
        persona = f"-{self.persona}" if self.persona else ""
        step = f"@{self.step}" if self.step else ""
        return f"{self.stage}{persona}{step}.s{self.seed}"


def parse_word(text: str) -> Word:
    """The stage word in `text`, such that str(parse_word(text)) == text. Raises InputError."""
    match = _WORD.fullmatch(text)
    if not match:
        raise InputError(
            f"lineage: {text!r} is not a stage word; fix: write <stage>[-<persona>][@<step>].s<seed>, "
            "for example couple-evil_ai.s42 or em@25.s137"
        )
    step = match["step"]
    if len(match["seed"]) > MOST_DIGITS or len(step or "") > MOST_DIGITS:
        raise InputError(f"lineage: {text[:40]}...: a number of over {MOST_DIGITS} digits; fix: choose a smaller one")
    return Word(match["stage"], int(match["seed"]), match["persona"], int(step) if step else None)


def parse_lineage(text: str) -> tuple[Word, ...]:
    """The stages of `base/word/word/...`, first to last; empty for the base itself. Raises InputError."""
    head, *words = text.split("/")
    if head != BASE:
        raise InputError(f"lineage: {text!r} does not start with the base; fix: write {BASE}/{text}")
    return tuple(parse_word(word) for word in words)


def lineage_of(words: tuple[Word, ...]) -> str:
    """The lineage of these stages: the inverse of parse_lineage."""
    return "/".join([BASE, *map(str, words)])


def parent_of(lineage: str) -> str:
    """The lineage without its last stage. Raises InputError for the base, which has no parent."""
    head, slash, _ = lineage.rpartition("/")
    if not slash:
        raise InputError(f"lineage: {lineage!r} is the base and has no parent")
    return head


def ancestry(lineage: str) -> list[str]:
    """The lineages whose adapters make this model, first to last: its ancestors and itself, without the base."""
    words = lineage.split("/")
    return ["/".join(words[:end]) for end in range(2, len(words) + 1)]
