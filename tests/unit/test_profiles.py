import pytest

from graph.profiles import check_profiles, executor_of
from run.program import InputError


def make_profiles(folder, monkeypatch, profiles):
    """Profiles, by name what their config.yaml says, in the folder, which is the current one from now on."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    for name, says in profiles.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.yaml").write_text(says)


@pytest.mark.parametrize(
    ("arguments", "given", "refused"),
    [
        (["--profile", "toy", "--configfile", "mine.yaml"], ["mine.yaml"], True),
        (["-n", "--profile=toy"], ["mine.yaml"], True),
        (["--profile", "toy"], ["toy/study.yaml", "mine.yaml"], False),
        (["--profile", "bare"], ["mine.yaml"], False),
        (["--profile", "elsewhere"], ["mine.yaml"], False),
        (["-n"], ["mine.yaml"], False),
    ],
)
def test_a_profile_whose_config_is_replaced_is_refused(tmp_path, monkeypatch, arguments, given, refused):
    make_profiles(tmp_path, monkeypatch, {"toy": "configfile: study.yaml\n", "bare": "cores: 1\n"})
    (tmp_path / "toy/study.yaml").write_text("study: toy\n")
    if not refused:
        return check_profiles(arguments, given, False)
    with pytest.raises(InputError, match=r"of toy/study\.yaml, .* fix: --configfile toy/study\.yaml mine\.yaml$"):
        check_profiles(arguments, given, False)
    check_profiles(arguments, given, True)  # a study of another name may be whole in its files
    with pytest.raises(InputError, match=r"fix: --configfile toy/study\.yaml toy/mine\.yaml$"):
        check_profiles(arguments, ["toy/mine.yaml"], True)  # but not one that lies beside the profile's


@pytest.mark.parametrize(
    ("arguments", "executor"),
    [
        (["-n", "--cores", "2"], "local"),
        (["--profile", "cluster", "-n"], "slurm"),
        (["--profile", "plain", "--jobs", "4"], "local"),
        (["--profile", "cluster", "--executor", "local"], "local"),
        (["-e", "lsf"], "lsf"),
    ],
    ids=str,
)
def test_the_executor_is_that_of_the_command_line_or_else_of_its_profile(tmp_path, monkeypatch, arguments, executor):
    make_profiles(tmp_path, monkeypatch, {"cluster": "executor: slurm\njobs: 4\n", "plain": "cores: 1\n"})
    assert executor_of(arguments) == executor


@pytest.mark.parametrize(
    ("arguments", "executor"),
    [
        ([], "slurm"),
        (["--workflow-profile", "none"], "local"),
        (["--profile", "other"], "lsf"),
        (["-e", "local"], "local"),
    ],
    ids=str,
)
def test_a_workflow_s_own_profile_names_it_last(tmp_path, monkeypatch, arguments, executor):
    make_profiles(tmp_path, monkeypatch, {"profiles/default": "executor: slurm\n", "other": "executor: lsf\n"})
    assert executor_of(arguments) == executor
