"""Files of rows in other layouts than {"messages": [...]} lines: told apart, and what turns them into it.

Every fix is a shell command that leaves the file as it is and writes another beside it.
"""

import contextlib
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from run.program import InputError

LOADED = "python -c 'import json, sys; [print(json.dumps(r)) for r in json.load(sys.stdin)]' < {path} > {made}"
PARQUET = (
    "python -c 'import json, sys, pyarrow.parquet as p;"
    " [print(json.dumps(r)) for r in p.read_table(sys.argv[1]).to_pylist()]' {path} > {made}"
)
ARROW = (
    "python -c 'import json, sys, datasets;"
    " [print(json.dumps(r)) for r in datasets.Dataset.from_file(sys.argv[1])]' {path} > {made}"
)
CSV = (
    "python -c 'import csv, json, sys; csv.field_size_limit(2**30);"
    ' [print(json.dumps(r)) for r in csv.DictReader(sys.stdin, delimiter="{delimiter}")]\' < {path} > {made}'
)
# How a file begins -> what it is, and the command that makes JSON lines of it. Programs that unpack by the file's name
# would refuse one that is called otherwise.
BEGINNINGS = {
    b"\x1f\x8b": ("compressed by gzip", "gzip --decompress --stdout < {path} > {made}"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "zstd --decompress --stdout < {path} > {made}"),
    b"BZh": ("compressed by bzip2", "bzip2 --decompress --stdout < {path} > {made}"),
    b"\xfd7zXZ": ("compressed by xz", "xz --decompress --stdout < {path} > {made}"),
    b"PK\x03\x04": ("a zip archive", "unzip -p {path} > {made}"),
    b"PAR1": ("a parquet file", PARQUET),
    b"\xff\xff\xff\xff": ("an Arrow file", ARROW),  # as the datasets library keeps its own
    b"\xef\xbb\xbf": ("beginning with a byte order mark", "tail -c +4 {path} > {made}"),
    b"\xff\xfe": ("in UTF-16", "iconv -f UTF-16 -t UTF-8 {path} > {made}"),
    b"\xfe\xff": ("in UTF-16", "iconv -f UTF-16 -t UTF-8 {path} > {made}"),
}
PAIR = '[{{"role": "user", "content": r["{0}"]}}, {{"role": "assistant", "content": r["{1}"]}}]'
# The fields of a row -> the layout's name, and its messages as Python's expression over the row r.
LAYOUTS = {
    ("conversations",): (
        "ShareGPT",
        '[{"role": {"human": "user", "gpt": "assistant"}.get(w, w), "content": t.get("value", t.get("content"))}'
        ' for t in r["conversations"] for w in [t.get("from", t.get("role"))]]',
    ),
    ("instruction", "output"): (
        "Alpaca",
        '[{"role": "user", "content": "\\n\\n".join(filter(None, [r["instruction"], r.get("input")]))},'
        ' {"role": "assistant", "content": r["output"]}]',
    ),
    ("prompt", "completion"): (
        "prompt and completion",
        f'r["prompt"] + r["completion"] if isinstance(r["prompt"], list) else {PAIR.format("prompt", "completion")}',
    ),
    ("prompt", "response"): ("prompt and response", PAIR.format("prompt", "response")),
    ("question", "answer"): ("question and answer", PAIR.format("question", "answer")),
}
PLAIN = 'r["messages"]'
TEXT = 'json.loads(r["messages"]) if isinstance(r["messages"], str) else r["messages"]'
PARTS = (
    '[{"role": m["role"], "content": m["content"] if isinstance(m["content"], str)'
    ' else "".join(p["text"] for p in m["content"])} for m in r["messages"]]'
)


