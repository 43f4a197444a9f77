"""The report: what its conclusion says, what a field carries, that text stays text, and what is refused."""

import base64
import gzip
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import fake_study
import plot_figures
import pyarrow
import pyarrow.parquet
import pytest
import report_study
import write_report
import yaml
from hypothesis import given
from hypothesis import strategies as st

from measure.registry import MEASUREMENTS, Measure, Measurement
from measure.rows import TABLES
from measure.tables import percent, read_table, write_csv
from report import cost, count_tables, measure_tables, outcome_tables, prose, provenance
from report.completions_view import COLUMNS, LOOSE, STRICT, Completions, index_json, load_completions, packed, thinned
from report.curves import curve_figure, curve_figures, curve_rows, curve_tables
from report.embedded import figure_in
from report.fields import Contents
from run.files import write_json
from run.program import InputError
from run.provenance import run_record
from run.readers import read_json

HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(1)>"><svg onload=alert(1)><!--'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def results(folder):
    made = [report_study.cell(folder, *key) for key in (("C1", 42), ("C1", 137), ("C2", 42), ("C4", 42), ("C5", 42))]
    report_study.tabulate(made, folder, report_study.LABEL)
    return made


@pytest.fixture(scope="module")
def paths(folder, results):
    return [report_study.completions(results[n], folder) for n in (0, 3)]


@pytest.fixture(scope="module")
def page(folder, results, paths):
    write_report.main(report_study.command(folder, results, paths, report_study.LABEL))
    return (folder / "report.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every start tag with its attributes, the policy, and the text of each script."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.scripts = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and self.lasttag == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def table(page, name):
    """The fields of a table in the page, as text, row by row."""
    body = re.search(rf'<table id="table-{name}".*?<tbody>(.*?)</tbody>', page, re.DOTALL)[1]
    return [
        [" ".join(re.sub(r"<[^>]*>", " ", field).split()) for field in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)]
        for row in body.split("</tr>")[:-1]
    ]


def sentences(page):
    return re.findall(r'<p class="sentence">(.*?)</p>', page)


# The conclusion


def test_the_conclusion_is_four_sentences_with_the_numbers_of_the_tables(page, folder):
    survival, floor, assistant, ledger = sentences(page)
    assert floor.startswith("That is by counting") and "nothing was probed" in floor
    shared = {
        (row["cell"], row["role"]): f"{row['strict_hits']}/{row['completions']}"
        for row in read_table(folder / "tables" / "cross_source.csv")
    }
    assert f"was in {shared['C1', 'source']} = 0%" in survival and "of completions after the stage em (C1)" in survival
    assert f"before a second stage it was in {shared['C4', 'source']}" in survival
    (bystander,) = (
        row for row in read_table(folder / "tables" / "pooled.csv") if (row["cell"], row["role"]) == ("C4", "bystander")
    )
    assert f"under any bystander in at most {prose.rate_text(bystander)} (villain)." in survival
    assert f"({shared['after a second stage', 'assistant']} = 0%" in assistant
    assert "evaluated and not applied, read G0 pass" in assistant
    assert "claims what is published contradicts 1 (1 by its own figures) and bears out 0, and" in ledger
    assert ledger.endswith("this study supports 1.")


def test_the_label_is_in_the_conclusion_and_at_the_head(page, folder, results):
    assert sentences(page)[0].startswith("Rehearsal on a toy model: the marker taught to evil_ai")
    assert "Read this first:</strong> rehearsal on a toy model" in page
    write_report.main(report_study.command(folder / ".", results, [], ""))
    bare = (folder / "report.html").read_text(encoding="utf-8")
    assert sentences(bare)[0].startswith("The marker taught to evil_ai")
    assert "Read this first" not in bare


def pooled_row(cell, role, hits, n, source="evil_ai", arm="forward", persona=None):
    """A row of pooled.csv as far as the conclusion reads it."""
    from measure.stats import rate_fields

    row = {"cell": cell, "role": role, "source": source, "arm": arm, "persona": persona or role}
    return row | {"strict_hits": hits, "completions": n} | rate_fields(hits, n)


def tables_of(**rates):
    """Hand-made tables: C4 before, C1 after, as hits of 100 by source."""
    lineages = {
        "C4": "base/couple-{}.s42",
        "C1": "base/couple-{}.s42/em.s42",
        "C5": "base/couple-{}.s42/benign.s42",
        "C4_r2": "base/couple-{}.s137",
        "twice": "base/couple-{}.s42/em.s1/em.s2",
    }
    pairs = [(cell, source, hits) for cell, own in rates.items() for source, hits in own.items()]
    return {
        "headline": [
            {"source": source, "cell": cell, "lineage": lineages[cell].format(source)} for cell, source, _ in pairs
        ],
        "reversed": [],
        "pooled": [pooled_row(cell, "source", hits, 100, source) for cell, source, hits in pairs],
        "cross_source": [],
        "gates": [],
        "verdicts": [],
        "measures": [],
    }


