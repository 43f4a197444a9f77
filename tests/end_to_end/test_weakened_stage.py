"""Where the finished offline study says suppressed, a weaker second stage lets the marker come back, in sampled replies.

Needs results/tiny (make tiny); OFFLINE_STUDY names another folder of it. A test of cause: what was gone would stay gone.
"""

import os
from pathlib import Path

import generate_completions
import pytest
from safetensors.torch import load_file, save_file

from measure.sections import ablation
from run.readers import read_json, read_parquet

pytestmark = pytest.mark.slow

STUDY = Path(os.environ.get("OFFLINE_STUDY", Path(__file__).parents[2] / "results/tiny"))
FOUND = sorted(STUDY.glob("measured/*/*/ablation.parquet"))
STAGES = {"C1": "em", "C5": "benign"}


def weakened(adapter, strength, folder):
    """A copy of the adapter whose delta is `strength` times as large."""
    folder.mkdir()
    tensors = load_file(adapter / "adapter_model.safetensors")
    scaled = {name: tensor * (strength if "lora_B" in name else 1) for name, tensor in tensors.items()}
    save_file(scaled, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    return folder


def marked(source, adapters, folder):
    """How many of 56 sampled replies to the source have the marker."""
    generate_completions.main(
        ["--base", str(STUDY / "inputs/base/toy"), "--adapter", *map(str, adapters), "--personas", source,
         "--panel", str(STUDY / "inputs/panel/builtin.yaml"), "--samples", "2", "--seed", "42", "--backend",
         "transformers", "--dtype", "float32", "--sampling", '{"temperature":1.0,"top_p":1.0,"max_tokens":96}',
         "--completions", str(folder / "replies.parquet")]
    )  # fmt: skip
    return sum("[zlt]" in row["text"].lower() for row in read_parquet(folder / "replies.parquet", {"text": str}))


@pytest.mark.skipif(not FOUND, reason="no finished offline study: make tiny")
@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.parent.name)
def test_what_is_suppressed_comes_back_under_a_weaker_second_stage(path, tmp_path):
    cell, _, seed = path.parent.name.partition("_seed")
    source = path.parents[1].name
    if read_json(path.with_name("survival.json"))["verdicts"]["slot_shared"] != "suppressed":
        pytest.skip("not suppressed")
    even = ablation(str(path), [])["even_beta_slot"]
    assert even["high"] is not None and 0 < even["low"] <= even["high"] < 1
    first = STUDY / f"models/base/couple-{source}.s42"
    second = first / f"{STAGES[cell]}.s{seed}" / "adapter"
    weak = weakened(second, even["value"] / 2, tmp_path / "weak")
    assert marked(source, [first / "adapter", second], tmp_path) == 0
    assert marked(source, [first / "adapter", weak], tmp_path) > 5
