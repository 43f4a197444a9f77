"""Compiled code is kept on the node for a study's later jobs, in one folder of its own."""

import hashlib
import os
import stat
from pathlib import Path

NODE = Path("/tmp")  # not $TMPDIR: a scheduler may empty that after every job
# Where vLLM, torch.compile and Triton keep what they compiled. By themselves they use the home folder, which many
# nodes may share over a network, and $TMPDIR.
PLACES = {"VLLM_CACHE_ROOT": "vllm", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}


def keep_compiled(base: str | Path) -> None:
    """Give the compilers of this process a node-local folder, the study's own, unless the user chose one.

    Jobs that start together may all compile: each writes a file under another name and then renames it, so that none
    reads half of one. What is loaded from there is run, so a folder that another user could write to is not used.
    """
    study = hashlib.sha256(str(Path(base).absolute()).encode()).hexdigest()[:12]
    private = NODE / f"compiled-{os.getuid()}"
    if is_private(private):
        for variable, name in PLACES.items():
            os.environ.setdefault(variable, str(private / study / name))


def is_private(folder: Path) -> bool:
    """Whether the folder, made if it is not there, is this user's, and nobody else may write to it."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