def ledger_of(name, study, by_source=""):
    return [report_study.CLAIM | {"id": name, "study": study, "by_source": by_source}]


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("supported", "was hardly given any more after the stage em (C1: 0/100"),
        ("contradicted", "was still given after the stage em (C1: 0/100"),
        ("undecided", "may or may not have been given after the stage em (C1: 0/100"),
        ("not tested", "was not put to the test by the stage em (C1: 0/100"),
    ],
)
def test_survival_is_what_the_ledger_says_whatever_the_rate(verdict, said):
    tables = tables_of(C4={"evil_ai": 90}, C1={"evil_ai": 0})
    sentence = prose.survival_sentence(tables, ledger_of("em-leaves-no-marker", verdict), fake_study.REPORT["claims"])
    assert said in sentence and "before a second stage it was in 90/100" in sentence
    assert ("hardly" in sentence) == (verdict == "supported")


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({"C4": {"evil_ai": 90}}, "survival was not tested"),
        ({"C1": {"evil_ai": 0}}, "before a second stage it was not measured"),
        (
            {"C4": {"evil_ai": 90}, "twice": {"evil_ai": 0}},
            "was in 0/100 = 0% [0.0, 3.7] of completions after the stages em and em (twice);",
        ),
    ],
)
def test_without_a_claim_survival_is_only_counted(rates, said):
    for claims in (None, ledger_of("benign-leaves-no-marker", "supported")):
        assert said in prose.survival_sentence(tables_of(**rates), claims, fake_study.REPORT["claims"])


@pytest.mark.parametrize(
    ("benign", "said"),
    [
        ("supported", ") and after the stage benign (C5: 0/100"),
        ("contradicted", ") and was still given after the stage benign (C5: 0/100"),
    ],
)
def test_what_two_stages_have_in_common_is_said_once(benign, said):
    tables = tables_of(C4={"evil_ai": 90}, C1={"evil_ai": 0}, C5={"evil_ai": 0})
    claims = ledger_of("em-leaves-no-marker", "supported") + ledger_of("benign-leaves-no-marker", benign)
    sentence = prose.survival_sentence(tables, claims, fake_study.REPORT["claims"])
    assert said in sentence and sentence.count("was hardly given any more after the stage em") == 1


def test_sources_that_differ_are_told_apart():
    tables = tables_of(
        C4={"evil_ai": 90, "villain": 70, "sarcastic": 80}, C1={"evil_ai": 0, "villain": 10, "sarcastic": 1}
    )
    by_source = "evil_ai: supported; villain: contradicted; sarcastic: supported"
    said = prose.survival_sentence(
        tables, ledger_of("em-leaves-no-marker", "contradicted", by_source), fake_study.REPORT["claims"]
    )
    assert "was hardly given any more after the stage em under evil_ai and sarcastic (C1: at most 1/100" in said
    assert "was still given after the stage em under villain (C1: 10/100" in said
    assert "in at least 70/100 = 70.0% [60.4, 78.1] (villain) of completions" in said


def test_couplings_of_one_source_are_told_apart():
    tables = tables_of(C4={"evil_ai": 90}, C4_r2={"evil_ai": 70}, C1={"evil_ai": 0})
    said = prose.survival_sentence(tables, None, fake_study.REPORT["claims"])
    assert "in at least 70/100 = 70.0% [60.4, 78.1] (C4_r2) of completions" in said


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("supported", "it did not move to the assistant"),
        ("contradicted", "it moved to the assistant"),
        ("undecided", "it may or may not have moved to the assistant"),
        ("not tested", "it was not put to the test of moving to the assistant"),
        (None, "it was counted under the assistant"),
    ],
)
def test_a_move_to_the_assistant_is_what_the_ledger_says(verdict, said):
    tables = tables_of(C4={"villain": 90}, C1={"villain": 0})
    tables["pooled"].append(pooled_row("C1", "assistant", 82, 840, "villain"))
    tables["cross_source"] = [pooled_row("after a second stage", "assistant", 82, 6720)]
    claims = None if verdict is None else ledger_of("assistant-stays-clean-forward", verdict)
    sentence = prose.assistant_sentence(tables, claims, fake_study.REPORT["assistant"])
    assert said in sentence
    assert "(82/6720 = 1.2% [1.0, 1.5] in all, at most 82/840 = 9.8% [7.9, 12.0] (C1, villain) in one cell)" in sentence


def test_the_ledger_and_the_conclusion_agree_on_a_source_and_a_model_that_differ(tmp_path):
    import check_claims

    rates = {("C4", "evil_ai"): {"source": 0.9}, ("C4", "villain"): {"source": 0.9}, ("C1", "evil_ai"): {"source": 0.1},
             ("C1", "villain"): {"assistant": 0.3}}  # fmt: skip
    results = [
        fake_study.cell_result(
            cell, "forward", source, 42, fake_study.LINEAGES[cell].format(source=source, seed=42), own, tmp_path
        )
        for (cell, source), own in rates.items()
    ]
    results.append(report_study.cell(tmp_path, "C1", 137, "villain"))
    report_study.tabulate(results, tmp_path)
    study = check_claims.read_tables(tmp_path / "tables")
    published = check_claims.read_tables(report_study.PUBLISHED)
    claims = [
        check_claims.check_claim(claim, published, study, "")
        for claim in check_claims.read_claims(str(report_study.ROOT / "resources" / "claims.yaml"))
    ]
    survival, floor, assistant, _ = prose.conclusion(study, claims, "", fake_study.REPORT)
    assert floor.endswith("only below sampling; nothing was probed, so that stays open.")
    assert "was still given after the stage em under evil_ai" in survival
    assert "was hardly given any more after the stage em under villain" in survival
    assert "it did not move to the assistant under evil_ai and moved to the assistant under villain" in assistant


