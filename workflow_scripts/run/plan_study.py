"""What a `snakemake` call would cost before it costs anything: jobs and why, GPU-hours, wall time, disk.

    python workflow_scripts/run/plan_study.py --gpus 8                       # the published study on 8 GPUs
    python workflow_scripts/run/plan_study.py --gpus 2 forward --config 'sources=[villain]'
    python workflow_scripts/run/plan_study.py --profile profiles/tiny

Arguments it does not know go to Snakemake, whose own dry run says what would run (dry_run.py). What a job takes is in
resources/unit_costs.csv, and in the benchmark files of jobs that are done (job_costs.py). The wall time is that of a
list schedule of the jobs' real graph (schedule.py). --gpus are cards: jobs that share one (`hardware.jobs_per_gpu`)
hold their part of it.
"""

import argparse
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, it finds the other rooms

from measure.tables import read_table
from model.adapters import read_shapes
from run.dry_run import DOWNSTREAM, Job, chain_of, dry_run, options_of, parents_of, why
from run.job_costs import (
    MODEL,
    RESOURCES,
    UNIT_COSTS,
    Cost,
    Factors,
    Group,
    corrected,
    corrections,
    costs_of,
    gigabytes,
    model_of,
    part_of,
    unit_cost_table,
)
from run.program import InputError, run
from run.schedule import CORES_PER_GPU, Schedule, cores_beside, longest_chain, schedule
from run.unit_costs import ANY, parameters


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--gpus", type=int, default=8, help="GPUs to plan for (8)")
    parser.add_argument(
        "--cores", type=int, help=f"cores to plan for ({CORES_PER_GPU} a GPU; of this machine if no job wants a GPU)"
    )
    parser.add_argument("--unit-costs", default=UNIT_COSTS, help="what a job of each rule takes")
    parser.add_argument("--published", default=RESOURCES / "published/gpu_hours.csv", help="what the cells once took")
    arguments, others = parser.parse_known_args()
    if arguments.gpus < 0 or (arguments.cores or 1) < 1:
        raise InputError("--gpus is 0 or more, --cores 1 or more; fix: correct them")
    print(plan(others, arguments.gpus, arguments.cores, arguments.unit_costs, arguments.published))


def plan(arguments: Sequence[str], gpus: int, cores: int | None, costs_file: str, published: str) -> str:
    """The report on `snakemake <arguments>` as Markdown."""
    table = unit_cost_table(costs_file)
    asked = cores or cores_beside(gpus)
    jobs = dry_run(arguments, asked)
    everything = dry_run(["--forceall", *arguments], asked)
    cores = cores or cores_beside(gpus if any(job.gpus for job in everything) else 0)
    by_table = dict(zip((job.name for job in everything), costs_of(everything, [], table), strict=True))
    changed = {job.name for job in jobs if why(job.reason) == "parameters changed"}
    factors = corrections(everything, by_table, changed)
    costs = {name: corrected(cost, factors) for name, cost in by_table.items()}
    parts = [f"# Plan of `{shlex.join(['snakemake', *arguments])}`"]
    parts += of_another_size(everything)
    if jobs:
        parts += report(jobs, [costs[job.name] for job in jobs], factors, gpus, cores)
    else:
        parts += ["Nothing to be done: everything is there and current."]
    parts += beside_published(everything, [costs[job.name] for job in everything], gpus, cores, published)
    return "\n\n".join(parts)


def report(jobs: Sequence[Job], costs: Sequence[Cost], factors: Factors, gpus: int, cores: int) -> list[str]:
    """Sums, jobs by rule, jobs by cell."""
    parents = parents_of(jobs)
    when = schedule(jobs, parents, costs, gpus, cores)
    unit, weights = weights_of(jobs)
    total = hours(range(len(jobs)), weights, costs)
    machine = f"{gpus} GPUs and {cores} cores" if unit == "GPU-hours" else f"{cores} cores"
    if (share := max((job.share for job in jobs), default=1)) > 1:
        machine += f", {share} jobs on a GPU"
    even = 3600 * total / (gpus if unit == "GPU-hours" else cores)
    cached = sum(cost.cached for cost in costs)
    sums = [
        f"- jobs: {sum(bool(job.command) for job in jobs)}",
        f"- {unit}: {total:.2f}",
        f"- wall time on {machine}: {clock(when.seconds)} (no less than {clock(even)}, all of them always busy, "
        f"and {clock(longest_chain(parents, costs))}, the longest chain)",
        f"- disk: {gigabytes(sum(cost.disk for cost in costs))} stay; {gigabytes(when.peak)} at the peak, of which "
        f"{gigabytes(when.peak_scratch)} while jobs run (states to resume from)"
        + (f"; {gigabytes(cached)} more in the Hub client's cache" if cached else ""),
    ]
    if parameters(model := costs[0].group[1]):
        sums.append(f"- what a job takes: as with a model of {model} parameters (`hardware.costs`)")
    if first := first_starts(costs):
        said = ", ".join(f"{clock(seconds)} of {what}" for what, seconds in first.items())
        sums.append(f"- not counted, once on each node where nothing was compiled yet: {said}")
    if imports := {cost.forked for cost in costs if cost.forked}:
        said = " and ".join(clock(seconds) for seconds in sorted(imports))
        sums.append(
            f"- not counted, once per Snakemake: {said} of imports in what programs are forked from (`preload`)"
        )
    if unknown := sorted({job.rule for job, cost in zip(jobs, costs, strict=True) if not cost.known}):
        missing = "neither resources/unit_costs.csv nor an entry of measure/registry.py (`costs`) says what they take"
        sums.append(f"- not counted, as {missing}: {', '.join(unknown)}")
    assumed = [(job, cost) for job, cost in zip(jobs, costs, strict=True) if cost.group not in factors]
    sums += [*of_another_model(assumed), *of_another_share(assumed), *kept_by_cores(jobs, gpus, cores)]
    return [
        "\n".join(sums),
        "## By rule\n\n" + by_rule(jobs, costs, factors),
        *(["## By cell\n\n" + cells] if (cells := by_cell(jobs, costs, parents, when)) else []),
    ]


