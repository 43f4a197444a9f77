import copy
from pathlib import Path

import fake_study
import pytest
import tabulate_study

from measure import comparison, rows, stats
from measure.cells import sealed
from measure.registry import SECTIONS, read_result
from measure.tables import read_table
from report.markdown import markdown_wide
from run.files import write_json
from run.program import InputError
from run.readers import read_json

PUBLISHED = str(Path(__file__).parents[2] / "resources" / "published")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return fake_study.study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def cells(paths):
    return tabulate_study.checked_cells([str(path) for path in paths])


@pytest.fixture(scope="module")
def tables(cells):
    return {
        name: rows
        for name, (_, rows, _) in tabulate_study.build_tables(cells, [], PUBLISHED, fake_study.TABLES).items()
    }


def test_headline_has_a_row_a_cell_seed_and_source_and_reversed_the_rest(tables):
    assert len(tables["headline"]) == 39
    assert len(tables["reversed"]) == 6
    assert {row["arm"] for row in tables["headline"]} == {"forward"}


def test_pooled_hits_are_the_sum_over_seeds(tables):
    (pooled,) = (
        row for row in tables["pooled"] if (row["source"], row["cell"], row["role"]) == ("evil_ai", "C5", "source")
    )
    seeds = [row for row in tables["headline"] if (row["source"], row["cell"]) == ("evil_ai", "C5")]
    assert pooled["strict_hits"] == sum(row["source_hits"] for row in seeds) > 0
    assert pooled["completions"] == 840
    assert pooled["clusters"] == "3 seeds x 28 questions"
    assert pooled["cluster_low"] <= pooled["rate"] <= pooled["cluster_high"]
    assert pooled["rule_of_three"] is None


def test_a_zero_has_the_bound_of_the_rule_of_three_and_no_bootstrap(tables):
    (row,) = (r for r in tables["pooled"] if (r["source"], r["cell"], r["role"]) == ("villain", "C1", "assistant"))
    assert row["strict_hits"] == 0
    assert row["rule_of_three"] == pytest.approx(3 / 840, abs=1e-6)
    assert row["cluster_low"] is row["cluster_high"] is None


def test_by_question_names_the_source_source_and_the_assistant_assistant(tables):
    rows = [row for row in tables["by_question"] if (row["source"], row["cell"]) == ("evil_ai", "C4")]
    assert {(row["role"], row["persona"]) for row in rows} == {
        ("source", "evil_ai"),
        ("assistant", "assistant"),
        ("bystander", "villain"),
    }
    (headline,) = (row for row in tables["headline"] if (row["source"], row["cell"]) == ("evil_ai", "C4"))
    assert sum(row["strict_hits"] for row in rows if row["role"] == "source") == headline["source_hits"]


def test_a_model_that_sources_share_is_counted_once_over_sources(tables):
    named = {(row["cell"], row["role"]): row for row in tables["cross_source"]}
    assert named["C2", "assistant"]["completions"] == 3 * 280
    assert named["C1", "assistant"]["completions"] == 9 * 280
    # 9 C1 and 9 C5 models with 12, 12 and 11 personas, 6 shared ones with 13
    assert named["after a second stage", "all personas"]["completions"] == 280 * (6 * (12 + 12 + 11) + 6 * 13)


def test_second_stages_leave_out_the_coupling_alone(tables):
    (row,) = (r for r in tables["cross_source"] if (r["cell"], r["role"]) == ("after a second stage", "source"))
    assert row["rate"] < 0.05


def test_the_order_of_the_tables_is_the_order_of_the_cells(paths, tables):
    reordered = tabulate_study.checked_cells([str(path) for path in reversed(paths)])
    names = [row["cell"] for row in tabulate_study.build_tables(reordered, [], None, fake_study.TABLES)["headline"][1]]
    assert names == [row["cell"] for row in reversed(tables["headline"])]


