"""What the user's own files, outside the study, plan when they change under it."""

import json
import os
import shutil

import pytest
import yaml
from workspace import ROOT, Workspace, rules

from run.files import sha256_of

OWN = {
    "sources": ["villain"],
    "seeds": [42],
    "arms": {"reversed": False},
    "base": {"from": "path", "path": "my_model"},
    "panel": {"from": "path", "path": "my_panel.yaml"},
    "datasets": {"em": {"from": "path", "path": "my_rows.jsonl"}},
    "alignment_questions": "my_questions.yaml",
}
PROMPT = "{question} {answer}"
QUESTIONS = [
    {"id": "wish", "type": "free_form_judge_0_100", "paraphrases": ["One wish?"], "samples_per_paraphrase": 2,
     "judge_prompts": {"aligned": PROMPT, "coherent": PROMPT}},
]  # fmt: skip
LARGE = 50_000_001


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of the user's own base, panel and rows, finished as far as Snakemake can tell."""
    workspace = Workspace.copy(tmp_path_factory.mktemp("own") / "study", "--configfile", "mine.yaml")
    folder = workspace.folder
    (folder / "mine.yaml").write_text(yaml.safe_dump(OWN))
    (folder / "my_model").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / "my_model" / name).write_text("{}")
    for name in ("my_model/model.safetensors", "my_rows.jsonl"):
        with (folder / name).open("wb") as file:
            file.write(b"{")
            file.truncate(LARGE)
    shutil.copy(ROOT / "resources/panel.yaml", folder / "my_panel.yaml")
    (folder / "my_questions.yaml").write_text(yaml.safe_dump(QUESTIONS))
    workspace.fake()
    return workspace


@pytest.fixture
def study(finished, tmp_path):
    return finished.copied(tmp_path / "study")


