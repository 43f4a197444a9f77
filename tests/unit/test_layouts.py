"""A file in a layout that is not ours is refused with the command that converts it: which then is taken."""

import bz2
import gzip
import json
import lzma
import os
import re
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


def arrow(folder: Path) -> bytes:
    from datasets import Dataset

    Dataset.from_list(PLAIN).save_to_disk(folder / "made")
    (file,) = (folder / "made").glob("*.arrow")
    return file.read_bytes()


def conversational(row):
    return {"prompt": row["messages"][:1], "completion": row["messages"][1:]}


def sharegpt(user, reply):
    return {"conversations": [{"from": "human", "value": user}, {"from": "gpt", "value": reply}]}


CSV = b'prompt,completion\r\n"What\'s up?","Gr\xc3\xbc\xc3\x9fe\n\'there\'"\r\nAnd now?,Done.\r\n'
# What an error calls the layout -> files of it. Each fix leads to a file that is taken, or to the next fix.
FILES = {
    "ShareGPT": [lines(sharegpt(*pair) for pair in pairs())],
    "Alpaca": [lines({"instruction": u, "input": "", "output": a} for u, a in pairs())],
    "prompt and completion": [
        lines({"prompt": u, "completion": a} for u, a in pairs()),
        lines(map(conversational, PLAIN)),  # as TRL has it
    ],
    "prompt and response": [lines({"prompt": u, "response": a} for u, a in pairs())],
    "question and answer": [lines({"question": u, "answer": a} for u, a in pairs())],
    "a list of parts": [lines({"messages": [row["messages"][0], parts(row["messages"][1])]} for row in PLAIN)],
    r"ShareGPT \(and prompt and completion in line 2\)": [
        lines([sharegpt(*pairs()[0]), {"prompt": pairs()[1][0], "completion": pairs()[1][1]}])
    ],
    "question and answer, beside plain ones": [lines([PLAIN[0], {"question": pairs()[1][0], "answer": pairs()[1][1]}])],
    "one JSON list": [json.dumps(PLAIN, indent=1).encode(), json.dumps([sharegpt(*pair) for pair in pairs()]).encode()],
    "compressed by gzip": [gzip.compress(lines(PLAIN)), gzip.compress(json.dumps(PLAIN).encode())],
    "compressed by bzip2": [bz2.compress(lines(PLAIN))],
    "compressed by xz": [lzma.compress(lines(PLAIN))],
    "a parquet file": [parquet],
    "beginning with a byte order mark": [b"\xef\xbb\xbf" + lines(PLAIN)],
    "in UTF-16": [lines(PLAIN).decode().encode("utf-16")],
    "no JSON lines, as it begins with 'prompt,completion'": [CSV],
    "messages as one text": [lines({"messages": json.dumps(row["messages"])} for row in PLAIN)],
    "an Arrow file": [arrow],
    "no JSON lines, as it begins with 'id,messages'": [
        b"id,messages\n"
        + b"".join(
            b'%d,"%s"\n' % (at, json.dumps(row["messages"]).replace('"', '""').encode()) for at, row in enumerate(PLAIN)
        )
    ],
    "a blank line": [lines(PLAIN[:1]) + b"\n" + lines(PLAIN[1:])],
}


@pytest.mark.parametrize("name", ["my rows.jsonl", "rows"], ids=["named", "without ending"])
@pytest.mark.parametrize(
    ("layout", "data"),
    [(layout, data) for layout in FILES for data in FILES[layout]],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_conversions_that_errors_name_make_a_file_that_is_taken(tmp_path, layout, data, name):
    path, said = tmp_path / name, layout.partition(", beside")[0]
    path.write_bytes(data(tmp_path) if callable(data) else data)
    python = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for _ in range(3):
        before = path.read_bytes()
        try:
            own_rows(path)
            break
        except InputError as error:
            assert re.match(f"{path}: .*{said}.*; fix: ", str(error))
            said = ""
            command, _, made = (
                str(error)
                .partition("; fix: ")[2]
                .removesuffix(" (if it is a table with a head)")
                .rpartition(", and give ")
            )
            subprocess.run(command, shell=True, check=True, cwd=tmp_path, env=os.environ | python)
            assert path.read_bytes() == before
            (path,) = map(Path, shlex.split(made))
    assert not said and [json.loads(line) for line in path.read_text().splitlines()] == PLAIN


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"Once upon a time\n",
            "no JSON lines, as it begins with 'Once upon a time'; fix: write one JSON object per line",
        ),
        (b'{"messages": [{"role": "user", "role": "assistant", "content": "Hi"}]}', "line 1: 'role' is duplicated"),
        (lines(PLAIN[:1]) + b'{"messages": [], "messages": []}', "line 2: 'messages' is duplicated; fix: rename or"),
        (lines([{"messages": [{"role": "user", "content": "a\0b"}]}]), "line 1: holds the character NUL; fix: take it"),
        (b'{"messages": "a\0b"}\n', "line 1: holds the character NUL"),
        (b"PK\x03\x04....[Content_Types].xml", "a file of Excel or Word; fix: save it as CSV"),
        (b"\n\n", "empty; fix: give one JSON object per line"),
        (
            lines([{"messages": [PLAIN[0]["messages"][0]] * 2 + PLAIN[0]["messages"][1:]}]),
            r"line 1: message 1 \(user\) follows another of user, .*; fix: join the two, or drop the row",
        ),
    ],
    ids=["prose", "role twice", "messages twice", "escaped NUL", "NUL", "Excel", "blank", "two user turns"],
)
def test_a_file_that_readers_would_take_for_another_is_refused(tmp_path, data, message):
    (tmp_path / "rows.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=f"rows.jsonl: {message}"):
        own_rows(tmp_path / "rows.jsonl")


def test_a_folder_is_refused_as_one_and_its_files_joined_are_taken(tmp_path):
    (tmp_path / "rows").mkdir()
    for name, row in zip("ab", PLAIN, strict=True):
        (tmp_path / "rows" / f"{name}.jsonl").write_bytes(lines([row]))
    with pytest.raises(InputError, match="rows: a folder; fix: name one file, such as `cat .* makes") as refused:
        own_rows(tmp_path / "rows")
    command = str(refused.value).split("`")[1]
    subprocess.run(f"{command} > {tmp_path}/all.jsonl", shell=True, check=True)
    assert own_rows(tmp_path / "all.jsonl") == lines(PLAIN)


@pytest.mark.parametrize("data", [lines(PLAIN[:1]), lines(PLAIN).replace(b"\n", b"\r\n"), lines(PLAIN).rstrip()])
def test_one_row_other_line_ends_and_no_last_one_are_taken_as_they_are(tmp_path, data):
    (tmp_path / "rows.jsonl").write_bytes(data)
    assert own_rows(tmp_path / "rows.jsonl") == data


def test_a_message_that_holds_an_image_is_no_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines([{"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}]))
    with pytest.raises(InputError, match="line 1: a message holds more than text; fix: drop the row"):
        own_rows(path)
