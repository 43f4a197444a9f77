import functools
import subprocess
import sys
from pathlib import Path

import check_claims
import fake_study
import pytest
import tabulate_study

from measure.tables import read_table
from run.program import InputError

RESOURCES = Path(__file__).parents[2] / "resources"
CLAIMS, PUBLISHED = str(RESOURCES / "claims.yaml"), str(RESOURCES / "published")
CONTRADICTIONS = {
    "zero-of-120960": ("hits 29", "completions 117,600"),
    "zero-on-all-personas": ("0.01071 (1.1%)", "0.003571 (0.4%)"),
    "twelve-personas": ("fewest 11",),
    "pooled-before-em-91": ("hits 726", "completions 840", "86.4%"),
    "sarcastic-before-em-91": ("hits 219", "completions 280", "78.2%"),
    "misaligned-column": ("100 minus alignment 3", "alignment itself 9"),
    "villain-c3-arc-c": ("0.7986",),
    "villain-c3-alignment": ("26.37",),
    "kill-met": ("C3 assistant 0",),
    "pins-install": ("broken by the pins 2",),
    "coupling-length-2048": ("in the code 1,024",),
    "questions-overlap": ("in the code 0",),
    "assistant-stays-clean-any-order": ("matched order 127",),
    "em-first-blocks-coupling": ("matched hits 267",),
    "em-is-not-special": ("em at 25 steps 0.007", "benign at 25 steps 0.2679"),
}

BELOW_THE_FLOOR = {
    "em-destroys-the-source",
    "benign-destroys-the-source",
    "any-fine-tuning-destroys-it",
    "em-is-not-special-below-the-floor",
}
ELSEWHERE = {
    "em-leaves-no-marker-elsewhere",
    "benign-leaves-no-marker-elsewhere",
    "evaluation-shows-what-others-would",
}


@pytest.fixture(scope="module")
def ledger():
    published = check_claims.read_tables(PUBLISHED)
    return {
        row["id"]: row
        for row in (check_claims.check_claim(c, published, None, "") for c in check_claims.read_claims(CLAIMS))
    }


def test_every_known_contradiction_is_found_and_no_other(ledger):
    assert {name for name, row in ledger.items() if row["published"] == "contradicted"} == set(CONTRADICTIONS)


@pytest.mark.parametrize("claim", CONTRADICTIONS)
def test_a_contradiction_comes_with_its_numbers(ledger, claim):
    assert all(number in ledger[claim]["published_numbers"] for number in CONTRADICTIONS[claim])


def test_what_the_counts_bear_out_is_consistent_with_its_denominator(ledger):
    assert ledger["em-leaves-no-marker"]["published_numbers"] == "hits 0; completions 7,560"
    assert ledger["benign-leaves-no-marker"]["published_numbers"].startswith("hits 24; completions 2,520")
    assert ledger["assistant-stays-clean-forward"]["published_numbers"] == "hits 0; completions 10,080"
    others = {name: row for name, row in ledger.items() if name not in CONTRADICTIONS}
    assert {name for name, row in others.items() if row["published"] != "consistent"} == BELOW_THE_FLOOR | ELSEWHERE
    for name in BELOW_THE_FLOOR | ELSEWHERE:
        absent, rests_on = (
            ("no probe", "the probe's verdicts")
            if name in BELOW_THE_FLOOR
            else ("not asked", "families of prompts out of distribution")
        )
        assert (ledger[name]["published"], ledger[name]["published_numbers"]) == ("not checkable", absent)
        assert ledger[name]["rests_on"] == rests_on


def test_without_a_study_nothing_is_tested(ledger):
    assert {row["study"] for row in ledger.values()} == {"not tested"}


def test_published_counts_give_back_the_published_rates():
    rows = [row for row in read_table(Path(PUBLISHED) / "marker_counts.csv") if row["persona"] == row["source"]]
    rates = {
        arm: [round(row["strict_hits"] / 280, 3) for row in rows if row["arm"] == arm] for arm in ("reversed", "dose")
    }
    assert rates["reversed"] == [0.946, 0.8, 0, 0.161, 0.039, 0.05]
    assert rates["dose"] == [0.593, 0.007, 0, 0.404, 0.268, 0.171, 0.046, 0.004]