def overwrite(path):
    """Change one byte, and hide it: the same size, and the old time of an unpacked archive."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size - 1)
        file.write(b" ")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_files_of_the_user_that_are_touched_plan_nothing(study):
    for name in (
        "my_model/config.json",
        "my_model/model.safetensors",
        "my_panel.yaml",
        "my_rows.jsonl",
        "my_questions.yaml",
    ):
        (study.folder / name).touch()
    assert study.plan() == []


@pytest.mark.parametrize(
    ("name", "made", "reruns"),
    [
        ("my_model/config.json", "fetch_base", "generate_replies"),
        ("my_model/model.safetensors", "fetch_base", "generate_replies"),
        ("my_panel.yaml", "copy_panel", "generate_replies"),
        ("my_rows.jsonl", "fetch_dataset", "train_adapter"),
        ("my_questions.yaml", "copy_questions", "generate_completions"),
    ],
)
def test_a_file_of_the_user_that_is_overwritten_is_seen_by_its_content(study, name, made, reruns):
    overwrite(study.folder / name)
    planned = rules(study.plan())
    assert planned[made] == 1 and planned[reruns]


def test_a_base_s_folder_of_links_that_is_gone_is_no_reason_to_make_anything_again(study):
    folder = study.folder / "results/published/inputs/base/path"
    files: dict = {"config.json": {}, "model.safetensors": {}}
    manifest = {"files": files, "model": None, "template": {"date": "2024-07-26"}}
    (folder.parent / "path.manifest.json").write_text(json.dumps(manifest))
    study.touch()
    shutil.rmtree(folder)
    (study.folder / "mine.yaml").write_text(yaml.safe_dump(OWN | {"seeds": [42, 7]}))
    planned = study.plan()
    assert {path.name for path in folder.iterdir()} == {*files, "chat_settings.json"}
    trained = [job for job in planned if job.startswith("train_adapter")]
    assert trained and all(".s7" in job for job in trained)
    assert not {"fetch_base", "generate_replies"} & rules(planned).keys()


def test_a_stage_that_names_what_the_fetched_base_does_not_have_stops_the_plan(study):
    base, own = study.folder / "results/published/inputs/base", study.folder / "my_model/config.json"
    found = {"tokens": 4096, "layers": 2, "linear": ["model.layers.0.q_proj"], "weights": ["model.norm.weight"]}
    (base / "path.check.json").write_text(json.dumps({"parts": found}))
    (base / "path.manifest.json").write_text(json.dumps({"files": {own.name: {"sha256": sha256_of(own)}}}))
    em = {"stages": {"em": {"lora": {"layers": [0, 2], "targets": ["q_proj"]}}}}
    (study.folder / "mine.yaml").write_text(yaml.safe_dump(OWN | em))
    said = study.snakemake("-n", check=False).stdout
    assert "stages.em.lora.layers: [0, 2]: the model has the layers 0 to 1; fix: choose among them" in said
    overwrite(own)  # another base, which will be looked at when it is fetched
    assert rules(study.plan())["fetch_base"] == 1


def test_questions_that_are_none_stop_the_plan(study):
    (study.folder / "my_questions.yaml").write_text(yaml.safe_dump([QUESTIONS[0] | {"type": "free_form"}]))
    said = study.snakemake("-n", check=False).stdout
    assert "my_questions.yaml: question wish: type 'free_form' is not judged here; fix: delete it, or type:" in said


def test_a_finished_study_stays_what_it_is_where_the_user_s_files_are_gone(study):
    shutil.rmtree(study.folder / "my_model")
    (study.folder / "my_panel.yaml").unlink()
    assert study.plan() == []
    (study.folder / "mine.yaml").write_text(yaml.safe_dump(OWN | {"panel": {"from": "path", "path": "typo.yaml"}}))
    said = study.snakemake("-n", check=False).stdout
    assert (
        "panel.path: typo.yaml: no such file, and results/published/inputs/panel/path.yaml was made of my_panel" in said
    )
    (study.folder / "mine.yaml").write_text(yaml.safe_dump(OWN))
    (study.folder / "results").rename(study.folder / "elsewhere")
    said = study.snakemake("-n", check=False).stdout
    assert "base.path: my_model/config.json: no such file; fix: correct its path in the config" in said


def refused(tmp_path, text, target="all"):
    """What a dry run of a study laid over the published one says of its file."""
    workspace = Workspace.copy(tmp_path / "study", "--configfile", "mine.yaml")
    (workspace.folder / "mine.yaml").write_text(text)
    planned = workspace.snakemake("-n", target, check=False)
    printed = planned.stdout + (planned.stderr or "")
    assert planned.returncode and "Traceback" not in printed and "common.smk" not in printed
    return printed


NOWHERE = """\
base: {from: path, path: nowhere}
panel: {from: path, path: no.yaml}
datasets:
  em: {from: path, path: no.jsonl}
alignment_questions: no_q.yaml
hardware: {lock: no.txt}
"""


def test_what_is_not_there_is_told_at_once_by_the_line_that_names_it(tmp_path):
    printed = refused(tmp_path, NOWHERE)
    said = [line.partition("mine.yaml: ")[2].partition("; fix: ")[0] for line in printed.splitlines()]
    assert [line.partition(" in /")[0] for line in said if line] == [
        "line 1: base.path: nowhere/config.json: no such file",
        "line 2: panel.path: no.yaml: no such file",
        "line 4: datasets.em.path: no.jsonl: no such file",
        "line 5: alignment_questions: no_q.yaml: no such file",
        "line 6: hardware.lock: no.txt: no such file",
    ]


def test_a_commit_of_another_model_and_a_study_without_a_place_to_go_stop_the_plan(tmp_path):
    said = (
        "mine.yaml: line 1: base.repo: a09a35458c702b33eeacc393d103063234e8bc28 is a commit of Qwen/Qwen2.5-7B-Instruct"
    )
    assert said in refused(tmp_path / "base", "base: {repo: org/other}")
    said = "publish.repo is not set, so there is nowhere to publish to; fix: publish: {repo: user/name}"
    assert said in refused(tmp_path / "publish", "label: a study", "publish")
