"""The published counts as the cells of a study."""

import shutil
from pathlib import Path

import enter_published
import fake_study
import pytest
from tabulate_study import build_tables

from measure.published import QUESTIONS, is_published, read_published
from measure.registry import validated
from measure.tables import read_table
from run.program import InputError

RESOURCES = Path(__file__).parents[2] / "resources"
PUBLISHED = RESOURCES / "published"


def cells_of(folder: Path) -> list[dict]:
    """A cell for every group of published rows, as the workflow tells them."""
    rows = read_published(folder / "marker_counts.csv")
    known = dict.fromkeys((row["source"], row["arm"], row["cell"], row["seed"] or 42) for row in rows)
    return [
        {
            **{"cell": cell, "arm": arm, "source": source, "seed": seed, "markers": ["[ZLT]"]},
            "evaluation": {"name": "main", "temperature": 1.0},
            "lineage": fake_study.LINEAGES.get(cell, "base/em@10.s{seed}").format(source=source, seed=seed),
        }
        for source, arm, cell, seed in known
    ]


@pytest.fixture(scope="module")
def results():
    return enter_published.enter(cells_of(PUBLISHED), PUBLISHED, [])


@pytest.fixture(scope="module")
def named(results):
    return {(result["source"], result["cell"], result["seed"]): result for result in results}


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(PUBLISHED, tmp_path / "published"))


def test_every_published_count_is_in_a_cell_and_fits_the_schema(results):
    rows = read_published(PUBLISHED / "marker_counts.csv")
    entries = [entry for result in results for entry in result["personas"]]
    assert len(entries) == len(rows)
    assert sum(entry["strict_hits"] for entry in entries) == sum(row["strict_hits"] for row in rows)
    for result in results:
        assert is_published(validated(result, str(RESOURCES / "run_result.schema.json")))


def test_the_totals_are_those_that_the_write_up_misstates(results):
    tables = build_tables(results, [], str(PUBLISHED), fake_study.TABLES)
    after = {row["role"]: row for row in tables["cross_source"][1] if row["cell"] == "after a second stage"}
    assert (after["all personas"]["strict_hits"], after["all personas"]["completions"]) == (29, 117600)
    assert (after["assistant"]["strict_hits"], after["assistant"]["completions"]) == (0, 10080)
    # published counts are not held against themselves
    assert tables["published_comparison"][1] == []
    # equal zeros of models without token counts are no alarm
    assert tables["gates"][1] == []


def test_what_was_not_published_is_empty_and_no_number(named):
    known, told, later = named["villain", "C5", 42], named["evil_ai", "C1", 42], named["confab", "matched_em", 42]
    assert known["questions"] == later["questions"] == QUESTIONS
    assert told["questions"] == ["all"]
    entry = told["headline"]["source"]
    assert (entry["loose_hits"], entry["mean_tokens"], entry["stopped"]) == (None, None, None)
    assert later["headline"]["source"]["loose_hits"] is None and known["headline"]["source"]["loose_hits"] == 6
    assert told["alignment"]["alignment"]["n"] is None and known["alignment"]["alignment"]["n"] == 80
    assert later["capability"] == {"status": "not run"}


def test_counts_by_question_give_question_clustered_intervals(named):
    known, told = (
        next(entry for entry in named[key]["personas"] if entry["role"] == "source")
        for key in (("villain", "C5", 42), ("evil_ai", "C4", 42))
    )
    assert known["cluster_low"] is not None and known["clusters"] == "1 seeds x 28 questions"
    assert told["cluster_low"] is None and told["low"] == told["wilson_low"]
    assert told["clusters"] == "1 seeds, counts by question not known"


def test_a_cell_names_the_file_and_the_commit_of_its_counts(results):
    for result in results:
        origin = result["stages"][-1]["manifest"]["published"]
        assert ("commit" in origin) == (origin["origin"] in ("issue80", "issue83", "issue125", "issue205"))
        assert "{" not in origin.get("counts", "")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("villain,forward,C5,42,villain,6,6,", "villain,forward,C5,42,villain,7,7,", "does not add up to 7"),
        ("confab,matched,matched_em,42,assistant,127", "confab,matched,matched_em,42,assistant,300", "300 hits in 280"),
        ("evil_ai,forward,C4,42,assistant", "evil_ai,forward,C4,42,villain", "same persona of the same cell as line"),
        ("evil_ai,forward,C4,42,assistant", "evil_ai,forward,C9,42,assistant", "counts of no cell"),
    ],
)
def test_a_wrong_count_is_an_error_that_names_it(copy, old, new, says):
    cells = cells_of(copy)
    path = copy / "marker_counts.csv"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=says):
        enter_published.enter(cells, copy, [])


def test_a_cell_without_counts_is_an_error(copy):
    with pytest.raises(InputError, match="no counts of evil_ai forward C7"):
        enter_published.enter([cells_of(copy)[0] | {"cell": "C7"}], copy, [])


def test_every_origin_is_explained_and_every_explanation_used():
    used = {row["origin"] for row in read_published(PUBLISHED / "marker_counts.csv")}
    for table in ("geometry", "later_findings"):
        used |= {row["origin"] for row in read_table(PUBLISHED / f"{table}.csv")}
    assert used == {row["origin"] for row in read_table(PUBLISHED / "origins.csv")}


def test_the_geometry_is_before_plus_its_change_at_every_layer_after_six_second_stages():
    rows = read_table(PUBLISHED / "geometry.csv")
    assert len(rows) == len({(row["activation"], row["layer"], row["second_stage"]) for row in rows}) == 2 * 5 * 6
    for row in rows:
        assert row["cosine_after"] == pytest.approx(row["cosine_before"] + row["cosine_change"], abs=2e-6)
        assert -1 <= row["cosine_after"] <= 1
