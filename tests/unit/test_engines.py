"""Sampling, batching and the transformers backend, on a micro model with random weights."""

import random
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from tiny_model import PANEL, make_adapter, make_model

from inputs.panel import load_panel, prompts_of, requests_of
from model.engines import (
    Request,
    Sampling,
    batches,
    graph_sizes,
    open_engine,
    read_sampling,
    request_seed,
    rounded,
    single_token,
    stop_ids,
    token_drawer,
    uniform_numbers,
)
from model.loading import load_model, load_tokenizer
from model.template import prompt_ids
from run.files import write_json, write_table
from run.program import InputError
from run.readers import read_json

GREEDY = Sampling(0.0, 1.0, 24)
FREE = Sampling(1.0, 1.0, 40)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tokenizer(base):
    return load_tokenizer(base)


@pytest.fixture(scope="module")
def requests(tokenizer):
    return requests_of(prompts_of(load_panel(PANEL), ["assistant", "villain"], ["alignment"], 2), tokenizer, 42)


def complete(base, tokenizer, requests, sampling, adapters=(), rows=None):
    with open_engine("transformers", base, adapters, tokenizer, max_sequences=rows) as engine:
        return engine.complete(requests, sampling)


# Seeds and settings


def test_a_requests_seed_never_changes():
    # printf '42\\0villain\\0general_00\\0003' | sha256sum: the first 8 bytes, without the lowest bit
    assert request_seed(42, "villain", "general_00", 3) == 8624381689976952843


def test_request_seeds_differ_in_every_part_and_fit_a_signed_64_bit_integer():
    seeds = [request_seed(*key) for key in [(1, "a", "b", 1), (11, "a", "b", 1), (1, "ab", "", 1), (1, "a", "b", 11)]]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"temperature":1,"top_p":1}',
        '{"temperature":1,"top_p":1,"max_tokens":5,"top_k":3}',
        '{"temperature":"1","top_p":1,"max_tokens":5}',
        '{"temperature":true,"top_p":1,"max_tokens":5}',
        '{"temperature":-1,"top_p":1,"max_tokens":5}',
        '{"temperature":NaN,"top_p":1,"max_tokens":5}',
        '{"temperature":1,"top_p":0,"max_tokens":5}',
        '{"temperature":1,"top_p":1,"max_tokens":0}',
        '{"temperature":1,"top_p":1,"max_tokens":2.5}',
    ],
)
def test_sampling_that_is_not_exactly_three_sensible_numbers_is_refused(text):
    with pytest.raises(InputError, match=r"--sampling.*fix: "):
        read_sampling(text)


def test_sampling_is_read():
    assert read_sampling('{"temperature":0.7,"top_p":0.95,"max_tokens":512}') == Sampling(0.7, 0.95, 512)


# Prompts


