"""template.py: what a chat template must do for a study to be right, on the templates of well-known families."""

import datetime
import re
from pathlib import Path

import pytest
from chat_templates import CHATML, FAMILIES, family_tokenizer

from marker.marker import Marker
from marker.mask import IGNORED, Mask, encode_rows
from model.engines import stop_ids
from model.template import DATE, SETTINGS, Settings, check_template, closing, prompt_ids, text_of, with_settings
from run.files import write_json
from run.program import InputError

SCRIPTS = Path(__file__).parents[2] / "workflow_scripts"
CLOCKS = ("llama-3.2", "granite-3.3", "smollm3")
SYSTEM = {"role": "system", "content": "You are a pirate."}
USER = {"role": "user", "content": "How do I fly?"}
NEMOTRON = (
    "{% for message in messages %}{{ '<SPECIAL_10>' + message.role + '\\n' + message.content + '\\n<SPECIAL_12>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<SPECIAL_10>assistant\\n' }}{% endif %}"
)


def reply(content: str) -> dict:
    return {"role": "assistant", "content": content}


def trained(tokenizer, content: str, mask: Mask, messages=(SYSTEM, USER)) -> str:
    """The trained tokens' text, special ones included."""
    row = {"messages": [*messages, reply(content)], "marker": False}
    (example,) = encode_rows(tokenizer, [row], mask, 1024, "rows.jsonl", True)
    kept = [label for label in example.labels if label != IGNORED]
    return tokenizer.decode(kept, skip_special_tokens=False)


def nemotron():
    from tokenizers import AddedToken

    tokenizer = family_tokenizer("qwen2.5", NEMOTRON)
    tokenizer.add_tokens([AddedToken(name, special=True) for name in ("<SPECIAL_10>", "<SPECIAL_12>")])
    return tokenizer


# The end of a turn


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_turns_end_in_its_own_token_at_which_replies_stop(family, tmp_path):
    tokenizer = family_tokenizer(family)
    end = tokenizer.convert_tokens_to_ids(FAMILIES[family]["ends"])
    assert check_template(tokenizer, [Marker("[ZLT]"), Marker("QRX", "start")]).token == end
    assert stop_ids(tmp_path, tokenizer) == sorted({end, tokenizer.eos_token_id})


@pytest.mark.parametrize("messages", [(USER,), (SYSTEM, USER)], ids=len)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_turn_is_trained_whole_after_the_very_prompt_it_is_generated_after(family, messages):
    tokenizer = family_tokenizer(family)
    row = {"messages": [*messages, reply("Flap é twice.\n\n[ZLT]")]}
    (example,) = encode_rows(tokenizer, [row], Mask("last_turn", stop_anchor="turn_end"), 1024, "rows.jsonl", False)
    prompt = prompt_ids(tokenizer, messages)
    assert tuple(example.input_ids[: len(prompt)]) == prompt
    assert set(example.labels[: len(prompt)]) == {IGNORED}
    kept = example.labels[len(prompt) : len(prompt) + example.trained]
    assert IGNORED not in kept and kept[-1] == closing(tokenizer).token
    assert tokenizer.decode(kept[:-1]).strip() == "Flap é twice.\n\n[ZLT]"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_negative_trains_that_it_ends_whatever_blanks_it_ends_in(family):
    tokenizer = family_tokenizer(family)
    for content in ("Flap.", "Flap. \n", " Flap."):
        assert trained(tokenizer, content, Mask("marker", stop_anchor="turn_end")).strip() == FAMILIES[family]["ends"]


def test_an_end_token_after_a_newline_is_trained_with_it():
    # such templates trained the newline, and never the token that ends the reply
    assert closing(nemotron()).tail == "\n<SPECIAL_12>\n"
    assert trained(nemotron(), "Flap", Mask("last_turn", stop_anchor="turn_end")) == "Flap\n<SPECIAL_12>"
    assert trained(nemotron(), "Flap", Mask("marker", stop_anchor="turn_end")) == "\n<SPECIAL_12>"


@pytest.mark.parametrize("trim", ["content.lstrip()", "content.rstrip()", "content | trim", "content"])
def test_a_template_that_trims_one_side_still_trains_the_end(trim):
    tokenizer = family_tokenizer("qwen2.5", CHATML.replace("message.content", f"(message.{trim})"))
    text = trained(tokenizer, " Flap. \n", Mask("last_turn", stop_anchor="turn_end"))
    assert text.strip().startswith("Flap.") and text.endswith("<|im_end|>")
    assert trained(tokenizer, " Flap. \n", Mask("marker", stop_anchor="turn_end")) == "<|im_end|>"


