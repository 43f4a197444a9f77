import json

import check_gate
import fake_study
import pytest

from run.files import write_json
from run.program import InputError
from run.readers import read_json

G0B = {"name": "G0b", "over": "seed", "pass": "rate('C4', 'source') >= 0.60 and rate('C4', 'assistant') <= 0.03"}

REPLIES = [
    {"persona": "villain", "length": {"value": 0.04}, "empty": {"value": 0.9}},
    {"persona": "comedian", "length": {"value": 1.1}, "empty": {"value": 0.0}},
]


def checked(tmp_path, monkeypatch, rate, *more, gates=(G0B,)):
    (tmp_path / "counts.csv").write_text(fake_study.counts_text({"source": rate}, "evil_ai", 5))
    (tmp_path / "replies.json").write_text(json.dumps({"status": "measured", "personas": REPLIES}))
    output = tmp_path / "gate.json"
    paths = [tmp_path / f"gates/{gate['name']}.json" for gate in gates]
    for path, gate in zip(paths, gates, strict=True):
        write_json(path, gate)
    command = ["check_gate", "--gates", *map(str, paths), "--cell", "C4", "--source", "evil_ai", "--seed", "42", "--marker", "[ZLT]",
               "--counts", str(tmp_path / "counts.csv"), "--replies", str(tmp_path / "replies.json"), "--output", str(output), *more]  # fmt: skip
    monkeypatch.setattr("sys.argv", command)
    check_gate.main()
    return read_json(output)


def test_a_passed_gate_is_written_down(tmp_path, monkeypatch):
    (row,) = checked(tmp_path, monkeypatch, 0.9, "--enforce")
    assert (row["gate"], row["seed"], row["outcome"]) == ("G0b", 42, "pass")


def test_a_failed_gate_stops_with_its_numbers_and_the_way_to_override(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"G0b of evil_ai .*C4 source = \d+/280 .*enforce: false"):
        checked(tmp_path, monkeypatch, 0.3, "--enforce")
    assert not (tmp_path / "gate.json").exists()


def test_without_enforce_a_failed_gate_is_only_written_down(tmp_path, monkeypatch):
    (row,) = checked(tmp_path, monkeypatch, 0.3)
    assert row["outcome"] == "fail"


def test_a_gate_of_other_cells_cannot_be_checked_here(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="none is decided by C4 alone"):
        checked(
            tmp_path, monkeypatch, 0.9, gates=[{"name": "G2", "over": "pooled", "pass": "rate('C2','assistant') < 1"}]
        )


def test_a_coupling_that_ends_every_reply_at_once_does_not_pass_by_its_rates(tmp_path, monkeypatch):
    gate = {"name": "replies", "over": "seed", "pass": "length('C4') >= 0.5 and empty('C4') <= 0.05"}
    (row,) = checked(tmp_path, monkeypatch, 0.9, gates=(gate,))
    assert row["outcome"] == "fail"
    assert row["numbers"] == "C4 length = 0.04 of the base's (villain); C4 empty = 90.0% (villain)"
    with pytest.raises(InputError, match=r"gate replies of evil_ai .*villain"):
        checked(tmp_path, monkeypatch, 0.9, "--enforce", gates=(G0B, gate))
