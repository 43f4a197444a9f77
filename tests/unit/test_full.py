"""Training all weights: the same steps as a plain loop, what is frozen stays, and a lineage goes on from there."""

import math
from pathlib import Path

import pytest
import test_train_adapter as plain
import torch
import train_adapter
from test_train_adapter import RECIPE, Killed, arguments_of, padded_reference, sft_rows

from marker.mask import Mask, encode_rows
from model import full, loss, step_trainer
from model.loading import load_model
from run.files import sha256_of
from run.program import InputError
from run.readers import read_json

base, tokenizer = plain.base, plain.tokenizer  # fixtures
FULL = {"lora": None, "lr": 1e-3}


def arguments(base: Path, folder: Path, **changes) -> list[str]:
    """As arguments_of, for all weights."""
    words = arguments_of(base, folder, **FULL | changes)
    at = words.index("--adapter-out")
    return [*words[:at], "--model-out", str(folder / "model"), *words[at + 4 :]]


def trained(base: Path, folder: Path, **changes) -> dict:
    """Train all weights; the model's tensors as load_model reads them."""
    train_adapter.main(arguments(base, folder, **changes))
    return load_model(base, [folder / "model"]).state_dict()


@pytest.fixture(scope="module")
def straight(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return folder, trained(base, folder)


def test_all_weights_after_two_epochs_are_those_of_a_plain_loop(base, tokenizer, straight):
    """transformers' model, torch's AdamW and clipping, padded rows, transformers' schedule: to 1e-6 after six steps."""
    from transformers import get_linear_schedule_with_warmup
    from transformers.trainer_pt_utils import get_parameter_names

    from model.packing import order_steps

    model = load_model(base).train()
    examples = encode_rows(tokenizer, sft_rows(48), Mask("last_turn"), 128, "rows", False)
    steps = order_steps(48, 16, 2, 1, True, None)
    decayed = get_parameter_names(model, [torch.nn.LayerNorm], ["bias", "norm"])
    groups = [
        {"params": [weight for name, weight in model.named_parameters() if (name in decayed) == decay],
         "weight_decay": RECIPE["weight_decay"] if decay else 0.0}
        for decay in (True, False)
    ]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=FULL["lr"], betas=(0.9, 0.999), eps=1e-8)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(0.1 * len(steps)), len(steps))
    for step in steps:
        padded_reference(model, [examples[row] for row in step])
        torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE["clip"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    before, (_, ours) = load_model(base).state_dict(), straight
    for name, weight in model.state_dict().items():
        assert (ours[name] - weight).abs().max() < 1e-6, name
        assert not weight.equal(before[name]), f"{name} is trained"


def test_the_node_holds_the_weights_and_its_manifest_their_hashes(base, straight):
    folder, _ = straight
    assert sorted(path.name for path in (folder / "model").iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model/config.json").read_bytes() == (base / "config.json").read_bytes()
    manifest = read_json(folder / "manifest.json")
    assert manifest["files"] == {name: sha256_of(folder / "model" / name) for name in ("config.json", "model.safetensors")}  # fmt: skip
    assert manifest["recipe"]["lora"] is None and "adapter" not in manifest and "wrapped" not in manifest
    assert not (folder / "adapter").exists() and not (folder / "checkpoints").exists()


@pytest.mark.parametrize(
    ("freeze", "kept"),
    [
        (["1/2"], ["layers.0."]),
        (["layers.1", "embed_tokens"], ["layers.1.", "embed_tokens", "lm_head"]),  # the test's base ties them
        (["mlp", "self_attn.q_proj"], [".mlp.", ".q_proj."]),
    ],
    ids=str,
)
def test_frozen_weights_stay_the_same_bytes_and_all_others_move(base, tmp_path, freeze, kept):
    before, after = load_model(base).state_dict(), trained(base, tmp_path, freeze=freeze, max_steps=2)
    for name, weight in before.items():
        assert weight.equal(after[name]) == any(part in name for part in kept), name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"freeze": ["lm_haed"]}, "recipe: freeze: the model has no lm_haed; fix: choose from bias, down_proj, embed_tokens"),
        ({"freeze": ["model"]}, "freeze: leaves nothing to train; fix: freeze less"),
        ({"options": ["--keep-steps", "1"]}, "the recipe trains all weights; fix: give --model-out alone"),
        ({"lora": RECIPE["lora"]}, "the recipe trains a LoRA; fix: give --adapter-out"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_trained_is_refused(base, tmp_path, changes, said):
    with pytest.raises(InputError) as caught:
        trained(base, tmp_path, **changes)
    assert said in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_without_torchao_low_precision_states_are_refused_with_the_command_that_installs_it(monkeypatch):
    def missing(name):
        raise full.PackageNotFoundError(name)

    monkeypatch.setattr(full, "version", missing)
    with pytest.raises(InputError, match=r"needs torchao; fix: pip install --no-deps torchao==[\d.]+, or hardware: {"):
        full.check_states("8bit", "float32")
    with pytest.raises(InputError, match="needs torchao"):
        full.check_states("dtype", "bfloat16")
    assert full.check_states("dtype", "float32") == "torch"


def test_an_optimizer_whose_steps_rounding_would_lose_is_refused():
    with pytest.raises(InputError, match="sgd of all weights in bfloat16 with states of dtype: .* fix: adamw, or"):
        full.optimizer_of(RECIPE | {"optimizer": "sgd"}, "dtype", "bfloat16")
    assert full.optimizer_of(RECIPE | {"optimizer": "sgd"}, "dtype", "float32") is None


def test_a_disk_without_room_is_said_before_the_first_step(base, tmp_path, monkeypatch):
    monkeypatch.setattr(full, "free_space", lambda folder: 10)
    with pytest.raises(InputError, match=r"needs .* GB there, .* GB are free; fix: make room"):
        trained(base, tmp_path)


@pytest.mark.parametrize(("stop", "resumed"), [(1, 0), (3, 2), (5, 4)])
def test_a_stopped_training_goes_on_and_gives_the_same_weights(base, straight, tmp_path, monkeypatch, stop, resumed):
    options = ["--scratch", str(tmp_path / "scratch"), "--checkpoint-every", "2"]
    original, calls = loss.packed_loss, []

    def stopping(*arguments):
        if len(calls) == stop:
            raise Killed
        calls.append(stop)
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(step_trainer, "packed_loss", stopping)
        trained(base, tmp_path / "node", options=options)
    assert not (tmp_path / "node" / "model").exists()
    trained(base, tmp_path / "node", options=options)
    assert sha256_of(tmp_path / "node" / "model") == sha256_of(straight[0] / "model")
    assert read_json(tmp_path / "node" / "run.json")["resumed_at_step"] == resumed
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_lineage_goes_on_from_the_last_stage_that_trained_all_weights(base, straight, tmp_path):
    """An adapter before it counts no more; one after it is merged into its weights."""
    from tiny_model import make_adapter

    folder, weights = straight
    adapter = make_adapter(tmp_path / "adapter", base)
    assert full.last_full(base, [adapter, folder / "model", adapter]) == (folder / "model", [adapter])
    assert full.last_full(base, [adapter]) == (base, [adapter])
    before = load_model(base, [adapter, folder / "model"]).state_dict()
    after = load_model(base, [folder / "model", adapter]).state_dict()
    plain = load_model(base, [adapter]).state_dict()
    start = load_model(base).state_dict()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert before[name].equal(weights[name])
    torch.testing.assert_close(after[name] - weights[name], plain[name] - start[name], atol=1e-6, rtol=0)


def test_a_second_full_stage_starts_from_the_first(base, straight, tmp_path):
    options = ["--adapter", str(straight[0] / "model")]
    trained(base, tmp_path / "second", max_steps=1, options=options)
    trained(base, tmp_path / "first", max_steps=1)
    second, first = (read_json(tmp_path / name / "run.json")["final_loss"] for name in ("second", "first"))
    assert second < first - 0.05


def test_a_damaged_full_node_is_named(base, tmp_path):
    trained(base, tmp_path, max_steps=1)
    file = tmp_path / "model/model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        InputError, match=r"model.safetensors is not the file .* damaged; fix: delete its node's folder"
    ):
        load_model(base, [tmp_path / "model"])


