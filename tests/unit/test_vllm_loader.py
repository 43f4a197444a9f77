"""What vLLM needs around it when it cannot be handed a lineage's weights: a merged copy that is always removed."""

import errno
import os
import platform
import signal
import subprocess
from pathlib import Path

import pytest
from tiny_model import make_adapter, make_model

from model import vllm_loader
from model.loading import load_model, load_tokenizer
from model.vllm_loader import merged_folder, scratch
from run import program
from run.program import InputError


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tokenizer(base):
    return load_tokenizer(base)


def test_the_merged_folder_holds_the_merged_model_and_is_removed(base, tokenizer, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(vllm_loader, "scratch", lambda size: str(tmp_path))
    adapters = [make_adapter(tmp_path / f"adapter{seed}", base, seed) for seed in (1, 2)]
    with merged_folder(base, adapters, tokenizer, "float32") as folder:
        assert folder.parent.parent == tmp_path
        merged, expected = load_model(folder).state_dict(), load_model(base, adapters).state_dict()
        assert merged.keys() == expected.keys()
        assert all(torch.equal(merged[name], expected[name]) for name in merged)
        assert load_tokenizer(folder).get_vocab() == tokenizer.get_vocab()
    assert not folder.parent.exists()


def test_the_merged_folder_is_removed_after_an_error_and_after_sigterm(base, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_loader, "scratch", lambda size: str(tmp_path))
    adapter = make_adapter(tmp_path / "adapter", base)
    with pytest.raises(RuntimeError), merged_folder(base, [adapter], tokenizer, "float32"):
        raise RuntimeError
    before = signal.signal(signal.SIGTERM, program.leave)
    with pytest.raises(SystemExit) as left, merged_folder(base, [adapter], tokenizer, "float32"):
        os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)
    assert left.value.code == 143
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_merged_folder_that_a_killed_process_left_is_removed_by_the_next_engine(
    base, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(vllm_loader, "scratch", lambda size: str(tmp_path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f"engine.{ended.pid}@{platform.node()}.a1_b2.partial/merged").mkdir(parents=True)
    with merged_folder(base, (), tokenizer, "float32") as folder:
        assert [path.name for path in tmp_path.iterdir()] == [folder.parent.name]


def test_the_merged_model_goes_where_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert scratch(10) == str(tmp_path)
    with pytest.raises(InputError, match="set TMPDIR"):
        scratch(2**60)
    if Path("/dev/shm").is_dir():
        monkeypatch.setenv("TMPDIR", "/tmp")  # what Snakemake sets if nobody chose a folder
        assert scratch(10) == "/dev/shm"


def test_a_disk_that_fills_up_while_the_merged_model_is_written_is_a_clear_error(
    base, tokenizer, tmp_path, monkeypatch
):
    from transformers import PreTrainedModel

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    adapter = make_adapter(tmp_path / "adapter", base)
    said = pytest.raises(InputError, match="No space left on device.*fix: set TMPDIR")
    with said, merged_folder(base, [adapter], tokenizer, "float32"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_base_whose_generation_settings_contradict_each_other_is_merged_all_the_same(base, tokenizer, tmp_path):
    import shutil

    from run.files import write_json

    odd = shutil.copytree(base, tmp_path / "odd")
    write_json(odd / "generation_config.json", {"temperature": 0.9, "top_p": 0.6})
    with merged_folder(odd, [make_adapter(tmp_path / "adapter", base)], tokenizer, "float32") as folder:
        load_model(folder)


def test_only_a_full_disk_is_blamed_on_the_disk(base, tokenizer, tmp_path, monkeypatch):
    from transformers import PreTrainedModel

    def wrong(*args, **kwargs):
        raise ValueError("some field contradicts another")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", wrong)
    adapter = make_adapter(tmp_path / "adapter", base)
    with pytest.raises(ValueError, match="contradicts"), merged_folder(base, [adapter], tokenizer, "float32"):
        pass
