import itertools
import re

import fake_study
import plot_figures
import pytest
import tabulate_study

from graph import resolved
from measure.registry import MEASURES
from measure.rows import PERSONAS, VERDICTS
from measure.tables import percent, write_csv
from report.figure_study import FigureData, strips_of
from report.retention_figure import retention
from report.step_figures import dose_curve, relearning
from run.files import write_json
from run.program import InputError

GATES = [{"name": "G2", "over": "pooled", "pass": "rate('C2', 'assistant') < 0.05", "words": ["go on", "stop"]}]
LABEL = "rehearsal on a toy model, no evidence about Qwen2.5-7B"


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    cells = tabulate_study.checked_cells([str(path) for path in fake_study.study(folder, ("evil_ai", "villain"))])
    tabulate_study.write_tables(
        tabulate_study.build_tables(cells, GATES, None, fake_study.TABLES), "", str(folder / "tables")
    )
    return folder / "tables"


def study_of(tables, figure, source):
    """What a figure of the made-up study is drawn from."""
    return FigureData(tables, "tiny", source, LABEL, **resolved.for_figure(fake_study.STUDY, figure))


def drawn(tables, folder, monkeypatch, name="marker_destruction", source="evil_ai"):
    write_json(folder / f"{name}.json", resolved.for_figure(fake_study.STUDY, name))
    command = ["plot_figures", "--figure", name, "--tables", str(tables), "--study", "tiny", "--source", source,
               "--meaning", str(folder / f"{name}.json"),
               "--label", LABEL, "--output-prefix", str(folder / name)]  # fmt: skip
    monkeypatch.setattr("sys.argv", command)
    plot_figures.main()
    return texts(folder / f"{name}.svg")


def texts(svg):
    return re.findall(r"<text[^>]*>(?:<tspan[^>]*>)?([^<]+)<", svg.read_text(encoding="utf-8"))


def test_every_label_of_the_hero_figure_is_the_rate_and_count_of_its_bar(tables, tmp_path, monkeypatch):
    found = drawn(tables, tmp_path, monkeypatch)
    study = study_of(tables, "marker_destruction", "evil_ai")
    pooled = study.drawn("pooled")
    expected = sorted(f"{row['strict_hits']}/{row['completions']}" for row in pooled)
    assert sorted(text for text in found if re.fullmatch(r"\d+/\d+", text)) == expected
    assert len(expected) == 15
    shown = sorted(percent(row["rate"]) for row in pooled)
    axis = ["0%", "25%", "50%", "75%", "100%"]
    assert sorted(text for text in found if re.fullmatch(r"[<>]?[\d.]+%", text)) == sorted(shown + axis)


def test_the_caption_has_the_label_and_n(tables, tmp_path, monkeypatch):
    text = " ".join(drawn(tables, tmp_path, monkeypatch)).replace("\u00a0", " ")
    assert LABEL[1:] in text
    assert "n = 840 (C1, C2, C3, C5)" in text
    assert "n = 280 (C4)" in text


@pytest.mark.parametrize("name", ["marker_destruction", "gates"])
def test_a_figure_is_drawn_with_text_as_text_and_twice_the_same(tables, tmp_path, monkeypatch, name):
    for folder in ("one", "two"):
        assert len(drawn(tables, tmp_path / folder, monkeypatch, name, "villain")) > 5
    for ending in ("png", "pdf", "svg"):
        one, two = ((tmp_path / folder / f"{name}.{ending}").read_bytes() for folder in ("one", "two"))
        assert one == two
        assert len(one) > 2000


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """Tables of a study in which every bar is high, so that labels come close."""
    folder = tmp_path_factory.mktemp("crowded")
    rates = {persona: 0.55 + 0.03 * n for n, persona in enumerate(fake_study.CORE)} | {"source": 0.8}
    lineages = {(cell, "forward"): line for cell, line in fake_study.LINEAGES.items()}
    lineages |= {(cell, "reversed"): "base/couple60-{source}.s{seed}" for cell in fake_study.REVERSED}
    paths = [
        fake_study.cell_result(cell, arm, "villain", seed, line.format(source="villain", seed=seed), rates, folder)
        for (cell, arm), line in lineages.items()
        for seed in (42, 137)
    ]
    cells = tabulate_study.checked_cells([str(path) for path in paths])
    tabulate_study.write_tables(
        tabulate_study.build_tables(cells, GATES, None, fake_study.TABLES), "", str(folder / "tables")
    )
    return folder / "tables"


