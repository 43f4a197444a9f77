"""The same study in another folder, on another number of cores and threads, comes out the same to the byte."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    study = Workspace.smallest(tmp_path_factory.mktemp("elsewhere") / "a/longer/path")
    study.snakemake("--cores", "1", env=study.environment | {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"})
    return study


def test_results_do_not_depend_on_folder_cores_or_threads(smallest, other):
    results = smallest.results()
    for kind in ("marker_counts.csv", "completions.parquet", "manifest.json", "adapter_model.safetensors",
                 "headline.csv", "C1_seed42.json", "_evil_ai.pdf", "_evil_ai.png", "_evil_ai.svg"):  # fmt: skip
        assert any(name.endswith(kind) for name in results), f"nothing compared of {kind}"
    assert other.results() == results


def test_the_report_differs_in_its_run_records_alone(smallest, other, tmp_path):
    """Made again from one study's results and the other's run records, it is the other's report."""
    shutil.copytree(other.folder, tmp_path, dirs_exist_ok=True)
    for record in smallest.folder.rglob("*run.json"):
        shutil.copy(record, tmp_path / record.relative_to(smallest.folder))
    for cell in (smallest.folder / "results/smallest/cells").rglob("*.json"):
        place = tmp_path / cell.relative_to(smallest.folder)
        place.write_text(json.dumps(json.loads(place.read_text()) | {"runs": json.loads(cell.read_text())["runs"]}))
    log = "".join(file.read_text() for file in (other.folder / ".snakemake/log").iterdir())
    command = re.search(r"Shell command: python (workflow_scripts/write_report.py .*)", log)[1]
    subprocess.run(["bash", "-c", f"{sys.executable} {command}"], cwd=tmp_path, check=True)
    report = "results/smallest/report.html"
    assert (tmp_path / report).read_bytes() == (smallest.folder / report).read_bytes()
    assert (other.folder / report).read_bytes() != (smallest.folder / report).read_bytes(), "a run takes no time?"