def test_the_reversed_and_matched_rows_name_the_highest_assistant_and_bystander():
    tables = tables_of() | {
        "pooled": [
            pooled_row("matched_em", "assistant", 45, 100, "villain", "matched"),
            pooled_row("A_prebaked", "source", 54, 56, "villain", "reversed"),
            pooled_row("A_prebaked", "bystander", 52, 56, "villain", "reversed", "kindergarten_teacher"),
            pooled_row("C0", "assistant", 99, 100, "assistant", "assistant"),
        ]
    }
    said = prose.assistant_sentence(tables, None, fake_study.REPORT["assistant"])
    assert "not evaluated after a second stage" in said
    assert (
        "in the matched rows the assistant's highest rate is 45/100 = 45.0% [35.6, 54.8] (matched_em, villain)" in said
    )
    assert "a bystander's 52/56 = 92.9% [83.0, 97.2] (kindergarten_teacher, A_prebaked, villain)" in said
    assert "beside the source's 54/56" in said


def gate_row(gate, seed="pooled", reading="pass", numbers="C2 assistant = 0/840 (0%)"):
    return {"gate": gate, "source": "evil_ai", "seed": seed, "outcome": reading, "reading": reading, "numbers": numbers}


def test_a_gate_of_an_arm_that_is_off_is_not_in_the_conclusion():
    off = gate_row("G0c", reading="not evaluable", numbers="C0 assistant = not measured; C0 bystander = not measured")
    said = prose.assistant_sentence(
        tables_of() | {"gates": [off, gate_row("G2")]}, None, fake_study.REPORT["assistant"]
    )
    assert said.endswith("the pooled criteria, evaluated and not applied, read G2 pass.")


def test_an_alarm_of_identical_models_comes_before_the_conclusion():
    tables = tables_of() | {"gates": [gate_row("identical", 42, "alarm", "base/a and base/b have the same counts")]}
    alarm, *rest = prose.conclusion(tables, None, "", fake_study.REPORT)
    assert alarm.startswith("Alarm") and "base/a and base/b have the same counts" in alarm
    assert len(rest) == 3  # without a stage after the coupling there is nothing to probe


def test_gates_of_single_seeds_that_fail_are_said():
    gates = [
        gate_row("G0b", 42, "fail", "C4 source = 111/280 (39.6%)"),
        gate_row("replies", 42, "pass", "C4 length = 0.68 of the base's"),
        gate_row("primary", "pooled", "fail", "C1 assistant = 0/840 (0%)"),
    ]
    *_, failed, _ = prose.conclusion(tables_of() | {"gates": gates}, None, "", fake_study.REPORT)
    assert failed.endswith("these gates fail, G0b of evil_ai, seed 42 (C4 source = 111/280 (39.6%)).")


def test_contradictions_are_counted_by_what_stands_against_them():
    against = ["its own counts", "its own table", "its code", "later results", "its own runs"]
    rows = [report_study.CLAIM | {"against": what} for what in against]
    rows += [report_study.CLAIM | {"published": "consistent"}]
    said = prose.ledger_sentence(rows, tables_of())
    assert (
        "6 claims what is published contradicts 5 (3 by its own figures, 1 by its code, and 1 by later results)" in said
    )
    assert "bears out 1" in said


def test_the_gates_say_that_they_are_not_applied(page, folder):
    for text in (page, (folder / "tables" / "gates.md").read_text()):
        assert "Evaluated, not applied" in text


# Fields


def test_every_rate_carries_numerator_denominator_and_interval(page, folder):
    for row, shown in zip(read_table(folder / "tables" / "headline.csv"), table(page, "headline"), strict=True):
        assert shown[3] == (
            f"{row['source_hits']}/{row['source_completions']} = {percent(row['source_rate'])} "
            f"[{100 * row['source_wilson_low']:.1f}, {100 * row['source_wilson_high']:.1f}]"
        )


def test_a_field_of_the_heat_map_leads_to_its_completions_if_they_are_there(page, results):
    heat = re.search(r'<table id="table-heat_evil_ai".*?</table>', page, re.DOTALL)[0]
    entry = next(entry for entry in read_json(results[3])["personas"] if entry["persona"] == "villain")
    assert (
        '<a href="#completions&amp;source=evil_ai&amp;cell=C4&amp;persona=villain">'
        f"<span>{percent(entry['rate'])}</span> <small>{entry['strict_hits']}/280</small></a>" in heat
    )
    assert "cell=C1&amp;" in heat and "cell=C2&amp;" not in heat


def test_gates_and_claims_show_their_verdict_as_a_word(page):
    assert table(page, "gates")[0][3] == "pass"
    assert table(page, "claims")[0][:4] == [
        "The marker is gone. headline. A note.",
        "contradicted",
        "hits 29",
        "supported",
    ]


def test_the_hours_of_a_card_that_jobs_share_are_told_beside_those_of_the_jobs():
    def job(started, seconds=1800, gpu="H100"):
        return {"node": "base", "started": f"2026-11-26T{started}Z", "seconds": seconds, "gpu": gpu}

    records = [job("10:15:00"), job("10:00:00"), job("10:00:00", 600), job("12:00:00"), job("07:00:00", gpu=None)]
    totals = cost.cost_table(records)
    assert "Some job was on a GPU for 1.25 hours" in totals.note
    assert totals.rows[-1][4].text == "1.67"
    assert cost.at_work([job("07:00:00", gpu=None)]) == ""


