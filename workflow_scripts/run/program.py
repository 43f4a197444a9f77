"""How a program runs: errors as one line with their fix, signals as exceptions that close what is open."""

import errno
import gc
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from run import alive

FIXES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "make it writable",
    errno.EACCES: "let its owner give you the permission (chmod)",
    errno.EPERM: "let its owner give you the permission (chmod)",
}
# What a launcher (torchrun, mpirun, accelerate) sets for the processes of a training that is spread over several.
# Nothing here is: a program that inherits it would wait for others that never come.
SPREAD = re.compile(
    r"(WORLD_SIZE|RANK|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|ROLE_RANK|MASTER_ADDR|MASTER_PORT|PMI_SIZE|PMI_RANK)$"
    r"|(TORCHELASTIC|ACCELERATE|OMPI_COMM_WORLD|MV2_COMM_WORLD)_"
)


SMALLER = (
    "lower hardware.micro_batch_tokens (where transformers completes, hardware.max_sequences), leave out what needs "
    "most (ablate: null, probe: {distance: 0}), or take a larger card"
)


class InputError(Exception):
    """Bad input. The message names the file, the line or row, and the fix."""


def run(main: Callable[[], None]) -> None:
    """Call main(); print an InputError, a full disk or a full card as one line and exit with status 1, no traceback.

    SIGTERM, SIGHUP and the death of the Snakemake that called the program end it by an exception, so that open blocks
    are closed: temporary files are removed, and GPU memory and node-local copies with them.
    """
    for name in [name for name in os.environ if SPREAD.match(name)]:
        del os.environ[name]
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # under nohup SIGHUP is ignored, and stays so
            signal.signal(number, leave)
    alive.follow()
    gc.set_threshold(100_000, 50, 50)  # by itself it looks for garbage during a quarter of the time that imports take
    try:
        main()
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in FIXES:
            raise
        where = f"{error.filename}: " if error.filename else ""
        fix = f"{FIXES[error.errno]}, then give the same command again"
        print(f"error: {where}{error.strerror}; fix: {fix}", file=sys.stderr)
        raise SystemExit(1) from None
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        said = str(error).partition("\n")[0]
        print(f"error: out of GPU memory ({printable(said)}); fix: {SMALLER}", file=sys.stderr)
        raise SystemExit(1) from None


def leave(number: int, frame: Any = None) -> None:
    """A signal handler: leave by an exception, with the status that a shell gives for the signal."""
    raise SystemExit(128 + number)


def become(command: list[str]) -> NoReturn:
    """Replace this process by the command. Raises InputError if it cannot be run."""
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        raise InputError(f"{command[0]}: cannot run it ({error.strerror}); fix: check the program after --") from None


def printable(text: str) -> str:
    """The text without control characters, which may come from a damaged file and would act on a terminal."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text
    )
