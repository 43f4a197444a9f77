"""What a person sees of a running study: one live view on a terminal, a line per finished job elsewhere.

Snakemake reports what happens to its jobs as log records. A handler of them keeps <study>/status/jobs.json, which the
view and `make status` show (print_status.py), and says last, when all else is said, which jobs failed, why and where
their logs are. Snakemake's own text goes to its log file, and to the screen where that is no terminal and --quiet was
not given.
"""

import contextlib
import csv
import logging
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

from run.alive import VARIABLE
from run.files import remove_leftovers, write_json
from run.print_status import JOBS, clock, log_lines, overview
from run.unit_costs import ANY, serving

EVENTS = ("run_info", "job_info", "job_started", "job_finished", "job_error")
PASSED_ON = ("Nothing to be done", "Complete log")  # of Snakemake's messages that are no warnings
SAID = ("At least one job did not complete", "Exiting because a job execution failed", "set -euo pipefail")


def watch(workflow: Any, results: str, unit_costs: Path, model: str) -> None:
    """Follow the jobs of this Snakemake, if it is one that runs jobs and no job of another.

    results: the config's study, where jobs do not say whose they are. unit_costs: what a job of each rule takes; model:
    in whose rows.
    """
    from snakemake.logging import logger
    from snakemake_interface_executor_plugins.settings import ExecMode

    settings = workflow.output_settings
    if settings.dryrun or workflow.exec_mode != ExecMode.DEFAULT:
        return
    own = {handler.name: handler for handler in logger.handlers}
    if log_file := own.get("DefaultLogFileHandler"):
        for part in (*log_file.filters, log_file.formatter):
            part.quiet = set()  # everything is in the log file
    stream = sys.stdout if settings.stdout else sys.stderr
    quiet = {str(about).rpartition(".")[2].lower() for about in settings.quiet or ()}
    ends_known = not quiet & {"progress", "all"}  # else Snakemake does not say which jobs have ended
    show = "failures" if not ends_known else "live" if stream.isatty() else "lines" if "rules" in quiet else "failures"
    default = own.get("DefaultStreamHandler")
    if default is None:  # a logger plugin was chosen
        show = "failures"
    elif show != "failures":
        logger.removeHandler(default)
    logger.addHandler(
        Watcher(Path(results) / "status" if ends_known else None, seconds_by_rule(unit_costs, model), stream, show)
    )


def seconds_by_rule(unit_costs: Path, model: str) -> dict[str, float]:
    """What a job of each rule takes by the table [s], the mean over data sets and backends."""
    rules: dict[str, dict[str, list[float]]] = {}
    with contextlib.suppress(OSError), unit_costs.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            seconds = float(row["start_s"]) + float(row["per_ktoken_s"]) * float(row["tokens"])
            rules.setdefault(row["rule"], {}).setdefault(row["model"], []).append(seconds)
    found = {rule: [*rows.get(ANY, []), *rows.get(serving(model, rows) or "", [])] for rule, rows in rules.items()}
    return {rule: mean(values) for rule, values in found.items() if values}


