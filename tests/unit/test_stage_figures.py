"""Figures and table of a second stage taken apart, from made-up log-odds whose shares are known."""

import re

import plot_figures
import pytest

from measure.registry import MEASUREMENTS, MEASURES
from measure.rows import ABLATION, LAYERS, OVERLAP, TABLES, ablation_rows
from measure.sections import ADAPTERS
from measure.tables import read_table, write_csv
from probe.ablation import summary
from probe.variants import patches_of, variants
from report.fields import Contents
from report.figure_study import FigureData
from report.measure_tables import parts_table

TENSORS = [f"model.layers.{layer}.{name}_proj.weight" for layer in range(4) for name in ("q", "up")]
TAKEN = {0: 12.0, 1: 0.0, 2: 4.0, 3: 0.0}  # nats that the second stage takes in a layer, of s under the source
IDENTITY = {"source": "evil_ai", "arm": "forward", "seed": 42}


def lines(scale=1.0):
    """Rows of ablation.parquet: what is taken adds up over layers, and is proportional to both strengths."""
    for variant in variants(TENSORS, [0.0, 0.5, 1.0], 2) + patches_of(4):
        for place, question in enumerate(("a", "b", "c")):
            for role, persona in (("source", "evil_ai"), ("bystander", "villain")):
                taken = sum(TAKEN[int(name.split(".")[2])] / 2 * variant.strengths(name, 2)[1] for name in variant.on)
                if (
                    variant.kind == "patch"
                ):  # what the layers up to it took comes back, of the base far less than nothing
                    above = [layer for layer in TAKEN if layer > int(variant.part)]
                    taken = sum(TAKEN[layer] for layer in above) if variant.mode == "before" else 60.0
                s = variant.alpha * (9 - scale * taken + place / 10) - (20 if role == "bystander" else 0)
                yield variant.row | {"role": role, "persona": persona, "author": "evil_ai", "question_id": question,
                                     "sample": 0, "slot": s, "trigger": s / 2}  # fmt: skip


def write_tables(folder, scale=1.0, overlap=True):
    """The tables that the figures read: C1 with all measurements that `scale` and `overlap` ask for."""
    folder.mkdir()
    sections = {name: summary(list(lines(size))) for name, size in {"C1": scale, "C5": 0.5}.items() if size}
    (measurement,) = [each for each in MEASUREMENTS if each.name == "ablation"]
    rows = {name: [] for name in ("ablation", "measures", "adapters", "layers")}
    for cell, section in sections.items():
        where = IDENTITY | {"cell": cell}
        rows["ablation"] += ablation_rows(where | {"ablation": section})
        rows["measures"] += [where | row for row in measurement.rows(section)]
    if overlap:
        numbers = dict.fromkeys(ADAPTERS, 0.5)
        rows["adapters"] = [IDENTITY | {"cell": "C1", "layer": layer} | numbers for layer in range(4)]
    columns = {"ablation": ABLATION, "measures": MEASURES, "adapters": OVERLAP, "layers": LAYERS}
    for name, own in rows.items():
        write_csv(folder / f"{name}.csv", columns[name], own)
    return folder


def texts(figure):
    figure.canvas.draw()
    from matplotlib.text import Text

    return [each.get_text() for each in figure.findobj(Text) if each.get_text()]


def drawn(name, folder, label=""):
    return plot_figures.FIGURES[name](FigureData(folder, "tiny", "evil_ai", label, ["forward"], {}, {}))


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("stage") / "tables")


def test_the_plane_has_the_value_of_every_pair_of_strengths_and_marks_where_half_is_lost(tables):
    figure = drawn("plane", tables)
    found = texts(figure)
    rows = [row for row in read_table(tables / "ablation.csv") if (row["kind"], row["quantity"]) == ("plane", "slot")]
    assert {f"{row['value']:.0f}" for row in rows if row["cell"] == "C1"} <= set(found)
    # C1 loses 16 of 9.1 nats at full strength: half at .28, all at .57
    assert {"C1", "C5", "0.28", "0.57"} <= set(found)
    assert any("Seed 42." in text for text in found)


def test_a_log_odds_of_nearly_0_has_no_sign(tmp_path):
    found = texts(drawn("plane", write_tables(tmp_path / "tables", scale=0.575)))  # 9.1 - 9.2 at full strength
    assert "-0" not in found


def test_the_layers_show_where_damage_was_planted_and_say_what_was_not_run(tables):
    figure = drawn("layers", tables)
    panel = next(axes for axes in figure.axes if "share of the drop" in axes.get_ylabel())
    restored = next(line for line in panel.lines if line.get_label() == "restored")
    assert restored.get_xdata().tolist() == [0, 1, 2, 3]
    assert restored.get_ydata().tolist() == pytest.approx([0.75, 0, 0.25, 0], abs=1e-3)
    panel = next(axes for axes in figure.axes if "patch" in axes.get_ylabel())
    patched = next(line for line in panel.lines if line.get_label() == "state of before")
    assert patched.get_ydata().tolist() == pytest.approx([0.75, 0.75, 1, 1], abs=1e-3)
    assert panel.get_ylim()[0] == -1, "the base's state does not set the scale"
    assert any(line.get_label().startswith("state of base (down to -") for line in panel.lines), "but is told"
    found = texts(figure)
    assert any("Not run: read_layers." in text for text in found), "and there is no empty panel of it"
    assert not any("lens" in axes.get_ylabel() for axes in figure.axes)
    assert found.count("Not run: compare_adapters") == 1, "of C5 alone"


def test_a_panel_without_shares_says_why(tmp_path):
    found = texts(drawn("layers", write_tables(tmp_path / "tables", scale=0.05)))
    assert sum("within\n1 nat of 0" in text for text in found) == 3, "the panels of C1"


def test_nothing_taken_apart_is_said_on_the_figure(tmp_path):
    folder = tmp_path / "tables"
    write_tables(folder)
    for name in ("ablation", "adapters"):
        write_csv(folder / f"{name}.csv", ABLATION if name == "ablation" else OVERLAP, [])
    assert any("Not run" in text for text in texts(drawn("plane", folder)))
    assert any("Not run" in text for text in texts(drawn("layers", folder)))


@pytest.mark.parametrize("name", ["plane", "layers"])
def test_nothing_is_cut_off(tables, name):
    figure = drawn(name, tables, "rehearsal on a toy model, no evidence about Qwen2.5-7B")
    figure.canvas.draw()
    box, size = figure.get_tightbbox(), figure.get_size_inches()
    assert min(box.x0, box.y0) >= -0.01 and box.x1 <= size[0] + 0.01 and box.y1 <= size[1] + 0.01


def test_the_report_has_a_row_per_part_with_what_it_restores_and_takes(tables):
    study = Contents({"ablation": read_table(tables / "ablation.csv")}, [], frozenset())
    table = parts_table(study)
    (row,) = [[cell.text for cell in row] for row in table.rows if [cell.text for cell in row[:5]] ==
              ["evil_ai", "C1", "42", "layer", "0"]]  # fmt: skip
    named = dict(zip(table.columns, row, strict=True))
    assert named["restored, of s"].startswith("0.75 [0.75, 0.75]")
    assert named["sufficed, of s"].startswith("0.75")
    assert re.match(r"5\.10 \[", named["s without it or patched, nats"])
    patches = {"patch of before", "patch of base"}
    assert {row[3].text for row in table.rows} == {"layer", "module", "lowest", "highest", "random"} | patches
    assert "ablation" in TABLES
