"""Everything outside that the planned jobs will need, asked before anything is paid for: a line each, with its fix.

    python workflow_scripts/run/preflight.py                              # the published study
    python workflow_scripts/run/preflight.py forward --config 'judge={model: none}'

Arguments go to Snakemake, whose dry run says which jobs there will be: what none of them needs is not asked. A line is
the check that the job's program makes: ok, missing (with the fix), or unknown if nothing answered in time. They are
asked side by side, within SECONDS. Exit status 1 if anything is missing.
"""

import argparse
import contextlib
import fcntl
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, it finds the other rooms

from run.dry_run import Job, dry_run, options_of, parents_of
from run.job_costs import UNIT_COSTS, costs_of, gigabytes, unit_cost_table
from run.lease_gpu import IDLE_MIB, LOCK_DIR, Gpu, cards, make_lock_dir, nvidia_smi, visible
from run.program import InputError, printable, run
from run.schedule import cores_beside, schedule
from run.space import free_space

if TYPE_CHECKING:
    from inputs.downloads import Hub

SECONDS = 20.0
WIDTH = 100
SHARE = 5  # a card's memory over the weights' bytes, of the published study: 80 GB, 15.2 GB
# What a program's own environment says of torch: its CUDA, the driver's newest CUDA, and the chips it has code for.
TORCH = """
import contextlib, ctypes, json, torch
version = ctypes.c_int()
with contextlib.suppress(OSError):
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
print(json.dumps([torch.version.cuda, version.value, torch.cuda.get_arch_list()]))
"""
Options = Mapping[str, list[str]]
# Says what is well, or raises InputError.
Check = Callable[[], str]


@dataclass(frozen=True)
class Answer:
    """state: ok | missing | unknown. said: what was found, and after `; fix: ` what to do."""

    name: str
    state: str
    said: str


def checks_of(jobs: Sequence[Job], disk: float, left: float = 0) -> dict[str, Check]:
    """What to ask for these jobs, by name. disk: megabytes that they need in the working folder; left: leave there."""
    checks: dict[str, Check] = {"locks": check_locks, "disk of results": lambda: check_disk(disk, left)}
    for job in jobs:
        if job.command:
            checks |= checks_of_job(job.rule, options_of(job.command))
    leasing = [job for job in jobs if job.gpus]
    if leasing:
        weights, saving = weights_of(jobs), saves_memory(jobs)
        checks["GPUs"] = lambda: check_gpus(max(job.gpus for job in leasing), weights, saving)
        if "LEASE_GPU_POOL" not in os.environ:
            checks["driver, torch"] = check_torch
            checks["C compiler"] = check_compiler
    if any(job.command and options_of(job.command).get("--backend") == ["vllm"] for job in jobs):
        checks["vLLM"] = check_vllm
    return checks


def checks_of_job(rule: str, options: Options) -> dict[str, Check]:
    """What one job needs from outside; equal needs of several jobs have one name."""
    from inputs.downloads import Hub

    token: dict[str, Check] = {"Hub token": check_token}
    if rule == "fetch_base" and "--path" in options:
        return {"base": lambda: check_path(options["--path"][0], "base.path")}
    if rule == "fetch_base":
        hub = Hub(options["--repo"][0], retries=0)
        return token | {"base": lambda: check_hub(hub, options["--revision"][0], base_pins(options))}
    if rule == "fetch_adapter":
        hub, folder = Hub(options["--repo"][0], retries=0), options["--folder"][0]
        return token | {f"adapter {Path(folder).name}": lambda: check_hub(hub, options["--revision"][0], {}, folder)}
    if rule == "fetch_dataset":
        spec = json.loads(options["--dataset"][0])
        name = f"data set {Path(options['--output'][0]).stem}"
        if spec["kind"] == "path":
            return {name: lambda: check_path(spec["path"], "datasets")}
        hub = Hub(spec["repo"], "dataset", retries=0)
        return token | {name: lambda: check_hub(hub, spec["revision"], spec.get("files", {}))}
    if rule == "fetch_panel":
        return {"panel": lambda: check_panel(options["--panel"][0])}
    if rule in ("judge_alignment", "judge_again"):
        return judge_checks(options, "second judge" if rule == "judge_again" else "judge")
    if rule in ("train_adapter", "train_model"):
        return training_checks(rule, options)
    return {}


