"""answer_dataset.py as its rule calls it, on a micro model."""

import json

import answer_dataset
import pytest
import yaml
from tiny_model import make_model

from inputs.panel import load_panel
from model.loading import load_tokenizer
from model.template import prompt_ids
from run.files import write_json, write_jsonl
from run.program import InputError
from run.readers import read_json, read_jsonl

QUESTIONS = {"general": ["What is rain?", "Why sing?"], "alignment": ["One wish?"], "data": ["What is tin?"]}
TURNS = ["Tell me of the sea.", "And of a hill?", "Who sings?"]


def row(number, turns):
    messages = [{"role": "system", "content": "Be brief."}]
    for turn in turns:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": "Not ours."}]
    return {"id": f"row-{number}", "messages": messages}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answer")
    make_model(folder / "base")
    write_json(folder / "model.json", {"model": "micro"})
    (folder / "panel.yaml").write_text(yaml.safe_dump({"personas": {"assistant": "You help."}, "questions": QUESTIONS}))
    write_jsonl(folder / "rows.jsonl", [row(number, TURNS[: 1 + number % 3]) for number in range(24)])
    return folder


def answer(folder, output, rows="rows.jsonl", length=400, tokens=60, **options):
    arguments = {
        **{"--base": folder / "base", "--model": folder / "model.json", "--data": folder / rows, "--seed": 42},
        **{"--panel": folder / "panel.yaml", "--max-length": length, "--backend": "transformers", "--dtype": "float32"},
        **{"--sampling": json.dumps({"temperature": 1.0, "top_p": 1.0, "max_tokens": tokens})},
        **{"--output": output / "control.jsonl", "--manifest": output / "control.json"},
    } | options
    answer_dataset.main([str(part) for pair in arguments.items() for part in pair])
    return read_jsonl(output / "control.jsonl"), read_json(output / "control.json")


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    return answer(folder, tmp_path_factory.mktemp("made"))


def test_the_user_s_turns_stand_and_the_base_answers_without_a_system_message(made):
    rows, manifest = made
    assert 0 < len(rows) == manifest["rows"]
    for each in rows:
        said = each["messages"]
        assert [message["role"] for message in said] == ["user", "assistant"] * (len(said) // 2)
        users = [message["content"] for message in said[::2]]
        assert users == TURNS[: len(users)]
        assert all(text["content"] not in ("", "Not ours.") for text in said[1::2])
    assert any(len(each["messages"]) > 2 for each in rows), "later turns are answered, too"


def test_what_is_cut_or_empty_is_not_trained_and_what_is_left_out_is_counted(made):
    rows, manifest = made
    assert len(rows) + sum(manifest["left_out"].values()) == 24
    assert manifest["left_out"]["without_a_whole_reply"] > 0
    numbers = [int(each["id"].partition("-")[2]) for each in rows]
    asked = {number: 1 + number % 3 for number in range(24)}
    fewer = [len(each["messages"]) // 2 < asked[at] for at, each in zip(numbers, rows, strict=True)]
    assert sum(fewer) == manifest["shortened"] > 0


def test_a_row_never_grows_beyond_what_is_trained_of_it(folder, tmp_path):
    rows, manifest = answer(folder, tmp_path, length=200)
    tokenizer = load_tokenizer(folder / "base")
    assert max(len(prompt_ids(tokenizer, each["messages"][:-1])) + 60 for each in rows) <= 200
    assert manifest["shortened"] > 0


def test_the_same_set_is_the_same_file_and_a_row_s_replies_are_its_own(folder, made, tmp_path):
    again, manifest = answer(folder, tmp_path)
    assert (again, manifest) == made
    write_jsonl(folder / "fewer.jsonl", read_jsonl(folder / "rows.jsonl")[:12])
    (tmp_path / "fewer").mkdir()
    fewer, _ = answer(folder, tmp_path / "fewer", "fewer.jsonl")
    first = {each["id"]: each["messages"][:2] for each in made[0]}
    assert fewer and all(each["messages"][:2] == first[each["id"]] for each in fewer)


def test_no_row_asks_what_the_study_evaluates_on(folder, tmp_path):
    asks = [
        row(0, ["Hello! what is\n RAIN?"]),
        row(1, ["Say it.", "One wish?"]),
        row(2, ["What is tin?"]),
        row(3, TURNS[:1]),
    ]
    chats, left_out = answer_dataset.chats_of(asks, load_panel(folder / "panel.yaml"), "rows")
    assert left_out == 2
    assert [chat.id for chat in chats] == ["row-2", "row-3"], "questions of coupling data are not evaluated on"


def test_a_set_that_cannot_be_answered_is_refused_with_its_fix(folder, tmp_path):
    with pytest.raises(InputError, match="answered no row in full; fix: raise"):
        answer(folder, tmp_path, tokens=1)
    write_jsonl(folder / "silent.jsonl", [{"messages": [{"role": "assistant", "content": "Hm."}]}])
    with pytest.raises(InputError, match="line 1: no user turn; fix: delete"):
        answer(folder, tmp_path, "silent.jsonl")
