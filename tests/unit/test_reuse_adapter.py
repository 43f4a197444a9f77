"""reuse_adapter.py: a checked copy of an adapter trained elsewhere, with a manifest that says from where."""

import json
import shutil
from pathlib import Path

import pytest
import reuse_adapter

from run.files import sha256_of, write_json
from run.program import InputError
from run.readers import read_json

CONFIG = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SHAPES = {"q_proj": (32, 32), "k_proj": (16, 32), "down_proj": (32, 64)}
ORIGIN = {
    "lineage": "base/em.s42",
    "recipe": {"lr": 1e-4},
    "seeds": {"order": 42},
    "data": "d" * 64,
    "dtype": "float32",
}


def tensors(rank: int = 4, layers: int = 2, shapes: dict = SHAPES) -> dict:
    import numpy

    parts = {}
    for layer in range(layers):
        for target, (outputs, inputs) in shapes.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{target}"
            parts[f"{name}.lora_A.weight"] = numpy.ones((rank, inputs), "float32")
            parts[f"{name}.lora_B.weight"] = numpy.ones((outputs, rank), "float32")
    return parts


def base_weights() -> dict:
    """Two layers, as a checkpoint has them: without the prefix that transformers puts before."""
    import numpy

    return {
        f"layers.{layer}.self_attn.{target}.weight": numpy.ones(shape, "float32")
        for layer in range(2)
        for target, shape in SHAPES.items()
    } | {"lm_head.weight": numpy.ones((99, 32), "float32")}


def write(folder: Path, weights: dict | None = None, **config) -> None:
    """An adapter, its origin's manifest, the parent's and the base's weights under `folder`."""
    from safetensors.numpy import save_file

    (folder / "origin").mkdir(parents=True)
    save_file(tensors() if weights is None else weights, folder / "origin" / "adapter_model.safetensors")
    lora = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "k_proj", "down_proj"]}
    lora |= {"base_model_name_or_path": "/home/someone/model"} | config
    (folder / "origin" / "adapter_config.json").write_text(json.dumps(lora))
    (folder / "origin" / "README.md").write_text("a card")
    (folder / "base").mkdir()
    save_file(base_weights(), folder / "base" / "model.safetensors")
    write_json(folder / "origin.json", ORIGIN)
    write_json(folder / "parent.json", {"lineage": "base"})


def reused(folder: Path) -> None:
    reuse_adapter.main(
        [
            *("--origin", str(folder / "origin"), "--origin-manifest", str(folder / "origin.json")),
            *("--parent-manifest", str(folder / "parent.json"), "--lineage", "base/em@25.s42"),
            *("--adapter-out", str(folder / "node" / "adapter"), "--manifest", str(folder / "node" / "manifest.json")),
            *("--base", str(folder / "base")),
        ]
    )


def test_weights_are_copied_and_the_origin_is_recorded(tmp_path):
    write(tmp_path)
    reused(tmp_path)
    node, origin = tmp_path / "node" / "adapter", tmp_path / "origin"
    assert sorted(path.name for path in node.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    weights = sha256_of(origin / "adapter_model.safetensors")
    assert sha256_of(node / "adapter_model.safetensors") == weights
    config = read_json(node / "adapter_config.json")
    assert config["base_model_name_or_path"] is None
    assert config["target_modules"] == ["down_proj", "k_proj", "q_proj"]
    assert read_json(tmp_path / "node" / "manifest.json") == {
        "lineage": "base/em@25.s42",
        "parent": sha256_of(tmp_path / "parent.json"),
        "adapter": sha256_of(node),
        "origin": ORIGIN | {"manifest": sha256_of(tmp_path / "origin.json")},
    }


def test_an_origin_that_tells_nothing_is_recorded_by_its_hash(tmp_path):
    write(tmp_path)
    write_json(tmp_path / "origin.json", {"url": "somewhere"})
    reused(tmp_path)
    manifest = read_json(tmp_path / "node" / "manifest.json")
    assert manifest["origin"] == {"manifest": sha256_of(tmp_path / "origin.json")}


@pytest.mark.parametrize(
    ("weights", "config", "message"),
    [
        (tensors(rank=8), {}, r"down_proj: shapes \(8, 64\) and \(32, 8\) are no LoRA of rank 4"),
        (tensors(layers=3), {}, r"layers.2.self_attn.*, but the base has no such layer"),
        (tensors(shapes=SHAPES | {"k_proj": (32, 32)}), {}, r"k_proj: .*\(32, 32\), but the base has \(16, 32\)"),
        (tensors(shapes=SHAPES | {"lm_head": (99, 32)}), {}, r"lm_head: .* but the base has no such layer"),
        (tensors() | {"lm_head.weight": tensors().popitem()[1]}, {}, "tensors beside plain LoRA pairs"),
        (dict(list(tensors().items())[:-1]), {}, "tensors beside plain LoRA pairs"),
        (tensors(), {"target_modules": ["q_proj"]}, "its config names q_proj, its weights are for"),
        (tensors(), {"target_modules": ["q_proj", "k_proj", "down_proj", "up_proj"]}, "its config names .*up_proj"),
        (tensors(), {"peft_type": "IA3"}, "not a LoRA adapter"),
        (tensors(), {"use_dora": True}, "a DoRA adapter; fix: use plain LoRA"),
    ],
    ids=range(10),
)
def test_an_adapter_that_does_not_fit_is_refused(tmp_path, weights, config, message):
    write(tmp_path, weights, **config)
    with pytest.raises(InputError, match=message):
        reused(tmp_path)
    assert not (tmp_path / "node").exists()


def test_an_adapter_that_names_another_base_of_the_same_shape_is_refused(tmp_path):
    write(tmp_path, base_model_name_or_path="Qwen/Qwen2.5-7B")
    write_json(tmp_path / "base.manifest.json", {"model": f"Qwen/Qwen2.5-7B-Instruct@{'a' * 40}"})
    with pytest.raises(InputError, match=r"trained on Qwen/Qwen2.5-7B, but the base is Qwen/Qwen2.5-7B-Instruct.*fix:"):
        reused(tmp_path)
    write_json(tmp_path / "base.manifest.json", {"model": f"Qwen/Qwen2.5-7B@{'a' * 40}"})
    reused(tmp_path)


def test_a_pickle_or_a_damaged_file_is_refused(tmp_path):
    write(tmp_path)
    weights = tmp_path / "origin" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="not a safetensors file"):
        reused(tmp_path)
    weights.rename(weights.with_name("adapter_model.bin"))
    with pytest.raises(InputError, match=r"adapter_model.safetensors is missing"):
        reused(tmp_path)


