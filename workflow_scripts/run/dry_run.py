"""The jobs that a `snakemake` call would run, and why: its own dry run says so.

A logger plugin, registered for this process alone, takes the jobs as Snakemake reports them (rule, files, resources,
reason, command).
"""

import contextlib
import functools
import io
import math
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from posixpath import dirname
from string import Template
from types import ModuleType
from typing import Any

from graph.profiles import configfiles_of, option_of, profiles_of
from run.program import InputError
from run.readers import read_yaml

REPLIES = "generate_replies"
DRAWN_BY = (
    "--model",
    "--adapter",
    "--samples",
    "--seed",
    "--sampling",
)  # what replies follow from, but for the persona
DOWNSTREAM = "after another job"
# How a reason of Snakemake opens, and what to call it, the most telling first (snakemake.jobs.Reason).
REASONS = {
    "Forced execution": "forced",
    "Missing output files": "not there",
    "Incomplete output files": "incomplete",
    "Params have changed": "parameters changed",
    "Updated input files": "input changed",
    "Set of input files has changed": "other inputs",
    "Code has changed": "code changed",
    "Software environment": "environment changed",
    "Rules with": "target",
    "Input files updated by another job": DOWNSTREAM,
}
# A parameter that stands for the code, or for a file of the checkout (rules/common.smk: code_of, digest_of).
FINGERPRINT = re.compile(r"'([\w./-]+):[0-9a-f]{16}'")
# A part of the resolved study among a job's inputs (rules/common.smk: part_file).
PART = re.compile(r"results/[^/ ]+/study/[^,; ]+\.json")
# Of a lease (rules/common.smk: launcher): how many programs share the card.
SHARE = re.compile(r"lease_gpu\.py --gpus \d+ --share (\d+) ")