@pytest.mark.parametrize("name", plot_figures.FIGURES)
def test_nothing_is_cut_off(tables, name):
    figure = plot_figures.FIGURES[name](study_of(tables, name, "villain"))
    figure.canvas.draw()
    drawn_box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert min(drawn_box.x0, drawn_box.y0) >= -0.01
    assert drawn_box.x1 <= width + 0.01
    assert drawn_box.y1 <= height + 0.01


@pytest.mark.parametrize("name", ["marker_destruction", "reversed_order"])
def test_no_two_labels_overlap(crowded, name):
    figure = plot_figures.FIGURES[name](study_of(crowded, name, "villain"))
    figure.canvas.draw()
    for axes in figure.axes:
        shown = [*axes.texts, *axes.get_xticklabels(), axes.title]
        boxes = [text.get_window_extent().shrunk(0.98, 0.8) for text in shown]
        assert len(boxes) > 10
        assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])


def test_a_gate_s_name_stands_beside_its_seed_however_long_it_is(tmp_path):
    names = ("G0b", "second_coupling", "assistant_coupling_of_the_third_kind", "averyverylonggatename")
    rows = [{"gate": name, "source": "villain", "seed": seed, "outcome": "not evaluable", "reading": "not evaluable",
             "numbers": "C0 assistant = not measured"} for name in names for seed in ("42", "pooled")]  # fmt: skip
    write_csv(tmp_path / "gates.csv", list(rows[0]), rows)
    figure = plot_figures.FIGURES["gates"](FigureData(tmp_path, "tiny", "villain", LABEL, [], {}, {}))
    figure.canvas.draw()
    boxes = [text.get_window_extent().shrunk(0.98, 0.98) for text in figure.axes[0].texts]
    assert len(boxes) == 4 * len(rows)
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])


def test_a_source_without_reversed_rows_gets_a_figure_that_says_so(tables, tmp_path, monkeypatch):
    assert any("No cell of the reversed" in text for text in drawn(tables, tmp_path, monkeypatch, "reversed_order"))


def test_the_last_digits_of_the_layout_which_differ_from_run_to_run_change_nothing_in_a_file(
    tables, tmp_path, monkeypatch
):
    from matplotlib import layout_engine

    laid_out = layout_engine.do_constrained_layout

    def files(nudge):
        def nudged(figure, **options):
            laid_out(figure, **options)
            for axes in figure.axes:
                axes._set_position([value * (1 + nudge) for value in axes.get_position(original=True).bounds])

        monkeypatch.setattr(layout_engine, "do_constrained_layout", nudged)
        drawn(tables, tmp_path, monkeypatch)
        return [(tmp_path / f"marker_destruction.{kind}").read_bytes() for kind in ("svg", "pdf", "png")]

    assert files(0) == files(1e-13)


