"""Files that are either whole or absent: hashing, atomic writing, what killed processes left."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from run.program import InputError

LEFTOVER = re.compile(r"\.(?P<pid>\d+)@(?P<host>.+)\.[a-z0-9_]+\.partial")  # the end of a name that partial gives
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

    The caller creates it as a file or as a folder. After an error it is removed, and `path` stays as it was. What
    killed processes left beside it is removed, too.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.{maker()}.", suffix=".partial", dir=path.parent))
    temporary = holder / path.name
    try:
        yield temporary
        if path.is_dir() and not path.is_symlink():
            # Snakemake creates nothing here, but an earlier attempt may have left a folder.
            shutil.rmtree(path)
        os.replace(temporary, path)
    except Exception as error:
        # Writers in other languages say it in words of their own.
        if isinstance(error, InputError) or shutil.disk_usage(holder).free > ROOM:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def maker() -> str:
    """This process, as the names of its temporary files say it."""
    return f"{os.getpid()}@{platform.node()}"


@functools.cache
def remove_leftovers(folder: Path) -> None:
    """Remove what processes of this machine had begun in `folder` when they were killed; once a process looks."""
    for entry in os.scandir(folder):
        made = LEFTOVER.search(entry.name)
        if made and made["host"] == platform.node() and not is_running(int(made["pid"])):
            shutil.rmtree(entry.path, ignore_errors=True)


def is_running(pid: int) -> bool:
    """Whether a process of this machine has that id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    return True


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` with sorted keys, atomically. NaN is refused: it is not JSON and never a result."""
    with partial(path) as temporary:
        temporary.write_text(
            json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one canonical JSON object a line, atomically."""
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
        # With a checksum a page, a flipped bit in a text is damage and not another text.
        pyarrow.parquet.write_table(
            pyarrow.table(columns, schema=schema), temporary, compression="zstd", write_page_checksum=True
        )
