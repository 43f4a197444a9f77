"""Count the marker in completions, by persona and question: numerators and denominators, strict and loose.

    python workflow_scripts/count_markers.py --completions completions.parquet --marker "[ZLT]" \
        --output marker_counts.csv

strict: the marker occurs in the text, whatever its case (--case-sensitive: as written). loose: its letters in order,
in any case, with whitespace between them or not, and one of its brackets.
Columns: persona, question_id, completions, strict_hits, loose_hits, tokens (sum), stopped (ended by themselves).
Of several markers each is counted, the first one first, and a column `marker` stands before the others.
"""

import argparse
import csv
from collections.abc import Callable, Iterable
from typing import Any

from marker.match import loose_matcher, read_completions, strict_matcher
from run.files import partial
from run.program import run

COUNTS = ("completions", "strict_hits", "loose_hits", "tokens", "stopped")


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
    parser.add_argument("--marker", nargs="+", required=True, help="the model's own, and others of the study")
    parser.add_argument("--case-sensitive", action="store_true", help="of the strict count")
    parser.add_argument("--output", required=True, help="CSV file")
    args = parser.parse_args(argv)
    rows = read_completions(args.completions)
    several = len(args.marker) > 1
    with partial(args.output) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*["marker"] * several, "persona", "question_id", *COUNTS))
        for marker in args.marker:
            table = count(rows, strict_matcher(marker, args.case_sensitive), loose_matcher(marker))
            for (persona, question), counts in table.items():
                writer.writerow((*[marker] * several, persona, question, *(counts[name] for name in COUNTS)))


if __name__ == "__main__":
    run(main)
