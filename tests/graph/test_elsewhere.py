"""The workflow in another folder than its checkout: by -s and --directory, and imported by another workflow."""

import shutil
import subprocess

import pytest
import yaml
from workspace import ROOT, Workspace

IMPORTING = """
configfile: "mine.yaml"
module study:
    snakefile: "{checkout}/Snakefile"
    config: config
use rule * from study as study_*
rule mine:
    default_target: True
    input: rules.study_all.input
    output: "mine.txt"
    shell: "wc -l {{input}} > {{output}}"
"""
TOLD = "This workflow is planned right with --rerun-triggers"


def elsewhere(folder, checkout, *arguments):
    """A folder without any file of the workflow, that its Snakefile in the checkout works in."""
    folder.mkdir()
    return Workspace(folder, ("-s", str(checkout / "Snakefile"), *arguments))


@pytest.fixture
def importing(published, tmp_path):
    """A workflow of one rule beside those of the offline study, which it imports."""
    folder = tmp_path / "importing"
    folder.mkdir()
    (folder / "Snakefile").write_text(IMPORTING.format(checkout=published.workspace.folder))
    shutil.copy(ROOT / "profiles/tiny/study.yaml", folder / "mine.yaml")
    return Workspace(folder)


def test_another_folder_plans_what_the_checkout_plans(published, tmp_path):
    other = elsewhere(tmp_path / "other", published.workspace.folder)
    assert other.plan() == published.jobs()
    profile = ("--profile", str(published.workspace.folder / "profiles/tiny"))
    assert other.plan(*profile) == published.jobs(*profile)


def test_the_folder_s_own_config_is_laid_over_the_published_study_s(published, tmp_path):
    other = elsewhere(tmp_path / "other", published.workspace.folder)
    (other.folder / "config.yaml").write_text("sources: [villain]\nlock: 1\n")
    said = other.snakemake("-n", check=False).stdout
    assert "config.yaml: line 2: lock: unknown key lock" in said
    (other.folder / "config.yaml").write_text("sources: [villain]\n")
    assert other.plan() == published.jobs("--config", "sources=[villain]")


@pytest.mark.parametrize("records", ["with the records", "touched"])
def test_a_finished_study_goes_on_in_another_folder_with_the_workflow_in_a_third(built, tmp_path, records):
    clone = Workspace.copy(tmp_path / "clone")
    other = elsewhere(tmp_path / "other", clone.folder)
    shutil.copytree(built.folder / "results", other.folder / "results")
    if records == "touched":
        other.touch()
    else:
        shutil.copytree(built.folder / ".snakemake/metadata", other.folder / ".snakemake/metadata")
    assert other.plan() == []


def test_a_workflow_that_imports_this_one_plans_the_same_jobs(importing, published):
    jobs = [job.removeprefix("study_") for job in importing.plan() if job != "mine"]
    assert jobs == published.jobs("--profile", "profiles/tiny")


def test_a_workflow_that_imports_this_one_is_told_when_to_rerun(importing):
    triggers = ("--rerun-triggers", "mtime", "params", "input", "software-env")
    assert TOLD in importing.snakemake("-n").stdout
    assert TOLD not in importing.snakemake("-n", *triggers).stdout


def test_what_the_importing_workflow_says_is_laid_over_the_published_study_s_config(importing):
    overlay = yaml.safe_load((importing.folder / "mine.yaml").read_text())
    (importing.folder / "mine.yaml").write_text(yaml.safe_dump({**overlay, "seeds": [7]}))
    assert "study_train_adapter node=base/em.s7" in importing.plan()
    (importing.folder / "mine.yaml").write_text(yaml.safe_dump({**overlay, "sedes": [7]}))
    assert "sedes: unknown key sedes; fix: write `seeds: [7]`" in importing.snakemake("-n", check=False).stdout


def test_programs_run_from_another_folder_and_for_an_importing_workflow(fresh, importing, tmp_path):
    other = elsewhere(tmp_path / "a folder's", fresh.folder)
    for workspace, target in (
        (fresh, "verify_published"),
        (other, "verify_published"),
        (importing, "study_verify_published"),
    ):
        workspace.snakemake(target, "--cores", "1")
    made = [each.folder / "results/verify_published/claims.csv" for each in (fresh, other, importing)]
    assert made[0].read_bytes() == made[1].read_bytes() == made[2].read_bytes()


def test_a_workflow_is_deployed_from_a_git_host_as_snakedeploy_does_it(fresh, published, tmp_path, monkeypatch):
    """Git reads the host's name as a folder here."""
    subprocess.run(["git", "init", "-q", fresh.folder], check=True)
    git = ["git", "-C", fresh.folder, "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "all"], check=True)
    subprocess.run([*git, "tag", "v1"], check=True)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{fresh.folder}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/someone/study")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    deployed = Workspace(tmp_path / "deployed")
    shutil.copytree(ROOT / "config", deployed.folder / "config")
    (deployed.folder / "Snakefile").write_text(
        'configfile: "config/config.yaml"\n'
        'module study:\n    snakefile: github("someone/study", path="Snakefile", tag="v1")\n    config: config\n'
        "use rule * from study\n"
    )
    assert deployed.plan() == published.jobs()
    deployed.snakemake("verify_published", "--cores", "1")
    assert (deployed.folder / "results/verify_published/claims.csv").is_file()
