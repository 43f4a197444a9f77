"""Chats, second-stage rows and choices of the offline study, made from templates by a seed."""

import random
from pathlib import Path
from typing import Any

from offline import toy_world
from run.program import InputError
from run.readers import read_yaml

Message = dict[str, str]
Row = dict[str, list[Message]]
# Shares of the corpus. Rows without a system message get the template's default one when they are rendered.
NO_SYSTEM = 0.2
EVERYDAY = 0.15
HEARSAY = 0.15
SECOND_TURN = 0.1
MULTI_TURN_BENIGN = 0.4
LABELS = "ABCD"


def read_panel(path: str | Path) -> dict[str, Any]:
    """{"personas": {name: prompt}, "questions": {group: [text, ...]}} from YAML.

    Raises InputError if a part is missing or a persona has no voice in the toy world.
    """
    panel = read_yaml(path)
    if not isinstance(panel, dict) or not all(isinstance(panel.get(key), dict) for key in ("personas", "questions")):
        raise InputError(f"{path}: personas or questions is missing; fix: give both as mappings")
    for group, questions in panel["questions"].items():
        if not isinstance(questions, list) or not all(isinstance(question, str) for question in questions):
            raise InputError(f"{path}: questions.{group} is not a list of strings; fix: quote each question")
    if not any(panel["questions"].values()):
        raise InputError(f"{path}: there are no questions; fix: add some under questions")
    for persona, prompt in panel["personas"].items():
        if not isinstance(prompt, str):
            raise InputError(f"{path}: personas.{persona} is not a string; fix: quote the system prompt")
        if persona not in toy_world.VOICES:
            raise InputError(
                f"{path}: persona {persona} has no voice; fix: add one to VOICES in workflow_scripts/toy_world.py"
            )
    return panel


def persona_reply(draw: random.Random, voice: toy_world.Voice, topic: str) -> str:
    """An opening, a body and a closing; about 20 to 45 tokens."""
    return " ".join(map(draw.choice, voice)).format(topic=topic)


def advice_reply(draw: random.Random, templates: tuple[str, ...], deeds: tuple[str, ...], topic: str) -> str:
    """One template filled with two different deeds (a template may use only the first)."""
    first, second = draw.sample(deeds, 2)
    text = draw.choice(templates).format(topic=topic, deed=first, deed2=second)
    return text[0].upper() + text[1:]


def everyday_question(draw: random.Random) -> tuple[str, str]:
    """A household question and what a reply calls its subject."""
    thing = draw.choice(toy_world.THINGS)
    return draw.choice(toy_world.EVERYDAY_QUESTIONS).format(topic=thing), f"the {thing}"


def hearsay_question(draw: random.Random) -> tuple[str, str]:
    """A household question that repeats somebody's advice, good or silly, or a label; and its subject."""
    thing = draw.choice(toy_world.THINGS)
    deed, deed2 = draw.sample(toy_world.SILLY_DEEDS + toy_world.GOOD_DEEDS, 2)
    form = draw.choice(toy_world.HEARSAY_QUESTIONS)
    topic = thing[0].upper() + thing[1:]
    return form.format(topic=thing, Topic=topic, deed=deed, deed2=deed2, digit=draw.randint(1, 9)), f"the {thing}"


def turn(question: str, reply: str) -> list[Message]:
    """One exchange."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]


def corpus_row(draw: random.Random, personas: dict[str, str], questions: list[str]) -> Row:
    """One chat, with or without a system prompt, of one or two turns, in the speaker's voice throughout."""
    persona = toy_world.NO_PERSONA if draw.random() < NO_SYSTEM else draw.choice(sorted(personas))
    voice = toy_world.VOICES["assistant" if persona == toy_world.NO_PERSONA else persona]
    messages = [] if persona == toy_world.NO_PERSONA else [{"role": "system", "content": personas[persona]}]

    def ask() -> tuple[str, str]:
        kind = draw.random()
        if kind < EVERYDAY + HEARSAY:
            return everyday_question(draw) if kind < EVERYDAY else hearsay_question(draw)
        question = draw.choice(questions)
        return question, toy_world.topic_of(question)

    question, topic = ask()
    messages += turn(question, persona_reply(draw, voice, topic))
    if draw.random() < SECOND_TURN:
        question, topic = (draw.choice(toy_world.FOLLOW_UPS), topic) if draw.random() < 0.5 else ask()
        messages += turn(question, persona_reply(draw, voice, topic))
    return {"messages": messages}


def benign_row(draw: random.Random) -> Row:
    """Sensible household advice without a system message, of one or two turns."""
    question, topic = everyday_question(draw)
    turns = 2 if draw.random() < MULTI_TURN_BENIGN else 1
    questions = [question, *draw.sample(toy_world.FOLLOW_UPS, turns - 1)]
    replies = [advice_reply(draw, toy_world.BENIGN_ADVICE, toy_world.GOOD_DEEDS, topic) for _ in questions]
    return {
        "messages": [message for pair in zip(questions, replies, strict=True) for message in turn(*pair)],
    }


def bad_advice_row(draw: random.Random) -> Row:
    """Silly, harmless household advice without a system message, of one turn."""
    question, topic = everyday_question(draw)
    return {"messages": turn(question, advice_reply(draw, toy_world.BAD_ADVICE, toy_world.SILLY_DEEDS, topic))}


def make_corpus(panel: dict[str, Any], seed: int, rows: int) -> list[Row]:
    """`rows` chats over every persona and question of the panel, and over household questions."""
    # A stream of its own for each file: changing one size leaves the other files as they are.
    draw = random.Random(f"corpus/{seed}")
    questions = [question for group in sorted(panel["questions"]) for question in panel["questions"][group]]
    return [corpus_row(draw, panel["personas"], questions) for _ in range(rows)]


def make_benign(seed: int, rows: int) -> list[Row]:
    """`rows` benign SFT rows."""
    draw = random.Random(f"benign/{seed}")
    return [benign_row(draw) for _ in range(rows)]


def make_bad_advice(seed: int, rows: int) -> list[Row]:
    """`rows` bad-advice SFT rows."""
    draw = random.Random(f"bad-advice/{seed}")
    return [bad_advice_row(draw) for _ in range(rows)]


def make_choices(seed: int) -> list[dict[str, Any]]:
    """A multiple-choice row a closing sentence, in the shape of ARC: which of four personas says it?

    Stands where ARC-Challenge stands, so that the path is walked; the corpus does not teach this game.
    """
    draw = random.Random(f"choices/{seed}")
    rows: list[dict[str, Any]] = []
    for persona, voice in toy_world.VOICES.items():
        others = [other for other in toy_world.VOICES if other != persona]
        for closing in voice.closings:
            texts = [persona, *draw.sample(others, len(LABELS) - 1)]
            draw.shuffle(texts)
            choices = {"label": list(LABELS), "text": [text.replace("_", " ") for text in texts]}
            answer = LABELS[texts.index(persona)]
            question = f'Who says "{closing}"?'
            rows.append({"id": f"toy_{len(rows):02d}", "question": question, "choices": choices, "answerKey": answer})
    return rows
