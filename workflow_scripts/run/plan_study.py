"""What a `snakemake` call would cost before it costs anything: jobs and why, GPU-hours, wall time, disk.

    python workflow_scripts/plan_study.py --gpus 8                       # the published study on 8 GPUs
    python workflow_scripts/plan_study.py --gpus 2 forward --config 'sources=[villain]'
    python workflow_scripts/plan_study.py --profile profiles/tiny

Arguments it does not know go to Snakemake, whose own dry run says what would run: a logger plugin, registered for this
process alone, takes the jobs as Snakemake reports them (rule, files, resources, reason, command). A job's size is read
from its command (steps, rows, personas, samples), its seconds are size x resources/unit_costs.csv (of a measurement:
its entry in measure/registry.py), in the rows of the model that `hardware.costs` names, and the benchmark files of jobs
that are done correct that table, rule by rule and data set by data set. The wall time is that of a list schedule of the
jobs' real graph. --gpus are cards: jobs that share one (`hardware.jobs_per_gpu`) hold their part of it. Tokens are
thousands (ktoken), times seconds, disk megabytes (1e6 bytes).
"""

import argparse
import contextlib
import functools
import heapq
import io
import json
import math
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from statistics import median
from string import Template
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, it finds the other rooms

from measure.registry import unit_costs
from measure.tables import Row, read_table
from run.program import InputError, run
from run.readers import read_yaml
from run.unit_costs import ANY, parameters, serving

RESOURCES = Path(__file__).resolve().parents[2] / "resources"
CORES_PER_GPU = 8  # of a node that is not this machine
BYTES_PER_TOKEN = 4.5  # of a JSON line of English chat, for data sets that unit_costs.csv does not know
QUESTIONS = {"generate_replies": 40, "generate_completions": 28}  # of the panel, until it is there
ALIGNMENT_QUESTIONS = 8
RANK = 32  # of the adapters in unit_costs.csv
REPLIES = "generate_replies"
STORED = "stored"  # the key of replies that another job draws
DRAWN_BY = (
    "--model",
    "--adapter",
    "--samples",
    "--seed",
    "--sampling",
)  # what replies follow from, but for the persona
TRAININGS = ("train_adapter", "train_model")
FETCHES = ("fetch_base", "fetch_dataset")
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
# Rule, base model, and data set or backend: what jobs of one unit cost share.
Group = tuple[str, str, str]
# Measured / expected seconds of a group, and the number of benchmark files behind it.
Factors = Mapping[Group, tuple[float, int]]
COLUMNS = ["rule", "model", "key", "start_s", "first_s", "per_ktoken_s", "tokens", "disk_mb", "scratch_mb", "share"]
MODEL = "7B"  # where no job says whose unit costs are its own
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


@dataclass(frozen=True)
class Cost:
    """What a job takes. disk: what it leaves behind; scratch: what it needs while it runs; known: by unit_costs.csv.

    first: seconds more on a node where nothing was compiled yet, in no sum: the jobs after it find what it compiled.
    of: the class of models that the seconds were measured with; share: jobs that shared the card then.
    """

    group: Group
    seconds: float
    disk: float
    scratch: float
    known: bool = True
    first: float = 0.0
    of: str = ANY
    share: int = 1


@dataclass(frozen=True)
class Schedule:
    """ends: seconds from the start until each job is done, in the jobs' order; peak: disk, and the scratch in it."""

    ends: tuple[float, ...]
    peak: float
    peak_scratch: float

    @property
    def seconds(self) -> float:
        return max(self.ends, default=0.0)


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
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            snakemake(["--logger", "plan", "--dry-run", "--cores", str(cores), *arguments])
        except SystemExit as error:
            status = error.code
    if status:
        check_configfiles(arguments)
        said = "\n".join(complaints) or printed.getvalue()
        raise InputError(f"snakemake -n {shlex.join(arguments)}: failed\n{said.strip()}")
    return sorted(jobs, key=lambda job: job.name)


