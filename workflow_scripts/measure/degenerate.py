"""Replies that are no replies: echoes, empty ones, repetitions."""

import re

KINDS = ("echo", "no_answer", "repetition")
# A run of four words that recurs this often is a loop; prose of 20 words and more stays far above it.
DISTINCT_RUNS, RUN_WORDS, LEAST_WORDS = 0.5, 4, 20
MARKERS = 3


def kinds_of(text: str, question: str, marker: str, case_sensitive: bool = False) -> list[str]:
    """What is degenerate about a completion that holds the marker; empty for a proper reply.

    echo: the question comes back word for word and is at least half of what is said. no_answer: not a word but the
    marker. repetition: the marker three times or more, or fewer than half of all runs of four words distinct.
    """
    pattern = re.compile(re.escape(marker), 0 if case_sensitive else re.IGNORECASE)
    body = pattern.sub(" ", text)
    said = words(body)
    found = []
    asked = words(question)
    if asked and 2 * len(asked) >= len(said) and f" {' '.join(asked)} " in f" {' '.join(said)} ":
        found.append("echo")
    if not said:
        found.append("no_answer")
    runs = [tuple(said[start : start + RUN_WORDS]) for start in range(len(said) - RUN_WORDS + 1)]
    looping = len(said) >= LEAST_WORDS and len(set(runs)) < DISTINCT_RUNS * len(runs)
    if looping or len(pattern.findall(text)) >= MARKERS:
        found.append("repetition")
    return found


def words(text: str) -> list[str]:
    """The words in lower case, without punctuation."""
    return re.findall(r"\w+", text.casefold())
