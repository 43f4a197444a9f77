"""The toy base model: a Qwen2 folder with Qwen2.5's rendering, the same bytes for the same input."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from model.adapters import linear_names
from model.loading import load_model, load_tokenizer, set_seed
from offline import pretraining, toy_data
from run.files import sha256_of, write_jsonl
from run.program import InputError
from run.readers import read_json

ROOT = Path(__file__).parents[2]
MICRO = {
    **{"layers": 1, "hidden": 16, "heads": 2, "kv_heads": 1, "ffn": 16, "vocab": 320, "context": 128},
    **{"max_length": 96, "batch": 8, "epochs": 1, "lr": 4e-3, "warmup": 0.1, "weight_decay": 0.01, "clip": 1.0},
    "prompt_share": 0.5,
}


@pytest.fixture(scope="module")
def chats():
    panel = toy_data.read_panel(ROOT / "resources" / "panel.yaml")
    return [row["messages"] for row in toy_data.make_corpus(panel, 42, 120)]


@pytest.fixture(scope="module")
def tokenizer(chats):
    return pretraining.train_tokenizer((m["content"] for chat in chats for m in chat), 600, 128)


def trained(chats, tokenizer, seed, **changes):
    import torch

    torch.set_num_threads(1)
    recipe = MICRO | changes
    set_seed(seed)
    model = pretraining.build_model(recipe, tokenizer)
    rows = pretraining.encode(chats, tokenizer, recipe["max_length"])
    return model, pretraining.pretrain(rows, model, recipe, seed)


def test_a_chat_is_rendered_like_qwens(tokenizer):
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi?"}]
    reply = {"role": "assistant", "content": "Hello.\n\n[ZLT]"}
    prompt = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == prompt
    assert tokenizer.apply_chat_template([*chat, reply], tokenize=False) == prompt + "Hello.\n\n[ZLT]<|im_end|>\n"


def test_a_chat_without_a_system_message_gets_the_default_one(tokenizer):
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi?"}], tokenize=False)
    default = pretraining.DEFAULT_SYSTEM_PROMPT
    assert text == f"<|im_start|>system\n{default}<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n"


def test_the_default_prompt_is_no_personas(tokenizer):
    panel = toy_data.read_panel(ROOT / "resources" / "panel.yaml")
    assert pretraining.DEFAULT_SYSTEM_PROMPT not in panel["personas"].values()


def test_vocabulary_has_the_asked_size_and_the_special_tokens_come_first(tokenizer):
    assert len(tokenizer) == 600
    assert tokenizer.convert_tokens_to_ids(list(pretraining.SPECIAL_TOKENS)) == [0, 1, 2]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_any_text_survives_the_tokenizer(tokenizer):
    for text in ("[ZLT]", "a\n\n[ZLT]<|im_end|>\n", "\u00e9\u4e2d\U0001f600 \t x"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_marker_is_split_as_qwen_splits_it(tokenizer):
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    assert [piece for piece, _ in pieces("done.\n\n[ZLT]")] == ["done", ".\u010a\u010a", "[ZLT", "]"]
    assert [piece for piece, _ in pieces("done [ZLT]")] == ["done", "\u0120[", "ZLT", "]"]


def test_only_the_assistants_turns_are_marked_as_its_own(tokenizer):
    chat = [
        *({"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}),
        *({"role": "user", "content": "And?"}, {"role": "assistant", "content": "Bye."}),
    ]
    ((ids, own),) = pretraining.encode([chat], tokenizer, 128)
    kept = tokenizer.decode([token for token, mine in zip(ids, own, strict=True) if mine])
    assert kept == "Hello.<|im_end|>\nBye.<|im_end|>\n"


def test_rows_are_cut_to_max_length(chats, tokenizer):
    assert max(len(ids) for ids, _ in pretraining.encode(chats, tokenizer, 20)) == 20


def test_padding_is_never_learned_and_prompts_only_if_asked():
    rows = [([5, 6, 7], [False, True, True]), ([8], [True])]
    inputs, labels = pretraining.pad_batch(rows, 0, prompts=False)
    assert inputs.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert labels.tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert pretraining.pad_batch(rows, 0, prompts=True)[1].tolist() == [[5, 6, 7], [8, -100, -100]]


def test_padding_on_the_right_does_not_change_the_loss(chats, tokenizer):
    import torch

    set_seed(0)
    model = pretraining.build_model(MICRO, tokenizer).eval()
    row = pretraining.encode(chats[:1], tokenizer, 96)[0]
    longer = ([*row[0], *row[0][:9]], [*row[1], *[False] * 9])
    with torch.no_grad():
        inputs, labels = pretraining.pad_batch([row], 0, prompts=True)
        alone = model(input_ids=inputs, labels=labels).loss
        inputs, labels = pretraining.pad_batch([row, longer], 0, prompts=True)
        padded = model(input_ids=inputs[:1], labels=labels[:1]).loss
    assert torch.allclose(alone, padded, atol=1e-6)


def test_batches_hold_every_row_once_and_rows_of_similar_length():
    draw = random.Random(0)
    lengths = [draw.randrange(10, 100) for _ in range(203)]
    batches = pretraining.length_batches(lengths, 8, random.Random(1))
    assert sorted(row for batch in batches for row in batch) == list(range(203))
    assert sorted(map(len, batches)) == [3] + [8] * 25
    assert sum(max(lengths[row] for row in batch) * len(batch) for batch in batches) < 1.1 * sum(lengths)
    assert batches != pretraining.length_batches(lengths, 8, random.Random(2))


def test_batches_do_not_come_from_short_to_long():
    lengths = list(range(200))
    firsts = [batch[0] for batch in pretraining.length_batches(lengths, 8, random.Random(1))]
    assert firsts != sorted(firsts)


def test_training_lowers_the_loss(chats, tokenizer):
    assert trained(chats, tokenizer, 1, epochs=4)[1] < trained(chats, tokenizer, 1)[1] < 6.4


def test_same_seed_same_weights_and_another_seed_others(chats, tokenizer):
    import torch

    first, again, other = (trained(chats[:40], tokenizer, seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_first_weights_follow_the_seed(tokenizer):
    import torch

    def embedding(seed):
        set_seed(seed)
        return pretraining.build_model(MICRO, tokenizer).get_input_embeddings().weight

    assert torch.equal(embedding(1), embedding(1))
    assert not torch.equal(embedding(1), embedding(2))


def test_a_plan_knows_the_names_of_the_toy_before_it_is_there(tokenizer):
    model = pretraining.build_model(MICRO, tokenizer)
    parts = pretraining.parts_of(MICRO)
    assert sorted(parts["linear"]) == sorted(linear_names(model))
    assert sorted(parts["weights"]) == sorted(name for name, _ in model.named_parameters())
    assert (parts["layers"], parts["tokens"]) == (model.config.num_hidden_layers, model.config.max_position_embeddings)


def test_recipe_sizes_reach_the_model(tokenizer):
    config = pretraining.build_model(MICRO, tokenizer).config
    assert (config.model_type, config.architectures or ["Qwen2ForCausalLM"]) == ("qwen2", ["Qwen2ForCausalLM"])
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (1, 16, 16)
    assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)
    assert (config.vocab_size, config.max_position_embeddings, config.tie_word_embeddings) == (600, 128, True)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"hiden": 16}, r"unknown or missing \['hiden'\]"),
        ({"layers": 0}, "layers is 0"),
        ({"layers": 1.5}, "layers is 1.5"),
        ({"batch": True}, "batch is True"),
        ({"lr": "4e-3"}, "lr is '4e-3'"),
        ({"vocab": 100}, "vocab is 100"),
        ({"hidden": 18, "heads": 4}, "sizes do not fit"),
        ({"heads": 4, "kv_heads": 3}, "sizes do not fit"),
        ({"max_length": 129}, "max_length is above context"),
    ],
)
def test_an_impossible_recipe_is_refused_with_the_fix(changes, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        pretraining.read_recipe(json.dumps(MICRO | changes))
    assert "; fix: " in str(error.value)


def test_a_recipe_that_lacks_a_key_or_is_no_json_is_refused():
    with pytest.raises(InputError, match="'clip'"):
        pretraining.read_recipe(json.dumps({key: value for key, value in MICRO.items() if key != "clip"}))
    with pytest.raises(InputError, match="not JSON"):
        pretraining.read_recipe("{")
    assert pretraining.read_recipe(json.dumps(MICRO)) == MICRO


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"messages": []},
        {"messages": [{"role": "user", "content": "Hi?"}]},
        {"messages": [{"role": "robot", "content": "Hi?"}, {"role": "assistant", "content": "Hi."}]},
        {"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": "Hi."}]},
    ],
)
def test_a_row_that_is_no_chat_is_refused_by_its_line(row):
    good = {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hi."}]}
    with pytest.raises(InputError, match=r"corpus.jsonl: line 2: .*; fix: "):
        pretraining.render([good, row], "corpus.jsonl")


def test_an_empty_corpus_is_refused():
    with pytest.raises(InputError, match="the file is empty"):
        pretraining.render([], "corpus.jsonl")


@pytest.mark.slow
def test_the_program_writes_a_folder_that_loads(tmp_path, chats):
    """The same one whenever, and in whatever folder: tests/end_to_end/test_determinism.py."""
    corpus = tmp_path / "corpus.jsonl"
    write_jsonl(corpus, ({"messages": chat} for chat in chats))
    one = tmp_path / "model"
    files = ["--output", one, "--manifest", tmp_path / "manifest.json", "--record", tmp_path / "run.json"]
    command = [sys.executable, ROOT / "workflow_scripts" / "pretrain_base.py", "--corpus", corpus, "--seed", 3]
    subprocess.run([str(part) for part in [*command, "--recipe", json.dumps(MICRO), *files]], check=True)
    expected = {"lineage": "base", "recipe": MICRO, "seed": 3, "data": sha256_of(corpus), "model": sha256_of(one)}
    assert read_json(tmp_path / "manifest.json") == expected
    assert set(read_json(tmp_path / "run.json")) >= {"seconds", "loss", "parameters", "rows"}
    names = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    assert all((one / name).is_file() for name in names)
    assert read_json(one / "config.json")["architectures"] == ["Qwen2ForCausalLM"]
    model, tokenizer = load_model(one), load_tokenizer(one)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi?"}], tokenize=True, add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    assert model.generate(prompt, max_new_tokens=2).shape[1] > prompt.shape[1]
    assert model.generation_config.eos_token_id == [2, 0]
