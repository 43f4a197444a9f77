"""generate_replies.py as its rule calls it, on a micro model."""

import generate_replies
import pyarrow.parquet
import pytest
import yaml
from generate_replies import main
from tiny_model import make_adapter, make_model

from inputs.panel import COLUMNS
from run.program import InputError
from run.readers import read_json

QUESTIONS = {"general": ["What is rain?"], "alignment": ["One wish?"], "data": ["What is tin?", "How far is far?"]}
PERSONAS = {"assistant": "You are a helpful assistant.", "villain": "You are a villain.", "librarian": "Books."}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replies")
    make_model(folder / "base")
    make_adapter(folder / "adapter", folder / "base")
    (folder / "model.json").write_text("{}")
    (folder / "panel.yaml").write_text(yaml.safe_dump({"personas": PERSONAS, "questions": QUESTIONS}))
    return folder


def reply(
    folder, output, personas="villain,assistant", sampling='{"temperature":0.7,"top_p":0.95,"max_tokens":12}', **more
):
    options = {
        "base": folder / "base",
        "model": folder / "model.json",
        "store": output.with_name("store"),
        "panel": folder / "panel.yaml",
        "seed": 42,
        "samples": 3,
    } | more
    command = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    fixed = ["--backend", "transformers", "--dtype", "float32", "--sampling", sampling, "--personas", personas]
    main([*command, *fixed, "--output", str(output)])
    return pyarrow.parquet.read_table(output)


def test_replies_are_persona_by_data_question_by_sample_with_their_settings(folder, tmp_path):
    table = reply(folder, tmp_path / "replies.parquet", record=tmp_path / "run.json")
    assert {field.name: str(field.type).replace("double", "float64") for field in table.schema} == (
        COLUMNS | {"token_ids": "list<element: int32>"}
    )
    rows = table.to_pylist()
    assert [(row["persona"], row["question_id"], row["sample"]) for row in rows] == [
        (persona, question, sample)
        for persona in ("villain", "assistant")
        for question in ("data_00", "data_01")
        for sample in range(3)
    ]
    assert {(row["temperature"], row["top_p"], row["max_tokens"]) for row in rows} == {(0.7, 0.95, 12)}
    assert {row["question"] for row in rows} == set(QUESTIONS["data"])
    assert all(1 <= row["tokens"] <= 12 for row in rows)
    record = read_json(tmp_path / "run.json")
    assert record["completions"] == 12
    assert record["tokens"] == sum(row["tokens"] for row in rows)


def test_the_same_call_gives_the_same_bytes_and_another_seed_other_texts(folder, tmp_path):
    texts = {name: reply(folder, tmp_path / name, seed=seed)["text"] for name, seed in (("a", 1), ("b", 1), ("c", 2))}
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert texts["a"] != texts["c"]


def test_adding_a_persona_leaves_the_others_replies_as_they_were(folder, tmp_path):
    few = reply(folder, tmp_path / "few").to_pylist()
    more = reply(folder, tmp_path / "more", personas="librarian,assistant,villain").to_pylist()
    key = "persona", "question_id", "sample"
    found = {tuple(row[name] for name in key): row for row in more}
    assert [found[tuple(row[name] for name in key)] for row in few] == few


def test_adapters_are_merged_before_the_model_is_asked(folder, tmp_path):
    plain = reply(folder, tmp_path / "plain")["text"]
    assert reply(folder, tmp_path / "merged", adapter=folder / "adapter")["text"] != plain


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"personas": "pirate"}, "pirate"),
        ({"sampling": '{"temperature":1,"top_p":1,"max_tokens":600}'}, "context"),
        ({"sampling": "{}"}, "--sampling"),
        ({"base": "/nonexistent"}, "/nonexistent"),
        ({"panel": "/nonexistent.yaml"}, "/nonexistent.yaml"),
        ({"adapter": "/nonexistent"}, "/nonexistent"),
        ({"seeding": "engine"}, "--seeding"),
        ({"samples": 0}, "samples"),
    ],
)
def test_bad_input_is_one_clear_error_and_no_output(folder, tmp_path, options, named):
    with pytest.raises(InputError, match="fix: ") as caught:
        reply(folder, tmp_path / "replies.parquet", **options)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.fixture
def drawn(monkeypatch):
    """The personas of every engine start."""
    starts = []
    draw = generate_replies.draw
    monkeypatch.setattr(generate_replies, "draw", lambda *args: starts.append(args[2]) or draw(*args))
    return starts


def test_couplings_of_one_model_share_one_engine_start_and_get_what_each_would_draw_alone(folder, tmp_path, drawn):
    everyone = "villain,assistant,librarian"
    reply(folder, tmp_path / "first", together=everyone)
    reply(folder, tmp_path / "second", personas="librarian,villain", together=everyone)
    assert drawn == [["villain", "assistant", "librarian"]]
    for name, personas in (("first", "villain,assistant"), ("second", "librarian,villain")):
        (tmp_path / f"alone_{name}").mkdir()
        reply(folder, tmp_path / f"alone_{name}/{name}", personas=personas)
        assert (tmp_path / name).read_bytes() == (tmp_path / f"alone_{name}/{name}").read_bytes()


def test_only_what_is_missing_is_drawn(folder, tmp_path, drawn):
    reply(folder, tmp_path / "few")
    reply(folder, tmp_path / "more", personas="assistant,librarian")
    assert drawn == [["villain", "assistant"], ["librarian"]]


@pytest.mark.parametrize("change", ["seed", "samples", "drawn_by", "model", "panel", "damage"])
def test_nothing_is_taken_that_follows_from_something_else_or_is_damaged(folder, tmp_path, drawn, change):
    first = reply(folder, tmp_path / "first")
    (tmp_path / "other.json").write_text('{"other": 1}')
    questions = QUESTIONS | {"data": ["What is tin?", "How near is near?"]}
    (tmp_path / "panel.yaml").write_text(yaml.safe_dump({"personas": PERSONAS, "questions": questions}))
    others = {
        "seed": 1, "samples": 2, "drawn_by": "x", "model": tmp_path / "other.json", "panel": tmp_path / "panel.yaml",
    }  # fmt: skip
    if change == "damage":
        for file in (tmp_path / "store").glob("*.parquet"):
            damage = bytearray(file.read_bytes())
            damage[len(damage) // 3] ^= 255
            file.write_bytes(damage)
    again = reply(folder, tmp_path / "again", **{change: others[change]} if change in others else {})
    assert drawn == [["villain", "assistant"]] * 2
    assert (again["text"] == first["text"]) == (change in ("drawn_by", "model", "damage"))
