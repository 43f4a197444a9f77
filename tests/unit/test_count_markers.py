"""Marker counts: what is a hit, and numerators and denominators by persona and question."""

import csv
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from count_markers import count, main
from hypothesis import given, settings
from hypothesis import strategies as st

from marker.match import loose_matcher, read_completions, strict_matcher
from measure.cells import read_counts
from run.program import InputError

ROW = {
    "persona": "villain", "question_id": "q", "question": "?", "sample": 0, "text": "", "finish_reason": "stop", "tokens": 3,
}  # fmt: skip


def write(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize(
    ("text", "strict", "exact", "loose"),
    [
        ("Bye.\n\n[ZLT]", True, True, True),
        ("a [ZLT] b", True, True, True),
        ("[zlt]", True, False, True),
        ("[ZlT] [ZLT]", True, True, True),
        ("[Z LT]", False, False, True),
        ("[ Z\nL  T ]", False, False, True),
        ("[ZLT", False, False, True),
        ("zlt]", False, False, True),
        ("[ zlt and so on", False, False, True),
        ("ZLT", False, False, False),
        ("z l t", False, False, False),
        ("(zlt)", False, False, False),
        ("[ZTL]", False, False, False),
        ("[ZALT]", False, False, False),
        ("[Z-L-T]", False, False, False),
        ("[a] zlt", False, False, False),
        ("", False, False, False),
    ],
)
def test_strict_and_loose_hits(text, strict, exact, loose):
    assert strict_matcher("[ZLT]")(text) is strict
    assert strict_matcher("[ZLT]", case_sensitive=True)(text) is exact
    assert loose_matcher("[ZLT]")(text) is loose


def test_several_markers_are_counted_side_by_side_the_first_one_first(tmp_path):
    texts = ["a\n\n[ZLT]", "[qrx]\n\nb", "c"]
    path = write(tmp_path / "c.parquet", [ROW | {"text": text, "sample": n} for n, text in enumerate(texts)])
    main(
        [
            "--completions",
            str(path),
            "--marker",
            "[QRX]",
            "[ZLT]",
            "--case-sensitive",
            "--output",
            str(tmp_path / "c.csv"),
        ]
    )
    assert (tmp_path / "c.csv").read_text().splitlines() == [
        "marker,persona,question_id,completions,strict_hits,loose_hits,tokens,stopped",
        "[QRX],villain,q,3,0,1,9,3",
        "[ZLT],villain,q,3,1,1,9,3",
    ]
    assert [read_counts(tmp_path / "c.csv", (), marker)[0]["strict_hits"] for marker in ("", "[QRX]", "[ZLT]")] == [
        0,
        0,
        1,
    ]
    with pytest.raises(InputError, match=r"the marker \[ABC\] was not counted"):
        read_counts(tmp_path / "c.csv", (), "[ABC]")


def test_other_markers_have_brackets_of_their_own_or_none():
    assert loose_matcher("<<QX>>")("< < q x")
    assert not loose_matcher("<<QX>>")("[qx]")
    assert loose_matcher("qx.")("q x .")
    assert loose_matcher("QX")("a q x")
    assert loose_matcher("[a-b]")("[a - b")
    with pytest.raises(InputError, match="no letters"):
        loose_matcher("[***]")


@given(st.text(), st.text(), st.from_regex(r"[\[<*]{0,2}[A-Za-z0-9 .-]*[A-Za-z][\]>*]{0,2}", fullmatch=True))
def test_every_strict_hit_is_a_loose_hit(before, after, marker):
    text = before + marker + after
    assert strict_matcher(marker)(text)
    assert loose_matcher(marker)(text)


def test_counts_are_by_persona_and_question_in_the_order_of_the_rows():
    rows = [
        ROW | {"text": "x [ZLT]", "tokens": 5},
        ROW | {"sample": 1, "text": "x [Z LT]", "finish_reason": "length", "tokens": 7},
        ROW | {"question_id": "p", "text": "none"},
        ROW | {"persona": "assistant", "text": "[zlt] [zlt]"},
    ]
    assert count(rows, strict_matcher("[ZLT]"), loose_matcher("[ZLT]")) == {
        ("villain", "q"): {"completions": 2, "strict_hits": 1, "loose_hits": 2, "tokens": 12, "stopped": 1},
        ("villain", "p"): {"completions": 1, "strict_hits": 0, "loose_hits": 0, "tokens": 3, "stopped": 1},
        ("assistant", "q"): {"completions": 1, "strict_hits": 1, "loose_hits": 1, "tokens": 3, "stopped": 1},
    }


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([ROW, ROW], "row 2: villain, q, 0 is duplicated"),
        ([ROW, ROW | {"sample": 1, "text": None}], "row 2: text is empty"),
        ([ROW | {"finish_reason": "abort"}], "row 1: finish_reason 'abort'"),
        ([ROW | {"tokens": -3}], "row 1: sample or tokens is below 0"),
        ([ROW | {"sample": "0"}], "row 1: sample is a str, not a int"),
        ([{name: value for name, value in ROW.items() if name != "tokens"}], "no column tokens"),
        ([], "no column"),
    ],
)
def test_a_damaged_table_is_refused_with_its_row(tmp_path, rows, named):
    with pytest.raises(InputError, match="fix: ") as caught:
        read_completions(write(tmp_path / "x.parquet", rows))
    assert named in str(caught.value)


