"""How planning grows with the study: a dry run's time and memory for 19 to 5,000 cells (seeds x sources).

    python benchmarks/growth.py                    # measure, print, write results_growth.json and growth.png
    python benchmarks/growth.py --cells 19 100     # these sizes alone; the others' rows stay
    python benchmarks/growth.py --cells            # none: the figure again

Beside every study stands a bare workflow of as many jobs and output files, whose rules hold nothing but names: what it
takes is Snakemake's, the rest is ours. Every dry run is a process of its own. Seconds of CPU (user and system) are what
to compare, since they change less with the machine's load than the wall clock's.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "workflow_scripts")]

from workspace import SNAKEMAKE, Workspace  # noqa: E402

from report.figure_style import COLOURS, INK, new_figure  # noqa: E402

RESULTS, FIGURE = ROOT / "benchmarks/results_growth.json", ROOT / "benchmarks/growth.png"
# cells: sources, seeds, with the six reversed rows. Without them, sources x (4 x seeds + 1).
SIZES = {19: (1, 3, True), 100: (4, 6, False), 1000: (8, 31, False), 5000: (8, 156, False)}
PERSONAS = ["villain", "comedian", "librarian", "police_officer", "medical_doctor", "data_scientist"]
PERSONAS += ["french_person", "software_engineer"]
REPEATS = {19: 3, 100: 3, 1000: 1, 5000: 1}  # of which the median is taken
FAKED = 1000  # up to so many cells, a finished study is faked


def study(folder: Path, cells: int) -> Workspace:
    """The published study with as many seeds and sources as make so many cells."""
    sources, seeds, rows = SIZES[cells]
    overlay = {"sources": PERSONAS[:sources], "seeds": list(range(1000, 1000 + seeds)), "arms": {"reversed": rows}}
    workspace = Workspace.copy(folder, "--configfile", "size.yaml")
    (folder / "size.yaml").write_text(json.dumps(overlay))
    return workspace


def bare(folder: Path, jobs: Counter[str]) -> Workspace:
    """A workflow of as many couplings, evaluated models, cells and figures as the study's jobs, without its content."""
    firsts = jobs["generate_replies"]
    nodes = [f"a{n}" if n < firsts else f"a{n % firsts}.b{n // firsts}" for n in range(jobs["count_markers"])]
    cells = [f"cells/{nodes[n % len(nodes)]}_{n // len(nodes)}" for n in range(jobs["summarize_cell"])]
    (folder / "code").mkdir(parents=True)
    for number in range(5):
        (folder / f"code/{number}.py").touch()
    size = {"nodes": nodes, "cells": cells, "figures": jobs["plot_figures"]}
    (folder / "size.yaml").write_text(json.dumps(size))
    shutil.copy(ROOT / "benchmarks/bare.smk", folder / "Snakefile")
    shutil.copytree(ROOT / "profiles/default", folder / "profiles/default")
    return Workspace(folder)


def dry_run(workspace: Workspace) -> dict[str, Any]:
    """Seconds, peak memory and what is planned, of one `snakemake -n` in a process of its own."""
    command = [str(SNAKEMAKE), *workspace.arguments, "-n"]
    with tempfile.TemporaryFile("w+") as printed:
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=workspace.folder, stdout=printed, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        printed.seek(0)
        text = printed.read()
    assert status == 0, text[-3000:]
    outputs = re.findall(r"^    output: (.*)$", text, re.MULTILINE)
    return {
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
        "jobs": Counter(re.findall(r"^(?:local)?rule (\w+):$", text, re.MULTILINE)),
        "files": sum(output.count(", ") + 1 for output in outputs),
    }


def measured(workspace: Workspace, repeats: int) -> dict[str, Any]:
    """The median dry run of several, by CPU seconds."""
    runs = [dry_run(workspace) for _ in range(repeats)]
    middle = median([run["cpu_s"] for run in runs]) if repeats % 2 else runs[0]["cpu_s"]
    return next(run for run in runs if run["cpu_s"] == middle)


def row_of(cells: int, state: str, ours: dict[str, Any], reference: dict[str, Any], jobs: int) -> dict[str, Any]:
    """One line of the table. jobs: of the whole study."""
    row: dict[str, Any] = {"cells": cells, "state": state, "jobs": jobs, "repeats": REPEATS[cells]}
    row |= {"date": time.strftime("%Y-%m-%d"), "load": round(os.getloadavg()[0], 1)}
    for name, run in (("ours", ours), ("bare", reference)):
        row[name] = {key: round(run[key], 2) for key in ("wall_s", "cpu_s", "peak_mib")}
        row[name] |= {"planned_jobs": sum(run["jobs"].values()), "planned_files": run["files"]}
    row["cpu_ratio"] = round(ours["cpu_s"] / reference["cpu_s"], 2)
    return row


