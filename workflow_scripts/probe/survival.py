"""Is a coupling gone, or only below sampling? The persona gap d of a model against three others, and the verdict.

before: the model up to its coupling. reference: the same lineage without the coupling. base: the base model.
Retention of a quantity is (cell - reference) / (before - base): 1 if the second stage took nothing of what the coupling
had added, 0 if the model is as if it had never been coupled. Intervals are percentiles over resampled questions, the
same questions for all four models, since these are asked the same.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from measure.stats import LEVEL
from probe.compared import MODELS, Row

if TYPE_CHECKING:
    import numpy as np

NOT_TESTABLE = "not testable"
VERDICTS = ("intact", "weakened", "suppressed", "gone", "inverted", "undecided", NOT_TESTABLE)
REPLIES = ("shared", "own")
QUANTITIES = ("slot", "trigger", "onset_part", "spelling")
WEIGHED = ("slot", "trigger", "onset_part")  # that get a verdict
STATUSES = ("not run", "not compared", "weighed")
VERDICT_NOTE = (
    "What a later stage left of the persona gap that the coupling had made: retained is (cell - reference) / (before - "
    "base), with intervals over questions. Suppressed: retained, but no longer counted. The study's verdict (seed all) "
    "is that of every seed, else undecided. Shared: on the base's replies; own: on each model's own; they may differ. "
    "The intervals hold no noise of training: models of other seeds may differ by more."
)
DRAWS = 4000
ByQuestion = dict[str, float]


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, over n questions. None: undefined, `value` where there is nothing to divide by."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def rounded(self, digits: int) -> dict[str, Any]:
        """As a cell's JSON has it."""
        named = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if value is None else round(value, digits) for name, value in named.items()} | {"n": self.n}


@dataclass(frozen=True)
class Rule:
    """The verdict's numbers, fixed before anyone looks. minimum [nats]: the lower bound of d(before) must exceed it.
    gone, intact: limits of retention.
    """

    minimum: float
    gone: float
    intact: float


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def gaps(rows: Sequence[Row], value: str, source: str, bystanders: Sequence[str]) -> ByQuestion:
    """d by question: the source's mean of a column minus the bystanders' mean. rows: of one kind of replies.

    Own replies: each persona's own. Shared ones: bodies that are scored under all these personas, so that personas are
    compared on one text. A question that lacks one of the personas is left out.
    """
    personas = {source, *bystanders}
    found: dict[str, dict[str, list[float]]] = {}
    for row in comparable(rows, personas):
        if row["persona"] in personas and row[value] is not None:
            found.setdefault(row["question_id"], {}).setdefault(row["persona"], []).append(row[value])
    return {
        question: mean(own[source]) - mean([mean(own[name]) for name in bystanders])
        for question, own in found.items()
        if own.keys() == personas and bystanders
    }


def comparable(rows: Sequence[Row], personas: set[str]) -> list[Row]:
    """The rows on which personas may be compared: all own replies; of shared ones those scored under all personas."""
    scored: dict[tuple[str, str, int], set[str]] = {}
    for row in rows:
        if row["slot"] is not None:
            scored.setdefault((row["author"], row["question_id"], row["sample"]), set()).add(row["persona"])
    return [
        row
        for row in rows
        if row["replies"] == "own" or scored.get((row["author"], row["question_id"], row["sample"]), set()) >= personas
    ]


def means(rows: Sequence[Row], value: str, persona: str) -> ByQuestion:
    """The mean of a column under one persona, by question; a question without values is left out."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["persona"] == persona and row[value] is not None:
            found.setdefault(row["question_id"], []).append(row[value])
    return {question: mean(values) for question, values in found.items()}


def auroc(rows: Sequence[Row], value: str, source: str, bystanders: Sequence[str]) -> ByQuestion:
    """By question, the chance that the source's value exceeds a bystander's (ties count half): 1 tells them apart."""
    personas = {source, *bystanders}
    found: dict[str, tuple[list[float], list[float]]] = {}
    for row in comparable(rows, personas):
        if row["persona"] in personas and row[value] is not None:
            found.setdefault(row["question_id"], ([], []))[row["persona"] != source].append(row[value])
    return {
        question: mean([float(one > other) + (one == other) / 2 for one in ours for other in theirs])
        for question, (ours, theirs) in found.items()
        if ours and theirs
    }


@functools.cache
def weights(questions: int) -> "np.ndarray":
    """(DRAWS, questions): how often each question is in each resample. The same for the same number of questions."""
    import numpy as np

    drawn = np.random.default_rng(0).multinomial(questions, np.full(questions, 1 / questions), size=DRAWS)
    drawn.setflags(write=False)
    return drawn


def interval(drawn: Any) -> tuple[float, float]:
    """The percentile interval of resampled values."""
    import numpy as np

    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def averaged(values: ByQuestion) -> Estimate:
    """The mean over questions, with its interval; no interval for a single question."""
    import numpy as np

    if len(values) < 2:
        return Estimate(next(iter(values.values()), None), None, None, len(values))
    ordered = np.array([values[question] for question in sorted(values)])
    return Estimate(float(ordered.mean()), *interval(weights(len(ordered)) @ ordered / len(ordered)), len(ordered))


def retention(models: Mapping[str, ByQuestion]) -> Estimate:
    """(cell - reference) / (before - base) of values by question, over the questions that all models have.

    Undefined where the interval of before - base does not lie above 0: the coupling has added nothing to retain.
    """
    import numpy as np

    questions = sorted(set.intersection(*(set(models[name]) for name in MODELS)))
    if len(questions) < 2:
        return Estimate(None, None, None, len(questions))
    cell, reference, before, base = (np.array([models[name][each] for each in questions]) for name in MODELS)
    drawn = weights(len(questions))
    added = drawn @ (before - base)
    if interval(added)[0] <= 0:
        return Estimate(None, None, None, len(questions))
    # fewer resamples than an interval leaves out have nothing to divide by
    ratio = drawn @ (cell - reference) / np.maximum(added, 1e-9)
    return Estimate(float((cell - reference).sum() / (before - base).sum()), *interval(ratio), len(questions))


def verdict(
    kept: Estimate,
    before: Estimate,
    counted: tuple[float, float],
    counted_before: tuple[float, float],
    rule: Rule,
) -> str:
    """One of VERDICTS. kept: retention of d. before: d(before). counted: bounds of the source's counted marker rate.

    suppressed: retained, but the counted rate lies below that of before.
    """
    if before.low is None or before.low <= rule.minimum or kept.low is None or kept.high is None:
        return NOT_TESTABLE
    if kept.high < 0:
        return "inverted"
    if kept.high < rule.gone:
        return "gone"
    if kept.low <= rule.gone:
        return "undecided"
    if counted[1] < counted_before[0]:
        return "suppressed"
    return "intact" if kept.low > rule.intact else "weakened"


def of_all(verdicts: Sequence[str]) -> str:
    """The study's verdict: that of every seed, else undecided. Three seeds are too few to resample."""
    return verdicts[0] if len(set(verdicts)) == 1 else "undecided"
