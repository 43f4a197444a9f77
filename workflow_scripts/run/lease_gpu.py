"""Wait for N free GPUs, lock them, and become the given program with only those GPUs visible.

    python workflow_scripts/run/lease_gpu.py --gpus 1 -- python workflow_scripts/train_adapter.py --base ...

Snakemake counts GPUs but never says which one a job gets (snakemake issue 281), so eight jobs would share the
first. Here every card has a lock file on its node; the kernel lock on it is inherited by the program through
exec() and ends with it, however it ends. A process that the program leaves behind holds no lock, and other users
do not ask here: so a card must also be idle (no compute process, little memory used) before it is given.
Nothing but the standard library, and nothing is written except the empty lock files.
"""

import argparse
import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, it finds the other rooms

from run.program import InputError, become, run

LOCK_DIR = "/tmp/lease_gpu"
IDLE_MIB = 1024  # a driver alone takes up to some hundred MiB a card
SHARED_SERVICES = ("nvidia-cuda-mps-server",)  # on every card of an MPS node, and no sign of work
POLL_SECONDS = 1.0
REPORT_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A card, or one MIG slice: what CUDA_VISIBLE_DEVICES calls it, its UUID, why it is not free (or ""), and the share
    of its memory that nobody uses.
    """

    name: str
    uuid: str
    busy: str = ""
    room: float = 1.0


@dataclasses.dataclass(frozen=True)
class Place:
    """What a program leases of a card: file descriptors that hold its locks, and whether others were there before."""

    locks: tuple[int, ...]
    shared: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, required=True, help="cards to lease; 0 runs the program with none visible")
    parser.add_argument("--share", type=int, default=1, help="programs on a card at a time, for small models (1)")
    parser.add_argument("--lock-dir", default=LOCK_DIR, help=f"a folder on this node, shared by all users ({LOCK_DIR})")
    parser.add_argument("--idle-mib", type=int, default=IDLE_MIB, help=f"[MiB] that an idle card may use ({IDLE_MIB})")
    parser.add_argument(
        "--pool",
        default=os.environ.get("LEASE_GPU_POOL"),
        help="pretend cards, as JSON or a JSON file (or $LEASE_GPU_POOL): see pretend_cards",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- program and its arguments")
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise InputError("lease_gpu: no program given; fix: lease_gpu.py --gpus 1 -- python program.py ...")
    if args.gpus < 0:
        raise InputError(f"lease_gpu: --gpus {args.gpus} is negative; fix: give 0 or more")
    if args.share < 1 or (args.share > 1 and args.gpus > 1):
        raise InputError(
            f"lease_gpu: --share {args.share} of {args.gpus} GPUs; fix: a part of one card, or --share 1 (whole cards)"
        )
    granted = lease(args.gpus, args.lock_dir, args.idle_mib, args.pool, args.share) if args.gpus else []
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.name for gpu in granted)
    # nvidia-smi numbers cards by bus; CUDA by default puts the fastest first.
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    become(command)


def lease(count: int, lock_dir: str, idle_mib: int, pool: str | None, share: int = 1) -> list[Gpu]:
    """Block until `count` cards, or a place on one that `share` programs use at a time, are locked; return them.

    The locks stay with this process and its exec().

    Raises InputError if the node, or the inherited CUDA_VISIBLE_DEVICES, has fewer cards than asked for.
    """
    started = reported = time.monotonic()
    inherited = os.environ.get("CUDA_VISIBLE_DEVICES")
    folder = make_lock_dir(lock_dir)
    while True:
        gpus = visible(cards(idle_mib, pool), inherited)
        if len(gpus) < count:
            among = "on this node" if inherited is None else f"in CUDA_VISIBLE_DEVICES={inherited}"
            raise InputError(
                f"lease_gpu: {count} GPUs asked for, {len(gpus)} {among}; fix: lower hardware.gpus, "
                "or unset CUDA_VISIBLE_DEVICES, or ask the scheduler for more GPUs"
            )
        places = lock_place(gpus, share, folder) if share > 1 else lock_idle(gpus, count, folder)
        if len(places) == count:
            # The first look was taken before the locks: a card may have become busy in between.
            now = {gpu.uuid: gpu for gpu in visible(cards(idle_mib, pool), inherited)}
            if all(uuid in now and (place.shared or not now[uuid].busy) for uuid, place in places.items()):
                waited = round(time.monotonic() - started)
                granted = [gpu for gpu in gpus if gpu.uuid in places]
                for gpu in granted:
                    for lock in places[gpu.uuid].locks:
                        os.set_inheritable(lock, True)
                    say(f"GPU {gpu.name} ({gpu.uuid}) granted after {waited} s to pid {os.getpid()}")
                return granted
        # All or nothing, with an uneven pause: two requests for two cards cannot block each other for good.
        for place in places.values():
            release(place.locks)
        if time.monotonic() - reported >= REPORT_SECONDS:
            reported = time.monotonic()
            waited = round(reported - started)
            reasons = "; ".join(f"GPU {gpu.name}: {reason(gpu, share)}" for gpu in gpus)
            say(f"pid {os.getpid()} has waited {waited} s for {count} of {len(gpus)} GPUs ({reasons})")
        time.sleep(POLL_SECONDS * random.uniform(0.5, 1.0))


def reason(gpu: Gpu, share: int) -> str:
    """Why nobody gets the card, or a place on it."""
    full = share > 1 and gpu.room < 1 / share
    return f"{gpu.room:.0%} of its memory free, 1 of {share} places needs more" if full else gpu.busy or "leased"


def lock_idle(gpus: Sequence[Gpu], count: int, folder: Path) -> dict[str, Place]:
    """Lock up to `count` of the idle cards without waiting; by uuid."""
    places: dict[str, Place] = {}
    for gpu in gpus:
        if len(places) < count and not gpu.busy:
            lock = try_lock(lock_file(folder, gpu))
            if lock is not None:
                places[gpu.uuid] = Place((lock,))
    return places


def lock_place(gpus: Sequence[Gpu], share: int, folder: Path) -> dict[str, Place]:
    """Lock one of the `share` places of a card without waiting, on the card with the fewest taken; by uuid.

    Who shares a card holds its lock together with the others, so that nobody gets it whole. Only the first of them can
    tell whether the card is idle: later, the processes on it are taken to be theirs, and a place is free only once they
    leave a place's share of the memory: twelve that fit while they train do not all fit while they start.
    """
    for number in range(share):
        for gpu in gpus:
            card = try_lock(lock_file(folder, gpu), fcntl.LOCK_SH)
            if card is None:
                continue
            # looked at together with others who look, so that who waits is not taken for one who is there
            others = [
                try_lock(lock_file(folder, gpu, other), fcntl.LOCK_SH) for other in range(share) if other != number
            ]
            release([lock for lock in others if lock is not None])
            shared = None in others
            free = gpu.room >= 1 / share if shared else not gpu.busy
            own = try_lock(lock_file(folder, gpu, number)) if free else None
            if own is not None:
                return {gpu.uuid: Place((card, own), shared)}
            release([card])
    return {}


def lock_file(folder: Path, gpu: Gpu, place: int | None = None) -> Path:
    """The lock file of a card, or of a place on it."""
    return folder / f"{gpu.uuid.replace('/', '_')}{'' if place is None else f'.{place}'}.lock"


def release(locks: Sequence[int]) -> None:
    """Close the file descriptors that hold locks."""
    for lock in locks:
        os.close(lock)


def try_lock(path: Path, how: int = fcntl.LOCK_EX) -> int | None:
    """A file descriptor that holds the kernel lock on `path`, or None if another process has it.

    how: LOCK_EX, or LOCK_SH for a lock that several may hold.

    The file is never removed: two processes could then hold "the" lock on two files of one name.
    """
    while True:
        try:
            # Reading is enough for flock, and O_CREAT on another user's file in a sticky folder is refused.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            break
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError), no_umask():
                os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644))
        except OSError as error:
            raise InputError(f"{path}: cannot open ({error.strerror}); fix: give another --lock-dir") from None
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise InputError(f"{path}: cannot lock ({error.strerror}); fix: give a --lock-dir on a local disk") from None
    return descriptor


def make_lock_dir(lock_dir: str) -> Path:
    """The folder of the lock files, made for all users (mode 1777) if it is missing."""
    folder = Path(lock_dir)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with no_umask():
            folder.mkdir(mode=0o1777, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot make it ({error.strerror}); fix: give another --lock-dir") from None
    mode = folder.stat()
    if mode.st_uid != os.getuid() and not mode.st_mode & stat.S_IWOTH:
        raise InputError(
            f"{folder}: belongs to another user and is closed to you; fix: ask its owner for chmod 1777, "
            "or give another --lock-dir that all users of the node share"
        )
    return folder


@contextlib.contextmanager
def no_umask() -> Iterator[None]:
    """Give new files exactly the mode asked for, from their first moment: other users may be about to open them."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def visible(gpus: Sequence[Gpu], inherited: str | None) -> list[Gpu]:
    """The cards that an inherited CUDA_VISIBLE_DEVICES leaves, in its order: numbers, (short) UUIDs or MIG UUIDs.

    A MIG slice is taken as it is named; its lock counts, its memory is not looked at. Raises InputError for an
    entry that names no card.
    """
    if inherited is None:
        return list(gpus)
    chosen: list[Gpu] = []
    for entry in [part.strip() for part in inherited.split(",") if part.strip()]:
        if entry in ("-1", "NoDevFiles"):
            break  # how CUDA ends the list
        if entry.startswith("MIG-"):
            matches = [Gpu(entry, entry)]
        elif entry.isdigit():
            matches = [gpu for gpu in gpus if gpu.name == str(int(entry))]
        else:
            matches = [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
        if len(matches) != 1:
            known = ", ".join(f"{gpu.name} ({gpu.uuid})" for gpu in gpus) or "none"
            raise InputError(
                f"CUDA_VISIBLE_DEVICES={inherited}: {entry!r} names {len(matches)} cards; fix: use one of {known}"
            )
        if matches[0] not in chosen:
            chosen.append(matches[0])
    return chosen


def cards(idle_mib: int, pool: str | None) -> list[Gpu]:
    """The node's cards now, in bus order, each with the reason why it is not free, if there is one."""
    if pool is not None:
        return pretend_cards(pool)
    memory = nvidia_smi("--query-gpu=index,uuid,memory.total,memory.used")
    processes: dict[str, list[str]] = {}
    for uuid, pid, name in nvidia_smi("--query-compute-apps=gpu_uuid,pid,process_name"):
        if not name.endswith(SHARED_SERVICES):
            processes.setdefault(uuid, []).append(pid)
    gpus = []
    for index, uuid, total, used in memory:
        busy = ""
        if uuid in processes:
            busy = "used by pid " + " ".join(processes[uuid])
        elif used.isdigit() and int(used) > idle_mib:
            busy = f"{used} MiB used by a process that is not visible here"
        known = used.isdigit() and total.isdigit()
        gpus.append(Gpu(index, uuid, busy, 1 - int(used) / int(total) if known else 1.0))
    return gpus


def nvidia_smi(query: str) -> list[list[str]]:
    """Rows of one nvidia-smi query. Raises InputError with the fix if there is no driver or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        raise InputError(
            "nvidia-smi: not found, so no GPU can be leased; fix: run on a node with the NVIDIA driver, "
            "or set hardware.gpus: 0 to run on the CPU"
        )
    command = [program, query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"nvidia-smi: does not answer ({error}); fix: check the driver (nvidia-smi, dmesg)") from None
    if done.returncode != 0:
        text = " ".join((done.stdout + done.stderr).split())
        raise InputError(f"nvidia-smi: failed ({text[:200]}); fix: check the driver (nvidia-smi, dmesg)")
    columns = query.count(",")
    return [[cell.strip() for cell in line.split(",", columns)] for line in done.stdout.splitlines() if "," in line]


def pretend_cards(pool: str) -> list[Gpu]:
    """Cards that need no driver, for tests and rehearsals; read anew at every look.

    pool: JSON or a JSON file, {"gpus": ["GPU-a", "GPU-b"], "users": "<folder>", "room": {"GPU-a": 0.1}}; a card is busy
    while the process whose id stands in <folder>/<uuid> lives; room: the share of its memory that is free. Both may be
    left out.
    """
    try:
        value = json.loads(pool if pool.lstrip().startswith("{") else Path(pool).read_text(encoding="utf-8"))
        uuids, users, room = [str(uuid) for uuid in value["gpus"]], value.get("users"), value.get("room", {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'--pool {pool}: not a pool of pretend GPUs ({error!r}); fix: {{"gpus": ["GPU-a", "GPU-b"]}}'
        ) from None
    gpus = []
    for index, uuid in enumerate(uuids):
        pid = ""
        if users:
            with contextlib.suppress(FileNotFoundError):
                pid = (Path(users) / uuid).read_text(encoding="utf-8").strip()
        busy = f"used by pid {pid}" if pid and Path(f"/proc/{pid}").exists() else ""
        gpus.append(Gpu(str(index), uuid, busy, room.get(uuid, 1.0)))
    return gpus


def say(text: str) -> None:
    """One line on stderr with the time, in one write, so that lines of jobs that share a log do not mix."""
    sys.stderr.write(f"lease_gpu: {text} at {time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    run(main)