def check_configfiles(arguments: Sequence[str]) -> None:
    """Raise InputError with the line of a file that is no YAML, of which Snakemake names neither, or is not there."""
    given = False
    for word in arguments:
        option, _, name = word.partition("=")
        if option.startswith("--"):
            given = option in ("--configfile", "--configfiles")
            word = name
        if given and word:
            read_yaml(word)


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

    A command may begin with names for what it says several times: `node=results/x; python ... --manifest $node/y`.
    """
    words = shlex.split(command)
    names: dict[str, str] = {}
    while words and (given := re.fullmatch(r"([a-z]+)=(\S+?);?", words[0])):
        names[given[1]] = Template(given[2]).safe_substitute(names)
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


def model_of(jobs: Iterable[Job]) -> str:
    """The class of unit costs of a study's model: a study has one base."""
    return next((job.costs for job in jobs if job.costs), MODEL)


def dataset_of(options: Mapping[str, list[str]]) -> str:
    """The name of a training's data set; `couple` for coupling rows, which are the node's own."""
    file = Path(options["--data"][0])
    return "couple" if file.name == "training.jsonl" else file.stem


def costs_of(jobs: Sequence[Job], everything: Iterable[Job], table: Sequence[Row]) -> list[Cost]:
    """What each of the jobs takes by the table. everything: the whole study's jobs, which say how large these are."""
    study = {job.name: job for job in (*everything, *jobs)}.values()
    makers = {file: job for job in study for file in job.outputs}
    drawn_by = drawers(study)
    model = model_of(study)
    return [cost_of(job, model, makers, drawn_by, table) for job in jobs]


def cost_of(
    job: Job,
    model: str,
    makers: Mapping[str, Job],
    drawn_by: Mapping[tuple[str, ...], tuple[str, ...]],
    table: Sequence[Row],
) -> Cost:
    """Seconds and disk of a job. model: its class. makers: file -> the job that makes it. drawn_by: see drawers."""
    options = options_of(job.command)
    key, tokens_k, disk_share = ANY, 0.0, 1.0
    if job.rule in TRAININGS:
        key = dataset_of(options)
    elif job.rule in QUESTIONS:
        drawn = drawn_by.get(job.name, job.name) == job.name
        key = options["--backend"][0] if drawn else STORED
    elif job.rule in FETCHES:
        key = job.wildcards["origin"]
    row = find_row(table, job.rule, model, key)
    if row is None:
        return Cost((job.rule, model, key), 1.0 if job.command else 0.0, 0.0, 0.0, known=not job.command)
    if job.rule in TRAININGS:
        recipe = part_of(options["--recipe"][0], makers)
        tokens_k = rows_trained(recipe, options, makers) * row_tokens(row, recipe, options) / 1000
        kept = [step for step in options["--keep-steps"][0].split(",") if step]
        disk_share = (1 + len(kept)) * recipe["lora"]["r"] / RANK if recipe["lora"] else 1.0
    elif job.rule in QUESTIONS and key != STORED:
        tokens = min(row["tokens"], json.loads(options["--sampling"][0])["max_tokens"])
        asked = options | {"--personas": options.get("--together") or options["--personas"]}
        tokens_k = completions(job.rule, asked, makers) * tokens / 1000
    elif row["per_ktoken_s"] and "--completions" in options:
        answered = options_of(makers[options["--completions"][0]].command)
        tokens_k = completions("generate_completions", answered, makers) * row["tokens"] / 1000
    scratch = row["scratch_mb"] * (disk_share if job.rule in TRAININGS else 1)
    seconds = row["start_s"] + row["per_ktoken_s"] * tokens_k
    disk = row["disk_mb"] * disk_share
    group = (job.rule, model, key)
    return Cost(group, seconds, disk, scratch, first=row["first_s"], of=row["model"], share=row["share"])


def part_of(file: str, makers: Mapping[str, Job]) -> Any:
    """What a part of the resolved study holds: the text that its job writes (`printf FORMAT TEXT > FILE`)."""
    return json.loads(shlex.split(makers[file].command)[2])


def find_row(table: Sequence[Row], rule: str, model: str, key: str) -> Row | None:
    """The table's row for this, or for any model, any key, or both, or for the model nearest in size; or None."""
    rows = {(row["model"], row["key"]): row for row in reversed(table) if row["rule"] == rule}
    near = serving(model, {each for each, _ in rows}) or model
    for wanted in ((model, key), (ANY, key), (model, ANY), (ANY, ANY), (near, key), (near, ANY)):
        if wanted in rows:
            return rows[wanted]
    return None


