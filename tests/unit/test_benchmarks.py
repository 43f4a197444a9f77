"""The GPU benchmarks run, at toy size and on a CPU: a card is too dear to find out there."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """What a benchmark writes, run with these options at toy size."""

    def run(name, *options):
        output = tmp_path / f"{name}.json"
        monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # which they set themselves
        monkeypatch.setattr("sys.argv", [f"{name}.py", "--shape", "tiny", *options, "--output", str(output)])
        importlib.import_module(name).main()
        return json.loads(output.read_text())

    return run


def test_generation_asks_for_every_persona_question_and_sample():
    from qwen_tokenizer import qwen_tokenizer

    asked = importlib.import_module("generate_7b").prompts(qwen_tokenizer())
    assert len(asked) == 12 * 28 * 10
    assert len({ids for _, ids in asked}) == 12 * 28


def test_a_job_stands_beside_its_plan_and_when_it_ran(tmp_path):
    against = importlib.import_module("plan_against_run")
    from run.dry_run import Job
    from run.job_costs import Cost

    benchmark, record = tmp_path / "job.tsv", tmp_path / "run.json"
    benchmark.write_text("s\th:m:s\n120.0\t0:02:00\n")
    record.write_text('{"engine_start_seconds": 33.0}')
    job = Job("generate_completions", {"node": "base/em.s42"}, (), (str(record),), str(benchmark), "", 1, 4, 0, "x")
    row = against.row_of(job, Cost(("generate_completions", "7B", "vllm"), 100, 0, 0))
    (placed,) = against.timed([row], row["ended"] - 300)
    assert (placed["planned_s"], placed["measured_s"], placed["ratio"], placed["start_s"]) == (100, 120, 1.2, 33)
    assert (placed["from"], placed["to"]) == (180, 300)
    assert "from the plan, of the sums and the jobs on cards: generate_completions base/em.s42" in against.report(
        {"jobs": [placed], "gpu_seconds": against.beside(100, 110)}
    )


@pytest.mark.slow
def test_training_measures_our_trainer_and_the_published_way(measured):
    plan = "ours:em:2,ours:em:2:4096:walks:record,published:em:2,trl:em:2"
    results = measured("train_7b", "--vocabulary", "512", "--warm", "1", "--plan", plan)["results"]
    assert len(results) == 4 and len({each["tokens_timed"] for each in results}) == 1 and results[0]["tokens_timed"] > 0


@pytest.mark.slow
def test_training_all_weights_and_tracking_are_measured(measured, monkeypatch):
    monkeypatch.setattr(importlib.import_module("full_7b"), "PASSES", 1)
    plan = "full:4096:checkpointing:dtype,full:no,lora:4096"
    options = ["--vocabulary", "512", "--warm", "1", "--steps", "couple:1,em:2", "--plan", plan]
    *full, wrong, couple, em, track = measured("full_7b", *options)["results"]
    assert (
        [each["data"] for each in full] == [each["data"] for each in (couple, em, track)] == ["couple", "em", "track"]
    )
    assert couple["tokens_timed"] == full[0]["tokens_timed"] > 0 and "invalid literal" in wrong["error"]
    assert track["rows_scored"] == 56 and set(track["cost_every_25"]) == {"couple", "em"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "options", "seconds"),
    [
        ("ablate_7b", ["--questions", "2", "--bystanders", "1", "--most", "4"], {"seconds", "patching_seconds"}),
        ("probe_7b", ["--layers", "--scale", "40"], {"reading_seconds"}),
    ],
    ids=["ablation", "layers"],
)
def test_what_the_probe_takes_is_measured(measured, program, options, seconds):
    found = measured(program, *options)["measured"]
    for each in found if isinstance(found, list) else [found]:
        assert each["tokens"] > 0 and all(each[name] > 0 for name in seconds)