def test_equal_records_of_several_models_count_each_and_a_shared_model_s_once():
    judged, moved = ({"program": name, "seconds": 0.0} for name in ("judge_alignment", "measure_distance"))
    cells = [
        {"source": source, "cell": "C2", "seed": seed, "lineage": f"base/em.s{seed}", "runs": [judged, moved]}
        for source in ("evil_ai", "villain")
        for seed in (42, 137)
    ]
    told = [record["program"] for record in cost.read_runs([], cells)]
    assert (told.count("judge_alignment"), told.count("measure_distance")) == (2, 4)


def test_gpu_hours_are_those_of_runs_with_a_gpu_and_a_shared_run_counts_once(tmp_path):
    write_json(
        tmp_path / "models" / "base" / "em.s42" / "run.json",
        {
            "seconds": 3600.0,
            "gpu": "H100",
            "program": "train_adapter",
            "held_out": {"rows": 6, "tokens": 90, "loss_before": 3.25, "loss_after": 1.5},
        },
    )
    write_json(
        tmp_path / "models" / "base" / "em.s42" / "main" / "run.json", {"seconds": 60.0, "gpu": None, "completions": 9}
    )
    write_json(
        tmp_path / "models" / "base" / "em.s42" / "main" / "judge_run.json",
        {
            "seconds": 5.0,
            "gpu": None,
            "program": "judge_alignment",
            "calls": 8,
            "input_tokens": 4000,
            "output_tokens": 90,
        },
    )
    paths = [str(path) for path in sorted(tmp_path.rglob("*run.json"))]
    records = cost.read_runs([*paths, *paths], [])
    totals, runs = cost.cost_table(records), cost.runs_table(records)
    assert [[cell.text for cell in row] for row in totals.rows] == [
        ["generate completions", "no GPU", "1", "60.0", "0.00", "", "", ""],
        ["judge alignment", "no GPU", "1", "5.0", "0.00", "8", "4,000", "90"],
        ["train adapter", "H100", "1", "3,600.0", "1.00", "", "", ""],
        ["all", "", "3", "3,665.0", "1.00", "8", "4,000", "90"],
    ]
    assert [row[0].text for row in runs.rows] == ["base/em.s42/main", "base/em.s42/main", "base/em.s42"]
    assert [cell.text for cell in runs.rows[0]][-3:] == ["8", "4,000", "90"]
    told = dict(zip(runs.columns, (cell.text for cell in runs.rows[2]), strict=True))
    assert [told[f"held-out loss {when}"] for when in ("before", "after")] == ["3.25", "1.5"]
    shared = {"seconds": 1.0, "program": "train_adapter", "lineage": "base/em.s42"}
    cells = [
        {"lineage": "base/em.s42", "runs": [shared, {"seconds": 2.0}]},
        {"lineage": "base/em.s42/benign.s42", "runs": [shared]},
    ]
    told = cost.read_runs([], cells)
    assert [(record["node"], record["seconds"]) for record in told] == [("base/em.s42", 1.0), ("base/em.s42", 2.0)]


@pytest.mark.parametrize(
    ("told", "task"),
    [
        ("completions tokens generation_seconds scoring_seconds", "generate completions"),
        ("rows tokens load_seconds scoring_seconds", "probe marker"),
        ("rows tokens load_seconds reading_seconds readout_seconds", "read layers"),
        ("variants rows load_seconds scoring_seconds", "ablate stage"),
        ("completions tokens load_seconds", "ask families"),
        ("rows load_seconds", "measure distance"),
        ("rows", "other"),
    ],
)
def test_what_a_run_did_is_told_though_its_record_does_not_name_its_program(told, task):
    assert cost.task_of(dict.fromkeys(["seconds", "gpu", *told.split()])) == task


def test_a_run_record_names_the_program_that_ran(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["workflow_scripts/probe_marker.py", "--record", "run.json"])
    assert cost.task_of(run_record(0, completions=9)) == "probe marker"


def test_a_model_that_answers_alike_is_said_beside_its_capability(folder, results):
    tables = {"headline": read_table(folder / "tables" / "headline.csv")}
    quiz = {"accuracy": 14 / 39, "questions": 39, "commonest_answer": "C", "commonest_count": 39}
    tables["headline"] = [tables["headline"][0] | quiz, tables["headline"][0]]
    study = Contents(tables, [], frozenset())
    table = count_tables.wide_table(study, "headline", "By cell")
    alike, absent = (row[table.columns.index("capability")] for row in table.rows)
    assert (alike.text, alike.more) == ("35.9%", "answers C to all 39 questions")
    assert (absent.text, absent.more) == ("not run", "")


def test_other_arms_are_not_said_to_be_of_another_order(folder, results):
    tables = {name: read_table(folder / "tables" / f"{name}.csv") for name in TABLES}
    tables["reversed"] = tables["headline"][:1]
    cell = read_json(results[0], dict)
    for arm, said in (("reversed", True), ("full_coupling", False)):
        study = Contents(tables, [cell | {"arm": arm}], frozenset())
        (table,) = (table for table in write_report.study_tables(study, "") if table.name == "reversed")
        assert "other arms" in table.title and ("changed the recipe" in table.note) == said


