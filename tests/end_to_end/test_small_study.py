"""The real graph, programs and trainings at the smallest size: it runs through, and reruns exactly what is stale."""

import csv
import json
import os
import xml.etree.ElementTree as ElementTree
import zipfile

import pytest
from workspace import STUDIES, Workspace, rules

pytestmark = pytest.mark.slow

RESULTS = "results/smallest"
FIGURES = [
    "below_floor", "distance", "gates", "layers", "length_hits", "marker_destruction", "persona_heatmap", "plane",
    "question_strip", "retention",
]  # fmt: skip


@pytest.fixture(scope="module")
def study(smallest, tmp_path_factory):
    """The smallest study, finished, that grew by four cells."""
    workspace = smallest.copied(tmp_path_factory.mktemp("grown") / "study")
    workspace = Workspace(workspace.folder, (*workspace.arguments, str(STUDIES / "grown.yaml")))
    planned = workspace.plan()
    there = ("base/couple-evil_ai.s42", "base/couple-evil_ai.s42/em.s42")
    assert not {f"train_adapter node={node}" for node in there} & set(planned), "what is there is not made again"
    assert "train_adapter node=base/couple-assistant.s42/em.s42" in planned and "pretrain_base" not in rules(planned)
    workspace.snakemake("--cores", "2")
    return workspace


def test_every_cell_table_and_figure_is_there_and_counts_add_up(study):
    cells = sorted((study.folder / RESULTS / "cells").glob("*/*.json"))
    assert [cell.stem for cell in cells] == [f"{name}_seed42" for name in ("A_prebaked", "C1", "C2", "C3", "C4", "C5")]
    for cell in cells:
        result = json.loads(cell.read_text())
        assert len(result["personas"]) == 12
        assert all(persona["completions"] == 28 for persona in result["personas"])
        assert result["capability"]["commonest_count"] <= result["capability"]["questions"]
        assert all((study.folder / f"workflow_scripts/{run['program']}.py").is_file() for run in result["runs"])
        assert [run["judge"] for run in result["runs"] if run["program"] == "judge_alignment"] == ["toy"]
    with (study.folder / RESULTS / "tables/headline.csv").open() as file:
        assert {row["cell"] for row in csv.DictReader(file)} == {"C1", "C2", "C3", "C4", "C5", "A_prebaked"}
    figures = sorted((study.folder / RESULTS / "figures").iterdir())
    assert [figure.stem for figure in figures] == [f"{name}_evil_ai" for name in FIGURES for _ in ("pdf", "png", "svg")]
    for figure in figures:
        assert figure.stat().st_size > 1000
        if figure.suffix == ".svg":
            ElementTree.parse(figure)


def test_a_lineage_s_manifests_chain_by_hash(study):
    from run.files import sha256_of
    from run.readers import read_json

    models = study.folder / RESULTS / "models/base"
    couple, em = models / "couple-evil_ai.s42", models / "couple-evil_ai.s42/em.s42"
    assert read_json(em / "manifest.json")["parent"] == sha256_of(couple / "manifest.json")
    assert read_json(em / "manifest.json")["adapter"] == sha256_of(em / "adapter")
    assert read_json(couple / "manifest.json")["data"] == sha256_of(couple / "training.jsonl")


def test_snakemake_s_own_report_holds_figure_table_and_cell_with_their_labels(study):
    study.snakemake("--report", "report.zip")
    with zipfile.ZipFile(study.folder / "report.zip") as archive:
        page = archive.read("report/report.html").decode()
        results = json.JSONDecoder().raw_decode(page, page.index('{"', page.index('var results = {"')))[0]
        kept = {path: archive.read(f"report/{result['data_uri']}") for path, result in results.items()}
    labels = {
        "figures/marker_destruction_evil_ai.svg": {"figure": "marker_destruction", "source": "evil_ai"},
        "cells/evil_ai/C1_seed42.json": {"order": "forward", "cell": "C1", "seed": "42"},
        "tables/headline.csv": None,
        "tables/claims.csv": None,
    }
    for name, wanted in labels.items():
        path = f"{RESULTS}/{name}"
        assert kept[path] == (study.folder / path).read_bytes()
        assert wanted is None or results[path]["labels"] == wanted
        assert "rehearsal" in results[path]["caption"]


def test_nothing_is_planned_twice_whatever_is_touched(study):
    assert study.plan() == []
    for folder, names, files in os.walk(study.folder):
        names[:] = [name for name in names if name != ".snakemake"]
        for file in files:
            os.utime(os.path.join(folder, file))
    assert study.plan() == []


def test_an_edit_of_the_plot_redraws_and_nothing_else(study):
    script = study.folder / "workflow_scripts/plot_figures.py"
    text = script.read_text()
    script.write_text(text + "\nTHOUGHT = 1\n")
    assert set(rules(study.plan())) == {"plot_figures", "write_report"}
    script.write_text(text)
    assert study.plan() == []


def test_a_cell_whose_counts_are_deleted_is_rebuilt_alone_and_comes_out_the_same(study):
    counts = study.folder / RESULTS / "models/base/couple-evil_ai.s42/em.s42/main/marker_counts.csv"
    before = counts.read_bytes()
    counts.unlink()
    jobs = study.plan()
    assert rules(jobs)["count_markers"] == 1
    assert [job for job in jobs if job.startswith("summarize_cell")] == [
        "summarize_cell source=evil_ai, cell=C1, seed=42"
    ]
    assert not {"train_adapter", "generate_completions"} & set(rules(jobs))
    study.snakemake("--cores", "1", "--", str(counts.relative_to(study.folder)))
    assert counts.read_bytes() == before
    assert study.plan() == []
