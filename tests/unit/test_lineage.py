import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph.lineage import LINEAGE, Word, ancestry, lineage_of, parent_of, parse_lineage, parse_word
from run.program import InputError

names = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
words = st.builds(
    Word, names, st.integers(0, 10**6), st.none() | names, st.none() | st.integers(min_value=1, max_value=10**5)
)


@given(words)
def test_a_word_prints_and_parses_back(word):
    assert parse_word(str(word)) == word


@given(st.lists(words, max_size=5).map(tuple))
def test_a_lineage_prints_and_parses_back_and_matches_the_wildcard(stages):
    lineage = lineage_of(stages)
    assert parse_lineage(lineage) == stages
    assert re.fullmatch(LINEAGE, lineage)


@given(st.text(max_size=30))
def test_any_text_is_a_word_that_prints_as_itself_or_a_clear_error(text):
    try:
        assert str(parse_word(text)) == text
    except InputError as error:
        assert "fix:" in str(error)


@pytest.mark.parametrize(
    "text",
    ["em", "em.s", "em.s01", "em.s-1", "Em.s1", "em@0.s1", "em@.s1", "-x.s1", "em.s1 ", "em.s1\n", "_em.s1", "em.s١"],
)
def test_what_is_no_stage_word_is_refused(text):
    with pytest.raises(InputError, match="fix: write <stage>"):
        parse_word(text)


@pytest.mark.parametrize("text", ["em.s" + "1" * 5000, "em@" + "1" * 5000 + ".s1"])
def test_a_number_of_any_length_is_a_clear_error(text):
    with pytest.raises(InputError, match=r"lineage: em.*over 18 digits; fix: "):
        parse_word(text)


@pytest.mark.parametrize("name", ["adapter", "main", "checkpoints", "manifest.json", "completions.parquet", "run.json"])
def test_a_node_s_own_files_are_no_stage_words(name):
    assert not re.fullmatch(LINEAGE, f"base/{name}")


def test_ancestry_lists_every_adapter_in_merge_order():
    lineage = "base/couple-evil_ai.s42/em@25.s137"
    assert ancestry(lineage) == ["base/couple-evil_ai.s42", lineage]
    assert ancestry("base") == []
    assert parent_of(lineage) == "base/couple-evil_ai.s42"
    with pytest.raises(InputError, match="no parent"):
        parent_of("base")


def test_a_lineage_without_its_base_says_what_to_write():
    with pytest.raises(InputError, match="fix: write base/em.s42"):
        parse_lineage("em.s42")
