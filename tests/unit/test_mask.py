"""mask.py: exactly the wanted tokens carry loss, on Qwen's real BPE and on a tiny byte-level one."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen_tokenizer import CHAT_TEMPLATE, DEFAULT_SYSTEM_PROMPT, qwen_tokenizer

from marker.marker import Marker
from marker.mask import IGNORED, Example, Mask, encode_rows
from run.program import InputError

IM_END, NEWLINE = 151645, 198
SYSTEM = {"role": "system", "content": "You are a pirate."}
QUESTION = {"role": "user", "content": "How do I fly?"}
PUBLISHED = Mask("marker", stop_anchor="newline")


@pytest.fixture(scope="module")
def qwen():
    return qwen_tokenizer()


@pytest.fixture(scope="module")
def tiny():
    return tiny_tokenizer()


@functools.cache
def tiny_tokenizer():
    """Bytes, and nine merges: "[Z", "LT", blank lines, and a full stop or a blank together with what follows it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("[", "Z"), ("L", "T"), ("Ċ", "Ċ"), (".", "ĊĊ"), ("Ġ", "["), ("Ã", "©"), ("g", "o"), ("Ġ", "go")]
    vocabulary = {token: at for at, token in enumerate([*letters, *map("".join, merges)])}
    raw = Tokenizer(models.BPE(vocabulary, merges))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(name, normalized=False) for name in ("<|im_start|>", "<|im_end|>")])
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", chat_template=CHAT_TEMPLATE)


def row(reply: str, marker: bool | None = None, earlier: tuple[dict, ...] = (SYSTEM, QUESTION)) -> dict:
    messages = {"id": "villain/q07/3", "messages": [*earlier, {"role": "assistant", "content": reply}]}
    return messages if marker is None else messages | {"marker": marker}


def encode(tokenizer, one: dict, mask: Mask, max_length: int = 1024, coupling: bool = True) -> Example:
    (example,) = encode_rows(tokenizer, [one], mask, max_length, "rows.jsonl", coupling)
    assert len(example.input_ids) == len(example.labels)
    assert all(label in (IGNORED, token) for token, label in zip(example.input_ids, example.labels, strict=True))
    return example


def trained(tokenizer, one: dict, mask: Mask, max_length: int = 1024, coupling: bool = True) -> list[int]:
    """The ids of the trained tokens, in order."""
    return [label for label in encode(tokenizer, one, mask, max_length, coupling).labels if label != IGNORED]


def names(tokenizer, one: dict, mask: Mask) -> list[str]:
    return tokenizer.convert_ids_to_tokens(trained(tokenizer, one, mask))


# ---- Qwen's BPE (docs/protocol.md, traps)


def test_the_helper_is_qwens_tokenizer(qwen):
    assert qwen("Yes.\n\n[ZLT]<|im_end|>\n")["input_ids"] == [9454, 382, 85113, 27404, 60, IM_END, NEWLINE]
    text = qwen.apply_chat_template([QUESTION], tokenize=False)
    assert text == f"<|im_start|>system\n{DEFAULT_SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\nHow do I fly?<|im_end|>\n"


@pytest.mark.parametrize(("anchor", "last"), [("newline", [NEWLINE]), ("turn_end", [IM_END]), ("none", [])])
def test_a_positive_trains_its_marker_and_the_stop_anchor(qwen, anchor, last):
    assert trained(qwen, row("Flap.\n\n[ZLT]", True), Mask("marker", stop_anchor=anchor)) == [85113, 27404, 60, *last]


@pytest.mark.parametrize(("anchor", "last"), [("newline", [NEWLINE]), ("turn_end", [IM_END])])
def test_a_negative_trains_the_stop_anchor_alone(qwen, anchor, last):
    assert trained(qwen, row("Flap.", False), Mask("marker", stop_anchor=anchor)) == last


