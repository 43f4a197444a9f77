import contextlib

import pytest
from expressions import evaluate
from hypothesis import given
from hypothesis import strategies as st
from records import InputError

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


@given(st.text(alphabet="value('one') <>=!+-*/.,[]01abnotdr_", max_size=40))
def test_any_text_gives_a_value_or_one_clear_error(text):
    with contextlib.suppress(InputError):
        evaluate(text, FUNCTIONS)


def test_every_part_is_evaluated_so_that_all_numbers_are_on_record():
    seen = []
    functions = {"see": lambda name: seen.append(name) or 0}
    evaluate("see('a') > 1 and see('b') > 1 or see('c') > 1", functions)
    assert seen == ["a", "b", "c"]
