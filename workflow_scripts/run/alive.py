"""Who is at work in this folder: a file for every Snakemake, locked by the kernel for as long as that one lives.

Snakemake's own lock outlives a SIGKILL of Snakemake, and so do its jobs, which would go on writing under the next one.
A kernel lock ends with its process, however that ends. So a job's program ends when its Snakemake has (`follow`), and
the next Snakemake removes the lock that a dead one left (`announce`), after waiting for what still runs of it.
"""

import atexit
import contextlib
import fcntl
import os
import platform
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO

VARIABLE = "SNAKEMAKE_ALIVE"  # for the jobs: the path of their Snakemake's file
GRACE = 60.0  # seconds that a program has to clean up


def announce(snakemake: Path = Path(".snakemake")) -> None:
    """Hold a file in `snakemake`/alive until this process ends, and remove what dead processes left locked there.

    Where that cannot be done (a read-only folder, a file system without locks), Snakemake's own lock is all there is.
    """
    mend_sigterm()
    os.environ.pop(VARIABLE, None)
    folder = snakemake / "alive"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        clear(folder, snakemake / "locks")
        hold(folder)


def mend_sigterm() -> None:
    """Let Snakemake take SIGTERM at any moment.

    Its handler waits for a lock that the interrupted main thread itself may hold, as it does while it chooses jobs and
    records finished ones: then Snakemake 9.27 hangs for good. In a thread of its own the handler can wait.
    """
    from snakemake.scheduling.job_scheduler import JobScheduler

    if not hasattr(JobScheduler, "exit_at_once"):
        handle = JobScheduler.exit_at_once = JobScheduler.exit_gracefully
        JobScheduler.exit_gracefully = lambda self, *signalled: threading.Thread(target=handle, args=(self,)).start()


def hold(folder: Path) -> None:
    """Make this process's file. It is renamed when it is locked: nobody ever sees a living process's file unlocked."""
    name = f"{platform.node()}.{os.getpid()}"
    descriptor = os.open(folder / f"new.{name}", os.O_RDWR | os.O_CREAT, 0o644)  # never closed: it ends with us
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.rename(folder / f"new.{name}", folder / name)
    os.environ[VARIABLE] = str((folder / name).absolute())
    atexit.register((folder / name).unlink, missing_ok=True)


def clear(folder: Path, locks: Path) -> None:
    """Remove the files of dead processes and, if none lives, Snakemake's locks.

    Whether a process of another machine lives, its lock may not tell here: then Snakemake's locks are left alone.
    """
    files = [file for file in folder.iterdir() if not file.name.startswith("new.")]
    dead = [file for file in files if is_here(file) and removed(file)]
    if dead and len(dead) == len(files) and locks.is_dir() and any(locks.iterdir()):
        shutil.rmtree(locks)
        print("removed the lock of a Snakemake that was killed in this folder", file=sys.stderr)


def is_here(file: Path) -> bool:
    """Whether it is the file of a Snakemake on this machine: another's locks may not be seen here."""
    return file.name.startswith(f"{platform.node()}.")


def is_left(opened: IO[str]) -> bool:
    """Whether the Snakemake whose file this is has ended: nobody holds the lock alone. Then hold it as its jobs do."""
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # it is held, or there are no locks
        return False
    return True


def is_killed(file: Path) -> bool:
    """Whether the Snakemake of that file is dead. Not known of another machine's."""
    if not is_here(file):
        return False
    try:
        with file.open() as opened:
            return is_left(opened)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def removed(file: Path) -> bool:
    """Whether the file's process is dead; then wait for its jobs, which hold shared locks, and remove the file."""
    with contextlib.suppress(FileNotFoundError), file.open("r+") as opened:
        if not is_left(opened):
            return False
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for the jobs of a Snakemake that was killed in this folder to end", file=sys.stderr)
            fcntl.flock(opened, fcntl.LOCK_EX)
        file.unlink()
        return True
    return False  # another Snakemake that starts right now was faster


def follow() -> None:
    """End this program by SIGTERM as soon as the Snakemake that it is a job of is dead. Elsewhere, do nothing."""
    if path := os.environ.get(VARIABLE):
        threading.Thread(target=end_after, args=(path,), daemon=True).start()


def end_after(path: str) -> None:
    """Wait until nobody holds the file's lock, then end this process, holding a shared lock until it has ended."""
    try:
        file = open(path)  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        pass  # it is dead already
    except OSError:
        return
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)  # it may be waiting
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)  # the program is stuck in foreign code, or deaf
