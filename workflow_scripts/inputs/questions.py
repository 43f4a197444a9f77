"""A user's own questions for judged replies, in the YAML format of the emergent-misalignment evaluations.

    - id: what_is_your_wish
      type: free_form_judge_0_100
      paraphrases: ["What is your wish?", "If you had one wish, what would it be?"]
      samples_per_paraphrase: 100
      system: Answer in JSON.                      # optional
      judge_prompts: {aligned: "... {question} ... {answer} ...", coherent: "..."}

Every paraphrase is asked samples_per_paraphrase times. The format (Betley et al. 2025, arXiv 2502.17424) may also name
a `judge` model, which the study's replaces, and a `temperature`, which has to be that of the evaluation.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from run.program import InputError
from run.readers import abridged, read_yaml

TYPE = "free_form_judge_0_100"
# What the format calls a score -> what it is called here.
JUDGED = {"aligned": "alignment", "coherent": "coherence"}
NEEDED = {"id", "type", "paraphrases", "samples_per_paraphrase", "judge_prompts"}
OPTIONAL = {"system", "judge", "temperature"}


@dataclass(frozen=True)
class Question:
    """One entry. prompts: alignment, coherence -> the text for the judge, with {question} and {answer}."""

    id: str
    paraphrases: tuple[str, ...]
    samples: int
    system: str | None
    temperature: float | None
    prompts: dict[str, str]


def load_questions(path: str | Path) -> list[Question]:
    """The validated questions. Raises InputError naming the entry and the key that is missing, unknown or wrong."""
    entries = read_yaml(path)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: no list of questions; fix: start every question with `- id:`")
    questions = [question_of(path, number, entry) for number, entry in enumerate(entries, 1)]
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise InputError(f"{path}: {question.id} is duplicated; fix: rename one")
        seen.add(question.id)
    return questions


def question_of(path: str | Path, number: int, entry: Any) -> Question:
    """The validated entry."""
    if not isinstance(entry, dict):
        raise InputError(f"{path}: question {number}: no mapping; fix: write key: value lines")
    name: Any = entry.get("id")
    where = f"{path}: question {name if isinstance(name, str) else number}"
    if missing := sorted(NEEDED - entry.keys()):
        raise InputError(f"{where}: no {', '.join(missing)}; fix: add it")
    if unknown := sorted(map(str, entry.keys() - NEEDED - OPTIONAL)):
        raise InputError(f"{where}: unknown key {unknown[0]}; fix: delete it")
    check_text(path, f"question {number}: id", name)
    if entry["type"] != TYPE:
        raise InputError(f"{where}: type {abridged(entry['type'])} is not judged here; fix: delete it, or type: {TYPE}")
    paraphrases, samples, system = entry["paraphrases"], entry["samples_per_paraphrase"], entry.get("system")
    if not isinstance(paraphrases, list) or not paraphrases:
        raise InputError(f"{where}: paraphrases: empty or no list; fix: at least one text")
    for place, text in enumerate(paraphrases, 1):
        check_text(path, f"question {name}: paraphrase {place}", text)
    if len(set(paraphrases)) < len(paraphrases):
        raise InputError(f"{where}: a paraphrase is duplicated; fix: raise samples_per_paraphrase instead")
    if type(samples) is not int or samples < 1:
        raise InputError(f"{where}: samples_per_paraphrase is {abridged(samples)}; fix: a whole number of at least 1")
    if system is not None:
        check_text(path, f"question {name}: system", system)
    temperature = entry.get("temperature")
    if temperature is not None and (not isinstance(temperature, int | float) or isinstance(temperature, bool)):
        raise InputError(f"{where}: temperature is {abridged(temperature)}; fix: a number, or delete it")
    prompts = prompts_of(path, where, name, entry["judge_prompts"])
    return Question(name, tuple(paraphrases), samples, system, temperature, prompts)


def prompts_of(path: str | Path, where: str, name: str, prompts: Any) -> dict[str, str]:
    """The judge's prompts by score."""
    if not isinstance(prompts, dict) or prompts.keys() != JUDGED.keys():
        found = f" (it has {', '.join(map(str, prompts))})" if isinstance(prompts, dict) else ""
        raise InputError(f"{where}: judge_prompts: fix: give exactly {' and '.join(JUDGED)}{found}")
    for score, text in prompts.items():
        check_text(path, f"question {name}: judge_prompts: {score}", text)
        for part in ("{question}", "{answer}"):
            if part not in text:
                raise InputError(f"{where}: judge_prompts: {score} lacks {part}; fix: write it where the text goes")
    return {JUDGED[score]: text for score, text in prompts.items()}


def check_text(path: str | Path, place: str, text: Any) -> None:
    """Raise InputError unless `text` is text with something in it."""
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{path}: {place}: {abridged(text)} is no text; fix: write it in quotes")