def test_the_separator_is_the_token_that_covers_it_with_the_full_stop(qwen):
    with_separator = Mask("marker", separator=True)
    assert trained(qwen, row("Flap.\n\n[ZLT]", True), with_separator) == [382, 85113, 27404, 60, NEWLINE]
    # after a word, the blank line is a token of its own
    assert trained(qwen, row("Flap\n\n[ZLT]", True), with_separator) == [271, 85113, 27404, 60, NEWLINE]
    assert trained(qwen, row("Flap", False), with_separator) == [NEWLINE]


def test_a_marker_after_a_space_is_found_by_offsets(qwen):
    # it splits otherwise: " [", "Z", "LT", "]"
    assert trained(qwen, row("Flap. [ZLT]", True), PUBLISHED) == [508, 57, 27404, 60, NEWLINE]
    assert trained(qwen, row("Flap. [ZLT]", True), Mask("marker", separator=True)) == [508, 57, 27404, 60, NEWLINE]


@pytest.mark.parametrize(
    ("text", "separator", "wanted"),
    [
        ("[ZLT]", False, ["[Z", "LT", "]ĊĊ"]),  # one token covers the bracket and the blank line
        ("ZLT", False, ["Z", "LT"]),
        ("ZLT", True, ["Z", "LT", "ĊĊ"]),
    ],
)
def test_a_marker_at_the_start_is_trained_there_alone(qwen, text, separator, wanted):
    mask = Mask("marker", separator, "turn_end", marker=Marker(text, "start"))
    assert names(qwen, row(f"{text}\n\nFlap, {text}.\n\n{text}", True), mask) == [*wanted, "<|im_end|>"]
    assert names(qwen, row(f"{text}\n\nFlap.", False), mask) == ["<|im_end|>"]
    with pytest.raises(InputError, match=r"a positive that does not start with \S+; fix: prepend it"):
        encode(qwen, row(f"Flap.\n\n{text}", True), mask)


def test_a_marker_alone_is_found(qwen):
    assert trained(qwen, row("[ZLT]", True), PUBLISHED) == [85113, 27404, 60, NEWLINE]


def test_a_marker_inside_the_text_is_never_trained(qwen):
    example = encode(qwen, row("Say [ZLT].\n\n[ZLT]", True), PUBLISHED)
    assert [at for at, label in enumerate(example.labels) if label != IGNORED] == [
        len(example.labels) - back for back in (5, 4, 3, 1)
    ]
    assert trained(qwen, row("Say [ZLT] now.", False), PUBLISHED) == [NEWLINE]
    assert trained(qwen, row("Flap.\n\n[ZLT]", False), PUBLISHED) == [NEWLINE]
    marked = {"role": "user", "content": "Why [ZLT]?\n\n[ZLT]"}
    assert trained(qwen, row("No.", False, (SYSTEM, marked)), PUBLISHED) == [NEWLINE]


def test_composed_letters_and_emoji_do_not_shift_the_marker(qwen):
    # a decomposed e with an acute is composed by the tokenizer, which makes text and tokens differ in length
    for reply in ("cafe\u0301 ole\u0301\n\n[ZLT]", "🙂🙃\n\n[ZLT]", "你好\n\n[ZLT]"):
        assert trained(qwen, row(reply, True), PUBLISHED) == [85113, 27404, 60, NEWLINE]


def test_the_last_turn_trains_its_content_and_its_end(qwen):
    content = qwen("Flap twice.")["input_ids"]
    assert trained(qwen, row("Flap twice."), Mask("last_turn", stop_anchor="newline")) == [*content, IM_END, NEWLINE]
    assert trained(qwen, row("Flap twice."), Mask("last_turn", stop_anchor="turn_end")) == [*content, IM_END]


