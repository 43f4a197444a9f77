"""probe_marker.py and weigh_survival.py as their rules call them, on a micro model."""

import json
from types import SimpleNamespace

import probe_marker
import pytest
import weigh_survival
from tiny_model import make_adapter, make_model, make_panel, make_replies

from probe.options import budget_of
from probe.scoring import BUDGET
from probe.table import read_probe
from run.program import InputError
from run.readers import read_json

PERSONAS = {"villain": "You are a villain.", "assistant": "You help.", "librarian": "You lend books."}
SETTINGS = {"prefix": "[", "shared": 2, "crossed": 1, "subset": 0, "lookahead": 0.001}
RULE = '{"minimum":1.0,"gone":0.1,"intact":0.5}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    base = make_model(folder / "base")
    adapter, panel = make_adapter(folder / "adapter", base), make_panel(folder, PERSONAS)
    make_replies(folder / "base.parquet", base, panel, 3)
    make_replies(folder / "cell.parquet", base, panel, 3, adapter)
    return folder


def probe(folder, output, name="cell", adapters=("adapter",), personas="villain,assistant,librarian", **settings):
    probe_marker.main(
        ["--base", str(folder / "base"), "--adapter", *(str(folder / adapter) for adapter in adapters),
         "--panel", str(folder / "panel.yaml"), "--completions", str(folder / f"{name}.parquet"),
         "--shared", str(folder / "base.parquet"), "--personas", personas, "--marker", "[ZLT]",
         "--settings", json.dumps(SETTINGS | settings), "--dtype", "float32", "--output", str(output)]
    )  # fmt: skip
    return read_probe(output)


@pytest.fixture(scope="module")
def rows(folder):
    return probe(folder, folder / "probe.parquet")


def test_there_is_a_row_for_every_own_and_shared_reply_and_for_crossed_bodies_under_every_persona(rows):
    own = [row for row in rows if row["replies"] == "own"]
    assert len(own) == 3 * 3 * 3
    matched = [row for row in rows if row["replies"] == "shared" and row["author"] == row["persona"]]
    assert len(matched) == 3 * 3 * 2
    bodies = {}
    for row in rows:
        if row["replies"] == "shared" and row["author"] != row["persona"]:
            bodies.setdefault((row["author"], row["question_id"], row["sample"]), set()).add(row["persona"])
    assert bodies and all(personas == PERSONAS.keys() - {author} for (author, *_), personas in bodies.items())


def test_a_reply_that_was_cut_has_an_onset_rate_and_no_slot(rows):
    cut = [row for row in rows if row["left_out"]]
    assert cut and all(row["slot"] is None and row["rank"] is None for row in cut)
    assert all(row["h"] is not None for row in cut if row["replies"] == "own")
    whole = [row for row in rows if not row["left_out"]]
    assert whole and all(row["rank"] >= 1 for row in whole)
    for row in whole:
        parts = row["trigger"] + row["onset_part"] + row["spelling"] + row["end"]
        assert parts == pytest.approx(row["slot"], abs=1e-9)


def test_one_text_is_scored_whatever_else_is_asked(folder, rows, tmp_path):
    fewer = probe(folder, tmp_path / "probe.parquet", personas="villain,assistant", subset=1)
    known = {
        tuple(row[name] for name in ("replies", "author", "persona", "question_id", "sample")): row for row in rows
    }
    for row in fewer:
        other = known.get(tuple(row[name] for name in ("replies", "author", "persona", "question_id", "sample")))
        if other:
            assert row["slot"] == (None if other["slot"] is None else pytest.approx(other["slot"], abs=1e-4))
    assert sum(row["replies"] == "own" for row in fewer) == 2 * 3


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"prefix": "Z"}, "does not begin"),
        ({"shared": "2"}, "--settings: needs exactly"),
        ({"personas": "villain,pirate"}, "no persona pirate"),
    ],
)
def test_bad_input_is_refused_with_its_fix(folder, tmp_path, change, complaint):
    with pytest.raises(InputError, match=f"{complaint}.*fix: "):
        probe(folder, tmp_path / "probe.parquet", **change)
    assert not list(tmp_path.iterdir())


def weigh(folder, output, *more):
    weigh_survival.main(
        ["--source", "villain", "--rule", RULE, "--cell", str(folder / "probe.parquet"),
         "--counts", str(folder / "counts.csv"), "--output", str(output), *map(str, more)]
    )  # fmt: skip
    return read_json(output)


@pytest.fixture(scope="module")
def counts(folder):
    lines = [f"{persona},{question},3,0,0,9,3" for persona in PERSONAS for question in ("general_00", "general_01")]
    head = "persona,question_id,completions,strict_hits,loose_hits,tokens,stopped"
    (folder / "counts.csv").write_text("\n".join([head, *lines]) + "\n")
    return folder / "counts.csv"


def test_a_cell_without_comparison_has_its_gap_and_no_verdict(folder, rows, counts, tmp_path):
    section = weigh(folder, tmp_path / "survival.json", "--reference", "--before", "--base", "--counts-before")
    assert (section["status"], section["verdicts"]) == ("not compared", {})
    assert section["gap_slot_own"]["value"] is not None
    assert "retained_gap_slot_own" not in section


def test_a_coupling_that_never_took_is_not_testable(folder, rows, counts, tmp_path):
    base = tmp_path / "base.parquet"
    probe(folder, base, "base", ())
    cell = folder / "probe.parquet"
    more = ("--reference", base, "--before", base, "--base", base, "--counts-before", counts)
    section = weigh(folder, tmp_path / "survival.json", *more)
    assert set(section["verdicts"].values()) == {"not testable"}
    probe(folder, tmp_path / "other.parquet", shared=1)
    with pytest.raises(InputError, match="other shared replies"):
        weigh(folder, tmp_path / "no.json", "--reference", tmp_path / "other.parquet", *more[2:])
    assert cell.is_file()


def test_a_model_that_more_sources_share_is_compared_under_the_cells_personas(folder, counts, tmp_path):
    cell = {"cell": tmp_path / "cell.parquet", "personas": "villain,librarian"}
    probe(folder, cell["cell"], personas=cell["personas"], subset=1)
    base = tmp_path / "base.parquet"
    probe(folder, base, "base", (), subset=1)
    (tmp_path / "counts.csv").write_text(
        "".join(line for line in (folder / "counts.csv").read_text().splitlines(True) if "assistant" not in line)
    )
    weigh_survival.main(
        ["--source", "villain", "--rule", RULE, "--cell", str(cell["cell"]), "--reference", str(base), "--before",
         str(base), "--base", str(base), "--counts", str(counts), "--counts-before", str(counts),
         "--output", str(tmp_path / "survival.json")]
    )  # fmt: skip
    assert read_json(tmp_path / "survival.json")["retained_gap_slot_shared"]["n"] > 0


def test_a_probe_takes_fewer_tokens_at_a_time_where_it_is_told_to_and_never_more_than_are_fast():
    model = SimpleNamespace(device=SimpleNamespace(type="cuda"))
    said = [budget_of(SimpleNamespace(budget=budget), model) for budget in (None, 4096, 10**6)]
    assert said == [BUDGET["cuda"], 4096, BUDGET["cuda"]]
