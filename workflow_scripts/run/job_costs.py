"""What a planned job takes: seconds and disk, by resources/unit_costs.csv and by what jobs that are done took.

A job's size is read from its command (steps, rows, personas, samples), its seconds are size x unit cost (of a
measurement: its entry in measure/registry.py), in the rows of the model that `hardware.costs` names, and the benchmark
files of jobs that are done correct that table, rule by rule and data set by data set. Tokens are thousands (ktoken),
times seconds, disk megabytes (1e6 bytes).
"""

import functools
import json
import math
import shlex
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from measure.registry import unit_costs
from measure.tables import Row, read_table
from run.dry_run import REPLIES, Job, drawers, options_of
from run.program import InputError
from run.unit_costs import ANY, serving

RESOURCES = Path(__file__).resolve().parents[2] / "resources"
UNIT_COSTS = RESOURCES / "unit_costs.csv"
BYTES_PER_TOKEN = 4.5  # of a JSON line of English chat, for data sets that unit_costs.csv does not know
QUESTIONS = {REPLIES: 40, "generate_completions": 28}  # of the panel, until it is there
ALIGNMENT_QUESTIONS = 8
RANK = 32  # of the adapters in unit_costs.csv
STORED = "stored"  # the key of replies that another job draws
FORKED = "fork_program.py --gpu "  # `hardware.preload` (rules/common.smk: launcher): no imports
TRAININGS = ("train_adapter", "train_model")
FETCHES = ("fetch_base", "fetch_dataset")
# Rule, base model, and data set or backend: what jobs of one unit cost share.
Group = tuple[str, str, str]
# Measured / expected seconds of a group, and the number of benchmark files behind it.
Factors = Mapping[Group, tuple[float, int]]
COLUMNS = ["rule", "model", "key", "start_s", "first_s", "per_ktoken_s", "tokens", "disk_mb", "scratch_mb", "share"]
MODEL = "7B"  # where no job says whose unit costs are its own


@dataclass(frozen=True)
class Cost:
    """What a job takes. disk: what it leaves in the working folder, cached: in the Hub client's cache; scratch: what it
    needs while it runs; known: by unit_costs.csv.

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
    cached: float = 0.0
    forked: float = 0.0  # seconds of imports that it is spared


def unit_cost_table(file: str | Path = UNIT_COSTS) -> list[Row]:
    """Unit costs: those of a file, then those of the measurements."""
    return read_table(file, COLUMNS) + unit_costs()


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
    forked = 0.0
    if FORKED in job.command:
        imports = find_row(table, "imports", model, options.get("--backend", ["transformers"])[0])
        forked = imports["start_s"] if imports and imports["start_s"] < seconds else 0.0
        seconds -= forked
    disk, cached = row["disk_mb"] * disk_share, 0.0
    if job.rule == "fetch_base":  # whose folder is of links, into the cache or to the user's own files
        disk, cached = 0.0, 0.0 if key == "path" else disk
    group = (job.rule, model, key)
    first, share = row["first_s"], row["share"]
    of = row["model"]
    return Cost(group, seconds, disk, scratch, first=first, of=of, share=share, cached=cached, forked=forked)


def model_of(jobs: Iterable[Job]) -> str:
    """The class of unit costs of a study's model: a study has one base."""
    return next((job.costs for job in jobs if job.costs), MODEL)


def dataset_of(options: Mapping[str, list[str]]) -> str:
    """The name of a training's data set; `couple` for coupling rows, which are the node's own."""
    file = Path(options["--data"][0])
    return "couple" if file.name == "training.jsonl" else file.stem


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


def corrected(cost: Cost, factors: Factors) -> Cost:
    """The cost by this study's own benchmark files, if it has some; a rule that nothing is known of takes no time."""
    if cost.group in factors:
        return replace(cost, seconds=cost.seconds * factors[cost.group][0], known=True)
    return cost if cost.known else Cost(cost.group, 0.0, 0.0, 0.0, known=False)


def gigabytes(megabytes: float) -> str:
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 100 else f"{megabytes:.0f} MB"
