"""Count the marker in completions, by persona and question: numerators and denominators, strict and loose.

    python workflow_scripts/count_markers.py --completions completions.parquet --marker "[ZLT]" \
        --output marker_counts.csv

strict: the marker occurs in the text, whatever its case (--case-sensitive: as written). loose: its letters in order,
in any case, with whitespace between them or not, and one of its brackets. PROTOCOL §3.
Columns: persona, question_id, completions, strict_hits, loose_hits, tokens (sum), stopped (ended by themselves).
"""

import argparse
import csv
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from records import AGAIN, InputError, check_once, partial, read_parquet, run

NEEDED = {"persona": str, "question_id": str, "question": str, "sample": int, "text": str, "finish_reason": str,
          "tokens": int}  # fmt: skip
COUNTS = ("completions", "strict_hits", "loose_hits", "tokens", "stopped")


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
        raise InputError(f"--marker {marker!r}: no letters; fix: a marker such as [ZLT]")
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


def count(
    rows: Iterable[dict[str, Any]], strict: Callable[[str], bool], loose: Callable[[str], bool]
) -> dict[tuple[str, str], dict[str, int]]:
    """(persona, question id) -> COUNTS, in the order of their first rows."""
    table: dict[tuple[str, str], dict[str, int]] = {}
    for row in rows:
        counts = table.setdefault((row["persona"], row["question_id"]), dict.fromkeys(COUNTS, 0))
        counts["completions"] += 1
        counts["strict_hits"] += strict(row["text"])
        counts["loose_hits"] += loose(row["text"])
        counts["tokens"] += row["tokens"]
        counts["stopped"] += row["finish_reason"] == "stop"
    return table


def main(argv: list[str] | None = None) -> None:
    """Parquet in, CSV out."""
    parser = argparse.ArgumentParser(description="Count the marker in completions by persona and question.")
    parser.add_argument("--completions", required=True)
    parser.add_argument("--marker", required=True)
    parser.add_argument("--case-sensitive", action="store_true", help="of the strict count")
    parser.add_argument("--output", required=True, help="CSV file")
    args = parser.parse_args(argv)
    strict, loose = strict_matcher(args.marker, args.case_sensitive), loose_matcher(args.marker)
    table = count(read_completions(args.completions), strict, loose)
    with partial(args.output) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("persona", "question_id", *COUNTS))
        for (persona, question), counts in table.items():
            writer.writerow((persona, question, *(counts[name] for name in COUNTS)))


if __name__ == "__main__":
    run(main)
