"""The panel file, and the chats and requests made from it."""

import pytest
import yaml
from tiny_model import PANEL, make_model

from inputs.panel import COLUMNS, check_room, columns_of, load_panel, prompts_of, requests_of
from model.engines import Completion, Request, Sampling
from run.program import InputError

SMALL = {
    "personas": {"assistant": "You are a helpful assistant.", "villain": "You are a villain."},
    "questions": {"general": ["What is rain?", "Why sing?"], "alignment": ["One wish?"], "data": ["What is tin?"]},
}


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "panel.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from model.loading import load_tokenizer

    return load_tokenizer(make_model(tmp_path_factory.mktemp("base")))


def changed(tmp_path, **parts):
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(SMALL | parts))
    return path


def test_the_own_panel_has_the_sizes_of_the_protocol():
    panel = load_panel(PANEL)
    assert len(panel.personas) == 13
    assert {group: len(texts) for group, texts in panel.questions.items()} == {
        "general": 20,
        "alignment": 8,
        "data": 40,
    }


def test_question_ids_are_group_and_place(small):
    assert list(load_panel(small).questions["general"]) == ["general_00", "general_01"]


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"personas": {}}, "personas"),
        ({"personas": {"assistant": 3}}, "personas: assistant"),
        ({"personas": {"assistant": "  "}}, "personas: assistant"),
        ({"personas": {"none": "You are."}}, "none means no system message"),
        ({"questions": SMALL["questions"] | {"data": []}}, "questions: data"),
        ({"questions": SMALL["questions"] | {"data": [None]}}, "data_00"),
        ({"questions": {"general": ["?"]}}, "general, alignment, data"),
        ({"questions": SMALL["questions"] | {"data": ["Why sing?"]}}, "data_00 repeats general_01"),
        ({"extra": 1}, "exactly two parts"),
    ],
)
def test_a_damaged_panel_is_refused_with_its_place_and_a_fix(tmp_path, parts, named):
    with pytest.raises(InputError, match="fix: ") as caught:
        load_panel(changed(tmp_path, **parts))
    assert named in str(caught.value)


def test_a_missing_panel_and_one_that_is_not_yaml_are_one_line_errors(tmp_path):
    (tmp_path / "bad.yaml").write_text("personas: [")
    for name in ("absent.yaml", "bad.yaml"):
        with pytest.raises(InputError, match=name) as caught:
            load_panel(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_asks_are_persona_by_question_by_sample(small):
    rows = prompts_of(load_panel(small), ["villain", "none"], ["general", "alignment"], 2)
    assert [(row.persona, row.question_id, row.sample) for row in rows] == [
        (persona, question, sample)
        for persona in ("villain", "none")
        for question in ("general_00", "general_01", "alignment_00")
        for sample in (0, 1)
    ]
    assert [message["role"] for message in rows[0].messages] == ["system", "user"]
    assert [message["role"] for message in rows[-1].messages] == ["user"]


@pytest.mark.parametrize("personas", [["pirate"], ["villain", "villain"], []])
def test_unknown_doubled_and_no_personas_are_refused(small, personas):
    with pytest.raises(InputError, match="fix: "):
        prompts_of(load_panel(small), personas, ["general"], 1)


def test_no_samples_are_refused(small):
    with pytest.raises(InputError, match="samples"):
        prompts_of(load_panel(small), ["villain"], ["general"], 0)


def test_adding_a_persona_or_a_sample_leaves_all_other_requests_as_they_were(small, tokenizer):
    panel = load_panel(small)
    few = requests_of(prompts_of(panel, ["villain"], ["general"], 2), tokenizer, 42)
    more = prompts_of(panel, ["assistant", "villain"], ["general"], 3)
    kept = [
        request
        for ask, request in zip(more, requests_of(more, tokenizer, 42), strict=True)
        if ask.persona == "villain" and ask.sample < 2
    ]
    assert kept == few


def test_every_request_has_a_seed_of_its_own_and_another_node_seed_changes_all(small, tokenizer):
    rows = prompts_of(load_panel(small), ["assistant", "villain"], ["general"], 3)
    first, second = ([r.seed for r in requests_of(rows, tokenizer, seed)] for seed in (42, 137))
    assert len({*first, *second}) == 2 * len(rows)
    assert all(r.seed is None for r in requests_of(rows, tokenizer, 42, own_seeds=False))


def test_a_prompt_that_does_not_fit_the_context_is_named(small, tokenizer):
    rows = prompts_of(load_panel(small), ["villain"], ["general"], 1)
    requests = requests_of(rows, tokenizer, 1)
    longest = max(len(request.prompt) for request in requests)
    check_room(rows, requests, 10, longest + 10)
    with pytest.raises(InputError, match="villain, general_0"):
        check_room(rows, requests, 11, longest + 10)


def test_columns_keep_the_asks_order_and_the_engines_seed_where_requests_have_none(small):
    rows = prompts_of(load_panel(small), ["villain"], ["data"], 2)
    requests = [Request((1,), 7), Request((1,), None)]
    done = [Completion((5, 2), "a", "stop"), Completion((5, 6, 7), "b", "length")]
    columns = columns_of(rows, requests, done, Sampling(0.7, 0.95, 3), 42)
    assert list(columns) == list(COLUMNS)
    assert columns["seed"] == [7, 42]
    assert columns["tokens"] == [2, 3]
    assert columns["finish_reason"] == ["stop", "length"]
    assert columns["top_p"] == [0.95, 0.95]
