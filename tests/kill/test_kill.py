"""Whatever kills a study, and whenever, the same command finishes it, and it comes out as if nothing had happened.

A process under test stops at an exact moment of its own (sitecustomize.py) or goes on from there for a random time;
then the signal comes. What is random is drawn with SEED.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from workspace import SNAKEMAKE, Workspace, wait_for

from run.lease_gpu import LOCK_DIR, make_lock_dir, try_lock

pytestmark = pytest.mark.slow

SEED = 5
WAIT = 5  # [s] that a process stays at its moment
PATIENCE = 900  # [s] for a moment to come, or for a Snakemake to end
OUTPUTS = r"^results/smallest/(inputs|models|cells|tables|figures|report)"
LAST_MODEL = "results/smallest/models/base/couple-evil_ai.s42/em.s42"


@dataclass(frozen=True)
class Moment:
    """The nth of a program's audit events of those names on such a path; nth is drawn from 1 to `most`."""

    program: str
    events: tuple[str, ...]
    path: str
    most: int = 1
    write: bool = False


def writing(program: str, most: int) -> Moment:
    """Before a temporary file is made, or renamed to a result."""
    return Moment(program, ("tempfile.mkdtemp", "os.rename"), OUTPUTS, most)


def noting(path: str, most: int = 1) -> Moment:
    """Before Snakemake writes to its own records."""
    return Moment("snakemake", ("open",), rf"\.snakemake/{path}/", most, write=True)


LOADING = r"base/toy/(config|tokenizer_config|generation_config|chat_template)\b"
STEPS = Moment("train_adapter.py", ("tempfile.mkdtemp", "os.rename"), r"/(status|scratch)/", 6)
LATE_STEPS = Moment(
    "train_adapter.py", ("tempfile.mkdtemp", "os.rename", "shutil.rmtree"), r"/scratch/.*checkpoint-4", 5
)
LOAD_TO_TRAIN = Moment("train_adapter.py", ("open",), LOADING)
MERGE_TO_TRAIN = Moment(
    "train_adapter.py", ("open",), r"^results/.*/adapter/adapter_config\.json$(?<!partial/adapter/adapter_config\.json)"
)
LOAD_TO_REPLY = Moment("generate_replies.py", ("open",), LOADING, 2)
MERGE_TO_ANSWER = Moment(
    "generate_completions.py",
    ("open",),
    r"^results/.*/adapter/adapter_config\.json$(?<!partial/adapter/adapter_config\.json)",
)
PARSING = Moment("snakemake", ("open",), r"rules/\w+\.smk$", 6)
DELETING = Moment("snakemake", ("os.remove", "shutil.rmtree"), OUTPUTS, 2)
UNMARKING = Moment("snakemake", ("os.remove",), r"\.snakemake/incomplete/", 3)
UNLOCKING = Moment("snakemake", ("shutil.rmtree",), r"\.snakemake/locks$")

# In the order of the study: what is at work, when, by which signal, and who gets it.
KILL, TERM = signal.SIGKILL, signal.SIGTERM
KILLS = [
    ("snakemake", PARSING, KILL, "snakemake"),
    ("snakemake", noting("locks", 2), TERM, "group"),
    ("writing", writing("make_toy_data.py", 8), KILL, "job"),
    ("snakemake", noting("metadata", 4), KILL, "snakemake"),
    ("snakemake", DELETING, KILL, "snakemake"),
    ("snakemake", noting("incomplete"), KILL, "snakemake"),
    ("writing", writing("pretrain_base.py", 6), KILL, "snakemake"),
    ("writing", writing("pretrain_base.py", 6), TERM, "group"),
    ("loading", LOAD_TO_REPLY, KILL, "job"),
    ("loading", LOAD_TO_REPLY, TERM, "snakemake"),
    ("writing", writing("make_coupling_data.py", 2), KILL, "group"),
    ("loading", LOAD_TO_TRAIN, KILL, "snakemake"),
    ("training", STEPS, KILL, "job"),
    ("training", STEPS, TERM, "job"),
    ("training", LATE_STEPS, KILL, "group"),
    ("training", LATE_STEPS, KILL, "snakemake"),
    ("training", STEPS, TERM, "group"),
    ("writing", writing("train_adapter.py", 8), KILL, "group"),
    ("loading", MERGE_TO_TRAIN, KILL, "group"),
    ("loading", MERGE_TO_ANSWER, TERM, "job"),
    ("writing", writing("generate_completions.py", 8), KILL, "group"),
    ("writing", writing("count_markers.py", 2), TERM, "job"),
    ("writing", writing("summarize_cell.py", 2), KILL, "snakemake"),
    ("writing", writing("tabulate_study.py", 24), KILL, "job"),
    ("snakemake", noting("metadata", 4), TERM, "snakemake"),
    ("snakemake", UNMARKING, KILL, "group"),
    ("writing", writing("plot_figures.py", 6), TERM, "job"),
    ("snakemake", UNLOCKING, KILL, "snakemake"),
]


