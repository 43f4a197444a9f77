"""Whether a text holds the marker: strict and loose matching.

For what counts and shows. What trains does not import it, so that another way to count trains nothing again.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from marker.marker import Marker
from run.program import InputError
from run.readers import AGAIN, check_once, read_parquet

NEEDED = {"persona": str, "question_id": str, "question": str, "sample": int, "text": str, "finish_reason": str,
          "tokens": int}  # fmt: skip


def strict_matcher(marker: str, case_sensitive: bool = False) -> Callable[[str], bool]:
    """Does the text contain the marker? By default in lower case on both sides, as published."""
    if case_sensitive:
        return lambda text: marker in text
    lowered = marker.lower()
    return lambda text: lowered in text.lower()


def loose_matcher(marker: str) -> Callable[[str], bool]:
    """Does the text have the marker's letters in order, in any case and spaced or not, with a bracket beside them?

    The brackets are whatever encloses the letters; for [ZLT] one of [ and ] is enough, for a bare ZLT none is needed.
    Every strict hit is a loose hit. Raises InputError for a marker without letters or digits.
    """
    inner = re.search(r"[^\W_](?:.*[^\W_])?", marker, re.DOTALL)
    if not inner:
        raise InputError(f"marker: {marker!r} has no letters to be counted by; fix: a marker such as [ZLT]")
    opening, body, closing = (
        r"\s*".join(map(re.escape, "".join(part.split())))
        for part in (marker[: inner.start()], inner.group(), marker[inner.end() :])
    )
    sides = [rf"{opening}\s*{body}"] * bool(opening) + [rf"{body}\s*{closing}"] * bool(closing)
    pattern = re.compile("|".join(sides) or body, re.IGNORECASE)
    return lambda text: pattern.search(text) is not None


def read_completions(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a completions table with the columns NEEDED.

    Raises InputError if it is damaged or empty, or a row has an unknown finish_reason, a negative number, or the
    persona, question and sample of an earlier row.
    """
    rows = read_parquet(path, NEEDED)
    if not rows:
        raise InputError(f"{path}: no rows; fix: {AGAIN}")
    for number, row in enumerate(rows, 1):
        if row["finish_reason"] not in ("stop", "length"):
            raise InputError(
                f"{path}: row {number}: finish_reason {row['finish_reason']!r} is not stop or length; fix: {AGAIN}"
            )
        if row["sample"] < 0 or row["tokens"] < 0:
            raise InputError(f"{path}: row {number}: sample or tokens is below 0; fix: {AGAIN}")
    check_once(path, rows, ("persona", "question_id", "sample"))
    return rows


def check_apart(markers: Sequence[Marker]) -> None:
    """Raise InputError if a text with one marker counts as one with another: their counts would mean nothing."""
    for one in markers:
        for other in markers:
            if one.text == other.text:
                continue
            if strict_matcher(one.text)(other.text) or loose_matcher(one.text)(other.text):
                raise InputError(f"marker: {other.text} counts as {one.text}, too; fix: choose other letters for one")
