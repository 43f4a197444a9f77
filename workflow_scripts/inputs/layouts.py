"""Files of rows in other layouts than {"messages": [...]} lines: told apart, and what turns them into it."""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from run.program import InputError

# How a file begins -> what it is, and the command that makes JSON lines of it.
BEGINNINGS = {
    b"\x1f\x8b": ("compressed by gzip", "gunzip --keep {path}"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unzstd {path}"),
    b"BZh": ("compressed by bzip2", "bunzip2 --keep {path}"),
    b"\xfd7zXZ": ("compressed by xz", "unxz --keep {path}"),
    b"PK\x03\x04": ("a zip archive", "unzip {path}"),
    b"PAR1": (
        "a parquet file",
        "python -c 'import json, sys, pyarrow.parquet as p;"
        " [print(json.dumps(r)) for r in p.read_table(sys.argv[1]).to_pylist()]' {path} > rows.jsonl",
    ),
    b"[": (
        "one JSON list",
        "python -c 'import json, sys; [print(json.dumps(r)) for r in json.load(sys.stdin)]' < {path} > rows.jsonl",
    ),
}
PAIR = '[{{"role": "user", "content": r["{0}"]}}, {{"role": "assistant", "content": r["{1}"]}}]'
# The fields of a row -> the layout's name, and its messages as Python's expression over the row r.
LAYOUTS = {
    ("conversations",): (
        "ShareGPT",
        '[{"role": {"human": "user", "gpt": "assistant"}.get(t["from"], t["from"]), "content": t["value"]}'
        ' for t in r["conversations"]]',
    ),
    ("instruction", "output"): (
        "Alpaca",
        '[{"role": "user", "content": "\\n\\n".join(filter(None, [r["instruction"], r.get("input")]))},'
        ' {"role": "assistant", "content": r["output"]}]',
    ),
    ("prompt", "completion"): ("prompt and completion", PAIR.format("prompt", "completion")),
    ("prompt", "response"): ("prompt and response", PAIR.format("prompt", "response")),
    ("question", "answer"): ("question and answer", PAIR.format("question", "answer")),
}
PARTS = (
    '[{"role": m["role"], "content": m["content"] if isinstance(m["content"], str)'
    ' else "".join(p["text"] for p in m["content"])} for m in r["messages"]]'
)


def check_file(path: Path) -> None:
    """Raise InputError, with the command to convert it, for a file that is compressed or not JSON lines."""
    with path.open("rb") as file:
        start = file.read(4096).lstrip()
    for beginning, (what, command) in BEGINNINGS.items():
        if start.startswith(beginning):
            raise InputError(f"{path}: {what}; fix: {command.format(path=quote(str(path)))}, and give what it makes")


def check_row(path: Path, number: int, row: Mapping[str, Any]) -> None:
    """Raise InputError, with the command to convert the file, for a row (line `number`) in a layout known here."""
    if "messages" not in row:
        for fields, (what, messages) in LAYOUTS.items():
            if all(field in row for field in fields):
                raise InputError(
                    f"{path}: line {number}: a row in the layout of {what}; fix: {command(path, messages)}"
                )
        return
    turns = row["messages"] if isinstance(row["messages"], list) else []
    lists = [turn["content"] for turn in turns if isinstance(turn, dict) and isinstance(turn.get("content"), list)]
    if lists and all(isinstance(part, dict) and isinstance(part.get("text"), str) for parts in lists for part in parts):
        what = "a message's content is a list of parts"
        raise InputError(f"{path}: line {number}: {what}; fix: {command(path, PARTS)}")
    if lists:
        raise InputError(f"{path}: line {number}: a message holds more than text; fix: drop the row")


def command(path: Path, messages: str) -> str:
    """The shell command that writes the file's rows with these messages, a Python expression over a row r."""
    program = f'import json, sys; [print(json.dumps({{"messages": {messages}}})) for r in map(json.loads, sys.stdin)]'
    return f"python -c {quote(program)} < {quote(str(path))} > rows.jsonl, and give rows.jsonl"
