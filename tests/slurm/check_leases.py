"""Check the leases in a study's logs: no card was held by two jobs at a time, and every card was used.

python tests/slurm/check_leases.py --logs results/small/logs --benchmarks results/small/benchmarks --cards 2 \\
    --slurm-logs .snakemake/slurm_logs

A job holds its cards from the grant until it ends. How long it ran, its wait for a card included, is in its benchmark
file. With --slurm-logs, the cards must also be those that Slurm gave the job.
"""

import argparse
import csv
import re
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

GIVEN = re.compile(r"^slurm: job (\d+) CUDA_VISIBLE_DEVICES=(\S+)$", re.MULTILINE)
TAKEN = re.compile(r"^lease_gpu: GPU (\S+) \((\S+)\) granted after (\d+) s to pid \d+ at (\S+)$", re.MULTILINE)
SLACK = timedelta(seconds=2)  # the grant's time and the wait are whole seconds


@dataclass(frozen=True)
class Lease:
    """One card of one job. end: None if the job left no benchmark, because it failed or still runs."""

    job: str
    card: str
    uuid: str
    start: datetime
    end: datetime | None


def given(folder: Path) -> dict[str, tuple[str, set[str]]]:
    """`rule/wildcards` of every job -> its Slurm id and the GPUs in its list."""
    jobs = {}
    for log in folder.rglob("*.log"):
        match = GIVEN.search(log.read_text())
        if match:
            rule, *wildcards = log.parent.relative_to(folder).parts
            name = "/".join([rule.removeprefix("rule_"), *wildcards])
            jobs[name.replace("/", "_")] = (match[1], set(match[2].split(",")) - {"none"})
    return jobs


def taken(logs: Path, benchmarks: Path) -> list[Lease]:
    """The leases of all jobs, named as by given(), in the order of their grants."""
    leases = []
    for log in logs.rglob("*.log"):
        path = log.relative_to(logs).with_suffix("")
        for card, uuid, waited, at in TAKEN.findall(log.read_text()):
            start, end = datetime.fromisoformat(at), None
            benchmark = benchmarks / f"{path}.tsv"
            if benchmark.is_file():
                with benchmark.open() as file:
                    ran = float(next(csv.DictReader(file, delimiter="\t"))["s"])
                end = start + timedelta(seconds=ran - int(waited))
            leases.append(Lease(str(path).replace("/", "_"), card, uuid, start, end))
    return sorted(leases, key=lambda lease: (lease.start, lease.card))


def overlaps(leases: list[Lease]) -> list[str]:
    """A line for every two jobs that held one card at the same time."""
    found = []
    for uuid in dict.fromkeys(lease.uuid for lease in leases):
        for one, other in pairwise(lease for lease in leases if lease.uuid == uuid):
            if one.end and other.start < one.end - SLACK:
                found.append(f"GPU {one.card} was held by {one.job} and {other.job} at {other.start:%H:%M:%S}")
    return found


def outside(leases: list[Lease], slurm: dict[str, tuple[str, set[str]]]) -> list[str]:
    """A line for every job whose cards are not those that Slurm gave it."""
    cards: dict[str, set[str]] = {}
    for lease in leases:
        cards.setdefault(lease.job, set()).add(lease.card)
    listed = {name: mine for name, (_, mine) in slurm.items() if mine}
    return [
        f"{name}: Slurm gave GPU {','.join(sorted(listed.get(name, {'none'})))}, "
        f"leased {','.join(sorted(cards.get(name, {'none'})))}"
        for name in sorted(cards.keys() | listed.keys())
        if not cards.get(name, set()) <= listed.get(name, set()) or name not in cards
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", required=True, type=Path)
    parser.add_argument("--benchmarks", required=True, type=Path)
    parser.add_argument("--cards", required=True, type=int, help="how many cards have to be used")
    parser.add_argument("--slurm-logs", type=Path)
    arguments = parser.parse_args()
    leases = taken(arguments.logs, arguments.benchmarks)
    used = {lease.uuid for lease in leases}
    for lease in leases:
        end = f"{lease.end:%H:%M:%S}" if lease.end else "no end "
        print(f"GPU {lease.card}  {lease.start:%Y-%m-%d %H:%M:%S} - {end}  {lease.job}")
    wrong = overlaps(leases)
    if arguments.slurm_logs:
        wrong += outside(leases, given(arguments.slurm_logs))
    if len(used) != arguments.cards:
        wrong.append(f"{len(used)} cards were used, not {arguments.cards}")
    print(f"{len(leases)} leases, {len(used)} cards, {len(wrong)} wrong", *wrong, sep="\n")
    if wrong:
        sys.exit("error: the leases are not as they should be")


if __name__ == "__main__":
    main()