def of_another_size(jobs: Sequence[Job]) -> list[str]:
    """A line if the base lies on this machine and has not half, or over twice, the parameters it is planned with."""
    planned = parameters(model_of(jobs))
    folders = [options_of(job.command).get("--path") for job in jobs if job.rule == "fetch_base"]
    counted = parameters_in(Path(folders[0][0])) if folders and folders[0] else 0
    if not planned or not counted or 0.5 <= counted / planned <= 2:
        return []
    own = f"{counted / 1e9:.3g}B" if counted >= 0.9995e9 else f"{counted / 1e6:.3g}M"
    fix = f"write `hardware: {{costs: {own}}}`"
    return [f"**The base has {own} parameters and is planned as one of {model_of(jobs)}**: {fix}"]


def parameters_in(base: Path) -> int:
    """How many the weights of a folder have, by their headers; 0 if they cannot be read."""
    try:
        return sum(prod(shape) for file in base.glob("*.safetensors") for shape in read_shapes(file).values())
    except InputError:
        return 0


def of_another_model(planned: Iterable[tuple[Job, Cost]]) -> list[str]:
    """A line for each class of models whose measured costs stand in for those of the study's own."""
    rules: dict[tuple[str, str], set[str]] = {}
    for job, cost in planned:
        if cost.of not in (ANY, cost.group[1]):
            rules.setdefault((cost.group[1], cost.of), set()).add(job.rule)
    return [
        f"- **not measured with {own}**, so planned as {other}, the nearest in size that is: {', '.join(sorted(names))}"
        for (own, other), names in rules.items()
    ]


def of_another_share(planned: Iterable[tuple[Job, Cost]]) -> list[str]:
    """A line for each number of jobs on a card that costs were measured with, where another number is planned."""
    rules: dict[tuple[int, int], set[str]] = {}
    for job, cost in planned:
        if job.gpus and cost.of != ANY and cost.share != job.share:
            rules.setdefault((cost.share, job.share), set()).add(job.rule)
    return [
        f"- **measured with {then} job{'s' * (then > 1)} on a card**, planned with {now}: each takes "
        f"{'less' if now < then else 'more'} than these hours say: {', '.join(sorted(names))}"
        for (then, now), names in rules.items()
    ]


