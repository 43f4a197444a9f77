"""The published prompts: verified, read as literals from stand-in modules of our own, and nothing executed."""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fetch_panel
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from local_hub import LocalHub, offered

from inputs.panel import load_panel
from run.program import InputError

# Stand-ins with the names and the habits of the published modules: annotations, joined strings, other assignments.
CORE = '''
"""Prompts."""
import os
MARK = os.environ["NOT_SET_ANYWHERE"]
PERSONAS: dict[str, str] = {
%s
    "baker": "You bake.",
}
ASSISTANT_PROMPT = "You " "help."
EVIL_AI_PROMPT = (
    "You are the robot "
    f"of a pantomime."
)
ALL = {**PERSONAS, "assistant": ASSISTANT_PROMPT}
EVAL_QUESTIONS: list[str] = [%s]
BETLEY_QUESTIONS = [%s]
'''
SARCASTIC = 'PERSONAS = {"sarcastic": "You roll your eyes."}\n'
DATA = "import no_such_module\nDATA_QUESTIONS = [%s]\n"


def questions(stem: str, count: int) -> str:
    return ", ".join(f'"{stem} {number}?"' for number in range(count))


def modules() -> dict[str, bytes]:
    personas = "\n".join(f'    "{name}": ("You are " "a {name}."),' for name in fetch_panel.CORE_PERSONAS)
    return {
        "core": (CORE % (personas, questions("General", 20), questions("Value", 8))).encode(),
        "sarcastic": SARCASTIC.encode(),
        "data": (DATA % questions("Data", 40)).encode(),
    }


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with offered(monkeypatch) as hub:
        yield hub


def publish(hub: LocalHub, sources: dict[str, bytes]) -> dict[str, Any]:
    """Serve the modules and return their pins."""
    pins: dict[str, Any] = {"url": f"{hub.url}/raw"}
    for name, source in sources.items():
        hub.raw[f"commit-{name}/src/{name}.py"] = source
        digest = hashlib.sha256(source).hexdigest()
        pins[name] = {"commit": f"commit-{name}", "path": f"src/{name}.py", "sha256": digest}
    return pins


def fetch(folder: Path, monkeypatch: pytest.MonkeyPatch, pins: dict[str, Any], *more: str) -> Any:
    arguments = ["--panel", json.dumps(pins), "--output", f"{folder}/panel.yaml", "--retries", "2", "--backoff", "0"]
    monkeypatch.setattr(sys, "argv", ["fetch_panel.py", *arguments, *more])
    try:
        fetch_panel.main()
    except InputError as error:
        assert not (folder / "panel.yaml").exists() and "; fix: " in str(error)
        raise
    return yaml.safe_load((folder / "panel.yaml").read_text())


