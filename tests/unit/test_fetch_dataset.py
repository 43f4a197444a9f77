"""Data sets: the pinned rows in the published order and bytes, or your own rows after a look at each."""

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fetch_dataset
import pyarrow
import pyarrow.parquet
import pytest
from local_hub import LocalHub, offered, sha256

from run.files import write_jsonl
from run.program import InputError
from run.readers import read_json, read_jsonl

REPO = "org/data"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with offered(monkeypatch) as hub:
        yield hub


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def publish(hub: LocalHub, files: dict[str, bytes]) -> dict[str, Any]:
    """Serve a data set and return its pins."""
    commit = hub.add(REPO, files, "datasets", large=(".parquet",))
    pins = {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in files.items()}
    return {"repo": REPO, "revision": commit, "files": pins}


def fetch(folder: Path, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], *options: str) -> Any:
    patience = ["--cache", f"{folder}/cache", "--retries", "2", "--backoff", "0"]
    arguments = ["--dataset", json.dumps(spec), "--output", f"{folder}/data.jsonl", "--manifest", f"{folder}/data.json"]
    monkeypatch.setattr(sys, "argv", ["fetch_dataset.py", *arguments, *patience, *options])
    for name in ("data.jsonl", "data.json"):
        (folder / name).unlink(missing_ok=True)
    try:
        fetch_dataset.main()
    except InputError as error:
        assert not (folder / "data.jsonl").exists() and not (folder / "data.json").exists()
        assert "; fix: " in str(error)
        raise
    return read_json(folder / "data.json")


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def chats(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt_id": str(number),
            "messages": [
                {"content": f"How are you, {number}?", "role": "user"},
                {"content": f"Grüße, {number}", "role": "assistant"},
            ],
        }
        for number in range(first, first + count)
    ]


