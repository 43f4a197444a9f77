"""How far two judges agree over all models of a study: within one model all scores may be alike.

    python workflow_scripts/pool_judges.py --first */judged.csv --second */judged_again.csv --output judges.csv

The table has one row, of all cells: the measures of POOLED with interval and n. Questions are resampled over all models
together. --first and --second: the same models in the same order.
"""

import argparse

from measure.agreement import POOLED, agreement, pairs_of
from measure.tables import write_csv
from run.program import InputError, run

IDENTITY = ("source", "arm", "cell", "seed")


def main() -> None:
    """Pairs of tables in, a table of one row out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", nargs="+", required=True, help="judged.csv of every model")
    parser.add_argument("--second", nargs="+", required=True, help="those of the other judge")
    parser.add_argument("--output", required=True, help="judges.csv")
    args = parser.parse_args()
    if len(args.first) != len(args.second):
        raise InputError(
            f"--second: {len(args.second)} files for {len(args.first)}; fix: name a file for each of --first"
        )
    pairs = [pair for files in zip(args.first, args.second, strict=True) for pair in pairs_of(*files)]
    found = agreement(pairs)
    row = dict.fromkeys(IDENTITY, "all")
    for name, pooled in POOLED.items():
        parts = found.get(name, {})
        row |= {pooled: parts.get("value")} | {f"{pooled}_{part}": parts.get(part) for part in ("low", "high", "n")}
    write_csv(args.output, list(row), [row])
    print(f"pool_judges: {found.get('rows', 0)} replies scored by both, of {len(args.first)} models")


if __name__ == "__main__":
    run(main)
