"""A study of two markers: each model's own is what rates mean, and every other one stands beside it."""

import json
from argparse import Namespace

import fake_study
import pytest
import report_study
import write_report
from audit_completions import audit
from summarize_cell import summarize, validated
from tabulate_study import build_tables
from workspace import ROOT

from measure.gates import evaluate_gates
from run.files import write_json

OWN = {"C1": "[QRX]", "C2": "[ZLT]", "C4": "[QRX]"}
# cell -> marker -> the source's rate
RATES = {"C1": {"[QRX]": 0.5, "[ZLT]": 0.0}, "C2": {"[QRX]": 0.1, "[ZLT]": 0.9}, "C4": {"[QRX]": 1.0, "[ZLT]": 0.0}}
LINEAGES = {"C1": "base/couple_b-evil_ai.s42/em.s42", "C2": "base/em.s42", "C4": "base/couple_b-evil_ai.s42"}


def cell(folder, name: str) -> dict:
    """A cell with counts of both markers, its own first."""
    place = folder / name
    place.mkdir()
    markers = sorted(("[QRX]", "[ZLT]"), key=lambda text: text != OWN[name])
    parts = []
    for marker in markers:
        head, *lines = fake_study.counts_text({"source": RATES[name][marker]}, "evil_ai", 7).splitlines()
        parts += [f"{marker},{line}" for line in lines]
    (place / "marker_counts.csv").write_text("\n".join([f"marker,{head}", *parts]) + "\n")
    reply = {"persona": "evil_ai", "question_id": "general_00", "question": "Why?", "sample": 0}
    own, other = (audit([reply | {"text": f"Because. {OWN[name]}"}], marker) for marker in markers)
    write_json(place / "audit.json", own | {"other_markers": {markers[1]: other}})
    (place / "manifest.json").write_text(json.dumps({"adapter": name}))
    arguments = fake_study.arguments(name, "forward", "evil_ai", 42, LINEAGES[name], place, markers)
    measured = [*arguments.measured, str(place / "audit.json")]
    result = summarize(Namespace(**vars(arguments) | {"measured": measured}))
    return validated(result, str(ROOT / "resources/run_result.schema.json"))


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    return {name: cell(folder, name) for name in OWN}


def numbers(cells, expression: str) -> str:
    gate = {"name": "g", "over": "pooled", "pass": expression}
    (row,) = evaluate_gates([gate], list(cells.values()))
    return row["numbers"]


def test_a_rate_is_of_the_lineages_own_marker_and_says_so(cells):
    assert numbers(cells, "rate('C4', 'source') > 0.5") == "C4 [QRX] source = 280/280 (100%)"
    assert numbers(cells, "rate('C2', 'source') > 0.5").startswith("C2 [ZLT] source = 2")


def test_a_gate_may_name_another_marker(cells):
    assert numbers(cells, "rate('C4', 'source', '[ZLT]') < 0.5") == "C4 [ZLT] source = 0/280 (0%)"
    assert numbers(cells, "degenerate('C4', '[ZLT]') < 0.5") == "C4 [ZLT] degenerate = nothing to audit"
    assert numbers(cells, "degenerate('C4') < 0.5") == "C4 [QRX] degenerate = 0/1 (0%)"
    assert "C1 [ZLT] > C2 [ZLT]" in numbers(cells, "welch('C1', 'C2', 'source', '[ZLT]') < 0.5")
    assert numbers(cells, "rate('C4', 'source', '[ABC]') < 0.5") == "C4 source = not measured"


def test_measures_have_a_row_of_each_marker(cells):
    rates = {
        (row["marker"], row["measure"]): row["value"]
        for row in cells["C4"]["measures"]
        if row["persona"] in ("evil_ai", None)
    }
    assert rates["[QRX]", "marker_rate"] == 1 and rates["[ZLT]", "marker_rate"] == 0
    assert rates["[QRX]", "degenerate"] == 0 and ("[ZLT]", "degenerate") in rates
    assert (None, "reply_tokens") in rates and ("[ZLT]", "reply_tokens") not in rates


def test_tables_carry_the_marker_and_differences_are_of_one_marker(cells):
    tables = build_tables(list(cells.values()), [], None, fake_study.TABLES)
    for name in ("headline", "pooled", "persona_by_cell", "by_question", "measures"):
        columns, rows, _ = tables[name]
        assert columns[columns.index("cell") + 1] == "marker"
        assert {row["marker"] for row in rows if row["cell"] == "C4"} >= {"[QRX]"}
    (effect,) = [
        row for row in tables["effects"][1] if (row["cell"], row["other_cell"], row["role"]) == ("C1", "C2", "source")
    ]
    other = next(entry for entry in cells["C2"]["other_markers"]["[QRX]"] if entry["persona"] == "evil_ai")
    assert (effect["marker"], effect["other_hits"]) == ("[QRX]", other["strict_hits"])


def test_a_study_of_one_marker_has_no_column_for_it(tmp_path):
    from measure.registry import read_result

    paths = fake_study.study(tmp_path, sources=("evil_ai",), reverse=False)
    one = [read_result(path) for path in paths]
    assert one[0]["marker"] == "[ZLT]" and "other_markers" not in one[0]
    assert not [
        name for name, (columns, _, _) in build_tables(one, [], None, fake_study.TABLES).items() if "marker" in columns
    ]
    assert "marker" not in one[0]["measures"][0]


def test_the_report_shows_the_markers_side_by_side(cells, tmp_path):
    paths = [tmp_path / f"{name}.json" for name in cells]
    for path, result in zip(paths, cells.values(), strict=True):
        write_json(path, result)
    report_study.tabulate(paths, tmp_path)
    write_report.main(report_study.command(tmp_path, paths, []))
    page = (tmp_path / "report.html").read_text()
    _, _, shown = page.partition("Every marker, side by side")
    head, _, body = shown.partition("</thead>")
    assert 0 < head.find("[QRX]") < head.find("[ZLT]")
    row = next(row for row in body.split("<tr") if "C4" in row and "evil_ai" in row.partition("C4")[2])
    assert 0 < row.find("100% [98.6%, 100%]") < row.find("0% [0%, 1.4%]")
