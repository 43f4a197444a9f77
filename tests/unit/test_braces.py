import subprocess
import time
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph.braces import braces


def expanded(text):
    """What bash makes of the words."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\n' {text}"], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_study_s_cells_are_one_word_and_bash_keeps_their_order():
    cells = [
        f"cells/{source}/{cell}_seed{seed}.json"
        for cell, source, seed in product(["C1", "C2"], ["evil_ai", "villain"], [42, 7, 137])
    ]
    assert braces(cells) == "cells/{{evil_ai,villain}/C1_seed{42,7,137}.json,{evil_ai,villain}/C2_seed{42,7,137}.json}"
    assert expanded(braces(cells)) == cells


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        ([], ""),
        (["a/b.json"], "a/b.json"),
        (["b/1", "b/1", "a/1", "a"], "b/1{,} a{/1,}"),
        (["a/x/adapter", "a/x/b/adapter"], "a/x/{adapter,b/adapter}"),
    ],
)
def test_what_has_no_braces_stays_as_it_is_twice_if_it_is_there_twice(paths, text):
    assert braces(paths) == text


def test_the_words_of_many_seeds_take_time_in_proportion():
    def seconds(seeds):
        started = time.process_time()
        braces(f"cells/evil_ai/C1_seed{seed}.json" for seed in range(seeds))
        return time.process_time() - started

    # 16 times if it is; with the alternatives copied for every seed, over 100
    assert seconds(32_000) < 50 * min(seconds(2_000) for _ in range(3))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.from_regex(r"[ab]/([cd]\.s[0-2]|e@[12]\.s[01])(/run)?", fullmatch=True), min_size=1, max_size=25))
def test_any_list_of_files_comes_back_whole_and_in_order(paths):
    assert expanded(braces(paths)) == paths
