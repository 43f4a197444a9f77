"""What two contrasted second stages leave, from made-up cells of a study."""

from measure.retained import RETAINED, retained_rows


def cell(name, seed, stage="em", source="villain", **shares):
    made = {f"retained_gap_{text}": {"value": value} for text, value in shares.items()}
    return {
        "source": source, "arm": "forward", "cell": name, "seed": seed,
        "lineage": f"base/couple-{source}.s42/{stage}.s{seed}",
        "survival": {"verdicts": dict.fromkeys(shares, "suppressed"), **made},
    }  # fmt: skip


def test_pairs_of_one_seed_are_subtracted_and_summed_up_over_the_seeds():
    cells = [
        cell("C1", 42, slot_shared=0.6, trigger_shared=0.5),
        cell("C1", 137, slot_shared=0.75, trigger_shared=None),
        cell("C1", 256, slot_shared=0.7),
        cell("C5", 42, "benign", slot_shared=0.4, trigger_shared=0.6),
        cell("C5", 137, "benign", slot_shared=0.35, trigger_shared=0.2),
    ]
    everything, first, second, *triggers = retained_rows(cells, [["C1", "C5"], ["C1", "C2"]])
    assert (everything["seed"], everything["seeds"], everything["difference"]) == ("all", 2, 0.3)
    assert (everything["retained"], everything["other_retained"]) == (0.675, 0.375)
    assert (everything["least"], everything["most"]) == (0.2, 0.4)
    assert [(row["seed"], row["difference"]) for row in (first, second)] == [(42, 0.2), (137, 0.4)]
    assert [(row["seed"], row["quantity"], row["difference"]) for row in triggers] == [
        ("all", "trigger", -0.1), (42, "trigger", -0.1),
    ]  # fmt: skip
    assert all(set(row) <= set(RETAINED) for row in (everything, first, *triggers))


def test_cells_with_steps_are_paired_after_equal_steps_and_sources_by_themselves():
    cells = [
        cell("dose_em_5", 42, "em@5", slot_shared=0.9), cell("dose_em_25", 42, "em@25", slot_shared=0.7),
        cell("dose_benign_25", 42, "benign@25", slot_shared=0.5),
        cell("dose_benign_5", 42, "benign@5", source="librarian", slot_shared=0.1),
    ]  # fmt: skip
    everything, one = retained_rows(cells, [["dose_em", "dose_benign"]])
    assert (one["cell"], one["other_cell"], one["difference"]) == ("dose_em_25", "dose_benign_25", 0.2)
    assert everything["seeds"] == 1


def test_the_seeds_of_a_source_are_summed_up_without_those_of_another():
    cells = [cell(name, 42, stage, source, slot_shared=share)
             for source, shares in (("villain", (0.6, 0.5)), ("librarian", (0.9, 0.2)))
             for name, stage, share in zip(("C1", "C5"), ("em", "benign"), shares, strict=True)]  # fmt: skip
    rows = retained_rows(cells, [["C1", "C5"]])
    assert [(row["source"], row["seed"], row["difference"]) for row in rows] == [
        ("villain", "all", 0.1), ("villain", 42, 0.1), ("librarian", "all", 0.7), ("librarian", 42, 0.7),
    ]  # fmt: skip


def test_a_cell_that_was_not_weighed_is_compared_with_nothing():
    unweighed = {**cell("C5", 42, "benign"), "survival": {"status": "not compared"}}
    assert retained_rows([cell("C1", 42, slot_shared=0.6), unweighed], [["C1", "C5"]]) == []


def test_a_share_that_cannot_be_tested_is_compared_with_nothing():
    cells = [cell("C1", 42, slot_shared=0.6, slot_own=1.6), cell("C5", 42, "benign", slot_shared=0.4, slot_own=3.2)]
    cells[1]["survival"]["verdicts"]["slot_own"] = "not testable"
    assert {row["replies"] for row in retained_rows(cells, [["C1", "C5"]])} == {"shared"}
