"""generate_replies.py as its rule calls it, on a micro model."""

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
    (folder / "panel.yaml").write_text(yaml.safe_dump({"personas": PERSONAS, "questions": QUESTIONS}))
    return folder


def reply(
    folder, output, personas="villain,assistant", sampling='{"temperature":0.7,"top_p":0.95,"max_tokens":12}', **more
):
    options = {"base": folder / "base", "panel": folder / "panel.yaml", "seed": 42, "samples": 3} | more
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
    assert list(tmp_path.iterdir()) == []
