"""Run a program in a fork of a Python that has imported torch, transformers, PEFT and TRL already, or vLLM.

    python workflow_scripts/offline/fork_program.py -- python workflow_scripts/train_adapter.py --base ...
    python workflow_scripts/offline/fork_program.py --gpu -- python workflow_scripts/generate_completions.py ...

On a CPU a model's job of the offline study takes seconds, and its imports as many (8 s on a slow core, 45 times a
study). So the first such job of a Snakemake starts a server with the imports done; it forks itself for every further
program, and ends with its Snakemake. A program that computes or draws imports for half a second: it is forked where a
server is, and starts none. The program gets the caller's arguments, environment, folder, files and locks; what it
prints and how it ends are as if it had been started anew. Without --gpu it sees no GPU. With it, the server keeps off
the cards: CUDA does not outlive a fork, so where imports start it, or a thread, every program is told to start anew.
vLLM has a server of its own, since it changes how torch compiles. Outside Snakemake, for other programs, and, with
--gpu, on another node than Snakemake's, it becomes the program; so it does where a server or a fork fails, and says so.
"""

import argparse
import atexit
import contextlib
import functools
import gc
import hashlib
import importlib
import json
import math
import os
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, it finds the other rooms

from run import alive
from run.program import InputError, become, run

SCRIPTS = Path(__file__).resolve().parents[1]
MODEL_PROGRAMS = (
    "ablate_stage.py",
    "answer_dataset.py",
    "compare_adapters.py",
    "ask_families.py",
    "generate_completions.py",
    "generate_replies.py",
    "measure_distance.py",
    "pretrain_base.py",
    "probe_marker.py",
    "read_layers.py",
    "train_adapter.py",
)
OTHER_PROGRAMS = (
    "audit_completions.py",
    "check_claims.py",
    "check_replies.py",
    "count_markers.py",
    "judge_alignment.py",
    "make_coupling_data.py",
    "plot_figures.py",
    "reuse_adapter.py",
    "summarize_cell.py",
    "tabulate_study.py",
    "weigh_layers.py",
    "weigh_survival.py",
)
SHARED = (
    "multiprocessing.synchronize",
    "peft",
    "peft.utils.transformers_weight_conversion",
    "pyarrow.parquet",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen2.tokenization_qwen2",
)
COMPUTING = (
    "jsonschema",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_svg",
    "matplotlib.pyplot",
    "scipy.sparse.linalg",
    "scipy.stats",
)
PRELOADED = {  # what those import, by what computes
    "transformers": (*SHARED, *COMPUTING, "trl.trainer.sft_trainer"),
    "vllm": ("vllm.entrypoints.llm", *SHARED),
}
# oneDNN reads it at its first product, which is a program's: in the server it makes none (products.install).
INSTRUCTIONS = "ONEDNN_MAX_CPU_ISA"
# The Hub's library reads it as it is imported: what train_adapter.py says of it comes too late in a fork.
SILENT = {"HF_HUB_DISABLE_TELEMETRY": "1"}
# Blocks that a step of training frees are kept for the next one, instead of being returned to the kernel and cleared
# again: a seventh of the time. Without threads of its own the server can be forked.
SERVER_ENVIRONMENT = SILENT | {
    "MALLOC_MMAP_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    # Two threads of pretraining meet at every operation. The one that is done looks for the other as long as this
    # (some microseconds), then sleeps: by default, 300,000 looks, it takes from the other what a busy machine leaves.
    "GOMP_SPINCOUNT": "1000",
    INSTRUCTIONS: "AVX512_CORE",  # products.py
}
GPU_ENVIRONMENT = SILENT | {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # as train_adapter.py sets it
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # whether there is a card is asked without starting CUDA
    "TORCH_WARM_POOL": "0",
}
NOT_INITIALIZED = 3  # CUDA_ERROR_NOT_INITIALIZED
PATIENCE = 120.0  # [s] for a server to listen
REFUSED = struct.pack("!i", -1)  # instead of a program's status: start anew
ANEW = "fork_program: programs start anew, imports included:"


