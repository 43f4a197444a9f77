"""Ready-made adapters: one folder of a huge repository, and only if it holds a LoRA in safetensors."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fetch_adapter
import numpy
import pytest
from local_hub import LocalHub, offered, sha256
from safetensors.numpy import save

from run.files import sha256_of, write_json
from run.program import InputError
from run.readers import read_json

REPO, FOLDER, LINEAGE = "org/huge", "adapters/villain_s42", "base/couple-villain.s42"
CONFIG = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.05,
    "use_rslora": True,
    "target_modules": ["v_proj", "q_proj"],
    "base_model_name_or_path": "org/base",
}


def tensors(rank: int = 4, drop: str = "") -> bytes:
    values = {}
    for module in ("q_proj", "v_proj"):
        prefix = f"base_model.model.model.layers.0.self_attn.{module}"
        values[f"{prefix}.lora_A.weight"] = numpy.ones((rank, 8), dtype=numpy.float32)
        values[f"{prefix}.lora_B.weight"] = numpy.ones((8, rank), dtype=numpy.float32)
    return save({name: value for name, value in values.items() if not drop or drop not in name})


def adapter(config: dict[str, Any] | None = None, weights: bytes | None = None) -> dict[str, bytes]:
    return {
        f"{FOLDER}/adapter_config.json": json.dumps(config or CONFIG).encode(),
        f"{FOLDER}/adapter_model.safetensors": weights or tensors(),
    }


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with offered(monkeypatch) as hub:
        yield hub


def fetch(folder: Path, monkeypatch: pytest.MonkeyPatch, inside: str = FOLDER, hidden_size: int = 8) -> Any:
    weight = numpy.ones((hidden_size, hidden_size), dtype=numpy.float32)
    names = [f"model.layers.0.self_attn.{module}.weight" for module in ("q_proj", "v_proj")]
    (folder / "base").mkdir(exist_ok=True)
    (folder / "base/model.safetensors").write_bytes(save(dict.fromkeys(names, weight)))
    write_json(folder / "parent.json", {"files": {}})
    arguments = ["--repo", REPO, "--revision", "main", "--folder", inside, "--output", f"{folder}/adapter"]
    arguments += ["--base", f"{folder}/base", "--parent-manifest", f"{folder}/parent.json", "--lineage", LINEAGE]
    patience = ["--cache", f"{folder}/cache", "--retries", "2", "--backoff", "0"]
    monkeypatch.setattr(sys, "argv", ["fetch_adapter.py", *arguments, "--manifest", f"{folder}/a.json", *patience])
    try:
        fetch_adapter.main()
    except InputError as error:
        assert not (folder / "adapter").exists() and not (folder / "a.json").exists()
        assert "; fix: " in str(error)
        raise
    return read_json(folder / "a.json")


def test_only_the_one_folder_is_listed_and_only_its_two_files_are_fetched(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {f"runs/{number}/adapter_model.safetensors": b"other" for number in range(50)}
    inside = {f"{FOLDER}/optimizer.pt": b"pickle", f"{FOLDER}/checkpoint-10/adapter_config.json": b"{}"}
    commit = hub.add(REPO, adapter() | other | inside)
    hub.fault("adapter_model.safetensors", cut=100)
    hub.fault(f"/tree/{commit}/{FOLDER}", status=502)
    record = fetch(tmp_path, monkeypatch)
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    listings = {asked.path for asked in hub.requests if "/tree/" in asked.path}
    assert listings == {f"/api/models/{REPO}/tree/{commit}/{FOLDER}"}
    assert not [asked for asked in hub.requests if "/runs/" in asked.path or asked.path.endswith(".pt")]
    assert record == {
        "lineage": LINEAGE,
        "parent": sha256_of(tmp_path / "parent.json"),
        "adapter": sha256_of(tmp_path / "adapter"),
        "files": {
            "adapter_config.json": sha256(json.dumps(CONFIG).encode()),
            "adapter_model.safetensors": sha256(tensors()),
        },
        "lora": {
            "r": 4,
            "alpha": 8,
            "dropout": 0.05,
            "rslora": True,
            "targets": ["q_proj", "v_proj"],
            "base": "org/base",
        },
        "origin": {"repo": REPO, "commit": commit, "folder": FOLDER},
    }


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {f"{FOLDER}/adapter_config.json": b"{}", f"{FOLDER}/adapter_model.bin": b"pickle"},
            "a pickle is never loaded",
        ),
        (adapter(CONFIG | {"peft_type": "IA3"}), "not a LoRA adapter"),
        (adapter(weights=tensors(rank=2)), "are no LoRA of rank 4"),
        (adapter(weights=tensors(drop="v_proj.lora_B")), "tensors beside plain LoRA pairs"),
        (adapter(weights=b"not safetensors"), "adapter_model.safetensors: not a safetensors file"),
        (adapter(weights=save({"head": numpy.zeros(1, dtype=numpy.float32)})), "tensors beside plain LoRA pairs"),
    ],
)
def test_what_is_not_a_complete_lora_is_refused(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], said: str
) -> None:
    hub.add(REPO, files)
    with pytest.raises(InputError, match=said):
        fetch(tmp_path, monkeypatch)


def test_an_adapter_of_another_base_is_refused(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, adapter())
    with pytest.raises(InputError, match="use an adapter of the same base"):
        fetch(tmp_path, monkeypatch, hidden_size=16)


def test_a_folder_that_is_not_there_is_named(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, adapter())
    with pytest.raises(InputError, match="adapters/none: not in this revision"):
        fetch(tmp_path, monkeypatch, "adapters/none")


def test_wrong_weights_are_never_used(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, adapter())
    hub.fault("adapter_model.safetensors", corrupt=True, times=2)
    with pytest.raises(InputError, match="checksum off"):
        fetch(tmp_path, monkeypatch)
    fetch(tmp_path, monkeypatch)