def command(study: Workspace) -> list[str]:
    """What a user types, and types again."""
    return [str(SNAKEMAKE), *study.arguments, "--cores", "2"]


def processes_of(study: Workspace) -> dict[int, str]:
    """Process id -> command line of all that was started with the study's environment and still runs."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if study.card.encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")[:200]
        except OSError:
            continue
    return found


def start(study: Workspace, order: dict, output: Path) -> subprocess.Popen:
    """Give the command, and wait until its moment is reported or it has ended."""
    environment = study.environment | {"KILL_AT": json.dumps(order), "PYTHONPATH": str(Path(__file__).parent)}
    with output.open("w") as file:
        snakemake = subprocess.Popen(
            command(study), cwd=study.folder, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    report = Path(order["report"])
    wait_for(lambda: (report.exists() and report.read_text()) or snakemake.poll() is not None, PATIENCE)
    return snakemake


def kill(
    study: Workspace, moment: Moment, number: signal.Signals, whom: str, draw: random.Random, last: str, output: Path
) -> str:
    """Give the command, and send the signal at the moment. Returns what the process was about to do.

    Where the study ends without that moment, since an earlier signal came too late for the work that it was meant for,
    `last`, the folder of its last model, is taken away, and the moment comes again.
    """
    report = output.with_suffix(".moment")
    stays = whom == "job" or moment.program == "snakemake" or (number == KILL and draw.random() < 0.7)
    order = {"program": moment.program, "events": moment.events, "path": moment.path, "write": moment.write,
             "nth": draw.randint(1, moment.most), "report": str(report), "wait": stays and WAIT}  # fmt: skip
    snakemake = start(study, order, output)
    if not report.exists() and snakemake.poll() == 0:
        shutil.rmtree(study.folder / last)
        snakemake = start(study, order, output)
    assert report.exists(), f"no such moment: {order}\n{output.read_text()}"
    told = report.read_text()
    time.sleep(0 if stays else draw.uniform(0, 0.1))
    if whom == "group":
        os.killpg(snakemake.pid, number)
    else:
        os.kill(snakemake.pid if whom == "snakemake" else int(told.split()[0]), number)
    snakemake.wait(PATIENCE)
    return told


def is_free(card: str) -> bool:
    """Whether nobody holds the lease of the pretend GPU."""
    lock = try_lock(make_lock_dir(LOCK_DIR) / f"{card}.lock")
    if lock is not None:
        os.close(lock)
    return lock is not None


def check_what_is_left(study: Workspace, reference: dict[str, str]) -> None:
    """Nothing runs, nothing is leased, and every file with the name of a result is a whole result."""
    assert wait_for(lambda: not processes_of(study)), processes_of(study)
    assert wait_for(lambda: is_free(study.card))
    found = study.results()
    assert found == {name: reference.get(name) for name in found}


def any_resumed(study: Workspace) -> bool:
    """Whether a training that ended had gone on from a checkpoint."""
    records = (study.folder / "results/smallest/models").rglob("run.json")
    return any(json.loads(record.read_text()).get("resumed_at_step") for record in records)


def check_finished(study: Workspace, reference: dict[str, str]) -> None:
    """The same command finishes the study; results and what is left are those of an uninterrupted run."""
    study.snakemake("--cores", "2", env=study.environment)
    check_what_is_left(study, reference)
    assert study.results() == reference
    assert study.plan() == []
    assert list(study.folder.rglob("*.partial")) == []
    assert list((study.folder / "results/smallest/scratch").iterdir()) == []
    assert list((study.folder / "results/smallest/status").rglob("*.json")) == []


@pytest.fixture
def study(tmp_path):
    study = Workspace.smallest(tmp_path / "study")
    yield study
    for pid in processes_of(study):  # of a test that failed
        os.kill(pid, signal.SIGKILL)
    Path(LOCK_DIR, f"{study.card}.lock").unlink(missing_ok=True)


# Enough to draw that some are left after a Snakemake that ends by TERM, which lets those at work be drawn.
FIGURES = "figures: {persona_heatmap: [forward], question_strip: [forward], length_hits: [forward], gates: [forward]}\n"


def test_a_study_killed_at_every_kind_of_moment_is_finished_by_the_same_command(study, smallest, tmp_path, capsys):
    overlay = tmp_path / "figures.yaml"
    overlay.write_text(FIGURES)
    plain, study = (
        Workspace(each.folder, (*each.arguments, str(overlay))) for each in (smallest.copied(tmp_path / "plain"), study)
    )
    plain.snakemake("--cores", "2", env=plain.environment)
    reference = plain.results()
    draw = random.Random(SEED)
    hit, resumed = Counter(), False
    for count, (kind, moment, number, whom) in enumerate(KILLS):
        began = time.monotonic()
        told = kill(study, moment, number, whom, draw, LAST_MODEL, tmp_path / f"{count}.txt")
        check_what_is_left(study, reference)
        resumed |= any_resumed(study)
        hit[kind, number.name] += 1
        with capsys.disabled():
            print(f"\n{count} {time.monotonic() - began:.1f} s {kind} {number.name} to {whom}: {told.strip()}", end="")
    kinds = Counter(kind for kind, _ in hit.elements())
    assert kinds.total() >= 20 and min(kinds[kind] for kind in ("training", "loading", "writing", "snakemake")) >= 5
    check_finished(study, reference)
    assert resumed or any_resumed(study)


FULL = "results/smallest/models/base/couple_full-evil_ai.s42/manifest.json"
FULL_KILLS = [
    (LOAD_TO_TRAIN, KILL, "snakemake"),
    (STEPS, KILL, "job"),
    (Moment("train_adapter.py", ("tempfile.mkdtemp", "os.rename"), r"/scratch/.*checkpoint-4", 2), TERM, "group"),
    (Moment("train_adapter.py", ("tempfile.mkdtemp", "os.rename"), r"^results/.*/couple_full", 4), KILL, "group"),
]


def test_a_training_of_all_weights_is_killed_and_finished_like_that_of_a_lora(smallest, tmp_path, capsys):
    overlay = tmp_path / "full.yaml"
    overlay.write_text("arms: {full_coupling: true}\nhardware: {full_checkpoint_every: 2}\n")

    def copied(name: str) -> Workspace:
        return Workspace(smallest.copied(tmp_path / name).folder, (FULL, *smallest.arguments, str(overlay)))

    plain, study = copied("plain"), copied("study")
    plain.snakemake("--cores", "2", env=plain.environment)
    reference, draw, resumed = plain.results(), random.Random(SEED), False
    for count, (moment, number, whom) in enumerate(FULL_KILLS):
        told = kill(study, moment, number, whom, draw, str(Path(FULL).parent), tmp_path / f"{count}.txt")
        check_what_is_left(study, reference)
        resumed |= any_resumed(study)
        with capsys.disabled():
            print(f"\n{count} {number.name} to {whom}: {told.strip()}", end="")
    check_finished(study, reference)
    assert resumed or any_resumed(study)
    assert not list((study.folder / "results/smallest/models").rglob("*couple_full*/adapter"))


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own with nothing on it: options -> mount it (again) with those."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> None:
        again = ",remount" if folder.is_mount() else ""
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options + again, "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")

    mount("size=100m")
    yield folder, mount
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_or_read_only_disk_ends_a_study_and_the_same_command_finishes_it(smallest, disk):
    folder, mount = disk
    shutil.copytree(smallest.folder, folder, dirs_exist_ok=True, symlinks=True)
    study = Workspace(folder, smallest.arguments)
    reference = smallest.results()
    for part in ("models/base/couple-evil_ai.s42/em.s42", "cells", "tables", "figures"):
        shutil.rmtree(folder / "results/smallest" / part)
    used = shutil.disk_usage(folder).used // 1024
    for options in ("ro", f"rw,size={used + 8}k", f"rw,size={used + 200}k", f"rw,size={used + 400}k"):
        mount(options)
        done = study.snakemake("--cores", "2", env=study.environment, check=False)
        assert done.returncode != 0, options
        check_what_is_left(study, reference)
    mount("rw,size=100m")
    check_finished(study, reference)
