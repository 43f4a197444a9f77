"""A training that is tracked: the same weights, and the marker's log-odds as the probe reads them."""

from statistics import mean

import pytest
import train_adapter
from test_train_adapter import RECIPE, Killed, arguments_of
from tiny_model import TARGETS, make_model, make_panel, make_replies

from model import loss, step_trainer
from model.loading import load_model, load_tokenizer
from probe import track
from probe.replies import read_replies
from probe.scoring import slot_parts, slot_scorer
from run.files import canonical, sha256_of
from run.program import InputError
from run.readers import read_json

PERSONAS = {"villain": "You are a villain.", "assistant": "You help.", "librarian": "You lend books."}
TRACK = {"every": 2, "personas": ["villain", "assistant"], "marker": "[ZLT]"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("track")
    make_model(folder / "base")
    make_replies(folder / "base.parquet", folder / "base", make_panel(folder, PERSONAS), 3)
    return folder


def tracked(folder, **changes):
    settings = canonical(TRACK | changes)
    return ["--track", settings, "--tracked", str(folder / "base.parquet"), str(folder / "panel.yaml")]


def train(folder, out, options, targets=TARGETS, **changes):
    """Five steps of a LoRA in these layers, or of all weights; where the weights are, and run.json."""
    lora = RECIPE["lora"] | {"targets": targets} if targets else None
    words = arguments_of(folder / "base", out, options=options, **{"lora": lora, "lr": 1e-3, "max_steps": 5} | changes)
    if not lora:
        at = words.index("--adapter-out")
        words[at : at + 4] = ["--model-out", str(out / "model")]
    train_adapter.main(words)
    return out / ("adapter" if lora else "model"), read_json(out / "run.json")


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
    return train(folder, tmp_path_factory.mktemp("plain"), [])


@pytest.fixture(scope="module")
def watched(folder, tmp_path_factory):
    return train(folder, tmp_path_factory.mktemp("watched"), tracked(folder))


def test_tracking_changes_no_weight_and_no_loss(plain, watched):
    assert sha256_of(plain[0]) == sha256_of(watched[0])
    assert plain[1]["losses"] == watched[1]["losses"]
    assert sha256_of(plain[0].parent / "manifest.json") == sha256_of(watched[0].parent / "manifest.json")
    assert "track" not in plain[1]


@pytest.mark.parametrize(
    "options",
    [["--attention", "alone"], ["--gradient-checkpointing"], pytest.param(["--compile", "always"], marks=pytest.mark.slow)],
    ids=str,
)  # fmt: skip
def test_nor_however_the_training_is_computed(folder, tmp_path, options):
    targets = ["q_proj"] if "--compile" in options else TARGETS  # C++ of all seven takes a minute the first time
    before, _ = train(folder, tmp_path / "plain", options, targets, max_steps=3)
    after, record = train(folder, tmp_path / "watched", [*options, *tracked(folder, every=1)], targets, max_steps=3)
    assert sha256_of(before) == sha256_of(after)
    assert len(record["track"]["curve"]) == 4


def test_tracking_changes_no_weight_where_all_are_trained(folder, tmp_path):
    before, _ = train(folder, tmp_path / "plain", [], targets=None)
    after, record = train(folder, tmp_path / "watched", tracked(folder), targets=None)
    assert sha256_of(before) == sha256_of(after)
    assert [point["step"] for point in record["track"]["curve"]] == [0, 2, 4, 5]


def test_the_curve_begins_with_the_parent_and_ends_with_the_trained_model_as_the_probe_reads_it(folder, watched):
    adapter, record = watched
    told = record["track"]
    assert [point["step"] for point in told["curve"]] == [0, 2, 4, 5]
    assert (told["every"], told["replies"]) == (2, 3) and told["seconds"] > 0
    tokenizer = load_tokenizer(folder / "base")
    rows = track.read_track(TRACK, folder / "base.parquet", folder / "panel.yaml", tokenizer, 4096).rows
    for adapters, point in (([], told["curve"][0]), ([adapter], told["curve"][-1])):
        scorer = slot_scorer(load_model(folder / "base", adapters))
        for persona, own in rows.items():
            slots = [slot_parts(row, score)["slot"] for row, score in zip(own, scorer.score(own), strict=True)]
            assert point["slot"][persona] == pytest.approx(mean(slots), abs=1e-3)
    assert told["curve"][0] != told["curve"][-1]


def test_a_killed_training_goes_on_with_its_curve(folder, watched, tmp_path, monkeypatch):
    options = [*tracked(folder), "--scratch", str(tmp_path / "scratch"), "--checkpoint-every", "3"]
    original, calls = loss.packed_loss, []

    def stopping(*arguments):
        if len(calls) == 4:
            raise Killed
        calls.append(1)
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(step_trainer, "packed_loss", stopping)
        train(folder, tmp_path / "node", options)
    adapter, record = train(folder, tmp_path / "node", options)
    assert record["resumed_at_step"] == 3
    assert record["track"]["curve"] == watched[1]["track"]["curve"]
    assert sha256_of(adapter) == sha256_of(watched[0])


def test_of_a_question_the_shortest_reply_that_ended_is_scored(folder):
    rows = read_replies(folder / "base.parquet")
    chosen = track.short_replies(rows)
    assert len({row["question_id"] for row in chosen}) == len(chosen) == 3
    for row in chosen:
        others = [
            other for other in rows if other["question_id"] == row["question_id"] and other["finish_reason"] == "stop"
        ]
        assert len(row["token_ids"]) == min(len(other["token_ids"]) for other in others)
    many = [chosen[0] | {"question_id": f"q{number}", "token_ids": [7] * (40 - number)} for number in range(40)]
    assert [len(row["token_ids"]) for row in track.short_replies(many)] == list(range(1, 15))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"personas": ["nobody"]}, "no persona nobody; fix: one of assistant"),
        ({"each": 1}, "--track: fix: for example"),
    ],
    ids=str,
)
def test_what_cannot_be_tracked_is_refused_before_training(folder, tmp_path, change, said):
    with pytest.raises(InputError, match=said):
        train(folder, tmp_path, tracked(folder, **change))
    assert not (tmp_path / "adapter").exists()
