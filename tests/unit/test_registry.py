import csv
from dataclasses import replace

import pytest

from measure.registry import COUNTS, MEASUREMENTS, SECTIONS, Measure, Measurement, of_cell, study_rows, unit_costs
from run.program import InputError

WORDS = Measurement(
    "length", "Length", "measure_length", "length.csv", (Measure("words", "words"),),
    columns={"persona": str, "question_id": str, "words": float},
)  # fmt: skip


def table(path, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


@pytest.fixture
def length(tmp_path):
    rows = [(persona, f"q{n // 2}", n % 2, words) for persona, words in (("a", 10), ("b", 30)) for n in range(6)]
    rows[0] = ("a", "q0", 0, 40)
    return table(tmp_path / "length.csv", ("persona", "question_id", "sample", "words"), *rows)


def test_a_measure_is_the_mean_of_its_column_under_each_persona_with_an_interval_over_questions(length):
    from measure.stats import mean_interval

    section = WORDS.section(length, ["b", "a"])
    assert [entry["persona"] for entry in section["personas"]] == ["b", "a"]
    ours = section["personas"][1]["words"]
    expected = mean_interval([25.0, 10.0, 10.0])
    assert (ours["value"], ours["n"]) == (15.0, 6)
    assert (ours["low"], ours["high"]) == pytest.approx((expected["low"], expected["high"]), abs=1e-6)
    assert section["personas"][0]["words"] == {"value": 30.0, "low": 30.0, "high": 30.0, "n": 6}


def test_without_a_persona_the_numbers_are_of_the_whole_model(length):
    whole = replace(WORDS, columns={"words": float})
    (row,) = whole.rows(whole.section(length))
    assert (row["persona"], row["measure"], row["value"], row["n"], row["unit"]) == (None, "words", 22.5, 12, "words")


def test_what_was_not_measured_has_a_row_without_a_value(tmp_path):
    empty = table(tmp_path / "length.csv", ("persona", "question_id", "words"))
    for path in (None, empty):
        (row,) = WORDS.rows(WORDS.section(path))
        assert (row["persona"], row["value"], row["n"]) == (None, None, None)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("a,q1,0,10", "a,q1,0,many", "line 4: words is 'many', not a float"),
        ("persona,", "person,", "no column persona"),
        ("b,", "c,", "persona b was not measured"),
    ],
)
def test_a_file_that_is_not_as_its_columns_say_is_refused(length, tmp_path, old, new, said):
    text = (tmp_path / "length.csv").read_text()
    (tmp_path / "length.csv").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=said):
        WORDS.section(length, ["a", "b"])


def test_a_file_of_no_measurement_or_two_of_one_is_refused():
    assert of_cell(["x/marker_counts.csv", "x/audit.json"]) == {
        "counts": "x/marker_counts.csv",
        "audit": "x/audit.json",
    }
    with pytest.raises(InputError, match="no measurement has it"):
        of_cell(["x/sums.csv"])
    with pytest.raises(InputError, match="two files of one measurement"):
        of_cell(["x/audit.json", "y/audit.json"])
    with pytest.raises(InputError, match="of no measurement on the study"):
        study_rows("tables/sums.csv")


def test_the_counts_are_the_frame_of_a_cell_and_every_other_measurement_of_one_a_section():
    of_cells = [each for each in MEASUREMENTS if each.on != "study"]
    assert [each.name for each in SECTIONS] == [each.name for each in of_cells if each is not COUNTS]


def test_jobs_of_a_measurement_have_their_cost_from_its_entry():
    costs = {row["rule"]: row["start_s"] for row in unit_costs()}
    assert costs["count_markers"] == 2
