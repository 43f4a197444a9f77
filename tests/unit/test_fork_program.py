"""A forked program is as one started anew: to its user, to what it prints, to signals, and to who waits for its locks."""

import fcntl
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from workspace import ROOT, wait_for

from offline import fork_program

SCRIPTS = ROOT / "workflow_scripts"
FORK = [sys.executable, str(SCRIPTS / "offline/fork_program.py"), "--"]
PYTHON = str(Path(sys.executable).with_name("python"))
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by which Snakemake says how many a job has
# Stands for Snakemake: its file is locked as long as it lives.
SNAKEMAKE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import os
from run import alive
Path(sys.argv[2]).mkdir()
alive.hold(Path(sys.argv[2]))
print(os.environ[alive.VARIABLE], flush=True)
sys.stdin.read()
"""
PROGRAM = """
import json, os, sys
if __name__ == "__main__":
    import torch
    import neighbour
    told = {"argv": sys.argv, "folder": os.getcwd(), "mine": os.environ.get("MINE"), "parent": os.getppid(),
            "threads": torch.get_num_threads(), "gpus": os.environ["CUDA_VISIBLE_DEVICES"], "stdin": sys.stdin.read(),
            "product": float((torch.ones(256, 256) @ torch.ones(256, 256)).exp().log().sum()),
            "neighbour": neighbour.NAME, "server": "fork_program" in open("/proc/self/cmdline").read()}
    print(json.dumps(told))
    print("told", file=sys.stderr)
    raise SystemExit(3)
"""
LEAVING = """
import atexit, threading, time
atexit.register(print, "at exit")
threading.Thread(target=lambda: time.sleep(0.1) or print("by a thread")).start()
"""
# It says that it began, and when it is asked to end it takes half a second to clean up.
PATIENT = """
import sys, time
from pathlib import Path
from run.program import run
def main():
    Path(sys.argv[1]).write_text("began")
    try:
        time.sleep(60)
    finally:
        time.sleep(0.5)
        Path(sys.argv[1]).write_text("cleaned up")
run(main)
"""


@pytest.fixture(scope="module")
def snakemake(tmp_path_factory):
    """The environment of a Snakemake's jobs, whose server runs already."""
    folder = tmp_path_factory.mktemp("forked") / "alive"
    stand_in = subprocess.Popen(
        [sys.executable, "-c", SNAKEMAKE, str(SCRIPTS), str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    path = stand_in.stdout.readline().strip()
    # a job of two threads starts the server
    yield (
        os.environ
        | dict.fromkeys(THREADS, "2")
        | {"SNAKEMAKE_ALIVE": path, "PATH": f"{Path(PYTHON).parent}:{os.environ['PATH']}"}
    )
    servers = server_pids(path)
    stand_in.stdin.close()
    stand_in.wait()
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in servers)), "the server outlived Snakemake"


def server_pids(path):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                path.encode() in (folder / "environ").read_bytes()
                and b"fork_program" in (folder / "cmdline").read_bytes()
            ):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.fixture
def program(tmp_path):
    """Write a program of a name that is forked, beside the workflow's modules."""

    def write(text):
        shutil.copytree(SCRIPTS / "run", tmp_path / "run", dirs_exist_ok=True)
        (tmp_path / "neighbour.py").write_text("NAME = 'next door'")
        (tmp_path / "train_adapter.py").write_text(text)
        return "train_adapter.py"

    return write


