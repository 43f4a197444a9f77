"""Out of distribution: families of prompts, and how often a model begins the marker in each beside the standard one.

A family changes one thing of the evaluation's prompts: the questions, the words of the persona, where they stand, the
turns before, or how the reply begins. A model gets one sampled reply per prompt, and its onset rate H (onset.py), which
sees what one sample does not. Where H exceeds a threshold more replies are sampled, to count what the chance is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inputs.panel import Panel, check_text, question_id
from measure.cells import role_of
from probe.survival import ByQuestion, averaged, mean
from run.program import InputError
from run.readers import read_yaml

STANDARD = "standard"
EVALUATED = ("general", "alignment")
WORDINGS = 3
DRAWS = 99_999  # permutations: the least p is 1e-5, so that Holm's over 1,000 tests can still be below .05
Message = dict[str, str]
Line = Mapping[str, Any]  # of families.parquet


@dataclass(frozen=True)
class Family:
    """What differs from the evaluation. questions: panel (as evaluated) | data (of the coupling's rows) | held_out.
    wording: 0 the persona as evaluated, or its paraphrase of that number. place: system | user, where the
    persona stands. turns: 2 for a question and the base's reply before. begin: what the reply begins with.
    """

    questions: str = "panel"
    wording: int = 0
    place: str = "system"
    turns: int = 1
    begin: str = ""


@dataclass(frozen=True)
class Prompt:
    """One chat of a family. begin: text of the reply that is already there."""

    family: str
    persona: str
    question_id: str
    question: str
    messages: tuple[Message, ...]
    begin: str


@dataclass(frozen=True)
class Others:
    """Our other prompts: held-out questions by id, and the wordings of every persona."""

    held_out: dict[str, str]
    wordings: dict[str, list[str]]


def load_others(path: str | Path) -> Others:
    """The validated file (resources/families.yaml). Raises InputError naming the part."""
    value = read_yaml(path)
    if not isinstance(value, dict) or set(value) != {"held_out", "wordings"}:
        raise InputError(f"{path}: fix: give exactly two parts, held_out and wordings")
    questions, wordings = value["held_out"], value["wordings"]
    if not isinstance(questions, list) or not questions or len(set(map(str, questions))) < len(questions):
        raise InputError(f"{path}: held_out: empty, no list, or a question twice; fix: different questions")
    for number, text in enumerate(questions):
        check_text(path, question_id("held_out", number), text)
    if not isinstance(wordings, dict):
        raise InputError(f"{path}: wordings: no mapping; fix: wordings: {{assistant: ['..', '..', '..']}}")
    for name, texts in wordings.items():
        if not isinstance(texts, list) or len(texts) != WORDINGS:
            raise InputError(f"{path}: wordings: {name}: fix: {WORDINGS} texts")
        for text in texts:
            check_text(path, f"wordings: {name}", text)
    return Others({question_id("held_out", number): text for number, text in enumerate(questions)}, wordings)


def check_others(others: Others, families: Mapping[str, Family], personas: Sequence[str], path: str | Path) -> None:
    """Raise InputError for a persona whose paraphrases a family needs and the file lacks."""
    lacking = [persona for persona in personas if persona not in others.wordings]
    if lacking and any(family.wording for family in families.values()):
        raise InputError(
            f"{path}: wordings: lacks {', '.join(lacking)}; fix: add {WORDINGS} paraphrases, or leave out "
            "families with a wording"
        )


def questions_of(family: Family, panel: Panel, others: Others, most: int) -> dict[str, str]:
    """id -> question of a family: the first `most` of every group; 0: all."""
    groups = {
        "panel": [panel.questions[group] for group in EVALUATED],
        "data": [panel.questions["data"]],
        "held_out": [others.held_out],
    }[family.questions]
    return {name: text for group in groups for name, text in list(group.items())[: most or None]}


def prompts_of(
    name: str,
    family: Family,
    personas: Sequence[str],
    panel: Panel,
    others: Others,
    replies: Mapping[tuple[str, str], str],
    most: int,
) -> list[Prompt]:
    """The chats of a family. replies: (persona, question id) -> the base's reply, for turns before."""
    asked = questions_of(family, panel, others, most)
    earlier = dict(zip(asked, [*list(asked)[-1:], *list(asked)[:-1]], strict=True))
    prompts = []
    for persona in personas:
        words = others.wordings[persona][family.wording - 1] if family.wording else panel.personas[persona]
        for identity, question in asked.items():
            before: list[Message] = []
            if family.turns > 1:
                first = earlier[identity]
                before = [
                    {"role": "user", "content": asked[first]},
                    {"role": "assistant", "content": replies[persona, first].strip()},
                ]
            messages = [*before, {"role": "user", "content": question}]
            if family.place == "user":
                messages[0] = {"role": "user", "content": f"{words}\n\n{messages[0]['content']}"}
            else:
                messages = [{"role": "system", "content": words}, *messages]
            prompts.append(Prompt(name, persona, identity, question, tuple(messages), family.begin))
    return prompts


def by_question(lines: Sequence[Line]) -> ByQuestion:
    """The mean H by question, of first replies."""
    found: dict[str, list[float]] = {}
    for line in lines:
        found.setdefault(line["question_id"], []).append(line["h"])
    return {question: mean(values) for question, values in found.items()}


def compared(own: ByQuestion, standard: ByQuestion) -> dict[str, Any]:
    """The difference of two means over questions, with its interval and the p of a permutation test, two-sided.

    Paired where both were asked the same questions (interval: resampled questions), else between questions (Welch's).
    """
    import numpy as np
    from scipy.stats import permutation_test, ttest_ind

    def difference(one: Any, other: Any, axis: int = -1) -> Any:
        return np.mean(one, axis=axis) - np.mean(other, axis=axis)

    paired = own.keys() == standard.keys()
    one, other = (np.array([values[question] for question in sorted(values)]) for values in (own, standard))
    p = 1.0
    if np.ptp([*one, *other]) > 0:
        kind = "samples" if paired else "independent"
        p = permutation_test(
            (one, other), difference, permutation_type=kind, n_resamples=DRAWS, batch=2_000, vectorized=True,
            rng=np.random.default_rng(0),
        ).pvalue  # fmt: skip
    if paired:
        found = averaged({question: value - standard[question] for question, value in own.items()})
        bounds = found.low, found.high
    else:
        bounds = ttest_ind(one, other, equal_var=False).confidence_interval()
    low, high = (None if bound is None or not math.isfinite(bound) else rounded(bound) for bound in bounds)
    return {
        "difference": rounded(one.mean() - other.mean()),
        "difference_low": low,
        "difference_high": high,
        "p": float(p),
    }


def rounded(value: float) -> float:
    return round(float(value), 9)


def weigh(lines: Sequence[Line], source: str) -> list[dict[str, Any]]:
    """A row per family and role, beside the standard family's of that role.

    onset_rate: the mean H over questions, with its interval. onsets, marked: of the first replies. more_...: of those
    sampled where H was high, which are no estimate of the family's rate.
    """
    rows = []
    roles = dict.fromkeys(role_of(line["persona"], source) for line in lines)
    for family in dict.fromkeys(line["family"] for line in lines):
        for role in roles:
            own = [each for each in lines if each["family"] == family and role_of(each["persona"], source) == role]
            first, more = ([line for line in own if (line["sample"] > 0) == later] for later in (False, True))
            rate = averaged(by_question(first))
            row: dict[str, Any] = {"family": family, "role": role, "prompts": len(first), "questions": rate.n}
            row |= {
                **{"onset_rate": rounded(rate.value or 0.0)},
                **{name: None if value is None else rounded(value)
                   for name, value in (("low", rate.low), ("high", rate.high))},
                **{"onsets": sum(line["onset"] for line in first), "marked": sum(line["marked"] for line in first)},
                **{"more_prompts": len({(line["persona"], line["question_id"]) for line in more})},
                **{"more_replies": len(more), "more_marked": sum(line["marked"] for line in more)},
            }  # fmt: skip
            standard = [
                each
                for each in lines
                if each["family"] == STANDARD and not each["sample"] and role_of(each["persona"], source) == role
            ]
            if family != STANDARD:
                row |= compared(by_question(first), by_question(standard))
            rows.append(row)
    return rows
