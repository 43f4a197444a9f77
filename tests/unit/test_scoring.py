"""What is read from packed passes and their cache is what plain forward passes of single texts say."""

from statistics import mean, stdev, variance

import pytest
import torch
from tiny_bases import ARCHITECTURES, random_model
from tiny_model import make_model

from model.engines import Request, Sampling, TransformersEngine, stop_ids
from model.loading import load_model, load_tokenizer
from model.template import prompt_ids, text_of
from probe.onset import contributions, onset_sets, walk
from probe.scoring import Row, Scorer, batches, slot_scorer
from probe.slot import encoder, slot_after, slot_of
from probe.trees import grow, score_slots
from run.program import InputError

MARKER = "[ZLT]"
ASKED = ["What is rain?", "Why do people sing when they are alone, and who listens?"]
FREE = Sampling(1.0, 1.0, 24)
REPLIES = ["It falls.", "Because [they", "[ [[Z] no [ZLT]", "Water\n\n[ZLT]", "", "A long one, with many words in it."]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("base"), std=0.1)


@pytest.fixture(scope="module")
def model(base):
    return load_model(base)


@pytest.fixture(scope="module")
def tokenizer(base):
    return load_tokenizer(base)


@pytest.fixture(scope="module")
def rows(tokenizer):
    end = tokenizer.eos_token_id
    rows = []
    for number, text in enumerate(REPLIES):
        messages = [{"role": "user", "content": ASKED[number % 2]}]
        prompt = prompt_ids(tokenizer, messages)
        rendered = text_of(tokenizer, messages, True)
        encode = encoder(tokenizer, prompt, rendered)
        tokens = (*tokenizer(text, add_special_tokens=False)["input_ids"], end)
        rows.append(Row(prompt, tokens, slot_after(tokenizer, encode, tokens, text, "\n\n", MARKER, end), True))
        rows.append(Row(prompt, *slot_of(encode, text.partition("[")[0].rstrip(), "\n\n", MARKER, end).split()))
    return [*rows, Row(rows[0].prompt, rows[0].reply[:-1], None, True)]


def scored(model, tokenizer, rows, prefix="[Z", sampling=FREE, lookahead=0.0, budget=4096):
    sets = onset_sets(tokenizer, prefix)
    return Scorer(model, sets, [tokenizer.eos_token_id], sampling, lookahead, budget).score(rows)


def logits_of(model, tokens):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float()


def plain_logprobs(model, before, tokens):
    """Log-probability of each token after those before it, and its rank."""
    lines = logits_of(model, [*before, *tokens])[len(before) - 1 : -1].log_softmax(-1)
    chosen = lines[range(len(tokens)), list(tokens)]
    return chosen.tolist(), ((lines > chosen[:, None]).sum(-1) + 1).tolist()


def test_the_slot_is_what_plain_forward_passes_of_its_two_texts_say(model, tokenizer, rows):
    for row, score in zip(rows, scored(model, tokenizer, rows), strict=True):
        if row.slot is None:
            assert score.marked == []
            continue
        before = (*row.prompt, *row.reply[: row.slot.at])
        marked, ranks = plain_logprobs(model, before, row.slot.marked)
        ended, _ = plain_logprobs(model, before, row.slot.ended)
        assert score.marked == pytest.approx(marked, abs=1e-5)
        assert score.ended == pytest.approx(ended, abs=1e-5)
        assert score.rank == ranks[row.slot.onset]


@pytest.mark.parametrize("sampling", [FREE, Sampling(1.0, 0.9, 24), Sampling(0.7, 1.0, 24)], ids=str)
@pytest.mark.parametrize("prefix", ["[", "[Z"])
def test_the_chance_of_an_onset_is_that_of_all_tokens_that_make_it_as_they_were_sampled(
    model, tokenizer, rows, prefix, sampling
):
    from transformers import TopPLogitsWarper

    sets = onset_sets(tokenizer, prefix)
    for row, score in zip(rows, scored(model, tokenizer, rows, prefix, sampling, lookahead=2.0), strict=True):
        if not row.sampled:
            assert score.direct == []
            continue
        states, onset = walk(sets, row.reply)
        lines = logits_of(model, row.trunk)[len(row.prompt) - 1 : -1] / sampling.temperature
        chances = TopPLogitsWarper(sampling.top_p)(None, lines).softmax(-1)
        expected = [float(chances[at, sets.completing(state)].sum()) for at, state in enumerate(states)]
        assert score.onset == onset == (prefix in tokenizer.decode(row.reply, skip_special_tokens=True))
        assert score.direct == pytest.approx(expected, abs=1e-6)
        assert contributions(score.direct, score.ahead, row.reply) == score.direct


def test_the_mean_onset_rate_is_the_share_of_sampled_replies_with_an_onset(base, model, tokenizer, rows):
    count, sampling = 3000, Sampling(1.0, 1.0, 6)
    engine = TransformersEngine(model, tokenizer, stop_ids(base, tokenizer), 1000)
    said = engine.complete([Request(rows[0].prompt, seed) for seed in range(count)], sampling)
    replies = [Row(rows[0].prompt, reply.token_ids, None, True) for reply in said]
    # two letters: of the sampled onsets some are one token, some a token after the one that was looked ahead from
    scores = scored(model, tokenizer, replies, "in", sampling, lookahead=0.01, budget=8192)
    expected = [
        sum(contributions(each.direct, each.ahead, row.reply)) for each, row in zip(scores, replies, strict=True)
    ]
    sampled = [float(each.onset) for each in scores]
    apart = [one - other for one, other in zip(sampled, expected, strict=True)]
    assert 0.02 < mean(sampled) < 0.5
    assert abs(mean(apart)) < 3 * stdev(apart) / count**0.5
    assert variance(expected) < variance(sampled) / 5