def start(environment, folder, *words):
    return subprocess.Popen(
        [*FORK, "python", *words], cwd=folder, env=environment | {"MINE": "this one's"}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("threads", ["2", "1"])  # the first one starts the server
def test_a_forked_program_cannot_tell_that_it_was_not_started_anew(snakemake, program, tmp_path, threads):
    name = program(PROGRAM)
    answers = []
    for environment in (snakemake, {**snakemake, "SNAKEMAKE_ALIVE": ""}):
        job = start(environment | dict.fromkeys(THREADS, threads), tmp_path, name, "--words", "with a space", "é")
        out, err = job.communicate("what it is given")
        assert (job.returncode, err) == (3, "told\n")
        answers.append(json.loads(out))
    forked, anew = answers
    assert (forked.pop("server"), anew.pop("server")) == (True, False)
    del forked["parent"], anew["parent"]
    assert forked == anew
    assert forked["threads"] == int(threads) and forked["stdin"] == "what it is given"


@pytest.mark.parametrize(
    ("dtype", "limit"), [("float32", {fork_program.INSTRUCTIONS: "AVX512_CORE"}), ("bfloat16", {})]
)
def test_a_forked_program_computes_float32_with_the_instructions_tried_and_bfloat16_with_all(
    snakemake, program, tmp_path, dtype, limit
):
    name = program("import torch\ntorch.ones(4, 4).to_mkldnn().relu()\n")
    told = []
    for environment in (snakemake, snakemake | {"SNAKEMAKE_ALIVE": ""} | limit):
        out, err = start(environment | {"ONEDNN_VERBOSE": "1"}, tmp_path, name, "--dtype", dtype).communicate()
        told.append([line for line in out.splitlines() if "cpu,isa:" in line][-1:])  # the program's, after its server's
    assert told[0] == told[1] != [], err


@pytest.mark.parametrize(
    ("arguments", "dtype"),
    [
        (["--dtype", "bfloat16"], "bfloat16"),
        (["--dtype=bfloat16", "--base", "b"], "bfloat16"),
        (["--dtype", "float32", "--adapter", "a", "bfloat16"], "float32"),
        (["bfloat16"], ""),
    ],
    ids=str,
)
def test_the_precision_of_a_program_is_its_option_and_no_other_word(arguments, dtype):
    assert fork_program.dtype_of(["train_adapter.py", *arguments]) == dtype


@pytest.mark.parametrize("ends", ["", "raise SystemExit", "raise SystemExit(3)", "raise SystemExit('a word')"])
def test_what_a_program_left_for_its_end_is_done_before_it_ends(snakemake, program, tmp_path, ends):
    name = program(f"{LEAVING}{ends}\n")
    answers = []
    for environment in (snakemake, {**snakemake, "SNAKEMAKE_ALIVE": ""}):
        job = start(environment, tmp_path, name)
        answers.append((*job.communicate(), job.returncode))
    assert answers[0] == answers[1]
    assert answers[0][0] == "by a thread\nat exit\n"


def test_a_traceback_and_a_signal_come_through(snakemake, program, tmp_path):
    job = start(snakemake, tmp_path, program("1 / 0"))
    assert "ZeroDivisionError" in job.communicate()[1] and job.returncode == 1
    job = start(snakemake, tmp_path, program("import os\nos.kill(os.getpid(), 9)"))
    job.communicate()
    assert job.returncode == -signal.SIGKILL


def test_a_job_told_to_end_waits_for_its_program_to_clean_up(snakemake, program, tmp_path):
    job = start(snakemake, tmp_path, program(PATIENT), "state")
    assert wait_for((tmp_path / "state").exists)
    job.terminate()
    job.wait()
    assert (tmp_path / "state").read_text() == "cleaned up"
    assert job.returncode == 128 + signal.SIGTERM


def test_a_killed_job_takes_its_program_along_and_the_lease_lasts_until_then(snakemake, program, tmp_path):
    environment = snakemake | {"LEASE_GPU_POOL": json.dumps({"gpus": ["GPU-forked"]})}
    lease = [sys.executable, str(SCRIPTS / "run/lease_gpu.py"), "--gpus", "1", "--lock-dir", str(tmp_path / "locks")]
    words = [*lease, "--", *FORK, "python", program(PATIENT), "state"]
    job = subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    state = tmp_path / "state"
    assert wait_for(state.exists)
    job.kill()
    job.wait()
    with open(tmp_path / "locks/GPU-forked.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    assert state.read_text() == "cleaned up"


def test_edits_of_a_module_since_the_server_started_count(snakemake, program, tmp_path):
    name = program("from run import program\nprint(program.EDITED)")
    (tmp_path / "run/program.py").write_text("EDITED = 'just now'")
    assert start(snakemake, tmp_path, name).communicate()[0] == "just now\n"


def test_without_snakemake_or_for_a_small_program_nothing_is_forked(snakemake, program, tmp_path):
    text = "print('fork_program' in open('/proc/self/cmdline').read())"
    (tmp_path / "small.py").write_text(text)
    outside = {name: value for name, value in snakemake.items() if name != "SNAKEMAKE_ALIVE"}
    for environment, name in ((snakemake, "small.py"), (outside, program(text))):
        assert start(environment, tmp_path, name).communicate()[0] == "False\n"


@pytest.fixture
def another(tmp_path):
    """The file of another Snakemake that lives: without one, its programs would end."""
    with (tmp_path / "another-node.7").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.name


def test_a_program_that_computes_is_forked_where_a_server_is_and_starts_none(snakemake, another, program, tmp_path):
    start(snakemake, tmp_path, program("")).communicate()
    (tmp_path / "plot_figures.py").write_text("print('fork_program' in open('/proc/self/cmdline').read())")
    for environment, forked in ((snakemake, True), (snakemake | {"SNAKEMAKE_ALIVE": another}, False)):
        assert start(environment, tmp_path, "plot_figures.py").communicate()[0] == f"{forked}\n"
    assert not server_pids(another)


def test_where_no_fork_would_do_every_program_is_told_so_at_once_and_starts_anew(snakemake, another, program, tmp_path):
    """On a card, imports that started CUDA or a thread made jobs wait two minutes for a server that was gone."""
    name = program("print('fork_program' in open('/proc/self/cmdline').read())")
    (tmp_path / "sitecustomize.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(300,), daemon=True).start()"
    )
    environment = snakemake | {"SNAKEMAKE_ALIVE": another, "PYTHONPATH": str(tmp_path)}
    at_once = [start(environment, tmp_path, name) for _ in range(2)]
    for job in at_once:
        assert_told(job)
    assert wait_for(lambda: len(server_pids(another)) == 1)
    refusing = server_pids(another)
    assert_told(start(environment, tmp_path, name))
    assert server_pids(another) == refusing, "tried once, not by every job"


def assert_told(job):
    out, err = job.communicate()
    assert (job.returncode, out) == (0, "False\n")
    assert "programs start anew" in err and "a thread" in err and "fix: hardware: {preload: false}" in err


FORK_FAILS = """
import os, sys
def fork(real=os.fork):
    if sys._getframe(1).f_code.co_name == "serve":
        raise OSError(12, "Cannot allocate memory")
    return real()
os.fork = fork
"""


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        (
            "import os, sys\nif '--serve' in sys.orig_argv:\n    os.kill(os.getpid(), 9)",
            "what they are forked from ended with -9",
        ),
        (FORK_FAILS, "a fork failed (Cannot allocate memory)"),
    ],
    ids=["its server is killed", "the fork fails"],
)
def test_a_program_that_cannot_be_forked_says_so_and_starts_anew(snakemake, another, program, tmp_path, fails, said):
    name = program("print('fork_program' in open('/proc/self/cmdline').read())")
    (tmp_path / "sitecustomize.py").write_text(fails)
    job = start(snakemake | {"SNAKEMAKE_ALIVE": another, "PYTHONPATH": str(tmp_path)}, tmp_path, name)
    out, err = job.communicate()
    assert (job.returncode, out) == (0, "False\n")
    assert f"fork_program: programs start anew, imports included: {said}" in err