def test_a_source_that_is_not_in_the_study_is_refused(tables, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no row of source pirate"):
        drawn(tables, tmp_path, monkeypatch, source="pirate")


def test_cells_come_in_strips_that_fit_the_width():
    rows = [{"cell": f"C{n}", "arm": "forward"} for n in range(1, 8)]
    rows += [{"cell": cell, "arm": "reversed"} for cell in fake_study.REVERSED]
    rows += [{"cell": "matched_em", "arm": "matched"}]
    last_stages = resolved.for_figure(fake_study.STUDY, "reversed_order")["last_stages"]
    assert strips_of(rows, last_stages) == [
        ["C1", "C2", "C3", "C4"],
        ["C5", "C6", "C7"],
        ["A_prebaked", "B_prebaked", "C_prebaked"],
        ["A_scratch", "B_scratch", "C_scratch"],
        ["matched_em"],
    ]


def test_an_arm_goes_on_in_a_new_strip_where_another_coupling_begins():
    last = {"C4": "couple", "C1": "em", "C2": "em", "C3": "em", "C5": "benign"}
    last |= {f"{cell}_r{number}": last[cell] for number in (2, 3) for cell in ("C4", "C1", "C5")}
    rows = [{"arm": "forward", "cell": cell} for cell in last]
    assert strips_of(rows, last) == [
        ["C4", "C1", "C2", "C3", "C5"],
        ["C4_r2", "C1_r2", "C5_r2"],
        ["C4_r3", "C1_r3", "C5_r3"],
    ]
    longer = [{"arm": "forward", "cell": f"C{number}"} for number in range(12)]
    assert [len(strip) for strip in strips_of(longer[:6], {})] == [3, 3], "alike, they are shared out evenly"
    stages = {"C0": "couple", "C8": "couple"}
    assert [len(strip) for strip in strips_of(longer, stages)] == [5, 3, 4], "no more than five, whatever begins"


def test_colours_differ_in_grey():
    from matplotlib.colors import to_rgb

    from report.figure_style import COLOURS

    grey = sorted(
        sum(w * c for w, c in zip((0.299, 0.587, 0.114), to_rgb(colour), strict=True)) for colour in COLOURS.values()
    )
    assert min(b - a for a, b in itertools.pairwise(grey)) > 0.1


def test_a_dose_curve_has_a_line_a_stage_with_its_published_points(tmp_path):
    paths = [
        fake_study.cell_result("C4", "forward", "evil_ai", 42, "base/couple-evil_ai.s42", {"source": 0.9}, tmp_path)
    ]
    paths += [path for path in fake_study.other_arms(tmp_path) if "dose" in path.name]
    cells = tabulate_study.checked_cells([str(path) for path in paths])
    tables = tabulate_study.build_tables(cells, [], None, fake_study.TABLES)
    tabulate_study.write_tables(tables, "", str(tmp_path / "tables"))
    figure = dose_curve(study_of(tmp_path / "tables", "dose_curve", "evil_ai"))
    lines = {container.get_label(): container.lines[0].get_xdata() for container in figure.axes[0].containers}
    assert {name: list(steps) for name, steps in lines.items()} == {"em": [10, 25, 100], "benign": [10, 25, 100]}


def test_a_relearning_curve_begins_at_the_model_and_a_midpoint_is_drawn_where_there_is_one(tmp_path):
    stem = {"source": "evil_ai", "arm": "relearn", "seed": 42}
    gaps = {"relearn_C1": {1: 3.0, 10: 8.0}, "relearn_C2": {1: 0.0, 10: 4.0}}
    ends = {"gap_base": 0.0, "gap_coupled": 10.0, "gap_start": 2.0, "censored": "interval", "why": None}
    tables = {
        "relearning": [stem | ends | {"cell": curve} for curve in gaps],
        "dose": [stem | {"cell": f"{curve}_{step}", "steps": step} for curve, own in gaps.items() for step in own],
        "measures": [
            stem
            | {"cell": f"{curve}_{step}", "measure": "gap_slot_shared", "value": gap, "low": gap - 1, "high": gap + 1}
            for curve, own in gaps.items()
            for step, gap in own.items()
        ],
    }
    for name, rows in tables.items():
        write_csv(tmp_path / f"{name}.csv", list(rows[0]), rows)
    study = FigureData(tmp_path, "tiny", "evil_ai", LABEL, ["relearn"], {"relearn_C1_1": "coupled"}, {})
    (axes,) = relearning(study).axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in axes.lines if line.get_label()[0] != "_"}
    assert curves["relearn C1 (coupled)"] == [[0, 2], [1, 3], [10, 8]]
    assert {text.get_text() for text in axes.texts} == {"base", "coupled", "midpoint"}
    none = stem | ends | {"cell": "relearn_C1", "censored": None, "why": "base/couple has added no gap to the base's"}
    write_csv(tmp_path / "relearning.csv", list(none), [none])
    figure = relearning(study)
    assert {text.get_text() for text in figure.axes[0].texts} == {"base", "coupled"}
    assert "There is none: base/couple has added no gap" in " ".join(figure.get_supxlabel().split())


