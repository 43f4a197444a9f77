"""A SIGKILL of Snakemake takes its jobs with it, and its lock never stops the next one; a living one's does."""

import os
import platform
import signal
import subprocess
import sys
import time

import pytest
from workspace import ROOT

from run.alive import announce

JOB = "import time; from run import program; print('job', flush=True); program.run(lambda: time.sleep(60))"
SNAKEMAKE = f"""
import subprocess, sys
from run import alive
alive.announce()
subprocess.run(["bash", "-c", 'exec "$@"; exit 1', "bash", sys.executable, "-c", {JOB!r}])
"""


def start(folder, program):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow_scripts")}
    return subprocess.Popen([sys.executable, "-c", program], cwd=folder, env=environment, stdout=subprocess.PIPE)


def lock(folder):
    file = folder / ".snakemake/locks/0.output.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("a\n")
    return file


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty study's folder; what announce() puts into the environment is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SNAKEMAKE_ALIVE", "")
    return tmp_path


def test_a_job_ends_with_its_snakemake_and_the_next_one_removes_the_lock(here):
    snakemake = start(here, SNAKEMAKE)
    assert snakemake.stdout.readline() == b"job\n"
    left = lock(here)
    assert start(here, "from run import alive; alive.announce()").wait() == 0
    assert left.exists()
    snakemake.kill()
    assert snakemake.stdout.read() == b""  # the pipe closes when the last process that has it ends: the job
    snakemake.wait()
    announce()
    assert not left.exists()


def test_a_job_that_starts_after_the_death_of_its_snakemake_ends_at_once(here, monkeypatch):
    monkeypatch.setenv("SNAKEMAKE_ALIVE", str(here / "nobody"))
    assert start(here, JOB).wait() == 128 + signal.SIGTERM  # 0 if it slept for its minute


def test_the_next_snakemake_waits_for_jobs_that_are_still_cleaning_up(here):
    deaf = JOB.replace(
        "time.sleep(60)", "(signal.signal(15, signal.SIG_IGN), print('deaf', flush=True), time.sleep(3))"
    )
    snakemake = start(here, SNAKEMAKE.replace(repr(JOB), repr("import signal, " + deaf.removeprefix("import "))))
    assert [snakemake.stdout.readline() for _ in range(2)] == [b"job\n", b"deaf\n"]
    left = lock(here)
    snakemake.kill()
    snakemake.wait()
    time.sleep(0.5)  # the job learns of it
    announce()
    assert not left.exists()
    assert snakemake.stdout.read() == b"", "the job had ended before"


def test_a_lock_is_left_alone_where_another_machine_s_snakemake_may_live(here):
    left = lock(here)
    for host in (platform.node(), "elsewhere"):
        (here / ".snakemake/alive").mkdir(exist_ok=True)
        (here / f".snakemake/alive/{host}.1").touch()
    announce()
    assert left.exists()


def test_a_clean_end_leaves_no_file(here):
    assert start(here, "from run import alive; alive.announce()").wait() == 0
    assert list((here / ".snakemake/alive").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that refuses files even root's: /proc")
def test_a_folder_that_cannot_be_written_is_no_error(here, monkeypatch):
    monkeypatch.chdir("/proc")
    announce()
    assert "SNAKEMAKE_ALIVE" not in os.environ
