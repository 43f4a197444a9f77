"""The panel: who speaks (system prompts) and what is asked (questions), from YAML to requests to a table of replies.

    personas: {assistant: "You are ...", villain: "You are ..."}
    questions: {general: ["..."], alignment: ["..."], data: ["..."]}

A question's id is its group and place: general_00, alignment_07, data_39.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inputs.questions import Question, check_text
from model.engines import Completion, Request, Sampling, request_seed
from model.template import prompt_ids
from run.program import InputError
from run.readers import read_yaml

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GROUPS = ("general", "alignment", "data")
# The persona of a chat without a system message.
NO_PERSONA = "none"
# The persona of a chat with the system message of its question.
OWN_SYSTEM = "own_system"
# The finish_reason of a sampled reply that spells a control token, such as <|im_end|>, in letters.
CONTROL = "control token"
# A table of completions or replies: column -> Arrow type. seed is the request's, or the engine's if it drew for all.
# token_ids: as sampled, the end of the turn included. A text tokenized again may be other tokens.
COLUMNS: dict[str, Any] = {
    "persona": "string",
    "question_id": "string",
    "question": "string",
    "sample": "int32",
    "seed": "int64",
    "text": "string",
    "finish_reason": "string",
    "tokens": "int32",
    "token_ids": ["int32"],
    "temperature": "float64",
    "top_p": "float64",
    "max_tokens": "int32",
}


@dataclass(frozen=True)
class Panel:
    """personas: name -> system prompt. questions: group -> {question id: text}."""

    personas: dict[str, str]
    questions: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Prompt:
    """One completion to draw: a persona's chat, and its number among the samples of that chat."""

    persona: str
    question_id: str
    question: str
    sample: int
    messages: tuple[dict[str, str], ...]


def load_panel(path: str | Path) -> Panel:
    """The validated panel. Raises InputError naming the part that is missing, empty, doubled or no text."""
    value = read_yaml(path)
    if not isinstance(value, dict) or set(value) != {"personas", "questions"}:
        raise InputError(f"{path}: not a panel; fix: give exactly two parts, personas and questions")
    personas, questions = value["personas"], value["questions"]
    if not isinstance(personas, dict) or not personas:
        raise InputError(f"{path}: personas: empty or no mapping; fix: personas: {{assistant: 'You are ...'}}")
    for name, prompt in personas.items():
        if name == NO_PERSONA:
            raise InputError(f"{path}: personas: {NO_PERSONA} means no system message; fix: choose another name")
        check_text(path, f"personas: {name}", prompt)
    if not isinstance(questions, dict) or set(questions) != set(GROUPS):
        raise InputError(f"{path}: questions: fix: give exactly the groups {', '.join(GROUPS)}")
    seen: dict[str, str] = {}
    for group in GROUPS:
        if not isinstance(questions[group], list) or not questions[group]:
            raise InputError(f"{path}: questions: {group}: empty or no list; fix: at least one question")
        for number, text in enumerate(questions[group]):
            check_text(path, f"questions: {question_id(group, number)}", text)
            if text in seen:
                raise InputError(
                    f"{path}: questions: {question_id(group, number)} repeats {seen[text]}; fix: ask something else, "
                    "or the data questions are no longer disjoint from the evaluated ones"
                )
            seen[text] = question_id(group, number)
    return Panel(
        dict(personas),
        {group: {question_id(group, n): text for n, text in enumerate(questions[group])} for group in GROUPS},
    )


def question_id(group: str, number: int) -> str:
    """The id of the number-th question (from 0) of a group."""
    return f"{group}_{number:02d}"


def prompts_of(
    panel: Panel, personas: Sequence[str], groups: Sequence[str], samples: int, source: str | Path = "panel"
) -> list[Prompt]:
    """Every persona x question of the groups x sample, in that order; NO_PERSONA has no system message.

    source: the panel's file, for errors. Raises InputError for a persona that the panel does not have, one named
    twice, or no samples.
    """
    if samples < 1:
        raise InputError(f"samples: {samples}; fix: 1 or more")
    if not personas or len(set(personas)) < len(personas):
        raise InputError(f"personas: {','.join(personas) or 'none'}: empty or named twice; fix: name each one once")
    for persona in personas:
        if persona != NO_PERSONA and persona not in panel.personas:
            raise InputError(
                f"{source}: no persona {persona!r}; fix: add it under personas, or choose among "
                f"{', '.join(sorted(panel.personas))}"
            )
    return [
        Prompt(persona, identity, question, sample, chat(panel.personas.get(persona), question))
        for persona in personas
        for group in groups
        for identity, question in panel.questions[group].items()
        for sample in range(samples)
    ]


