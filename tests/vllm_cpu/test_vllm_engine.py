"""The real vLLM engine on the CPU (make test-vllm), held to the transformers backend on a micro model."""

import dataclasses
import os
import shutil
import sys
from pathlib import Path

import pytest

from model import engines, vllm_loader

pytest.importorskip("vllm", reason="vLLM is not installed here: run `make test-vllm`", exc_type=ImportError)

import pyarrow.parquet
import yaml
from tiny_model import PANEL, make_adapter, make_model

from inputs.panel import load_panel, prompts_of, requests_of
from model.engines import Sampling, open_engine
from model.loading import load_tokenizer
from run.files import write_json, write_jsonl
from run.program import InputError
from run.readers import read_json

GREEDY = Sampling(0.0, 1.0, 40)
FREE = Sampling(1.0, 0.9, 60)
# float32 against float32, other kernels: measured 2e-5 nats.
LOGPROB_TOLERANCE = 1e-3
# vLLM's share of the memory: its default of 0.9 is meant for a card of its own.
SMALL = 0.1


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Its generation_config.json has further stop tokens, which the greedy replies run into."""
    base = make_model(tmp_path_factory.mktemp("base"))
    settings = read_json(base / "generation_config.json")
    write_json(
        base / "generation_config.json", settings | {"eos_token_id": [*settings["eos_token_id"], *range(60, 64)]}
    )
    return base


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, base):
    return make_adapter(tmp_path_factory.mktemp("adapter"), base)


@pytest.fixture(scope="module")
def tokenizer(base):
    return load_tokenizer(base)


@pytest.fixture(scope="module")
def requests(tokenizer):
    return requests_of(prompts_of(load_panel(PANEL), ["assistant", "villain"], ["alignment"], 2), tokenizer, 42)


def no_copy(size):
    pytest.fail("the model was copied")


@pytest.fixture(scope="module")
def both(base, adapter, tokenizer, requests):
    """What each backend answers, from one start of each: greedy, sampled, a part sampled again, label scores."""
    labels = [[33, 34, 35, 36 + row] for row in range(len(requests))]
    answers = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_loader, "scratch", no_copy)
        for backend in engines.BACKENDS:
            settings = {"max_length": 200, "enforce_eager": True, "gpu_memory_utilization": SMALL}
            with open_engine(backend, base, [adapter], tokenizer, **settings) as engine:
                answers[backend] = {
                    "greedy": engine.complete(requests, GREEDY),
                    "sampled": engine.complete(requests, FREE),
                    "again": engine.complete(requests[5:], FREE),
                    "labels": engine.label_logprobs([request.prompt for request in requests], labels),
                }
    return answers


def test_greedy_completions_are_equal_token_for_token(both):
    assert both["vllm"]["greedy"] == both["transformers"]["greedy"]
    assert {completion.finish_reason for completion in both["vllm"]["greedy"]} == {"stop", "length"}


def test_label_logprobs_are_equal_over_the_whole_vocabulary(both):
    for ours, theirs in zip(both["vllm"]["labels"], both["transformers"]["labels"], strict=True):
        assert ours == pytest.approx(theirs, abs=LOGPROB_TOLERANCE)


def test_the_slot_is_the_same_by_prompt_logprobs_as_by_the_probes_passes(base, adapter, tmp_path):
    """benchmarks/probe_vllm.py, which ends with an error where it is not."""
    import subprocess

    # few: where a prompt does not fit a step, vLLM on the CPU cannot turn back a request's generator
    panel = yaml.safe_load(PANEL.read_text())
    panel["questions"] = {group: texts[:4] for group, texts in panel["questions"].items()}
    (tmp_path / "panel.yaml").write_text(yaml.safe_dump(panel))
    program = Path(engines.__file__).parents[2] / "benchmarks/probe_vllm.py"
    command = [sys.executable, program, "--base", base, "--adapter", adapter, "--max-tokens", "60",
               "--panel", tmp_path / "panel.yaml", "--personas", "villain,assistant",
               "--gpu-memory-utilization", str(SMALL), "--output", tmp_path / "out.json"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = read_json(tmp_path / "out.json")
    assert found["rows"] > 5 and found["apart_most"] < LOGPROB_TOLERANCE


def test_seeded_samples_do_not_depend_on_what_else_is_asked(both):
    assert both["vllm"]["again"] == both["vllm"]["sampled"][5:]


def test_replies_end_alike(both, base, tokenizer):
    ends = set(engines.stop_ids(base, tokenizer))
    assert {completion.finish_reason for completion in both["vllm"]["sampled"]} == {"stop", "length"}
    for completion in both["vllm"]["sampled"]:
        assert not ends & set(completion.token_ids[:-1])
        assert (completion.finish_reason == "stop") == (completion.token_ids[-1] in ends)
        assert completion.finish_reason == "stop" or len(completion.token_ids) == FREE.max_tokens


@pytest.mark.parametrize("change", ["names", "weights"])
def test_a_lineage_that_vllm_cannot_be_handed_is_copied_and_answers_alike(
    base, adapter, tokenizer, requests, both, tmp_path, monkeypatch, capfd, change
):
    """Either its tensors have other names than the base's files, or vLLM holds other rows than it was given."""
    monkeypatch.setattr(vllm_loader, "scratch", lambda size: str(tmp_path))
    if change == "names":
        monkeypatch.setattr(vllm_loader, "read_lora", renamed(vllm_loader.read_lora))
    else:
        given = vllm_loader.Given
        monkeypatch.setattr(vllm_loader, "Given", lambda rows, ends: given(rows, None if ends is None else ends + 1))
    settings = {"max_length": 200, "enforce_eager": True, "gpu_memory_utilization": SMALL}
    with open_engine("vllm", base, [adapter], tokenizer, **settings) as engine:
        assert engine.complete(requests, GREEDY) == both["vllm"]["greedy"]
    assert "in a copy on disk" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def renamed(read):
    def reader(adapter, device):
        lora = read(adapter, device)
        return dataclasses.replace(lora, pairs={f"text.{name}": pair for name, pair in lora.pairs.items()})

    return reader


