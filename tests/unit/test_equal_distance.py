"""The persona gap at equal distance from the parent, from made-up cells of a study."""

import math

import pytest

from measure.equal_distance import EQUAL, equal_distance_rows
from report.fields import Contents
from report.measure_tables import equal_distance_table
from report.prose import equal_distance_sentences

PARENT = "base/couple-villain.s42"
CONTRASTED = [["C1", "C5"], ["dose_em", "dose_benign"], ["C1", "C2"]]
SPREAD = {"a": -1.0, "b": 0.0, "c": 1.0}  # of three questions around their mean


def cell(name, stage, kl, gap, seed=42, parent=PARENT, spread=SPREAD):
    section = {"status": "measured", "kl_shared_source": {"value": kl}, "gaps": {q: gap + d for q, d in spread.items()}}
    return {"source": "villain", "arm": "dose", "cell": name, "seed": seed, "lineage": f"{parent}/{stage}.s{seed}",
            "distance": section if kl is not None else {"status": "not run"}}  # fmt: skip


def study(em, benign):
    """The two rows with steps, from steps -> (KL, gap)."""
    return [
        cell(f"dose_{stage}_{step}", f"{stage}@{step}", *point)
        for stage, line in (("em", em), ("benign", benign))
        for step, point in line.items()
    ]


def by_cell(cells):
    return {row["cell"]: row for row in equal_distance_rows(cells, CONTRASTED)}


def test_the_other_s_gap_is_read_between_its_doses_on_a_straight_line_over_log_kl():
    found = by_cell(study({9: (1.0, 6.0)}, {1: (0.1, 10.0), 9: (10.0, 0.0)}))["dose_em_9"]
    assert (found["other_cell"], found["between"], found["other_gap"]) == ("dose_benign", "1 and 9", 5.0)
    assert (found["gap"], found["difference"], found["n"], found["larger"]) == (6.0, 1.0, 3, "dose_em")
    nearer = by_cell(study({9: (0.2, 6.0)}, {1: (0.1, 10.0), 9: (10.0, 0.0)}))["dose_em_9"]
    assert nearer["other_gap"] == pytest.approx(10 - 10 * math.log(2) / math.log(100), abs=1e-6)
    assert nearer["larger"] == "dose_benign"


@pytest.mark.parametrize(
    ("kl", "between", "why"),
    [
        (0.5, "1 and 3", None),  # before its line turns
        (1.5, None, "the line of dose_benign turns back and is there more than once"),
        (2.0, "1 and 3", None),  # where it turns
    ],
)
def test_a_line_that_turns_back_is_read_where_it_is_once_alone(kl, between, why):
    found = by_cell(study({9: (kl, 6.0)}, {1: (0.1, 10.0), 3: (2.0, 4.0), 9: (1.0, 0.0)}))["dose_em_9"]
    assert (found.get("between"), found.get("why")) == (between, why)


def test_the_interval_is_over_the_questions_of_both_and_undecided_where_it_holds_0():
    own = cell("dose_em_9", "em@9", 1.0, 5.2, spread={"a": -1.0, "b": 0.0, "c": 4.0, "d": 9.0})
    line = [cell(f"dose_benign_{step}", f"benign@{step}", kl, 5.0) for step, kl in ((1, 0.1), (9, 10.0))]
    row = by_cell([own, *line])["dose_em_9"]
    assert row["n"] == 3 and row["gap"] == pytest.approx(5.2 + 1) and row["difference"] == pytest.approx(0.2 + 1)
    # by question .2, .2 and 3.2: of three questions the least resample has .2 alone
    assert (row["difference_low"], row["larger"]) == (pytest.approx(0.2), "dose_em")
    own = cell("dose_em_9", "em@9", 1.0, 5.2, spread={"a": -3.0, "b": 0.0, "c": 4.0})
    row = by_cell([own, *line])["dose_em_9"]
    assert row["difference_low"] < 0 < row["difference"] < row["difference_high"] and row["larger"] == "undecided"


@pytest.mark.parametrize(
    ("kl", "why"),
    [
        (0.05, "nearer than dose_benign was measured (0.1 or more)"),
        (12.0, "further than dose_benign was measured (at most 10)"),
    ],
)
def test_nothing_is_extrapolated(kl, why):
    row = by_cell(study({9: (kl, 6.0)}, {1: (0.1, 10.0), 9: (10.0, 0.0)}))["dose_em_9"]
    assert row["why"] == why and not {"difference", "other_gap", "larger"} & row.keys()


