"""How many steps a coupling takes to be learned again, from the cells of a study."""

import pytest

from measure.relearning import N50, n50, relearning_rows, savings

CONTRASTS = [[f"relearn_C1_{step}", f"relearn_C2_{step}", step] for step in (1, 10, 100)]
COUPLED, C1, C2 = "base/couple-villain.s42", "base/couple-villain.s42/em.s42", "base/em.s42"


def cell(name, lineage, gap, width=0.5, data=None):
    manifest = {"origin": {"recipe": {"data": data}}} if data else {"recipe": {"data": {"from": "em"}}}
    found = None if gap is None else {"value": gap, "low": gap - width, "high": gap + width, "n": 28}
    return {
        **{"source": "villain", "arm": "relearn", "cell": name, "seed": 42, "lineage": lineage},
        **{"stages": [{"manifest": manifest}], "survival": {"gap_slot_shared": found} if found else {}},
    }


def study(c1_start, c1, c2, base=0.0, coupled=20.0):
    """base, C4, C1 and C2, and the couplings on C1 and C2 stopped at 1, 10 and 100 steps."""
    rows = {"from": "rows", "of": "couple-{persona}.s42"}
    cells = [cell("base", "base", base), cell("C4", COUPLED, coupled), cell("C1", C1, c1_start), cell("C2", C2, 0.0)]
    for name, parent, gaps in (("relearn_C1", C1, c1), ("relearn_C2", C2, c2)):
        cells += [
            cell(f"{name}_{step}", f"{parent}/relearn-villain@{step}.s42", gap, data=rows)
            for step, gap in zip((1, 10, 100), gaps, strict=True)
        ]
    return cells


def by_cell(cells):
    return {row["cell"]: row for row in relearning_rows(cells, CONTRASTS)}


def test_n50_lies_between_the_checkpoints_around_the_midpoint():
    points = [(0, 1.0), (1, 2.0), (10, 6.0), (100, 16.0)]
    assert n50(points, 11) == N50("interval", 55, 10, 100)
    assert n50(points, 1.5) == N50("interval", 0.5, 0, 1)


def test_a_model_that_is_there_needs_no_step_and_one_that_does_not_get_there_more_than_all():
    points = [(0, 1.0), (1, 2.0), (10, 6.0)]
    assert n50(points, 0.5) == N50("left", 0, 0, 0)
    assert n50(points, 7) == N50("right", None, 10, None)


def test_what_was_coupled_saves_steps_against_what_never_was():
    found = by_cell(study(6.0, (8, 12, 20), (0, 5, 15)))
    assert found["relearn_C2"]["n50"] == pytest.approx(55)
    assert found["relearn_C1"]["n50"] == pytest.approx(5.5)
    row = found["relearn_C1"]
    assert (row["against"], row["savings"]) == ("relearn_C2", pytest.approx(0.9))
    # N50 of C1 in (1, 10], of C2 in (10, 100]
    assert (row["savings_low"], row["savings_high"]) == (pytest.approx(0), pytest.approx(0.99))
    assert "against" not in found["relearn_C2"]


def test_a_duplicate_of_the_uncoupled_saves_nothing():
    row = by_cell(study(0.0, (0, 5, 15), (0, 5, 15)))["relearn_C1"]
    assert row["savings"] == 0
    assert row["savings_low"] < 0 < row["savings_high"]


def test_the_coupling_itself_needs_no_step_and_saves_all():
    row = by_cell(study(20.0, (20, 20, 20), (0, 5, 15)))["relearn_C1"]
    assert (row["censored"], row["n50"], row["savings"], row["savings_low"]) == ("left", 0, 1, 1)


def test_nothing_is_saved_against_what_never_gets_there():
    row = by_cell(study(6.0, (8, 12, 20), (0, 5, 9)))["relearn_C1"]
    assert (row["savings"], row["savings_low"], row["savings_high"]) == (None, None, None)
    assert row["why"] == "relearn_C2: N50 is right-censored"


def test_what_does_not_get_there_itself_has_a_bound_alone():
    assert savings(N50("right", None, 100, None), N50("interval", 5.5, 1, 10)) == (None, None, -9)
    row = by_cell(study(0.0, (0, 5, 9), (0, 5, 15)))["relearn_C1"]
    assert (row["censored"], row["n50_low"], row["n50_high"], row["savings"]) == ("right", 100, None, None)


def test_without_a_gap_of_the_coupling_there_is_no_midpoint():
    row = by_cell(study(0.0, (0, 0, 0), (0, 0, 0), coupled=0.4))["relearn_C1"]
    assert row["why"] == f"{COUPLED} has added no gap to the base's" and "n50" not in row


@pytest.mark.parametrize(("absent", "lineage"), [("base", "base"), ("C4", COUPLED), ("C1", C1)])
def test_what_is_missing_is_named(absent, lineage):
    cells = [each for each in study(6.0, (8, 12, 20), (0, 5, 15)) if each["cell"] != absent]
    assert by_cell(cells)["relearn_C1"]["why"] == f"no gap of {lineage}: no cell of this study, or not probed"
