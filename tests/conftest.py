"""Make the workflow's modules importable as its programs import them."""

import fcntl
import gc
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow_scripts"))
sys.path.insert(0, str(ROOT / "tests"))


def pytest_collection_finish():
    """Look for garbage as seldom as the programs do, and not among what was imported: half the time of a small model."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


@pytest.fixture(scope="session")
def smallest(tmp_path_factory):
    """The smallest study, built on two cores without any interruption. To read, not to change: workers share it."""
    from workspace import Workspace

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smallest"
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        study = Workspace.smallest(folder)
        study.snakemake("--cores", "2", env=study.environment)
    return study
