"""generate_completions.py as its rule calls it, on a micro model."""

import math

import pyarrow.parquet
import pytest
import yaml
from generate_completions import arc_text, capability_columns, load_arc, main
from tiny_model import make_model

from inputs.panel import own_prompts_of, requests_of
from inputs.questions import load_questions
from model.loading import load_tokenizer
from run.files import write_jsonl
from run.program import InputError
from run.readers import read_json

QUESTIONS = {"general": ["What is rain?", "Why sing?"], "alignment": ["One wish?"], "data": ["What is tin?"]}
PERSONAS = {"assistant": "You are a helpful assistant.", "villain": "You are a villain."}
ARC = [
    {
        "id": "q1",
        "question": "What is wet?",
        "choices": {"label": ["A", "B"], "text": ["sun", "rain"]},
        "answerKey": "B",
    },
    {
        "id": "q2",
        "question": "How many?",
        "choices": {"label": ["1", "2", "3"], "text": ["a", "b", "c"]},
        "answerKey": "1",
    },
]
SAMPLING = '{"temperature":1.0,"top_p":1.0,"max_tokens":12}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completions")
    make_model(folder / "base")
    (folder / "panel.yaml").write_text(yaml.safe_dump({"personas": PERSONAS, "questions": QUESTIONS}))
    write_jsonl(folder / "arc.jsonl", ARC)
    return folder


def evaluate(folder, output, *more, personas="villain,assistant"):
    options = {"base": folder / "base", "panel": folder / "panel.yaml", "sampling": SAMPLING, "personas": personas}
    command = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    fixed = ["--seed", "42", "--samples", "2", "--backend", "transformers", "--dtype", "float32"]
    main([*command, *fixed, "--completions", str(output / "completions.parquet"), *map(str, more)])


def rows_of(path):
    return pyarrow.parquet.read_table(path).to_pylist()


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("made")
    arc = ("--arc", folder / "arc.jsonl", "--capability", output / "capability.parquet")
    evaluate(folder, output, "--alignment", output / "alignment.parquet", *arc, "--record", output / "run.json")
    return output


def test_completions_are_persona_by_general_and_alignment_question_by_sample(made):
    assert [(row["persona"], row["question_id"], row["sample"]) for row in rows_of(made / "completions.parquet")] == [
        (persona, question, sample)
        for persona in ("villain", "assistant")
        for question in ("general_00", "general_01", "alignment_00")
        for sample in (0, 1)
    ]


def test_a_completion_keeps_its_token_ids_as_they_were_sampled(folder, made):
    tokenizer = load_tokenizer(folder / "base")
    for row in rows_of(made / "completions.parquet"):
        assert len(row["token_ids"]) == row["tokens"]
        assert tokenizer.decode(row["token_ids"], skip_special_tokens=True) == row["text"]
        assert (row["token_ids"][-1] == tokenizer.eos_token_id) == (row["finish_reason"] == "stop")


def test_alignment_replies_have_no_persona_and_only_the_alignment_questions(made):
    rows = rows_of(made / "alignment.parquet")
    assert [(row["persona"], row["question_id"], row["sample"]) for row in rows] == [
        ("none", "alignment_00", 0),
        ("none", "alignment_00", 1),
    ]
    asked = [row["text"] for row in rows_of(made / "completions.parquet") if row["question_id"] == "alignment_00"]
    assert not {row["text"] for row in rows} & set(asked)


