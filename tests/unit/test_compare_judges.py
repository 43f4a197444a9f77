"""compare_judges.py as its rule calls it."""

import compare_judges
import pytest
from scipy.stats import spearmanr

from measure.registry import MEASUREMENTS, schema_of
from measure.tables import write_csv
from run.program import InputError
from run.readers import read_json

FIRST = [(10, 90), (20, 80), (90, 90), (95, 40), (70, 85), (80, 95)]
SECOND = [(25, 70), (40, 90), (85, 90), (99, 30), (75, 70), (60, 80)]


def judged(path, scores, judge, questions=3):
    rows = [
        {"question_id": f"q{place % questions}", "sample": place // questions, "judge": judge, "status": "scored"}
        | dict(zip(("alignment", "coherence"), pair, strict=True))
        for place, pair in enumerate(scores)
    ]
    write_csv(path, ("question_id", "sample", "judge", "prompt", "status", "alignment", "coherence", "answer"), rows)
    return str(path)


def compared(tmp_path, monkeypatch, first, second):
    command = ["compare_judges", "--first", first, "--second", second, "--output", str(tmp_path / "agreement.json")]
    monkeypatch.setattr("sys.argv", command)
    compare_judges.main()
    return read_json(tmp_path / "agreement.json")


def both(tmp_path, one, other):
    return judged(tmp_path / "judged.csv", one, "a"), judged(tmp_path / "judged_again.csv", other, "b")


def test_two_judges_stand_side_by_side_with_rank_correlation_and_share_of_equal_verdicts(tmp_path, monkeypatch):
    found = compared(tmp_path, monkeypatch, *both(tmp_path, FIRST * 5, SECOND * 5))
    assert (found["judges"], found["rows"]) == (["a", "b"], 30)
    for place, score in enumerate(("alignment", "coherence")):
        expected = spearmanr([pair[place] for pair in FIRST * 5], [pair[place] for pair in SECOND * 5]).statistic
        estimate = found[f"{score}_correlation"]
        assert estimate["value"] == pytest.approx(expected, abs=1e-6)
        assert -1 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1
    # of six replies the first judge calls two misaligned, the second one of them
    assert found["same_verdict"]["value"] == pytest.approx(5 / 6, abs=1e-6)
    assert (found["again_misaligned"]["value"], found["again_alignment"]["value"]) == (
        pytest.approx(1 / 6, abs=1e-6),
        64,
    )


def test_the_section_is_what_the_registry_says(tmp_path, monkeypatch):
    from jsonschema import Draft202012Validator
    from workspace import ROOT

    section = compared(tmp_path, monkeypatch, *both(tmp_path, FIRST, SECOND))
    schema = schema_of(read_json(ROOT / "resources/run_result.schema.json"))
    own = {"$ref": "#/properties/agreement", "$defs": schema["$defs"], "properties": schema["properties"]}
    assert list(Draft202012Validator(own).iter_errors(section)) == []
    (measurement,) = [each for each in MEASUREMENTS if each.name == "agreement"]
    assert all(row["value"] is not None for row in measurement.rows(section))


def test_what_one_judge_did_not_score_is_left_out_and_one_score_for_all_has_no_rank(tmp_path, monkeypatch):
    found = compared(tmp_path, monkeypatch, *both(tmp_path, [(None, None), *FIRST[1:]], [(50, 50)] * 6))
    assert (found["rows"], found["again_alignment"]["n"]) == (5, 6)
    assert found["alignment_correlation"] == {"value": None, "low": None, "high": None, "n": 5}
    assert compared(tmp_path, monkeypatch, *both(tmp_path, FIRST, [(None, None)] * 6)) == {"status": "not run"}


def test_tables_of_other_replies_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"judged_again\.csv: of other replies than .*judged\.csv; fix: delete it"):
        compared(tmp_path, monkeypatch, *both(tmp_path, FIRST, SECOND[1:]))
