"""Make the workflow's modules importable as its programs import them."""

import fcntl
import gc
import os
import sys
from pathlib import Path

import pytest

# As seldom as in the programs: looking for garbage is a third of collecting tests, and most of running a small model.
gc.set_threshold(100_000, 50, 50)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow_scripts"))
sys.path.insert(0, str(ROOT / "tests"))


# The files that take longest, first: two processes take turns (Makefile), and neither is to wait for the other, for a
# study that both need or at the end.
LONGEST = [
    "test_determinism", "test_reruns", "test_small_study", "test_plan", "test_elsewhere", "test_new_measurement",
    "test_own_inputs", "test_plan_study", "test_track", "test_train_adapter", "test_benchmarks", "test_fork_program",
]  # fmt: skip


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_collection_finish():
    gc.freeze()  # what tests import stays


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """once(name, make) is make(folder), called by the first test process that asks; the others get its folder."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name, make):
        folder, done = base / name, base / f"{name}.made"
        with open(base / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def smallest(once):
    """The smallest study, built on two cores without any interruption. To read, not to change: workers share it."""
    from workspace import Workspace

    def make(folder):
        study = Workspace.smallest(folder)
        study.snakemake("--cores", "2", env=study.environment)

    return Workspace.smallest(once("smallest", make))
