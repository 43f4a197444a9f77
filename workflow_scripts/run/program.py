"""How a program runs: errors as one line with their fix, signals as exceptions that close what is open."""

import errno
import signal
import sys
from collections.abc import Callable
from typing import Any

from run import alive

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class InputError(Exception):
    """Bad input. The message names the file, the line or row, and the fix."""


def run(main: Callable[[], None]) -> None:
    """Call main(); print an InputError, or a full disk, as one line and exit with status 1, without a traceback.

    SIGTERM, SIGHUP and the death of the Snakemake that called the program end it by an exception, so that open blocks
    are closed: temporary files are removed, and GPU memory and node-local copies with them.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # under nohup SIGHUP is ignored, and stays so
            signal.signal(number, leave)
    alive.follow()
    try:
        main()
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        where = f"{error.filename}: " if error.filename else ""
        fix = "make it writable" if error.errno == errno.EROFS else "make room"
        print(f"error: {where}{error.strerror}; fix: {fix}, then give the same command again", file=sys.stderr)
        raise SystemExit(1) from None


def leave(number: int, frame: Any = None) -> None:
    """A signal handler: leave by an exception, with the status that a shell gives for the signal."""
    raise SystemExit(128 + number)


def printable(text: str) -> str:
    """The text without control characters, which may come from a damaged file and would act on a terminal."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text
    )