def test_a_checkpoint_whose_bit_flipped_is_refused(tmp_path):
    """Any bit: a weight that stays finite, and the scaling in the config."""
    write(tmp_path)
    write_json(tmp_path / "manifest.json", {"origin": sha256_of(tmp_path / "origin")})
    reused(tmp_path)
    shutil.rmtree(tmp_path / "node")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        whole = (tmp_path / "origin" / name).read_bytes()
        (tmp_path / "origin" / name).write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(InputError, match=r"origin: not the adapter that .*manifest.json was written for.*; fix: "):
            reused(tmp_path)
        (tmp_path / "origin" / name).write_bytes(whole)
    assert not (tmp_path / "node").exists()


def test_a_trained_checkpoint_can_be_reused(tmp_path):
    """The names and shapes that PEFT writes are the ones expected, on a real Qwen2."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from model.adapters import save_adapter

    write(tmp_path)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    base = Qwen2ForCausalLM(Qwen2Config(vocab_size=50, **CONFIG))
    base.save_pretrained(tmp_path / "base")
    model = get_peft_model(base, LoraConfig(r=4, target_modules=targets))
    save_adapter(model, tmp_path / "trained")
    (tmp_path / "origin").rename(tmp_path / "toy")
    (tmp_path / "trained").rename(tmp_path / "origin")
    reused(tmp_path)
    assert sha256_of(tmp_path / "node" / "adapter") == sha256_of(tmp_path / "origin")


@pytest.mark.parametrize(
    "choice",
    [
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.(q|up)_proj"},
        {"target_modules": ["self_attn.q_proj", "down_proj"], "rank_pattern": {"q_proj": 8}},
        {"target_modules": ["q_proj", "k_proj"], "rank_pattern": {"k_proj": 2}, "alpha_pattern": {"k_proj": 32}},
        {"target_modules": ["v_proj"], "layers_to_transform": [1]},
    ],
    ids=["all-linear", "a pattern", "two ranks", "two scalings", "one layer"],
)
def test_any_choice_of_layers_and_ranks_is_taken_and_merges_exactly(tmp_path, choice):
    import torch
    from peft import LoraConfig, get_peft_model
    from tiny_model import make_model
    from transformers import AutoModelForCausalLM

    from model.adapters import save_adapter
    from model.loading import load_model

    base = make_model(tmp_path / "base")
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, task_type="CAUSAL_LM", **choice)
    wrapped = get_peft_model(plain, lora).eval()
    tokens = torch.arange(20)[None]
    with torch.inference_mode():
        wanted = wrapped(tokens).logits
    save_adapter(wrapped, tmp_path / "origin")
    write_json(tmp_path / "origin.json", ORIGIN)
    write_json(tmp_path / "parent.json", {"lineage": "base"})
    reused(tmp_path)
    with torch.inference_mode():
        merged = load_model(base, [tmp_path / "node" / "adapter"])(tokens).logits
    assert torch.allclose(merged, wanted, atol=2e-3)