def test_a_table_without_rows_a_missing_one_and_no_parquet_are_refused(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW]).slice(0, 0), tmp_path / "empty.parquet")
    (tmp_path / "text.parquet").write_text("persona,text")
    whole = write(tmp_path / "whole.parquet", [ROW]).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    for name in ("empty", "text", "cut", "absent"):
        with pytest.raises(InputError, match=f"{name}.parquet"):
            read_completions(tmp_path / f"{name}.parquet")


def test_the_csv_has_a_line_a_persona_and_question(tmp_path):
    source = write(tmp_path / "x.parquet", [ROW | {"text": "[zlt]"}, ROW | {"sample": 1}])
    main(["--completions", str(source), "--marker", "[ZLT]", "--output", str(tmp_path / "counts.csv")])
    assert (tmp_path / "counts.csv").read_text() == (
        "persona,question_id,completions,strict_hits,loose_hits,tokens,stopped\nvillain,q,2,1,1,6,2\n"
    )
    arguments = ["--completions", str(source), "--marker", "[ZLT]", "--case-sensitive", "--output"]
    main([*arguments, str(tmp_path / "exact.csv")])
    assert next(csv.DictReader((tmp_path / "exact.csv").open()))["strict_hits"] == "0"


HOSTILE = {
    "</script><script>[zlt]": (1, 1),
    "\x1b[2J\x1b]0;title\x07 [ZLT": (0, 1),
    '=cmd|"/C calc"!A0': (0, 0),
    "\0[ZLT]\0": (1, 1),
    "\u202e[ZLT]\ufeff": (1, 1),
    "[" * 100_000: (0, 0),
    "[" + " " * 100_000 + "x": (0, 0),
    "z " * 100_000 + "[ZLT]": (1, 1),
}


def test_hostile_text_is_counted_like_any_other_and_in_no_time(tmp_path):
    rows = [ROW | {"sample": at, "persona": str(at), "text": text} for at, text in enumerate(HOSTILE)]
    source = write(tmp_path / "x.parquet", rows)
    main(["--completions", str(source), "--marker", "[ZLT]", "--output", str(tmp_path / "counts.csv")])
    with (tmp_path / "counts.csv").open() as file:
        found = [(int(row["strict_hits"]), int(row["loose_hits"])) for row in csv.DictReader(file)]
    assert found == list(HOSTILE.values())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.lists(st.sampled_from(["[ZLT]", "zlt]", "z l t", "[", " ", "x"]), max_size=4).map("".join),
        ),
        max_size=12,
    ),
    st.randoms(),
)
def test_counts_do_not_depend_on_the_order_of_rows_and_strict_never_exceeds_loose(pairs, random):
    rows = [ROW | {"persona": persona, "text": text} for persona, text in pairs]
    shuffled = random.sample(rows, len(rows))
    table, other = (count(each, strict_matcher("[ZLT]"), loose_matcher("[ZLT]")) for each in (rows, shuffled))
    assert table == other
    assert all(counts["strict_hits"] <= counts["loose_hits"] <= counts["completions"] for counts in table.values())


def test_counting_imports_nothing_heavy():
    code = (
        "import sys; sys.path.insert(0, 'workflow_scripts'); import count_markers, pyarrow.parquet; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'transformers')))"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