@dataclass(frozen=True)
class Job:
    """A job of the dry run. command: the shell command, or "". costs: the class of models whose costs it has, or ""."""

    rule: str
    wildcards: Mapping[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    benchmark: str | None
    reason: str
    gpus: int
    threads: int
    priority: float
    command: str
    costs: str = ""

    @functools.cached_property
    def share(self) -> int:
        """How many jobs like this one have a card among them."""
        return int(match[1]) if (match := SHARE.search(self.command)) else 1

    @property
    def cards(self) -> Fraction:
        """What it holds while it runs: whole cards, or a part of one."""
        return Fraction(self.gpus, self.share)

    @property
    def name(self) -> tuple[str, ...]:
        """What tells it from every other job, in any dry run."""
        return (self.rule, *self.outputs)


def dry_run(arguments: Sequence[str], cores: int) -> list[Job]:
    """The jobs that `snakemake -n <arguments>` lists, sorted. Raises InputError with its message if it fails."""
    from snakemake.cli import main as snakemake
    from snakemake_interface_logger_plugins.base import LogHandlerBase
    from snakemake_interface_logger_plugins.common import LogEvent
    from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

    jobs: list[Job] = []
    complaints: list[str] = []

    class LogHandler(LogHandlerBase):
        writes_to_stream = True  # so that Snakemake adds no printer of its own
        writes_to_file = False
        has_filter = True
        has_formatter = True
        needs_rulegraph = False

        def emit(self, record: Any) -> None:
            if getattr(record, "event", None) == LogEvent.JOB_INFO:
                jobs.append(job_of(vars(record)))
            elif record.levelname in ("ERROR", "CRITICAL"):
                complaints.append(record.getMessage())

    plugin = ModuleType("snakemake_logger_plugin_plan")
    plugin.LogHandler = LogHandler  # type: ignore[attr-defined]
    registry = LoggerPluginRegistry()
    registry.plugins.pop("plan", None)
    registry.register_plugin(plugin.__name__, plugin)
    printed = io.StringIO()
    status: Any = 0
    given, sys.argv = sys.argv, ["snakemake", *arguments]  # which the workflow reads
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            snakemake(["--logger", "plan", "--dry-run", "--cores", str(cores), *arguments])
        except SystemExit as error:
            status = error.code
        finally:
            sys.argv = given
    if status:
        check_configfiles(arguments)
        said = "\n".join(complaints) or printed.getvalue()
        raise InputError(f"snakemake -n {shlex.join(arguments)}: failed\n{said.strip()}")
    return sorted(jobs, key=lambda job: job.name)


def check_configfiles(arguments: Sequence[str]) -> None:
    """Raise InputError with the line of a file that is no YAML, of which Snakemake names neither, or for one that has
    no keys or is not there: of those that the arguments name, or else their profiles.
    """
    given = option_of(arguments, "--configfile", "--configfiles", nargs="*", action="extend", default=[])
    for file in given or [file for profile in profiles_of(arguments) for file in configfiles_of(profile)]:
        if not isinstance(read_yaml(file), dict):
            raise InputError(f"{file}: has no keys at its top level; fix: write `key: value` lines, or leave it out")


def job_of(record: Mapping[str, Any]) -> Job:
    """The job in a JOB_INFO record (snakemake.jobs.Job.log_info)."""
    resources = dict(record["resources"].items())
    return Job(
        rule=record["rule_name"],
        wildcards={name: str(value) for name, value in (record["wildcards"] or {}).items()},
        inputs=tuple(map(without_remark, record["input"] or ())),
        outputs=tuple(map(without_remark, record["output"] or ())),
        benchmark=str(record["benchmark"]) if record["benchmark"] else None,
        reason=record["reason"],
        gpus=int(resources.get("gpu", 0)),
        threads=int(record["threads"]),
        priority=math.inf if record["priority"] == "highest" else float(record["priority"]),
        command=record["shellcmd"] or "",
        costs=str(resources.get("costs", "")),
    )


def without_remark(file: str) -> str:
    """A file name without the remark that Snakemake may add, such as ` (update)`."""
    return re.sub(r" \([^()/]*\)$", "", str(file))


def parents_of(jobs: Sequence[Job]) -> list[list[int]]:
    """The places of the jobs that make each job's inputs, and of the one that draws its replies if another does."""
    maker = {output: place for place, job in enumerate(jobs) for output in job.outputs}
    places = {job.name: place for place, job in enumerate(jobs)}
    drawer = {job: places[first] for job, first in drawers(jobs).items()}
    above = [
        {maker[file] for file in job.inputs if file in maker} | {drawer.get(job.name, place)}
        for place, job in enumerate(jobs)
    ]
    return [sorted(parents - {place}) for place, parents in enumerate(above)]


def drawers(jobs: Iterable[Job]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Job of generate_replies -> the job, by name, whose engine draws its replies: the first that asks the same model
    in the same way draws them for all.
    """
    first: dict[tuple[str, ...], tuple[str, ...]] = {}
    found = {}
    for job in sorted((job for job in jobs if job.rule == REPLIES), key=lambda job: job.name):
        options = options_of(job.command)
        asked = tuple(" ".join(options.get(name, [])) for name in DRAWN_BY)
        found[job.name] = first.setdefault(asked, job.name)
    return found


def chain_of(place: int, parents: Sequence[Sequence[int]]) -> set[int]:
    """The places of a job and of everything it needs."""
    found: set[int] = set()
    todo = [place]
    while todo:
        here = todo.pop()
        if here not in found:
            found.add(here)
            todo.extend(parents[here])
    return found


def why(reason: str) -> str:
    """The most telling part of Snakemake's reason, and the first file if one changed."""
    for opening, word in REASONS.items():
        match = re.search(rf"(?:^|; ){re.escape(opening)}[^:;]*(?:: (?P<files>[^;]*))?", reason)
        if match and word in ("input changed", DOWNSTREAM) and PART.search(match["files"] or ""):
            return "parameters changed"
        if match and word == "input changed":
            first, *more = (match["files"] or "").split(", ")
            if not first:
                continue  # all of them are another job's, says the next part
            return f"{first} changed" + (f" and {len(more)} more" if more else "")
        if match and word == "parameters changed":
            return changed_params(reason)
        if match:
            return word
    return reason.partition(":")[0] or "target"


def changed_params(reason: str) -> str:
    """What of a job's parameters changed, by Snakemake's reason: `code changed`, `envs/gpu.txt changed`, or others."""
    said = reason.partition("Params have changed")[2].partition("before: ")[2]
    before, _, now = said.partition("; ")[0].partition(" now: ")
    files = dict.fromkeys(FINGERPRINT.findall(f"{before} {now}"))
    others = re.sub(rf"{FINGERPRINT.pattern}|<nothing exclusive>|[, ]", "", before + now)
    if others or not files:
        return "parameters changed"
    first, *more = files
    return f"{first} changed" + (f" and {len(more)} more" if more else "")


def options_of(command: str) -> dict[str, list[str]]:
    """--name -> its values, from a shell command; the program behind `--` if one program starts another.

    A command may begin with names for what it says several times, and for the folders of these:
    `node=results/x parent=${node%/*}; python ... --manifest $node/y`.
    """
    words = shlex.split(command)
    names: dict[str, str] = {}
    while words and (given := re.fullmatch(r"([a-z]+)=(\S+?);?", words[0])):
        folder = re.fullmatch(r"\$\{([a-z]+)%/\*\}", given[2])
        names[given[1]] = dirname(names[folder[1]]) if folder else Template(given[2]).safe_substitute(names)
        words.pop(0)
    words = [Template(word).safe_substitute(names) for word in words] if names else words
    if "--" in words:
        words = words[len(words) - words[::-1].index("--") :]
    options: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word in (">", "2>&1", "|", "&&", ";"):
            break
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            options[name] = [value] if equals else []
        elif name:
            options[name].append(word)
    return options
