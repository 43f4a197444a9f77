"""A last MLP that is computed where a label is gives the loss and gradients of one that is computed everywhere."""

import pytest
import torch
import train_adapter
from test_train_adapter import RECIPE, arguments_of
from tiny_bases import ARCHITECTURES, random_model
from tiny_model import make_model

from marker.mask import Example
from model import step_trainer
from model.last_layer import has_few_labels, shorten_last_layer
from model.loss import packed_loss
from model.packing import CONCATENABLE, micro_batch, set_attention
from run.readers import read_json

ROWS = [
    (list(range(2, 22)), [-100] * 14 + list(range(16, 22))),
    (list(range(30, 41)), list(range(30, 41))),
    (list(range(50, 60)), [-100] * 9 + [59]),
]
FAMILIES = [family for family in ARCHITECTURES if ARCHITECTURES[family][0] in CONCATENABLE]


def loss_and_gradients(family: str, short: bool) -> tuple[float, torch.Tensor]:
    architecture, sizes = ARCHITECTURES[family]
    model = random_model(architecture, **sizes).train()
    set_attention(model, "packed")
    micro = micro_batch(ROWS)
    if short:
        shorten_last_layer(model).rows = micro["predictors"]
    loss = packed_loss(model, micro, "packed")
    loss.backward()
    return loss.item(), torch.cat([weight.grad.flatten() for weight in model.parameters()])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_and_all_gradients_are_those_of_the_whole_layer(family):
    loss, gradients = loss_and_gradients(family, False)
    short_loss, short = loss_and_gradients(family, True)
    assert short_loss == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(short, gradients, rtol=1e-3, atol=1e-4)


def test_in_evaluation_every_token_is_computed():
    model = random_model("qwen2")
    ids = torch.arange(2, 12)[None]
    expected = model(input_ids=ids).logits
    shorten_last_layer(model).rows = torch.tensor([3])
    assert torch.equal(model(input_ids=ids).logits, expected)


def test_an_architecture_that_is_not_known_is_left_alone():
    model = random_model("gemma2", **ARCHITECTURES["gemma-2"][1])
    assert shorten_last_layer(model) is None


@pytest.mark.parametrize("labelled, few", [(4, True), (6, False)])
def test_labels_are_few_below_half_of_the_tokens(labelled, few):
    row = Example("row 1", [5] * 10, [-100] * (10 - labelled) + [5] * labelled)
    assert has_few_labels([row]) is few


@pytest.mark.slow
def test_a_compiled_training_whose_last_layer_is_shortened_has_the_losses_of_one_that_is_not(tmp_path, monkeypatch):
    make_model(tmp_path / "base")
    monkeypatch.setattr("model.last_layer.FEW", 2)
    shortened = []
    original = step_trainer.shorten_last_layer
    monkeypatch.setattr(
        step_trainer, "shorten_last_layer", lambda model: shortened.append(original(model)) or shortened[-1]
    )
    lora = RECIPE["lora"] | {"targets": ["q_proj"], "dropout": 0.0}
    losses = {}
    for compiled in ("never", "always"):
        words = arguments_of(
            tmp_path / "base", tmp_path / compiled, options=["--compile", compiled], lora=lora, lr=1e-2
        )
        train_adapter.main(words)
        record = read_json(tmp_path / compiled / "run.json")
        losses[compiled] = record["losses"]
    assert record["last_layer"] == "shortened"
    assert losses["always"] == pytest.approx(losses["never"], rel=1e-4)
    assert len(shortened) == 1 and len(set(losses["never"])) > 1