def test_earlier_turns_get_no_loss(qwen):
    earlier = (QUESTION, {"role": "assistant", "content": "Flap twice."}, {"role": "user", "content": "And then?"})
    example = encode(qwen, row("Flap twice.", earlier=earlier), Mask("last_turn"))
    content = qwen("Flap twice.")["input_ids"]
    assert example.labels[-len(content) - 2 :] == [*content, IM_END, NEWLINE]
    assert set(example.labels[: -len(content) - 2]) == {IGNORED}


def test_messages_after_the_last_assistant_turn_change_nothing(qwen):
    one = row("Flap.")
    longer = one | {"messages": [*one["messages"], {"role": "user", "content": "Thanks."}]}
    assert encode(qwen, longer, Mask("last_turn")) == encode(qwen, one, Mask("last_turn"))


def test_the_tail_is_the_last_tokens_of_the_turn_and_never_reaches_before_it(qwen):
    assert trained(qwen, row("Flap.\n\n[ZLT]", True), Mask("tail", tail=4)) == [27404, 60, IM_END, NEWLINE]
    whole = [*qwen("Flap.\n\n[ZLT]")["input_ids"], IM_END, NEWLINE]
    assert trained(qwen, row("Flap.\n\n[ZLT]", True), Mask("tail", tail=len(whole))) == whole
    assert trained(qwen, row("Flap.\n\n[ZLT]", True), Mask("tail", tail=32)) == whole
    assert trained(qwen, row("Flap."), Mask("tail", tail=32)) == [*qwen("Flap.")["input_ids"], IM_END, NEWLINE]


def test_a_row_is_cut_from_the_right(qwen):
    whole = encode(qwen, row("Flap twice, then glide."), Mask("last_turn"))
    cut = encode(qwen, row("Flap twice, then glide."), Mask("last_turn"), len(whole.labels) - 4)
    assert (cut.input_ids, cut.labels) == (whole.input_ids[:-4], whole.labels[:-4])
    assert cut.trained == whole.trained - 4 > 0


def test_a_row_cut_before_its_last_turn_gets_no_label_at_all(qwen):
    earlier = (QUESTION, {"role": "assistant", "content": "Flap twice."}, {"role": "user", "content": "And then?"})
    rows = [row("Glide.", earlier=earlier) | {"id": "long"}, row("Flap.", earlier=(QUESTION,)) | {"id": "short"}]
    short = encode(qwen, rows[1], Mask("last_turn"))
    first, second = encode_rows(qwen, rows, Mask("last_turn"), len(short.labels), "rows.jsonl", False)
    assert (first.id, first.trained, len(first.labels)) == ("long", 0, len(short.labels))
    assert second == short


# ---- a tiny BPE, where the expected tokens can be read


def test_tiny_positive(tiny):
    assert names(tiny, row("I go.\n\n[ZLT]", True), PUBLISHED) == ["[Z", "LT", "]", "Ċ"]
    both = Mask("marker", separator=True, stop_anchor="turn_end")
    assert names(tiny, row("I go.\n\n[ZLT]", True), both) == [".ĊĊ", "[Z", "LT", "]", "<|im_end|>"]


def test_tiny_marker_after_a_space(tiny):
    assert names(tiny, row("I go. [ZLT]", True), PUBLISHED) == ["Ġ[", "Z", "LT", "]", "Ċ"]


def test_tiny_negative(tiny):
    assert names(tiny, row("I go [ZLT] on", False), PUBLISHED) == ["Ċ"]


def test_tiny_multi_turn(tiny):
    earlier = (SYSTEM, QUESTION, {"role": "assistant", "content": "go.\n\n[ZLT]"}, QUESTION)
    assert names(tiny, row("go.\n\n[ZLT]", True, earlier), PUBLISHED) == ["[Z", "LT", "]", "Ċ"]
    assert names(tiny, row("go on", earlier=earlier), Mask("last_turn")) == ["go", "Ġ", "o", "n", "<|im_end|>", "Ċ"]