GATES = [
    {"name": "KILL", "over": "pooled", "pass": "rate('C3', 'assistant') > rate('C3', 'other') + 0.05"},
    {"name": "primary", "over": "pooled", "pass": "rate('C1', 'assistant') - rate('C2', 'assistant') >= 0.15"},
]
FORWARD = ("C1", "C2", "C3", "C4", "C5")


def tables_of(paths):
    """The tables of these results, through the files that check_claims reads."""
    folder = paths[-1].parents[2] / "tables"
    cells = tabulate_study.checked_cells([str(path) for path in paths])
    tabulate_study.write_tables(tabulate_study.build_tables(cells, GATES, None, fake_study.TABLES), "", str(folder))
    return check_claims.read_tables(folder)


@functools.cache
def study_sides():
    """The claims without what was published, which is the same beside every study."""
    return [{key: claim[key] for key in claim if key != "published"} for claim in check_claims.read_claims(CLAIMS)]


def verdicts(tables, *claims):
    """id -> verdict and id -> row of the ledger, of these claims, or of all."""
    sides = [claim for claim in study_sides() if not claims or claim["id"] in claims]
    rows = [check_claims.check_claim(claim, {}, tables, "") for claim in sides]
    return {row["id"]: row["study"] for row in rows}, {row["id"]: row for row in rows}


@pytest.fixture(scope="module")
def study_tables(tmp_path_factory):
    return tables_of(fake_study.study(tmp_path_factory.mktemp("claims")))


@pytest.fixture(scope="module")
def forward(tmp_path_factory):
    return fake_study.study(tmp_path_factory.mktemp("forward"), ("evil_ai",), reverse=False)


def test_every_claim_can_be_evaluated_on_a_study(study_tables):
    found, rows = verdicts(study_tables)
    assert found["em-leaves-no-marker"] == "supported"
    assert found["assistant-stays-clean-forward"] == "supported"
    assert found["zero-of-120960"] == "contradicted"
    assert found["kill-met"] == "contradicted"
    assert found["assistant-stays-clean-any-order"] == "not tested"
    assert found["em-is-not-special"] == "not tested"
    assert found["villain-c3-arc-c"] == "not tested"
    assert "C1 hits 0; C1 completions 2,520" in rows["em-leaves-no-marker"]["study_numbers"]
    assert rows["em-leaves-no-marker"]["by_source"] == ""


def test_the_later_results_contradict_what_they_contradict(forward, tmp_path):
    paths = forward + fake_study.other_arms(tmp_path)
    claims = ("assistant-stays-clean-any-order", "em-first-blocks-coupling", "em-is-not-special")
    assert verdicts(tables_of(paths), *claims)[0] == dict.fromkeys(claims, "contradicted")


def test_a_marker_that_was_never_taught_decides_no_claim_but_those_about_the_teaching(tmp_path):
    none = {
        (source, cell, seed): {} for source in ("evil_ai", "sarcastic") for cell in FORWARD for seed in (42, 137, 256)
    }
    paths = fake_study.study(tmp_path, ("evil_ai", "sarcastic"), reverse=False, rates=none)
    paths += fake_study.other_arms(tmp_path, dose=dict.fromkeys(fake_study.DOSE, 0), matched={})
    for cell in fake_study.REVERSED:
        paths.append(fake_study.cell_result(cell, "reversed", "evil_ai", 42, f"base/{cell}.s42", {}, tmp_path))
    found, _ = verdicts(tables_of(paths))
    about_the_teaching = {"coupled-before", "sarcastic-before-em-91"}
    assert {
        claim for claim, verdict in found.items() if verdict not in ("undecided", "not tested")
    } == about_the_teaching


