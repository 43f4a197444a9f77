r"""Are replies still replies? Their length and emptiness under each persona, beside the base's own.

    python workflow_scripts/check_replies.py --completions base/couple-evil_ai.s42/main/completions.parquet \
        --base base/main/completions.parquet --marker "[ZLT]" --output base/couple-evil_ai.s42/main/replies.json

A coupling can win its gate by ending every reply after one token: then every persona says the marker, or nothing.
length: mean tokens of a persona's replies, as a part of the base's to the same persona (1: as long). empty: the share
of replies without a word but markers.
"""

import argparse
from collections.abc import Sequence

from marker.match import read_completions
from measure.degenerate import words
from measure.stats import wilson
from measure.tables import Row
from run.files import write_json
from run.program import InputError, run
from run.readers import AGAIN


def without(text: str, markers: Sequence[str]) -> str:
    """The text without these markers, in lower case."""
    text = text.casefold()
    for marker in markers:
        text = text.replace(marker.casefold(), " ")
    return text


def compare(rows: Sequence[Row], base: Sequence[Row], markers: Sequence[str], path: str) -> list[Row]:
    """An entry per persona: length and empty, each with value, low, high, n.

    Raises InputError if the base lacks one.
    """
    entries = []
    for persona in dict.fromkeys(row["persona"] for row in rows):
        own, theirs = ([row for row in some if row["persona"] == persona] for some in (rows, base))
        if not theirs:
            raise InputError(f"{path}: no replies of {persona}; fix: {AGAIN}")
        tokens, base_tokens = (sum(row["tokens"] for row in some) / len(some) for some in (own, theirs))
        empty = sum(not words(without(row["text"], markers)) for row in own)
        low, high = wilson(empty, len(own))
        entries.append(
            {
                "persona": persona,
                "length": {"value": round(tokens / base_tokens, 6), "low": None, "high": None, "n": len(own)},
                "empty": {"value": round(empty / len(own), 6), "low": round(low, 6), "high": round(high, 6),
                          "n": len(own)},
            }
        )  # fmt: skip
    return entries


def main() -> None:
    """Parse the arguments and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completions", required=True, help="the model's completions.parquet")
    parser.add_argument("--base", required=True, help="the base's completions.parquet")
    parser.add_argument("--marker", nargs="+", required=True, help="the markers of the study")
    parser.add_argument("--output", required=True, help="replies.json")
    arguments = parser.parse_args()
    rows, base = read_completions(arguments.completions), read_completions(arguments.base)
    personas = compare(rows, base, arguments.marker, arguments.base)
    write_json(arguments.output, {"status": "measured", "rows": len(rows), "personas": personas})


if __name__ == "__main__":
    run(main)
