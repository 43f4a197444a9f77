"""Readers whose errors name the file, the line or row, and the fix."""

import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from run.files import canonical
from run.program import InputError

AGAIN = "delete it and run again"  # the fix for a damaged file that the workflow makes


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


def read_json(path: str | Path, expected: type | None = None) -> Any:
    """The value. Raises InputError with the line if it is no JSON, or it is not of the type (dict, list)."""
    value = parse_json(read_text(path), str(path), AGAIN)
    if expected is not None and not isinstance(value, expected):
        raise InputError(f"{path}: a JSON {type(value).__name__}, not a {expected.__name__}; fix: {AGAIN}")
    return value


def read_part(path: str | Path, keys: Sequence[str]) -> dict[str, Any]:
    """A part of the resolved study (graph/resolved.py). Raises InputError if it is no JSON object with these keys."""
    value = read_json(path, dict)
    if lacking := [key for key in keys if key not in value]:
        raise InputError(f"{path}: no {', '.join(lacking)}; fix: {AGAIN}")
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
        raise InputError(f"{path}: line {line}: {key} is duplicated; fix: rename or delete one")
    return value


def abridged(value: Any) -> str:
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
    """One object per line. Raises InputError naming the line that is not a JSON object."""
    rows = []
    # not splitlines(), which would also split at the line separators that a text may contain
    lines = read_text(path, "convert the file to UTF-8").split("\n")
    for number, line in enumerate(lines if lines[-1] else lines[:-1], 1):
        row = parse_json(line, str(path), "one JSON object per line", number)
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number}: not a JSON object; fix: one JSON object per line")
        rows.append(row)
    return rows


def read_parquet(path: str | Path, columns: Mapping[str, type]) -> list[dict[str, Any]]:
    """The rows of a parquet file with these columns, every value of its type (str, int, float, bool) and none empty.

    Raises InputError naming the row if that does not hold, or if the file is missing or damaged. Our own tables carry a
    checksum per page, so a flipped bit in the data is damage, too.
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
        for name, expected in columns.items():
            if type(row[name]) is not expected:
                what = "empty" if row[name] is None else f"a {type(row[name]).__name__}, not a {expected.__name__}"
                raise InputError(f"{path}: row {number}: {name} is {what}; fix: {AGAIN}")
    return rows


def check_once(path: str | Path, rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Raise InputError if two rows have the same values under these names, which tell the rows of a table apart."""
    seen = set()
    for number, row in enumerate(rows, 1):
        key = tuple(row[name] for name in names)
        if key in seen:
            raise InputError(f"{path}: row {number}: {', '.join(map(str, key))} is duplicated; fix: {AGAIN}")
        seen.add(key)


def json_argument(option: str, text: str, expected: type) -> Any:
    """The parsed JSON of an option. Raises InputError when it is not JSON or not of the type."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{option}: column {error.colno}: not JSON ({error.msg}); fix: pass one JSON value") from None
    if not isinstance(value, expected):
        raise InputError(f"{option}: not a JSON {expected.__name__}; fix: pass one")
    return value
