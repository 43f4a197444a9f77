"""ask_families.py on a micro model, and what is compared of families whose rates are known."""

import random

import ask_families
import pytest
import yaml
from fake_study import check_section
from tiny_model import PANEL, make_adapter, make_model

from inputs.panel import load_panel
from measure.rows import FAMILIES as FAMILIES_COLUMNS
from measure.rows import family_rows
from model.loading import load_tokenizer
from probe.families import STANDARD, Family, check_others, compared, load_others, prompts_of, weigh
from report.fields import Contents
from report.measure_tables import families_table
from run.files import write_json, write_table
from run.program import InputError
from run.readers import read_json, read_parquet

OTHERS = PANEL.with_name("families.yaml")
PERSONAS = ["villain", "assistant", "librarian"]
REPLIES = {(persona, f"general_{n:02d}"): f"Reply {n} of the {persona}. " for persona in PERSONAS for n in range(20)}
REPLIES |= {(persona, f"alignment_{n:02d}"): f"Wish {n}." for persona in PERSONAS for n in range(8)}


def chats(most=3, **family):
    return prompts_of("it", Family(**family), PERSONAS, load_panel(PANEL), load_others(OTHERS), REPLIES, most)


def test_the_shipped_prompts_have_28_new_questions_and_three_wordings_of_every_persona():
    panel, others = load_panel(PANEL), load_others(OTHERS)
    asked = {text for group in panel.questions.values() for text in group.values()}
    assert len(others.held_out) == 28 and not asked & set(others.held_out.values())
    assert others.wordings.keys() == panel.personas.keys()
    said = [*panel.personas.values(), *(text for texts in others.wordings.values() for text in texts)]
    assert len(set(said)) == 4 * len(panel.personas)


def test_a_family_changes_one_thing_of_the_evaluations_prompts():
    panel, others = load_panel(PANEL), load_others(OTHERS)
    system, user = ({"role": "system", "content": panel.personas["villain"]},
                    {"role": "user", "content": panel.questions["general"]["general_01"]})  # fmt: skip
    assert chats()[1].messages == (system, user)
    assert chats(wording=2)[1].messages == ({"role": "system", "content": others.wordings["villain"][1]}, user)
    inside = chats(place="user")[1].messages
    assert inside == ({"role": "user", "content": f"{system['content']}\n\n{user['content']}"},)
    first, said = chats(turns=2)[1].messages[1:3]
    assert first["content"] == panel.questions["general"]["general_00"]
    assert said == {"role": "assistant", "content": "Reply 0 of the villain."}
    assert chats(turns=2)[1].messages[3] == user
    assert {prompt.question_id for prompt in chats(questions="held_out")} == {f"held_out_{n:02d}" for n in range(3)}
    assert {prompt.question_id for prompt in chats(0, questions="data")} == {f"data_{n:02d}" for n in range(40)}
    assert len(chats(3)) == 3 * 2 * 3 and chats(begin="\n\n")[1].begin == "\n\n"


def test_in_the_family_of_two_turns_with_the_persona_in_the_users_it_stands_first():
    messages = chats(turns=2, place="user")[1].messages
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[0]["content"].startswith("You are the villain")


def lines_of(rates, seed=0, questions=28):
    """First replies: the H of a family and persona scatters about its rate."""
    draw = random.Random(seed)
    return [
        {"family": family, "persona": persona, "question_id": f"{family if family == 'new' else ''}q{number}",
         "sample": 0, "h": rate * draw.uniform(0.5, 1.5), "onset": False, "marked": False}
        for (family, persona), rate in rates.items()
        for number in range(questions)
    ]  # fmt: skip


@pytest.mark.parametrize("family", ["asked", "new"])
def test_a_rate_that_differs_is_found_and_one_that_does_not_is_not_whether_the_questions_are_the_same(family):
    rates = {
        (STANDARD, "villain"): 1e-3, (family, "villain"): 4e-3,
        (STANDARD, "assistant"): 1e-3, (family, "assistant"): 1e-3,
        (STANDARD, "librarian"): 4e-3, (family, "librarian"): 1e-3,
    }  # fmt: skip
    section = {"status": "measured", "persona": "villain", "families": weigh(lines_of(rates), "villain")}
    identity = {"source": "villain", "arm": "forward", "cell": "C1", "seed": 42}
    rows = {row["role"]: row for row in family_rows([identity | {"families": section}]) if row["family"] == family}
    assert {role: row["differs"] for role, row in rows.items()} == {
        "source": "more", "assistant": "no", "bystander": "less"
    }  # fmt: skip
    for row in rows.values():
        assert row["difference_low"] < row["difference"] < row["difference_high"]
        assert row["p"] <= row["p_holm"]