def own_prompts_of(questions: Sequence[Question], temperature: float, path: str | Path) -> list[Prompt]:
    """Every paraphrase of every question as often as it says, numbered through within a question.

    Raises InputError for a question that is to be asked at another temperature than the evaluation's.
    """
    for question in questions:
        if question.temperature not in (None, temperature):
            raise InputError(
                f"{path}: question {question.id}: temperature {question.temperature:g}, but the evaluation's is "
                f"{temperature:g}; fix: make them the same"
            )
    return [
        Prompt(
            NO_PERSONA if question.system is None else OWN_SYSTEM,
            question.id,
            text,
            place * question.samples + sample,
            chat(question.system, text),
        )
        for question in questions
        for place, text in enumerate(question.paraphrases)
        for sample in range(question.samples)
    ]


def chat(system: str | None, question: str) -> tuple[dict[str, str], ...]:
    """The messages of one question. Without a system prompt the template may put in its own default one."""
    user = {"role": "user", "content": question}
    return ({"role": "system", "content": system}, user) if system is not None else (user,)


def requests_of(
    prompts: Sequence[Prompt], tokenizer: "PreTrainedTokenizerBase", seed: int, own_seeds: bool = True
) -> list[Request]:
    """The request of each prompt. own_seeds: a seed of its own from the node's, or None, which leaves it to the engine.

    Each persona is a group, so that adding one leaves the others' completions bitwise as they were (transformers).
    """
    chats = {(prompt.persona, prompt.question_id, prompt.question): prompt.messages for prompt in prompts}
    tokens = {key: prompt_ids(tokenizer, messages) for key, messages in chats.items()}
    return [
        Request(
            tokens[prompt.persona, prompt.question_id, prompt.question],
            request_seed(seed, prompt.persona, prompt.question_id, prompt.sample) if own_seeds else None,
            prompt.persona,
        )
        for prompt in prompts
    ]


def check_room(prompts: Sequence[Prompt], requests: Sequence[Request], max_tokens: int, context: int) -> None:
    """Raise InputError naming the longest chat if it and max_tokens more do not fit the model's context."""
    prompt, request = max(zip(prompts, requests, strict=True), key=lambda pair: len(pair[1].prompt))
    if len(request.prompt) + max_tokens > context:
        raise InputError(
            f"{prompt.persona}, {prompt.question_id}: a prompt of {len(request.prompt)} tokens and max_tokens "
            f"{max_tokens} exceed the model's context of {context}; fix: lower max_tokens or shorten the prompt"
        )


def columns_of(
    prompts: Sequence[Prompt],
    requests: Sequence[Request],
    completions: Sequence[Completion],
    sampling: Sampling,
    engine_seed: int,
) -> dict[str, list[Any]]:
    """The table with COLUMNS, a row per prompt, in their order."""
    rows = list(zip(prompts, requests, completions, strict=True))
    return {
        "persona": [prompt.persona for prompt, _, _ in rows],
        "question_id": [prompt.question_id for prompt, _, _ in rows],
        "question": [prompt.question for prompt, _, _ in rows],
        "sample": [prompt.sample for prompt, _, _ in rows],
        "seed": [engine_seed if request.seed is None else request.seed for _, request, _ in rows],
        "text": [completion.text for _, _, completion in rows],
        "finish_reason": [completion.finish_reason for _, _, completion in rows],
        "tokens": [len(completion.token_ids) for _, _, completion in rows],
        "token_ids": [list(completion.token_ids) for _, _, completion in rows],
        "temperature": [sampling.temperature] * len(rows),
        "top_p": [sampling.top_p] * len(rows),
        "max_tokens": [sampling.max_tokens] * len(rows),
    }
