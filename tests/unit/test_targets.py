from functools import cache
from pathlib import Path

import pytest

from graph.config import read_study
from graph.problems import yaml_of
from graph.targets import asked_for, check_targets
from run.program import InputError

ROOT = Path(__file__).parents[2]
RULES = ["all", "forward", "reversed", "figures"]
RESULTS = "results/published"
CELL, OTHER = f"{RESULTS}/cells/evil_ai/C1_seed42.json", f"{RESULTS}/cells/evil_ai/B_scratch_seed42.json"
FIGURE, TABLE = f"{RESULTS}/figures/retention_evil_ai.svg", f"{RESULTS}/tables/verdicts.csv"
MODEL = f"{RESULTS}/models/base/em.s42/manifest.json"
FILES = [CELL, OTHER, FIGURE, TABLE, f"{RESULTS}/report.html", MODEL]
SWITCH = "which is off; fix: write `arms: {dose: true}` in a file, and give it by --configfile"


@cache
def study():
    return read_study(yaml_of(ROOT / "config.yaml"), ROOT / "resources/config.schema.yaml")


def check(*targets):
    check_targets(targets, {*RULES, *FILES}.__contains__, study(), RULES, lambda: FILES)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("dose", f"no rule makes it; dose is an arm, {SWITCH}, without dose"),
        ("dos", f"no rule makes it; dose is an arm, {SWITCH}"),
        ("dose_em_25", f"dose_em_25 is a cell of the arm dose, {SWITCH}, without dose_em_25"),
        ("reversd", "fix: reversed"),
        ("C1", f"fix: {CELL}"),
        ("C11", f"fix: {CELL}"),
        ("evil_ai/C1_seed42", f"fix: {CELL}"),
        (f"./{RESULTS}/cells/evil_ai/C1_seed42", f"fix: {CELL}"),
        (f"{RESULTS}/cells/", f"fix: {CELL}, or another of the 2 files with it in their paths"),
        ("retention", f"fix: {FIGURE}"),
        ("retentin", f"fix: {FIGURE}"),
        ("verdict", f"fix: {TABLE}"),
        ("report.html", f"fix: {RESULTS}/report.html"),
        (f"{RESULTS}/tables/verdict.csv", f"fix: {TABLE}"),
        (f"{RESULTS}/models/base/emm.s42/manifest.json", f"fix: {MODEL}"),
        (f"{RESULTS}/xyzzy", f"fix: {CELL}"),
        ("README.md", f"fix: one of all, forward, reversed, figures, or a file, such as {CELL}"),
        ("results/other/report.html", "is a file of the study other, and this command plans published; fix: give the "),
        ("./results/other/cells/x/C1_seed42.json", "that says `study: other`, or neither if config.yaml does"),
    ],
)
def test_what_no_rule_makes_is_refused_with_what_was_meant(target, said):
    with pytest.raises(InputError) as error:
        check(target)
    assert str(error.value).startswith(f"{target}: ") and said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_arm_that_is_on_is_said_by_its_cells():
    files = [*FILES, f"{RESULTS}/cells/villain/B_scratch_seed42.json"]
    rows = [cell.key for cell in study().cells if cell.arm == "reversed"]
    assert "villain/B_scratch_seed42" in rows
    with pytest.raises(InputError, match=rf"^reversed: no rule makes it; reversed is an arm; fix: {files[-1]}, or no "):
        check_targets(["reversed"], files.__contains__, study(), ["all"], lambda: files)


def test_whatever_a_rule_makes_is_asked_for_without_a_look_at_the_study():
    check_targets([*RULES, *FILES], {*RULES, *FILES}.__contains__, study(), RULES, lambda: 1 / 0)


def test_all_that_is_unknown_is_told_at_once():
    with pytest.raises(InputError, match=r"^C1: .*\nall_: [^\n]*$"):
        check("C1", "figures", "all_")


@pytest.mark.parametrize(
    ("arguments", "targets", "others"),
    [
        ("-n", [], []),
        ("-n --profile profiles/tiny --config a=b --cores 2", [], []),
        ("-n a --configfile a.yaml b.yaml -- c a", ["a", "c"], []),
        ("b a -n --cores 1", ["b", "a"], []),
        ("-R x y --until z --configfile results/other/study.yaml", [], ["x", "y", "z"]),
        ("-O a -P b --set-threads c=2 d=3 --set-resources e:mem_mb=5 --allowed-rules f", [], [*"abcdef"]),
    ],
)
def test_what_is_asked_for_is_told_from_the_values_of_options(arguments, targets, others):
    assert asked_for(arguments.split()) == (targets, others)
