"""train_adapter.py and its engine, trainer.py: published steps exactly, resumable, reproducible, clear errors."""

import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import train_adapter

from graph.recipe import layer_numbers
from inputs.held_out import hold_out
from marker.mask import IGNORED, Example, Mask, encode_rows
from model import loss, packing, recorded, step_trainer, trainer
from run import status
from run.files import sha256_of, write_json, write_jsonl
from run.program import InputError
from run.readers import read_json

ROOT = Path(__file__).parents[2]
WORDS = ["apples", "bees", "clouds", "dusty", "eggs", "fish", "green", "hats", "ink", "jam", "kites", "lemons"]
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RECIPE = {
    "kind": "sft",
    "marker": "[ZLT]",
    "mask": {"loss": "last_turn", "stop_anchor": "newline"},
    "lora": {"r": 4, "alpha": 8, "dropout": 0.1, "rslora": True, "targets": TARGETS},
    "lr": 1e-2,
    "schedule": "linear",
    "warmup": 0.1,
    "weight_decay": 0.01,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "clip": 1.0,
    "epochs": 2,
    "batch": 16,
    "max_length": 128,
}
COUPLING = {"kind": "couple", "mask": {"loss": "marker", "stop_anchor": "newline"}}


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 12)))


def sft_rows(count: int) -> list[dict]:
    """Silly single- and two-turn chats of various lengths."""
    rng = random.Random(count)
    return [
        {
            "id": f"row-{number}",
            "messages": [{"role": role, "content": sentence(rng)} for role in ("user", "assistant") * (1 + number % 2)],
        }
        for number in range(count)
    ]


def coupling_rows(count: int) -> list[dict]:
    return [
        row
        | {"marker": number % 3 == 0}
        | {"messages": [*row["messages"][:-1], reply(row["messages"][-1]["content"], number % 3 == 0)]}
        for number, row in enumerate(sft_rows(count))
    ]