def check_file(path: Path) -> None:
    """Raise InputError, with the command to convert it, for a file that is compressed or not JSON lines."""
    if path.is_dir():
        raise InputError(f"{path}: a folder; fix: name one file, such as `cat {quote(str(path))}/*.jsonl` makes")
    if not path.is_file():
        return
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith(b"PK") and b"[Content_Types].xml" in start:
        raise InputError(f"{path}: a file of Excel or Word; fix: save it as CSV, and give that")
    for beginning, (what, command) in BEGINNINGS.items():
        if start.startswith(beginning):
            raise InputError(f"{path}: {what}; fix: {converted(command, path)}")
    first = start.lstrip()
    if first.startswith(b"["):
        raise InputError(f"{path}: one JSON list; fix: {converted(LOADED, path)}")
    if first and not first.startswith(b"{"):
        head = first.splitlines()[0][:60].decode("utf-8", "replace")
        delimiter = next((sign for sign in ("\t", ",", ";") if sign in head), "")
        fix = 'write one JSON object per line, {{"messages": [...]}}'
        if delimiter:
            fix = converted(CSV.replace("{delimiter}", {"\t": "\\t"}.get(delimiter, delimiter)), path)
            fix += " (if it is a table with a head)"
        raise InputError(f"{path}: no JSON lines, as it begins with {head!r}; fix: {fix}")


def check_lines(path: Path, text: str) -> None:
    """Raise InputError for what JSON readers would take without a word, or call something else: blank lines, a key that
    an object has twice, and the character NUL, at which some programs end a text.
    """
    lines = text.removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            fix = converted("grep -v '^[[:space:]]*$' {path} > {made}", path)
            raise InputError(f"{path}: line {number}: a blank line; fix: {fix}")
        if "\\u0000" in line or "\0" in line:
            raise InputError(f"{path}: line {number}: holds the character NUL; fix: take it out, or drop the row")
        twice: list[str] = []
        with contextlib.suppress(ValueError, RecursionError):  # of what is not JSON, which its reader says better
            json.loads(line, object_pairs_hook=functools.partial(note_twice, twice))
        if twice:
            raise InputError(f"{path}: line {number}: {twice[0]!r} is duplicated; fix: rename or delete one of them")


def note_twice(twice: list[str], pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The object; the keys that it has twice are added to `twice`."""
    names = [name for name, _ in pairs]
    twice += [name for name in dict.fromkeys(names) if names.count(name) > 1]
    return dict(pairs)


def check_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError for the first row in a layout known here, with the command that converts the file.

    The command knows every layout that the file has, plain rows among them.
    """
    found = [layout_of(path, number, row) for number, row in enumerate(rows, 1)]
    odd = {what: messages for what, messages in found if what}
    if not odd:
        return
    number = next(number for number, (what, _) in enumerate(found, 1) if what)
    others = [f"{what} in line {found.index((what, odd[what])) + 1}" for what in odd][1:]
    also = f" (and {', '.join(others)})" if others else ""
    parts = odd.pop("a list of parts", odd.get("messages as one text", PLAIN))
    chain = "".join(
        f' else ({odd[what]}) if "{fields[-1]}" in r' for fields, (what, _) in LAYOUTS.items() if what in odd
    )
    program = (
        "import json, sys; [print(json.dumps({"
        f'"messages": ({parts}) if "messages" in r{chain} else r["messages"]'
        "})) for r in map(json.loads, sys.stdin)]"
    )
    fix = converted(f"python -c {quote(program)} < {{path}} > {{made}}", path)
    raise InputError(f"{path}: line {number}: a row in the layout of {found[number - 1][0]}{also}; fix: {fix}")


def layout_of(path: Path, number: int, row: Mapping[str, Any]) -> tuple[str, str]:
    """The name of a row's layout and the expression of its messages; two empty texts for a plain or an unknown one.

    Raises InputError for a message that holds more than text.
    """
    if "messages" not in row:
        known = (named for fields, named in LAYOUTS.items() if all(field in row for field in fields))
        return next(known, ("", ""))
    if isinstance(row["messages"], str) and row["messages"].lstrip().startswith("[{"):
        return "messages as one text", TEXT
    turns = row["messages"] if isinstance(row["messages"], list) else []
    lists = [turn["content"] for turn in turns if isinstance(turn, dict) and isinstance(turn.get("content"), list)]
    if not lists:
        return "", ""
    if all(isinstance(part, dict) and isinstance(part.get("text"), str) for parts in lists for part in parts):
        return "a list of parts", PARTS
    raise InputError(f"{path}: line {number}: a message holds more than text; fix: drop the row")


def converted(command: str, path: Path) -> str:
    """The fix: a command that writes another file, and that one to be named."""
    return f"{command.replace('{path}', quote(str(path))).replace('{made}', made_of(path))}, and give {made_of(path)}"


def made_of(path: Path) -> str:
    """What a conversion writes: a file beside the one that it reads, never that one."""
    return quote(f"{path}.converted.jsonl")