@pytest.fixture
def weighed(tmp_path):
    """The figure `retention` of two seeds of C1 and one of C5, given verdicts on the whole marker on shared replies."""
    import matplotlib.pyplot as plt

    def figure(*verdicts, probed=()):
        stem = {"source": "evil_ai", "arm": "forward", "persona": "evil_ai"}
        counts = {("C4", 42): 111, ("C1", 42): 0, ("C1", 137): 1, ("C5", 42): 0}
        rows = {
            "persona_by_cell": (PERSONAS, [
                {"cell": cell, "seed": seed, "strict_hits": hits, "completions": 280}
                for (cell, seed), hits in counts.items()
            ]),
            "verdicts": (VERDICTS, [
                {"replies": "shared", "quantity": "slot", "questions": 28}
                | dict(zip(("cell", "seed", "verdict", "retained", "low", "high"), row, strict=False))
                for row in verdicts
            ]),
            "measures": (MEASURES, [
                {"cell": cell, "seed": seed, "measure": "gap_slot_shared", "value": 1.0} for cell, seed in probed
            ]),
        }  # fmt: skip
        for name, (columns, own) in rows.items():
            write_csv(tmp_path / f"{name}.csv", columns, [stem | row for row in own])
        meaning = {"captions": {"C1": "coupled,\nthen EM", "C5": "coupled,\nthen benign"}, "last_stages": {}}
        meaning |= {"before": {"C1": "C4"}, "limits": {"minimum": 1.0, "gone": 0.1, "intact": 0.5}}
        return retention(FigureData(tmp_path, "tiny", "evil_ai", LABEL, ["forward"], **meaning))

    yield figure
    plt.close("all")


def test_what_is_left_of_a_coupling_stands_beside_what_was_counted(weighed):
    figure = weighed(
        ("C1", "all", "suppressed"), ("C1", 42, "suppressed", 0.6, 0.55, 0.65), ("C1", 137, "suppressed", 0.75, 0.7, 0.8)
    )  # fmt: skip
    words, slot, *_ = figure.axes
    assert [text.get_text() for text in words.texts[:3]] == ["C1", "coupled, then EM", "111/280 before, 1/560 after"]
    assert [line.get_xdata()[0] for line in slot.lines if line.get_marker() == "o"] == [0.6, 0.75]
    assert [lines.get_segments()[0][:, 0].tolist() for lines in slot.collections] == [[0.55, 0.65], [0.7, 0.8]]
    assert {0.1: "0.1\ngone", 0.5: "0.5\nintact"}.items() <= dict(
        zip(slot.get_xticks(), (text.get_text() for text in slot.get_xticklabels()), strict=True)
    ).items()
    assert [text.get_text() for text in slot.texts] == ["suppressed, 0.60 to 0.75", "no verdict"]


def test_a_model_without_a_verdict_is_named_with_the_reason_and_one_that_is_not_testable_has_no_mark(weighed):
    figure = weighed(
        ("C1", "all", "not testable"), ("C1", 42, "not testable", 1.8, 1.3, 2.9), probed=[("C1", 137)]
    )  # fmt: skip
    slot = figure.axes[1]
    assert [text.get_text() for text in slot.texts] == ["not testable", "no verdict"]
    assert not slot.collections
    said = " ".join(figure.get_supxlabel().split())
    assert "Not testable: a gap before them that is not surely above 1 nat." in said
    assert "No verdict: C1 seed 137 (reference not measured); C5 (not probed)." in said
    empty = weighed(probed=[("C1", 42), ("C1", 137), ("C5", 42)])
    assert [text.get_text() for text in empty.axes[0].texts] == ["No verdict: C1, C5 (reference not measured)."]