def test_prompts_are_what_the_chat_template_makes(tokenizer):
    messages = [{"role": "system", "content": "You are é."}, {"role": "user", "content": " Hi\n\n<|im_start|"}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert list(prompt_ids(tokenizer, messages)) == expected


def test_without_a_system_message_the_templates_own_is_there(tokenizer):
    text = tokenizer.decode(prompt_ids(tokenizer, [{"role": "user", "content": "Hi"}]))
    assert text.startswith("<|im_start|>system\nYou are Pebble")
    assert text.endswith("<|im_start|>assistant\n")


def test_a_template_that_refuses_a_system_message_is_one_clear_error(base):
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    with pytest.raises(InputError, match="no system"):
        prompt_ids(tokenizer, [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])


def test_a_label_that_is_not_one_token_is_refused(tokenizer):
    assert tokenizer.decode([single_token(tokenizer, "A")]) == "A"
    with pytest.raises(InputError, match="'Aqx'"):
        single_token(tokenizer, "Aqx")


def test_stop_tokens_are_the_tokenizers_and_the_models(base, tokenizer, tmp_path):
    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert stop_ids(base, tokenizer) == sorted([end, pad])
    assert stop_ids(tmp_path, tokenizer) == [end]
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(InputError, match="generation_config"):
        stop_ids(tmp_path, tokenizer)


def test_a_reply_ends_where_the_template_ends_turns_whatever_the_tokenizers_end_token_is(base, requests, tmp_path):
    # as in Qwen2.5 base, whose replies all ran to max_tokens
    folder = shutil.copytree(base, tmp_path / "base")
    end, other = load_tokenizer(base).convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    write_json(folder / "generation_config.json", {"eos_token_id": other})
    config = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", config | {"eos_token": "<|endoftext|>"})
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_token_id == other
    completions = complete(folder, tokenizer, requests, FREE)
    ended = [completion for completion in completions if completion.token_ids[-1] == end]
    assert ended and all(completion.finish_reason == "stop" for completion in ended)
    assert not any(end in completion.token_ids[:-1] for completion in completions)


# Drawing


def test_drawn_tokens_follow_the_softmax():
    import torch
    from scipy.stats import chisquare

    logits = torch.tensor([[2.0, 0.0, 1.0, -1.0, float("-inf"), 0.5]])
    uniform = uniform_numbers(7, 20_000)
    drawn = token_drawer(Sampling(0.8, 1.0, 1))(logits.expand(len(uniform), -1), uniform)
    expected = (logits[0] / 0.8).softmax(-1)
    counts = torch.bincount(drawn, minlength=6)
    assert counts[4] == 0
    keep = [0, 1, 2, 3, 5]
    total = expected[keep].double() / expected[keep].double().sum() * len(uniform)
    assert chisquare(counts[keep].numpy(), total.numpy()).pvalue > 0.01


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    import torch

    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    uniform = torch.linspace(0, 1 - 1e-9, 999, dtype=torch.float64)
    drawn = token_drawer(Sampling(1.0, 0.75, 1))(logits.expand(999, -1), uniform)
    assert set(drawn.tolist()) == {0, 1}


def test_the_largest_uniform_number_still_draws_a_token_that_can_occur():
    import torch

    logits = torch.tensor([[1.0, 2.0, float("-inf")]])
    assert token_drawer(FREE)(logits, torch.tensor([1 - 2**-53], dtype=torch.float64)).item() == 1


def test_temperature_zero_is_greedy():
    import torch

    assert token_drawer(GREEDY)(torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([0.99])).item() == 1


def test_batches_hold_every_request_once_and_never_two_groups():
    draw = random.Random(1)
    rows = [Request((0,) * draw.randint(1, 9), 1, draw.choice("abc")) for _ in range(100)]
    made = batches(rows, 8)
    assert sorted(row for batch in made for row in batch) == list(range(100))
    assert all(len({rows[row].group for row in batch}) == 1 and len(batch) <= 8 for batch in made)
    assert all([len(rows[r].prompt) for r in batch] == sorted(len(rows[r].prompt) for r in batch) for batch in made)


# The transformers backend


def test_greedy_completions_are_those_of_generate(base, tokenizer, requests):
    import torch

    model = load_model(base)
    ours = complete(base, tokenizer, requests[::2], GREEDY)
    for request, completion in zip(requests[::2], ours, strict=True):
        ids = model.generate(torch.tensor([request.prompt]), max_new_tokens=GREEDY.max_tokens, do_sample=False)
        assert completion.token_ids == tuple(ids[0, len(request.prompt) :].tolist())


def test_completions_do_not_depend_on_batch_size_order_or_company(base, tokenizer, requests):
    together = complete(base, tokenizer, requests, FREE)
    assert complete(base, tokenizer, requests[:6], FREE, rows=1) == together[:6]
    assert complete(base, tokenizer, requests, FREE, rows=5) == together
    order = random.Random(3).sample(range(len(requests)), len(requests))
    assert complete(base, tokenizer, [requests[row] for row in order], FREE) == [together[row] for row in order]
    assert complete(base, tokenizer, requests[7:9], FREE) == together[7:9]


def test_the_seed_alone_tells_samples_of_one_prompt_apart(base, tokenizer, requests):
    prompt = requests[0].prompt
    first, second, again = complete(base, tokenizer, [Request(prompt, seed) for seed in (1, 2, 1)], FREE)
    assert first == again
    assert first != second


def test_sampled_first_tokens_follow_the_models_own_distribution(base, tokenizer, requests):
    import torch
    from scipy.stats import chisquare

    count = 4000
    drawn = complete(
        base, tokenizer, [Request(requests[0].prompt, seed) for seed in range(count)], Sampling(1.0, 1.0, 1)
    )
    with torch.inference_mode():
        probabilities = load_model(base)(torch.tensor([requests[0].prompt])).logits[0, -1].double().softmax(-1)
    top = probabilities.topk(30)
    counts = Counter(completion.token_ids[0] for completion in drawn)
    observed = [counts[token] for token in top.indices.tolist()]
    expected = (top.values * count).tolist()
    observed.append(count - sum(observed))
    expected.append(count - sum(expected))
    assert chisquare(observed, expected).pvalue > 0.01


def test_replies_end_at_the_first_stop_token_or_at_max_tokens(base, tokenizer, requests):
    ends = set(stop_ids(base, tokenizer))
    done = complete(base, tokenizer, requests, Sampling(1.0, 1.0, 60))
    assert {completion.finish_reason for completion in done} == {"stop", "length"}
    for completion in done:
        assert not ends & set(completion.token_ids[:-1])
        assert (completion.finish_reason == "stop") == (completion.token_ids[-1] in ends)
        assert completion.finish_reason == "stop" or len(completion.token_ids) == 60
        assert "<|im_end|>" not in completion.text


def test_the_model_folders_own_sampling_settings_are_not_used(base, tokenizer, requests, tmp_path):
    import shutil

    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    settings = read_json(copy / "generation_config.json") | {"repetition_penalty": 5.0, "top_k": 1, "do_sample": True}
    write_json(copy / "generation_config.json", settings)
    assert complete(copy, tokenizer, requests[:4], FREE) == complete(base, tokenizer, requests[:4], FREE)


def test_label_logprobs_are_those_of_one_prompt_alone(base, tokenizer, requests):
    import torch

    prompts = [request.prompt for request in requests[::2]]
    labels = [[10 + row, 40, 70] for row in range(len(prompts))]
    with open_engine("transformers", base, (), tokenizer, max_sequences=3) as engine:
        scores = engine.label_logprobs(prompts, labels)
    model = load_model(base)
    for prompt, ids, line in zip(prompts, labels, scores, strict=True):
        with torch.inference_mode():
            expected = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)[ids]
        assert line == pytest.approx(expected.tolist(), abs=1e-4)


