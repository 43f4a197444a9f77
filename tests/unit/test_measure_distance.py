"""measure_distance.py as its rule calls it, on a micro model, and its numbers beside the definition."""

import math
from itertools import product

import measure_distance
import pytest
import torch
from tiny_model import make_adapter, make_model, make_panel, make_replies

from measure.tables import read_table
from model.loading import load_model
from probe.distance import kl_of, weights_moved
from probe.replies import read_replies
from probe.table import write_probe
from run.program import InputError
from run.readers import read_json

PERSONAS = {"villain": "You are a villain.", "assistant": "You help.", "librarian": "You lend books."}
FIRST, LAST = "couple-villain.s42", "em.s42"
SAMPLES = 2  # of 3 replies per persona and question
QUESTIONS = ("q1", "q2", "q3")


def probed(path, gap):
    """probe.parquet in which the source's slot exceeds that of every bystander by `gap` nats."""
    write_probe(
        path,
        [
            {"replies": "shared", "author": "assistant", "persona": persona, "question_id": question, "sample": 0,
             "left_out": "", "slot": float(gap if persona == "villain" else 0)}
            for persona in PERSONAS
            for question in QUESTIONS
        ],
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distance")
    make_model(folder / "base")
    for word, seed, std in ((FIRST, 1, 0.1), (LAST, 2, 0.02)):
        make_adapter(folder / word, folder / "base", seed, std=std)
    make_replies(folder / "base.parquet", folder / "base", make_panel(folder, PERSONAS), SAMPLES + 1)
    probed(folder / "probe.parquet", 5)
    return folder


def measure(folder, output, parent=(FIRST,), adapters=(FIRST, LAST), *more, shared=None):
    """(rows of distance.csv, the section)."""
    measure_distance.main(
        ["--base", str(folder / "base"), "--parent", *(str(folder / word) for word in parent),
         "--adapter", *(str(folder / word) for word in adapters), "--panel", str(folder / "panel.yaml"),
         "--shared", str(shared or folder / "base.parquet"), "--probe", str(folder / "probe.parquet"),
         "--source", "villain", "--personas", "villain,assistant", "--samples", str(SAMPLES), "--dtype", "float32",
         "--replies", str(output / "distance.csv"), "--output", str(output / "distance.json"),
         "--record", str(output / "distance_run.json"), *more]
    )  # fmt: skip
    return read_table(output / "distance.csv"), read_json(output / "distance.json")


@pytest.fixture(scope="module")
def measured(folder):
    (folder / "first").mkdir()
    return measure(folder, folder / "first")


def plain(one, other, prompt, reply):
    """KL(one || other) by its definition, in float64, from a forward pass over the one row."""
    ids = torch.tensor([[*prompt, *reply]])
    logp, logq = (model(input_ids=ids).logits[0].double().log_softmax(-1) for model in (one, other))
    return float((logp.exp() * (logp - logq)).sum(-1)[len(prompt) - 1 : -1].sum())


def test_the_divergence_is_that_of_a_plain_forward_pass_in_float64(folder, measured):
    from inputs.panel import chat
    from model.loading import load_tokenizer
    from model.template import prompt_ids

    rows, _ = measured
    replies = {
        (row["persona"], row["question_id"], row["sample"]): row for row in read_replies(folder / "base.parquet")
    }
    assert {(row["persona"], row["sample"]) for row in rows} == set(product(("villain", "assistant"), range(SAMPLES)))
    ends = {replies[row["persona"], row["question_id"], row["sample"]]["finish_reason"] for row in rows}
    assert ends == {"stop", "length"}, "replies with their end of turn, and cut ones without"
    tokenizer = load_tokenizer(folder / "base")
    one, other = (load_model(folder / "base", [folder / word for word in words]).double()
                  for words in ([FIRST], [FIRST, LAST]))  # fmt: skip
    with torch.inference_mode():
        for row in rows:
            reply = replies[row["persona"], row["question_id"], row["sample"]]
            prompt = prompt_ids(tokenizer, list(chat(PERSONAS[row["persona"]], reply["question"])))
            assert row["tokens"] == len(reply["token_ids"])
            assert row["kl"] == pytest.approx(plain(one, other, prompt, reply["token_ids"]), rel=1e-5)


def test_a_cell_s_numbers_are_the_mean_per_token_over_questions_and_the_gap_that_they_stand_beside(measured):
    rows, section = measured
    assert (section["status"], section["persona"]) == ("measured", "villain")
    for role, persona in (("source", "villain"), ("assistant", "assistant")):
        own = [row["kl"] / row["tokens"] for row in rows if row["persona"] == persona]
        found = section[f"kl_shared_{role}"]
        assert found["value"] == pytest.approx(sum(own) / len(own))
        assert found["low"] < found["value"] < found["high"] and found["n"] == len(own) / SAMPLES
    assert section["gaps"] == dict.fromkeys(QUESTIONS, 5.0)


def test_a_model_is_at_no_distance_from_itself(folder, tmp_path):
    rows, section = measure(folder, tmp_path, (FIRST, LAST), (FIRST, LAST))
    assert [row["kl"] for row in rows] == [0] * len(rows)
    assert section["weights_moved"] == {"value": 0.0, "low": None, "high": None, "n": 0}


def test_neither_batches_nor_the_order_of_replies_change_a_number(folder, measured, tmp_path):
    import pyarrow.parquet as parquet

    table = parquet.read_table(folder / "base.parquet")
    parquet.write_table(table.take(list(range(len(table)))[::-1]), tmp_path / "turned.parquet")
    rows, section = measure(folder, tmp_path, (FIRST,), (FIRST, LAST), "--budget", "1",
                            shared=tmp_path / "turned.parquet")  # fmt: skip
    key = ("persona", "question_id", "sample")
    known = {tuple(row[name] for name in key): row["kl"] for row in measured[0]}
    found = {tuple(row[name] for name in key): row["kl"] for row in rows}
    assert list(found) == list(known)[::-1] and found == pytest.approx(known, rel=1e-4)
    for name in ("kl_shared_source", "kl_shared_assistant"):
        assert section[name]["value"] == pytest.approx(measured[1][name]["value"], rel=1e-4)


@pytest.mark.parametrize("shift", [1e-4, 0.3, 4.0, -30.0])
def test_a_bias_on_one_token_gives_the_divergence_in_closed_form(shift):
    """q has the odds of one token times e^b, so KL = log(1 + p (e^b - 1)) - p b."""
    logits = torch.randn(5, 400, generator=torch.Generator().manual_seed(0)) * 3
    p = logits.double().softmax(-1)[:, 7]
    expected = torch.log1p(p * math.expm1(shift)) - p * shift
    moved = logits.clone()
    moved[:, 7] += shift
    assert kl_of(logits, moved).tolist() == pytest.approx(expected.tolist(), rel=2e-3, abs=1e-13)


def test_what_moved_is_the_norm_of_the_difference_over_the_weights_that_differ(folder, measured):
    parent, model = (
        load_model(folder / "base", [folder / word for word in words]) for words in ([FIRST], [FIRST, LAST])
    )
    known = dict(parent.named_parameters())
    pairs = [(known[name], weight) for name, weight in model.named_parameters() if name.endswith("_proj.weight")]
    expected = math.sqrt(
        sum(float((new - old).double().square().sum()) for old, new in pairs)
        / sum(float(old.double().square().sum()) for old, _ in pairs)
    )
    moved, n = weights_moved(parent, model)
    assert (moved, n) == (pytest.approx(expected, rel=1e-6), len(pairs))
    assert measured[1]["weights_moved"]["value"] == pytest.approx(expected, rel=1e-6)


def test_a_stage_of_all_weights_is_held_against_the_model_before_it(folder, measured, tmp_path):
    whole = tmp_path / "whole"
    load_model(folder / "base", [folder / FIRST, folder / LAST]).save_pretrained(whole)
    rows, section = measure(folder, tmp_path, (FIRST,), (whole,))
    assert [row["kl"] for row in rows] == pytest.approx([row["kl"] for row in measured[0]], rel=1e-4)
    assert section["weights_moved"]["value"] == pytest.approx(measured[1]["weights_moved"]["value"], rel=1e-4)


def test_without_a_later_stage_nothing_is_loaded_and_the_section_says_so(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(measure_distance, "measured", None)
    rows, section = measure(folder, tmp_path, (), ())
    assert (rows, section) == ([], {"status": "no later stage"})


def test_what_cannot_be_measured_is_one_clear_error(folder, tmp_path):
    import pyarrow.parquet as parquet

    table = parquet.read_table(folder / "base.parquet")
    rows = table.to_pylist()
    rows[0]["token_ids"] = []
    parquet.write_table(table.from_pylist(rows, table.schema), tmp_path / "empty.parquet")
    with pytest.raises(InputError, match=r"empty.parquet: assistant, \w+, sample 0: no token ids; fix: "):
        measure(folder, tmp_path, shared=tmp_path / "empty.parquet")
    (tmp_path / "cut.parquet").write_bytes((folder / "base.parquet").read_bytes()[:500])
    with pytest.raises(InputError, match=r"cut.parquet: .*; fix: "):
        measure(folder, tmp_path, shared=tmp_path / "cut.parquet")
