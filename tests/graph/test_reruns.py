"""The rerun contract: an edit reruns exactly what it makes stale (reruns.yaml, printed in docs/reruns.md)."""

import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from contract import CONTRACT, TABLE, expected, page
from workspace import FOLDERS, rules

# They plan nothing one by one if they plan nothing together, which takes one plan.
HARMLESS = [entry for entry in CONTRACT if not entry["plans"] and not entry.get("action", "").startswith("clone")]
REWRITING = ("reorder", "format", "remark")  # of whose files no old text is found again
OTHERS = [entry for entry in CONTRACT if entry not in HARMLESS]


def act(study, entry):
    if given := entry.get("given"):
        study.edit(*given)
        study.touch()
    action, _, path = entry.get("action", "").partition(" ")
    if action == "clone":
        hand_on(study, keep_records=path == "with records")
        if path == "touched":
            study.touch()
    if action == "touch":
        for folder, names, files in os.walk(study.folder):
            names[:] = [name for name in names if name != ".snakemake"]
            for file in files:
                os.utime(os.path.join(folder, file))
    if action == "reorder":
        config = yaml.safe_load((study.folder / "config.yaml").read_text())
        turned = yaml.safe_dump(turn(config), sort_keys=False)
        (study.folder / "config.yaml").write_text(turned)
    if action == "remark":
        remark(study.folder)
    if action == "format":
        reformat(study.folder)
    if action == "append":
        with (study.folder / path).open("a") as file:
            file.write("more\n")
    if action == "delete":
        (study.folder / path).unlink()
    for edit in (entry.get("edit"), entry.get("also")):
        if edit:
            study.edit(*edit)


def hand_on(study, keep_records):
    """The study as git or rsync -r bring it to another machine: files and folders with new times in any order, and the
    weights left behind. keep_records: whether `.snakemake/metadata` came along.
    """
    if keep_records:
        os.rename(study.folder / ".snakemake/metadata", study.folder / "metadata")
    shutil.rmtree(study.folder / ".snakemake")
    if keep_records:
        (study.folder / ".snakemake").mkdir()
        os.rename(study.folder / "metadata", study.folder / ".snakemake/metadata")
    any_order, now = random.Random(0), time.time()
    for path in sorted(study.folder.rglob("*"), reverse=True):
        if FOLDERS.search(str(path)):
            shutil.rmtree(path)
        else:
            os.utime(path, (now - any_order.uniform(0, 3600),) * 2)


def remark(folder):
    """A comment in every file that has comments, and another docstring wherever there is one."""
    files = [
        file
        for pattern in (
            "Snakefile",
            "config.yaml",
            "rules/*.smk",
            "profiles/**/*.yaml",
            "resources/*.yaml",
            "envs/*.txt",
        )
        for file in folder.glob(pattern)
    ]
    programs = list(folder.glob("workflow_scripts/**/*.py"))
    assert len(files) > 15 and len(programs) > 40
    for file in (*files, *programs):
        text = re.sub(r'^( *r?""")(?=[A-Z])', r"\1Remarkable. ", file.read_text(), flags=re.MULTILINE)
        file.write_text(f"# a remark\n{text}\n# another\n")


def reformat(folder):
    """What the formatters make of the code when they are told to write it otherwise."""
    ruff, snakefmt = (Path(sys.executable).with_name(name) for name in ("ruff", "snakefmt"))
    options = ["--isolated", "--config", "line-length = 60", "--config", "format.quote-style = 'single'"]
    subprocess.run([ruff, "format", "-q", *options, folder / "workflow_scripts"], check=True)
    subprocess.run([snakefmt, "-l", "60", folder / "Snakefile", folder / "rules"], check=True, capture_output=True)


def turn(value):
    """The keys of every recipe backwards. Cells, stages and figures keep their order, which is that of what is read."""
    return {
        key: dict(reversed(entry.items()))
        if isinstance(entry, dict) and key not in ("cells", "stages", "evaluations", "figures")
        else entry
        for key, entry in reversed(value.items())
    }


@pytest.mark.parametrize("entry", OTHERS, ids=[entry["says"] for entry in OTHERS])
def test_an_edit_plans_exactly_what_it_makes_stale(study, entry, published):
    act(study, entry)
    assert dict(rules(study.plan())) == expected(entry["plans"], rules(published.jobs()))


def test_edits_that_make_nothing_stale_plan_nothing(study):
    assert len(HARMLESS) > 5
    for entry in sorted(HARMLESS, key=lambda entry: entry.get("action", "") in REWRITING):
        act(study, entry)
    assert study.plan() == [], f"one of {[entry['says'] for entry in HARMLESS]}"


def test_without_its_records_a_clone_looks_stale_until_it_is_touched(study):
    hand_on(study, keep_records=False)
    assert study.plan()


def test_the_table_in_the_docs_is_that_of_the_contract():
    assert TABLE.read_text() == page(TABLE.read_text()), "fix: make docs"


def test_an_edit_whose_jobs_fail_is_planned_again_by_the_same_command(study, monkeypatch):
    """Snakemake records a failed job's parameters as if it had ended well, and misses no file that no target needs."""
    act(study, next(entry for entry in CONTRACT if entry["says"] == "the learning rate of `benign`"))
    planned = study.plan()
    monkeypatch.setenv("LEASE_GPU_POOL", "no such pool")
    assert study.snakemake("--cores", "2", check=False).returncode != 0
    # what the config comes to is written by then
    assert study.plan() == [job for job in planned if not job.startswith("resolve_study ")]
