"""Room on a disk or in memory, and whether an error means that there is none."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
IN_MEMORY = ("tmpfs", "ramfs")
CGROUPS = Path("/sys/fs/cgroup")
# [limit, usage, what of it the kernel drops first (a line of memory.stat)], cgroup v2 and v1
FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_space(folder: str | Path) -> int:
    """Bytes that can still be written in a folder (not yet existing ones count as the nearest that exists).

    A folder in memory, such as /dev/shm, is no larger than the memory that the machine and the cgroup leave: who
    writes more there is not refused but killed.
    """
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return min([free, *memory_left()]) if file_system(folder) in IN_MEMORY else free


def file_system(folder: Path) -> str:
    """The type of the file system that a folder lies on, as the kernel calls it; "" where it does not say."""
    import psutil

    mounts = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    folder = folder.resolve()
    return next((mounts[place] for place in (folder, *folder.parents) if place in mounts), "")


def memory_left(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Bytes that the machine, this process's cgroup and each of those above it leave it, one after the other."""
    import psutil

    yield psutil.virtual_memory().available
    for line in own.read_text().splitlines() if own.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        for root in (cgroups, cgroups / "memory", cgroups / "unified"):
            place = root / path.strip("/")
            # in a container the path may be the host's, and its own group the mount itself
            for group in (place, *place.parents):
                yield from group_left(group)
                if group == root:
                    break


def group_left(group: Path) -> Iterator[int]:
    """Bytes that the limit of a cgroup leaves, if it has one."""
    for limit, usage, dropped in FILES:
        try:
            text = (group / limit).read_text().strip()
            if text != "max":
                stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                used = int((group / usage).read_text()) - int(stat.get(dropped, 0))
                yield max(0, int(text) - used)
        except OSError:
            continue


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk, or a quota on it, is full. Libraries in other languages say so in text."""
    text = str(error)
    return (
        getattr(error, "errno", None) in FULL
        or os.strerror(errno.ENOSPC) in text
        or os.strerror(errno.EDQUOT) in text
        or "os error 28" in text
    )
