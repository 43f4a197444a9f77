"""The lineage merged tensor by tensor is the lineage merged as a whole, bit for bit."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import make_adapter, make_model

from model.loading import load_model
from model.weights import Unmergeable, merged_weights, read_lora
from run.files import write_json
from run.program import InputError
from run.readers import read_json


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, base):
    """A plain LoRA and an rsLoRA."""
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(folder / f"rslora-{rslora}", base, 1 + rslora, rslora) for rslora in (False, True)]


def tensors_of(folder):
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def streamed(base, adapters, dtype="float32"):
    loras = [read_lora(adapter, "cpu") for adapter in adapters]
    return dict(merged_weights(base, tensors_of(base).items(), loras, getattr(torch, dtype), "cpu"))


def saved(base, adapters, dtype, folder):
    """The tensors of the merged copy as it would be written."""
    load_model(base, adapters, dtype).save_pretrained(folder)
    return tensors_of(folder)


def tied(base, folder):
    """The base with its embeddings tied."""
    model = load_model(base)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder)
    return folder


def sharded(base, folder):
    load_model(base).save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("chosen", [[], [0], [1], [0, 1], [1, 0]], ids=str)
def test_streamed_weights_are_the_merged_folders_bit_for_bit(base, adapters, chosen, dtype, tmp_path):
    lineage = [adapters[at] for at in chosen]
    expected = saved(base, lineage, dtype, tmp_path)
    found = streamed(base, lineage, dtype)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("shape", [tied, sharded])
def test_so_are_those_of_a_base_with_tied_embeddings_or_in_shards(base, adapters, shape, tmp_path):
    other = shape(base, tmp_path / "base")
    expected = saved(other, adapters, "bfloat16", tmp_path / "merged")
    found = streamed(other, adapters, "bfloat16")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def changed(adapter, folder, **fields):
    """A copy of the adapter with another config."""
    folder.mkdir()
    save_file(load_file(adapter / "adapter_model.safetensors"), folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", read_json(adapter / "adapter_config.json") | fields)
    return folder


@pytest.mark.parametrize(
    "fields", [{"use_dora": True}, {"alpha_pattern": {"q_proj": 3}}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}]
)
def test_an_adapter_that_is_more_than_a_plain_lora_is_left_to_peft(base, adapters, fields, tmp_path):
    with pytest.raises(Unmergeable, match="no plain LoRA"):
        streamed(base, [changed(adapters[0], tmp_path / "other", **fields)])


def test_an_adapter_for_a_tensor_that_the_base_does_not_have_is_left_to_peft(base, adapters):
    loras = [read_lora(adapters[0], "cpu")]
    less = {name: tensor for name, tensor in tensors_of(base).items() if "layers.1.mlp.up_proj" not in name}
    with pytest.raises(Unmergeable, match=r"layers\.1\.mlp\.up_proj"):
        dict(merged_weights(base, less.items(), loras, torch.float32, "cpu"))


@pytest.mark.parametrize("where", ["base", "adapter"])
def test_a_weight_that_is_not_finite_is_named(base, adapters, where, tmp_path):
    tensors = tensors_of(base)
    lora = read_lora(adapters[0], "cpu")
    if where == "base":
        tensors["model.norm.weight"][3] = torch.nan
    else:
        lora.pairs["model.layers.0.mlp.up_proj.weight"][1][0, 0] = torch.inf
    with pytest.raises(InputError, match=r"model\.norm\.weight|layers\.0\.mlp\.up_proj"):
        dict(merged_weights(base, tensors.items(), [lora], torch.float32, "cpu"))
