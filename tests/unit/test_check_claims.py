import subprocess
import sys
from pathlib import Path

import check_claims
import fake_study
import pytest
import tabulate_study
from records import InputError
from tables import read_table

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
    "em-is-not-special": ("em at 25 steps 0.007", "benign at 25 steps 0.268"),
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
    assert ledger["em-destroys-the-source"]["published_numbers"] == "hits 0; completions 7,560"
    assert ledger["benign-destroys-the-source"]["published_numbers"].startswith("hits 24; completions 2,520")
    assert ledger["assistant-stays-clean-forward"]["published_numbers"] == "hits 0; completions 10,080"
    assert {row["published"] for name, row in ledger.items() if name not in CONTRADICTIONS} == {"consistent"}


def test_without_a_study_nothing_is_tested(ledger):
    assert {row["study"] for row in ledger.values()} == {"not tested"}


def test_published_counts_give_back_the_published_rates():
    for row in read_table(Path(PUBLISHED) / "later_dose.csv"):
        assert round(row["strict_hits"] / row["completions"], 3) == row["rate"]
    rates = [
        row["strict_hits"] / 280
        for row in read_table(Path(PUBLISHED) / "reversed.csv")
        if row["persona"] == row["source"]
    ]
    assert [round(rate, 3) for rate in rates] == [0.946, 0.8, 0, 0.161, 0.039, 0.05]


@pytest.fixture(scope="module")
def study_tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("claims")
    cells = tabulate_study.checked_cells([str(path) for path in fake_study.study(folder)])
    gate = {"name": "KILL", "over": "pooled", "pass": "rate('C3', 'assistant') > rate('C3', 'other') + 0.05"}
    tabulate_study.write_tables(tabulate_study.build_tables(cells, [gate], None), "", str(folder / "tables"))
    return check_claims.read_tables(folder / "tables")


def test_every_claim_can_be_evaluated_on_a_study(study_tables):
    published = check_claims.read_tables(PUBLISHED)
    rows = {c["id"]: check_claims.check_claim(c, published, study_tables, "") for c in check_claims.read_claims(CLAIMS)}
    verdicts = {name: row["study"] for name, row in rows.items()}
    assert verdicts["em-destroys-the-source"] == "supported"
    assert verdicts["zero-of-120960"] == "contradicted"
    assert verdicts["kill-met"] == "contradicted"
    assert verdicts["em-is-not-special"] == "not tested"
    assert verdicts["villain-c3-arc-c"] == "not tested"
    assert "C1 hits 0; C1 completions 2,520" in rows["em-destroys-the-source"]["study_numbers"]


def test_a_marker_that_was_never_taught_does_not_count_as_destroyed(study_tables):
    nothing = {"strict_hits": 0, "source_hits": 0, "rate": 0.0, "wilson_low": 0.0, "wilson_high": 0.001}
    nothing |= {"source_wilson_low": 0.0, "source_wilson_high": 0.001}
    tables = {
        name: [row | {field: value for field, value in nothing.items() if field in row} for row in rows]
        for name, rows in study_tables.items()
    }
    published = check_claims.read_tables(PUBLISHED)
    claims = {claim["id"]: claim for claim in check_claims.read_claims(CLAIMS)}
    for name in (
        *("zero-of-120960", "zero-on-all-personas", "em-destroys-the-source", "benign-destroys-the-source"),
        *("assistant-stays-clean-forward", "prebaked-does-not-survive-em-first"),
    ):
        assert check_claims.check_claim(claims[name], published, tables, "")["study"] == "undecided", name


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
    ("holds", "fails", "verdict"),
    [
        (True, None, "supported"),
        (True, False, "supported"),
        (False, None, "contradicted"),
        (False, True, "contradicted"),
        (False, False, "undecided"),
        (None, None, "not tested"),
    ],
)
def test_the_verdict_on_this_study(holds, fails, verdict):
    assert check_claims.study_verdict(holds, fails) == verdict


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- id: a\n  claim: b\n", "claim a: no where"),
        ("- {id: a, claim: b, where: c, wher: d}\n", "unknown key wher"),
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
        "- id: new\n  claim: There are 12 reversed rows.\n  where: here\n  published: {holds: rows(reversed) == 12}\n"
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