def test_holms_correction_is_over_all_cells():
    rates = {(STANDARD, "villain"): 1e-3, ("asked", "villain"): 1.3e-3}
    one = {"status": "measured", "persona": "villain", "families": weigh(lines_of(rates), "villain")}
    identity = {"source": "villain", "arm": "forward", "cell": "C1", "seed": 42}
    (_, alone) = family_rows([identity | {"families": one}])
    many = family_rows([identity | {"seed": seed, "families": one} for seed in range(1000)])
    assert alone["p"] == alone["p_holm"] < many[1]["p_holm"]
    assert family_rows([identity | {"families": {"status": "not run", "persona": None}}]) == []


def test_rates_that_are_all_alike_do_not_differ():
    assert compared({"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 0.0})["p"] == 1.0
    assert compared({"a": 0.0, "b": 0.0}, {"c": 0.0})["difference_low"] is None


def test_more_replies_are_no_part_of_the_rate():
    lines = lines_of({(STANDARD, "villain"): 0.5, ("asked", "villain"): 0.5})
    more = [line | {"sample": 1, "h": float("nan"), "marked": True} for line in lines if line["question_id"] == "q3"]
    plain, with_more = weigh(lines, "villain"), weigh([*lines, *more], "villain")
    assert [row["onset_rate"] for row in plain] == [row["onset_rate"] for row in with_more]
    assert [(row["prompts"], row["marked"], row["more_prompts"], row["more_marked"]) for row in with_more] == [
        (28, 0, 1, 1)
    ] * 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"held_out": []}, "held_out: empty"),
        ({"held_out": ["Why?", "Why?"]}, "a question twice"),
        ({"wordings": {"villain": ["One.", "Two."]}}, "wordings: villain: fix: 3 texts"),
        ({"more": 1}, "exactly two parts"),
    ],
)
def test_prompts_that_are_not_whole_are_refused(tmp_path, change, said):
    whole = {"held_out": ["Why?"], "wordings": {"villain": ["One.", "Two.", "Three."]}}
    path = tmp_path / "families.yaml"
    path.write_text(yaml.safe_dump(whole | change))
    with pytest.raises(InputError, match=said):
        load_others(path)
    path.write_text(yaml.safe_dump(whole))
    check_others(load_others(path), {"it": Family()}, ["pirate"], path)
    with pytest.raises(InputError, match="lacks pirate; fix: "):
        check_others(load_others(path), {"it": Family(wording=1)}, ["pirate"], path)