def rows_trained(recipe: Mapping[str, Any], options: Mapping[str, list[str]], makers: Mapping[str, Job]) -> int:
    """Rows that a training sees, over all epochs."""
    if recipe["max_steps"]:
        return recipe["max_steps"] * recipe["batch"]
    trained = 1 - recipe.get("hold_out", 0)
    return math.ceil(recipe["epochs"] * trained * rows_of(options["--data"][0], makers))


def rows_of(file: str, makers: Mapping[str, Job]) -> int:
    """Rows of a data set: counted if the file is there, else as many as the job that makes it is to make."""
    if Path(file).is_file():
        return len(line_sizes(file))
    if file not in makers:
        raise InputError(f"{file}: no such file, and no job makes it; fix: make it, or correct the path in `datasets`")
    options = options_of(makers[file].command)
    if "--sft-rows" in options:
        return int(options["--sft-rows"][0])
    if "--replies" in options:
        return completions("generate_replies", options_of(makers[options["--replies"][0]].command), makers)
    dataset = json.loads(options["--dataset"][0])
    if "rows" in dataset:
        return dataset["rows"]
    return rows_of(dataset["path"], {})


def row_tokens(row: Row, recipe: Mapping[str, Any], options: Mapping[str, list[str]]) -> float:
    """Mean tokens of a training row, cut at the recipe's length: the table's; the file's if the table lacks the set."""
    file = Path(options["--data"][0])
    if row["key"] == "*" and file.is_file() and line_sizes(str(file)):
        sizes = line_sizes(str(file))
        return sum(min(size / BYTES_PER_TOKEN, recipe["max_length"]) for size in sizes) / len(sizes)
    return min(row["tokens"], recipe["max_length"])


@functools.cache
def line_sizes(file: str) -> list[int]:
    """Bytes of every line that is not empty."""
    with Path(file).open("rb") as lines:
        return [len(line) for line in lines if line.strip()]


def completions(rule: str, options: Mapping[str, list[str]], makers: Mapping[str, Job]) -> int:
    """Texts that a generation job draws: personas x questions x samples, and the alignment questions by themselves, or
    the user's own questions instead of these.
    """
    samples, personas = int(options["--samples"][0]), len(options["--personas"][0].split(","))
    questions, alignment = QUESTIONS[rule], ALIGNMENT_QUESTIONS
    panel = Path(options["--panel"][0])
    if panel.is_file():
        from inputs.panel import load_panel

        groups = {name: len(group) for name, group in load_panel(panel).questions.items()}
        alignment = groups["alignment"]
        questions = groups["data"] if rule == "generate_replies" else groups["general"] + alignment
    by_themselves = 0 if rule == "generate_replies" else samples * alignment
    if own := options.get("--questions"):
        from inputs.questions import load_questions

        # until they are copied, they are where they are copied from
        file = own[0] if Path(own[0]).is_file() else shlex.split(makers[own[0]].command)[1]
        by_themselves = sum(len(question.paraphrases) * question.samples for question in load_questions(file))
    return samples * personas * questions + by_themselves


def corrections(
    jobs: Iterable[Job], costs: Mapping[tuple[str, ...], Cost], changed: Container[tuple[str, ...]]
) -> Factors:
    """Median of measured / expected seconds of every group of jobs that has benchmark files.

    changed: names of jobs that ran with other parameters than they now have; theirs say nothing.
    """
    ratios: dict[Group, list[float]] = {}
    for job in jobs:
        cost = costs[job.name]
        if job.benchmark and cost.seconds and job.name not in changed and Path(job.benchmark).is_file():
            ratios.setdefault(cost.group, []).append(measured_seconds(job.benchmark) / cost.seconds)
    return {group: (median(values), len(values)) for group, values in ratios.items()}


def measured_seconds(benchmark: str) -> float:
    """Wall seconds in a benchmark file of Snakemake. Raises InputError if there are none."""
    lines = Path(benchmark).read_text(encoding="utf-8").splitlines()
    try:
        place = lines[0].split("\t").index("s")
        return median(float(line.split("\t")[place]) for line in lines[1:])
    except (IndexError, ValueError):
        raise InputError(f"{benchmark}: no benchmark of Snakemake; fix: delete it") from None


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