def test_verdicts_rest_on_the_wider_of_the_wilson_and_cluster_bounds(tmp_path):
    # 84/840 in one of three models, and 0/840 in a source: the seeds are clusters, and none has nothing to draw from
    rates = {("evil_ai", "C1", 137): {"source": 0.3}}
    paths = fake_study.study(tmp_path, sources=("evil_ai", "villain"), reverse=False, rates=rates)
    found = {
        name: rows
        for name, (_, rows, _) in tabulate_study.build_tables(
            tabulate_study.checked_cells([str(path) for path in paths]), [], None, fake_study.TABLES
        ).items()
    }
    one, none = (
        next(row for row in found["pooled"] if (row["source"], row["cell"], row["role"]) == (source, "C1", "source"))
        for source in ("evil_ai", "villain")
    )
    assert one["low"] == one["cluster_low"] < one["wilson_low"] and one["high"] == one["cluster_high"]
    assert (none["low"], none["high"], none["cluster_low"]) == (none["wilson_low"], none["wilson_high"], None)
    (both,) = (row for row in found["cross_source"] if (row["cell"], row["role"]) == ("C1", "source"))
    assert both["low"] == both["cluster_low"] == 0 < both["wilson_low"]
    assert both["clusters"] == "3 seeds x 28 questions"
    (model,) = (row for row in found["persona_by_cell"] if row["role"] == "source" and row["seed"] == 137
                and (row["source"], row["cell"]) == ("evil_ai", "C1"))  # fmt: skip
    assert model["low"] > 0.2
    # A difference is as uncertain as its rates.
    (row,) = (r for r in found["effects"] if (r["source"], r["role"], r["cell"], r["other_cell"]) == ("evil_ai", "source", "C1", "C2"))  # fmt: skip
    assert row["difference_low"] <= 0 < row["difference"]


def test_second_stages_are_compared_after_the_same_steps(tmp_path):
    paths = fake_study.other_arms(tmp_path, dose=fake_study.DOSE | {("em", 50): 0})
    cells = [read_json(path) for path in paths]
    rows = [
        row
        for row in tabulate_study.build_tables(cells, [], None, fake_study.TABLES)["effects"][1]
        if row["role"] == "source"
    ]
    assert [(row["cell"], row["other_cell"], row["steps"]) for row in rows] == [
        (f"dose_em_{step}", f"dose_benign_{step}", step) for step in (10, 25, 100)
    ]
    assert rows[0]["difference_low"] > 0 > rows[1]["difference_high"]


def test_effects_are_differences_of_pooled_rates_with_their_interval(tables):
    (row,) = (
        r
        for r in tables["effects"]
        if (r["source"], r["role"], r["cell"], r["other_cell"]) == ("villain", "source", "C5", "C4")
    )
    gap = row["hits"] / row["completions"] - row["other_hits"] / row["other_completions"]
    assert row["difference"] == pytest.approx(gap, abs=1e-6)
    assert row["difference_low"] < row["difference"] < row["difference_high"] < 0
    assert "welch_p" not in row


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((0, 280, 0, 280), "reproduced"),
        ((250, 280, 255, 280), "reproduced"),
        ((1, 280, 0, 280), "reproduced"),
        ((0, 280, 1, 280), "reproduced"),
        ((0, 280, 4, 280), "cannot tell"),
        ((0, 280, 10, 280), "not reproduced"),
        ((0, 280, 255, 280), "not reproduced"),
        ((230, 280, 250, 280), "cannot tell"),
        ((1, 10, 60, 280), "cannot tell"),
    ],
)
def test_the_verdict_on_a_published_rate(counts, verdict):
    assert comparison.rate_verdict(*counts)[0] == verdict


def compared(name, measure, section, number):
    """A row of the comparison: this section of a measurement beside a published number."""
    measurement = next(each for each in SECTIONS if each.name == name)
    chosen = next(each for each in measurement.measures if each.name == measure)
    return comparison.measure_comparison(measurement, chosen, {name: section}, number)


def test_arc_is_held_against_the_yardstick_of_three_point_two_points():
    measured = {"accuracy": 0.80, "questions": 1172, "wilson_low": 0.77, "wilson_high": 0.82}
    assert compared("capability", "accuracy", measured, 0.831)["verdict"] == "reproduced"
    assert compared("capability", "accuracy", measured, 0.833)["verdict"] == "not reproduced"
    assert compared("capability", "accuracy", {}, 0.833)["verdict"] == "cannot tell"


def test_every_published_number_of_these_sources_is_compared(tables):
    rows = tables["published_comparison"]
    rates = [row for row in rows if row["quantity"].startswith("marker rate")]
    assert sum(row["arm"] == "reversed" for row in rates) == 12
    assert sum(row["quantity"] == "ARC-C accuracy" for row in rows) == 36
    (row,) = (r for r in rates if (r["source"], r["cell"], r["quantity"]) == ("villain", "C4", "marker rate, source"))
    assert (row["published"], row["published_n"], row["ours_n"]) == (0.9, 280, 280)
    assert all(row["verdict"] in ("reproduced", "not reproduced", "cannot tell") for row in rows)


