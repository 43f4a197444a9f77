"""Thousands of file names as a few words that bash expands to exactly these names, in this order.

    cells/evil_ai/C1_seed42.json cells/evil_ai/C1_seed137.json  ->  cells/evil_ai/C1_seed{42,137}.json

A study's files are products of sources and seeds, so their braces grow with the sum of the two. A glob would be shorter
still, but it would pick up the files of an older config.
"""

import re
from collections.abc import Iterable, Sequence

# A place in a name that differs between the cells of a study: a word, or a number inside it.
PART = re.compile(r"[0-9]+|[^0-9/.@-]+|[/.@-]")

# A name in parts; several texts in one place are alternatives.
Word = list[tuple[str, ...]]


def braces(paths: Iterable[str]) -> str:
    """The paths as words of bash (or zsh), separated by spaces. They hold no character that is special to a shell."""
    words: list[Word] = []
    for path in paths:
        word: Word = [(part,) for part in PART.findall(path)]
        while words and (joined := join(words[-1], word)):
            words.pop()
            word = joined
        words.append(word)
    return " ".join("".join(map(written, word)) for word in words)


def join(first: Sequence[tuple[str, ...]], second: Sequence[tuple[str, ...]]) -> Word | None:
    """One word that expands to all of `first`, then all of `second`; None if there is none.

    They may differ in one place only, and left of it no place may vary: bash varies the rightmost braces fastest.
    """
    if len(first) != len(second):
        return None
    places = [place for place, (one, other) in enumerate(zip(first, second, strict=True)) if one != other]
    if len(places) != 1 or any(len(part) > 1 for part in first[: places[0]]):
        return None
    (place,) = places
    return [*first[:place], (*first[place], *second[place]), *first[place + 1 :]]


def written(part: tuple[str, ...]) -> str:
    return part[0] if len(part) == 1 else f"{{{','.join(part)}}}"