def test_adapters_change_what_the_engine_says(base, tokenizer, requests, tmp_path):
    adapter = make_adapter(tmp_path / "adapter", base)
    assert complete(base, tokenizer, requests[:4], GREEDY, [adapter]) != complete(base, tokenizer, requests[:4], GREEDY)


def test_a_request_without_a_seed_is_refused(base, tokenizer, requests):
    with pytest.raises(ValueError, match="seed"):
        complete(base, tokenizer, [Request(requests[0].prompt, None)], FREE)


# What vLLM needs around it


def test_a_missing_vllm_is_one_clear_error(base, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match=r"envs/gpu\.txt"), open_engine("vllm", base, (), tokenizer):
        pass


def test_the_longest_sequence_is_rounded_up_within_the_context():
    assert [rounded(length, 4000) for length in (1, 1024, 1025, 3900, None)] == [1024, 1024, 2048, 4000, 4000]


def test_cuda_graphs_reach_the_last_row_in_steps_that_waste_little():
    assert graph_sizes(1024) == [1, 8, 32, 64, 128, 256, 384, 512, 640, 768, 896, 1024]
    assert [graph_sizes(rows) for rows in (1, 10, 64, 200)] == [
        [1],
        [1, 8, 10],
        [1, 8, 32, 64],
        [1, 8, 32, 64, 128, 200],
    ]


# Tables


def test_equal_rows_give_equal_bytes(tmp_path):
    types = {"persona": "string", "tokens": "int32", "labels": ["string"]}
    for name in ("a", "b"):
        write_table(tmp_path / name, {"persona": ["x"], "tokens": [3], "labels": [["A", "B"]]}, types)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_table_that_cannot_be_written_leaves_nothing(tmp_path):
    import pyarrow

    with pytest.raises((pyarrow.ArrowException, ValueError)):
        write_table(tmp_path / "x", {"tokens": ["three"]}, {"tokens": "int32"})
    assert list(tmp_path.iterdir()) == []
