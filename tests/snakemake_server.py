"""Snakemake without its start: a process that has imported it once, and forks itself for every call.

More than half of a dry run is imports of Snakemake and of libraries, and collections of garbage. A call runs the same
program in a process of its own, with the caller's folder and environment, and imports the workflow's own modules anew.
The forks of a server share the seed of `hash()`: so what is made, and what is planned, comes from different servers.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

SNAKEMAKE = Path(sys.executable).with_name("snakemake")
IMPORTED = [
    "snakemake.cli",
    "snakemake.executors.dryrun",
    "snakemake.scheduling.job_scheduler",
    "boto3",
    "docutils.core",
    "jinja2",
    "jsonschema",
    "numpy",
    "pandas",
    "PIL.Image",
    "pydantic",
    "requests",
    "scipy.stats",
    "smart_open",
    "yaml",
    "yte",
]


def call(program: str | Path, arguments: list[str], folder: Path, environment: dict[str, str]):
    """subprocess.run() of a Python program, which may be SNAKEMAKE, with its output as text."""
    with tempfile.TemporaryDirectory() as place:
        said = [f"{place}/stdout", f"{place}/stderr"]
        command = [str(program), *arguments]
        process = server("plans" if "-n" in arguments else "makes")
        request = {"command": command, "folder": str(folder), "environment": environment, "said": said}
        print(json.dumps(request), file=process.stdin, flush=True)
        code = os.waitstatus_to_exitcode(int(process.stdout.readline()))
        return subprocess.CompletedProcess(command, code, *(Path(path).read_text() for path in said))


@functools.cache
def server(does: str) -> subprocess.Popen:
    """This test process's server that plans, or makes. It ends when its input does."""
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # others would not outlive a fork
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, __file__], env=os.environ | one_thread, **pipes)


def serve() -> dict | None:
    """Fork for every request until there are no more. In a fork, the request; in the server, None."""
    for name in IMPORTED:
        with contextlib.suppress(ImportError):  # a name that is gone only costs time
            importlib.import_module(name)
    from snakemake.executors import touch

    touch.Executor.SLEEPING_TIME = 0  # s per job; without the wait, time stamps still tell the order
    gc.freeze()
    gc.disable()
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if child == 0:
            return json.loads(line)
        print(os.waitpid(child, 0)[1], flush=True)
    return None


def become(request: dict) -> None:
    """Be the program, to the end of this process."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for target, path in enumerate([os.devnull, *request["said"]]):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, target)
        os.close(descriptor)
    sys.argv[:] = request["command"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    status = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        status = ended.code or 0
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__" and (request := serve()):
    become(request)
