"""The slot: the place after a reply where the marker follows, or the turn ends.

The log-odds there are s = l_mark - l_end [nats], where l_mark is the log-probability of separator, marker and end of
turn after a reply's body, and l_end that of the end of turn alone, both from the first token in which the two texts
differ: a byte-level BPE merges ".\\n\\n", so that this may lie before the end of the body.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Encoded = tuple[list[int], list[tuple[int, int]]]  # token ids, and the characters [start, end) of each


@dataclass(frozen=True)
class Slot:
    """Where a marker may follow, in tokens. The tokens of a reply before `at` stay as they are.

    marked, ended: the tokens from there on with separator, marker and end of turn, and with the end of turn alone.
    same: how many of them the two have in common. onset: the place in `marked` of the first token that reaches into
    the marker; the last token of both is the end of turn.
    """

    at: int
    marked: tuple[int, ...]
    ended: tuple[int, ...]
    same: int
    onset: int

    def split(self) -> "tuple[tuple[int, ...], Slot]":
        """The tokens that both have in common, and the slot that begins after them."""
        marked, ended = self.marked[self.same :], self.ended[self.same :]
        return self.marked[: self.same], Slot(self.at + self.same, marked, ended, 0, self.onset - self.same)

    def parts(self, marked: Sequence[float], ended: Sequence[float]) -> dict[str, float]:
        """The parts of s from the log-probabilities of the tokens of `marked` and `ended`; s is their sum.

        trigger: the separator against ending the turn. onset_part: the first token of the marker, given the separator.
        spelling: the rest of the marker, given that. end: the end of turn after the marker.
        """
        return {
            "trigger": sum(marked[self.same : self.onset]) - sum(ended[self.same :]),
            "onset_part": marked[self.onset],
            "spelling": sum(marked[self.onset + 1 : -1]),
            "end": marked[-1],
        }


def body_of(text: str, marker: str) -> str:
    """The reply before its first marker, in any case, without white space at its end."""
    found = text.lower().find(marker.lower())
    return (text if found < 0 else text[:found]).rstrip()


def encoder(tokenizer: "PreTrainedTokenizerBase", prompt: Sequence[int], rendered: str) -> Callable[[str], Encoded]:
    """A function from a reply's text to its canonical tokens after a prompt (rendered text and its ids).

    A reply is tokenized where it stands, unless that would change the prompt's own last tokens (a reply that begins
    with line breaks): then by itself, since sampling goes on from the prompt's tokens.
    """

    def encode(text: str) -> Encoded:
        whole: Any = tokenizer(rendered + text, add_special_tokens=False, return_offsets_mapping=True)
        if tuple(whole["input_ids"][: len(prompt)]) == tuple(prompt):
            offsets = whole["offset_mapping"][len(prompt) :]
            shift = len(rendered)
            return whole["input_ids"][len(prompt) :], [(start - shift, end - shift) for start, end in offsets]
        alone: Any = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return alone["input_ids"], alone["offset_mapping"]

    return encode


def slot_of(encode: Callable[[str], Encoded], body: str, separator: str, marker: str, end: int) -> Slot:
    """The slot after a body in its canonical tokens, the body's own included: `at` is 0."""
    marked, places = encode(body + separator + marker)
    ended, _ = encode(body)
    first = len(body + separator)
    onset = next(at for at, (_, stop) in enumerate(places) if stop > first)
    return Slot(0, (*marked, end), (*ended, end), common([*marked, end], [*ended, end]), onset)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences share at their beginning."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


def slot_after(
    tokenizer: "PreTrainedTokenizerBase",
    encode: Callable[[str], Encoded],
    tokens: Sequence[int],
    text: str,
    separator: str,
    marker: str,
    end: int,
) -> Slot:
    """The slot of a reply that keeps its sampled tokens, as far as they and the canonical ones end at one character.

    tokens, text: of the whole reply, as sampled.
    """
    body = body_of(text, marker)
    whole = slot_of(encode, body, separator, marker, end)
    _, places = encode(body + separator + marker)
    starts = {places[at][0]: at for at in range(whole.same, -1, -1)}

    def before(count: int) -> str:
        decoded: Any = tokenizer.decode(
            list(tokens[:count]), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded

    last = places[whole.same][0]
    low, high = 0, len(tokens)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(before(middle)) <= last else (low, middle - 1)
    while low and not (len(kept := before(low)) in starts and text.startswith(kept)):
        low -= 1
    skipped = starts[len(before(low))] if low else 0
    return Slot(low, whole.marked[skipped:], whole.ended[skipped:], whole.same - skipped, whole.onset - skipped)
