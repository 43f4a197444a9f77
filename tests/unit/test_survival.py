"""Persona gaps, retention and verdicts on rows whose answer is known."""

import random

import pytest

from probe.survival import Rule, auroc, averaged, gaps, means, of_all, retention, verdict
from probe.table import read_probe, write_probe
from run.program import InputError

RULE = Rule(minimum=1.0, gone=0.1, intact=0.5)
PERSONAS = ["villain", "comedian", "librarian"]
FEW, MANY = (0.0, 0.01), (0.8, 0.95)  # bounds of a counted rate


def crossed_rows(gap, seed=0, questions=28, spread=0.5, personas=PERSONAS, level=-20.0):
    """Bodies of two authors a question, scored under every persona: the villain's slot lies `gap` above the others'."""
    draw = random.Random(seed)
    rows = []
    for question in range(questions):
        for author in PERSONAS[:2]:
            body = draw.gauss(level, 5)
            for persona in personas:
                value = body + (gap if persona == "villain" else 0) + draw.gauss(0, spread)
                key = {"replies": "shared", "author": author, "persona": persona, "sample": 0}
                rows.append({**key, "question_id": f"general_{question:02d}", "slot": value})
    return rows


def gap_of(rows):
    return gaps(rows, "slot", "villain", PERSONAS[1:])


def judged(cell, reference=0.0, before=10.0, counted=FEW, counted_before=MANY, spread=0.5, base=0.0):
    found = {
        name: gap_of(crossed_rows(gap, seed, spread=spread))
        for seed, (name, gap) in enumerate(
            {"cell": cell, "reference": reference, "before": before, "base": base}.items()
        )
    }
    return verdict(retention(found), averaged(found["before"]), counted, counted_before, RULE)


@pytest.mark.parametrize(
    ("expected", "models"),
    [
        ("intact", {"cell": 10.0, "counted": MANY}),
        ("weakened", {"cell": 3.0, "counted": MANY}),
        ("suppressed", {"cell": 8.0}),
        ("suppressed", {"cell": 3.0}),
        ("gone", {"cell": 0.0}),
        ("gone", {"cell": 2.0, "reference": 2.0}),
        ("inverted", {"cell": -5.0}),
        ("undecided", {"cell": 1.0, "spread": 4.0}),
        ("not testable", {"cell": 0.0, "before": 0.5}),
        ("not testable", {"cell": 3.0, "before": 5.0, "base": 6.0}),
    ],
)
def test_the_verdict_follows_from_the_gap_that_is_left_and_from_what_was_counted(expected, models):
    assert judged(**models) == expected


def test_a_study_has_a_verdict_only_if_all_its_seeds_have_it():
    assert of_all(["gone", "gone", "gone"]) == "gone"
    assert of_all(["gone", "suppressed", "gone"]) == "undecided"


def test_the_gap_is_of_one_text_under_all_personas_and_not_of_what_each_happens_to_say():
    """A body that one persona was not asked about would move the gap by what the body is like."""
    rows = crossed_rows(4.0, spread=0.0)
    lone = {"replies": "shared", "author": "librarian", "sample": 0, "question_id": "general_00"}
    rows += [{**lone, "persona": "villain", "slot": -500.0}]
    assert averaged(gap_of(rows)).value == pytest.approx(4.0)


def test_own_replies_are_compared_by_question():
    rows = [
        {
            "replies": "own",
            "author": persona,
            "persona": persona,
            "question_id": question,
            "sample": sample,
            "slot": value,
        }
        for question, level in (("a", -10.0), ("b", -30.0))
        for persona, value in (("villain", level + 6), ("comedian", level), ("librarian", level + 2))
        for sample in range(1 + (persona == "comedian"))
    ]
    assert gap_of(rows) == {"a": 5.0, "b": 5.0}
    assert gap_of([row for row in rows if (row["persona"], row["question_id"]) != ("librarian", "b")]) == {"a": 5.0}


def test_the_interval_is_of_questions_and_the_same_for_the_same_rows():
    narrow, wide = (averaged(gap_of(crossed_rows(4.0, questions=questions))) for questions in (200, 10))
    assert narrow.low < 4.0 < narrow.high
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert narrow == averaged(gap_of(crossed_rows(4.0, questions=200)))
    assert averaged({"a": 1.0}).low is None and averaged({}).value is None


def test_retention_is_one_for_the_model_before_and_nought_for_the_reference():
    before, base, other = (gap_of(crossed_rows(gap, seed)) for seed, gap in enumerate((10.0, 0.0, 0.5)))
    kept = retention({"cell": before, "reference": base, "before": before, "base": base})
    assert (kept.value, kept.low, kept.high) == pytest.approx((1, 1, 1))
    none = retention({"cell": other, "reference": other, "before": before, "base": base})
    assert (none.value, none.low, none.high) == (0, 0, 0)


def test_selectivity_is_the_chance_to_tell_the_source_within_a_question():
    rows = crossed_rows(1000.0)
    assert averaged(auroc(rows, "slot", "villain", PERSONAS[1:])).value == 1
    assert averaged(auroc(rows, "slot", "comedian", ["librarian"])).value == pytest.approx(0.5, abs=0.15)
    even = [row | {"slot": 1.0} for row in rows]
    assert averaged(auroc(even, "slot", "villain", PERSONAS[1:])).value == 0.5
    assert means(even, "slot", "villain") == {row["question_id"]: 1.0 for row in even}


def test_what_a_row_does_not_have_is_empty_once_read(tmp_path):
    key = {"replies": "own", "author": "villain", "persona": "villain", "question_id": "a", "sample": 0}
    write_probe(tmp_path / "probe.parquet", [key | {"left_out": "cut by max_tokens", "h": 0.25, "h_largest": 0.25}])
    (row,) = read_probe(tmp_path / "probe.parquet")
    assert (row["h"], row["slot"], row["rank"], row["onset"]) == (0.25, None, None, False)
    write_probe(tmp_path / "twice.parquet", [key | {"left_out": ""}] * 2)
    with pytest.raises(InputError, match="row 2: .*is duplicated"):
        read_probe(tmp_path / "twice.parquet")