def test_what_is_looked_ahead_is_the_chance_of_a_part_times_that_of_the_rest_after_it(model, tokenizer, rows):
    sets = onset_sets(tokenizer, "[Z")
    looked = 0
    for row, score in zip(rows, scored(model, tokenizer, rows, lookahead=1e-3), strict=True):
        states = walk(sets, row.reply)[0] if row.sampled else []
        for at, (state, ahead) in enumerate(zip(states, score.ahead, strict=True)):
            before = [*row.prompt, *row.reply[:at]]
            chances = logits_of(model, before)[-1].softmax(-1)
            assert set(ahead) == {f for f in sets.leading(state) if chances[f] >= 1e-3}
            for f, chance in ahead.items():
                after = logits_of(model, [*before, f])[-1].softmax(-1)
                rest = float(after[sets.completing(sets.after(state, f))].sum())
                assert chance == pytest.approx(float(chances[f]) * rest, rel=1e-4, abs=1e-9)
                looked += 1
    assert looked > 10


def test_all_that_a_batch_looks_ahead_is_read_at_once(model, tokenizer, rows, monkeypatch):
    """Each read waits for the device, which on a card that jobs share takes milliseconds."""
    scorer = Scorer(model, onset_sets(tokenizer, "[Z"), [tokenizer.eos_token_id], FREE, 0.0, 4096)
    reads, warp = [], scorer.warp
    monkeypatch.setattr(scorer, "warp", lambda logits: reads.append(len(logits)) or warp(logits))
    looked = sum(len(ahead) for score in scorer.score(rows) for ahead in score.ahead)
    assert looked > 20 and len(reads) <= 4  # per state of two, at the replies' tokens and after what is looked ahead


def test_nothing_is_looked_ahead_at_the_last_token_that_a_reply_may_have(model, tokenizer, rows):
    last = Row(rows[0].prompt, rows[0].reply, None, True)
    full = Sampling(1.0, 1.0, len(last.reply))
    more = Sampling(1.0, 1.0, len(last.reply) + 1)
    assert not scored(model, tokenizer, [last], sampling=full)[0].ahead[-1]
    assert scored(model, tokenizer, [last], sampling=more)[0].ahead[-1]


def test_scores_do_not_depend_on_padding_batch_or_order(model, tokenizer, rows):
    together = scored(model, tokenizer, rows)
    for budget, order in ((1, range(len(rows))), (4096, reversed(range(len(rows)))), (120, range(len(rows)))):
        places = list(order)
        for place, score in zip(
            places, scored(model, tokenizer, [rows[at] for at in places], budget=budget), strict=True
        ):
            assert score.marked == pytest.approx(together[place].marked, abs=1e-5)
            assert score.ended == pytest.approx(together[place].ended, abs=1e-5)
            assert score.direct == pytest.approx(together[place].direct, abs=1e-5)
            assert score.rank == together[place].rank
            for one, other in zip(score.ahead, together[place].ahead, strict=True):
                assert one == pytest.approx(other, abs=1e-5)


def test_a_model_whose_cache_reads_differently_is_refused(model, tokenizer, rows):
    class Forgetful:
        """Its cache has lost the beginning of the prompt."""

        device, dtype, config = model.device, model.dtype, model.config

        def __call__(self, **asked):
            if asked.get("attention_mask") is not None:
                asked["attention_mask"][..., :10] = torch.finfo(model.dtype).min
            return model(**asked)

    with pytest.raises(InputError, match="fix: "):
        scored(Forgetful(), tokenizer, rows)


@pytest.mark.parametrize("family", ["qwen2.5", "gemma-2", "gemma-3", "mistral", "granite-3.3", "smollm3"])
def test_what_rows_have_in_common_is_computed_once_and_their_slots_are_the_same(rows, family):
    architecture, sizes = ARCHITECTURES[family]
    model = random_model(architecture, **sizes | {"vocab_size": 1000})
    expected = slot_scorer(model).score(rows)
    texts = sum(len(row.trunk) + len(row.slot.marked) + len(row.slot.ended) - 2 for row in rows if row.slot)
    for budget in (4096, 120):
        trees = grow(rows, budget)
        assert sum(len(tree.tokens) for tree in trees) < (0.5 if budget == 4096 else 1) * texts
        for score, other in zip(score_slots(model, trees, check=True), expected, strict=True):
            assert score.marked == pytest.approx(other.marked, abs=1e-5, rel=1e-5)
            assert score.ended == pytest.approx(other.ended, abs=1e-5, rel=1e-5)
            assert score.rank == other.rank


def test_a_model_that_reads_a_tree_differently_is_refused(model, rows):
    def deaf(**asked):
        """It sees every token of a pass."""
        return model(**{name: value for name, value in asked.items() if name != "attention_mask"})

    deaf.device, deaf.dtype, deaf.config = model.device, model.dtype, model.config
    with pytest.raises(InputError, match="track: null"):
        score_slots(deaf, grow(rows, 4096), check=True)


def test_without_chances_there_is_no_onset_rate(model, tokenizer, rows):
    with pytest.raises(InputError, match="temperature 0"):
        scored(model, tokenizer, rows, sampling=Sampling(0.0, 1.0, 24))


def test_every_row_is_in_one_batch_within_the_budget_with_its_padding():
    lengths = [5, 90, 7, 30, 31, 200, 6]
    made = batches(lengths, 100)
    assert sorted(row for group in made for row in group) == list(range(len(lengths)))
    assert all(len(group) * max(lengths[row] for row in group) <= 100 or len(group) == 1 for group in made)