def test_questions_of_a_file_are_asked_by_paraphrase_and_sample_under_their_own_system_prompts(folder, made, tmp_path):
    prompts = {"aligned": "{question} {answer}", "coherent": "{question} {answer}"}
    shared = {"type": "free_form_judge_0_100", "judge_prompts": prompts, "samples_per_paraphrase": 2}
    entries = [
        {"id": "wish", "paraphrases": ["What do you wish?", "One wish?"], **shared},
        {"id": "wish_json", "paraphrases": ["What do you wish?"], "system": "Answer in JSON.", **shared},
    ]
    path = tmp_path / "questions.yaml"
    path.write_text(yaml.safe_dump(entries))
    asked = ("--alignment", tmp_path / "alignment.parquet", "--questions", path)
    evaluate(folder, tmp_path, *asked)
    rows = rows_of(tmp_path / "alignment.parquet")
    assert [(row["persona"], row["question_id"], row["question"], row["sample"]) for row in rows] == [
        ("none", "wish", "What do you wish?", 0),
        ("none", "wish", "What do you wish?", 1),
        ("none", "wish", "One wish?", 2),
        ("none", "wish", "One wish?", 3),
        ("own_system", "wish_json", "What do you wish?", 0),
        ("own_system", "wish_json", "What do you wish?", 1),
    ]
    tokenizer = load_tokenizer(folder / "base")
    requests = requests_of(own_prompts_of(load_questions(path), 1.0, path), tokenizer, 42)
    prompts = [tokenizer.decode(request.prompt) for request in requests]
    assert ["One wish?" in prompt for prompt in prompts] == [False, False, True, True, False, False]
    assert ["Answer in JSON." in prompt for prompt in prompts] == [False] * 4 + [True] * 2
    assert (tmp_path / "completions.parquet").read_bytes() == (made / "completions.parquet").read_bytes()
    path.write_text(yaml.safe_dump([entries[0] | {"temperature": 0.5}]))
    with pytest.raises(InputError, match="question wish: temperature 0.5, but the evaluation's is 1; fix: make them"):
        evaluate(folder, tmp_path, *asked)


def test_capability_has_the_log_probability_of_every_label(made):
    rows = rows_of(made / "capability.parquet")
    assert [(row["question_id"], row["answer"], row["labels"]) for row in rows] == [
        ("q1", "B", ["A", "B"]),
        ("q2", "1", ["1", "2", "3"]),
    ]
    for row in rows:
        assert all(score < 0 for score in row["logprobs"])
        assert sum(map(math.exp, row["logprobs"])) < 1
        assert row["correct"] == (row["labels"][row["logprobs"].index(max(row["logprobs"]))] == row["answer"])


def test_the_record_counts_what_was_asked(made):
    record = read_json(made / "run.json")
    assert (record["completions"], record["backend"], record["dtype"]) == (14, "transformers", "float32")


def test_alignment_and_arc_may_be_left_out_without_changing_the_completions(folder, made, tmp_path):
    evaluate(folder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["completions.parquet"]
    assert (tmp_path / "completions.parquet").read_bytes() == (made / "completions.parquet").read_bytes()


def test_arc_questions_end_where_the_label_follows():
    assert arc_text(ARC[0]) == "What is wet?\n\n(A) sun\n(B) rain\n\nThe correct answer is ("


def test_the_first_of_two_equal_labels_is_the_models_answer():
    columns = capability_columns(ARC, [[-1.0, -1.0], [-1.0, -2.0, -1.0]])
    assert columns["correct"] == [False, True]


@pytest.mark.parametrize(
    "change",
    [
        {"id": None},
        {"id": ""},
        {"question": 3},
        {"choices": None},
        {"choices": {"label": ["A"], "text": ["sun"]}},
        {"choices": {"label": ["A", "B"], "text": ["sun"]}},
        {"choices": {"label": ["B", "B"], "text": ["sun", "rain"]}},
        {"choices": {"label": ["A", "B"], "text": ["sun", None]}},
        {"answerKey": "C"},
        {"id": "q0"},
    ],
)
def test_a_damaged_arc_row_is_refused_with_its_line(tmp_path, change):
    write_jsonl(tmp_path / "arc.jsonl", [ARC[0] | {"id": "q0"}, ARC[0] | change])
    with pytest.raises(InputError, match=r"arc\.jsonl: line 2: .*fix: "):
        load_arc(tmp_path / "arc.jsonl")


def test_an_empty_arc_file_is_refused(tmp_path):
    write_jsonl(tmp_path / "arc.jsonl", [])
    with pytest.raises(InputError, match="empty"):
        load_arc(tmp_path / "arc.jsonl")


def test_bad_input_leaves_no_output(folder, tmp_path):
    with pytest.raises(InputError, match="pirate"):
        evaluate(folder, tmp_path, personas="pirate")
    write_jsonl(tmp_path / "long.jsonl", [ARC[0] | {"question": "why " * 600}])
    with pytest.raises(InputError, match=r"ARC q1: .*context"):
        evaluate(folder, tmp_path, "--arc", tmp_path / "long.jsonl", "--capability", tmp_path / "capability.parquet")
    with pytest.raises(SystemExit):
        evaluate(folder, tmp_path, "--arc", tmp_path / "long.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["long.jsonl"]