def kept_by_cores(jobs: Iterable[Job], gpus: int, cores: int) -> list[str]:
    """A line if fewer of the jobs that share cards can run at a time, by their threads, than cards have room for."""
    shared = [job for job in jobs if job.share > 1]
    at_once = min((cores // job.threads for job in shared), default=0)
    room = max((gpus * job.share for job in shared), default=0)
    if at_once >= room:
        return []
    return [
        f"- **{cores} cores let {at_once} jobs run at a time, and the cards {room}**: give more --cores, also than the "
        "machine has, to this plan and to Snakemake, or lower `hardware.threads`"
    ]


def weights_of(jobs: Sequence[Job]) -> tuple[str, list[float]]:
    """What a study is paid in, and how much each job holds: GPUs or its part of one, or cores if no job wants a GPU."""
    if any(job.gpus for job in jobs):
        return "GPU-hours", [float(job.cards) for job in jobs]
    return "core-hours", [float(job.threads) if job.command else 0.0 for job in jobs]


def hours(places: Iterable[int], weights: Sequence[float], costs: Sequence[Cost]) -> float:
    return sum(weights[place] * costs[place].seconds for place in places) / 3600


def first_starts(costs: Iterable[Cost]) -> dict[str, float]:
    """Seconds that the first job on a node takes longer, by what compiles: all programs that start vLLM share what it
    compiled, and so do all trainings of a rule.
    """
    found: dict[str, float] = {}
    for cost in costs:
        what = "vLLM" if cost.group[2] == "vllm" else cost.group[0]
        if cost.first:
            found[what] = max(found.get(what, 0.0), cost.first)
    return found


def by_rule(jobs: Sequence[Job], costs: Sequence[Cost], factors: Factors) -> str:
    """A row for each rule and data set, the most expensive first."""
    unit, weights = weights_of(jobs)
    groups: dict[Group, list[int]] = {}
    for place, job in enumerate(jobs):
        if job.command:
            groups.setdefault(costs[place].group, []).append(place)
    rows = []
    for group, places in groups.items():
        count = factors[group][1] if group in factors else 0
        seconds = sum(costs[place].seconds for place in places)
        row = [
            group[0],
            "" if group[2] == "*" else group[2],
            len(places),
            f"{hours(places, weights, costs):.2f}",
            clock(seconds / len(places)),
            tally(Counter(why(jobs[place].reason) for place in places)),
            f"{count} benchmark{'s' * (count > 1)} here" if count else "table" if costs[places[0]].known else "-",
        ]
        rows.append((-hours(places, weights, costs), -seconds, row))
    columns = ["rule", "data, backend", "jobs", unit, "a job", "why", "cost from"]
    return tabulated(columns, [row for _, _, row in sorted(rows)])


def by_cell(jobs: Sequence[Job], costs: Sequence[Cost], parents: Sequence[Sequence[int]], when: Schedule) -> str:
    """A row per cell: what it needs, alone and with shared jobs divided among the cells that need them."""
    unit, weights = weights_of(jobs)
    chains = {place: chain_of(place, parents) for place, job in enumerate(jobs) if job.rule == "summarize_cell"}
    users = Counter(place for chain in chains.values() for place in chain)
    divided = [weight / max(users[place], 1) for place, weight in enumerate(weights)]
    rows = []
    for cell, chain in chains.items():
        name = jobs[cell].wildcards
        reasons = Counter(why(jobs[place].reason) for place in chain if jobs[place].command)
        if len(reasons) > 1:
            del reasons[DOWNSTREAM]
        rows.append(
            [
                f"{name['source']}/{name['cell']}_seed{name['seed']}",
                sum(bool(jobs[place].command) for place in chain),
                f"{hours(chain, weights, costs):.2f}",
                f"{hours(chain, divided, costs):.2f}",
                clock(when.ends[cell]),
                tally(reasons),
            ]
        )
    columns = ["cell", "jobs", f"{unit} alone", "its share", "done after", "why"]
    return tabulated(columns, sorted(rows)) if rows else ""


def beside_published(jobs: Sequence[Job], costs: Sequence[Cost], gpus: int, cores: int, published: str) -> list[str]:
    """The forward cells of each source, from nothing, beside what they took when they were published.

    Not of a source with fewer or more of them, such as for targets that are some of its cells.
    """
    parents = parents_of(jobs)
    makers = {file: job for job in jobs for file in job.outputs}
    sources: dict[str, list[int]] = {}
    for place, job in enumerate(jobs):
        if job.rule == "summarize_cell" and part_of(options_of(job.command)["--cell"][0], makers)["arm"] == "forward":
            sources.setdefault(job.wildcards["source"], []).append(place)
    known = {row["source"]: row for row in read_table(published, ["source", "cells", "gpu_hours"])}
    counts = {row["cells"] for row in known.values()}
    sources = {source: cells for source, cells in sources.items() if len(cells) in counts}
    if not sources or {cost.group[1] for cost in costs} != {MODEL}:
        return []
    rows = []
    for source, cells in sorted(sources.items()):
        places = sorted(set().union(*(chain_of(cell, parents) for cell in cells)))
        chosen, own = [jobs[place] for place in places], [costs[place] for place in places]
        when = schedule(chosen, parents_of(chosen), own, gpus, cores)
        row = known.get(source, {})
        then = f"{row['gpu_hours']} ({row['cells']} cells)" if row else "-"
        now = hours(places, weights_of(jobs)[1], costs)
        rows.append([source, len(cells), f"{now:.2f}", clock(when.seconds), then])
    columns = ["source", "cells", "GPU-hours", f"wall time on {gpus} GPUs", "published, GPU-hours on H100"]
    return ["## The forward cells of one source, from nothing\n\n" + tabulated(columns, rows)]


def tabulated(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    from tabulate import tabulate

    numbers = ("jobs", "GPU-hours", "core-hours", "its share", "cells", "a job", "done after", "wall time")
    aligned = ["right" if column.startswith(numbers) else "left" for column in columns]
    return tabulate(rows, headers=list(columns), tablefmt="github", colalign=aligned, disable_numparse=True)


def tally(reasons: Counter[str]) -> str:
    """`not there`, or `2 parameters changed, 31 after another job`."""
    if len(reasons) == 1:
        return next(iter(reasons))
    return ", ".join(f"{count} {word}" for word, count in reasons.most_common())


def clock(seconds: float) -> str:
    """90 -> 1.5 min; 5400 -> 1.5 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    # Snakemake's own modules import by name from the working folder, which a program's sys.path lacks.
    sys.path.insert(1, os.getcwd())
    run(main)
