"""What a study cost: its run records, by task and machine, and run by run."""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from measure.cells import read_run
from measure.registry import MEASUREMENTS
from measure.tables import Row
from report.completions_view import key_of
from report.fields import Field, Table, plain
from report.prose import unique
from run.files import canonical

PAID = {"calls": "calls", "input_tokens": "tokens in", "output_tokens": "tokens out"}  # the judge's
TOLD = {
    "steps": "steps",
    "completions": "completions",
    "tokens": "tokens",
    "tokens_per_second": "tokens / s",
    "final_loss": "final loss",
    "peak_memory_mib": "memory, MiB",
    "peak_gpu_memory_mib": "GPU memory, MiB",
}
# Records of before each named its program: the first whose fields a record has.
UNNAMED = {
    "pretrain base": {"parameters"},
    "ablate stage": {"variants"},
    "read layers": {"readout_seconds"},
    "ask families": {"completions", "load_seconds"},
    "generate completions": {"completions"},
    "probe marker": {"scoring_seconds"},
    "measure distance": {"load_seconds"},
}
HELD_OUT = {"loss_before": "held-out loss before", "loss_after": "held-out loss after"}


def read_runs(paths: Sequence[str], cells: Sequence[Row]) -> list[Row]:
    """The run records with `node`: the files given and those in the cells, each once.

    Cells share trainings, which name their lineage, and what is measured on a model. Records of several models may be
    equal to the second: what takes no time is the same wherever it runs.
    """
    of_cells = {measurement.rule for measurement in MEASUREMENTS if measurement.on == "cell"}
    records: dict[tuple[str, str, str], Row] = {}
    for cell in cells:
        for record in cell["runs"]:
            node = record.get("lineage", cell["lineage"])
            own = key_of(cell) if record.get("program") in of_cells else ""
            records[node, own, canonical(record)] = {"node": node} | record
    return [{"node": node_of(path)} | read_run(path) for path in unique(paths)] + [*records.values()]


def node_of(path: str) -> str:
    """The lineage or input whose run.json this is: what follows `models/` or `inputs/` in its path."""
    match = re.search(r"(?:^|/)(?:models|inputs)/(.+?)(?:/|\.)(?:[a-z_]+_)?run\.json$", path)
    return match[1] if match else Path(path).parent.name


def task_of(record: Row) -> str:
    """What a run did, from what its record tells."""
    if "program" in record:
        return str(record["program"]).replace("_", " ")
    return next((task for task, fields in UNNAMED.items() if fields <= record.keys()), "other")


def cost_table(records: Sequence[Row]) -> Table:
    """A row per task and machine."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for record in records:
        groups.setdefault((task_of(record), machine_of(record)), []).append(record)
    rows = [[plain(task), plain(gpu), *totals(own)] for (task, gpu), own in sorted(groups.items())]
    if rows:
        rows.append([Field("all", "~", look="name"), Field(""), *totals(records)])
    note = (
        "Wall seconds of the model programs and the judge, from run.json and judge_run.json. GPU job-hours: wall hours "
        "of those that had a GPU. Jobs that share a card (hardware.jobs_per_gpu) count it each: its hours are fewer. "
        "Not in it: replies drawn for couplings, and models that cells are only held against, such as the base. "
        f"{at_work(records)}Calls and their tokens are the judge's; an answer that was kept is no call. "
        "Losses: mean nats per trained token; held out: of rows that were not trained (`hold_out`)."
    )
    return Table(
        "cost", "By task", ["task", "GPU", "runs", "wall seconds", "GPU job-hours", *PAID.values()], rows, note
    )


def totals(records: Sequence[Row]) -> list[Field]:
    """The number of these runs, their wall seconds and GPU job-hours, and what they paid."""
    paid = [[record[field] for record in records if field in record] for field in PAID]
    hours = job_hours(records)
    return [
        plain(len(records)),
        seconds(wall_seconds(records)),
        Field(f"{hours:.2f}", hours, look="number"),
        *(plain(sum(known) if known else None) for known in paid),
    ]


def runs_table(records: Sequence[Row]) -> Table:
    """A row per run."""
    rows = [
        [
            plain(record["node"], "code"),
            plain(task_of(record)),
            plain(machine_of(record)),
            seconds(record["seconds"]),
            *(plain(record.get(field)) for field in TOLD),
            *(plain(record.get("held_out", {}).get(field)) for field in HELD_OUT),
            *(plain(record.get(field)) for field in PAID),
        ]
        for record in records
    ]
    columns = ["node", "task", "GPU", "wall seconds", *TOLD.values(), *HELD_OUT.values(), *PAID.values()]
    return Table("runs", "Run by run", columns, rows)


def machine_of(record: Row) -> str:
    """Its GPU's name."""
    return record.get("gpu") or "no GPU"


def seconds(value: float) -> Field:
    """3,665.0"""
    return Field(f"{value:,.1f}", value, look="number")


def wall_seconds(records: Sequence[Row]) -> float:
    """Of these runs together."""
    return sum(record["seconds"] for record in records)


def job_hours(records: Sequence[Row]) -> float:
    """GPU job-hours of these runs."""
    return wall_seconds([record for record in records if record.get("gpu")]) / 3600


def at_work(records: Sequence[Row]) -> str:
    """How long any job was on a GPU, which are a card's own hours if all jobs shared that card."""
    spans = []
    for record in records:
        if record.get("gpu") and "started" in record:
            start = datetime.fromisoformat(record["started"]).timestamp()
            spans.append((start, start + record["seconds"]))
    busy = reached = 0.0
    for start, end in sorted(spans):
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return f"Some job was on a GPU for {busy / 3600:.2f} hours of wall time. " if busy else ""