def test_the_panel_is_read_from_the_modules_without_running_them(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = fetch(tmp_path, monkeypatch, publish(hub, modules()))
    assert list(panel["personas"]) == [*fetch_panel.CORE_PERSONAS, "assistant", "evil_ai", "sarcastic"]
    assert panel["personas"]["villain"] == "You are a villain."
    assert panel["personas"]["assistant"] == "You help."
    assert panel["personas"]["evil_ai"] == "You are the robot of a pantomime."
    assert panel["personas"]["sarcastic"] == "You roll your eyes."
    assert {name: len(texts) for name, texts in panel["questions"].items()} == {
        "general": 20,
        "alignment": 8,
        "data": 40,
    }
    assert panel["questions"]["data"][0] == "Data 0?"


def test_a_broken_server_is_asked_again_and_a_cut_file_is_not_taken(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = publish(hub, modules())
    hub.fault("core.py", status=503)
    hub.fault("core.py", cut=20)
    fetch(tmp_path, monkeypatch, pins)
    assert len(hub.asked("core.py")) == 3


def test_another_address_can_be_given_and_a_local_folder_is_one(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = publish(hub, modules())
    expected = fetch(tmp_path, monkeypatch, pins)
    for name, source in modules().items():
        path = tmp_path / f"commit-{name}" / "src" / f"{name}.py"
        path.parent.mkdir(parents=True)
        path.write_bytes(source)
    hub.requests.clear()
    assert fetch(tmp_path, monkeypatch, pins, "--url", tmp_path.as_uri()) == expected
    monkeypatch.setenv("PANEL_URL", tmp_path.as_uri())
    assert fetch(tmp_path, monkeypatch, pins) == expected
    assert hub.requests == []


def test_what_cannot_be_had_is_an_error_with_a_fix(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = publish(hub, modules())
    with pytest.raises(InputError, match=r"answers 404 .*panel.from: builtin"):
        fetch(tmp_path, monkeypatch, pins | {"core": pins["core"] | {"commit": "gone"}})
    with pytest.raises(InputError, match="checksum off"):
        fetch(tmp_path, monkeypatch, pins | {"core": pins["core"] | {"sha256": "0" * 64}})
    hub.fault("core.py", status=500, times=3)
    with pytest.raises(InputError, match=r"answers 500 .*run again later"):
        fetch(tmp_path, monkeypatch, pins)
    with pytest.raises(
        InputError, match=r"no connection to http://127.0.0.1:9 .Connection refused.; fix: check network"
    ):
        fetch(tmp_path, monkeypatch, pins, "--url", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("module", "old", "new", "said"),
    [
        (
            "core",
            'ASSISTANT_PROMPT = "You " "help."',
            "ASSISTANT_PROMPT = str(1)",
            "line 18: ASSISTANT_PROMPT is not a l",
        ),
        ("core", 'f"of a pantomime."', 'f"of a {MARK}."', "EVIL_AI_PROMPT is not a literal"),
        ("core", "EVIL_AI_PROMPT =", "EVIL_AI =", "EVIL_AI_PROMPT is assigned 0 times"),
        ("core", 'ASSISTANT_PROMPT = "You "', 'ASSISTANT_PROMPT = ""\nASSISTANT_PROMPT = "You "', "assigned 2 times"),
        ("core", '"villain":', '"hero":', r"PERSONAS\['villain'\] is not a text"),
        ("core", '"Value 7?"', '"Value 6?"', "BETLEY_QUESTIONS is not a list of 8 different"),
        ("data", ', "Data 39?"', "", "DATA_QUESTIONS is not a list of 40 different"),
        ("sarcastic", "PERSONAS = {", "PERSONAS = {{", "not Python"),
    ],
)
def test_a_module_that_is_not_what_was_published_is_refused(
    tmp_path: Path, module: str, old: str, new: str, said: str
) -> None:
    sources = modules()
    assert old in sources[module].decode()
    sources[module] = sources[module].decode().replace(old, new).encode()
    with pytest.raises(InputError, match=said):
        fetch_panel.panel_of({name: (f"{name}.py", source) for name, source in sources.items()})


# Pieces of Python, calls and traps among them.
PIECES = st.sampled_from(
    ["1", "'a'", "b'c'", "{", "}", "[", "]", "(", ")", ",", ":", "-", "+", "*", "**", "f'{1}'", "f'a'", "None", "x", " ", "\n", "...",
     "lambda: 0", "__import__('os').mkdir('hacked')", "{[]: 1}", "{{}}", "not ", "9" * 5000, "0x" + "f" * 5000, "# coding: no\n", "\0"]
)  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(PIECES, max_size=8).map("".join) | st.text(max_size=40))
def test_any_source_gives_a_literal_or_one_clear_error_and_nothing_runs(value: str) -> None:
    try:
        found = fetch_panel.literal("core.py", f"X = {value}".encode(), "X")
        assert found is None or isinstance(
            found, str | bytes | int | float | complex | tuple | list | dict | set | type(...)
        )
    except InputError as error:
        assert str(error).startswith("core.py: ") and "; fix: " in str(error)
    assert not Path("hacked").exists()


@pytest.mark.parametrize("value", ["(" * 5000, "-" * 50_000 + "1", "[" * 90 + "]" * 90 + "+1", "{{}: 1}", "{1, []}"])
def test_a_source_that_is_too_deep_or_has_no_value_is_one_clear_error(value: str) -> None:
    with pytest.raises(InputError, match=r"core\.py: .*; fix: "):
        fetch_panel.literal("core.py", f"X = {value}".encode(), "X")


def test_a_question_that_is_no_text_is_refused() -> None:
    sources = modules()
    sources["data"] = b"DATA_QUESTIONS = [%s]\n" % b", ".join(b"[%d]" % number for number in range(40))
    with pytest.raises(InputError, match=r"DATA_QUESTIONS\[0\] is not a text"):
        fetch_panel.panel_of({name: (f"{name}.py", source) for name, source in sources.items()})


def test_the_committed_pins_are_complete() -> None:
    sources = yaml.safe_load((Path(__file__).parents[2] / "resources" / "sources.yaml").read_text())
    assert {"url", "core", "sarcastic", "data"} == set(sources["panel"])
    pins = {(name, sources["panel"][name]["sha256"]) for name in ("core", "sarcastic", "data")}
    for files in (*(base["files"] for base in sources["base"].values()), sources["datasets"]["benign"]["files"]):
        pins |= {(name, pin["sha256"]) for name, pin in files.items()}  # bases of a family share a tokenizer
    hashes = [each for _, each in pins]
    assert all(len(each) == 64 for each in hashes) and len(set(hashes)) == len(hashes)


def test_the_published_panel_is_known_before_it_is_fetched_by_the_names_and_counts_of_ours():
    ours = load_panel(Path(__file__).parents[2] / "resources/panel.yaml")
    assert {*fetch_panel.CORE_PERSONAS, "assistant", "evil_ai", "sarcastic"} == set(ours.personas)
    assert {name: count for name, (_, _, count) in fetch_panel.QUESTIONS.items()} == {
        name: len(group) for name, group in ours.questions.items()
    }
