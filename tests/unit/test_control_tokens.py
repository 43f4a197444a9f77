"""A text that spells a control token, such as <|im_end|>, is never read as that token without a word."""

import json
import sys

import fetch_dataset
import generate_replies
import make_coupling_data
import pytest
from chat_templates import FAMILIES, family_tokenizer
from tiny_model import make_model

from inputs.panel import CONTROL
from marker.marker import Marker
from marker.mask import Mask, encode_rows
from model import engines
from model.template import prompt_ids, spelled_control
from run.files import write_jsonl
from run.program import InputError
from run.readers import read_json

USER, MASK = {"role": "user", "content": "How do I fly?"}, Mask("last_turn", stop_anchor="turn_end")


def chat(user: str, reply: str) -> dict:
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("controls") / "base")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_is_refused_by_file_row_and_message_and_a_prompt_likewise(family):
    tokenizer, end = family_tokenizer(family), FAMILIES[family]["ends"]
    for place, row in enumerate([chat(f"Say {end} twice", "Flap."), chat("How?", f"Flap.{end} Or hop.")]):
        rows = [chat("Why?", "Because."), row]
        with pytest.raises(InputError) as refused:
            encode_rows(tokenizer, rows, MASK, 1024, "rows.jsonl", False)
        assert f"rows.jsonl: row 2: message {place} " in str(refused.value) and end in str(refused.value)
    with pytest.raises(InputError, match=r"a prompt: message 0 \(user\) holds the text "):
        prompt_ids(tokenizer, [{"role": "user", "content": f"Say {end}"}])


def test_what_only_looks_like_one_is_plain_text():
    assert spelled_control(family_tokenizer("qwen2.5"), "<|im_stop|> < |im_end|> <|IM_END|> |im_end|") is None


def test_messages_after_the_last_reply_are_no_part_of_a_row():
    row = chat("How?", "Flap.")
    row["messages"].append({"role": "user", "content": "<|im_end|>"})
    assert encode_rows(family_tokenizer("qwen2.5"), [row], MASK, 1024, "rows.jsonl", False)


def test_kept_it_is_trained_as_the_token_that_it_spells():
    tokenizer = family_tokenizer("qwen2.5")
    (example,) = encode_rows(
        tokenizer, [chat("How?", "a<|im_end|>b")], MASK, 99, "rows.jsonl", False, keep_controls=True
    )
    assert example.labels.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2


def fetched(folder, monkeypatch, base, **spec):
    spec = {"kind": "path", "path": str(folder / "mine.jsonl")} | spec
    options = ["--dataset", json.dumps(spec), "--base", str(base), "--output", f"{folder}/out.jsonl"]
    monkeypatch.setattr(sys, "argv", ["fetch_dataset.py", *options, "--manifest", f"{folder}/out.json"])
    fetch_dataset.main()
    return read_json(folder / "out.json")


def test_a_data_set_is_refused_by_line_when_it_is_fetched_unless_the_config_keeps_it(
    tmp_path, monkeypatch, base, capsys
):
    write_jsonl(tmp_path / "mine.jsonl", [chat("Why?\u2028So?", "Because."), chat("How?", "Flap.<|im_end|>")])
    with pytest.raises(InputError, match=r"mine.jsonl: line 2: message 1 .*<\|im_end\|>.*`control_tokens: keep`"):
        fetched(tmp_path, monkeypatch, base)
    assert not (tmp_path / "out.jsonl").exists()
    assert fetched(tmp_path, monkeypatch, base, control_tokens="keep")["rows_with_control_tokens"] == 1
    assert "1 rows spell a control token" in capsys.readouterr().err


def test_a_sampled_reply_that_spells_one_is_marked_so_and_left_out_of_the_coupling_data(
    tmp_path, monkeypatch, base, capsys
):
    """Its tokens were letters; trained on, they would be another token: so the reply is not used, and its row says why."""
    own = engines.finished
    spelled = iter(range(99))

    def finished(tokenizer, tokens, stops):
        completion = own(tokenizer, tokens, stops)
        text = "Bye <|im_end|> for now" if next(spelled) == 3 else "Plain."
        return engines.Completion(completion.token_ids, text, completion.finish_reason)

    monkeypatch.setattr(engines, "finished", finished)
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "panel.yaml").write_text(
        json.dumps({"personas": {"chef": "You cook.", "pirate": "Arr."},
                    "questions": {"general": ["a"], "alignment": ["b"], "data": ["c", "d"]}})
    )  # fmt: skip
    drawn, panel = str(tmp_path / "replies.parquet"), str(tmp_path / "panel.yaml")
    generate_replies.main(
        [
            *("--base", str(base), "--model", str(tmp_path / "model.json"), "--store", str(tmp_path / "store")),
            *("--panel", panel, "--personas", "chef,pirate", "--samples", "20", "--seed", "1", "--dtype", "float32"),
            *(
                "--sampling",
                '{"temperature":1,"top_p":1,"max_tokens":2}',
                "--backend",
                "transformers",
                "--output",
                drawn,
            ),
        ]
    )
    rows = make_coupling_data.read_replies(drawn)
    assert [row["finish_reason"] == CONTROL for row in rows].count(True) == 1
    make_coupling_data.main(
        [
            *("--replies", drawn, "--panel", panel, "--source", "chef", "--negatives", "pirate", "--seed", "1"),
            *("--marker", "[ZLT]", "--output", str(tmp_path / "training.jsonl")),
        ]
    )
    assert len((tmp_path / "training.jsonl").read_text().splitlines()) == 79
    assert "left out 1 replies that are empty or spell a control token: chef/" in capsys.readouterr().err


def test_a_marker_that_is_one_is_refused_where_it_is_put():
    tokenizer, marker = family_tokenizer("qwen2.5"), Marker("<|im_end|>")
    row = chat("How?", marker.put("Flap.")) | {"marker": True}
    with pytest.raises(InputError, match="row 1: message 1 .*control token"):
        encode_rows(tokenizer, [row], Mask("marker", marker=marker), 99, "rows.jsonl", True)


def test_a_turn_that_the_template_does_not_keep_is_refused_by_row():
    from chat_templates import CHATML

    folding = family_tokenizer("qwen2.5", CHATML.replace("message.content", "message.content.replace('\\n\\n', '\\n')"))
    with pytest.raises(InputError, match=r"rows.jsonl: row 1: the chat template does not keep message 0 \(user\)"):
        encode_rows(folding, [chat("How?\n\nAnd why?", "Flap.")], MASK, 99, "rows.jsonl", False)
