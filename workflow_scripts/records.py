"""Files that are either whole or absent: hashing, atomic writing, clear errors, the record of a run."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import re
import reprlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import alive

LEFTOVER = re.compile(r"\.(?P<pid>\d+)@(?P<host>.+)\.[a-z0-9_]+\.partial")  # the end of a name that partial gives
ROOM = 2**20  # bytes that are left on a disk that is not full
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
AGAIN = "delete it and run again"  # the fix for a damaged file that the workflow makes


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


def read_text(path: str | Path, fix: str = AGAIN) -> str:
    """The text of a file. Raises InputError if it is missing, cannot be read (a folder, say) or is not UTF-8."""
    try:
        # newline="": as it stands, a CSV field may hold any kind of line end
        with Path(path).open(encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; fix: make it, or correct the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fix: {fix}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); fix: {fix}") from None


def read_json(path: str | Path, kind: type | None = None) -> Any:
    """The value. Raises InputError with the line if it is no JSON, or it is not of the kind (dict, list)."""
    value = parse_json(read_text(path), str(path), AGAIN)
    if kind is not None and not isinstance(value, kind):
        raise InputError(f"{path}: a JSON {type(value).__name__}, not a {kind.__name__}; fix: {AGAIN}")
    return value


def parse_json(text: str, where: str, fix: str, line: int = 0) -> Any:
    """The value of a JSON text that a file has at `line` (0: it is the whole file). Raises InputError naming the line.

    NaN and infinity are refused as in write_json. So is half a character (a lone surrogate), which JSON can spell: no
    tokenizer and no file takes it.
    """
    try:
        value = json.loads(text, parse_constant=no_number)
        # only an escape can spell half a character
        if "\\u" in text:
            canonical(value).encode()
        return value
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: line {line or error.lineno}: not JSON ({error.msg}); fix: {fix}") from None
    except (ValueError, RecursionError) as error:
        # also a number of 5,000 digits, or brackets a thousand deep
        place = f"line {line}: " if line else ""
        raise InputError(f"{where}: {place}not JSON ({str(error).splitlines()[0]}); fix: {fix}") from None


def no_number(name: str) -> None:
    """Refuse what Python reads and JSON does not have."""
    raise ValueError(f"{name} is no number")


def read_yaml(path: str | Path) -> Any:
    """The value. Raises InputError with the line if it is no plain YAML, or has a key twice (YAML takes the last)."""
    import yaml

    fix = "correct that line"
    try:
        value = yaml.safe_load(text := read_text(path, fix))
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise InputError(f"{path}: {place}not YAML ({error.problem}); fix: {fix}") from None
    except InputError:
        raise
    except Exception as error:  # of a dozen types: `!!int x`, `!!timestamp x`, a control character, a thousand brackets
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())[:200]}); fix: {fix}") from None
    for line, key in duplicate_keys(yaml.compose(text, Loader=yaml.SafeLoader)):
        raise InputError(f"{path}: line {line}: {key} is there twice; fix: rename or delete one")
    return value


def shown(value: Any) -> str:
    """repr() in a hundred characters: an alias in YAML can stand for more than memory holds."""
    return reprlib.repr(value)[:100]


def duplicate_keys(root: Any) -> Iterator[tuple[int, str]]:
    """(line, key) of every key that a mapping of a YAML node tree has twice."""
    todo, met = [root], set()
    while todo:
        node = todo.pop()
        if node is None or id(node) in met:  # an alias is the very node it stands for, which may hold itself
            continue
        met.add(id(node))
        if node.id == "mapping":
            seen: set[str] = set()
            for key, value in node.value:
                if str(key.value) in seen:
                    yield key.start_mark.line + 1, str(key.value)
                seen.add(str(key.value))
                todo.append(value)
        elif node.id == "sequence":
            todo.extend(node.value)


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """One object a line. Raises InputError naming the line that is not a JSON object."""
    rows = []
    # not splitlines(), which would also split at the line separators that a text may contain
    lines = read_text(path, "convert the file to UTF-8").split("\n")
    for number, line in enumerate(lines if lines[-1] else lines[:-1], 1):
        row = parse_json(line, str(path), "one JSON object a line", number)
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number}: not a JSON object; fix: one JSON object a line")
        rows.append(row)
    return rows


def read_parquet(path: str | Path, columns: Mapping[str, type]) -> list[dict[str, Any]]:
    """The rows of a parquet file with these columns, every value of its type (str, int, float, bool) and none empty.

    Raises InputError naming the row if that does not hold, or if the file is missing or damaged. Our own tables carry a
    checksum a page, so a flipped bit in the data is damage, too.
    """
    import pyarrow
    import pyarrow.parquet

    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; fix: make it, or correct the path")
    try:
        # Not read_table, which imports pandas: a study has many small tables.
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            if missing := [name for name in columns if name not in file.schema_arrow.names]:
                raise InputError(f"{path}: no column {', '.join(missing)}; fix: {AGAIN}")
            rows = file.read(columns=list(columns)).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a whole parquet file ({reason}); fix: {AGAIN}") from None
    for number, row in enumerate(rows, 1):
        for name, kind in columns.items():
            if type(row[name]) is not kind:
                what = "empty" if row[name] is None else f"a {type(row[name]).__name__}, not a {kind.__name__}"
                raise InputError(f"{path}: row {number}: {name} is {what}; fix: {AGAIN}")
    return rows


def check_once(path: str | Path, rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Raise InputError if two rows have the same values under these names, which tell the rows of a table apart."""
    seen = set()
    for number, row in enumerate(rows, 1):
        key = tuple(row[name] for name in names)
        if key in seen:
            raise InputError(f"{path}: row {number}: {', '.join(map(str, key))} is there twice; fix: {AGAIN}")
        seen.add(key)


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


def run_record(started: float, **extra: Any) -> dict[str, Any]:
    """What run.json holds: where, on what and for how long a program ran. Never an input of anything.

    started: time.time() at the program's start. Seconds are wall seconds; peak memory is in MiB.
    """
    import resource
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in ("torch", "transformers", "peft", "trl", "vllm", "numpy", "snakemake"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    record: dict[str, Any] = {
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
