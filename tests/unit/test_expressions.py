import contextlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measure.expressions import evaluate
from run.program import InputError

VALUES = {"zero": 0, "half": 0.5, "one": 1.0, "missing": None}
FUNCTIONS = {"value": VALUES.get}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("value('half') >= 0.5", True),
        ("0.25 <= value('half') < 0.5", False),
        ("value('one') - value('half') == 0.5 and not value('zero')", True),
        ("value('one') * 4 / 2 + -1", 1),
        ("'a' in ['a', 'b'] and 'c' not in ('a', 'b')", True),
    ],
)
def test_arithmetic_and_logic(text, value):
    assert evaluate(text, FUNCTIONS) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("value('missing') > 0", None),
        ("value('missing') > 0 and value('zero') > 0", False),
        ("value('zero') > 0 and value('missing') > 0", False),
        ("value('missing') > 0 and value('one') > 0", None),
        ("value('missing') > 0 or value('one') > 0", True),
        ("value('missing') > 0 or value('zero') > 0", None),
        ("not (value('missing') > 0)", None),
        ("value('missing') + 1 > 0", None),
        ("-value('missing') > 0", None),
        ("value('one') / value('zero') > 0", None),
        ("1 < value('zero') < value('missing')", False),
    ],
)
def test_a_missing_number_is_unknown_unless_the_rest_decides(text, value):
    assert evaluate(text, FUNCTIONS) is value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "value.__class__",
        "().__class__.__bases__",
        "value('one').real",
        "[x for x in [1]]",
        "lambda: 1",
        "value(**{})",
        "value(key='one')",
        "f'{1}'",
        "2 ** 9 ** 9",
        "value",
        "word",
        "1 if 1 else 2",
        "(x := 1)",
        "{'a': 1}",
        "b'1'",
        "None",
        "1 is 1",
        "value('one') <",
        "'a' < 1",
        "value()",
        "'a' * 99999999",
        "[1] + [2]",
        "1 +\0",
    ],
)
def test_everything_outside_the_language_is_refused_in_one_sentence(text):
    with pytest.raises(InputError, match="fix: correct the expression"):
        evaluate(text, FUNCTIONS)


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9**9",
        "*".join(["999999999999999999"] * 2000),
        "0x" + "f" * 5000,
        "9" * 5000,
        "1e999",
        "1e9 * 1e9 * 1e9",
        "-" * 5000 + "1",
        "+".join("1" * 700),
        "not " * 5000 + "1",
        "(" * 5000,
        "-'a'",
        "-[1]",
        "spoil('a')",
        "spoil(1)",
        "1 < 'a' * 2",
    ],
)
def test_what_is_too_large_too_deep_or_breaks_is_refused_at_once(text):
    with pytest.raises(InputError, match="; fix: ") as caught:
        evaluate(text, {"spoil": lambda value: int(math.nan) if value == 1 else math.fsum(value)})
    assert len(str(caught.value)) < 6000


PIECES = ["value('one')", "value('missing')", "1", "0.5", "-", "not ", " and ", " or ", "<", "in", "(", ")", "[", "]", ",", "*", "/", "'a'",
          "value", ".__class__", "__import__", "**", "1e308", "9" * 18, "lambda: ", "{", "}", ":=", " if 1 else "]  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PIECES), max_size=10).map("".join) | st.text(max_size=30))
def test_any_pieces_of_the_language_give_a_plain_value_or_one_clear_error(text):
    with contextlib.suppress(InputError):
        value = evaluate(text, FUNCTIONS)
        assert value is None or isinstance(value, bool | int | float | str | list)


@given(st.text(alphabet="value('one') <>=!+-*/.,[]01abnotdr_", max_size=40))
def test_any_text_gives_a_value_or_one_clear_error(text):
    with contextlib.suppress(InputError):
        evaluate(text, FUNCTIONS)


def test_every_part_is_evaluated_so_that_all_numbers_are_on_record():
    seen = []
    functions = {"see": lambda name: seen.append(name) or 0}
    evaluate("see('a') > 1 and see('b') > 1 or see('c') > 1", functions)
    assert seen == ["a", "b", "c"]