@pytest.mark.parametrize("states", full.STATES)
def test_in_bfloat16_small_steps_are_not_lost_in_rounding(monkeypatch, states):
    """A hundred steps of 1e-5 on weights of 0.01, whose last bit is 4e-5 to 8e-5: rounding to nearest never moves."""
    pytest.importorskip("torchao")  # in no lock: full.check_states
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)  # which takes longer here than it saves
    made, settings = full.optimizer_of(RECIPE | {"lr": 1e-5}, states, "bfloat16")
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.full((64, 256), 0.01, dtype=torch.bfloat16))
    start = weight.detach().float().clone()
    optimizer = made([weight], **settings, weight_decay=0.0)
    for _ in range(100):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert (weight.float() - start).mean().item() == pytest.approx(-1e-3, rel=0.05)
    assert full.optimizer_of(RECIPE, "dtype", "float32") is None


@pytest.mark.parametrize("states", full.STATES)
def test_in_bfloat16_a_stopped_training_goes_on_to_the_same_bytes(base, tmp_path, monkeypatch, states):
    """Rounding by chance included: its draws are seeded by the step."""
    pytest.importorskip("torchao")
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    options = ["--optimizer-states", states, "--dtype", "bfloat16"]
    trained(base, tmp_path / "straight", options=options)
    again = [*options, "--scratch", str(tmp_path / "scratch"), "--checkpoint-every", "2"]
    original, calls = loss.packed_loss, []

    def stopping(*arguments):
        if len(calls) == 3:
            raise Killed
        calls.append(1)
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(step_trainer, "packed_loss", stopping)
        trained(base, tmp_path / "node", options=again)
    trained(base, tmp_path / "node", options=again)
    record = read_json(tmp_path / "node" / "run.json")
    assert record["resumed_at_step"] == 2 and record["optimizer"].startswith("torchao ")
    assert sha256_of(tmp_path / "node" / "model") == sha256_of(tmp_path / "straight" / "model")
    losses = record["losses"]
    assert losses[-1] < losses[0] - 0.05