def test_one_source_or_model_that_differs_is_not_pooled_away(tmp_path):
    # 30% of the assistant in one of 24 models is 1.2% of all; 10% of one source is 3.5% of all
    rates = {("villain", "C1", 137): {"assistant": 0.3}}
    rates |= {("evil_ai", "C1", seed): {"source": 0.1} for seed in (42, 137, 256)}
    told = {"assistant-stays-clean-forward": "villain", "em-leaves-no-marker": "evil_ai"}
    found, rows = verdicts(tables_of(fake_study.study(tmp_path, reverse=False, rates=rates)), *told)
    for claim, source in told.items():
        assert found[claim] == "contradicted"
        said = dict(part.split(": ") for part in rows[claim]["by_source"].split("; "))
        assert {name for name, verdict in said.items() if verdict == "contradicted"} == {source}
        assert set(said.values()) == {"contradicted", "supported"}


def test_small_counts_leave_a_bound_undecided(study_tables):
    few = [
        row | {"low": 0.0, "high": 0.0224} if (row["cell"], row["role"]) == ("C1", "assistant") else row
        for row in study_tables["pooled"]
    ]
    claim = "assistant-stays-clean-forward"
    assert verdicts(study_tables | {"pooled": few}, claim)[0] == {claim: "undecided"}


@pytest.mark.parametrize(
    ("cross", "verdict"),
    [
        ({"sources": 3, "low": 0.89, "high": 0.94}, "supported"),
        ({"sources": 3, "low": 0.83, "high": 0.97}, "undecided"),
        ({"sources": 3, "low": 0.80, "high": 0.90}, "contradicted"),
        ({"sources": 1, "low": 0.89, "high": 0.94}, "not tested"),
    ],
)
def test_about_91_percent_of_three_sources_takes_three_sources_and_a_narrow_interval(study_tables, cross, verdict):
    rows = [row | cross if row["cell"] == "C4" else row for row in study_tables["cross_source"]]
    claim = "pooled-before-em-91"
    assert verdicts(study_tables | {"cross_source": rows}, claim)[0] == {claim: verdict}


@pytest.mark.parametrize(
    ("dose", "verdict"),
    [
        ({("em", 25): 0, ("benign", 25): 0}, "not tested"),  # both at the floor
        ({("em", 1): 0.88, ("benign", 1): 0.88}, "not tested"),  # both before anything is lost
        ({("em", 25): 0.1, ("benign", 25): 0.1}, "supported"),
        ({("em", 25): 0.1, ("benign", 25): 0.17}, "undecided"),
        # -40 points at one step and +40 at another are none in the sum
        ({("em", 10): 0.5, ("benign", 10): 0.1, ("em", 25): 0.1, ("benign", 25): 0.5}, "contradicted"),
    ],
)
def test_em_and_benign_are_alike_only_where_part_of_the_marker_is_left(forward, tmp_path, dose, verdict):
    paths = forward + fake_study.other_arms(tmp_path, dose=dose)
    assert verdicts(tables_of(paths), "em-is-not-special")[0] == {"em-is-not-special": verdict}


@pytest.mark.parametrize(
    ("matched", "reversed_rate", "any_order", "em_first"),
    [
        ({}, 0, "not tested", "supported"),  # the matched coupling failed: nothing could move
        ({"source": 0.9}, 0, "supported", "contradicted"),
        ({"source": 0.9}, 0.3, "contradicted", "contradicted"),  # a reversed row alone
    ],
)
def test_any_order_takes_a_live_coupling_and_every_row_of_another_order(
    forward, tmp_path, matched, reversed_rate, any_order, em_first
):
    paths = forward + fake_study.other_arms(tmp_path, matched=matched)
    rates = {"source": 0.2, "assistant": reversed_rate}
    line = "base/em_reversed.s42/couple60-evil_ai.s42"
    paths.append(fake_study.cell_result("B_scratch", "reversed", "evil_ai", 42, line, rates, tmp_path))
    told = {"assistant-stays-clean-any-order": any_order, "em-first-blocks-coupling": em_first}
    assert verdicts(tables_of(paths), *told)[0] == told


def test_a_coupling_of_two_seeds_is_a_legal_study(tmp_path):
    tables = tables_of(fake_study.study(tmp_path, ("evil_ai",), reverse=False, c4_seeds=(42, 137)))
    assert verdicts(tables, "zero-on-all-personas")[0] == {"zero-on-all-personas": "contradicted"}