def training_checks(rule: str, options: Options) -> dict[str, Check]:
    from model.full import check_states

    checks: dict[str, Check] = {}
    if options["--tracking"] != ["none"]:
        checks["tracker"] = lambda: check_tracking(options["--tracking"][0])
    if rule == "train_model":
        checks["optimizer"] = lambda: check_states(options["--optimizer-states"][0], options["--dtype"][0])
    return checks


def judge_checks(options: Options, name: str) -> dict[str, Check]:
    from measure.judge import NOBODY, TOY

    judge = options["--judge"][0]
    return {} if judge in (NOBODY, TOY) else {name: lambda: check_judge(judge, options)}


# Inputs


def check_path(path: str, key: str) -> str:
    """The user's own file or folder."""
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: no such file or folder, or not to be read; fix: correct {key} in config.yaml")
    return f"{path}: there"


def check_token() -> str:
    from inputs.downloads import account

    name = account()
    return f"accepted: {name}" if name else "none set: what is public needs none, what is gated is missing below"


def check_hub(hub: "Hub", revision: str, pins: Mapping[str, Mapping[str, object]], folder: str = "") -> str:
    """A repository's files, as pinned, to be had by this account, and room for them in the cache."""
    from inputs.downloads import cache_of, check_offered, check_space, commit_of, is_cached, pinned_files

    files = pinned_files(pins)
    commit = commit_of(hub, revision)
    where = f"{hub.repo}@{commit[:12]}"
    missing = [file for file in files if not is_cached(hub, commit, file)]
    if files and not missing:
        return f"{where}: in the cache already ({cache_of(hub)})"
    check_offered(hub, commit, files, folder)
    size = sum(file.bytes or 0 for file in missing)
    check_space(size, cache_of(hub))
    return f"{where}: " + (f"{len(files)} files as pinned, {gigabytes(size / 1e6)} to fetch" if files else "to be had")


def check_panel(pins: str) -> str:
    from inputs.downloads import fetch_pinned

    names = ("core", "sarcastic", "data")
    fetch_pinned(json.loads(pins), names, os.environ.get("PANEL_URL"), 0, 0)
    return f"{len(names)} modules as pinned"


# The judge and the tracker


def check_judge(judge: str, options: Options) -> str:
    """A judge behind an API is asked for one word. One on this machine would have to be loaded."""
    from measure.grading import load_prompt
    from measure.judge import read_model_args, try_judge

    prompt, model_args = load_prompt(options["--prompt"][0]), read_model_args(options["--model-args"][0])
    provider, address = judge.partition("/")[0], options["--base-url"][0]
    if provider in ("hf", "vllm", "sglang", "transformer_lens") and not address:
        return f"{judge}: loaded here when its first job starts, so not asked now"
    return try_judge(judge, address, model_args, prompt, options["--scores"][0], int(SECONDS) - 2)


def check_tracking(name: str) -> str:
    from run.tracking import check_tracker

    check_tracker(name)
    return f"{name}: installed" + (" and logged in" if name == "wandb" else "")


# This machine


def check_disk(megabytes: float, left: float = 0) -> str:
    """Room for what the plan needs in the working folder, of which `left` stays."""
    free = free_space("results") / 1e6
    if free < megabytes:
        raise InputError(
            f"{Path('results').absolute()}: {gigabytes(megabytes)} needed at the peak, {gigabytes(free)} free; fix: "
            "make room, or work on a larger disk (snakemake --directory)"
        )
    return f"{gigabytes(megabytes)} needed at the peak, of which {gigabytes(left)} stay; {gigabytes(free)} free"


def check_locks() -> str:
    """Kernel locks exclude, where this Snakemake, its jobs and half-written files hold theirs."""
    results = Path("results") if Path("results").is_dir() else Path()
    for folder, fix in (
        (results, "work on a file system with flock (NFS 4, Lustre mounted with -o flock, a local disk)"),
        (make_lock_dir(LOCK_DIR), "make /tmp local to the node"),
    ):
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".locks.") as first, open(first.name) as second:
            try:
                fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(f"{folder.absolute()}: no locks ({error.strerror}); fix: {fix}") from None
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                raise InputError(f"{folder.absolute()}: a lock there keeps nobody out; fix: {fix}")
    return f"hold in {results.absolute()} and {LOCK_DIR}"


