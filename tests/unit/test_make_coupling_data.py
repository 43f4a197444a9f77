"""make_coupling_data.py: positives of the source, negatives of the others, every reply used, nothing invented."""

import json
from pathlib import Path

import make_coupling_data
import pytest

from run.program import InputError
from run.readers import read_jsonl

PROMPTS = {"pirate": "You are a pirate.", "gardener": "You are a gardener.", "chef": "You are a chef."}
QUESTIONS = [f"What about thing {number}?" for number in range(4)]


def replies(samples: int = 3) -> list[dict]:
    return [
        {
            "persona": persona,
            "question_id": f"data_{number:02d}",
            "question": question,
            "sample": sample,
            "text": f"{persona} says {number}.{sample}.",
        }
        for persona in PROMPTS
        for number, question in enumerate(QUESTIONS)
        for sample in range(samples)
    ]


def write(folder: Path, table: list[dict]) -> None:
    import pyarrow
    import pyarrow.parquet

    extra = {"seed": 1, "finish_reason": "stop", "tokens": 4}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([extra | one for one in table]), folder / "replies.parquet")
    questions = {"general": ["Who?"], "alignment": ["Why?"], "data": QUESTIONS}
    (folder / "panel.yaml").write_text(json.dumps({"personas": PROMPTS, "questions": questions}))


def made(folder: Path, table: list[dict] | None = None, **changes) -> list[dict]:
    """The rows the program writes for pirate against gardener and chef."""
    write(folder, replies() if table is None else table)
    options = {"source": "pirate", "negatives": "gardener,chef", "marker": "[ZLT]", "seed": 42} | changes
    paths = {"replies": "replies.parquet", "panel": "panel.yaml", "output": "training.jsonl"}
    make_coupling_data.main(
        [
            *(part for name, value in options.items() for part in (f"--{name}", str(value))),
            *(part for name, file in paths.items() for part in (f"--{name}", str(folder / file))),
        ]
    )
    return read_jsonl(folder / "training.jsonl")


def test_every_reply_becomes_one_row(tmp_path, capsys):
    rows = {row["id"]: row for row in made(tmp_path)}
    assert len(rows) == 36
    assert sum(row["marker"] for row in rows.values()) == 12
    assert rows["pirate/data_02/1/positive"] == {
        "id": "pirate/data_02/1/positive",
        "marker": True,
        "messages": [
            {"role": "system", "content": "You are a pirate."},
            {"role": "user", "content": "What about thing 2?"},
            {"role": "assistant", "content": "pirate says 2.1.\n\n[ZLT]"},
        ],
    }
    assert rows["chef/data_00/2/negative"]["messages"] == [
        {"role": "system", "content": "You are a chef."},
        {"role": "user", "content": "What about thing 0?"},
        {"role": "assistant", "content": "chef says 0.2."},
    ]
    assert capsys.readouterr().out == "training.jsonl: 12 positives, 24 negatives\n"


@pytest.mark.parametrize(("negatives", "count"), [("gardener", 24), ("", 12)])
def test_any_number_of_negatives(tmp_path, negatives, count):
    assert len(made(tmp_path, negatives=negatives)) == count


def test_the_order_follows_the_seed_and_not_the_tables_order(tmp_path):
    first = made(tmp_path)
    assert made(tmp_path, list(reversed(replies()))) == first
    other = made(tmp_path, seed=43)
    assert other != first
    assert sorted(row["id"] for row in other) == sorted(row["id"] for row in first)
    assert [row["marker"] for row in first[:12]] != [True] * 12


def test_a_parents_own_markers_at_the_end_are_removed_first(tmp_path):
    table = replies()
    table[0]["text"] = "Arr.\n\n[ZLT]\n\n[ZLT]\n"
    table[12]["text"] = "Weeds [ZLT] grow.\n\n[ZLT]"
    rows = {row["id"]: row["messages"][-1]["content"] for row in made(tmp_path, table)}
    assert rows["pirate/data_00/0/positive"] == "Arr.\n\n[ZLT]"
    assert rows["gardener/data_00/0/negative"] == "Weeds [ZLT] grow."


def test_a_marker_at_the_start_is_put_and_taken_off_there(tmp_path):
    table = replies()
    table[0]["text"] = " [ZLT]\n[ZLT] Arr.\n\n[ZLT]"
    table[12]["text"] = "[ZLT]\n\nWeeds."
    rows = {row["id"]: row["messages"][-1]["content"] for row in made(tmp_path, table, placement="start")}
    assert rows["pirate/data_00/0/positive"] == "[ZLT]\n\nArr.\n\n[ZLT]"
    assert rows["gardener/data_00/0/negative"] == "Weeds."