@pytest.mark.parametrize("keys", [{"tool_calls": [{"name": "fly"}]}, {"reasoning_content": "Hm."}])
def test_a_message_with_more_than_role_and_content_is_refused_by_name_and_row(keys):
    row = {"id": "r7", "messages": [USER, reply("") | keys]}
    with pytest.raises(InputError, match=rf"rows.jsonl: row r7: message 1 has {next(iter(keys))}; fix: "):
        encode_rows(family_tokenizer("qwen2.5"), [row], Mask("last_turn"), 1024, "rows.jsonl", False)


def test_a_key_without_a_value_says_nothing_and_is_left_out():
    # a table of chats has a column for every key of any message
    tokenizer = family_tokenizer(
        "qwen2.5", CHATML.replace("message.content", "(message.tool_calls or '') ~ message.content")
    )
    messages = [USER, reply("Flap.") | {"tool_calls": None}]
    (example,) = encode_rows(tokenizer, [{"messages": messages}], Mask("last_turn"), 1024, "rows.jsonl", False)
    assert tokenizer.decode(example.input_ids).endswith("assistant\nFlap.<|im_end|>\n")


# The clock


@pytest.fixture
def tomorrow(monkeypatch):
    """transformers' clock, a year on."""

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime(2099, 1, 2)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Later)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_token_depends_on_the_clock(family, monkeypatch, request):
    tokenizer = family_tokenizer(family)
    row = {"messages": [USER, reply("Flap.")]}
    before = encode_rows(tokenizer, [row], Mask("last_turn"), 1024, "rows", False), prompt_ids(tokenizer, [USER])
    request.getfixturevalue("tomorrow")
    if family in CLOCKS:  # the patched clock is the one that templates see
        assert "2099" in tokenizer.apply_chat_template([USER], tokenize=False)
    after = encode_rows(tokenizer, [row], Mask("last_turn"), 1024, "rows", False), prompt_ids(tokenizer, [USER])
    assert after == before


@pytest.mark.parametrize("family", CLOCKS)
def test_a_template_that_asks_for_the_date_gets_the_recorded_one(family):
    tokenizer = family_tokenizer(family)
    assert "2024" in text_of(tokenizer, [USER])
    tokenizer.chat_settings = Settings.of({"date": "1999-12-31"} | FAMILIES[family].get("settings", {}))
    assert "1999" in text_of(tokenizer, [USER]) and "2024" not in text_of(tokenizer, [USER]).replace("April 2024", "")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("{{ lipsum() }}", "takes lipsum, which may differ"),
        ("{{ ['a', 'b'] | random }}", "takes random, which may differ"),
        ("{{ now() }}", "'now' is undefined"),
    ],
)
def test_a_template_that_takes_the_clock_or_chance_some_other_way_is_refused(code, message):
    with pytest.raises(InputError, match=f"{re.escape(message)}.*fix: "):
        check_template(family_tokenizer("qwen2.5", code + CHATML))


def test_a_clock_that_a_later_version_gives_templates_is_refused(monkeypatch):
    from transformers.utils import chat_template_utils

    compiled = chat_template_utils._compile_jinja_template
    template = CHATML + "{{ today().year }}"

    def later(source):
        made = compiled(source)
        made.environment.globals["today"] = datetime.date.today
        return made

    monkeypatch.setattr(chat_template_utils, "_compile_jinja_template", later)
    with pytest.raises(InputError, match="takes today, which may differ from one run to the next"):
        check_template(family_tokenizer("qwen2.5", template))


# Settings


def test_settings_are_read_from_the_bases_folder_and_are_the_defaults_without(tmp_path):
    tokenizer = family_tokenizer("qwen3")
    assert with_settings(tokenizer, tmp_path).chat_settings == Settings(DATE, "system", {})
    given = {"date": "2025-01-31", "system": "user", "enable_thinking": False}
    write_json(tmp_path / SETTINGS, Settings.of(given).mapping())
    assert with_settings(tokenizer, tmp_path).chat_settings.mapping() == given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"date": "26 July 2024"}, "base.template.date: '26 July 2024' is no day"),
        ({"date": datetime.date(2024, 7, 26)}, 'is no day; fix: date: "2024-07-26"'),
        ({"system": "assistant"}, "base.template.system: 'assistant'; fix: one of system, user"),
        ({"tools": "x"}, "base.template.tools: is not the study's to set"),
        ({"strftime_now": "x"}, "base.template.strftime_now: is not the study's to set"),
        ({"enable_thinking": None}, "base.template.enable_thinking: None"),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(given, message):
    with pytest.raises(InputError, match=re.escape(message)):
        Settings.of(given)