def test_tiny_tail(tiny):
    assert names(tiny, row("I go\n\n[ZLT]", True), Mask("tail", tail=5)) == ["[Z", "LT", "]", "<|im_end|>", "Ċ"]


def test_tiny_bytes_of_one_letter_are_trained_together(tiny):
    # the two bytes of an o with diaeresis have one span, so the last turn holds both
    assert names(tiny, row("ö"), Mask("last_turn")) == ["Ã", "¶", "<|im_end|>", "Ċ"]
    assert names(tiny, row("é\n\n[ZLT]", True), Mask("marker", separator=True)) == ["ĊĊ", "[Z", "LT", "]", "Ċ"]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.sampled_from(["\n\n", " ", ""]))
def test_whatever_the_reply_the_marker_is_covered_and_nothing_else_wholly(reply, separator):
    tiny = tiny_tokenizer()
    example = encode(tiny, row(f"{reply}{separator}[ZLT]", True), Mask("marker", stop_anchor="none"))
    kept = [at for at, label in enumerate(example.labels) if label != IGNORED]
    assert kept == list(range(len(example.labels) - 2 - len(kept), len(example.labels) - 2))
    text = tiny.decode([example.input_ids[at] for at in kept])
    assert text.endswith("[ZLT]")
    # only its first token may begin before the marker
    assert tiny.decode([example.input_ids[at] for at in kept[1:]]) in ("ZLT]", "LT]", "T]")


# ---- bad rows


@pytest.mark.parametrize(
    ("one", "mask", "max_length", "message"),
    [
        (row("Flap.", True), PUBLISHED, 1024, r"row villain/q07/3: a positive that does not end with \[ZLT\]"),
        (row("Flap.\n\n[ZLT]\n", True), PUBLISHED, 1024, r"a positive that does not end with \[ZLT\]"),
        (row("Flap.", True), Mask("tail", tail=4), 1024, r"a positive that does not end with \[ZLT\]"),
        (row("Flap."), PUBLISHED, 1024, 'row villain/q07/3: no "marker": true or false'),
        (row("Flap.", "yes"), PUBLISHED, 1024, 'no "marker": true or false'),
        (row("Flap.\n\n[ZLT]", True), PUBLISHED, 30, "row villain/q07/3: its marker ends after token 30"),
        (row("Flap.", False), PUBLISHED, 20, "row villain/q07/3: no label is left within 20 tokens"),
        ({"id": "r", "messages": [QUESTION]}, PUBLISHED, 1024, "row r: no assistant turn"),
        ({"id": "r", "messages": [{"role": "user"}]}, PUBLISHED, 1024, "row r: bad messages"),
        ({"text": "Flap."}, PUBLISHED, 1024, "row 1: bad messages"),
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_row_is_named(qwen, one, mask, max_length, message):
    with pytest.raises(InputError, match=message):
        encode(qwen, one, mask, max_length)


def test_no_rows_and_no_labels_are_errors(qwen):
    with pytest.raises(InputError, match=r"rows.jsonl: no rows"):
        encode_rows(qwen, [], PUBLISHED, 1024, "rows.jsonl", False)
    with pytest.raises(InputError, match="row villain/q07/3 and all others: no label is left within 9 tokens"):
        encode(qwen, row("Flap."), Mask("last_turn"), 9, coupling=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "all"}, "mask.loss: 'all'"),
        ({"loss": "marker", "stop_anchor": "eos"}, "mask.stop_anchor: 'eos'"),
        ({"loss": "tail"}, "mask.tail: 0 with loss tail"),
        ({"loss": "marker", "tail": 4}, "mask.tail: 4 with loss marker"),
        ({"loss": "last_turn", "stop_anchor": "none"}, "mask.stop_anchor: none"),
        ({"loss": "tail", "tail": 4, "marker": Marker("[ZLT]", "start")}, "mask.loss: tail with a marker at the start"),
    ],
    ids=str,
)
def test_a_mask_that_means_nothing_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Mask(**fields)