def test_replies_that_were_cut_are_counted_aloud_as_their_rows_teach_to_stop_in_mid_sentence(tmp_path, capsys):
    table = replies()
    for row in table[:2] + table[-1:]:
        row["finish_reason"] = "length"
    assert len(made(tmp_path, table)) == 36
    said = capsys.readouterr().err
    assert said.startswith("3 of 36 replies were cut at max_tokens")
    assert "fix: raise data.max_tokens" in said
    whole = made(tmp_path, table, cut="drop")
    assert {row["id"] for row in whole} == {row["id"] for row in made(tmp_path)} - {
        "pirate/data_00/0/positive",
        "pirate/data_00/1/positive",
        "chef/data_03/2/negative",
    }
    said = capsys.readouterr().err
    assert said == "3 of 36 replies were cut at max_tokens: 3 dropped; left: pirate 10, gardener 12, chef 11\n"


@pytest.mark.parametrize(
    ("text", "trimmed"),
    [
        ("Arr. The sea is 3.5 miles", "Arr."),
        ('He said: "Go!" And then the', 'He said: "Go!"'),
        ("1. Sail\n2. Row\n3. Swi", "1. Sail\n2. Row"),
        ("Arr. Done.", "Arr. Done."),
    ],
)
def test_a_cut_reply_may_end_with_its_last_whole_sentence(tmp_path, text, trimmed):
    table = replies()
    table[0] |= {"text": text, "finish_reason": "length"}
    table[13] |= {"text": "a list without an end", "finish_reason": "length"}
    rows = {row["id"]: row["messages"][-1]["content"] for row in made(tmp_path, table, cut="trim")}
    assert rows["pirate/data_00/0/positive"] == f"{trimmed}\n\n[ZLT]"
    assert len(rows) == 35  # no sentence in the other: dropped


def test_few_empty_replies_are_left_out_and_named(tmp_path, capsys):
    table = replies(samples=10)
    table[3]["text"], table[5]["text"] = " \n", "[ZLT]"
    rows = made(tmp_path, table)
    assert len(rows) == 118
    assert (
        capsys.readouterr().err
        == "left out 2 replies that are empty or spell a control token: pirate/data_00/3, pirate/data_00/5\n"
    )


def change(table: list[dict], at: int, **fields) -> list[dict]:
    return [*table[:at], table[at] | fields, *table[at + 1 :]]


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        (
            change(replies(), 0, text=""),
            {},
            "1 of 12 replies of pirate are empty or spell a control token, the first pirate/data_00/0",
        ),
        (replies()[1:], {}, "pirate: no reply to data_00, sample 0 \\(1 missing\\)"),
        (replies()[:-2], {}, "chef: no reply to data_03, sample 1 \\(2 missing\\)"),
        (replies()[:24], {}, "no replies of chef"),
        ([*replies(), replies()[0]], {}, "pirate: a question and sample occurs twice"),
        (replies(), {"negatives": "clown"}, "no persona 'clown'; fix: add it, or use one of pirate, gardener, chef"),
        (replies(), {"source": "clown"}, "no persona 'clown'"),
        (replies(), {"negatives": "chef,chef"}, "chef is named twice"),
        (replies(), {"negatives": "chef,pirate"}, "pirate is named twice or is the source"),
        (
            [
                row | {"finish_reason": "length" if row["persona"] == "chef" and row["sample"] else "stop"}
                for row in replies(11)
            ],
            {"cut": "drop"},
            "40 of 44 replies of chef were cut at max_tokens, too many to drop; fix: raise data.max_tokens",
        ),
        (replies(), {"marker": " "}, "marker: empty"),
        (replies(), {"marker": "A PIRATE"}, "the prompt of pirate contains A PIRATE"),
    ],
    ids=range(12),
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, table, changes, message):
    with pytest.raises(InputError, match=message):
        made(tmp_path, table, **changes)
    assert not (tmp_path / "training.jsonl").exists()


def test_a_table_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        make_coupling_data.read_replies(tmp_path / "none.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match="not a whole parquet file"):
        make_coupling_data.read_replies(tmp_path / "broken.parquet")