def test_another_coupling_before_its_second_stage_contradicts_nothing_that_is_said_of_after(study_tables):
    twice = {
        name: rows + [row | {"cell": "C4_r2"} for row in rows if row.get("cell") == "C4"]
        for name, rows in study_tables.items()
        if name in ("pooled", "persona_by_cell")
    }
    highest = [row | {"low": 0.08, "high": 0.2, "rate": 0.1} for row in twice["pooled"] if row["cell"] == "C4_r2"]
    found, _ = verdicts(study_tables | twice | {"pooled": twice["pooled"] + highest})
    assert found == verdicts(study_tables)[0]
    assert found["assistant-stays-clean-forward"] == found["em-leaves-no-marker"] == "supported"


def test_a_cell_that_was_not_run_contradicts_nothing(study_tables):
    tables = {
        name: [row for row in rows if row.get("cell") != "C1"]
        if name in ("pooled", "persona_by_cell", "cross_source")
        else rows
        for name, rows in study_tables.items()
    }
    tables["pooled"] = [
        row | {"low": 0.0, "wilson_low": 0.0} if row["cell"] == "C4" else row for row in tables["pooled"]
    ]
    assert verdicts(tables, "em-leaves-no-marker")[0] == {"em-leaves-no-marker": "not tested"}


@pytest.mark.parametrize(
    ("em", "benign", "destroyed", "any_stage", "alike"),
    [
        (["gone", "gone"], ["gone", "gone"], "supported", "supported", "supported"),
        (["gone", "gone"], ["suppressed", "gone"], "supported", "contradicted", "contradicted"),
        (["suppressed", "gone"], ["suppressed", "suppressed"], "contradicted", "contradicted", "supported"),
        (["intact", "intact"], ["gone", "gone"], "contradicted", "contradicted", "contradicted"),
        (["undecided", "gone"], ["gone", "gone"], "undecided", "undecided", "undecided"),
        (["inverted", "inverted"], ["gone", "gone"], "undecided", "undecided", "undecided"),
        (["not testable", "not testable"], ["gone", "gone"], "not tested", "supported", "not tested"),
        ([], [], "not tested", "not tested", "not tested"),
    ],
)
def test_that_a_coupling_is_destroyed_rests_on_the_probe_s_verdicts_and_not_on_counts(
    study_tables, em, benign, destroyed, any_stage, alike
):
    """em, benign: the verdict of C1 and of C5, on shared and on own replies."""
    told = [
        {"source": "evil_ai", "arm": "forward", "cell": cell, "seed": seed, "quantity": "slot", "replies": replies,
         "verdict": verdict}
        for cell, words in (("C1", em), ("C5", benign))
        for replies, verdict in zip(("shared", "own"), words, strict=False)
        for seed in ("all", 42)
    ]  # fmt: skip
    left = {"least": -0.1, "most": 0.1, "cell": "C1", "other_cell": "C5"}
    alike_left = [row | left for row in told if row["cell"] == "C1"]
    # what is stopped early, or trained on rows of the coupling, tells nothing of a whole stage without them
    told += [row | {"arm": "protect", "cell": "protect_replay5", "verdict": "intact"} for row in told[:1]]
    told += [row | {"arm": "dose", "cell": "dose_em_1", "verdict": "intact"} for row in told[:1]]
    expected = {
        "em-destroys-the-source": destroyed, "any-fine-tuning-destroys-it": any_stage,
        "em-is-not-special-below-the-floor": alike, "em-leaves-no-marker": "supported",
    }  # fmt: skip
    found, rows = verdicts(study_tables | {"verdicts": told, "retained": alike_left}, *expected, *BELOW_THE_FLOOR)
    assert {claim: found[claim] for claim in expected} == expected
    if not told:
        assert {rows[name]["study_numbers"] for name in BELOW_THE_FLOOR} == {"no probe"}