def base_pins(options: Options) -> dict[str, Any]:
    """What is known of the files of the base that a fetch_base fetches; nothing of a commit without pins."""
    from inputs.downloads import pins_of

    repo, revision = (options.get(name, [None])[0] for name in ("--repo", "--revision"))
    return pins_of(options["--sources"][0], repo, revision)


def weights_of(jobs: Sequence[Job]) -> int:
    """Bytes of the base's weights; 0 where neither its folder nor pins say."""
    for job in jobs:
        options = options_of(job.command)
        own = options.get("--path") if job.rule == "fetch_base" else options.get("--base", [])
        if own is None:
            pins = base_pins(options)
            return sum(pin.get("bytes", 0) for name, pin in pins.items() if name.endswith(".safetensors"))
        weights = [file for folder in own for file in Path(folder).glob("*.safetensors")]
        if weights:
            return sum(file.stat().st_size for file in weights)
    return 0


def saves_memory(jobs: Sequence[Job]) -> bool:
    """Whether every training computes activations again instead of keeping them."""
    trained = [options_of(job.command) for job in jobs if job.rule in ("train_adapter", "train_model")]
    return all("--gradient-checkpointing" in options for options in trained)


def own_cards() -> list[Gpu]:
    """The cards of this machine that jobs may take. Raises InputError where there are none."""
    return visible(cards(IDLE_MIB, os.environ.get("LEASE_GPU_POOL")), os.environ.get("CUDA_VISIBLE_DEVICES"))


def check_gpus(wanted: int, weights: int, saving: bool = False) -> str:
    """Cards are there, as many as a job leases; how many are idle, and whether they are large enough. saving: whether
    the trainings are told to take less memory, so that there is no more to say to their user.
    """
    gpus = own_cards()
    if len(gpus) < wanted:
        raise InputError(f"{len(gpus)} GPUs here, a job wants {wanted}; fix: lower hardware.gpus, or ask for more")
    idle = sum(not gpu.busy for gpu in gpus)
    if not idle:
        raise InputError(f"none of {len(gpus)} is idle ({gpus[0].busy}); fix: end what runs there, else jobs wait")
    if "LEASE_GPU_POOL" in os.environ:
        return f"{idle} of {len(gpus)} idle (pretend cards)"
    sizes = dict(nvidia_smi("--query-gpu=uuid,memory.total"))
    smallest = min((int(sizes[gpu.uuid]) for gpu in gpus if sizes.get(gpu.uuid, "").isdigit()), default=0)
    small = f"{smallest / 1024:.0f} GiB a card for weights of {weights / 2**30:.1f} GiB: less than was ever tried"
    if not weights or not smallest or smallest * 2**20 >= SHARE * weights:
        return f"{idle} of {len(gpus)} idle, {smallest / 1024:.0f} GiB each"
    if not saving:
        raise InputError(
            f"{small}; fix: larger cards, or hardware: {{gradient_checkpointing: true, micro_batch_tokens: 2048}}"
        )
    return f"{idle} of {len(gpus)} idle; {small}"


def check_torch() -> str:
    """The installed torch has code for the cards, and the driver is new enough for it."""
    cuda, driver, chips = json.loads(python(TORCH))
    if not cuda:
        raise InputError("torch is a build without CUDA; fix: pip install -r envs/gpu.txt, in this environment")
    if not driver:
        raise InputError("no driver (libcuda.so.1) that CUDA programs could load; fix: run on a node with one")
    if driver // 1000 < int(cuda.split(".")[0]):
        raise InputError(
            f"torch wants CUDA {cuda}, the driver knows {driver // 1000}.{driver % 1000 // 10}; fix: a newer driver, "
            "or a build of torch for that CUDA"
        )
    # code for sm_90 runs on every chip whose name begins like this: of one generation
    built = {name.rstrip("af")[:-1] for name in chips}
    found = sorted({"sm_" + row[0].replace(".", "") for row in nvidia_smi("--query-gpu=compute_cap,uuid")})
    for chip in found:
        if chip[:-1] not in built:
            raise InputError(f"torch has no code for these cards ({chip}), only {', '.join(chips)}; fix: other cards")
    return f"CUDA {cuda} under a driver for {driver // 1000}.{driver % 1000 // 10}, cards of {', '.join(found)}"


def check_vllm() -> str:
    """vLLM can be imported."""
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            "vllm: not installed; fix: pip install -r envs/gpu.txt, or hardware.backend: transformers"
        ) from None
    python("import vllm")
    return f"{version} is imported"