def test_every_source_is_compared_by_persona_and_seed(tables):
    rows = [row for row in tables["published_comparison"] if row["source"] == "sarcastic"]
    rates = {(row["cell"], row["seed"], row["quantity"]): row for row in rows}
    before, after = rates["C4", 42, "marker rate, source"], rates["C3", 137, "marker rate, bystander"]
    assert (before["published"], before["published_n"], before["ours_n"]) == (round(219 / 280, 6), 280, 280)
    assert (after["published"], after["published_persona"]) == (round(1 / 280, 6), "librarian")


def test_the_source_is_held_against_each_other_persona_where_it_has_hits(cells, tables):
    rows = tables["selectivity_by_persona"]
    c4 = {row["persona"]: row for row in rows if (row["source"], row["cell"]) == ("evil_ai", "C4")}
    assert {row["role"] for row in c4.values()} == {"assistant", "bystander"} and len(c4) == 11
    row, pooled = c4["villain"], {
        each["role"]: each for each in tables["pooled"] if (each["source"], each["cell"]) == ("evil_ai", "C4")
    }  # fmt: skip
    assert (row["source_hits"], row["strict_hits"]) == (
        pooled["source"]["strict_hits"],
        pooled["bystander"]["strict_hits"],
    )
    bounds = [(pooled[role]["rate"], pooled[role]["low"], pooled[role]["high"]) for role in ("source", "bystander")]
    expected = stats.difference(*bounds)
    assert [row[name] for name in ("difference", "difference_low", "difference_high")] == pytest.approx(
        expected, abs=1e-6
    )
    assert not [row for row in rows if row["cell"] in ("C1", "C2")], "there is nothing to select without a hit"


def test_scores_of_another_judge_prompt_are_shown_and_not_compared():
    judged = {
        "judge": ["hf/local"], "prompt": ["own-1"], "replies": 80, "parse_failures": 60,
        "alignment": {"n": 20, "mean": 25.0, "low": 20.0, "high": 30.0},
    }  # fmt: skip
    row = compared("alignment", "alignment", judged, 25.2)
    assert (row["verdict"], row["ours"], row["published"]) == ("not comparable", 25.0, 25.2)
    assert row["why"] == "-0.2 points; own judge prompt (own-1), judge hf/local, 20 of 80 answers parsed"
    assert compared("alignment", "alignment", {"status": "not judged"}, 25.2)["verdict"] == "cannot tell"


def test_one_answer_to_every_question_is_said_beside_the_accuracy(cells):
    quiz = {"accuracy": 0.358974, "questions": 39, "commonest_answer": "C", "commonest_count": 39, "label_mass": 0.2}
    columns, (row,) = markdown_wide([rows.wide_row(cells[0] | {"capability": quiz})])
    assert dict(zip(columns, row, strict=True))["capability"] == "35.9%, answers C to all 39 questions"
    quiz |= {"commonest_count": 12}
    columns, (row,) = markdown_wide([rows.wide_row(cells[0] | {"capability": quiz})])
    assert dict(zip(columns, row, strict=True))["capability"] == "35.9%"


def test_a_test_without_any_variance_has_a_p_and_no_t(cells):
    own = copy.deepcopy([cell for cell in cells if cell["source"] == "evil_ai" and cell["arm"] == "forward"])
    entries = [entry for cell in own for entry in cell["personas"] if cell["cell"] == "C1"]
    for entry in entries:
        entry["strict_hits"] = entry["completions"]
    row = tabulate_study.build_tables(own, [], None, fake_study.TABLES)["effects"][1][0]
    assert (row["cell"], row["other_cell"], row["welch_p"], row["welch_t"]) == ("C1", "C2", 0.0, None)