def main() -> None:
    """The program, forked or not; or, asked for by the first one, the server."""
    if sys.argv[1:2] == ["--serve"]:
        return serve_programs(*sys.argv[2:4])
    if sys.argv[1:2] == ["--refuse"]:
        refuse(socket.socket(fileno=int(sys.argv[2])), sys.argv[3])
    gpu = sys.argv[1:2] == ["--gpu"]
    dashes, *command = sys.argv[1 + gpu :] or [""]
    if dashes != "--" or not command:
        raise InputError("fork_program: no program given; fix: fork_program.py -- python program.py ...")
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    status = forked(command, gpu)
    if status is None:
        become(command)
    end_as(status)


def end_as(status: int) -> NoReturn:
    """End this process as another ended, by its status from waitpid()."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler to take away
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    raise SystemExit(code)


def forked(command: list[str], gpu: bool) -> int | None:
    """Run `python program.py ...` in a fork of this Snakemake's server; its exit status as waitpid() gives it.

    The program holds what files this process was started with, locks (lease_gpu.py) among them, until it ends. None if
    nothing was run: outside Snakemake, for none of the programs above or another interpreter, or where no server can be
    had. A signal that ends the caller is passed on, and the program's end awaited.
    """
    snakemake = os.environ.get(alive.VARIABLE)
    program = program_of(command)
    if not snakemake or program is None or not hasattr(socket, "SO_PEERCRED"):
        return None
    if gpu and not alive.is_here(Path(snakemake)):  # nobody here would end the server
        return None
    files = [0, 1, 2, *inherited()]
    imports = "vllm" if ("--backend", "vllm") in pairwise(command) else "transformers"
    address = address_of(f"{snakemake} {imports} {gpu}")
    environment = GPU_ENVIRONMENT if gpu else SERVER_ENVIRONMENT
    connection = connect(address, imports, environment if program in MODEL_PROGRAMS else None)
    if connection is None:
        return None
    with connection:
        request = {"command": list(command[1:]), "environment": dict(os.environ), "folder": os.getcwd()}
        data = json.dumps(request).encode()
        socket.send_fds(connection, [struct.pack("!I", len(data))], files)
        connection.sendall(data)
        try:
            answer = receive(connection, 4)
        except (SystemExit, KeyboardInterrupt):
            connection.shutdown(socket.SHUT_WR)
            answer = receive(connection, 4)
        if answer == REFUSED:
            print(connection.makefile().read(), file=sys.stderr)
            return None
    return struct.unpack("!i", answer)[0] if answer else signal.SIGKILL


def inherited() -> list[int]:
    """The file descriptors beyond the first three that outlive an exec: Python's own do not."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # of the listing itself
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
    return sorted(found)


def program_of(command: list[str]) -> str | None:
    """The program's name, if it is one of those above and run by this very Python."""
    interpreter, program = shutil.which(command[0]), Path(command[1]).name if len(command) > 1 else ""
    ours = interpreter is not None and Path(interpreter).parent == Path(sys.executable).parent
    return program if ours and program in MODEL_PROGRAMS + OTHER_PROGRAMS else None


def address_of(snakemake: str) -> str:
    """An abstract socket's name: it needs no file, and is gone with its server."""
    return "\0fork_program." + hashlib.sha256(f"{os.getuid()} {snakemake}".encode()).hexdigest()[:32]


def connect(address: str, imports: str, environment: dict[str, str] | None) -> socket.socket | None:
    """A connection to the server of that name. If there is none, it is started with that environment, if one is given.

    None if there is none, or it does not come up, which is said.
    """
    server = None
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(address)
        except ConnectionRefusedError:
            connection.close()
            if environment is None:
                return None
            if server is None:
                arguments = [sys.executable, __file__, "--serve", address[1:], imports]
                server = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, env={**os.environ, **environment})
            elif server.poll():
                print(f"{ANEW} what they are forked from ended with {server.returncode}", file=sys.stderr)
                return None
            time.sleep(0.05)
            continue
        if peer_user(connection) == os.getuid():
            return connection
        connection.close()
        return None
    print(f"{ANEW} what they are forked from was not ready in {PATIENCE:.0f} s", file=sys.stderr)
    return None


def peer_user(connection: socket.socket) -> int:
    """The id of the user at the other end: an abstract socket is open to all."""
    size = struct.calcsize("3i")
    return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]


