"""What runs in a study just now: the jobs of its Snakemake, and how far each is.

    python workflow_scripts/run/print_status.py results

Snakemake keeps its jobs in <study>/status/jobs.json (watch.py), and programs that take long keep a file each beside it.
The live view of a terminal is made of the same files by the same function. Nothing but the standard library.
"""

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, it finds the other rooms

from run.alive import is_killed

STALE = 120  # [s] without news, after which a program is probably dead
WIDE = 100  # columns, from which speeds are shown
JOBS = "jobs.json"


def overview(folder: Path, now: float, width: int) -> list[str]:
    """A line about the study whose status files lie in `folder`, and one per running job, each at most `width` wide.

    now: [s] since 1970. Empty if no Snakemake is at work there, or was when it was killed.
    """
    record = read_status(folder / JOBS)
    if not record:
        return []
    if is_killed(Path(record.get("alive") or "")):
        done = f"{record['done']} of {record['total']} jobs, then its Snakemake was killed: the same command goes on"
        return [done[:width]]
    parts = [f"{record['done']} of {record['total']} jobs", f"{clock(now - record['started'])} so far"]
    news = [read_status(folder / job["status"]) for job in record["jobs"]]
    if left := time_left(record, news, now):
        parts.append(left)
    if record["failed"]:
        parts.append(f"{record['failed']} FAILED")
    lines = ["  ".join(parts)]
    for job, status in zip(record["jobs"], news, strict=True):
        since = f"  {clock(now - job['since']):>6}  "
        state, own = progress(status, job, now, width)
        room = width - len(since) - 2 - (len(state) if own else width // 3)
        lines.append(f"{since}{shortened(job['name'], room):<{min(room, 56)}}  {state}")
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]


def time_left(record: dict[str, Any], news: list[dict[str, Any]], now: float) -> str:
    """What to say of the time to the end of a study; empty if nothing is known. news: of its running jobs, in order.

    The work that is left is shared by as many jobs as run now, and the longest of these is waited for. What a job says
    of itself counts before what one of its rule takes, which may be known from another machine.
    """
    if record.get("waiting") is None:
        return ""
    jobs = record["jobs"]
    rests = [
        status["eta_s"] if status else max(0.0, job["expected"] - (now - job["since"]))
        for job, status in zip(jobs, news, strict=True)
    ]
    left = max([(record["waiting"] + sum(rests)) / max(1, len(jobs)), *rests])
    if left > 0:
        return f"about {clock(left)} left"
    return "nearly done" if record["done"] + record["failed"] + len(jobs) >= record["total"] else ""


def shortened(name: str, width: int) -> str:
    """`rule wildcards`, of which the start of the wildcards goes if it is too long: its end tells jobs apart."""
    if len(name) <= width:
        return name
    rule, _, words = name.partition(" ")
    return f"{rule} …{words[-max(1, width - len(rule) - 2) :]}"


def progress(status: dict[str, Any], job: dict[str, Any], now: float, width: int) -> tuple[str, bool]:
    """How far a job is, and whether it says so itself: by its status file's content, else by its log's last line."""
    if not status:
        return last_line(job["log"]), False
    speed = [f"{status['tokens_per_s']:,.0f} tokens/s"] if width >= WIDE else []
    parts = [f"{status['step']}/{status['steps']}", f"loss {status['loss']:.3f}", *speed]
    age = now - status["updated"]
    news = f"no news for {clock(age)}" if age > STALE else f"{clock(status['eta_s'])} left"
    return "  ".join([*parts, news]), True


def read_status(file: Path) -> dict[str, Any]:
    """The file's content; empty if it is not there, or goes just now."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return json.loads(file.read_text(encoding="utf-8"))
    return {}


def last_line(log: str) -> str:
    """The last line of a log file, as a terminal would show it; empty if there is none."""
    lines = log_lines(log)
    return lines[-1] if lines else ""


def log_lines(log: str) -> list[str]:
    """The lines with text in the last 8 KiB of a log file; of a progress bar, its last state."""
    with contextlib.suppress(OSError), open(log, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - 8192))
        text = file.read().decode(errors="replace")
        shown = (line.rstrip().rpartition("\r")[2].strip() for line in text.split("\n"))
        return ["".join(letter for letter in line if letter.isprintable()) for line in shown if line]
    return []


def clock(seconds: float) -> str:
    """75 -> 1:15; 3675 -> 1:01:15."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def overviews(results: Path, now: float, width: int) -> Iterator[str]:
    """The overview of every study in `results` that a Snakemake is at work on, below its name."""
    for folder in sorted(results.glob("*/status")):
        if lines := overview(folder, now, width):
            yield "\n".join([folder.parent.name, *lines])


def main() -> None:
    results = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 200
    print("\n".join(overviews(results, time.time(), width)) or "no study is running")


if __name__ == "__main__":
    main()