def weights_of(jobs: Sequence[Job]) -> tuple[str, list[float]]:
    """What a study is paid in, and how much each job holds: GPUs or its part of one, or cores if no job wants a GPU."""
    if any(job.gpus for job in jobs):
        return "GPU-hours", [float(job.cards) for job in jobs]
    return "core-hours", [float(job.threads) if job.command else 0.0 for job in jobs]


def hours(places: Iterable[int], weights: Sequence[float], costs: Sequence[Cost]) -> float:
    return sum(weights[place] * costs[place].seconds for place in places) / 3600


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--gpus", type=int, default=8, help="GPUs to plan for (8)")
    parser.add_argument(
        "--cores", type=int, help=f"cores to plan for ({CORES_PER_GPU} a GPU; of this machine if no job wants a GPU)"
    )
    parser.add_argument("--unit-costs", default=RESOURCES / "unit_costs.csv", help="what a job of each rule takes")
    parser.add_argument("--published", default=RESOURCES / "published/gpu_hours.csv", help="what the cells once took")
    arguments, others = parser.parse_known_args()
    if arguments.gpus < 0 or (arguments.cores or 1) < 1:
        raise InputError("--gpus is 0 or more, --cores 1 or more; fix: correct them")
    print(plan(others, arguments.gpus, arguments.cores, arguments.unit_costs, arguments.published))


def plan(arguments: Sequence[str], gpus: int, cores: int | None, costs_file: str, published: str) -> str:
    """The report on `snakemake <arguments>` as Markdown."""
    table = read_table(costs_file, COLUMNS) + unit_costs()
    asked = cores or max(CORES_PER_GPU * gpus, os.cpu_count() or 1)
    jobs = dry_run(arguments, asked)
    everything = dry_run(["--forceall", *arguments], asked)
    if not any(job.gpus for job in everything):
        cores = cores or os.cpu_count() or 1
    cores = cores or asked
    by_table = dict(zip((job.name for job in everything), costs_of(everything, [], table), strict=True))
    changed = {job.name for job in jobs if why(job.reason) == "parameters changed"}
    factors = corrections(everything, by_table, changed)
    costs = {name: corrected(cost, factors) for name, cost in by_table.items()}
    parts = [f"# Plan of `{shlex.join(['snakemake', *arguments])}`"]
    if jobs:
        parts += report(jobs, [costs[job.name] for job in jobs], factors, gpus, cores)
    else:
        parts += ["Nothing to be done: everything is there and current."]
    parts += beside_published(everything, [costs[job.name] for job in everything], gpus, cores, published)
    return "\n\n".join(parts)


def corrected(cost: Cost, factors: Factors) -> Cost:
    """The cost by this study's own benchmark files, if it has some; a rule that nothing is known of takes no time."""
    if cost.group in factors:
        return replace(cost, seconds=cost.seconds * factors[cost.group][0], known=True)
    return cost if cost.known else Cost(cost.group, 0.0, 0.0, 0.0, known=False)


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
    sums = [
        f"- jobs: {sum(bool(job.command) for job in jobs)}",
        f"- {unit}: {total:.2f}",
        f"- wall time on {machine}: {clock(when.seconds)} (no less than {clock(even)}, all of them always busy, "
        f"and {clock(longest_chain(parents, costs))}, the longest chain)",
        f"- disk: {gigabytes(sum(cost.disk for cost in costs))} stay; {gigabytes(when.peak)} at the peak, of which "
        f"{gigabytes(when.peak_scratch)} while jobs run (states to resume from)",
    ]
    if parameters(model := costs[0].group[1]):
        sums.append(f"- what a job takes: as with a model of {model} parameters (`hardware.costs`)")
    if first := first_starts(costs):
        said = ", ".join(f"{clock(seconds)} of {what}" for what, seconds in first.items())
        sums.append(f"- not counted, once on each node where nothing was compiled yet: {said}")
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


def gigabytes(megabytes: float) -> str:
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 100 else f"{megabytes:.0f} MB"


if __name__ == "__main__":
    # Snakemake's own modules import by name from the working folder, which a program's sys.path lacks.
    sys.path.insert(1, os.getcwd())
    run(main)