def receive(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or none if the other end is gone."""
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            return b""
        data += more
    return data


def serve_programs(name: str, imports: str) -> None:
    """The server of that abstract socket, with these of PRELOADED; and, in a fork of it, the program."""
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind("\0" + name)
        except OSError:
            return  # another job was faster
        own = sources()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # from the terminal: the programs' to hear, and Snakemake's
        try:
            prepare(imports)
        except Exception as error:  # the program, started anew, meets it or does not
            os.set_inheritable(listener.fileno(), True)
            reason = f"{ANEW} {' '.join(str(error).split())}"
            become([sys.executable, __file__, "--refuse", str(listener.fileno()), reason])  # without what was imported
        listener.listen(64)
        gc.freeze()
        gc.enable()
        silence()
        arguments = serve(listener)
    sys.argv[:] = arguments
    sys.path[0] = str(Path(arguments[0]).parent)
    Path("/proc/self/comm").write_text(Path(arguments[0]).stem[:15])
    forget_edited(Path(arguments[0]), own)
    status = 0
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            raise
        status = ended.code or 0
    end_at_once(status)


def prepare(imports: str) -> None:
    """Import all that the programs do. Raises InputError if no fork of this process would do."""
    gc.disable()  # a fifth of the imports' time: all they make stays
    with torchao_kept_off_the_card():
        for needed in PRELOADED[imports]:
            importlib.import_module(needed)
        for program in MODEL_PROGRAMS + OTHER_PROGRAMS:  # and our modules
            importlib.import_module(Path(program).stem)
    if imports == "transformers":
        prepare_loading()
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        from offline import products

        products.install()
    check_forkable()
    os.close(os.pidfd_open(os.getpid()))  # a kernel before 5.3 has none


@contextlib.contextmanager
def torchao_kept_off_the_card() -> Iterator[None]:
    """torchao (0.18) asks for Triton and for the card's capability while it is imported, and either starts CUDA.

    It gets a no, and defines less of its MX formats, which nothing here uses. Others, and later it, get the answer.
    """
    import torch
    import torch.utils._triton

    importing = True

    def except_to_torchao(function: Callable[..., Any], no: Any) -> Callable[..., Any]:
        @functools.wraps(function)
        def asked(*args: Any, **kwargs: Any) -> Any:
            from_torchao = sys._getframe(1).f_globals.get("__name__", "").startswith("torchao.")
            return no if importing and from_torchao else function(*args, **kwargs)

        return asked

    torch.cuda.get_device_capability = except_to_torchao(torch.cuda.get_device_capability, (0, 0))
    torch.utils._triton.has_triton = except_to_torchao(torch.utils._triton.has_triton, False)  # type: ignore[assignment]
    try:
        yield
    finally:
        importing = False


def refuse(listener: socket.socket, reason: str) -> NoReturn:
    """Tell every job at once that there is no server, and why, instead of letting each find out for itself."""
    listener.listen(64)
    silence()
    while True:
        request = accepted(listener)
        if request is None:
            continue
        connection, _, descriptors = request
        decline(connection, descriptors, reason)


def decline(connection: socket.socket, descriptors: Sequence[int], reason: str) -> None:
    """Tell a job to start its program anew, and why."""
    with contextlib.suppress(OSError), connection:
        connection.sendall(REFUSED + reason.encode())
    for descriptor in descriptors:
        os.close(descriptor)


def prepare_loading() -> None:
    """Let transformers compile the patterns of weights' older names: a tenth of a second of the first model loaded."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("qwen2")


def forget_edited(program: Path, own: dict[str, tuple[int, int]]) -> None:
    """Let the program import our modules anew, if they are not what its own would be. own: `sources` when imported."""
    if program.resolve().parent == SCRIPTS and sources() == own:
        return
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(SCRIPTS)):
            del sys.modules[name]


def sources() -> dict[str, tuple[int, int]]:
    """When each of our files was written [ns], and its size [bytes]."""
    found = {}
    for path in SCRIPTS.rglob("*.py"):
        with contextlib.suppress(OSError):  # being written
            found[str(path)] = path.stat().st_mtime_ns, path.stat().st_size
    return found


def end_at_once(status: int) -> NoReturn:
    """End this process as Python does, but free no module: that would take a third of a small job's time."""
    threading._shutdown()  # type: ignore[attr-defined]  # threads are waited for, as multiprocessing's forks do it
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def check_forkable() -> None:
    """Raise InputError if the imports started CUDA or a thread of Python: no fork of this would do."""
    import ctypes

    import torch

    started = torch.cuda.is_initialized()
    with contextlib.suppress(OSError):  # no driver
        started |= ctypes.CDLL("libcuda.so.1").cuDeviceGetCount(ctypes.byref(ctypes.c_int())) != NOT_INITIALIZED
    if started or threading.active_count() > 1 + bool(os.environ.get(alive.VARIABLE)):  # alive.follow
        what = "CUDA" if started else "a thread"
        raise InputError(f"these started {what}, which does not outlive a fork; fix: hardware: {{preload: false}}")