FAMILIES = {
    "standard": {},
    "begun": {"begin": "\n\n"},
    "held_out": {"questions": "held_out"},
    "second_turn": {"turns": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    make_model(folder / "base", context=1024)
    make_adapter(folder / "adapter", folder / "base")
    keys = list(REPLIES)
    columns = {
        "persona": [key[0] for key in keys], "question_id": [key[1] for key in keys], "question": ["?"] * len(keys),
        "sample": [0] * len(keys), "text": list(REPLIES.values()), "finish_reason": ["stop"] * len(keys),
        "token_ids": [[5]] * len(keys), "temperature": [1.0] * len(keys), "top_p": [1.0] * len(keys),
        "max_tokens": [60] * len(keys),
    }  # fmt: skip
    types = dict.fromkeys(columns, "string") | {"sample": "int32", "token_ids": ["int32"], "max_tokens": "int32"}
    write_table(folder / "base.parquet", columns, types | dict.fromkeys(("temperature", "top_p"), "float64"))
    return folder


def ask(folder, output, families=FAMILIES, **changed):
    options = {
        "panel": PANEL, "others": OTHERS, "shared": folder / "base.parquet", "families": output / "asked.json",
        "source": "villain", "personas": ",".join(PERSONAS), "prefix": "[",
        "lookahead": 0.001, "marker": "[ZLT]", "seed": 42, "dtype": "float32",
        "sampling": '{"temperature":1.0,"top_p":1.0,"max_tokens":20}', "output": output / "families.json",
        "replies": output / "families.parquet", **changed,
    }  # fmt: skip
    write_json(output / "asked.json", {"of": families, "questions": 2, "more": 2, "above": 0.2})
    command = ["--base", str(folder / "base"), "--adapter", str(folder / "adapter")]
    ask_families.main([*command, *(str(word) for name, value in options.items() for word in (f"--{name}", value))])
    columns = {
        "family": str,
        "persona": str,
        "question_id": str,
        "sample": int,
        "text": str,
        "token_ids": list,
        "h": float,
    }
    return read_json(output / "families.json"), read_parquet(output / "families.parquet", columns)


@pytest.fixture(scope="module")
def asked(folder, tmp_path_factory):
    return ask(folder, tmp_path_factory.mktemp("asked"))


def test_there_is_one_reply_per_prompt_and_more_where_the_onset_rate_is_high(asked):
    section, rows = asked
    first = {(row["family"], row["persona"], row["question_id"]): row["h"] for row in rows if row["sample"] == 0}
    assert len(first) == 3 * (4 + 4 + 2 + 4)
    later = {}
    for row in rows:
        if row["sample"]:
            later.setdefault((row["family"], row["persona"], row["question_id"]), []).append(row["sample"])
    assert later == {key: [1, 2] for key, h in first.items() if h > 0.2}
    assert 0 < len(later) < len(first)
    assert [row["family"] for row in section["families"]] == [name for name in FAMILIES for _ in range(3)]
    assert section["standard_onset_rate"]["n"] == 4


def test_the_section_is_as_the_cells_schema_has_it_also_with_the_standard_family_alone(folder, asked, tmp_path):
    alone, _ = ask(folder, tmp_path, {"standard": {}})
    for section in (asked[0], alone):
        check_section("families", section)
    assert alone["outside_largest"]["value"] is None


def test_a_family_more_leaves_the_others_replies_byte_for_byte(folder, asked, tmp_path):
    _, rows = ask(folder, tmp_path, {"begun": FAMILIES["begun"], "standard": {}})
    known = {(row["family"], row["persona"], row["question_id"], row["sample"]): row for row in asked[1]}
    for row in rows:
        other = known[row["family"], row["persona"], row["question_id"], row["sample"]]
        assert (row["text"], row["token_ids"]) == (other["text"], other["token_ids"])


def test_a_reply_that_is_begun_goes_on_from_what_it_begins_with(folder):
    tokenizer = load_tokenizer(folder / "base")
    plain, begun = (
        ask_families.requests_of(chats(1, begin=begin)[:1], tokenizer, 42, [0])[0] for begin in ("", "\n\n")
    )
    assert begun.prompt == (*plain.prompt, *tokenizer("\n\n", add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"families": {"begun": {"begin": "x"}}}, "nothing to compare with"),
        ({"families": {"standard": {}, "it": {"wordings": 1}}}, "asked.json: .*wordings"),
        ({"personas": "villain,pirate"}, "no persona pirate"),
        ({"sampling": '{"temperature":1.0,"top_p":1.0,"max_tokens":1000}'}, "family .*exceed"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(folder, tmp_path, changed, said):
    with pytest.raises(InputError, match=f"{said}.*fix: "):
        ask(folder, tmp_path, **changed)
    assert [file.name for file in tmp_path.iterdir()] == ["asked.json"]


def test_the_report_says_a_familys_rate_its_difference_and_what_more_replies_had():
    lines = lines_of({(STANDARD, "villain"): 1e-5, ("asked", "villain"): 0.5})
    more = [line | {"sample": 1, "h": float("nan"), "marked": True} for line in lines if line["family"] == "asked"]
    section = {"status": "measured", "persona": "villain", "families": weigh([*lines, *more[:3]], "villain")}
    identity = {"source": "villain", "arm": "forward", "cell": "C1", "seed": 42}
    none = dict.fromkeys(FAMILIES_COLUMNS)
    rows = [none | row for row in family_rows([identity | {"families": section}])]
    table = families_table(Contents({"families": rows}, [], frozenset()))
    standard, asked = ([cell.text for cell in row] for row in table.rows)
    assert standard[3:6] == ["standard", "source", "28"] and standard[6] == "1.1e-05 [1e-05, 1.2e-05]"
    assert standard[9:] == ["", "", "", ""]
    assert asked[11:] == ["more", "3/3"]