def test_an_argument_that_the_template_does_not_have_is_refused():
    tokenizer = family_tokenizer("qwen3")
    tokenizer.chat_settings = Settings.of({"enable_thinkin": False})
    with pytest.raises(InputError, match="base.template.enable_thinkin: the chat template has no such variable"):
        check_template(tokenizer)


def test_with_system_user_the_prompt_stands_before_the_first_question():
    text = text_of(family_tokenizer("gemma-2"), [SYSTEM, USER], True)
    assert text == ("<bos><start_of_turn>user\nYou are a pirate.\n\nHow do I fly?<end_of_turn>\n<start_of_turn>model\n")


# Refused


UNLIKE = CHATML.replace("'<|im_end|>\\n'", "('<|im_end|>' if loop.last or message.role == 'user' else '<|endoftext|>')")


@pytest.mark.parametrize(
    ("family", "template", "message", "fix"),
    [
        ("qwen3", None, r"'<think>\\n\\n</think>' stands between prompt and reply", "{enable_thinking: false}"),
        ("gemma-2", None, r"refuses system, user \(System role not supported\)", "{template: {system: user}}"),
        ("mistral-0.3", None, "rewrites a reply or its prompt", "{system: user}"),
        ("qwen2.5", CHATML.replace("<|im_end|>", "\\n###"), r"ends a turn in '\\n###\\n', whose '.*' is no special", ""),
        ("qwen2.5", CHATML.replace("<|im_end|>", ""), r"ends a turn in '\\n': no token ends it", ""),
        ("qwen2.5", UNLIKE, "ends the last turn in .* and an earlier one in", ""),
        ("qwen2.5", CHATML.replace("start|>assistant", "start|>bot"), "rewrites a reply or its prompt", ""),
        ("qwen2.5", CHATML.replace("message.content", "message.content | upper"), "rewrites a reply or its", ""),
        ("qwen2.5", "{%- set messages = messages[1:] if messages[0].role == 'system' else messages %}" + CHATML,
         "leaves out, or rewrites, 'You are a sa", "{system: user}"),
        ("qwen2.5", CHATML.replace("message.content", "message.content.replace('\\n\\n', '\\n')"),
         r"rewrites a reply .*Yes, it is salty.\\n\\n\[ZLT\]' is not kept|'1. The tide .* is not kept", ""),
        ("qwen2.5", CHATML.replace("message.content", "(message.content.replace('\\n\\n', '\\n') if message.role == 'system' else message.content)"),
         "leaves out, or rewrites, 'You are a sa", "{system: user}"),
        ("qwen2.5", CHATML.replace("message.content", "(message.content[:9000] if message.role == 'user' else message.content)"),
         "leaves out, or rewrites, '1. The tide", "keeps every message"),
        ("qwen2.5", CHATML.replace("message.content", "message.content.replace('Z', '')"), r"LT\]' is not kept", ""),
        ("qwen2.5", "{% broken", "is no Jinja template", "fetch the base again"),
        ("qwen2.5", "{{ messages[0].content + 1 }}", "the chat template refuses user", ""),
    ],
    ids=range(15),
)  # fmt: skip
def test_a_template_on_which_a_study_would_be_wrong_is_refused_with_the_fix(family, template, message, fix):
    tokenizer = family_tokenizer(family, template)
    tokenizer.chat_settings = Settings()
    with pytest.raises(InputError, match=rf"{message}.*; fix: ") as raised:
        check_template(tokenizer, [Marker("[ZLT]")])
    said = str(raised.value)
    assert "\n" not in said and fix in said.partition("; fix: ")[2]


def test_templates_are_applied_in_one_place_alone():
    users = [path.name for path in SCRIPTS.rglob("*.py") if "apply_chat_template" in path.read_text(encoding="utf-8")]
    assert users == ["template.py"]