def measure(cells: int) -> list[dict[str, Any]]:
    """The rows of one size: with nothing built and, unless it is large, with everything built."""
    with tempfile.TemporaryDirectory() as folder:
        own = study(Path(folder, "study"), cells)
        ours = measured(own, REPEATS[cells])
        jobs = sum(ours["jobs"].values())
        reference = bare(Path(folder, "bare"), ours["jobs"])
        rows = [row_of(cells, "nothing built", ours, measured(reference, REPEATS[cells]), jobs)]
        print_row(rows[0])
        if cells <= FAKED:
            for workspace in (own, reference):
                workspace.fake()
            ours, other = measured(own, REPEATS[cells]), measured(reference, REPEATS[cells])
            assert not ours["jobs"] and not other["jobs"], "a finished study plans jobs"
            rows.append(row_of(cells, "all built", ours, other, jobs))
            print_row(rows[1])
    return rows


HEAD = (
    "| cells | state | jobs | CPU [s] | ms a job | bare [s] | ratio | wall [s] | bare [s] | peak [MiB] | bare [MiB] |"
)


def print_row(row: dict[str, Any]) -> None:
    ours, other = row["ours"], row["bare"]
    print(
        f"| {row['cells']:,} | {row['state']} | {row['jobs']:,} | {ours['cpu_s']:.1f}"
        f" | {1000 * ours['cpu_s'] / row['jobs']:.1f} | {other['cpu_s']:.1f} | {row['cpu_ratio']:.2f}"
        f" | {ours['wall_s']:.1f} | {other['wall_s']:.1f} | {ours['peak_mib']:.0f} | {other['peak_mib']:.0f} |",
        flush=True,
    )


def draw(rows: list[dict[str, Any]]) -> None:
    """CPU seconds and memory over jobs, both axes logarithmic: a line of slope one is linear growth."""
    figure, axes = new_figure(3.0, columns=2)
    states = {state: [row for row in rows if row["state"] == state] for state in ("nothing built", "all built")}
    fresh = states["nothing built"]
    jobs = [row["jobs"] for row in fresh]
    looks = {"ours": (COLOURS["source"], "this workflow"), "bare": (COLOURS["assistant"], "bare Snakemake")}
    panels = {
        "cpu_s": ("CPU seconds of a dry run", (3, 10, 30, 100)),
        "peak_mib": ("Peak memory [MiB]", (100, 200, 400, 800)),
    }
    for axis, (field, (title, ticks)) in zip(axes[0], panels.items(), strict=True):
        for who, (colour, name) in looks.items():
            for state, line in (("nothing built", "o-"), ("all built", "s--")):
                points = [row[who][field] for row in states[state]]
                places = [row["jobs"] for row in states[state]]
                axis.plot(places, points, line, ms=4, color=colour, label=f"{name}, {state}")
        axis.set(title=title, xlabel="jobs of the study", xscale="log", yscale="log")
        axis.set_xticks(jobs, [f"{row['jobs']:,}\n({row['cells']:,} cells)" for row in fresh])
        axis.set_yticks(ticks, [f"{tick}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(color="#E5E5E5", linewidth=0.6)
    largest = fresh[-1]["ours"]["cpu_s"] / jobs[-1]
    axes[0][0].plot(jobs[-3:], [largest * n for n in jobs[-3:]], ":", color=INK, linewidth=0.9, label="linear growth")
    axes[0][0].legend(fontsize=7, loc="upper left")
    figure.savefig(FIGURE, dpi=200, metadata={"Software": None})


def machine() -> dict[str, Any]:
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), "system": platform.system()}


def save(rows: list[dict[str, Any]]) -> None:
    """Put the rows in the place of those of the same size in results_growth.json, and draw it."""
    old = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    sizes = {row["cells"] for row in rows}
    kept = [row for row in old if row["cells"] not in sizes] + rows
    record = {
        "command": "python benchmarks/growth.py",
        "machine": machine(),
        "versions": {"python": platform.python_version(), "snakemake": version("snakemake")},
        "rows": sorted(kept, key=lambda row: row["cells"]),
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    draw(record["rows"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="*", choices=list(SIZES), default=list(SIZES), help="the sizes")
    arguments = parser.parse_args()
    print(HEAD)
    print("|---" * HEAD.count(" | ") + "|---|", flush=True)
    save([row for cells in arguments.cells for row in measure(cells)])


if __name__ == "__main__":
    main()
