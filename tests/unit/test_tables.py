import pytest
from records import InputError
from tables import counted, percent, read_table, write_csv, write_markdown


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


def test_a_pipe_does_not_break_a_markdown_table(tmp_path):
    write_markdown(tmp_path / "t.md", "Title", "", ["a"], [["x|y"]])
    assert "x\\|y" in (tmp_path / "t.md").read_text()