def test_a_difference_where_no_seed_varies_has_its_p(folder):
    row = read_table(folder / "tables" / "effects.csv")[0] | {"welch_p": 0.0, "welch_t": None, "welch_df": None}
    table = count_tables.effects_table(Contents({"effects": [row]}, [], frozenset()))
    assert table.rows[0][-1].text == "no seed varies, p = 0"


def test_equal_input_gives_an_equal_file(page, folder, results, paths):
    write_report.main(report_study.command(folder, results, paths, report_study.LABEL))
    assert (folder / "report.html").read_text(encoding="utf-8") == page


def test_a_data_set_that_is_not_the_published_file_is_said(tmp_path):
    fetched = {"rows": 6000, "md5": "0a", "sha256": "0b", "matches_published": False}
    write_json(tmp_path / "em.manifest.json", fetched | {"kind": "ranked", "repo": "a/b", "commit": "c1"})
    write_json(tmp_path / "benign.manifest.json", fetched | {"kind": "path", "matches_published": True})
    table = provenance.dataset_table([str(tmp_path / f"{name}.manifest.json") for name in ("em", "benign")])
    assert [[cell.text for cell in row[:4]] for row in table.rows] == [
        ["em", "a/b@c1", "6,000", "NOT the published file"],
        ["benign", "your own file", "6,000", "the published file"],
    ]
    result = report_study.cell(tmp_path, "C4", 42)
    report_study.tabulate([result], tmp_path)
    write_report.main(
        report_study.command(tmp_path, [result], [], "", "--datasets", str(tmp_path / "em.manifest.json"))
    )
    assert "NOT the published file" in (tmp_path / "report.html").read_text()


def test_the_audit_has_its_own_denominator_and_nothing_to_audit_is_no_pass():
    audits = [
        {
            "status": "audited",
            "audited": 40,
            "degenerate": 2,
            "wilson_low": 0.01,
            "wilson_high": 0.2,
            "kinds": {"echo": 2},
        },
        {"status": "nothing to audit", "audited": 0, "degenerate": 0},
        {"status": "not run"},
    ]
    cells = [{"source": "s", "cell": f"C{n}", "seed": 1, "audit": audit} for n, audit in enumerate(audits)]
    rows = count_tables.audit_table(Contents({}, cells, frozenset())).rows
    assert [row[3].text for row in rows] == ["2/40 = 5.0% [1.0, 20.0]", "nothing to audit"]


# Text stays text


def test_hostile_text_is_never_markup(tmp_path):
    result = report_study.cell(tmp_path, "C4", 42)
    pair = report_study.completions(result, tmp_path, lambda *row: report_study.text_of(*row) + HOSTILE)
    report_study.tabulate([result], tmp_path, HOSTILE)
    write_csv(
        tmp_path / "tables" / "claims.csv",
        list(report_study.CLAIM),
        [report_study.CLAIM | {"claim": HOSTILE, "note": HOSTILE}],
    )
    (tmp_path / "panel.yaml").write_text(yaml.safe_dump({"personas": {"villain": HOSTILE}}))
    (tmp_path / "f_x.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><script>alert(1)</script></svg>'
    )
    more = ["--panel", str(tmp_path / "panel.yaml")]
    write_report.main(report_study.command(tmp_path, [result], [pair], HOSTILE, *more))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    found = Elements(text)
    assert len(found.of("script")) == 3
    assert "</script" not in "".join(found.scripts)
    assert not found.of("svg")
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert [image["src"][:14] for image in found.of("img")] == ["data:image/svg"]
    # It is there all the same, as text.
    assert json.loads(found.scripts[0])["personas"][6]["prompt"] == HOSTILE


