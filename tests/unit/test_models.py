"""models.py: a model folder is data. Nothing in it is executed, and a wrong weight is never taken for a right one."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_model import make_adapter, make_model

from model.engines import open_engine
from model.loading import context_length, load_model, load_tokenizer
from run.files import sha256_of, write_json
from run.program import InputError
from run.readers import read_json


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("whole") / "base")


@pytest.fixture
def base(whole, tmp_path, monkeypatch) -> Path:
    """A copy to spoil, in the working folder, where a payload would leave `hacked`."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(whole, tmp_path / "base"))


PICKLE = b"cposix\nmkdir\n(Vhacked\ntR."


def test_a_pickle_makes_its_folder_when_it_is_loaded(tmp_path, monkeypatch):
    """Else the tests below would prove nothing."""
    import pickle

    monkeypatch.chdir(tmp_path)
    pickle.loads(PICKLE)
    assert Path("hacked").is_dir()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_pickled_weights_of_a_base_are_never_loaded(base, name):
    (base / "model.safetensors").unlink()
    (base / name).write_bytes(PICKLE)
    with pytest.raises(InputError, match=r"base: cannot load the base model .*; fix: "):
        load_model(base)
    assert not Path("hacked").exists()


def test_pickled_weights_of_an_adapter_are_never_loaded(base, tmp_path):
    import torch

    adapter = make_adapter(tmp_path / "adapter", base)
    expected = load_model(base, [adapter]).state_dict()
    (adapter / "adapter_model.bin").write_bytes(PICKLE)
    (base / "pytorch_model.bin").write_bytes(PICKLE)
    merged = load_model(base, [adapter]).state_dict()
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"adapter_model.safetensors is missing; fix: "):
        load_model(base, [adapter])
    assert not Path("hacked").exists()


@pytest.mark.parametrize("kind", ["qwen2", "of_its_own"])
def test_code_that_comes_with_a_model_is_never_imported(base, kind):
    (base / "code.py").write_text("import os\nos.mkdir('hacked')\n")
    classes = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM"), "code.Code")
    write_json(base / "config.json", read_json(base / "config.json") | {"auto_map": classes, "model_type": kind})
    settings = read_json(base / "tokenizer_config.json") | {"tokenizer_class": "Code"}
    write_json(base / "tokenizer_config.json", settings | {"auto_map": {"AutoTokenizer": ["code.Code", "code.Code"]}})
    for load in (load_tokenizer, load_model, context_length):
        try:
            load(base)
        except InputError as error:
            assert "; fix: " in str(error)
    assert not Path("hacked").exists()


def test_vllm_is_not_told_to_trust_a_model_s_code_and_its_config_is_read_once(base, monkeypatch):
    from transformers import AutoConfig

    asked, read, looked_at = {}, [], []

    class LLM:
        def __init__(self, **options):
            asked.update(options)
            self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: None))

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM))
    monkeypatch.setitem(
        sys.modules, "vllm.platforms", SimpleNamespace(current_platform=SimpleNamespace(device_type="cpu"))
    )
    registry = SimpleNamespace(models=SimpleNamespace(get=looked_at.append))
    monkeypatch.setitem(sys.modules, "vllm.model_executor.models", SimpleNamespace(ModelRegistry=registry))
    monkeypatch.setattr("model.engines.register_loader", lambda *_: None)
    tokenizer, from_files = load_tokenizer(base), AutoConfig.from_pretrained
    monkeypatch.setattr(
        AutoConfig, "from_pretrained", lambda *words, **options: read.append(words) or from_files(*words, **options)
    )
    with open_engine("vllm", base, (), tokenizer):
        pass
    assert (read, looked_at) == ([(str(base),)], ["Qwen2ForCausalLM"])
    assert asked["model"] == str(base) and asked.get("trust_remote_code", False) is False


def test_a_base_whose_weights_are_not_those_of_its_config_is_refused(base):
    """transformers would fill in random weights, or leave some out, and say so in a warning."""
    config = read_json(base / "config.json")
    for layers in (1, 3):
        kinds = config["layer_types"][:1] * layers
        write_json(base / "config.json", config | {"num_hidden_layers": layers, "layer_types": kinds})
        with pytest.raises(InputError, match=r"base: weights and config.json differ: model.layers.\d.*; fix: "):
            load_model(base)


def test_an_adapter_is_the_one_of_its_manifest_or_refused(base, tmp_path):
    adapter = make_adapter(tmp_path / "node" / "adapter", base)
    write_json(tmp_path / "node" / "manifest.json", {"adapter": sha256_of(adapter)})
    load_model(base, [adapter])
    config = read_json(adapter / "adapter_config.json")
    write_json(adapter / "adapter_config.json", config | {"use_rslora": not config["use_rslora"]})
    with pytest.raises(InputError, match=r"adapter: not the adapter that .*manifest.json was written for.*; fix: "):
        load_model(base, [adapter])


LOADERS = [load_tokenizer, load_model, context_length]


@pytest.mark.parametrize("load", LOADERS, ids=lambda load: load.__name__)
def test_a_link_into_a_cache_that_was_cleared_is_named_as_that(base, load):
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (base / name).unlink()
        (base / name).symlink_to("cleared/" + name)
    with pytest.raises(InputError, match=r"config.json: a link to cleared/config.json, which is gone .*fix: delete"):
        load(base)


@pytest.mark.parametrize("load", LOADERS, ids=lambda load: load.__name__)
def test_a_file_that_may_not_be_read_is_not_called_missing_or_damaged(base, load, monkeypatch):
    refused = ("config.json", "tokenizer.json", "model.safetensors")
    for name in refused:
        (base / name).write_text("")  # a superuser, who may read all, finds it damaged
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name not in refused)
    with pytest.raises(InputError, match=r"config.json: no permission to read it; fix: let its owner chmod a\+r it"):
        load(base)


def test_too_little_memory_is_not_called_a_damaged_model(base, monkeypatch):
    import torch
    from transformers import AutoModelForCausalLM

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(InputError, match="out of memory .*Tried to allocate 20 GiB.*fix: end what else runs there"):
        load_model(base)


def test_a_model_of_text_and_pictures_is_named_as_that(tmp_path):
    from transformers import Gemma3Config

    Gemma3Config().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="gemma3: a model of text and more; fix: use a model of text alone"):
        context_length(tmp_path)
