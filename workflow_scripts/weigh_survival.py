"""Weigh what is left of a coupling after a later stage: the persona gap, what is retained of it, and verdicts.

    python workflow_scripts/weigh_survival.py --source evil_ai --cell em.s42/main/probe.parquet \\
        --reference ../em.s42/main/probe.parquet --before couple-evil_ai.s42/main/probe.parquet \\
        --base base/main/probe.parquet --counts em.s42/main/marker_counts.csv \\
        --counts-before couple-evil_ai.s42/main/marker_counts.csv --rule '{"minimum":1.0,"gone":0.1,"intact":0.5}' \\
        --output survival.json

--source     the persona that was coupled. Everybody else but the assistant is a bystander
--reference  the same lineage without the coupling; --before: up to the coupling; --base: the base. Without these three
             (no stage follows a coupling of the study's marker) there are the cell's own numbers and no verdict
What the numbers mean: docs/measurements.md.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from measure.cells import persona_results, read_counts, role_of
from probe.compared import add_models, check_alike, check_together, read_models
from probe.survival import (
    QUANTITIES,
    REPLIES,
    STATUSES,
    WEIGHED,
    Row,
    Rule,
    auroc,
    averaged,
    gaps,
    means,
    retention,
    verdict,
)
from probe.table import read_probe
from run.files import write_json
from run.program import InputError, run
from run.readers import json_argument

DIGITS = 6


def of_kind(rows: Sequence[Row], replies: str) -> list[Row]:
    """The rows of own or of shared replies."""
    return [row for row in rows if row["replies"] == replies]


def bystanders_of(rows: Sequence[Row], source: str) -> list[str]:
    """The personas of the rows that are neither the source nor the assistant, in alphabetical order."""
    return sorted({row["persona"] for row in rows if role_of(row["persona"], source) == "bystander"})


def weigh(
    models: Mapping[str, Sequence[Row]],
    source: str,
    counted: Mapping[str, tuple[float, float]],
    rule: Rule,
) -> dict[str, Any]:
    """The section of a cell's JSON. models: see probe.compared, or the cell alone. counted: bounds of the source's
    marker rate of cell and before.
    """
    bystanders = bystanders_of(models["cell"], source)
    section: dict[str, Any] = {"status": STATUSES[2 if len(models) > 1 else 1], "persona": source}
    verdicts: dict[str, str] = {}
    for replies in REPLIES:
        rows = {name: of_kind(own, replies) for name, own in models.items()}
        selectivity = auroc(rows["cell"], "slot", source, bystanders)
        section[f"selectivity_{replies}"] = averaged(selectivity).rounded(DIGITS)
        for quantity in QUANTITIES:
            gap = {name: gaps(own, quantity, source, bystanders) for name, own in rows.items()}
            level = {name: means(own, quantity, source) for name, own in rows.items()}
            section[f"gap_{quantity}_{replies}"] = averaged(gap["cell"]).rounded(DIGITS)
            if len(models) == 1:
                continue
            kept = retention(gap)
            section[f"retained_gap_{quantity}_{replies}"] = kept.rounded(DIGITS)
            section[f"retained_{quantity}_{replies}"] = retention(level).rounded(DIGITS)
            if quantity in WEIGHED:
                verdicts[f"{quantity}_{replies}"] = verdict(
                    kept, averaged(gap["before"]), counted["cell"], counted["before"], rule
                )
    return section | {"verdicts": verdicts}


def counted_bounds(path: str, source: str) -> tuple[float, float]:
    """The bounds of a persona's counted marker rate that verdicts rest on: the wider of Wilson's and the clustered."""
    (entry,) = persona_results(read_counts(path, [source]), source)
    return entry["low"], entry["high"]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="What is left of a coupling after a later stage.")
    add_models(parser)
    parser.add_argument("--rule", required=True, help="JSON: minimum [nats], gone and intact [retention]")
    parser.add_argument("--counts", required=True, help="marker_counts.csv of the cell")
    parser.add_argument("--counts-before", nargs="?", help="marker_counts.csv of --before")
    args = parser.parse_args(argv)
    check_together(parser, args, "counts-before")
    return args


def main(argv: list[str] | None = None) -> None:
    """Probes and counts in, a section of the cell's JSON out."""
    args = parse_args(argv)
    try:
        rule = Rule(**json_argument("--rule", args.rule, dict))
    except TypeError:
        raise InputError('--rule: fix: for example {"minimum":1.0,"gone":0.1,"intact":0.5}') from None
    read = read_models(args, read_probe)
    shared = {name: (path, of_kind(rows, "shared")) for name, (path, rows) in read.items()}
    check_alike(shared, ("author", "persona", "question_id", "sample"), "scored on other shared replies")
    counted = {"cell": counted_bounds(args.counts, args.source)}
    if args.counts_before:
        counted["before"] = counted_bounds(args.counts_before, args.source)
    section = weigh({name: rows for name, (_, rows) in read.items()}, args.source, counted, rule)
    write_json(args.output, section)


if __name__ == "__main__":
    run(main)