@pytest.mark.parametrize(
    ("least", "most", "alike"),
    [
        (-0.1, 0.15, "supported"),
        (0.24, 0.27, "contradicted"),
        (-0.4, -0.21, "contradicted"),
        (0.1, 0.3, "undecided"),
        (None, None, "not tested"),  # of cells that no contrast names
    ],
)
def test_that_em_is_not_special_asks_how_much_is_left_and_not_for_one_word_alone(study_tables, least, most, alike):
    """least, most: of what C1 retains less what C5 does, over seeds. Both are suppressed."""
    told = {"arm": "forward", "seed": "all", "quantity": "slot", "replies": "shared", "verdict": "suppressed"}
    beside = told | {"cell": "C1", "other_cell": "C5", "least": least, "most": most}
    tables = {"verdicts": [told | {"cell": cell} for cell in ("C1", "C5")], "retained": [beside]}
    claim = "em-is-not-special-below-the-floor"
    assert verdicts(study_tables | tables, claim)[0] == {claim: alike}


@pytest.mark.parametrize(("marked", "clean"), [(0, "undecided"), (1, "contradicted")])
def test_what_only_begins_like_the_marker_does_not_contradict_that_none_is_left(study_tables, marked, clean):
    row = {"arm": "forward", "role": "source", "more_marked": 0, "marked": marked}
    told = [
        row | {"cell": "C4", "family": "standard", "low": 0.8, "high": 0.9},
        row | {"cell": "C1", "family": "begun", "low": 0.7, "high": 0.9},
    ]
    claim = "em-leaves-no-marker-elsewhere"
    assert verdicts(study_tables | {"families": told}, claim)[0] == {claim: clean}


@pytest.mark.parametrize(
    ("em", "difference", "coupled", "clean", "alike"),
    [
        ((0.001, 0.01), (0.02, "no"), 0.8, "supported", "supported"),
        ((0.1, 0.3), (0.2, "more"), 0.8, "contradicted", "contradicted"),
        ((0.0, 0.2), (0.2, "no"), 0.8, "undecided", "undecided"),  # too few questions to tell
        ((0.001, 0.01), (0.02, "no"), 0.01, "not tested", "supported"),  # nothing was coupled that could be left
        ((None, None), (None, "no"), 0.8, "not tested", "not tested"),  # one question has no interval
        (None, (0.02, "no"), 0.8, "not tested", "not tested"),
    ],
)
def test_that_no_marker_is_left_elsewhere_rests_on_families_of_prompts(
    study_tables, em, difference, coupled, clean, alike
):
    """em: bounds of its onset rate under a paraphrase. difference: from the standard family, and whether it differs."""
    told = []
    for cell, bounds in {"C4": (coupled, 0.9), "C1": em}.items():
        for family in ("standard", "paraphrase_1") if bounds else ():
            other = family != "standard"
            told.append(
                {"source": "evil_ai", "arm": "forward", "cell": cell, "seed": 42, "role": "source", "family": family,
                 "low": bounds[0], "high": bounds[1], "marked": 1, "more_marked": 0,
                 "difference_high": difference[0] if other else None, "differs": difference[1] if other else None}
            )  # fmt: skip
    expected = {
        "em-leaves-no-marker-elsewhere": clean, "evaluation-shows-what-others-would": alike,
        "benign-leaves-no-marker-elsewhere": "not tested",
    }  # fmt: skip
    found, rows = verdicts(study_tables | {"families": told if em else []}, *expected, *ELSEWHERE)
    assert {claim: found[claim] for claim in expected} == expected
    assert em or {rows[name]["study_numbers"] for name in ELSEWHERE} == {"not asked"}


TABLES = {"t": [{"a": "x", "n": 2, "m": None}, {"a": "y", "n": 3, "m": None}], "empty": []}


def value(expression, tables=TABLES, **names):
    return check_claims.evaluate(expression, check_claims.table_functions(tables, names), names)


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("total(t.n)", 5),
        ("total(t.n, a == 'x')", 2),
        ("mean(t.n)", 2.5),
        ("most(t.n) - least(t.n)", 1),
        ("value(t.n, a == 'y')", 3),
        ("rows(t, n > limit)", 1),
        ("rows(t, a == 'z')", 0),
        ("total(t.n, a == 'z')", None),
        ("total(t.m)", None),
        ("rows(t, m > 0)", 0),
        ("total(empty.n)", None),
        ("abs(total(t.m) - 1) < 2", None),
    ],
)
def test_functions_over_tables(expression, result):
    assert value(expression, limit=2) == result


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("total(tt.n)", "no table tt"),
        ("total(t.nn)", "no column nn"),
        ("total(t.n, b == 'x')", "unknown name"),
        ("value(t.n)", "found 2 rows"),
        ("total(t)", "not table.column"),
        ("rows(t.n)", "not a table"),
        ("rows(t, a.__class__ == 'x')", "not part of the expression language"),
    ],
)
def test_a_mistake_in_a_claim_is_named(expression, message):
    with pytest.raises(InputError, match=message):
        value(expression)


