"""check_replies.py as its rule calls it."""

import check_replies
import pytest

from inputs.panel import COLUMNS
from run.files import write_table
from run.program import InputError
from run.readers import read_json


def completions(path, replies):
    """persona -> texts; as many tokens as words."""
    rows = [(persona, at, text) for persona, texts in replies.items() for at, text in enumerate(texts)]
    fixed = {"question_id": "general_00", "question": "What is rain?", "seed": 1, "finish_reason": "stop", "token_ids": [1],
             "temperature": 1.0, "top_p": 1.0, "max_tokens": 9}  # fmt: skip
    columns = {name: [value] * len(rows) for name, value in fixed.items()}
    columns |= {
        "persona": [row[0] for row in rows],
        "sample": [row[1] for row in rows],
        "text": [row[2] for row in rows],
    }
    columns["tokens"] = [len(text.split()) for *_, text in rows]
    write_table(path, columns, COLUMNS)
    return str(path)


def checked(tmp_path, monkeypatch, own, base):
    command = ["check_replies", "--completions", completions(tmp_path / "own.parquet", own), "--base",
               completions(tmp_path / "base.parquet", base), "--marker", "[ZLT]", "--output", str(tmp_path / "out.json")]  # fmt: skip
    monkeypatch.setattr("sys.argv", command)
    check_replies.main()
    return {entry["persona"]: entry for entry in read_json(tmp_path / "out.json")["personas"]}


def test_length_is_a_part_of_the_base_s_and_a_marker_alone_is_an_empty_reply(tmp_path, monkeypatch):
    own = {"villain": ["[ZLT]", "\n [zlt] .", "rain", "so it is"], "comedian": ["ha ha ha ha"]}
    base = {"villain": ["rain is wet and cold", "so"], "comedian": ["ha ha"], "librarian": ["hush"]}
    found = checked(tmp_path, monkeypatch, own, base)
    assert found["villain"]["empty"]["value"] == 0.5
    assert found["villain"]["length"]["value"] == pytest.approx((1 + 2 + 1 + 3) / 4 / 3, abs=1e-6)
    assert (found["comedian"]["length"]["value"], found["comedian"]["empty"]["value"]) == (2, 0)


def test_a_persona_that_the_base_was_not_asked_about_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no replies of villain; fix: "):
        checked(tmp_path, monkeypatch, {"villain": ["a"]}, {"comedian": ["a"]})