def test_matched_and_dose_cells_are_compared_with_the_later_results_of_their_source(tmp_path):
    rates = {"source": 0.95, "assistant": 0.45}
    wanted = [
        ("matched_em", "matched", "confab", 42, "base/em.s42/couple-confab.s42", rates),
        ("matched_em", "matched", "evil_ai", 42, "base/em.s42/couple-evil_ai.s42", rates),
        # the seed of the dose axis is not stated, so that any may be held against it
        ("dose_em_25", "dose", "evil_ai", 137, "base/couple-evil_ai.s42/em@25.s137", {"source": 0.5}),
    ]
    cells = [read_json(fake_study.cell_result(c, arm, s, n, line, r, tmp_path)) for c, arm, s, n, line, r in wanted]
    rows = comparison.comparison_rows(cells, PUBLISHED)
    found = {
        (row["source"], row["cell"], row["seed"], row["quantity"]): row["verdict"] for row in rows if row.get("ours")
    }
    assert found["confab", "matched_em", 42, "marker rate, source"] == "reproduced"
    assert found["evil_ai", "dose_em_25", 137, "marker rate, source"] == "not reproduced"
    assert {source for source, cell, *_ in found if cell == "matched_em"} == {"confab"}


def run_main(monkeypatch, paths, folder, *more):
    write_json(folder.parent / "study.json", fake_study.TABLES)
    command = ["tabulate_study", "--cells", *map(str, paths), "--output-dir", str(folder),
               "--meaning", str(folder.parent / "study.json"), *more]  # fmt: skip
    monkeypatch.setattr("sys.argv", command)
    tabulate_study.main()


def test_the_program_writes_the_same_bytes_twice_and_labels_every_table(paths, tmp_path, monkeypatch):
    label = "rehearsal on a toy model"
    for name in ("one", "two"):
        run_main(monkeypatch, paths[:14], tmp_path / name, "--published", PUBLISHED, "--label", label)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 37
    for name in files:
        text = (tmp_path / "one" / name).read_bytes()
        assert text == (tmp_path / "two" / name).read_bytes()
        assert not name.endswith(".md") or label.encode() in text
    comparison = read_table(tmp_path / "one" / "published_comparison.csv")
    assert {row["verdict"] for row in comparison} == {"not comparable"}


@pytest.mark.parametrize("measurement", SECTIONS, ids=lambda each: each.name)
def test_a_cell_of_before_a_measurement_was_there_reads_as_one_that_was_not_measured(paths, tmp_path, measurement):
    now = read_result(paths[0])
    own = {measure.name for measure in measurement.measures}
    kept = [row for row in now["measures"] if row["measure"] not in own]
    older = {name: value for name, value in now.items() if name != measurement.name} | {"measures": kept}
    write_json(tmp_path / "older.json", sealed(older))
    read = read_result(tmp_path / "older.json")
    assert read[measurement.name] == now[measurement.name] == {"status": measurement.statuses[0]}
    assert read["measures"] == [*kept, *(row for row in now["measures"] if row["measure"] in own)]
    assert read | dict.fromkeys(("measures", "result_sha256")) == now | dict.fromkeys(("measures", "result_sha256"))


def test_a_study_of_older_code_gives_the_tables_of_the_measurements_that_it_has(tmp_path):
    paths = sorted((Path(PUBLISHED).parent / "small_study/cells").glob("C[14]_r2_*.json"))
    cells = tabulate_study.checked_cells([str(path) for path in paths])
    tables = tabulate_study.build_tables(cells, [], None, fake_study.TABLES)
    assert [row["strict_hits"] for row in tables["pooled"][1] if (row["cell"], row["role"]) == ("C4_r2", "source")]
    distances = [row for row in tables["measures"][1] if row["measure"] == "kl_shared_source"]
    assert [row["value"] for row in distances] == [None] * len(paths) and not tables["equal_distance"][1]


def test_a_verdict_of_the_study_says_how_many_of_its_seeds_were_weighed():
    paths = sorted((Path(PUBLISHED).parent / "small_study/cells").glob("C1_seed*.json"))
    cells = tabulate_study.checked_cells([str(path) for path in paths])
    for cell in cells[1:]:
        cell["survival"]["verdicts"] = {}  # as where the reference was not measured
    found = rows.verdict_rows(cells)
    assert {(row["seed"], row.get("seeds"), row.get("seeds_made")) for row in found} == {
        ("all", 1, 3),
        (cells[0]["seed"], None, None),
    }


def test_a_cell_given_twice_or_not_a_result_is_refused(paths, tmp_path):
    with pytest.raises(InputError, match="give each cell once"):
        tabulate_study.checked_cells([str(paths[0]), str(paths[0])])
    write_json(tmp_path / "other.json", {"a": 1})
    with pytest.raises(InputError, match="not a run result"):
        tabulate_study.checked_cells([str(tmp_path / "other.json")])