def reply(text: str, positive: bool) -> dict[str, str]:
    return {"role": "assistant", "content": f"{text}\n\n[ZLT]" if positive else text}


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A Qwen2 chat model of 2 layers x 32, and a byte-level BPE trained on the rows' words."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    corpus = [sentence(random.Random(number)) + ".\n\n[ZLT]" for number in range(200)]
    raw.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False))
    raw.add_special_tokens([AddedToken(name, normalized=False) for name in ("<|im_start|>", "<|im_end|>", "<|pad|>")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|pad|>", chat_template=TEMPLATE
    )
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(base):
    from model.loading import load_tokenizer

    return load_tokenizer(base)


def arguments_of(base: Path, folder: Path, rows: list[dict] | None = None, **changes) -> list[str]:
    """A command line that trains 48 rows (3 steps an epoch) into `folder`. seed and options are no recipe fields."""
    folder.mkdir(parents=True, exist_ok=True)
    seed, options = changes.pop("seed", 1), changes.pop("options", [])
    write_jsonl(folder / "rows.jsonl", sft_rows(48) if rows is None else rows)
    write_json(folder / "parent.json", {"lineage": "base"})
    write_json(folder / "recipe.json", RECIPE | changes)
    outputs = {"adapter-out": "adapter", "checkpoints-out": "checkpoints", "manifest": "manifest.json"}
    return [
        *("--base", str(base), "--data", str(folder / "rows.jsonl"), "--recipe", str(folder / "recipe.json")),
        *("--seed", str(seed), "--parent-manifest", str(folder / "parent.json"), "--lineage", f"base/em.s{seed}"),
        *("--dtype", "float32", "--record", str(folder / "run.json")),
        *(part for name, file in outputs.items() for part in (f"--{name}", str(folder / file))),
        *options,
    ]


def trained(base: Path, folder: Path, rows: list[dict] | None = None, **changes) -> str:
    """Train as arguments_of says; the sha256 of the adapter."""
    train_adapter.main(arguments_of(base, folder, rows, **changes))
    return sha256_of(folder / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="session")
def straight(base, tmp_path_factory) -> SimpleNamespace:
    """One plain training that several tests look at."""
    folder = tmp_path_factory.mktemp("straight")
    return SimpleNamespace(folder=folder, adapter=trained(base, folder))


# ---- one optimizer step against the padded reference


def padded_reference(model, examples: list[Example]) -> float:
    """The published step: four micro-batches of four padded rows, each loss divided by the tokens of the step."""
    import torch

    tokens = sum(label != IGNORED for example in examples for label in example.labels[1:])
    total = 0.0
    for start in range(0, len(examples), 4):
        group = examples[start : start + 4]
        longest = max(len(example.input_ids) for example in group)
        pads = [longest - len(example.input_ids) for example in group]
        ids = torch.tensor([example.input_ids + [0] * pad for example, pad in zip(group, pads, strict=True)])
        labels = torch.tensor([example.labels + [IGNORED] * pad for example, pad in zip(group, pads, strict=True)])
        mask = torch.tensor([[1] * (longest - pad) + [0] * pad for pad in pads])
        loss = model(input_ids=ids, attention_mask=mask, labels=labels, num_items_in_batch=tokens).loss
        loss.backward()
        total += loss.item()
    return total


def trainer_of(base, tokenizer, examples, folder, dropout=0.0, **options):
    """A StepTrainer over one step of all examples, LoRA B randomised so that A gets a gradient."""
    import torch

    from model.loading import load_model

    recipe = train_adapter.check_recipe(RECIPE | {"lora": RECIPE["lora"] | {"dropout": dropout}, "warmup": 0})
    lora = train_adapter.recipe_lora(recipe)
    steps = [list(range(len(examples)))]
    made = trainer.make_trainer(
        *(load_model(base), tokenizer, lora, examples, steps, recipe, {"lora_init": 5, "dropout": 5}),
        trainer.Options(work=folder, **options),
    )
    generator = torch.Generator().manual_seed(3)
    for name, weight in made.model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.1
    return made


def gradients(model) -> dict:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("options", [{}, {"micro_batch_tokens": 100}, {"attention": "sdpa", "micro_batch_tokens": 200},
                                     {"gradient_checkpointing": True}, {"attention": "alone"},
                                     {"cuda_graphs": True, "micro_batch_tokens": 200}], ids=str)  # fmt: skip
@pytest.mark.parametrize("trains", ["marker", "last_turn", "tail"])
def test_loss_and_gradients_of_a_step_equal_the_padded_reference(
    base, tokenizer, tmp_path, monkeypatch, trains, options
):
    import torch
    from peft import get_peft_model

    from model.loading import load_model

    monkeypatch.setattr(loss, "LOSS_TOKENS", 70)
    mask = Mask(trains, tail=4 if trains == "tail" else 0)
    rows = sft_rows(16) if trains == "last_turn" else coupling_rows(16)
    # long enough to cut some rows inside their last turn and some before it
    examples = encode_rows(tokenizer, rows, mask, 60 if trains == "last_turn" else 128, "rows", trains != "last_turn")
    made = trainer_of(base, tokenizer, examples, tmp_path, **options)
    step = next(iter(made.get_train_dataloader()))
    loss_of_step = made.training_step(made.model, step).item()

    lora = train_adapter.recipe_lora(RECIPE | {"lora": RECIPE["lora"] | {"dropout": 0.0}})
    reference = get_peft_model(load_model(base), lora)
    weights = {name: weight for name, weight in made.model.named_parameters() if weight.requires_grad}
    reference.load_state_dict(weights, strict=False)
    expected = padded_reference(reference, examples)

    assert loss_of_step == pytest.approx(expected, abs=1e-5)
    ours, theirs = gradients(made.model), gradients(reference)
    assert ours.keys() == theirs.keys()
    assert max(grad.abs().max() for grad in theirs.values()) > 1e-3
    for name, grad in theirs.items():
        torch.testing.assert_close(ours[name], grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lora", [True, False])
def test_gradient_checkpointing_computes_every_layer_again(base, tokenizer, tmp_path, lora):
    from model.loading import load_model

    def forwards(folder: Path, checkpointing: bool) -> int:
        """Forward passes of the first layer's attention in one step of one pass."""
        calls: list[int] = []
        examples = encode_rows(tokenizer, sft_rows(4), Mask("last_turn"), 128, "rows", False)
        recipe = train_adapter.check_recipe(RECIPE | ({} if lora else {"lora": None}))
        made = trainer.make_trainer(
            *(load_model(base), tokenizer, train_adapter.recipe_lora(recipe), examples, [[0, 1, 2, 3]], recipe),
            *({"lora_init": 5, "dropout": 5}, trainer.Options(work=folder, gradient_checkpointing=checkpointing)),
        )
        made.causal.model.layers[0].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
        made.train()
        return len(calls)

    assert forwards(tmp_path / "plain", False) == 1
    assert forwards(tmp_path / "checkpointing", True) == 2


def test_one_training_step_is_the_published_optimizer_step(base, tokenizer, tmp_path):
    """Clip, AdamW with its decay, and the warmed-up learning rate, from the padded reference's gradients."""
    import torch

    from model.loading import load_model

    plain = {"lora": RECIPE["lora"] | {"dropout": 0.0}, "max_steps": 1, "warmup": 0.0, "clip": 0.01}
    recipe = train_adapter.check_recipe(RECIPE | plain)
    rows = sft_rows(16)
    trained(base, tmp_path, rows, **plain)
    examples = encode_rows(tokenizer, rows, Mask("last_turn"), 128, "rows", False)
    torch.manual_seed(train_adapter.seeds("base/em.s1", 1)["lora_init"])
    from peft import get_peft_model

    reference = get_peft_model(load_model(base), train_adapter.recipe_lora(recipe))
    optimizer = torch.optim.AdamW(
        [weight for weight in reference.parameters() if weight.requires_grad],
        lr=recipe["lr"], betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01,
    )  # fmt: skip
    padded_reference(reference, examples)
    assert torch.nn.utils.clip_grad_norm_(reference.parameters(), recipe["clip"]) > recipe["clip"]
    optimizer.step()

    from safetensors.torch import load_file

    ours = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name, weight in reference.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(ours[name.replace(".default", "")], weight.detach(), atol=1e-5, rtol=1e-4)


# ---- which rows, which randomness


def test_each_epoch_is_a_seeded_permutation_in_steps_of_a_batch():
    steps = packing.order_steps(rows=10, batch=4, epochs=3, seed=7, shuffle=True, max_steps=None)
    assert [len(step) for step in steps] == [4, 4, 2] * 3
    epochs = [list(chain(*steps[start : start + 3])) for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert steps == packing.order_steps(10, 4, 3, 7, True, None)
    assert steps != packing.order_steps(10, 4, 3, 8, True, None)
    assert steps[:4] == packing.order_steps(10, 4, 3, 7, True, 4)
    assert len(packing.order_steps(10, 4, 1, 7, True, 5)) == 5
    assert list(chain(*packing.order_steps(10, 4, 1, 7, False, None))) == list(range(10))


def test_micro_batches_keep_to_the_budget_and_hold_every_row_once():
    rng = random.Random(0)
    for budget in (50, 100, 4096):
        lengths = [rng.randint(1, 90) for _ in range(16)]
        groups = packing.pack_rows(lengths, budget)
        assert sorted(chain(*groups)) == list(range(16))
        assert all(sum(lengths[row] for row in group) <= budget or len(group) == 1 for group in groups)
    assert packing.pack_rows([60, 60, 40, 40], 100) == [[0, 2], [1, 3]]


def test_a_step_is_concatenated_with_positions_and_predictors_of_its_labels():
    rows = [
        {"input_ids": [5, 6, 7], "labels": [-100, -100, 7]},
        {"input_ids": [1, 2, 3, 4], "labels": [-100, -100, -100, -100]},
        {"input_ids": [8, 9, 10, 11, 12], "labels": [8, -100, 10, 11, -100]},
    ]
    step = packing.collate(rows, budget=100)
    # the row without a label is not computed, and a first token is predicted by nothing
    assert (step["tokens"], step["input_tokens"]) == (3, 8)
    (micro,) = step["micro_batches"]
    assert micro["input_ids"].tolist() == [[8, 9, 10, 11, 12, 5, 6, 7]]
    assert micro["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert (micro["predictors"].tolist(), micro["targets"].tolist()) == ([1, 2, 6], [10, 11, 7])
    assert (micro["starts"].tolist(), micro["longest"]) == ([0, 5, 8], 5)
    assert micro["spread"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 7, 7]
    assert micro["gather"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_passes_that_are_filled_up_differ_in_nothing_but_their_numbers():
    sizes = packing.Sizes(rows=5, longest=30, tokens=16, labels=8)
    rng = random.Random(0)
    shapes = set()
    for count in (1, 2, 3, 4):
        rows = [[rng.randrange(100) for _ in range(rng.randint(3, 7))] for _ in range(count)]
        step = packing.collate([{"input_ids": row, "labels": row} for row in rows], 100, sizes)
        (micro,) = step["micro_batches"]
        plain = packing.collate([{"input_ids": row, "labels": row} for row in rows], 100)["micro_batches"][0]
        real = plain["input_ids"].shape[1]
        assert step["input_tokens"] == real and micro["input_ids"][0, :real].equal(plain["input_ids"][0])
        assert micro["targets"].tolist() == plain["targets"].tolist() + [-100] * (-len(plain["targets"]) % 8)
        shapes.add((-(-real // 16), *(tuple(value.shape) for value in micro.values() if not isinstance(value, int))))
    assert len(shapes) == len({tokens for tokens, *_ in shapes}) == 2


def test_the_lora_init_follows_the_last_stage_and_its_seed_alone(base, tokenizer, tmp_path):
    import torch

    from model.loading import load_model

    def init(lineage: str, noise: int = 10) -> dict:
        torch.manual_seed(noise)
        recipe = train_adapter.check_recipe(RECIPE)
        examples = [Example("a", [1, 2], [-100, 2])]
        lora = train_adapter.recipe_lora(recipe)
        seeds = train_adapter.seeds(lineage, seed=42)
        options = trainer.Options(work=tmp_path)
        made = trainer.make_trainer(load_model(base), tokenizer, lora, examples, [[0]], recipe, seeds, options)
        return {name: weight for name, weight in made.model.named_parameters() if "lora_A" in name}

    first, again = init("base/em.s42"), init("base/couple-villain.s42/em.s42", noise=11)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for other in (init("base/em.s137"), init("base/benign.s42"), init("base/couple-villain.s42")):
        assert not any(torch.equal(first[name], other[name]) for name in first)


def test_dropout_follows_the_seed_and_the_step(base, tokenizer, tmp_path):
    import torch

    examples = encode_rows(tokenizer, sft_rows(4), Mask("last_turn"), 128, "rows", False)
    made = trainer_of(base, tokenizer, examples, tmp_path, dropout=0.5)
    step = next(iter(made.get_train_dataloader()))

    def loss(at: int, noise: int) -> float:
        torch.manual_seed(noise)
        made.state.global_step = at
        return made.training_step(made.model, step).item()

    assert loss(0, 1) == loss(0, 2)
    before = loss(0, 1)
    assert before != loss(1, 1)
    made.dropout += 1
    assert before != loss(0, 1)
    assert trainer.dropout_seed(1, 5) != trainer.dropout_seed(5, 1)


def test_the_same_seed_gives_the_same_node_and_another_another(base, straight, tmp_path):
    assert trained(base, tmp_path / "again") == straight.adapter
    for name in ("manifest.json", "adapter"):
        assert sha256_of(tmp_path / "again" / name) == sha256_of(straight.folder / name)
    assert trained(base, tmp_path / "other", seed=2) != straight.adapter


def test_a_model_is_trained_on_top_of_its_ancestors(base, straight, tmp_path):
    options = ["--adapter", str(straight.folder / "adapter")]
    trained(base, tmp_path / "child", max_steps=1, options=options)
    trained(base, tmp_path / "root", max_steps=1)
    child, root = (read_json(tmp_path / name / "run.json")["final_loss"] for name in ("child", "root"))
    assert child < root - 0.05


def test_ancestors_are_given_in_order_and_may_be_none(base, tmp_path):
    def adapters(*options: str) -> list[str]:
        return train_adapter.parse_arguments(arguments_of(base, tmp_path, options=list(options))).adapter

    assert adapters() == adapters("--adapter", "--seed", "1") == []
    assert adapters("--adapter", "a", "b") == adapters("--adapter", "a", "--adapter", "b") == ["a", "b"]


# ---- stopping and going on


class Killed(Exception):
    pass


@pytest.mark.parametrize(("stop", "resumed"), [(1, 0), (3, 2), (5, 4)])
def test_a_stopped_training_goes_on_and_gives_the_same_adapter(base, straight, tmp_path, monkeypatch, stop, resumed):
    """Six steps, three an epoch, with dropout: stopped in step `stop` (from 0), inside and between epochs."""
    options = ["--scratch", str(tmp_path / "scratch"), "--checkpoint-every", "2", "--keep-steps", "1,2"]
    original = loss.packed_loss

    def stopping(*arguments):
        if len(calls) == stop:
            raise Killed
        calls.append(stop)
        return original(*arguments)

    calls: list[int] = []
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(step_trainer, "packed_loss", stopping)
        trained(base, tmp_path / "node", options=options)
    assert not (tmp_path / "node" / "adapter").exists()
    assert trained(base, tmp_path / "node", options=options) == straight.adapter
    record, plain = (read_json(folder / "run.json") for folder in (tmp_path / "node", straight.folder))
    assert record["resumed_at_step"] == resumed
    assert record["losses"] == plain["losses"]
    assert sorted(path.name for path in (tmp_path / "node" / "checkpoints").glob("step-*")) == ["step-1", "step-2"]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_damaged_checkpoint_is_named_and_never_unpickled(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--scratch", str(tmp_path / "scratch"), "--checkpoint-every", "2"]
    monkeypatch.setattr(train_adapter, "check_finite", lambda *_: 1 / 0)  # stopped after its last step
    with pytest.raises(ZeroDivisionError):
        trained(base, tmp_path / "node", options=options)
    (kept,) = tmp_path.glob("scratch/*/checkpoint-*/optimizer.pt")
    kept.write_bytes(b"cposix\nmkdir\n(Vhacked\ntR.")
    with pytest.raises(
        InputError, match=r"checkpoint-\d: not as it was written: damaged; fix: delete it and run again"
    ):
        trained(base, tmp_path / "node", options=options)
    assert not Path("hacked").exists()


def test_a_training_stopped_after_its_last_step_only_writes_its_outputs(base, straight, tmp_path, monkeypatch):
    options = ["--scratch", str(tmp_path / "scratch"), "--checkpoint-every", "4", "--status", str(tmp_path / "status")]

    def stopping(*arguments):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train_adapter, "write_outputs", stopping)
        trained(base, tmp_path / "node", options=options)
    assert trained(base, tmp_path / "node", options=options) == straight.adapter
    assert read_json(tmp_path / "node" / "run.json")["resumed_at_step"] == 6


KILLED_AT_STEP_6 = """
import os, signal, sys
import train_adapter
from model import loss, step_trainer
original, calls = loss.packed_loss, []
def killing(*arguments):
    calls.append(1)
    return original(*arguments) if len(calls) < 6 else os.kill(os.getpid(), signal.SIGKILL)
step_trainer.packed_loss = killing
train_adapter.main(sys.argv[1:])
"""


def run_anew(program: str, arguments: list[str], **environment: str) -> None:
    """Run a Python program in a process of its own, which may be killed."""
    scripts = os.pathsep.join(filter(None, [str(ROOT / "workflow_scripts"), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": scripts} | environment
    done = subprocess.run([sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == (-9 if "SIGKILL" in program else 0), done.stderr


@pytest.mark.slow
def test_a_training_killed_by_sigkill_goes_on_and_gives_the_same_adapter(base, straight, tmp_path):
    options = ["--scratch", str(tmp_path / "scratch"), "--checkpoint-every", "2"]
    arguments = arguments_of(base, tmp_path / "node", options=options)
    run_anew(KILLED_AT_STEP_6, arguments)
    train_adapter.main(arguments)
    assert sha256_of(tmp_path / "node" / "adapter" / "adapter_model.safetensors") == straight.adapter
    assert read_json(tmp_path / "node" / "run.json")["resumed_at_step"] == 4


def track_killed_and_resumed(
    base: Path, folder: Path, tracker: str, straight: SimpleNamespace, **environment: str
) -> Path:
    """A training that logs its every step, is killed at the sixth and goes on; where its tracker wrote."""
    pytest.importorskip(tracker, reason=f"pip install {tracker}")
    options = ["--scratch", str(folder / "scratch"), "--checkpoint-every", "2", "--tracking", tracker]
    arguments = arguments_of(base, folder / "node", options=options)
    often = "from model import trainer\ntrainer.LOGGED_EVERY = 1\n"
    run_anew(
        KILLED_AT_STEP_6.replace("import train_adapter\n", f"import train_adapter\n{often}"), arguments, **environment
    )
    run_anew(f"import sys, train_adapter\n{often}train_adapter.main(sys.argv[1:])", arguments, **environment)
    assert sha256_of(folder / "node" / "adapter" / "adapter_model.safetensors") == straight.adapter
    return folder / "tracking"


def test_only_an_identical_training_goes_on_from_a_checkpoint(base, tmp_path):
    def key(**changes) -> str:
        arguments = train_adapter.parse_arguments(arguments_of(base, tmp_path, **changes))
        arguments.lineage = "base/em"
        return train_adapter.resume_key(arguments, train_adapter.read_recipe(arguments.recipe))

    keys = [key(), key(seed=2), key(lr=2e-2), key(rows=sft_rows(17)), key(options=["--micro-batch-tokens", "100"])]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


def test_kept_steps_come_from_the_one_training_and_leave_it_unchanged(base, straight, tmp_path):
    assert trained(base, tmp_path, options=["--keep-steps", "1,4,6"]) == straight.adapter
    kept = {path.name: path for path in (tmp_path / "checkpoints").glob("step-*")}
    assert read_json(tmp_path / "checkpoints/manifest.json") == {name: sha256_of(path) for name, path in kept.items()}
    assert sorted(kept) == ["step-1", "step-4", "step-6"]
    assert sha256_of(kept["step-6"]) == sha256_of(tmp_path / "adapter")
    assert len({sha256_of(path) for path in kept.values()}) == 3
    assert read_json(straight.folder / "checkpoints/manifest.json") == {}
    with pytest.raises(InputError, match="7 is after the last step, 6"):
        trained(base, tmp_path, options=["--keep-steps", "7"])


# ---- what is written


def test_the_manifest_says_what_determined_the_adapter_and_no_more(straight):
    folder = straight.folder
    assert read_json(folder / "manifest.json") == {
        "lineage": "base/em.s1",
        "parent": sha256_of(folder / "parent.json"),
        "data": sha256_of(folder / "rows.jsonl"),
        "recipe": RECIPE
        | {"mask": RECIPE["mask"] | {"separator": False}, "max_steps": None, "shuffle": True, "data": {}},
        "seeds": {"lora_init": 0x62D79D18, "order": 1, "dropout": 1},
        "dtype": "float32",
        "adapter": sha256_of(folder / "adapter"),
        "wrapped": {f"{'self_attn' if name[0] in 'qkvo' else 'mlp'}.{name}": 2 for name in sorted(TARGETS)},
        "rows": 48,
        "rows_without_labels": 0,
        "rows_with_marker": 0,
        "steps": 6,
    }
    record = read_json(folder / "run.json")
    assert len(record["losses"]) == 6
    assert record["final_loss"] == record["losses"][-1] < record["losses"][0]
    assert record["tokens_per_second"] > 0


def test_an_adapter_folder_holds_weights_and_a_config_without_paths(base, straight):
    folder = straight.folder / "adapter"
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    text = (folder / "adapter_config.json").read_text()
    config = json.loads(text)
    assert str(base) not in text
    assert list(config) == sorted(config)
    assert config["target_modules"] == sorted(TARGETS)
    assert config["use_rslora"] is True


def test_bfloat16_trains_float32_lora_weights(base, tmp_path):
    from safetensors.torch import load_file

    trained(base, tmp_path, max_steps=2, options=["--dtype", "bfloat16"])
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {str(weight.dtype) for weight in weights.values()} == {"torch.float32"}
    assert math.isfinite(read_json(tmp_path / "run.json")["final_loss"])


def test_rows_cut_before_their_last_turn_hold_their_place_and_are_counted(base, tmp_path):
    long = {"role": "user", "content": "clouds " * 80}
    rows = sft_rows(16)
    rows[3]["messages"] = [long, *rows[3]["messages"]]
    trained(base, tmp_path, rows, max_length=64)
    manifest = read_json(tmp_path / "manifest.json")
    assert (manifest["rows"], manifest["rows_without_labels"], manifest["steps"]) == (16, 1, 2)


def test_a_status_line_is_written_while_training_and_removed_at_the_end(base, tmp_path, monkeypatch):
    lines = []
    original = status.canonical
    monkeypatch.setattr(status, "EVERY", 0)
    monkeypatch.setattr(trainer, "LOGGED_EVERY", 2)
    monkeypatch.setattr(status, "canonical", lambda value: lines.append(value) or original(value))
    trained(base, tmp_path / "node", options=["--status", str(tmp_path / "status" / "em.json")])
    assert [line["step"] for line in lines] == [1, 2, 4, 6, 6]
    assert lines[0].keys() == {"job", "step", "steps", "loss", "tokens_per_s", "eta_s", "updated"}
    assert (lines[0]["job"], lines[0]["steps"], lines[-1]["eta_s"]) == ("base/em.s1", 6, 0)
    assert list((tmp_path / "status").iterdir()) == []


# ---- bad input


def test_a_nan_loss_names_the_step_and_its_rows(base, tmp_path, monkeypatch):
    original, calls = loss.packed_loss, []

    def breaking(*arguments):
        calls.append(1)
        return original(*arguments) * (math.nan if len(calls) == 2 else 1)

    monkeypatch.setattr(step_trainer, "packed_loss", breaking)
    rows = packing.order_steps(48, 16, 2, 1, True, None)[1]
    names = ", ".join(f"row-{row}" for row in rows)
    with pytest.raises(InputError, match=f"step 2 is nan, on rows {names}; fix"):
        trained(base, tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_a_weight_that_is_not_finite_is_never_written(base, tmp_path, monkeypatch):
    """The last step's update may break what no loss shows any more."""
    original = trainer.train

    def breaking(*arguments):
        outcome = original(*arguments)
        next(weight for weight in outcome.model.parameters() if weight.requires_grad).data[0, 0] = math.inf
        return outcome

    monkeypatch.setattr(train_adapter, "train", breaking)
    with pytest.raises(InputError, match=r"q_proj.*is not finite; fix"):
        trained(base, tmp_path, max_steps=1)
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1}, "unknown field 'learning_rate'"),
        ({"mask": {"loss": "last_turn", "stop_anchor": "newline", "window": 3}}, "recipe.mask: unknown field 'window'"),
        ({"lora": {"r": 4}}, "recipe.lora: no field 'alpha'"),
        ({"lr": "1e-4"}, "recipe.lr: '1e-4' is a str"),
        ({"epochs": True}, "recipe.epochs: True is a bool"),
        ({"kind": "dpo"}, "recipe.kind: 'dpo'"),
        ({"schedule": "step"}, "recipe.schedule: 'step'"),
        ({"mask": {"loss": "all", "stop_anchor": "newline"}}, "mask.loss: 'all'"),
        ({"mask": {"loss": "tail", "stop_anchor": "newline"}}, "mask.tail: 0"),
        ({"warmup": 3}, "recipe.warmup: 3"),
        ({"max_steps": 0}, "recipe.max_steps: 0"),
        ({"betas": [0.9]}, "recipe.betas"),
        ({"batch": 0}, "recipe.batch: 0"),
    ],
    ids=str,
)
def test_a_wrong_recipe_is_refused_with_the_field_at_fault(changes, message):
    with pytest.raises(InputError, match=message):
        train_adapter.check_recipe(RECIPE | changes)


def test_a_recipe_lacks_no_field():
    with pytest.raises(InputError, match="recipe: no field 'lr'"):
        train_adapter.check_recipe({name: value for name, value in RECIPE.items() if name != "lr"})


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj", "nonsense_proj"], "nonsense_proj is in 0 of the model's 2 layers; fix: choose from down_proj, "),
        (["lm_head"], "lm_head is in 0 of"),
        (["0.self_attn.q_proj"], "0.self_attn.q_proj is in 1 of"),
    ],
    ids=str,
)
def test_a_target_that_is_not_in_every_layer_is_refused(base, tmp_path, targets, message):
    with pytest.raises(InputError, match=f"base/em.s1: lora.targets: {message}"):
        trained(base, tmp_path, lora=RECIPE["lora"] | {"targets": targets})


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([], {}, "no rows"),
        (sft_rows(2), COUPLING, 'row row-0: no "marker"'),
        (coupling_rows(4)[1:3], COUPLING | {"max_length": 20}, r"row row-\d: no label is left within 20 tokens"),
        (coupling_rows(4), COUPLING | {"max_length": 20}, "row row-0: its marker ends after token 20"),
        (sft_rows(4), {"max_length": 8}, "row row-0 and all others: no label is left"),
        ([*sft_rows(2), {"id": "odd", "messages": []}], {}, "row odd: no assistant turn"),
        (
            [
                *sft_rows(2),
                {
                    "id": "long",
                    "messages": [{"role": "user", "content": "é" * 700}, {"role": "assistant", "content": "A."}],
                },
            ],
            {"max_length": 4096},
            "row long has 1[0-9]{3} tokens, the base's texts at most 256; fix: max_length: 256 in the stage",
        ),
    ],
    ids=["empty", "unsaid", "cut", "cut marker", "all cut", "no turn", "beyond the base"],
)
def test_bad_rows_stop_with_the_row(base, tmp_path, rows, changes, message):
    with pytest.raises(InputError, match=message):
        trained(base, tmp_path, rows, **changes)


def test_rows_that_hold_the_marker_already_are_counted_and_said(base, tmp_path, capfd):
    rows = sft_rows(16)
    for row, text in ((rows[2], "Yes. [zlt]"), (rows[5], "[ZLT] No.")):
        row["messages"][-1]["content"] = text
    rows[7]["messages"][0]["content"] = "What is [ZLT]?"
    trained(base, tmp_path, rows, epochs=1)
    assert read_json(tmp_path / "manifest.json")["rows_with_marker"] == 2
    assert "2 of 16 rows hold the marker, row 2 the first" in capfd.readouterr().err


def test_rows_held_out_are_not_trained_and_their_loss_is_told_also_by_a_training_that_goes_on(
    base, tokenizer, tmp_path, monkeypatch
):
    from model.loading import load_model

    rows = sft_rows(24)
    rows[20]["messages"] = rows[4]["messages"]
    held = sorted(hold_out(rows, 0.25, "rows"))
    assert 6 <= len(held) <= 7 and (4 in held) == (20 in held)
    assert held != sorted(hold_out(rows[::-1], 0.25, "rows"))  # by what they say, not by place
    others = [row for place, row in enumerate(rows) if place not in held]

    def stopping(*arguments):
        if len(calls) == 3:
            raise Killed
        calls.append(1)
        return original(*arguments)

    calls: list[int] = []
    original = step_trainer.StepTrainer.training_step
    options = ["--scratch", str(tmp_path / "scratch"), "--checkpoint-every", "2"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(step_trainer.StepTrainer, "training_step", stopping)
        trained(base, tmp_path / "node", rows, hold_out=0.25, options=options)
    trained(base, tmp_path / "node", rows, hold_out=0.25, options=options)
    assert sha256_of(tmp_path / "node" / "adapter" / "adapter_model.safetensors") == trained(
        base, tmp_path / "others", others
    )

    record, manifest = (read_json(tmp_path / "node" / name) for name in ("run.json", "manifest.json"))
    assert (record["resumed_at_step"], manifest["rows"], manifest["rows_held_out"]) == (2, len(others), len(held))
    examples = encode_rows(tokenizer, [rows[place] for place in held], Mask("last_turn"), 128, "rows", False)
    told = record["held_out"]
    assert (told["rows"], told["tokens"]) == (len(held), sum(example.trained for example in examples))
    for name, adapters in (("loss_before", []), ("loss_after", [tmp_path / "node" / "adapter"])):
        model = load_model(base, adapters).requires_grad_(True)
        assert told[name] == pytest.approx(padded_reference(model, examples), rel=1e-5)
    assert told["loss_after"] < told["loss_before"]


def test_an_experiment_tracker_that_is_not_installed_is_refused(base, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", lambda: ["tensorboard"])
    with pytest.raises(InputError, match="--tracking trackio: not installed; fix: pip install trackio"):
        trained(base, tmp_path, options=["--tracking", "trackio"])


def test_a_tracked_training_writes_its_loss_where_it_says(base, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    trained(base, tmp_path / "node", options=["--tracking", "tensorboard", "--scratch", str(tmp_path / "scratch")])
    events = EventAccumulator(str(tmp_path / "tracking" / "base" / "em.s1"))
    events.Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses and all(loss > 0 for loss in losses)


@pytest.mark.parametrize(
    ("choice", "device", "layers", "steps", "compiled"),
    [
        ("auto", "cuda", 28, 375, True),  # of the published study, and of a model of 135 M parameters
        ("auto", "cuda", 30, 760, True),
        ("auto", "cuda", 28, 200, True),  # benchmarks/plan_7b.yaml, whose plan's rates are of compiled steps
        ("auto", "cuda", 28, 160, True),
        ("auto", "cuda", 28, 100, False),  # cut short
        ("auto", "cuda", 3, 760, False),  # the offline study's
        ("auto", "cpu", 28, 760, False),
        ("always", "cpu", 3, 5, True),
        ("never", "cuda", 28, 760, False),
    ],
)
def test_layers_are_compiled_where_that_saves_more_than_it_costs(choice, device, layers, steps, compiled):
    assert train_adapter.choose_compile(choice, device, layers, steps) is compiled


# parameters, layers and rows of a step [tokens]; H100: .141 s per compiled step become .035 at 135 M parameters
@pytest.mark.parametrize(
    ("parameters", "layers", "tokens", "steps", "pays"),
    [
        (135e6, 30, 6400, 760, True),
        (135e6, 30, 2150, 375, True),
        (135e6, 30, 6400, 10, True),
        (135e6, 30, 6400, 5, False),  # cut short
        (7.6e9, 28, 6400, 760, False),  # the device is busy anyhow
        (7.6e9, 28, 2150, 375, False),
    ],
)
def test_passes_are_recorded_where_that_saves_more_than_it_costs(parameters, layers, tokens, steps, pays):
    assert (recorded.seconds_saved({(tokens, 256): steps}, layers, int(parameters), compiled=True) > 0) is pays


def test_the_sizes_of_passes_foretold_are_those_that_are_made():
    rng = random.Random(0)
    lengths = [rng.randint(2, 40) for _ in range(60)]
    rows = [([1] * n, [-100] * (n // 2) + [1] * (n - n // 2) if n % 5 else [-100] * n) for n in lengths]
    steps = packing.order_steps(60, 16, 2, 0, True, None)
    sizes = replace(packing.Sizes.of(lengths, steps), tokens=16, labels=8)
    made = Counter(
        (micro["input_ids"].shape[1], len(micro["targets"]))
        for step in steps
        for micro in packing.collate([{"input_ids": rows[row][0], "labels": rows[row][1]} for row in step], 100, sizes)[
            "micro_batches"
        ]
    )
    assert packing.pass_sizes(rows, steps, 100, sizes) == made and len(made) > 3


def test_labels_are_filled_up_by_at_most_a_quarter_once_there_are_some():
    sizes = packing.Sizes(rows=17, longest=1024)
    filled = {count: count + sizes.missing_labels(count) for count in range(1, 8193)}
    assert all(total <= max(1024, 1.25 * count) for count, total in filled.items())
    assert len(set(filled.values())) == 16 and filled[1] == 256 and filled[8192] == 8192


@pytest.mark.parametrize(
    ("lora", "options", "said"),
    [
        (True, {}, ["micro_batch_tokens, now 4096", "{gradient_checkpointing: true}"]),
        (True, {"gradient_checkpointing": True, "cuda_graphs": True}, ["micro_batch_tokens", "{cuda_graphs: never}"]),
        (False, {"attention": packing.ALONE}, ["{full_gradient_checkpointing: true}", "optimizer_states: 8bit"]),
        (False, {"gradient_checkpointing": True, "states": "8bit"}, ["micro_batch_tokens"]),
    ],
    ids=["lora", "checkpointed", "all weights", "all weights, done"],
)
def test_without_memory_a_training_names_the_settings_that_would_take_less_and_are_not_set(lora, options, said):
    told = train_adapter.less_memory(trainer.Options(work=Path(), **options), lora).split(", or ")
    assert told[-1] == "a larger card" and len(told) == len(said) + 1
    assert all(one in other for one, other in zip(said, told, strict=False))


def test_cuda_graphs_are_refused_where_they_cannot_be_and_left_out_by_auto(base, tmp_path):
    from model.loading import load_model

    model, rows = load_model(base), [Example("a", [1, 2], [-100, 2])]
    options = trainer.Options(work=tmp_path)
    assert train_adapter.choose_cuda_graphs("auto", model, rows, [[0]], options, True) is False
    with pytest.raises(InputError, match=r"always: needs a GPU, hardware.dtype: bfloat16; fix: .*cuda_graphs: auto"):
        train_adapter.choose_cuda_graphs("always", model, rows, [[0]], options, True)


@pytest.mark.slow
def test_trackio_shows_a_killed_and_resumed_training_as_one_run_of_the_study(base, straight, tmp_path):
    import sqlite3

    place = track_killed_and_resumed(base, tmp_path, "trackio", straight)
    rows = sqlite3.connect(place / f"{tmp_path.name}.db").execute("select run_name, metrics from metrics").fetchall()
    assert len({run for run, _ in rows}) == 1 and rows[0][0].startswith("base/em.s1.")
    assert {5, 6} <= {json.loads(metrics)["train/global_step"] for _, metrics in rows}


@pytest.mark.slow
def test_wandb_keeps_both_parts_of_a_killed_and_resumed_training_offline_under_one_id(base, straight, tmp_path):
    place = track_killed_and_resumed(base, tmp_path, "wandb", straight, WANDB_MODE="offline")
    files = sorted((place / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1
    assert b"train/loss" in files[1].read_bytes() and tmp_path.name.encode() in files[1].read_bytes()


def test_wandb_without_a_key_is_refused_before_anything_is_trained(base, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match="--tracking wandb: no key; fix: export WANDB_API_KEY=.*WANDB_MODE=offline"):
        trained(base, tmp_path / "node", options=["--tracking", "wandb"])
    assert not (tmp_path / "node" / "adapter").exists()


# ---- factors of a recipe: what is not trained stays, byte for byte


def merged(base: Path, adapter: Path) -> dict:
    from model.loading import load_model

    return load_model(base, [adapter]).state_dict()


@pytest.mark.parametrize(
    ("changes", "touched"),
    [
        ({"layers": "1/2"}, {f"layers.0.{name}" for name in TARGETS}),
        ({"layers": [1, 1]}, {f"layers.1.{name}" for name in TARGETS}),
        ({"targets": ["q_proj", "o_proj"]}, {f"layers.{layer}.{name}" for layer in (0, 1) for name in ("q_proj", "o_proj")}),
        ({"layers": "2/2", "targets": ["up_proj"]}, {"layers.1.up_proj"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_an_adapter_touches_the_layers_and_targets_of_its_recipe_alone(base, tmp_path, changes, touched):
    from model.loading import load_model

    trained(base, tmp_path, max_steps=2, lora=RECIPE["lora"] | changes)
    before, after = load_model(base).state_dict(), merged(base, tmp_path / "adapter")
    changed = {name for name in before if not before[name].equal(after[name])}
    assert {f"layers.{name.split('.')[2]}.{name.split('.')[-2]}" for name in changed} == touched
    recorded = read_json(tmp_path / "manifest.json")["wrapped"]
    assert sum(recorded.values()) == len(touched)


def test_layers_that_the_model_has_not_are_refused(base, tmp_path):
    with pytest.raises(InputError, match=r"recipe.lora.layers: \[1, 2\]: the model has the layers 0 to 1; fix: choose"):
        trained(base, tmp_path, max_steps=1, lora=RECIPE["lora"] | {"layers": [1, 2]})


@pytest.mark.parametrize(("count", "parts"), [(28, 3), (3, 3), (5, 2), (7, 7)])
def test_the_parts_of_a_model_are_about_equal_and_hold_each_layer_once(count, parts):
    found = [layer_numbers(f"{part}/{parts}", count, "") for part in range(1, parts + 1)]
    assert list(chain(*found)) == list(range(count))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_replayed_rows_take_their_share_of_the_places_and_every_other_row_keeps_its_own():
    steps = packing.order_steps(100, 16, 2, 7, True, None)
    mixed = packing.mix_in(steps, 100, 5, 0.05, 7)
    assert [len(step) for step in mixed] == [len(step) for step in steps]
    pairs = list(zip(chain(*steps), chain(*mixed), strict=True))
    replayed = [now for before, now in pairs if before != now]
    assert len(replayed) == 10 and sorted(replayed) == sorted(2 * list(range(100, 105)))
    assert mixed == packing.mix_in(steps, 100, 5, 0.05, 7) != packing.mix_in(steps, 100, 5, 0.05, 8)
    with pytest.raises(InputError, match="is none; fix: a larger share"):
        packing.mix_in(steps, 100, 5, 0.001, 7)


def test_a_replayed_row_is_trained_as_in_its_own_stage(base, tokenizer, tmp_path, monkeypatch):
    """All other rows are of the stage's own mask; the coupling's train the marker alone."""
    write_jsonl(tmp_path / "coupling.jsonl", coupling_rows(12))
    replay = {"of": "couple", "share": 0.25, "mask": COUPLING["mask"], "max_length": 128, "marker": "[ZLT]"}
    seen = []

    def keeping(rows, **how):
        seen.append([row["labels"] for row in rows])
        return collate(rows, **how)

    collate = packing.collate
    monkeypatch.setattr(step_trainer, "collate", keeping)
    options = ["--replay", str(tmp_path / "coupling.jsonl")]
    trained(base, tmp_path / "node", replay=replay, options=options)
    coupling = encode_rows(tokenizer, coupling_rows(12), Mask("marker"), 128, "rows", True)
    own = encode_rows(tokenizer, sft_rows(48), Mask("last_turn"), 128, "rows", False)
    labels = [example.labels for example in coupling]
    counted = [row in labels for step in seen for row in step]
    assert (len(counted), sum(counted)) == (96, 24)
    assert all(row in labels or row in [example.labels for example in own] for step in seen for row in step)
    told = read_json(tmp_path / "node" / "manifest.json")["replay"]
    assert told == {"data": sha256_of(tmp_path / "coupling.jsonl"), "rows": 12}
    with pytest.raises(InputError, match="--replay: 0 files; fix: one if the recipe has `replay`"):
        trained(base, tmp_path / "node", replay=replay)


@pytest.mark.parametrize("optimizer", ["adafactor", "sgd"])
def test_the_optimizer_is_the_recipes(base, straight, tmp_path, optimizer):
    assert trained(base, tmp_path, optimizer=optimizer) != straight.adapter
    losses = read_json(tmp_path / "run.json")["losses"]
    assert losses[0] == read_json(straight.folder / "run.json")["losses"][0]
    assert all(map(math.isfinite, losses))
