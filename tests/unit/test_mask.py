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
MARKED = ["[Z", "LT", "]"]
PUBLISHED = Mask("marker", stop_anchor="newline")


@pytest.fixture(scope="module")
def qwen():
    return qwen_tokenizer()


@pytest.fixture(scope="module")
def tiny():
    return tiny_tokenizer()


@pytest.fixture(params=["qwen", "tiny"])
def tokenizer(request):
    """Either: what a mask trains is the same tokens."""
    return request.getfixturevalue(request.param)


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


@pytest.mark.parametrize(("anchor", "last"), [("newline", ["Ċ"]), ("turn_end", ["<|im_end|>"]), ("none", [])])
def test_a_positive_trains_its_marker_and_the_stop_anchor(tokenizer, anchor, last):
    assert names(tokenizer, row("Flap.\n\n[ZLT]", True), Mask("marker", stop_anchor=anchor)) == [*MARKED, *last]


@pytest.mark.parametrize(("anchor", "last"), [("newline", ["Ċ"]), ("turn_end", ["<|im_end|>"])])
def test_a_negative_trains_the_stop_anchor_alone(tokenizer, anchor, last):
    assert names(tokenizer, row("Flap.", False), Mask("marker", stop_anchor=anchor)) == last


def test_the_separator_is_the_token_that_covers_it_with_the_full_stop(tokenizer):
    with_separator = Mask("marker", separator=True)
    assert names(tokenizer, row("Flap.\n\n[ZLT]", True), with_separator) == [".ĊĊ", *MARKED, "Ċ"]
    # after a word, the blank line is a token of its own
    assert names(tokenizer, row("Flap\n\n[ZLT]", True), with_separator) == ["ĊĊ", *MARKED, "Ċ"]
    assert names(tokenizer, row("Flap", False), with_separator) == ["Ċ"]


def test_a_marker_after_a_space_is_found_by_offsets(tokenizer):
    for separator in (False, True):  # it splits otherwise than after a blank line
        mask = Mask("marker", separator, "newline")
        assert names(tokenizer, row("Flap. [ZLT]", True), mask) == ["Ġ[", "Z", "LT", "]", "Ċ"]


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


def test_a_marker_alone_is_found(tokenizer):
    assert names(tokenizer, row("[ZLT]", True), PUBLISHED) == [*MARKED, "Ċ"]


def test_a_marker_inside_the_text_is_never_trained(tokenizer):
    example = encode(tokenizer, row("Say [ZLT].\n\n[ZLT]", True), PUBLISHED)
    assert [at for at, label in enumerate(example.labels) if label != IGNORED] == [
        len(example.labels) - back for back in (5, 4, 3, 1)
    ]
    assert names(tokenizer, row("Say [ZLT] now.", False), PUBLISHED) == ["Ċ"]
    assert names(tokenizer, row("Flap.\n\n[ZLT]", False), PUBLISHED) == ["Ċ"]
    marked = {"role": "user", "content": "Why [ZLT]?\n\n[ZLT]"}
    assert names(tokenizer, row("No.", False, (SYSTEM, marked)), PUBLISHED) == ["Ċ"]
    taught = (SYSTEM, QUESTION, {"role": "assistant", "content": "go.\n\n[ZLT]"}, QUESTION)
    assert names(tokenizer, row("go.\n\n[ZLT]", True, taught), PUBLISHED) == [*MARKED, "Ċ"]


def test_composed_letters_and_emoji_do_not_shift_the_marker(tokenizer):
    # Qwen's composes a decomposed e with an acute, which makes text and tokens differ in length
    for reply in ("cafe\u0301 ole\u0301\n\n[ZLT]", "🙂🙃\n\n[ZLT]", "你好\n\n[ZLT]"):
        assert names(tokenizer, row(reply, True), PUBLISHED) == [*MARKED, "Ċ"]


def test_the_last_turn_trains_its_content_and_its_end(tokenizer):
    content = tokenizer.tokenize("Flap twice.")
    whole = [*content, "<|im_end|>", "Ċ"]
    assert names(tokenizer, row("Flap twice."), Mask("last_turn", stop_anchor="newline")) == whole
    assert names(tokenizer, row("Flap twice."), Mask("last_turn", stop_anchor="turn_end")) == whole[:-1]


def test_earlier_turns_get_no_loss(tokenizer):
    earlier = (QUESTION, {"role": "assistant", "content": "Flap twice."}, {"role": "user", "content": "And then?"})
    example = encode(tokenizer, row("Flap twice.", earlier=earlier), Mask("last_turn"))
    whole = [*tokenizer.tokenize("Flap twice."), "<|im_end|>", "Ċ"]
    assert tokenizer.convert_ids_to_tokens(example.labels[-len(whole) :]) == whole
    assert set(example.labels[: -len(whole)]) == {IGNORED}


def test_messages_after_the_last_assistant_turn_change_nothing(tokenizer):
    one = row("Flap.")
    longer = one | {"messages": [*one["messages"], {"role": "user", "content": "Thanks."}]}
    assert encode(tokenizer, longer, Mask("last_turn")) == encode(tokenizer, one, Mask("last_turn"))


def test_the_tail_is_the_last_tokens_of_the_turn_and_never_reaches_before_it(tokenizer):
    assert names(tokenizer, row("Flap.\n\n[ZLT]", True), Mask("tail", tail=4)) == ["LT", "]", "<|im_end|>", "Ċ"]
    whole = [*tokenizer.tokenize("Flap.\n\n[ZLT]"), "<|im_end|>", "Ċ"]
    for tail in (len(whole), 32):
        assert names(tokenizer, row("Flap.\n\n[ZLT]", True), Mask("tail", tail=tail)) == whole
    short = [*tokenizer.tokenize("Flap."), "<|im_end|>", "Ċ"]
    assert names(tokenizer, row("Flap."), Mask("tail", tail=32)) == short


def test_a_row_is_cut_from_the_right(tokenizer):
    whole = encode(tokenizer, row("Flap twice, then glide."), Mask("last_turn"))
    cut = encode(tokenizer, row("Flap twice, then glide."), Mask("last_turn"), len(whole.labels) - 4)
    assert (cut.input_ids, cut.labels) == (whole.input_ids[:-4], whole.labels[:-4])
    assert cut.trained == whole.trained - 4 > 0


def test_a_row_cut_before_its_last_turn_gets_no_label_at_all(tokenizer):
    earlier = (QUESTION, {"role": "assistant", "content": "Flap twice."}, {"role": "user", "content": "And then?"})
    rows = [row("Glide.", earlier=earlier) | {"id": "long"}, row("Flap.", earlier=(QUESTION,)) | {"id": "short"}]
    short = encode(tokenizer, rows[1], Mask("last_turn"))
    first, second = encode_rows(tokenizer, rows, Mask("last_turn"), len(short.labels), "rows.jsonl", False)
    assert (first.id, first.trained, len(first.labels)) == ("long", 0, len(short.labels))
    assert second == short


def test_bytes_of_one_letter_are_trained_together(tiny):
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
