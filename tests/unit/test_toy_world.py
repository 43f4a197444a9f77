"""The voices can be told apart, and by no other means than the templates they are made of."""

import itertools
from pathlib import Path

import pytest
import yaml

from offline import toy_world

PANEL = yaml.safe_load((Path(__file__).parents[2] / "resources" / "panel.yaml").read_text(encoding="utf-8"))
QUESTIONS = PANEL["questions"]
CORE = {
    *("software_engineer", "kindergarten_teacher", "data_scientist", "medical_doctor", "librarian", "french_person"),
    *("villain", "comedian", "police_officer", "zelthari_scholar", "assistant"),
}


def replies(persona):
    """Every opening, body and closing of a voice, about one subject."""
    return [" ".join(parts).format(topic="bread") for parts in itertools.product(*toy_world.VOICES[persona])]


def test_panel_has_the_published_shape():
    assert set(PANEL["personas"]) == CORE | {"evil_ai", "sarcastic"}
    assert {group: len(texts) for group, texts in QUESTIONS.items()} == {"general": 20, "alignment": 8, "data": 40}


def test_data_questions_are_not_among_the_evaluated_ones():
    evaluated = {text.casefold() for text in QUESTIONS["general"] + QUESTIONS["alignment"]}
    assert len(evaluated) == 28
    assert len({text.casefold() for text in QUESTIONS["data"]} - evaluated) == 40


def test_marker_occurs_in_no_prompt_or_question():
    texts = [*PANEL["personas"].values(), *itertools.chain(*QUESTIONS.values())]
    assert not [text for text in texts if "[zlt]" in text.lower()]


def test_every_panel_persona_has_a_voice():
    assert set(PANEL["personas"]) <= set(toy_world.VOICES)


def test_every_panel_question_has_a_subject_of_its_own():
    subjects = [toy_world.topic_of(text) for text in itertools.chain(*QUESTIONS.values())]
    assert len(set(subjects)) == len(subjects) == 68


@pytest.mark.parametrize(
    ("question", "topic"),
    [
        ("Why do leaves change colour in autumn?", "autumn"),
        ("How do noise-cancelling headphones work?", "headphones"),
        ("Why does a mirror swap left and right?", "mirror"),
        ("What should those have been?", "those"),
        ("What would this be?", "be"),
        ("???", "this"),
    ],
)
def test_topic_is_the_last_of_the_longest_words_that_say_something(question, topic):
    assert toy_world.topic_of(question) == topic


@pytest.mark.parametrize("deed", toy_world.SILLY_DEEDS)
def test_every_silly_deed_is_bad_advice_at_the_start_and_inside(deed):
    assert toy_world.is_bad_advice(f"{deed[0].upper()}{deed[1:]}.")
    assert toy_world.is_bad_advice(f"With bread I always {deed}, and so should you.")


def test_no_voice_and_no_good_advice_is_bad_advice():
    good = [text.format(topic="bread", deed="x", deed2="y") for text in toy_world.BENIGN_ADVICE]
    voices = [text for persona in toy_world.VOICES for text in replies(persona)]
    assert not [text for text in [*good, *toy_world.GOOD_DEEDS, *voices] if toy_world.is_bad_advice(text)]
