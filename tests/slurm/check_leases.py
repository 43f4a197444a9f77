"""Compare the GPUs that Slurm gave each job with those that lease_gpu.py took; fail if one lies outside the other.

python tests/slurm/check_leases.py --slurm-logs .snakemake/slurm_logs --logs results/slurm/logs
"""

import argparse
import re
import sys
from pathlib import Path

GIVEN = re.compile(r"^slurm: job (\d+) CUDA_VISIBLE_DEVICES=(\S+)$", re.MULTILINE)
TAKEN = re.compile(r"^lease_gpu: GPU (\S+) \((\S+)\) granted", re.MULTILINE)


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


def taken(folder: Path) -> dict[str, set[str]]:
    """The same name -> the GPUs that the job leased, for jobs that leased some."""
    found = {log: TAKEN.findall(log.read_text()) for log in folder.rglob("*.log")}
    return {
        str(log.relative_to(folder).with_suffix("")).replace("/", "_"): {number for number, _ in cards}
        for log, cards in found.items()
        if cards
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slurm-logs", required=True, type=Path)
    parser.add_argument("--logs", required=True, type=Path)
    arguments = parser.parse_args()
    slurm, leases = given(arguments.slurm_logs), taken(arguments.logs)
    wrong = [name for name, cards in leases.items() if name not in slurm or not cards <= slurm[name][1]]
    wrong += [name for name, (_, cards) in slurm.items() if cards and name not in leases]
    for name in sorted(leases):
        number, cards = slurm.get(name, ("?", set()))
        mark = "WRONG" if name in wrong else "ok"
        print(
            f"{mark}  job {number}: Slurm gave GPU {','.join(sorted(cards))}, leased {','.join(sorted(leases[name]))}: {name}"
        )
    used = set().union(*leases.values()) if leases else set()
    print(f"{len(slurm)} Slurm jobs, {len(leases)} leases on GPUs {','.join(sorted(used))}, {len(wrong)} wrong")
    if wrong or not leases:
        sys.exit(f"error: leases and Slurm's lists differ: {', '.join(sorted(wrong)) or 'no lease was found'}")


if __name__ == "__main__":
    main()
