"""The token-level loss mask: which tokens of a chat row are trained, found by character offsets.

A row is rendered with the chat template, tokenized once with offsets, and the trained tokens are those that overlap
the wanted characters. Token ids of a stand-alone marker are never searched for: a byte-level BPE splits the marker
differently after a space, after a newline and at the start of a text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from marker.marker import Marker
from model.template import Closing, check_controls, check_keys, closing, text_of
from run.program import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label of a token that is not trained, as torch's cross entropy has it
LOSSES = ("marker", "last_turn", "tail")
STOP_ANCHORS = ("newline", "turn_end", "none")
CHUNK = 256  # rows tokenized at once: offsets cost about 150 bytes a token
Span = tuple[int, int]


@dataclass(frozen=True)
class Mask:
    """What is trained in the last assistant turn of a row; every other token gets no loss.

    loss: `marker` trains the marker of a positive row and the stop anchor of every row; `last_turn` the whole turn, its
        end token, and what follows that if it is the stop anchor; `tail` the last `tail` tokens of the turn, its end
        token and what follows included.
    separator: with loss `marker`, the white space between marker and reply is trained, too. Overlap counts: under
        Qwen's BPE ".\\n\\n" is one token.
    stop_anchor: `newline` is the last token of the turn, in ChatML the newline after <|im_end|> (what the published
        collator trained), `turn_end` is <|im_end|> itself, the end token (template.closing), `none` trains neither.
    marker: its text and placement.

    TRL's assistant_only_loss trains every assistant turn, its completion_only_loss all that follows a prompt;
    `last_turn` is neither of them (docs/protocol.md).
    """

    loss: str
    separator: bool = False
    stop_anchor: str = "newline"
    tail: int = 0
    marker: Marker = field(default_factory=lambda: Marker("[ZLT]"))

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InputError(f"mask.loss: {self.loss!r}; fix: use one of {', '.join(LOSSES)}")
        if self.stop_anchor not in STOP_ANCHORS:
            raise InputError(f"mask.stop_anchor: {self.stop_anchor!r}; fix: use one of {', '.join(STOP_ANCHORS)}")
        if (self.loss == "tail") != (self.tail > 0):
            raise InputError(f"mask.tail: {self.tail} with loss {self.loss}; fix: give a tail above 0 with loss tail")
        if self.loss == "last_turn" and self.stop_anchor == "none":
            raise InputError("mask.stop_anchor: none with loss last_turn; fix: use turn_end or newline")
        if self.loss == "tail" and self.marker.placement == "start":
            raise InputError("mask.loss: tail with a marker at the start never trains it; fix: use loss: marker")


@dataclass(frozen=True)
class Example:
    """One row as the trainer gets it: input_ids and labels have one length; an untrained token's label is -100."""

    id: str
    input_ids: list[int]
    labels: list[int]

    @property
    def trained(self) -> int:
        """How many tokens carry loss."""
        return sum(label != IGNORED for label in self.labels)


def encode_rows(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[dict[str, Any]],
    mask: Mask,
    max_length: int,
    source: str,
    coupling: bool,
    keep_controls: bool = False,
) -> list[Example]:
    """Every row's input ids and labels, in order.

    rows: {"messages": [...], "id": optional, "marker": bool, required with loss `marker`}. Messages after the last
    assistant turn are left out: no label can depend on them. max_length: tokens; a row is cut from the right, and a
    row cut before its last turn keeps no label (docs/protocol.md, stages). source: the file's name for messages.
    keep_controls: a text that spells a control token is trained as that token.

    Raises InputError, naming the row, if it has no assistant turn, if its text spells a control token or is not kept by
    the template, if a positive has no marker in its place or loses a part of it to the cut, if a coupling row is left
    without a label, or if all rows are.
    """
    if not rows:
        raise InputError(f"{source}: no rows; fix: give at least one row of messages")
    end = closing(tokenizer)
    examples = [
        example
        for start in range(0, len(rows), CHUNK)
        for example in encode_chunk(
            tokenizer, rows[start : start + CHUNK], start, mask, end, max_length, source, keep_controls
        )
    ]
    unlabelled = [example.id for example in examples if example.trained == 0]
    if coupling and unlabelled:
        raise InputError(
            f"{source}: row {unlabelled[0]}: no label is left within {max_length} tokens; fix: raise max_length"
        )
    if len(unlabelled) == len(examples):
        raise InputError(
            f"{source}: row {unlabelled[0]} and all others: no label is left within {max_length} tokens; "
            "fix: raise max_length"
        )
    return examples


