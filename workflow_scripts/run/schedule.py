"""When planned jobs run: a list schedule of their real graph on so many cards and cores."""

import functools
import heapq
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from run.dry_run import Job
from run.job_costs import Cost
from run.program import InputError

CORES_PER_GPU = 8  # of a node that is not this machine


def cores_beside(gpus: int) -> int:
    """Cores of a machine with so many GPUs, which has no fewer than this one."""
    return max(CORES_PER_GPU * gpus, os.cpu_count() or 1)


@dataclass(frozen=True)
class Schedule:
    """ends: seconds from the start until each job is done, in the jobs' order; peak: disk, and the scratch in it."""

    ends: tuple[float, ...]
    peak: float
    peak_scratch: float

    @property
    def seconds(self) -> float:
        return max(self.ends, default=0.0)


def schedule(
    jobs: Sequence[Job], parents: Sequence[Sequence[int]], costs: Sequence[Cost], gpus: int, cores: int
) -> Schedule:
    """A list schedule: whatever can start, starts, by its priority and then in the order in which it became ready.

    Raises InputError for a job that asks for more GPUs than there are.
    """
    for job in jobs:
        if job.gpus > gpus:
            raise InputError(f"{job.rule}: wants {job.gpus} GPUs of {gpus}; fix: --gpus {job.gpus}")
    children: list[list[int]] = [[] for _ in jobs]
    for place, above in enumerate(parents):
        for parent in above:
            children[parent].append(place)
    missing = [len(above) for above in parents]
    waiting = [place for place, count in enumerate(missing) if count == 0]
    running: list[tuple[float, int]] = []
    ends = [0.0] * len(jobs)
    free = Fraction(gpus)
    now = kept = scratch = peak = peak_scratch = 0.0
    while waiting or running:
        for place in sorted(waiting, key=lambda place: -jobs[place].priority):
            threads = min(jobs[place].threads, cores) if jobs[place].command else 0
            if jobs[place].cards <= free and threads <= cores - used(running, jobs, cores):
                waiting.remove(place)
                free -= jobs[place].cards
                scratch += costs[place].scratch
                heapq.heappush(running, (now + costs[place].seconds, place))
        if kept + scratch > peak:
            peak, peak_scratch = kept + scratch, scratch
        now, done = heapq.heappop(running)
        ends[done] = now
        free += jobs[done].cards
        kept += costs[done].disk
        scratch -= costs[done].scratch
        for child in children[done]:
            missing[child] -= 1
            if missing[child] == 0:
                waiting.append(child)
    return Schedule(tuple(ends), max(peak, kept), peak_scratch if peak > kept else 0.0)


def used(running: Iterable[tuple[float, int]], jobs: Sequence[Job], cores: int) -> int:
    """Cores that the running jobs take."""
    return sum(min(jobs[place].threads, cores) for _, place in running if jobs[place].command)


def longest_chain(parents: Sequence[Sequence[int]], costs: Sequence[Cost]) -> float:
    """Seconds of the longest chain of jobs: no number of GPUs is faster."""

    @functools.cache
    def end(place: int) -> float:
        return costs[place].seconds + max((end(parent) for parent in parents[place]), default=0.0)

    return max(map(end, range(len(parents))), default=0.0)