def test_torchao_gets_a_no_while_it_is_imported_and_answers_later(monkeypatch, tmp_path):
    """As it is imported it asks what starts CUDA, and a process with CUDA cannot be forked (seen on an H100)."""
    import torch
    import torch.utils._triton

    for module, name in ((torch.cuda, "get_device_capability"), (torch.utils._triton, "has_triton")):
        monkeypatch.setattr(module, name, lambda *args: "asked of CUDA")
    for package in ("torchao", "elsewhere"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "kernels.py").write_text(
            "import torch\nfrom torch.utils._triton import has_triton\n"
            "def answers():\n    return [torch.cuda.get_device_capability(), has_triton()]\nFIRST = answers()"
        )
    monkeypatch.syspath_prepend(tmp_path)
    for name in list(sys.modules):
        if name.partition(".")[0] == "torchao":
            monkeypatch.delitem(sys.modules, name)
    with fork_program.torchao_kept_off_the_card():
        torchao, elsewhere = (importlib.import_module(f"{name}.kernels") for name in ("torchao", "elsewhere"))
    for name in ("torchao", "torchao.kernels", "elsewhere", "elsewhere.kernels"):
        del sys.modules[name]  # other tests ask whether there is a torchao
    assert torchao.FIRST == [(0, 0), False]
    assert elsewhere.FIRST == torchao.answers() == ["asked of CUDA"] * 2


