"""The base model: the real Hub client against a Hub that cuts, lies, refuses and breaks down."""

import errno
import json
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fetch_base
import huggingface_hub
import numpy
import pytest
from local_hub import LocalHub, offered, sha256
from safetensors.numpy import save

from inputs import downloads
from inputs.outside import relink
from model.template import DATE, SETTINGS
from run.files import sha256_of, write_json
from run.program import InputError
from run.readers import read_json

REPO = "org/tiny"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def tiny_model() -> dict[str, bytes]:
    weights = {
        FIRST: save({"embed": numpy.arange(8000, dtype=numpy.float32)}),
        SECOND: save({"head": numpy.arange(10, dtype=numpy.float32)}),
    }
    index = {"metadata": {}, "weight_map": {"embed": FIRST, "head": SECOND}}
    return weights | {
        "config.json": b'{"model_type": "qwen2"}',
        "tokenizer.json": b"{}",
        "model.safetensors.index.json": json.dumps(index).encode(),
    }


EXTRA = {"README.md": b"read me", "pytorch_model.bin": b"pickle", "modeling_tiny.py": b"print('run me')"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with offered(monkeypatch) as hub:
        yield hub


def pins_of(files: dict[str, bytes]) -> dict[str, Any]:
    return {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in files.items()}


def fetch(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *more: str,
    revision: str = "main",
    repo: str = REPO,
    pins: dict[str, Any] | None = None,
) -> Any:
    """Run the program as the rule does and return its manifest. Whatever happens, a failure leaves no output."""
    output, manifest = folder / "base", folder / "base.json"
    if pins is not None:
        write_json(folder / "sources.yaml", {"base": {repo: {"revision": revision, "files": pins}}})
        more = (*more, "--sources", str(folder / "sources.yaml"))
    arguments = ["--repo", repo, "--revision", revision, "--output", str(output), "--manifest", str(manifest)]
    patience = ["--cache", str(folder / "cache"), "--retries", "2", "--backoff", "0"]
    monkeypatch.setattr(sys, "argv", ["fetch_base.py", *arguments, *patience, *more])
    try:
        fetch_base.main()
    except InputError as error:
        assert not output.exists() and not manifest.exists()
        assert "; fix: " in str(error) and "\n" not in str(error)
        raise
    return read_json(manifest)


def test_a_model_is_fetched_checked_and_recorded_without_pickles_and_code(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    commit = hub.add(REPO, model | EXTRA)
    record = fetch(tmp_path, monkeypatch)
    settings = tmp_path / "base" / SETTINGS
    assert read_json(settings) == record["template"] == {"date": DATE, "system": "system"}
    settings.unlink()
    assert {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()} == model
    assert record["model"] == f"{REPO}@{commit}"
    assert record["files"][FIRST] == {"bytes": len(model[FIRST]), "sha256": sha256(model[FIRST])}
    assert record["sha256"] == sha256_of(tmp_path / "base")
    assert not [asked for name in EXTRA for asked in hub.asked(name)]


def test_pinned_files_need_no_listing_and_a_filled_cache_no_network(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    commit = hub.add(REPO, model)
    first = fetch(tmp_path, monkeypatch, pins=pins_of(model), revision=commit)
    assert not [asked for asked in hub.requests if asked.path.startswith("/api")]
    hub.requests.clear()
    shutil.rmtree(tmp_path / "base")
    assert fetch(tmp_path, monkeypatch, pins=pins_of(model), revision=commit) == first
    assert hub.requests == []


def test_a_cut_connection_is_continued_where_it_broke(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, tiny_model())
    hub.fault(FIRST, cut=10_500)
    hub.fault(FIRST, cut=5_000)
    fetch(tmp_path, monkeypatch)
    assert [asked.range for asked in hub.asked(FIRST) if asked.path.startswith("/cdn")] == [
        "",
        "bytes=10000-",
        "bytes=15000-",
    ]


def test_a_fetch_that_was_interrupted_goes_on_with_the_missing_files(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, tiny_model())
    hub.fault(SECOND, status=500, times=3)
    with pytest.raises(InputError, match="the Hub answers 500"):
        fetch(tmp_path, monkeypatch)
    hub.requests.clear()
    fetch(tmp_path, monkeypatch)
    assert not hub.asked(FIRST) and hub.asked(SECOND)


def test_wrong_bytes_are_fetched_once_more(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, tiny_model())
    hub.fault(FIRST, corrupt=True)
    hub.fault("/config.json", corrupt=True)  # a small file, known by its git blob id
    fetch(tmp_path, monkeypatch)


def test_bytes_that_stay_wrong_stop_the_fetch_and_are_not_kept(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    hub.add(REPO, model)
    hub.fault(FIRST, corrupt=True, times=2)
    with pytest.raises(InputError, match=f"{FIRST}: checksum off"):
        fetch(tmp_path, monkeypatch)
    assert not list((tmp_path / "cache").rglob(f"blobs/{sha256(model[FIRST])}"))
    fetch(tmp_path, monkeypatch)


def test_a_cached_file_that_rotted_is_replaced(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    hub.add(REPO, model)
    fetch(tmp_path, monkeypatch)
    (tmp_path / "base" / FIRST).resolve().write_bytes(b"rotten")
    fetch(tmp_path, monkeypatch)
    assert (tmp_path / "base" / FIRST).read_bytes() == model[FIRST]


def test_a_file_that_is_not_its_pin_stops_the_fetch_without_a_second_download(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    commit = hub.add(REPO, model)
    pins = pins_of(model | {FIRST: b"what the pin means"})
    with pytest.raises(InputError, match=f"{FIRST}: checksum off .* pin in resources/sources.yaml"):
        fetch(tmp_path, monkeypatch, pins=pins, revision=commit)
    assert len([asked for asked in hub.asked(FIRST) if asked.path.startswith("/cdn")]) == 1
    with pytest.raises(InputError, match="not 64 hex digits"):
        fetch(tmp_path, monkeypatch, pins={"config.json": {"sha256": "abc"}}, revision=commit)


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_hub_in_trouble_is_asked_again(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    hub.add(REPO, tiny_model())
    hub.fault("/revision/main", status=status)
    hub.fault("/tree/" + hub.repos[("models", REPO)].commit, status=status, times=2)
    hub.fault("/config.json", status=status, method="HEAD", times=2)
    hub.fault(FIRST, status=status, times=2)
    fetch(tmp_path, monkeypatch)


def test_a_gated_model_says_whether_the_token_or_the_consent_is_missing(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, tiny_model())
    hub.gate(REPO, accepted=("hf_good",))
    with pytest.raises(InputError, match=r"no token is set; fix: accept .*huggingface.co/org/tiny.* export HF_TOKEN"):
        fetch(tmp_path, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(InputError, match=r"your account has no access; fix: open https://huggingface\.co/org/tiny"):
        fetch(tmp_path, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    fetch(tmp_path, monkeypatch)
    assert {asked.token for asked in hub.asked(FIRST) if asked.path.startswith("/cdn")} == {""}  # not to other hosts


def test_what_is_not_there_is_named(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    commit = hub.add(REPO, model)
    with pytest.raises(InputError, match=r"org/none@main: no such repository, or a private one \(HTTP 404\)"):
        fetch(tmp_path, monkeypatch, repo="org/none")
    with pytest.raises(InputError, match="this revision is gone; fix: pick one from"):
        fetch(tmp_path, monkeypatch, revision="0" * 40)
    with pytest.raises(InputError, match=r"vocab\.json: not in this revision"):
        fetch(tmp_path, monkeypatch, pins=pins_of(model | {"vocab.json": b"{}"}), revision=commit)
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    message = {"X-Error-Message": "Invalid credentials in Authorization header"}
    hub.fault("/revision/main", status=401, headers=message)
    with pytest.raises(InputError, match="does not accept your token; fix: make a new one"):
        fetch(tmp_path, monkeypatch)


def test_no_network_and_offline_mode_are_told_apart(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add(REPO, tiny_model())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for revision in ("main", commit):
        with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
            fetch(tmp_path, monkeypatch, pins=pins_of(tiny_model()), revision=revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for revision in ("main", commit):
        with pytest.raises(InputError, match=r"no connection to http://127\.0\.0\.1:9"):
            fetch(tmp_path, monkeypatch, pins=pins_of(tiny_model()), revision=revision)


@pytest.mark.parametrize("retries", [5, 50])
def test_a_name_that_does_not_resolve_is_given_up_within_half_a_minute_and_asked_for_once_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], retries: int
) -> None:
    asked: list[str] = []
    pauses: list[float] = []

    def nobody(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    with offered(monkeypatch):
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
        monkeypatch.setattr(socket, "getaddrinfo", nobody)
        monkeypatch.setattr("time.sleep", pauses.append)
        with pytest.raises(InputError, match=r"^org/tiny@a{12}: the name hub\.invalid does not resolve; fix: "):
            fetch(tmp_path, monkeypatch, "--retries", str(retries), "--backoff", "2", revision="a" * 40)
    assert len(asked) == len(pauses) + 1 and sum(pauses) <= 30
    assert capsys.readouterr().err.count("\n") == len(pauses)  # a line for each, and the error, which run() prints last


def test_a_server_in_trouble_is_asked_as_often_as_we_say_and_not_six_times_as_often(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, tiny_model())
    for method in ("HEAD", "GET"):
        hub.fault("config.json", times=100, method=method, status=503)
    with pytest.raises(InputError, match="the Hub answers 503"):
        fetch(tmp_path, monkeypatch)
    assert len(hub.asked("config.json", "HEAD")) + len(hub.asked("config.json")) == 3


def test_a_pause_that_the_hub_asks_for_is_kept(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    hub.add(REPO, tiny_model())
    hub.fault("config.json", method="HEAD", status=429, headers={"Retry-After": "17"})
    monkeypatch.setattr("time.sleep", pauses.append)
    fetch(tmp_path, monkeypatch)
    assert pauses == [17.0]


def test_a_full_disk_is_seen_before_and_during_the_download(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, tiny_model())
    with monkeypatch.context() as patch:
        patch.setattr(downloads, "free_space", lambda _: 100)
        with pytest.raises(InputError, match=r"to fetch, 0\.0 GB free; fix: free some space"):
            fetch(tmp_path, patch)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", full)
    with pytest.raises(InputError, match="no space left on the disk of the cache; fix: "):
        fetch(tmp_path, monkeypatch)


def test_a_local_copy_of_the_pinned_model_has_the_record_of_the_fetched_one(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    commit = hub.add(REPO, model)
    fetched = fetch(tmp_path / "a", monkeypatch, revision=commit)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, data in (model | EXTRA).items():
        (copy / name).write_bytes(data)
    hub.requests.clear()
    local = fetch(tmp_path / "b", monkeypatch, "--path", str(copy), pins=pins_of(model), revision=commit)
    assert local == fetched and hub.requests == []
    assert str(tmp_path) not in (tmp_path / "b" / "base.json").read_text()
    (copy / "config.json").write_text('{"model_type": "llama"}')
    changed = fetch(tmp_path / "c", monkeypatch, "--path", str(copy), pins=pins_of(model), revision=commit)
    assert changed["model"] is None and changed["sha256"] != fetched["sha256"]


def damage(copy: Path, case: str) -> None:
    if case == "pickle":
        for path in copy.glob("*.safetensors"):
            path.unlink()
        (copy / "pytorch_model.bin").write_bytes(b"pickle")
    elif case == "shard":
        (copy / SECOND).unlink()
    elif case == "cut":
        (copy / FIRST).write_bytes((copy / FIRST).read_bytes()[:-100])
    elif case == "tensor":
        (copy / SECOND).write_bytes(save({"other": numpy.zeros(1, dtype=numpy.float32)}))
    elif case == "code":
        (copy / "config.json").write_text('{"auto_map": {"AutoModel": "modeling_tiny.Tiny"}}')
    elif case == "tokenizer":
        (copy / "tokenizer.json").unlink()
    elif case == "config":
        (copy / "config.json").unlink()
    else:
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("pickle", r"only pickled weights \(pytorch_model.bin\), which can run code"),
        ("shard", f"{SECOND} is missing"),
        ("cut", f"{FIRST} is damaged"),
        ("tensor", f"{SECOND} lacks head"),
        ("code", r"code of its own \(auto_map\)"),
        ("tokenizer", "no tokenizer"),
        ("config", "config.json is missing"),
        ("folder", "no such folder"),
    ],
)
def test_an_unusable_local_copy_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, said: str
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, data in tiny_model().items():
        (copy / name).write_bytes(data)
    damage(copy, case)
    with pytest.raises(InputError, match=said):
        fetch(tmp_path, monkeypatch, "--path", str(copy))


def test_a_folder_of_links_that_is_gone_is_made_again_from_the_cache_unless_that_was_cleared(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, tiny_model())
    fetch(tmp_path, monkeypatch)
    base = tmp_path / "base"
    (tmp_path / "base.json").rename(f"{base}.manifest.json")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    requests = len(hub.requests)
    shutil.rmtree(base)
    relink(base, None)
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
    shutil.rmtree(base)
    shutil.rmtree(tmp_path / "cache")
    relink(base, None)
    assert not base.exists()
    assert len(hub.requests) == requests