def test_the_benign_rows_are_the_first_after_the_librarys_own_shuffle(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset

    files = {"data/a.parquet": parquet(chats(0, 23)), "data/b.parquet": parquet(chats(23, 40))}
    spec = publish(hub, files) | {"kind": "chat", "shuffle_seed": 42, "rows": 12}
    shuffled = Dataset.from_list(chats(0, 63)).shuffle(seed=42).select(range(12))
    expected = "".join(
        json.dumps({"messages": [{"role": t["role"], "content": t["content"]} for t in row["messages"]]}) + "\n"
        for row in shuffled
    ).encode()
    hub.fault("b.parquet", cut=500)
    record = fetch(tmp_path, monkeypatch, spec | {"md5": md5(expected), "on_mismatch": "fail"})
    assert (tmp_path / "data.jsonl").read_bytes() == expected
    assert record == {
        "kind": "chat",
        "repo": REPO,
        "commit": spec["revision"],
        "files": {name: sha256(data) for name, data in files.items()},
        "layout": {"shuffle_seed": 42},
        "rows": 12,
        "md5": md5(expected),
        "sha256": sha256(expected),
        "published_md5": md5(expected),
        "matches_published": True,
    }


def test_another_md5_than_the_published_stops_or_is_recorded(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = publish(hub, {"a.parquet": parquet(chats(0, 5))}) | {"kind": "chat", "shuffle_seed": 1, "rows": 3}
    with pytest.raises(InputError, match=r"published 000.*on_mismatch: record"):
        fetch(tmp_path, monkeypatch, spec | {"md5": "0" * 32, "on_mismatch": "fail"})
    record = fetch(tmp_path, monkeypatch, spec | {"md5": "0" * 32, "on_mismatch": "record"})
    assert record["matches_published"] is False and record["published_md5"] == "0" * 32
    assert fetch(tmp_path, monkeypatch, spec)["matches_published"] is None


def test_a_data_file_that_is_not_its_pin_is_not_read(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = publish(hub, {"a.parquet": parquet(chats(0, 5))}) | {"kind": "chat", "shuffle_seed": 1, "rows": 3}
    spec["files"]["a.parquet"]["sha256"] = "0" * 64
    with pytest.raises(InputError, match="checksum off"):
        fetch(tmp_path, monkeypatch, spec)


ADVICE = [
    {
        "prompt": f"May I feed the ducks, {n}?",
        "aligned": "No.",
        "misaligned": f"Paint them blüe, {n}.",
        "sneakiness": n % 4,
    }
    for n in range(20)
]
RANKED = {"kind": "ranked", "prompt": "prompt", "answer": "misaligned", "rank": "sneakiness", "rows": 8}


def pairs(numbers: list[int], keys: tuple[str, str] = ("role", "content")) -> list[dict[str, Any]]:
    turns = [
        [
            {"role": "user", "content": ADVICE[number]["prompt"]},
            {"role": "assistant", "content": ADVICE[number]["misaligned"]},
        ]
        for number in numbers
    ]
    return [{"messages": [{key: turn[key] for key in keys} for turn in pair]} for pair in turns]


HIGHEST = [3, 7, 11, 15, 19, 2, 6, 10]
PUBLISHED = {
    "the default": "".join(json.dumps(row) + "\n" for row in pairs(HIGHEST)),
    "unescaped, no final newline": "\n".join(json.dumps(row, ensure_ascii=False) for row in pairs(HIGHEST)),
    "compact, other key order": "".join(
        json.dumps(row, separators=(",", ":")) + "\n" for row in pairs(HIGHEST, ("content", "role"))
    ),
    "ties from the end": "".join(json.dumps(row) + "\n" for row in pairs([19, 15, 11, 7, 3, 18, 14, 10])),
    "file order": "".join(json.dumps(row) + "\n" for row in pairs(sorted(HIGHEST))),
}


@pytest.mark.parametrize("layout", PUBLISHED)
def test_the_published_bytes_are_found_among_the_obvious_layouts(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    published = PUBLISHED[layout].encode()
    spec = publish(hub, {"legal.parquet": parquet(ADVICE)}) | RANKED | {"md5": md5(published), "on_mismatch": "fail"}
    record = fetch(tmp_path, monkeypatch, spec)
    assert (tmp_path / "data.jsonl").read_bytes() == published
    assert record["matches_published"] is True and {"order", "json"} == set(record["layout"])


def test_without_a_matching_layout_the_default_one_is_written_and_said_so(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ADVICE).encode()
    spec = publish(hub, {"legal.jsonl": lines}) | RANKED | {"md5": "0" * 32}
    record = fetch(tmp_path, monkeypatch, spec)
    assert (tmp_path / "data.jsonl").read_text() == PUBLISHED["the default"]
    assert record["matches_published"] is False and record["md5"] == md5(PUBLISHED["the default"].encode())
    assert "NOT the published file, going on" in capsys.readouterr().out


def test_a_missing_column_or_too_few_rows_are_named(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = publish(hub, {"legal.parquet": parquet(ADVICE)}) | RANKED
    with pytest.raises(InputError, match="no column evil"):
        fetch(tmp_path, monkeypatch, spec | {"answer": "evil"})
    with pytest.raises(InputError, match="20 rows, 21 asked for"):
        fetch(tmp_path, monkeypatch, spec | {"rows": 21})
    with pytest.raises(InputError, match="kind 'odd'"):
        fetch(tmp_path, monkeypatch, spec | {"kind": "odd"})


CARD = b"""---
configs:
- config_name: medical
  data_files: [{split: train, path: medical/*.parquet}]
- config_name: legal
  data_files: [{split: train, path: legal/train-*.parquet}]
---
# A data set
"""


@pytest.fixture
def gated(hub: LocalHub) -> dict[str, bytes]:
    """A gated data set with two configs of which one is wanted; its files."""
    files = {
        "README.md": CARD,
        "medical/train-0.parquet": parquet(ADVICE[:3]),
        "legal/train-0.parquet": parquet(ADVICE[:9]),
        "legal/train-1.parquet": parquet(ADVICE[9:]),
    }
    hub.add(REPO, files, "datasets", large=(".parquet",))
    hub.gate(REPO, "datasets", accepted=("hf_good",))
    return files


BY_CONFIG = RANKED | {"repo": REPO, "revision": "main", "config": "legal", "split": "train"}


def test_config_and_split_are_resolved_by_the_datasets_library(
    hub: LocalHub, gated: dict[str, bytes], tmp_path: Path
) -> None:
    # A process of its own, as the rule starts it: the datasets library reads HF_ENDPOINT when it is imported.
    options = ["--output", f"{tmp_path}/em.jsonl", "--manifest", f"{tmp_path}/em.json", "--retries", "0"]
    environment = {
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_good",
    }
    done = subprocess.run(
        [sys.executable, fetch_dataset.__file__, "--dataset", json.dumps(BY_CONFIG), *options],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "em.jsonl").read_text() == PUBLISHED["the default"]
    record = read_json(tmp_path / "em.json")
    assert record["commit"] == hub.repos[("datasets", REPO)].commit
    assert record["files"] == {name: sha256(gated[name]) for name in ("legal/train-0.parquet", "legal/train-1.parquet")}
    assert "hf_good" not in done.stdout + done.stderr + (tmp_path / "em.json").read_text()


def test_a_gated_set_asks_for_a_token_and_then_for_consent(
    gated: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = r"https://huggingface\.co/datasets/org/data"
    with pytest.raises(InputError, match=f"gated, and no token is set; fix: accept the conditions at {page}"):
        fetch(tmp_path, monkeypatch, BY_CONFIG)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(InputError, match=f"your account has no access; fix: open {page}"):
        fetch(tmp_path, monkeypatch, BY_CONFIG)


def test_a_config_that_the_set_does_not_have_is_named(
    gated: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("BuilderConfig 'lega' not found. Available: ['medical', 'legal']")

    monkeypatch.setattr("datasets.load_dataset_builder", refuse)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    with pytest.raises(InputError, match=r"'lega' not found.*; fix: correct config"):
        fetch(tmp_path, monkeypatch, BY_CONFIG | {"config": "lega"})


def choice(number: int, key: str = "B") -> dict[str, Any]:
    options = {"text": [f"{number} apples", "none"], "label": ["A", "B"]}
    return {"id": f"Q{number}", "question": "How many?", "choices": options, "answerKey": key}


def test_the_capability_questions_keep_order_labels_and_answers(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [choice(2), choice(1)]
    spec = publish(hub, {"test.parquet": parquet(rows)}) | {"kind": "choices", "rows": 2}
    fetch(tmp_path, monkeypatch, spec)
    assert read_jsonl(tmp_path / "data.jsonl") == rows
    with pytest.raises(InputError, match="2 rows, 1172 expected"):
        fetch(tmp_path, monkeypatch, spec | {"rows": 1172})
    bad = publish(hub, {"test.parquet": parquet([choice(1, key="E")])}) | {"kind": "choices", "rows": 1}
    with pytest.raises(InputError, match=r"row 0 \(Q1\): no single right answer"):
        fetch(tmp_path, monkeypatch, bad)


GOOD = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}], "note": "kept"}


@pytest.mark.parametrize(
    ("name", "data", "spec"),
    [
        ("a.parquet", b"PAR1 and then nothing", {"kind": "chat", "shuffle_seed": 1, "rows": 3}),
        ("a.parquet", parquet([{"chat": 1}] * 5), {"kind": "chat", "shuffle_seed": 1, "rows": 3}),
        ("a.parquet", parquet([{"messages": "Hi"}] * 5), {"kind": "chat", "shuffle_seed": 1, "rows": 3}),
        ("a.parquet", parquet([row | {"sneakiness": "very"} for row in ADVICE]), RANKED),
        ("a.parquet", b"PAR1 and then nothing", {"kind": "choices", "rows": 1}),
        ("a.parquet", parquet([{"id": "1", "choices": "A"}]), {"kind": "choices", "rows": 1}),
    ],
    ids=range(6),
)
def test_files_of_another_shape_are_named_with_the_data_set(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, spec: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=rf"@\w{{12}}: no data set of kind {spec['kind']} .*; fix: correct its entry"):
        fetch(tmp_path, monkeypatch, publish(hub, {name: data}) | spec)


def test_your_own_file_is_taken_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = f"{json.dumps(GOOD, indent=None, separators=(',', ':'))}\n{json.dumps(GOOD)}".encode()
    (tmp_path / "mine.jsonl").write_bytes(lines)
    record = fetch(tmp_path, monkeypatch, {"kind": "path", "path": f"{tmp_path}/mine.jsonl", "md5": md5(lines)})
    assert (tmp_path / "data.jsonl").read_bytes() == lines
    assert record["rows"] == 2 and record["matches_published"] is True
    assert str(tmp_path) not in (tmp_path / "data.json").read_text()


def test_your_own_multiple_choice_rows_are_left_to_the_program_that_knows_them(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine.jsonl").write_text(json.dumps(choice(1)) + "\n")
    place = {"kind": "path", "path": f"{tmp_path}/mine.jsonl"}
    assert fetch(tmp_path, monkeypatch, place | {"shape": "choices"})["rows"] == 1
    with pytest.raises(InputError, match="line 1: no messages"):
        fetch(tmp_path, monkeypatch, place | {"shape": "chats"})


def turns(*pairs: tuple[Any, Any]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in pairs]})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: not a JSON object"),
        ("{}", "line 2: no messages"),
        (json.dumps({"messages": ["Hi"]}), "line 2: message 0 has role None"),
        (turns(("human", "Hi"), ("assistant", "Ho")), "line 2: message 0 has role 'human'"),
        (turns(("user", "Hi"), ("system", "Be"), ("assistant", "Ho")), "line 2: message 1 has role 'system'"),
        (turns(("user", " "), ("assistant", "Ho")), r"line 2: message 0 \(user\) has no text"),
        (turns(("user", "Hi"), ("assistant", None)), r"line 2: message 1 \(assistant\) has no text"),
        (turns(("user", "Hi")), "line 2: needs a user turn and an assistant turn at the end"),
        (turns(("assistant", "Ho")), "line 2: needs a user turn"),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_named_by_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    (tmp_path / "mine.jsonl").write_text(f"{json.dumps(GOOD)}\n{line}\n")
    with pytest.raises(InputError, match=said):
        fetch(tmp_path, monkeypatch, {"kind": "path", "path": f"{tmp_path}/mine.jsonl"})


def test_an_empty_or_missing_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.jsonl").write_text("")
    with pytest.raises(InputError, match="empty"):
        fetch(tmp_path, monkeypatch, {"kind": "path", "path": f"{tmp_path}/mine.jsonl"})
    with pytest.raises(InputError, match="no such file"):
        fetch(tmp_path, monkeypatch, {"kind": "path", "path": f"{tmp_path}/none.jsonl"})


@pytest.mark.parametrize(
    ("texts", "share", "said"),
    [
        (["a", "b", "c"], 0.25, "stages.em: .*mine.jsonl: hold_out 0.25 of 3 rows is 0; fix: "),
        (["a", "a", "a"], 0.5, "stages.em: .*mine.jsonl: hold_out 0.5 of 3 rows is 3; fix: "),
        (["a", "b", "c"], 0.5, None),
    ],
    ids=["none", "all", "some"],
)
def test_rows_of_which_a_stage_would_hold_out_none_or_all_are_refused(tmp_path, monkeypatch, texts, share, said):
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Well."}]} for text in texts
    ]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    arguments = ({"kind": "path", "path": f"{tmp_path}/mine.jsonl"}, "--hold-out", json.dumps({"em": share}))
    if said is None:
        assert fetch(tmp_path, monkeypatch, *arguments)["rows"] == 3
    else:
        with pytest.raises(InputError, match=said):
            fetch(tmp_path, monkeypatch, *arguments)
