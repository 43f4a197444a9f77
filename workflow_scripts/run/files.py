"""Files that are either whole or absent: hashing, atomic writing, what killed processes left."""

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from run.program import InputError

LEFTOVER = re.compile(r"\.\d*@(?P<host>.+)\.[a-z0-9_]+\.partial")  # the end of a temporary folder's name
LOCK = ".lock"  # in a temporary folder: held by the process that writes there, for as long as that one lives
ROOM = 2**20  # bytes that are left on a disk that is not full


def sha256_of(path: str | Path) -> str:
    """Hex sha256 of a file, or of a folder: the hash over its sorted `relative name, file hash` lines.

    Hidden files are left out, because Snakemake and the Hub client put time stamps of their own there.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(
            p.relative_to(path).as_posix()
            for p in path.rglob("*")
            if p.is_file() and not any(part.startswith(".") for part in p.relative_to(path).parts)
        )
        lines = "".join(f"{name}\t{sha256_of(path / name)}\n" for name in files)
        return hashlib.sha256(lines.encode()).hexdigest()
    if not path.is_file():
        raise InputError(f"{path}: no such file; fix: make it, or correct the path")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical(value: Any) -> str:
    """Compact JSON with sorted keys: equal values give equal text, whatever the order they were written in."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@contextlib.contextmanager
def partial(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` (not yet existing); rename it onto `path` only if the block succeeds.

    The caller creates it as a file or as a folder. After an error it is removed, and `path` stays as it was. Its files
    get the mode that open() gives, whoever wrote them (some writers make private ones).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path.parent, f".{path.name}") as holder:
        temporary = holder / path.name
        try:
            yield temporary
            open_to_others(temporary, (holder / LOCK).stat().st_mode)
            if path.is_dir() and not path.is_symlink():
                # Snakemake creates nothing here, but an earlier attempt may have left a folder.
                shutil.rmtree(path)
            os.replace(temporary, path)
        except Exception as error:
            # Writers in other languages say it in words of their own.
            if isinstance(error, InputError) or shutil.disk_usage(holder).free > ROOM:
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


@contextlib.contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield a new folder in `parent`, its name beginning with `name`, and remove it at the end.

    What killed processes of this machine left beside it is removed, too: a folder whose lock nobody holds. The kernel
    gives a lock back however its process ends, and knows it across containers, where a process's number says nothing.
    """
    remove_leftovers(parent)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}.@{platform.node()}.", suffix=".partial", dir=parent))
        with contextlib.suppress(FileNotFoundError):  # before it was locked, another process took it for a leftover
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            with contextlib.suppress(OSError):  # a file system without locks: then nothing there is ever a leftover
                fcntl.flock(lock, fcntl.LOCK_EX)
            if is_of(lock, folder):
                break
            os.close(lock)
    try:
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def remove(folder: str | Path) -> None:
    """Remove a folder that others read: whenever this process is killed, all of it is there or nothing."""
    folder = Path(folder)
    with temporary_folder(folder.parent, f".{folder.name}") as holder:
        os.replace(folder, holder / folder.name)


@functools.cache
def remove_leftovers(parent: Path) -> None:
    """Remove what processes of this machine had begun in `parent` when they were killed; once a process looks.

    Another machine's are left alone: on some shared file systems a lock is not seen from here.
    """
    for entry in os.scandir(parent):
        made = LEFTOVER.search(entry.name)
        if made and made["host"] == platform.node():
            remove_unlocked(Path(entry.path))


def remove_unlocked(folder: Path) -> None:
    """Remove the temporary folder, unless the process that made it lives."""
    try:
        # Made if it is not there: whoever has just made the folder would take its lock while we remove it.
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return  # another process was faster, or it is another user's
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_of(lock, folder):
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        pass  # it is held, or cannot be asked
    finally:
        os.close(lock)


def is_of(lock: int, folder: Path) -> bool:
    """Whether the open lock is the folder's still, and not one that was removed while this process waited for it."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock), os.stat(folder / LOCK))
    return False


def open_to_others(path: Path, mode: int) -> None:
    """Give the file, or every file and folder in the folder, the permissions of `mode`, which those of open() are."""
    granted = mode & 0o666
    for each in [path, *path.rglob("*")] if path.is_dir() else [path]:
        kind = each.lstat().st_mode
        # a folder can be entered by whom it can be read by
        wanted = granted | (granted & 0o444) >> 2 if stat.S_ISDIR(kind) else granted
        if not stat.S_ISLNK(kind) and stat.S_IMODE(kind) & 0o777 != wanted:
            each.chmod(stat.S_IMODE(kind) & ~0o777 | wanted)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` with sorted keys, atomically. NaN is refused: it is not JSON and never a result."""
    with partial(path) as temporary:
        temporary.write_text(
            json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one canonical JSON object per line, atomically."""
    with partial(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(canonical(row) + "\n")


def write_table(path: str | Path, columns: dict[str, list[Any]], types: dict[str, Any]) -> None:
    """Write a parquet file whose bytes depend on the rows alone (and pyarrow's version), atomically.

    types: column -> Arrow type by name; [name] is a list of them.
    """
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        [
            (name, pyarrow.list_(pyarrow.type_for_alias(kind[0])) if isinstance(kind, list) else kind)
            for name, kind in types.items()
        ]
    )
    with partial(path) as temporary:
        # With a checksum per page, a flipped bit in a text is damage and not another text.
        pyarrow.parquet.write_table(
            pyarrow.table(columns, schema=schema), temporary, compression="zstd", write_page_checksum=True
        )