def silence() -> None:
    """Let go of the log of the job that started the server."""
    with open(os.devnull, "r+") as nothing:
        for descriptor in (1, 2):
            os.dup2(nothing.fileno(), descriptor)


@dataclass
class Forked:
    """A program that runs. ended: readable once it has ended. caller: whom to tell. last: [s] when it has to end."""

    number: int
    ended: int
    caller: socket.socket
    last: float = math.inf


def serve(listener: socket.socket) -> list[str]:
    """Fork for every request, for good. Returns in a fork alone, with the arguments of the program that it is to be."""
    running: list[Forked] = []
    while True:
        callers = [each.caller for each in running if each.last == math.inf]
        watched: list[Any] = [listener, *callers, *(each.ended for each in running)]
        first = min((each.last for each in running), default=math.inf)
        patience = None if first == math.inf else max(0.0, first - time.monotonic())
        ready = select.select(watched, [], [], patience)[0]
        running = [each for each in running if watch(each, ready)]
        request = accepted(listener) if listener in ready else None
        if request is None:
            continue
        connection, data, descriptors = request
        try:
            program = os.fork()
        except OSError as error:  # no memory, or too many processes: the next one may find some
            decline(connection, descriptors, f"{ANEW} a fork failed ({error.strerror})")
            continue
        if program == 0:
            for each in running:
                each.caller.close()
                os.close(each.ended)
            connection.close()
            return take_over(json.loads(data), descriptors)
        running.append(Forked(program, os.pidfd_open(program), connection))
        for descriptor in descriptors:
            os.close(descriptor)


def accepted(listener: socket.socket) -> tuple[socket.socket, bytes, list[int]] | None:
    """A caller, what it asks for, and its files; None for somebody else, or one that is gone."""
    connection, _ = listener.accept()
    head, data = b"", b""
    descriptors: list[int] = []
    if peer_user(connection) == os.getuid():
        with contextlib.suppress(OSError):
            head, descriptors, _, _ = socket.recv_fds(connection, 4, 64)
            data = receive(connection, struct.unpack("!I", head)[0]) if len(head) == 4 else b""
    if data:
        return connection, data, descriptors
    connection.close()
    for descriptor in descriptors:
        os.close(descriptor)
    return None


def watch(program: Forked, ready: Sequence[Any]) -> bool:
    """End the program if its caller ended or asks for it; tell the caller how it ended. Whether it runs on."""
    if program.ended in ready:
        _, status = os.waitpid(program.number, 0)
        os.close(program.ended)
        with contextlib.suppress(OSError), program.caller:
            program.caller.sendall(struct.pack("!i", status))
        return False
    if program.caller in ready:
        os.kill(program.number, signal.SIGTERM)
        program.last = time.monotonic() + alive.GRACE
    elif time.monotonic() > program.last:
        os.kill(program.number, signal.SIGKILL)
        program.last = math.inf
    return True


def take_over(request: dict[str, Any], descriptors: list[int]) -> list[str]:
    """Take over the caller's files, folder, environment and number of threads; return the program and its arguments."""
    import ctypes

    import torch

    from offline import products

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: nobody would be left to pass on a signal
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for target, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, target)
        os.close(descriptor)
    limit = {name: os.environ[name] for name in (INSTRUCTIONS,) if name in os.environ}
    if dtype_of(request["command"]) == "bfloat16":
        limit = {}  # its own instructions are four times as fast, and others than were tried with
        products.SAME.clear()
    os.environ.clear()
    os.environ.update(request["environment"] | limit)
    os.chdir(request["folder"])
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads or os.environ.get("CUDA_VISIBLE_DEVICES"):
        torch.set_num_threads(int(threads or len(os.sched_getaffinity(0))))
    return request["command"]


def dtype_of(command: Sequence[str]) -> str:
    """The --dtype of a model's program; "" of another."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--dtype", default="")
    return str(parser.parse_known_args(list(command))[0].dtype)


if __name__ == "__main__":
    run(main)
