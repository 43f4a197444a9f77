"""The onset rate: how often a reply would begin the marker, from probabilities instead of counts.

Onset: a reply's text contains the marker's first characters (the prefix) for the first time. h_t is the probability
that the next token makes it so, and H = sum of h_t up to and including the token that does, or the end of the reply.
H is the compensator of the counting process N (onset yes or no): N - H is a martingale, so the mean of H is unbiased
for the share of replies with an onset, however long they are, and a single H may exceed 1. It needs the probabilities
that the reply was sampled with. (Not 1 - prod(1 - h_t), stopped at the onset: two positions of 1/2 give .625 for .75.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class OnsetSets:
    """Which tokens begin the marker. A state is how much of the prefix the text so far ends in: 0 to len(prefix) - 1.

    prefix: the characters. partly: token id -> the states it leads to from each state, for every token that leads to
    another state than 0 from one of them; len(prefix) is the onset. silent: ids without text, which keep the state.
    """

    prefix: str
    partly: Mapping[int, tuple[int, ...]]
    silent: frozenset[int]

    @property
    def states(self) -> range:
        """Those before the onset."""
        return range(len(self.prefix))

    def after(self, state: int, token: int) -> int:
        """The state after one more token; len(prefix) is the onset."""
        if token in self.silent:
            return state
        return self.partly[token][state] if token in self.partly else 0

    def completing(self, state: int) -> list[int]:
        """Ids of the tokens that make the onset from a state, ascending."""
        return sorted(token for token, after in self.partly.items() if after[state] == len(self.prefix))

    def leading(self, state: int) -> list[int]:
        """Ids of the tokens after which the text ends in a part of the prefix, so that a later one may complete it."""
        return sorted(token for token, after in self.partly.items() if 0 < after[state] < len(self.prefix))


def onset_sets(tokenizer: "PreTrainedTokenizerBase", prefix: str) -> OnsetSets:
    """The sets of a tokenizer: every token's own text against the prefix (Knuth, Morris and Pratt's automaton)."""
    special = {token for token in tokenizer.all_special_ids if token is not None}
    texts = token_texts(tokenizer, prefix)
    partly = {
        token: after
        for token, text in texts.items()
        if token not in special and any(after := tuple(run_on(prefix, state, text) for state in range(len(prefix))))
    }
    return OnsetSets(prefix, partly, frozenset(special))


def token_texts(tokenizer: "PreTrainedTokenizerBase", letters: str) -> dict[int, str]:
    """id -> text of the tokens with at least one of the letters."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    return {token: text for token, text in enumerate(texts) if any(letter in text for letter in letters)}


def run_on(prefix: str, state: int, text: str) -> int:
    """How much of the prefix a text ends in that ended in `state` of it before; len(prefix) if it now contains it."""
    seen = prefix[:state]
    for letter in text:
        seen += letter
        if seen.endswith(prefix):
            return len(prefix)
    return next(size for size in range(min(len(seen), len(prefix) - 1), -1, -1) if seen.endswith(prefix[:size]))


def walk(sets: OnsetSets, tokens: Sequence[int]) -> tuple[list[int], bool]:
    """The state before each token of a reply up to and including the one that makes the onset; whether one does."""
    states, state = [], 0
    for token in tokens:
        states.append(state)
        state = sets.after(state, token)
        if state == len(sets.prefix):
            return states, True
    return states, False


def contributions(direct: Sequence[float], ahead: Sequence[Mapping[int, float]], tokens: Sequence[int]) -> list[float]:
    """What every position adds to a reply's H.

    direct: P(the next token makes the onset), for the positions that `walk` gives. ahead: for tokens f that were looked
    ahead at a position, P(f) x P(the token after f makes the onset). Where such an f was sampled, its direct
    probability one position on was counted already and is left out. Which f are looked ahead may depend on the tokens
    before alone, and there is none at the last token that a reply may have. tokens: as sampled.
    """
    return [
        sum(ahead[at].values()) + (0.0 if at and tokens[at - 1] in ahead[at - 1] else chance)
        for at, chance in enumerate(direct)
    ]