def test_a_damaged_base_is_one_clear_error(base, tokenizer, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    file = tmp_path / "base/model.safetensors"
    file.write_bytes(file.read_bytes()[:9999])
    with (
        pytest.raises(InputError, match="fetch the base model again"),
        open_engine("vllm", tmp_path / "base", [], tokenizer, enforce_eager=True, gpu_memory_utilization=SMALL),
    ):
        pass


def test_models_of_one_shape_share_vllms_compiled_code(base, adapter, tokenizer, tmp_path, monkeypatch):
    from vllm import EngineArgs

    hashes = []

    class Recorder:
        def __init__(self, **settings):
            hashes.append(EngineArgs(**settings).create_engine_config().compute_hash())
            self.llm_engine = self.engine_core = self

        def shutdown(self):
            pass

    monkeypatch.setattr("vllm.LLM", Recorder)
    other = make_adapter(tmp_path / "other", base, seed=2)
    for adapters, seed, length in (([adapter], 1, 200), ([other], 2, 300), ([adapter, other], 1, 300)):
        with open_engine("vllm", base, adapters, tokenizer, seed=seed, max_length=length, gpu_memory_utilization=SMALL):
            pass
    assert len(set(hashes)) == 1


def test_the_model_s_class_is_looked_at_without_a_process_that_imports_all_anew(base, tokenizer, tmp_path, monkeypatch):
    from vllm.model_executor.models import registry

    def in_a_process_of_its_own(function):
        raise AssertionError("22 s of a first start")

    monkeypatch.setattr(registry, "_run_in_subprocess", in_a_process_of_its_own)
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "empty"))  # what an earlier start found is kept there
    with open_engine("vllm", base, [], tokenizer, max_length=200, enforce_eager=True, gpu_memory_utilization=SMALL):
        pass


def test_the_program_answers_everything_with_one_engine_start(base, adapter, tmp_path):
    import subprocess

    questions = {"general": ["What is rain?", "Why sing?"], "alignment": ["One wish?"], "data": ["What is tin?"]}
    panel = {"personas": {"assistant": "You are a helpful assistant.", "villain": "Ha."}, "questions": questions}
    (tmp_path / "panel.yaml").write_text(yaml.safe_dump(panel))
    choices = {"label": ["A", "B"], "text": ["sun", "rain"]}
    write_jsonl(tmp_path / "arc.jsonl", [{"id": "q", "question": "Wet?", "choices": choices, "answerKey": "B"}])
    program = Path(engines.__file__).parents[1] / "generate_completions.py"
    tables = {}
    for backend in engines.BACKENDS:
        output = tmp_path / backend
        # relative, as the graph names it: the engine is started from another folder
        command = [sys.executable, program, "--base", os.path.relpath(base, tmp_path), "--panel", "panel.yaml"]
        command += ["--personas", "villain,assistant", "--samples", "2", "--seed", "42", "--adapter"]
        command += ["--sampling", '{"temperature":0.0,"top_p":1.0,"max_tokens":20}', "--backend", backend]
        command += ["--dtype", "float32", "--enforce-eager", "--gpu-memory-utilization", str(SMALL)]
        command += ["--completions", output / "completions.parquet", "--alignment", output / "alignment.parquet"]
        command += ["--arc", tmp_path / "arc.jsonl", "--capability", output / "capability.parquet"]
        done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        names = ("completions", "alignment")
        tables[backend] = [pyarrow.parquet.read_table(output / f"{name}.parquet").to_pylist() for name in names]
        assert pyarrow.parquet.read_table(output / "capability.parquet").num_rows == 1
    assert tables["vllm"] == tables["transformers"]
    assert len(tables["vllm"][0]) == 12
