import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measure.tables import counted, parsed, percent, read_table, write_csv, write_markdown
from run.program import InputError


def test_a_table_comes_back_as_it_was_written(tmp_path):
    rows = [{"name": "a,b", "n": 3, "rate": 0.5, "none": None}, {"name": "c", "n": 0, "rate": 1e-9, "none": None}]
    write_csv(tmp_path / "t.csv", ["name", "n", "rate", "none"], rows)
    assert read_table(tmp_path / "t.csv", ["name"]) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no header"),
        ("a,b\n1\n", "line 2: not 2 fields"),
        ("a,b\n1,2\n1,2,3\n", "line 3: not 2 fields"),
        ("a,c\n", "no column b"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "t.csv", ["b"])


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0, "0%"), (1, "100%"), (0.0004, "<0.1%"), (0.9999, ">99.9%"), (3 / 280, "1.1%"), (0.5, "50.0%"), (None, "-")],
)
def test_only_none_prints_as_zero_and_only_all_as_a_hundred(rate, text):
    assert percent(rate) == text


def test_a_rate_is_printed_with_its_numerator_and_denominator():
    assert counted(3, 280, 0.0036, 0.031) == "3/280 = 1.1% [0.4, 3.1]"
    assert counted(0, 0) == counted(None, None) == "-"


def test_neither_a_pipe_nor_a_line_end_breaks_a_markdown_table(tmp_path):
    write_markdown(tmp_path / "t.md", "Title", "", ["a"], [["x|y\nz"]])
    assert "x\\|y z" in (tmp_path / "t.md").read_text()


HOSTILE = [
    '=HYPERLINK("http://x")',
    "\x1b[2J\x00\x07",
    "</script><script>",
    "a\r\nb\rc\nd",
    "a\rb",
    '"',
    "\u202e\ufeff",
    "x" * 200_000,
]


def test_hostile_text_comes_back_as_it_was_written_and_does_nothing(tmp_path):
    """A table is data: what a spreadsheet would compute, a terminal act on or a browser run stays text."""
    rows = [{"answer": text, "alignment": 3} for text in HOSTILE]
    write_csv(tmp_path / "t.csv", ["answer", "alignment"], rows)
    assert read_table(tmp_path / "t.csv") == rows


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("tables") / "t.csv"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.text(), st.none() | st.integers(-(10**17), 10**17) | st.floats(-1e9, 1e9)), unique=True))
def test_any_row_comes_back_as_it_was_written_or_as_the_number_that_it_spells(scratch, pairs):
    rows = [{"text": text, "rate": number, "end": "."} for text, number in pairs]
    write_csv(scratch, ["text", "rate", "end"], rows)
    assert read_table(scratch) == [row | {"text": parsed(row["text"])} for row in rows]


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-Infinity", "1_000", "\u0663", " 3", "1e999", "9" * 5000, "0x1", "1e", "--1", "\uff11"]
)
def test_what_only_python_takes_for_a_number_is_text(text):
    assert parsed(text) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b,rate\nx,0.5", "the last line does not end"),
        ("b,rate\nx,nan\n", "line 2: rate is 'nan', not a number"),
        ("b,ours,ours_n\nx,y,3\n", "line 2: ours is 'y', not a number"),
        ("b\nx\ny\nx\n", "line 4: the same as line 2"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=rf"t.csv: .*{message}.*; fix: "):
        read_table(tmp_path / "t.csv")


def test_a_column_that_a_reader_misses_is_named_with_the_file(tmp_path):
    (tmp_path / "t.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match=r"t.csv: line 1: no column b; fix: "):
        read_table(tmp_path / "t.csv")[0]["b"]
