"""The record of a run: host, card, seconds, memory, versions, commit."""

import contextlib
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def run_record(started: float, **extra: Any) -> dict[str, Any]:
    """What run.json holds: which program ran, where, on what and for how long. Never an input of anything.

    started: time.time() at the program's start. Seconds are wall seconds; peak memory is in MiB.
    """
    import resource
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in ("torch", "transformers", "peft", "trl", "vllm", "numpy", "snakemake"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    record: dict[str, Any] = {
        "program": Path(sys.argv[0]).stem,
        "host": platform.node(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 2),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "versions": versions,
        "git_commit": git_commit(),
        "gpu": None,
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        record["gpu"] = torch.cuda.get_device_name()
        record["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated() // 2**20
    return record | extra


def git_commit() -> str | None:
    """The commit of the workflow's own checkout, with `-dirty` if it has changes, or None outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
