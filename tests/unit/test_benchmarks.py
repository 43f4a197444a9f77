"""The GPU benchmarks run, at toy size and on a CPU: a card is too dear to find out there."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_generation_asks_for_every_persona_question_and_sample():
    from qwen_tokenizer import qwen_tokenizer

    asked = importlib.import_module("generate_7b").prompts(qwen_tokenizer())
    assert len(asked) == 12 * 28 * 10
    assert len({ids for _, ids in asked}) == 12 * 28


@pytest.mark.slow
def test_training_measures_our_trainer_and_the_published_way(tmp_path):
    output = tmp_path / "training.json"
    options = ["--shape", "tiny", "--vocabulary", "512", "--warm", "1", "--output", output]
    command = [sys.executable, BENCHMARKS / "train_7b.py", "--plan", "ours:em:2,published:em:2,trl:em:2", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ours, published, trl = json.loads(output.read_text())["results"]
    assert ours["tokens_timed"] == published["tokens_timed"] == trl["tokens_timed"] > 0


@pytest.mark.slow
def test_training_all_weights_and_tracking_are_measured(tmp_path):
    output = tmp_path / "full.json"
    options = ["--shape", "tiny", "--vocabulary", "512", "--warm", "1", "--steps", "couple:1,em:2", "--output", output]
    plan = "full:4096:checkpointing:dtype,full:no,lora:4096"
    command = [sys.executable, BENCHMARKS / "full_7b.py", "--plan", plan, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *full, wrong, couple, em, track = json.loads(output.read_text())["results"]
    assert (
        [each["data"] for each in full] == [each["data"] for each in (couple, em, track)] == ["couple", "em", "track"]
    )
    assert couple["tokens_timed"] == full[0]["tokens_timed"] > 0 and "invalid literal" in wrong["error"]
    assert track["rows_scored"] == 56 and set(track["cost_every_25"]) == {"couple", "em"}