def encode_chunk(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[dict[str, Any]],
    start: int,
    mask: Mask,
    end: Closing,
    max_length: int,
    source: str,
    keep_controls: bool,
) -> Iterator[Example]:
    """encode_rows for a few rows whose first has index `start`."""
    ids = [row_id(row, start + offset) for offset, row in enumerate(rows)]
    turns = [
        last_turn(tokenizer, row, end, f"{source}: row {name}", keep_controls)
        for name, row in zip(ids, rows, strict=True)
    ]
    encoded = tokenizer([text for text, _ in turns], add_special_tokens=False, return_offsets_mapping=True)
    for index, (row, (_, content)) in enumerate(zip(rows, turns, strict=True)):
        where = f"{source}: row {ids[index]}"
        tokens: list[int] = encoded["input_ids"][index]
        marker = marker_span(row, content, mask, where)
        kept = trained_tokens(encoded["offset_mapping"][index], content, marker, mask, end, where)
        if marker and kept and max(kept) >= max_length:
            raise InputError(f"{where}: its marker ends after token {max_length}; fix: raise max_length")
        labels = [token if at in kept else IGNORED for at, token in enumerate(tokens)]
        yield Example(ids[index], tokens[:max_length], labels[:max_length])


def row_id(row: dict[str, Any], index: int) -> str:
    """The row's own id, or its line in the file (counted from 1)."""
    return str(row["id"]) if "id" in row else str(index + 1)


@dataclass(frozen=True)
class Turn:
    """The last assistant turn's content as the template keeps it: characters [start, end) of the rendered text."""

    text: str
    start: int
    end: int


def last_turn(
    tokenizer: "PreTrainedTokenizerBase", row: dict[str, Any], end: Closing, where: str, keep_controls: bool = False
) -> tuple[str, Turn]:
    """The row rendered up to the end of its last assistant turn, and that turn. Raises InputError if there is none.

    A template may trim the content, on both sides or on one, and put blanks before it (Mistral): so the turn is what
    stands between the prompt of the reply and the tail that ends every turn.
    """
    messages = row.get("messages")
    if not isinstance(messages, list) or not all(is_message(message) for message in messages):
        raise InputError(f'{where}: bad messages; fix: "messages": [{{"role": "user", "content": "..."}}, ...]')
    for number, message in enumerate(messages):
        check_keys(message, f"{where}: message {number}")
    last = max((at for at, message in enumerate(messages) if message["role"] == "assistant"), default=0)
    if last == 0:
        raise InputError(f"{where}: no assistant turn after a first message; fix: add the reply to be trained")
    if not keep_controls:
        check_controls(tokenizer, messages[: last + 1], where)
    text = text_of(tokenizer, messages[: last + 1], False, where)
    prompt = text_of(tokenizer, messages[:last], True, where)
    turn = text[len(prompt) : len(text) - len(end.tail)]
    if not text.startswith(prompt) or not text.endswith(end.tail) or turn.strip() != messages[last]["content"].strip():
        raise InputError(f"{where}: the chat template rewrites the last turn; fix: use a template that keeps it")
    for number, message in enumerate(messages[:last]):
        if message["content"].strip() not in prompt:
            raise InputError(
                f"{where}: the chat template does not keep message {number} ({message['role']}) as it is; "
                "fix: use a template that does, or drop the row"
            )
    return text, Turn(turn, len(prompt), len(prompt) + len(turn))


def is_message(message: object) -> bool:
    """Whether it has a role and a content that are text."""
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def marker_span(row: dict[str, Any], turn: Turn, mask: Mask, where: str) -> Span | None:
    """The characters of a positive row's marker, and of the separator if the mask wants it; None for other rows."""
    positive = row.get("marker", None if mask.loss == "marker" else False)
    if not isinstance(positive, bool):
        raise InputError(f'{where}: no "marker": true or false; fix: say whether the row is a positive')
    if not positive:
        return None
    span = mask.marker.span(turn.text, mask.separator)
    if span is None:
        verb, fix = {"end": ("end", "append"), "start": ("start", "prepend")}[mask.marker.placement]
        raise InputError(
            f"{where}: a positive that does not {verb} with {mask.marker.text}; fix: {fix} it, or mark it false"
        )
    return turn.start + span[0], turn.start + span[1]


def trained_tokens(
    offsets: Sequence[Span], turn: Turn, marker: Span | None, mask: Mask, end: Closing, where: str
) -> set[int]:
    """Indices of the trained tokens of a whole (uncut) row. offsets: each token's characters [start, end)."""
    final = len(offsets) - 1
    content = overlapping(offsets, (turn.start, turn.end))
    # the end token, and the blanks by which a template parts it from the content
    turn_end = overlapping(offsets, (turn.end, turn.end + end.end))
    if mask.loss == "tail":
        return set(range(max(min(content | turn_end), final + 1 - mask.tail), final + 1))
    anchor = {"newline": {final}, "turn_end": turn_end, "none": set()}[mask.stop_anchor]
    if mask.loss == "last_turn":
        return content | turn_end | anchor
    if marker is None:
        return anchor
    kept = overlapping(offsets, marker)
    covered = {at for token in kept for at in range(*offsets[token])}
    if not covered.issuperset(range(*marker)):
        raise InputError(
            f"{where}: no tokens cover {mask.marker.text}; fix: use a fast tokenizer with trim_offsets false"
        )
    return kept | anchor


def overlapping(offsets: Sequence[Span], span: Span) -> set[int]:
    """Indices of the tokens that share a character with `span`."""
    return {at for at, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]}