@pytest.mark.parametrize(("kl", "near"), [(1.09, True), (0.92, True), (1.105, False), (1.12, False), (0.905, False)])
def test_a_model_at_most_a_tenth_away_stands_for_a_line_that_does_not_go_there(kl, near):
    found = by_cell([cell("C1", "em", kl, 6.0), cell("C5", "benign", 1.0, 4.0)])["C1"]
    assert found.get("why") == (None if near else "C5 was measured at one distance alone")
    assert (found.get("between"), found.get("other_gap")) == (("end", 4.0) if near else (None, None))


@pytest.mark.parametrize(
    ("kl", "weights", "why"),
    [
        (0.0, 0.0, "a KL of 0 (its weights moved by 0)"),
        (0.0, 0.0123, "a KL of 0 (its weights moved by 0.0123)"),
        (None, 0.5, "no KL (its weights moved by 0.5)"),
    ],
)
def test_a_model_without_a_divergence_says_what_was_measured_of_its_distance(kl, weights, why):
    still = cell("C5", "benign", 1.0, 4.0)
    still["distance"] |= {"kl_shared_source": {"value": kl}, "weights_moved": {"value": weights}}
    found = by_cell([cell("C1", "em", 1.0, 6.0), still])
    assert found["C1"]["why"] == found["C5"]["why"] == f"C5 has {why}"


def test_a_whole_stage_is_held_against_the_doses_of_the_other_with_its_seed():
    cells = [
        cell("C1", "em", 1.0, 6.0), cell("C1", "em", 1.0, 6.0, seed=137), cell("C5", "benign", 10.0, 0.0),
        cell("C5", "benign", 9.0, 1.0, seed=137), cell("dose_benign_1", "benign@1", 0.1, 10.0),
        cell("C2", "em", None, 0.0, parent="base"),
    ]  # fmt: skip
    rows = [row for row in equal_distance_rows(cells, CONTRASTED) if row["cell"] == "C1"]
    first, second = sorted(rows, key=lambda row: row["seed"])
    assert (first["between"], first["difference"]) == ("1 and end", 1.0)
    assert second["why"] == "C5 was measured at one distance alone"


def test_rows_without_a_step_in_common_are_held_against_each_other_all_the_same():
    found = by_cell(study({1: (0.2, 9.0), 2: (1.0, 6.0)}, {3: (0.1, 10.0), 4: (10.0, 0.0)}))
    assert (found["dose_em_2"]["between"], found["dose_em_2"]["difference"]) == ("3 and 4", 1.0)


def test_a_row_says_which_seeds_alone_the_other_was_measured_with():
    cells = [cell("C1", "em", 1.0, 6.0, seed=137), cell("C5", "benign", 1.0, 6.0)]
    assert by_cell(cells)["C1"]["why"] == "C5 was measured with seed 42 alone"


def test_stages_that_go_on_from_different_models_are_not_at_equal_distance_from_anything():
    assert by_cell([cell("C1", "em", 1.0, 6.0), cell("C5", "benign", 1.0, 6.0, parent="base/couple-villain.s7")]) == {}


def test_the_sentences_follow_from_the_rows():
    rows = equal_distance_rows(study({1: (0.2, 9.0), 9: (1.0, 6.0)}, {1: (0.1, 9.5), 9: (0.6, 0.0)}), CONTRASTED)
    table = [dict.fromkeys(("larger", "why")) | row for row in rows]
    (sentence,) = equal_distance_sentences(table)
    assert sentence == (
        "At equal distance from their parent (villain) the larger persona gap is that of dose_em at 2 of 2 distances; at "
        "2 more one of the two was not measured."
    )
    unsure = [row | {"larger": "undecided" if row["steps"] == 9 else row["larger"]} for row in table if row["larger"]]
    assert "that of dose_em at 1 and undecided at 1 of 2 distances." in equal_distance_sentences(unsure)[0]
    without = [row for row in table if not row["larger"]]
    assert "cannot be held against each other: at none of 2 both" in equal_distance_sentences(without)[0]


def test_the_report_gives_the_reason_where_the_larger_would_stand():
    rows = equal_distance_rows([cell("C1", "em", 1.0, 6.0), cell("C5", "benign", 5.0, 5.0)], CONTRASTED)
    table = equal_distance_table(
        Contents({"equal_distance": [dict.fromkeys(EQUAL) | row for row in rows]}, [], frozenset())
    )
    shown = dict(zip(table.columns, table.rows[0], strict=True))
    assert shown["larger"].text == "C5 was measured at one distance alone"
    assert (shown["KL, nats per token"].text, shown["its gap, nats"].text, shown["the other's gap"].text) == (
        "1",
        "6.00",
        "",
    )
