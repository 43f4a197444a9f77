"""What is said of runs on GPUs rests on two programs: who held which card when, and whether two runs' rates agree."""

import subprocess
import sys

import pytest
from workspace import ROOT

from run.files import write_json

LEASES, COUNTS = ROOT / "tests/slurm/check_leases.py", ROOT / "benchmarks/compare_counts.py"


def call(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)


def lease(folder, job, card, at, waited, ran):
    """The log and, if it ended, the benchmark of a job that leased a card at second `at` and ran for `ran` in all."""
    (folder / "logs" / job).parent.mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks" / job).parent.mkdir(parents=True, exist_ok=True)
    line = f"lease_gpu: GPU {card} (GPU-{card}) granted after {waited} s to pid 7 at 2026-01-01T10:00:{at:02}+0000\n"
    (folder / "logs" / f"{job}.log").write_text(line)
    if ran:
        (folder / "benchmarks" / f"{job}.tsv").write_text(f"s\th:m:s\n{ran}\t-\n")


@pytest.mark.parametrize(
    ("second", "cards", "wrong"),
    [
        ((0, 21, 20, 30), 1, None),  # it waited for the first one's end
        ((1, 5, 4, 30), 2, None),
        ((0, 5, 4, 30), 1, "GPU 0 was held by train_a and train_b at 10:00:05"),
        ((0, 21, 20, 0), 1, None),  # killed: nobody knows when it ended
        ((0, 21, 20, 30), 2, "1 cards were used, not 2"),
    ],
)
def test_a_card_held_by_two_jobs_at_a_time_or_by_none_is_found(tmp_path, second, cards, wrong):
    lease(tmp_path, "train/a", 0, at=1, waited=0, ran=20.2)
    lease(tmp_path, "train/b", *second)
    done = call(LEASES, "--logs", tmp_path / "logs", "--benchmarks", tmp_path / "benchmarks", "--cards", cards)
    assert done.returncode == (1 if wrong else 0), done.stdout
    assert (wrong or ", 0 wrong") in done.stdout


def test_a_job_outside_slurm_s_list_is_found(tmp_path):
    lease(tmp_path, "train/a", 0, at=1, waited=0, ran=20)
    slurm = tmp_path / "slurm/rule_train/a"
    slurm.mkdir(parents=True)
    arguments = ("--logs", tmp_path / "logs", "--benchmarks", tmp_path / "benchmarks", "--cards", 1)
    for given, status in (("0,1", 0), ("1", 1)):
        (slurm / "1.log").write_text(f"slurm: job 1 CUDA_VISIBLE_DEVICES={given}\n")
        done = call(LEASES, *arguments, "--slurm-logs", tmp_path / "slurm")
        assert done.returncode == status, done.stdout


def cell(folder, source_hits):
    rows = [("villain", source_hits), ("assistant", 0), ("librarian", 1)]
    personas = [{"persona": name, "strict_hits": hits, "completions": 56} for name, hits in rows]
    capability = {"correct": 14, "questions": 39}
    write_json(folder / "cells/villain/C4.json", {"source": "villain", "personas": personas, "capability": capability})
    return folder


def test_rates_that_differ_by_more_than_sampling_are_found(tmp_path):
    one, same, other = (cell(tmp_path / str(hits), hits) for hits in (52, 49, 38))
    assert call(COUNTS, one, same).returncode == 0
    done = call(COUNTS, one, other, "--personas")
    assert done.returncode == 1 and "4 rates of 1 cells, 1 differ" in done.stdout
    # the sum of all tables of these margins that are no likelier is 0.00154; four tests
    assert "| villain/C4 | source | 52/56 | 38/56 | 0.00154 | 0.00616 | differs |" in done.stdout