class Watcher(logging.Handler):
    """Takes Snakemake's records; keeps jobs.json; shows `live`, `lines` or nothing but `failures`."""

    def __init__(self, folder: Path | None, seconds: dict[str, float], stream: Any, show: str):
        super().__init__()
        self.folder, self.seconds, self.stream, self.show = folder, seconds, stream, show
        self.name = "Watcher"
        self.jobs: dict[int, dict[str, Any]] = {}  # of those that are announced: name, rule, log, since
        self.running: set[int] = set()
        self.failed: dict[int, str] = {}  # what to say of them
        self.waiting: Counter[str] = Counter()  # jobs by rule that have not ended
        self.took: dict[str, list[float]] = {}  # [s] of those that ended well
        self.done = self.total = 0
        self.started = 0.0
        self.view: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = str(getattr(record, "event", None) or "")
            if event in EVENTS:
                handle: Callable[[Any], None] = getattr(self, event)
                handle(record)
                if self.started:
                    self.keep()
            elif self.show != "failures":
                self.pass_on(record, record.getMessage())
        except Exception:
            self.handleError(record)

    def run_info(self, record: Any) -> None:
        self.waiting = Counter({rule: count for rule, count in record.stats.items() if rule != "total"})
        self.total, self.started = record.stats["total"], time.time()

    def job_info(self, record: Any) -> None:
        if not self.jobs and self.folder is not None:
            self.folder = status_beside(record.output) or self.folder
            self.view = live_view(self.folder, self.stream) if self.show == "live" else None
        wildcards = list((record.wildcards or {}).values())
        words = "/".join(map(str, wildcards))
        self.jobs[record.jobid] = {
            "name": " ".join([record.rule_name, *([words] if words else [])]),
            "rule": record.rule_name,
            "status": "/".join([record.rule_name, *([words] if words else [])]) + ".json",
            "log": next(iter(record.log or ()), "").split(" (")[0],
            "since": time.time(),
        }

    def job_started(self, record: Any) -> None:
        self.running.update(record.jobs if isinstance(record.jobs, list) else [record.jobs])

    def job_finished(self, record: Any) -> None:
        job = self.end(record.job_id)
        self.done += 1
        if job:
            spent = time.time() - job["since"]
            self.took.setdefault(job["rule"], []).append(spent)
            if self.show == "lines":
                self.write(f"{self.done}/{self.total}  {job['name']}  {clock(spent)}")

    def job_error(self, record: Any) -> None:
        job = self.end(record.jobid)
        name = job["name"] if job else record.rule_name
        logs = [log.split(" (")[0] for log in record.log or ()]
        self.failed[record.jobid] = "\n".join([f"FAILED  {name}", *(f"  {line}" for log in logs for line in why(log))])
        if self.show != "failures":
            self.write(self.failed[record.jobid])

    def end(self, number: int) -> dict[str, Any] | None:
        """Count a job that has ended; what is known of it."""
        self.running.discard(number)
        job = self.jobs.get(number)
        if job:
            self.waiting[job["rule"]] -= 1
        return job

    def costs(self) -> dict[str, float]:
        """What a job of a rule takes [s]: as those did that ended here, else by the table, as far as that was right.

        Empty as long as nothing is known.
        """
        known = [mean(times) / self.seconds[rule] for rule, times in self.took.items() if self.seconds.get(rule)]
        factor = median(known) if known else 1.0
        cost = {rule: factor * seconds for rule, seconds in self.seconds.items()}
        return cost | {rule: mean(times) for rule, times in self.took.items()}

    def keep(self) -> None:
        """Write jobs.json, if there are jobs; without room for it, the study goes on without."""
        if self.folder is None or not self.jobs:
            return
        cost = self.costs()
        jobs = [self.jobs[number] for number in sorted(self.running) if number in self.jobs]
        waiting = self.waiting - Counter(job["rule"] for job in jobs)
        record = {
            "done": self.done,
            "total": self.total,
            "failed": len(self.failed),
            "started": self.started,
            # [s] of the jobs that have not begun
            "waiting": sum(count * cost.get(rule, 0.0) for rule, count in waiting.items()) if cost else None,
            "alive": os.environ.get(VARIABLE, ""),
            "jobs": [
                job | {"expected": cost.get(job["rule"], 0.0)} for job in sorted(jobs, key=lambda job: job["since"])
            ],
        }
        with contextlib.suppress(OSError):
            write_json(self.folder / JOBS, record)

    def pass_on(self, record: logging.LogRecord, message: str) -> None:
        """Snakemake's own words, if they are a warning or an error, or one of PASSED_ON. What `why` says better is left
        out: that a job failed (SAID), with its command."""
        if message in ("", "None") or any(said in message for said in SAID):
            return
        if record.levelno >= logging.WARNING or message.startswith(PASSED_ON):
            self.write(message)

    def write(self, text: str) -> None:
        if self.view is not None:
            self.view.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """The end of Snakemake: the view goes, also what one that was killed left, and what failed is said last."""
        if self.view is not None:
            self.view.stop()
            self.view = None
        if self.folder is not None:
            with contextlib.suppress(OSError):
                (self.folder / JOBS).unlink(missing_ok=True)
                remove_leftovers(self.folder)  # with nothing to do, it wrote nothing
        failed, self.failed = self.failed, {}
        if failed:
            print("\n".join(["", *failed.values()]), file=self.stream, flush=True)
        super().close()


def status_beside(outputs: list[str] | None) -> Path | None:
    """The status folder of the study that a job's files are of: not of the config's where published counts are read."""
    found = (re.match(r"(?:.*/)?results/[^/]+(?=/)", output) for output in outputs or ())
    return next((Path(each[0], "status") for each in found if each), None)


def why(log: str) -> list[str]:
    """The program's own error, with its fix, as it stands in the log; else the log's last line. Then the log's path."""
    lines = log_lines(log)
    errors = [line for line in lines if line.startswith("error: ")] or lines[-1:]
    return [*errors[-1:], f"log: {log}"]


def live_view(folder: Path, stream: Any) -> Any:
    """A live display of the folder's overview, which has started; None where rich is not installed."""
    try:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text
    except ImportError:
        return None
    console = Console(file=stream)

    def view() -> Text:
        lines = overview(folder, time.time(), console.width - 1)
        return Text("\n".join(lines[: max(2, console.height - 2)]), no_wrap=True)

    live = Live(get_renderable=view, console=console, refresh_per_second=2, transient=True)
    live.start()
    return live
