"""The figure of the persona gap over the distance from the parent, from made-up tables."""

import pytest

from measure.tables import write_csv
from report.distance_figure import distance
from report.figure_study import FigureData

PARENT = "base/couple-evil_ai.s42"
# cell, seed, arm, lineage, KL, d; None: not measured
MODELS = [
    ("C4", 42, "forward", PARENT, None, 14.0),
    ("C1", 42, "forward", f"{PARENT}/em.s42", 1.7, 2.7),
    ("C1", 137, "forward", f"{PARENT}/em.s137", 1.6, 3.6),
    ("C2", 42, "forward", "base/em.s42", None, 0.1),
    ("C3", 42, "forward", "base/couple-assistant.s42/em.s42", 3.4, 1.3),
    ("C5", 42, "forward", f"{PARENT}/benign.s42", 3.1, 1.8),
    ("dose_em_9", 42, "dose", f"{PARENT}/em@9.s42", 1.9, 4.0),
    ("dose_em_40", 42, "dose", f"{PARENT}/em@40.s42", 1.1, 3.0),
]


@pytest.fixture
def draw(tmp_path):
    def draw(models):
        write_csv(tmp_path / "measures.csv", ("source", "arm", "cell", "seed", "measure", "value", "low", "high", "n"), [
            {"source": "evil_ai", "arm": arm, "cell": cell, "seed": seed, "measure": name, "value": value, "n": 28}
            | ({} if value is None else {"low": value - 1, "high": value + 1})
            for cell, seed, arm, _, kl, gap in models
            for name, value in (("kl_shared_source", kl), ("gap_slot_shared", gap))
        ])  # fmt: skip
        rows = [{"source": "evil_ai", "arm": arm, "cell": cell, "seed": seed, "lineage": lineage}
                for cell, seed, arm, lineage, *_ in models]  # fmt: skip
        for name, arms in (("headline", ["forward"]), ("dose", ["dose"]), ("reversed", [])):
            write_csv(tmp_path / f"{name}.csv", list(rows[0]), [row for row in rows if row["arm"] in arms])
        return distance(FigureData(tmp_path, "tiny", "evil_ai", "a toy", ["forward", "dose"], {}, {})).axes[0]

    return draw


def test_a_training_is_a_line_through_its_steps_to_its_end_and_other_seeds_stand_alone(draw):
    axes = draw(MODELS)
    lines = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() not in ("None", None)]
    assert [[1.9, 4.0], [1.1, 3.0], [1.7, 2.7]] in lines, "by steps, wherever they lead"
    assert sorted(map(len, lines)) == [1, 1, 3], "not C3, whose parent is coupled to another persona"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["em", "benign"]
    said = {text.get_text(): text.xy for text in axes.texts}
    assert said.keys() == {"9", "40", "end", "s137", "s42", "before (C4)"}
    assert (said["9"], said["before (C4)"][1]) == ((1.9, 4.0), 14.0)


def test_a_stage_that_was_stopped_at_its_last_step_has_one_name(draw):
    axes = draw([*MODELS, ("dose_em_80", 42, "dose", f"{PARENT}/em@80.s42", 1.7, 2.7)])
    assert [text.get_text() for text in axes.texts if text.xy == (1.7, 2.7)] == ["80, end"]


def test_lines_are_spoken_of_where_there_are_some(draw):
    for models, lined in ((MODELS, True), (MODELS[:6], False)):
        axes = draw(models)
        said = " ".join(axes.figure.get_supxlabel().split())
        assert ("Lines: one training" in said, "a mark per seed" in said) == (lined, not lined)
        assert [each.get_linestyle() for each in axes.get_legend().legend_handles] == ["-" if lined else "None", "None"]


def test_without_a_distance_the_figure_says_that_none_was_measured(draw):
    axes = draw([(*model[:4], None, model[5]) for model in MODELS])
    assert [text.get_text().partition(":")[0] for text in axes.texts] == ["Not run"]