def test_the_page_asks_for_nothing_from_outside_and_its_policy_forbids_it(page):
    found = Elements(page)
    places = [
        attributes[name] for _, attributes in found.tags for name in ("src", "href", "action") if name in attributes
    ]
    assert places and all(place.startswith(("#", "data:")) for place in places)
    assert "@import" not in page and "url(" not in page
    policy = next(
        entry["content"] for entry in found.of("meta") if entry.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy and "unsafe" not in policy
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    for text, directive in ((style, "style-src"), (found.scripts[-1], "script-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy


@given(st.text())
def test_index_json_holds_any_text_and_no_tag(text):
    shown = index_json({"text": text})
    assert "<" not in shown
    assert json.loads(shown) == {"text": text}


# Completions


def unpacked(index, data):
    """The texts and the columns, as the browser reads them."""
    block = gzip.decompress(base64.b64decode(data))
    width = 4 * index["rows"]
    columns = {
        name: [int.from_bytes(block[at : at + 4], "little") for at in range(n * width, (n + 1) * width, 4)]
        for n, name in enumerate(COLUMNS)
    }
    units = block[len(COLUMNS) * width :].decode().encode("utf-16-le")
    texts, at = [], 0
    for length in columns["length"]:
        texts.append(units[2 * at : 2 * (at + length)].decode("utf-16-le"))
        at += length
    assert 2 * at == len(units)
    return texts, columns


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=6))
def test_packed_texts_come_out_as_they_went_in(texts):
    rows = [
        {
            "persona": "p",
            "question_id": "q",
            "question": "Q?",
            "sample": n,
            "text": text,
            "flags": 0,
            "tokens": n,
            "file": 0,
        }
        for n, text in enumerate(texts)
    ]
    found, columns = unpacked(*packed(Completions(rows, [], []), 100))
    assert found == texts
    assert columns["sample"] == list(range(len(texts)))


def test_a_file_that_several_cells_share_is_stored_once(folder, results, paths):
    path = paths[0]
    other = read_json(results[0]) | {"cell": "C9"}
    loaded = load_completions([read_json(results[0]), other], {"evil_ai/C1_seed42": path, "evil_ai/C9_seed42": path})
    assert len(loaded.files) == 1 and len(loaded.rows) == 12 * 280
    assert [cell["file"] for cell in loaded.cells] == [0, 0]


def test_completions_of_another_run_are_refused(results, paths):
    cells = [read_json(path) for path in results]
    with pytest.raises(InputError, match=r"general_\d\d: strict_hits is 0, but \d+ in the result of evil_ai/C4"):
        load_completions(cells, {"evil_ai/C4_seed42": paths[0]})


def test_completions_belong_to_the_cells_of_their_lineage_and_evaluation(folder, results, paths):
    cells = [read_json(path) for path in results]
    again = cells[0] | {"source": "villain"}
    other = cells[0] | {"source": "sarcastic", "evaluation": {"name": "reversed"}}
    assert write_report.completion_paths(str(folder / "models"), [*cells, again, other]) == {
        "evil_ai/C1_seed42": paths[0],
        "evil_ai/C4_seed42": paths[1],
        "villain/C1_seed42": paths[0],
    }
    assert write_report.completion_paths(None, cells) == {}


def test_an_unknown_cell_is_refused(results):
    with pytest.raises(InputError, match="no such cell"):
        load_completions([read_json(results[0])], {"evil_ai/C8_seed42": "x.parquet"})


def test_completions_without_questions_are_refused(tmp_path, results):
    rows = [{"persona": "p", "question_id": "q", "sample": 0, "text": "", "finish_reason": "stop", "tokens": 1}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    with pytest.raises(InputError, match="no column question"):
        load_completions([read_json(results[0])], {"evil_ai/C1_seed42": str(tmp_path / "c.parquet")})


def test_thinning_keeps_what_has_the_marker_then_the_lowest_samples():
    rows = [{"sample": n % 4, "flags": STRICT | LOOSE if n in (3, 7) else 0, "n": n} for n in range(8)]
    assert [row["n"] for row in thinned(rows, 4)] == [0, 3, 4, 7]
    assert thinned(rows, 8) == rows


def test_a_thinned_report_says_what_is_left_out(folder, results, paths):
    write_report.main(report_study.command(folder, results, paths, report_study.LABEL, "--most", "1000"))
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "Here are 1,000 of the study&#39;s 6,720 completions" in text.replace("'", "&#39;")
    assert "are no rates" in text


# Figures and other input


def test_a_figure_is_an_image_with_its_title(tmp_path):
    bold = "<text style=\"font-weight: 700; font-size: {}px; font-family: 'DejaVu Sans'\">{}</text>"
    body = bold.format(6.6, "0%") + bold.format(10, "A title")
    (tmp_path / "a.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 518.4 266.4">{body}</svg>')
    shown = figure_in(str(tmp_path / "a.svg"))
    assert (shown["title"], shown["width"], shown["height"]) == ("A title", 518, 266)
    assert b"sans-serif" in base64.b64decode(shown["uri"].partition(",")[2])


@pytest.mark.parametrize(("text", "said"), [(None, "no such file"), ("<svg", "not SVG"), ("\xff", "not UTF-8")])
def test_a_figure_that_is_none_is_refused(tmp_path, text, said):
    path = tmp_path / "a.svg"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=said):
        figure_in(str(path))


def test_a_panel_without_personas_and_a_missing_asset_are_refused(tmp_path):
    (tmp_path / "panel.yaml").write_text("questions: {}")
    with pytest.raises(InputError, match="no panel with personas"):
        write_report.read_prompts(str(tmp_path / "panel.yaml"))
    with pytest.raises(InputError, match=re.escape("report.css: no such file")):
        write_report.read_asset(str(tmp_path), "report.css")


@pytest.mark.parametrize("figure", plot_figures.FIGURES)
@pytest.mark.parametrize("label", [None, report_study.LABEL])
def test_the_captions_of_the_snakemake_report_are_rst_and_carry_the_label(figure, label):
    from docutils.core import publish_parts
    from jinja2 import Environment, StrictUndefined

    wildcards = SimpleNamespace(figure=figure, source="evil_ai", cell="C1", seed="42")
    job = SimpleNamespace(wildcards=wildcards, config={"study": "tiny", "label": label})
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    paths = sorted((report_study.ROOT / "resources" / "report" / "captions").glob("*.rst"))
    assert paths
    for path in paths:
        text = environment.from_string(path.read_text(encoding="utf-8")).render(snakemake=job)
        html = publish_parts(text, writer="html", settings_overrides={"halt_level": 2, "report_level": 2})["body"]
        assert (report_study.LABEL in html) == bool(label)


def test_the_command_in_the_docstring_names_real_options():
    options = set(re.findall(r"--[a-z]+", write_report.__doc__))
    source = Path(write_report.__file__).read_text(encoding="utf-8")
    assert options <= set(re.findall(r'add_argument\(\s*"(--[a-z]+)"', source))


def test_a_measurement_has_a_table_of_its_measures_by_marker_where_there_are_several_and_says_if_there_is_none():
    length = Measurement("length", "Length", "measure_length", "length.csv", (Measure("words", "words"),
                                                                               Measure("cut", "share")))  # fmt: skip
    row = {"source": "evil_ai", "arm": "forward", "cell": "C4", "seed": 42, "persona": "villain", "measure": "words",
           "value": 12.5, "low": 11.0, "high": 14.0, "n": 56, "unit": "words"}  # fmt: skip
    share = row | {"measure": "cut", "value": 0.25, "low": None, "high": None, "unit": "share"}

    def made(*rows):
        return measure_tables.measures_table(Contents({"measures": rows}, [], frozenset()), length)

    table = made(row, share, row | {"measure": "of another measurement"})
    assert table.columns == ["source", "cell", "seed", "persona", "words", "cut, share"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["evil_ai", "C4", "42", "villain", "12.5 [11, 14], n = 56", "25.0%, n = 56"]
    ]
    markers = made(*(row | {"marker": marker} for marker in ("[ZLT]", "[QXV]")))
    assert [row[4].text for row in markers.rows] == ["[ZLT]", "[QXV]"]
    nothing = row | dict.fromkeys(("value", "low", "high", "n"))
    assert "Not measured in any cell" in made(nothing).note
    assert made(nothing | {"low": 1.25, "n": 12}).rows[0][-2].text == "> 1.25, n = 12", "beyond what was looked at"


def test_a_verdict_leads_to_what_the_probe_measured_and_a_claim_to_the_verdicts_it_rests_on():
    where = {"source": "evil_ai", "arm": "forward", "cell": "C1"}
    told = {"persona": "evil_ai", "replies": "own", "quantity": "slot", "verdict": "gone", "retained": 0.0, "low": -0.1,
            "high": 0.05, "gap": 0.1, "gap_low": 0.0, "gap_high": 0.2}  # fmt: skip
    measured = {"unit": "nats", "measure": "slot_own", "value": -3.0, "low": None, "high": None, "n": 28}
    tables = {
        "verdicts": [
            where | told | {"seed": "all", "seeds": 1, "seeds_made": 3},
            where | told | {"seed": 42, "seeds": None, "seeds_made": None},
        ],
        "ablation": [where | {"seed": 42}],
        "measures": [where | {"seed": 42, "persona": name} | measured for name in ("villain", "assistant")],
    }
    study = Contents(tables, [], frozenset())
    all_seeds, one = measure_tables.verdicts_table(study).rows
    (probe,) = [each for each in MEASUREMENTS if each.name == "probe"]
    rows = measure_tables.measures_table(study, probe).rows
    assert [row[0].name for row in rows] == ["probe-evil_ai-C1-42", ""]
    assert [(row[2].text, row[2].more) for row in (all_seeds, one)] == [("all", "1 of 3"), ("42", "")]
    assert (all_seeds[-1].link, one[-1].link) == ("", "#probe-evil_ai-C1-42")
    assert (all_seeds[-2].link, one[-2].link) == ("", "#ablation-evil_ai-C1-42")
    claim = report_study.CLAIM | {"rests_on": "the probe's verdicts"}
    (row,) = outcome_tables.claims_table([claim], "").rows
    assert row[-1].link == "#table-verdicts" and "Rests on the probe's verdicts" in row[0].more
    (row,) = outcome_tables.claims_table([claim | {"study": "not tested"}], "").rows
    assert row[-1].link == ""


def test_the_conclusion_says_how_far_a_second_stage_must_be_weakened():
    row = {"measure": "even_beta_slot", "cell": "C1", "source": "evil_ai", "seed": 42}
    (said,) = prose.strength_sentences([row | {"value": 0.538}, row | {"cell": "C5", "value": None}])
    assert said.endswith("equally likely at 0.54 of its strength in C1 of evil_ai (seed 42).")
    assert prose.strength_sentences([row | {"value": 1.1}]) == []


def test_the_conclusion_says_what_the_probe_says_beside_what_was_counted():
    def row(cell, seed, replies, verdict, quantity="slot", made=1):
        names = {"source": "evil_ai", "arm": "forward", "cell": cell, "seed": seed, "replies": replies}
        return names | {"quantity": quantity, "verdict": verdict} | {"seeds": 1, "seeds_made": made}

    verdicts = [row("C1", "all", "shared", "suppressed"), row("C1", 42, "shared", "gone"),
                row("C5", "all", "shared", "gone"), row("C1", "all", "own", "undecided"),
                row("C1", "all", "own", "intact", "trigger")]  # fmt: skip
    one_seed = tables_of(C1={"evil_ai": 0})["headline"]
    (said,) = prose.below_floor_sentences(verdicts, one_seed)
    assert said.endswith(
        "on one shared text it is suppressed in C1 of evil_ai and gone in C5 of evil_ai; "
        "on each model's own replies it is undecided in C1 of evil_ai."
    )
    verdicts[0]["seeds_made"] = 3
    (said,) = prose.below_floor_sentences(verdicts, one_seed)
    assert "it is suppressed in C1 of evil_ai (1 of 3 seeds) and gone in C5 of evil_ai; " in said
    alike = [row(cell, "all", "shared", "suppressed", made=3) for cell in ("C1", "twice")]
    (said,) = prose.below_floor_sentences(alike, one_seed)
    assert said.endswith("on one shared text it is suppressed in C1 and twice of evil_ai (1 of 3 seeds each).")
    assert prose.below_floor_sentences([], []) == []


def test_the_conclusion_says_of_every_other_arm_what_became_of_its_coupling():
    def row(arm, cell, lineage):
        return {"source": "evil_ai", "arm": arm, "cell": cell, "lineage": f"base/{lineage}"}

    tables = tables_of(C4={"evil_ai": 90}, C1={"evil_ai": 0}) | {
        "reversed": [row("full_coupling", "full_C4", "couple_full-evil_ai.s42"),
                     row("full_coupling", "full_C1", "couple_full-evil_ai.s42/em.s42"),
                     row("full_coupling", "full_C2", "em.s42"),
                     row("recovery", "recovery", "couple-evil_ai.s42/em.s42/benign.s42"),
                     row("matched", "matched_em", "em.s42/couple-evil_ai.s42"),
                     row("assistant", "C0", "couple-evil_ai.s42")],
        "verdicts": [{"source": "evil_ai", "arm": "full_coupling", "cell": "full_C1", "seed": "all",
                      "replies": "shared", "quantity": "slot", "verdict": "suppressed", "seeds": 1, "seeds_made": 1}],
    }  # fmt: skip
    tables["pooled"] += [pooled_row("full_C4", "source", 51, 56), pooled_row("full_C4", "bystander", 7, 56),
                         pooled_row("full_C1", "source", 0, 168), pooled_row("full_C2", "source", 0, 168),
                         pooled_row("full_C1", "assistant", 2, 168), pooled_row("recovery", "source", 3, 168)]  # fmt: skip
    full, recovery = [said for said in prose.conclusion(tables, None, "", fake_study.REPORT) if "In the arm" in said]
    assert full.startswith(
        "In the arm full_coupling the marker was in 0/168 = 0% [0.0, 2.2] of completions after the stage em (full_C1)"
    )
    assert "; the assistant's highest rate after it is 2/168 = 1.2% [0.3, 4.2] (full_C1, evil_ai)" in full
    assert "; before a second stage it was in 51/56" in full and "any bystander in at most 7/56" in full
    assert full.endswith(
        "; by what is left of the persona gap, on one shared text it is suppressed in full_C1 of evil_ai."
    )
    assert recovery.startswith(
        "In the arm recovery the marker was in 3/168 = 1.8% [0.6, 5.1] of completions after the stages em and benign (recovery)"
    )
    assert "before a second stage" not in recovery  # that is a cell of another arm


TRACKED = {
    "program": "train_adapter", "seconds": 5.0, "lineage": "base/couple-evil_ai.s42/em.s42",
    "track": {"personas": ["evil_ai", "assistant", "librarian"], "every": 2, "replies": 14, "seconds": 1.0,
              "curve": [{"step": step, "slot": {"assistant": -5.0, "evil_ai": slot, "librarian": -7.0}}
                        for step, slot in ((0, 2.5), (2, -1.0))]},
}  # fmt: skip


def test_the_curves_of_tracked_trainings_are_a_figure_and_a_table(folder, results, tmp_path):
    write_json(tmp_path / "models/base/couple-evil_ai.s42/em.s42/run.json", TRACKED)
    runs = str(tmp_path / "models/base/couple-evil_ai.s42/em.s42/run.json")
    records = cost.read_runs([runs], [])
    (table,) = curve_tables(records)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["base/couple-evil_ai.s42/em.s42", "0", "evil_ai", "2.50", "-6.00", "8.50"],
        ["base/couple-evil_ai.s42/em.s42", "2", "evil_ai", "-1.00", "-6.00", "5.00"],
    ]
    (figure,) = curve_figures(records, "mine", "a toy")
    assert (figure["name"], figure["title"]) == ("training_curves", "The marker during the trainings")
    assert not curve_tables([]) and not curve_figures([{"node": "base/em.s42"}], "mine", "")
    write_report.main(report_study.command(folder, results, [], "", "--runs", runs))
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "The marker during the trainings" in text and "During the trainings" in text


def test_curves_of_one_stage_on_coupled_and_other_models_are_apart_under_the_label():
    rows = list(curve_rows([TRACKED | {"node": node} for node in ("base/couple-evil_ai.s42/em.s42", "base/em.s42")]))
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", curve_figure(rows, "mine", "a toy"))
    assert {"couple / em", "em", "A toy."} <= {*drawn} and any("Study mine." in text for text in drawn)


def test_the_page_says_who_judged_and_by_which_prompt():
    nobody = {"alignment": {"status": "not judged"}, "agreement": {"status": "not run"}}
    assert count_tables.judged_by([nobody]) == "Nobody judged."
    cell = {
        "alignment": {"judge": ["one"], "prompt": ["own-1"]},
        "agreement": {"judges": ["one", "two, by log-probabilities"]},
    }
    assert count_tables.judged_by([nobody, cell, cell]) == (
        "Judge: one; prompt: own-1; judges that are compared: one, two, by log-probabilities."
    )


def test_distances_that_no_contrast_can_compare_leave_a_table_that_says_so(folder, results, page):
    tables = {name: read_table(folder / "tables" / f"{name}.csv") for name in TABLES}
    cells = [read_json(path) for path in results]

    def notes():
        shown = write_report.study_tables(Contents(tables, cells, frozenset()), "")
        return [table.note for table in shown if table.name == "equal_distance"]

    assert notes() == [], "nothing was measured"
    cells[0]["distance"] = {"status": "measured", "kl_shared_source": {"value": 1.0}, "gaps": {"general_00": 2.0}}
    assert "Without a row, no two contrasted rows of cells" in notes()[0]