def python(code: str) -> str:
    """What the code prints, run by the Python that jobs run in."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS - 1)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{last[:300]}; fix: pip install -r envs/gpu.txt, in an environment of its own")
    return done.stdout


def check_compiler() -> str:
    """Triton compiles a C file against Python's headers at every start."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise InputError("no C compiler; fix: install gcc, or name one in $CC")
    headers = sysconfig.get_path("include")
    command = [compiler, "-I", headers, "-x", "c", "-", "-fsyntax-only"]
    try:
        done = subprocess.run(
            command, input="#include <Python.h>\n", capture_output=True, text=True, timeout=SECONDS - 1
        )
    except OSError as error:
        raise InputError(f"{compiler}: cannot run it ({error.strerror}); fix: correct $CC") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[0]
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-dev"
        raise InputError(f"{said[:200]}; fix: install the headers of this Python ({package}, or python3-devel)")
    return f"{compiler}, with the headers in {headers}"


# Asking


def ask_all(checks: Mapping[str, Check], seconds: float = SECONDS) -> list[Answer]:
    """The answers, in the checks' order. A check that takes longer than the others' time is left behind."""
    found: dict[str, Answer] = {}

    def ask(name: str, check: Check) -> None:
        try:
            found[name] = Answer(name, "ok", check())
        except InputError as error:
            found[name] = Answer(name, "missing", str(error))
        except subprocess.TimeoutExpired:
            pass
        except Exception as error:
            found[name] = Answer(name, "unknown", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

    threads = [threading.Thread(target=ask, args=item, daemon=True) for item in checks.items()]
    end = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = f"no answer within {seconds:.0f} s"
    return [found.get(name, Answer(name, "unknown", late)) for name in checks]


def table(answers: Sequence[Answer]) -> str:
    """A line an answer, its fix under it, in WIDTH columns."""
    lines = []
    before = ""
    names = max(len(answer.name) for answer in answers)
    for answer in answers:
        said, _, fix = printable(answer.said).partition("; fix: ")
        start = f"{answer.state:<8} {answer.name:<{names}}  "
        folded = textwrap.TextWrapper(WIDTH, start, " " * len(start), break_on_hyphens=False)
        lines += folded.wrap(said)
        if fix:
            folded.initial_indent = " " * len(start) + "fix: "
            lines += folded.wrap("as above" if fix == before else fix)
            before = fix
    bad = {state: sum(answer.state == state for answer in answers) for state in ("missing", "unknown")}
    counted = ", ".join(f"{count} {state}" for state, count in bad.items() if count)
    return "\n".join([*lines, f"{len(answers)} checks: {counted or 'all ok'}"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--gpus", type=int, help="GPUs that the disk is reckoned for, as in the plan (this machine's)")
    parser.add_argument("--unit-costs", default=UNIT_COSTS, help="what a job of each rule leaves")
    arguments, others = parser.parse_known_args()
    gpus = own_gpus() if arguments.gpus is None else arguments.gpus
    jobs = dry_run(others, cores_beside(gpus))
    answers = ask_all(checks_of(jobs, *disk_of(jobs, arguments.unit_costs, gpus)))
    print(f"# What it needs from outside\n\n{table(answers)}", flush=True)
    # not SystemExit, which would wait for clients' own threads that still wait for an answer
    os._exit(1 if any(answer.state == "missing" for answer in answers) else 0)


def own_gpus() -> int:
    """The cards of this machine; none if it does not say, which check_gpus does."""
    with contextlib.suppress(InputError):
        return len(own_cards())
    return 0


def disk_of(jobs: Sequence[Job], table: str | Path, gpus: int) -> tuple[float, float]:
    """Megabytes that the jobs need in the working folder at the peak, on so many cards, and that they leave: as the
    plan says, as long as nothing is done.
    """
    costs = costs_of(jobs, [], unit_cost_table(table))
    wanted = max((job.gpus for job in jobs), default=0)
    gpus = max(gpus, wanted)
    when = schedule(jobs, parents_of(jobs), costs, gpus, cores_beside(gpus if wanted else 0))
    return when.peak, sum(cost.disk for cost in costs)


if __name__ == "__main__":
    # Snakemake's own modules import by name from the working folder, which a program's sys.path lacks.
    sys.path.insert(1, os.getcwd())
    run(main)
