"""Thousands of file names as a few words that bash expands to exactly these names, in this order.

    cells/evil_ai/C1_seed42.json cells/evil_ai/C1_seed137.json  ->  cells/evil_ai/C1_seed{42,137}.json

A study's files are products of sources and seeds, so their braces grow with the sum of the two. A glob would be shorter
still, but it would pick up the files of an older config.
"""

import re
from collections.abc import Iterable

# A place in a name that differs between the cells of a study: a word, or a number inside it.
PART = re.compile(r"[0-9]+|[^0-9/.@-]+|[/.@-]")
# A name in parts; several texts in one place are alternatives. Lists, because a study with many seeds has long ones.
Word = list[list[str]]


def braces(paths: Iterable[str]) -> str:
    """The paths as words of bash (or zsh), separated by spaces. They hold no character that is special to a shell."""
    words: list[Word] = []
    for path in paths:
        words.append([[part] for part in PART.findall(path)])
        while len(words) > 1 and join(words[-2], words[-1]):
            words.pop()
    return " ".join("".join(map(written, word)) for word in words)


def join(first: Word, second: Word) -> bool:
    """Make `first` expand to all of `first`, then all of `second`, if one word can.

    They may differ in one place only, and left of it no place may vary: bash varies the rightmost braces fastest.
    """
    if len(first) != len(second):
        return False
    places = [place for place, (one, other) in enumerate(zip(first, second, strict=True)) if one != other]
    if len(places) != 1 or any(len(part) > 1 for part in first[: places[0]]):
        return False
    first[places[0]] += second[places[0]]
    return True


def written(part: list[str]) -> str:
    return part[0] if len(part) == 1 else f"{{{','.join(part)}}}"
