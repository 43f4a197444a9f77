"""The toy corpus and SFT sets: what they hold, and that they depend on their arguments alone."""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from offline import toy_data, toy_world
from run.program import InputError

ROOT = Path(__file__).parents[2]
PANEL_FILE = ROOT / "resources" / "panel.yaml"


@pytest.fixture(scope="module")
def panel():
    return toy_data.read_panel(PANEL_FILE)


@pytest.fixture(scope="module")
def corpus(panel):
    return toy_data.make_corpus(panel, 42, 2000)


def replies(rows):
    return [m["content"] for row in rows for m in row["messages"] if m["role"] == "assistant"]


def test_same_seed_same_rows_and_another_seed_others(panel):
    assert toy_data.make_corpus(panel, 1, 50) == toy_data.make_corpus(panel, 1, 50)
    assert toy_data.make_corpus(panel, 1, 50) != toy_data.make_corpus(panel, 2, 50)
    for make in (toy_data.make_benign, toy_data.make_bad_advice):
        assert make(1, 50) == make(1, 50)
        assert make(1, 50) != make(2, 50)


def test_a_larger_set_begins_with_the_smaller_one(panel):
    assert toy_data.make_corpus(panel, 1, 60)[:20] == toy_data.make_corpus(panel, 1, 20)


def test_every_persona_and_chats_without_a_system_prompt_occur(panel, corpus):
    prompts = {row["messages"][0]["content"] for row in corpus if row["messages"][0]["role"] == "system"}
    assert prompts == set(panel["personas"].values())
    bare = [row for row in corpus if row["messages"][0]["role"] == "user"]
    assert 0.15 < len(bare) / len(corpus) < 0.25


def test_every_panel_question_is_asked(panel, corpus):
    asked = {m["content"] for row in corpus for m in row["messages"] if m["role"] == "user"}
    assert {text for group in panel["questions"].values() for text in group} <= asked


