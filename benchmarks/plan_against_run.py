"""A plan held against its run: what `make plan` says before, and what Snakemake's jobs then take.

    python benchmarks/plan_against_run.py --gpus 2 --output two_cards.json -- \\
        --configfile benchmarks/plan_7b.yaml benchmarks/no_probe.yaml -- \\
        results/plan_7b/cells/evil_ai/{C1,C2}_seed42.json

Behind the first `--`: arguments for Snakemake, without -n, cores and GPUs. The jobs are planned by
resources/unit_costs.csv alone, not by this study's earlier benchmark files, and run; then every job's seconds
(Snakemake's benchmark of it), and the whole, packed by the plan onto as many cards, stand beside what they took. With
nothing left to run, all jobs of the targets that have a benchmark file are compared, and no time of the whole.

A first start on a node, where nothing is compiled yet, is no part of these times: the plan says it apart (`first_s` of
unit_costs.csv). `start_s` is what a job's first training step or its engine's start took: beside a later job's it shows
what compiling cost.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Snakemake's own modules import by name from the working folder
sys.path[:0] = [str(ROOT / "workflow_scripts"), str(Path.cwd())]

from run.dry_run import Job, dry_run, parents_of  # noqa: E402
from run.job_costs import Cost, costs_of, measured_seconds, unit_cost_table  # noqa: E402
from run.program import InputError, run  # noqa: E402
from run.readers import read_json  # noqa: E402
from run.schedule import schedule  # noqa: E402

STARTS = ("first_step_seconds", "engine_start_seconds")  # of a run record
NEAR = 0.15


def beside(planned: float, measured: float) -> dict[str, float | None]:
    return {
        "planned_s": round(planned, 1),
        "measured_s": round(measured, 1),
        "ratio": round(measured / planned, 3) if planned else None,
    }


def row_of(job: Job, cost: Cost) -> dict[str, Any]:
    """A job's seconds, planned and measured, what its run record says of its start, and when it ended (epoch)."""
    words = "/".join(job.wildcards.values())
    records = [read_json(file, dict) for file in job.outputs if file.endswith("run.json")]
    starts = [record[name] for record in records for name in STARTS if name in record]
    return {
        "job": f"{job.rule} {words}".strip(),
        "gpus": float(job.cards),
        **beside(cost.seconds, measured_seconds(str(job.benchmark))),
        **({"start_s": starts[0]} if starts else {}),
        "ended": Path(str(job.benchmark)).stat().st_mtime,
    }


def timed(rows: Iterable[dict[str, Any]], began: float) -> list[dict[str, Any]]:
    """The rows with `from` and `to`, in seconds after the start of the run, in the order in which the jobs began."""
    placed = [
        {**row, "from": round(row["ended"] - row["measured_s"] - began, 1), "to": round(row["ended"] - began, 1)}
        for row in rows
    ]
    return sorted(placed, key=lambda row: row["from"])


def report(result: Mapping[str, Any]) -> str:
    """The rows and sums as a table, and which are farther from the plan than NEAR."""
    from tabulate import tabulate

    columns = ["job", "gpus", "planned_s", "measured_s", "ratio", "start_s", "from", "to"]
    sums = [{"job": name, **result[name]} for name in ("gpu_seconds", "wall") if name in result]
    rows = [[row.get(column, "") for column in columns] for row in [*result["jobs"], *sums]]
    far = [row["job"] for row in [*result["jobs"], *sums] if is_far(row)]
    return (
        f"{tabulate(rows, headers=columns, tablefmt='github')}\n\n"
        f"farther than {NEAR:.0%} from the plan, of the sums and the jobs on cards: {', '.join(far) or 'none'}"
    )


def is_far(row: Mapping[str, Any]) -> bool:
    return row.get("gpus", 1) > 0 and row["ratio"] is not None and abs(row["ratio"] - 1) > NEAR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, required=True, help="cards for the plan and the run; 0: none")
    parser.add_argument("--cores", type=int, default=16, help="cores for both (16)")
    parser.add_argument("--output", type=Path, required=True, help="JSON to write")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="-- arguments for Snakemake")
    args = parser.parse_args()
    arguments = args.arguments[1:] if args.arguments[:1] == ["--"] else args.arguments
    everything = dry_run(["--forceall", *arguments], args.cores)
    jobs = dry_run(arguments, args.cores)
    result: dict[str, Any] = {"arguments": arguments, "gpus": args.gpus, "cores": args.cores}
    if jobs:
        costs = costs_of(jobs, everything, unit_cost_table())
        packed = schedule(jobs, parents_of(jobs), costs, args.gpus, args.cores).seconds
        places = args.gpus * max(job.share for job in jobs)
        command = [sys.executable, "-m", "snakemake", "--cores", str(args.cores), "--resources", f"gpu={places}"]
        began = time.time()
        failed = subprocess.run([*command, *arguments], check=False).returncode
        if not failed:
            result["wall"] = beside(packed, time.time() - began)
    else:
        jobs, costs, began, failed = everything, costs_of(everything, [], unit_cost_table()), 0.0, 0
    rows = [
        row_of(job, cost)
        for job, cost in zip(jobs, costs, strict=True)
        if job.benchmark and Path(job.benchmark).is_file() and Path(job.benchmark).stat().st_mtime >= began
    ]
    if not rows:
        raise InputError(f"{' '.join(arguments)}: no job has a benchmark file; fix: run them, or name other targets")
    result["jobs"] = [{k: v for k, v in row.items() if k != "ended"} for row in timed(rows, began)]
    on_cards = [row for row in rows if row["gpus"]]
    result["gpu_seconds"] = beside(
        *(sum(row["gpus"] * row[name] for row in on_cards) for name in ("planned_s", "measured_s"))
    )
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(report(result))
    if failed:
        raise InputError(f"snakemake ended with {failed}; fix: see above. The jobs that ended are compared")


if __name__ == "__main__":
    run(main)
