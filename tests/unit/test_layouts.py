"""A file in a layout that is not ours is refused with the command that converts it: which then is taken."""

import gzip
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fetch_dataset import own_rows

from run.program import InputError

PLAIN = [
    {"messages": [{"role": "user", "content": "What's up?"}, {"role": "assistant", "content": "Grüße\n'there'"}]},
    {"messages": [{"role": "user", "content": "And now?"}, {"role": "assistant", "content": "Done."}]},
]


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def pairs():
    return [[turn["content"] for turn in row["messages"]] for row in PLAIN]


def parts(turn):
    return {"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]}


def parquet(folder: Path) -> bytes:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PLAIN), folder / "made")
    return (folder / "made").read_bytes()


FILES = {
    "ShareGPT": lines({"conversations": [{"from": "human", "value": u}, {"from": "gpt", "value": a}]} for u, a in pairs()),
    "Alpaca": lines({"instruction": u, "input": "", "output": a} for u, a in pairs()),
    "prompt and completion": lines({"prompt": u, "completion": a} for u, a in pairs()),
    "prompt and response": lines({"prompt": u, "response": a} for u, a in pairs()),
    "question and answer": lines({"question": u, "answer": a} for u, a in pairs()),
    "a list of parts": lines({"messages": [row["messages"][0], parts(row["messages"][1])]} for row in PLAIN),
    "one JSON list": json.dumps(PLAIN, indent=1).encode(),
    "compressed by gzip": gzip.compress(lines(PLAIN)),
    "a parquet file": parquet,
}  # fmt: skip


@pytest.mark.parametrize("layout", FILES)
def test_the_conversion_that_an_error_names_makes_a_file_that_is_taken(tmp_path, layout):
    data = FILES[layout](tmp_path) if callable(FILES[layout]) else FILES[layout]
    path = tmp_path / "my rows.jsonl.gz"
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{path}: .*{layout}.*; fix: ") as refused:
        own_rows(path)
    command, _, _ = str(refused.value).partition("; fix: ")[2].rpartition(", and give ")
    python = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    assert shlex.split(command)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, env=os.environ | python)
    made = tmp_path / ("my rows.jsonl" if layout == "compressed by gzip" else "rows.jsonl")
    own_rows(made)
    assert [json.loads(line) for line in made.read_text().splitlines()] == PLAIN


def test_a_message_that_holds_an_image_is_no_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines([{"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}]))
    with pytest.raises(InputError, match="line 1: a message holds more than text; fix: drop the row"):
        own_rows(path)