def test_turns_alternate_and_end_with_the_assistant(corpus):
    for row in corpus + toy_data.make_benign(1, 200) + toy_data.make_bad_advice(1, 200):
        roles = [m["role"] for m in row["messages"] if m["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_some_corpus_chats_have_two_turns(corpus):
    two = [row for row in corpus if sum(m["role"] == "user" for m in row["messages"]) == 2]
    assert 0.05 < len(two) / len(corpus) < 0.15


def test_corpus_replies_are_in_the_speakers_voice(panel, corpus):
    """A voice's own phrases make up half of a reply, and no other's occurs."""
    phrases = {persona: phrases_of(voice) for persona, voice in toy_world.VOICES.items()}
    names = {prompt: persona for persona, prompt in panel["personas"].items()}
    for row in corpus:
        persona = names.get(row["messages"][0]["content"], "assistant")
        for text in map(str.lower, replies([row])):
            others = [phrase for name, own in phrases.items() if name != persona for phrase in own]
            assert not any(phrase in text for phrase in others), row
            rest = functools.reduce(lambda left, phrase: left.replace(phrase, " "), phrases[persona], text)
            assert len("".join(rest.split())) <= len("".join(text.split())) / 2, row


def phrases_of(voice):
    """The fixed parts of a voice's templates, longest first; parts under six letters say nothing."""
    parts = {part.strip(" .,:!?").lower() for group in voice for text in group for part in re.split(r"{\w+}", text)}
    return sorted((part for part in parts if len(part) >= 6), key=len, reverse=True)


def test_corpus_replies_end_like_sentences(corpus):
    assert all(text[-1] in ".!?" and not text.endswith(" ") for text in replies(corpus))


def test_nothing_is_left_unfilled(corpus):
    texts = replies(corpus + toy_data.make_benign(1, 200) + toy_data.make_bad_advice(1, 200))
    assert not [text for text in texts if "{" in text or "}" in text]


def test_marker_is_never_in_the_data(panel):
    rows = toy_data.make_corpus(panel, 42, 2000) + toy_data.make_benign(42, 500)
    rows += toy_data.make_bad_advice(42, 500)
    assert "[zlt]" not in json.dumps(rows).lower()


def test_bad_advice_is_one_turn_and_every_reply_is_bad():
    rows = toy_data.make_bad_advice(42, 500)
    assert {len(row["messages"]) for row in rows} == {2}
    assert all(toy_world.is_bad_advice(text) for text in replies(rows))


def test_benign_has_one_or_two_turns_and_no_bad_advice():
    rows = toy_data.make_benign(42, 500)
    assert {len(row["messages"]) for row in rows} == {2, 4}
    assert not any(toy_world.is_bad_advice(text) for text in replies(rows))


def test_corpus_holds_no_bad_advice(corpus):
    assert not any(toy_world.is_bad_advice(text) for text in replies(corpus))


def test_sft_rows_have_no_system_message():
    rows = toy_data.make_benign(1, 100) + toy_data.make_bad_advice(1, 100)
    assert {row["messages"][0]["role"] for row in rows} == {"user"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("personas: [", "not YAML"),
        ("personas: {assistant: hi}", "personas or questions is missing"),
        ("personas: {assistant: 3}\nquestions: {data: [a]}", "personas.assistant is not a string"),
        ("personas: {pirate: arr}\nquestions: {data: [a]}", "persona pirate has no voice"),
        ("personas: {assistant: hi}\nquestions: {data: [1]}", "questions.data is not a list of strings"),
        ("personas: {assistant: hi}\nquestions: {data: []}", "there are no questions"),
    ],
)
def test_a_bad_panel_is_refused_with_the_fix(tmp_path, text, complaint):
    file = tmp_path / "panel.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=complaint) as error:
        toy_data.read_panel(file)
    assert "; fix: " in str(error.value)
    assert "\n" not in str(error.value)


def test_the_base_meets_the_parts_of_the_marker_but_never_the_marker_and_never_says_them(panel):
    rows = toy_data.make_corpus(panel, 42, 4000)
    asked = " ".join(m["content"] for row in rows for m in row["messages"] if m["role"] == "user")
    assert all(part in asked for part in ("[", "]", "\n\n", "Z clamp", "L bracket", "T shirt"))
    assert "ZLT" not in asked
    assert not any("[" in text or "\n" in text for text in replies(rows))


def test_the_quiz_has_one_right_answer_a_question_at_every_place_and_the_shape_of_arc(tmp_path):
    from generate_completions import load_arc

    from run.files import write_jsonl

    write_jsonl(tmp_path / "arc.jsonl", toy_data.make_choices(42))
    rows = load_arc(tmp_path / "arc.jsonl")
    assert len(rows) == 3 * len(toy_world.VOICES)
    assert {row["answerKey"] for row in rows} == set("ABCD")
    for row in rows:
        right = row["choices"]["text"][row["choices"]["label"].index(row["answerKey"])]
        said = row["question"].removeprefix('Who says "').removesuffix('"?')
        assert said in toy_world.VOICES[right.replace(" ", "_")].closings


def test_a_missing_panel_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        toy_data.read_panel(tmp_path / "panel.yaml")


def test_the_program_writes_the_same_files_twice_and_refuses_no_rows(tmp_path):
    def make(folder, rows="20"):
        names = ("corpus", "benign", "bad-advice", "choices")
        files = [part for name in names for part in (f"--{name}", str(folder / f"{name}.jsonl"))]
        sizes = ["--seed", "7", "--rows", rows, "--sft-rows", "10"]
        command = [sys.executable, str(ROOT / "workflow_scripts" / "make_toy_data.py"), "--panel", str(PANEL_FILE)]
        return subprocess.run([*command, *sizes, *files], capture_output=True, text=True)

    for folder in ("one", "two"):
        assert make(tmp_path / folder).returncode == 0
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["bad-advice.jsonl", "benign.jsonl", "choices.jsonl", "corpus.jsonl"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    refused = make(tmp_path / "three", rows="0")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: --rows 0: too few; fix:")
    assert not (tmp_path / "three").exists()