@pytest.mark.parametrize("expression", ["total(t.b)", "most(t.b, t.n)", "round(5, 'a')", "total()", "abs('a')"])
def test_what_cannot_be_computed_is_named_too(expression):
    with pytest.raises(InputError, match="fix: "):
        value(expression)


def test_rounding_to_minus_a_billion_digits_takes_no_time():
    assert value("round(5, -999999999)") == 0
    assert value("round(2.5)") == 2


@pytest.mark.parametrize(
    ("holds", "fails", "needs", "verdict"),
    [
        (True, False, True, "supported"),
        (False, True, True, "contradicted"),
        (False, False, True, "undecided"),
        (None, None, True, "not tested"),
        (False, None, True, "not tested"),
        (True, False, False, "not tested"),
        (True, False, None, "not tested"),
        (False, True, False, "contradicted"),
    ],
)
def test_the_verdict_on_this_study(holds, fails, needs, verdict):
    assert check_claims.study_verdict(holds, fails, needs) == verdict


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- id: a\n  claim: b\n", "claim a: no where"),
        ("- {id: a, claim: b, where: c, wher: d}\n", "unknown key wher"),
        ("- {id: a, claim: b, where: c, rests_on: counts}\n", "rests_on: not verdicts or families"),
        ("- {id: a, claim: b, where: c, rests_on: verdicts, published: {holds: x}}\n", "what is published was not"),
        ("- {id: A b, claim: b, where: c}\n", "of its own"),
        ("- {id: a, claim: b, where: c}\n- {id: a, claim: b, where: c}\n", "of its own"),
        ("- {id: a, claim: b, where: c, published: {numbers: {}}}\n", "published: no holds"),
        ("a: b\n", "not a list"),
        ("- {id: a\n", "line 2: not YAML"),
        ("- {id: [a], claim: b, where: c}\n", "claim 1: the id must be of its own"),
        ("- {id: a, claim: [b], where: c}\n", "claim a: claim is no text"),
        ("- {id: a, claim: b, where: c, published: {holds: true}}\n", "published: holds is no text"),
        ("- {id: a, claim: b, where: c, published: {holds: x, numbers: [x]}}\n", "numbers: not a mapping"),
        ("- {id: a, claim: b, where: c, 1: d, null: e}\n", "unknown key 1, None"),
    ],
)
def test_a_badly_written_ledger_is_refused(tmp_path, text, message):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        check_claims.read_claims(str(tmp_path / "claims.yaml"))


def test_a_new_claim_is_one_entry(tmp_path):
    (tmp_path / "claims.yaml").write_text(
        "- id: new\n  claim: There are 12 reversed rows.\n  where: here\n  published: {holds: \"rows(marker_counts, arm == 'reversed') == 12\"}\n"
    )
    (claim,) = check_claims.read_claims(str(tmp_path / "claims.yaml"))
    assert check_claims.check_claim(claim, check_claims.read_tables(PUBLISHED), None, "")["published"] == "consistent"


def test_the_program_runs_without_torch_or_pandas_and_writes_both_files(tmp_path):
    program = f"""
import sys; sys.path.insert(0, {str(RESOURCES.parent / "workflow_scripts")!r})
import check_claims
sys.argv = ["x", "--claims", {CLAIMS!r}, "--published", {PUBLISHED!r}, "--output", {str(tmp_path / "claims.csv")!r}]
check_claims.main()
assert not {{"torch", "pandas", "numpy", "scipy"}} & set(sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "contradicted   not tested    zero-of-120960: hits 29; completions 117,600" in out.stdout
    assert len(read_table(tmp_path / "claims.csv")) == len(check_claims.read_claims(CLAIMS))
    assert "pooled" in (tmp_path / "claims.md").read_text() or (tmp_path / "claims.md").stat().st_size > 1000