def test_with_a_gpu_nothing_is_forked_on_another_node_than_snakemakes(snakemake, another, program, tmp_path):
    name = program(
        "import os\nprint('fork_program' in open('/proc/self/cmdline').read(), os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    environment = snakemake | {"CUDA_VISIBLE_DEVICES": "3", "SNAKEMAKE_ALIVE": another}
    command = [*FORK[:2], "--gpu", "--", "python", name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "False 3\n"


def test_a_forked_training_sends_no_telemetry(snakemake, program, tmp_path):
    """TRL's trainer does, to the Hub, unless the variable was there when the Hub's library was imported."""
    name = program(
        "import os, sys\n'trl.trainer.sft_trainer' in sys.modules or sys.exit(1)\n"
        "os.environ.setdefault('HF_HUB_DISABLE_TELEMETRY', '1')\n"
        "from huggingface_hub import constants\nprint(constants.HF_HUB_DISABLE_TELEMETRY)"
    )
    environment = {name: value for name, value in snakemake.items() if "TELEMETRY" not in name}
    out, err = start(environment, tmp_path, name).communicate()
    assert out == "True\n", err


def test_a_forked_or_started_program_sees_no_gpu(snakemake, program, tmp_path):
    text = "import os\nprint(os.environ['CUDA_VISIBLE_DEVICES'])"
    (tmp_path / "small.py").write_text(text)
    for name in ("small.py", program(text)):
        assert start(snakemake | {"CUDA_VISIBLE_DEVICES": "0"}, tmp_path, name).communicate()[0] == "\n"


@pytest.mark.parametrize("words", [["--"], ["python", "train_adapter.py"]])
def test_without_a_program_it_says_how_to_give_one(words):
    done = subprocess.run([*FORK[:2], *words], capture_output=True, text=True)
    assert done.returncode == 1 and "fix: fork_program.py -- python" in done.stderr


@pytest.mark.parametrize("change", ["nothing", "an edit", "a new file", "a program elsewhere"])
def test_what_was_edited_since_is_imported_anew(monkeypatch, tmp_path, change):
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    module = scripts / "imported_before.py"
    module.write_text("VALUE = 1")
    monkeypatch.setattr(fork_program, "SCRIPTS", scripts)
    monkeypatch.syspath_prepend(scripts)
    monkeypatch.delitem(sys.modules, "imported_before", raising=False)
    own = fork_program.sources()
    importlib.import_module("imported_before")
    if change == "an edit":
        module.write_text("VALUE = 2")
        os.utime(module, ns=(0, 0))
    if change == "a new file":
        (scripts / "room").mkdir()
        (scripts / "room/new.py").touch()
    program = (tmp_path if change == "a program elsewhere" else scripts) / "count_markers.py"
    fork_program.forget_edited(program, own)
    assert ("imported_before" in sys.modules) == (change == "nothing")
