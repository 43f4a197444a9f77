"""Thousands of file names as a few words that bash expands to exactly these names, in this order.

    cells/evil_ai/C1_seed42.json cells/evil_ai/C1_seed137.json  ->  cells/evil_ai/C1_seed{42,137}.json

A study's files are products of sources and seeds, so their braces grow with the sum of the two. A glob would be shorter
still, but it would pick up the files of an older config.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

# A place where names may part: a word, or a number inside it.
PART = re.compile(r"[0-9]+|[^0-9/.@-]+|[/.@-]")


def braces(paths: Iterable[str]) -> str:
    """The paths as words of bash (or zsh), separated by spaces. They hold no character that is special to a shell."""
    return " ".join(alternatives([PART.findall(path) for path in paths], 0))


def alternatives(names: Sequence[Sequence[str]], place: int) -> list[str]:
    """What expands, one after the other, to all names from that place on.

    Names that open alike are one, and so are neighbours that go on alike.
    """
    found: list[tuple[list[str], str]] = []
    for opening, group in groupby(names, lambda name: name[place] if place < len(name) else ""):
        alike = list(group)
        ended = not opening  # as often as the name was given
        openings, rest = ([""] * len(alike), "") if ended else ([opening], one(alternatives(alike, place + 1)))
        if found and found[-1][1] == rest:
            found[-1][0].extend(openings)
        else:
            found.append((openings, rest))
    return [one(openings) + rest for openings, rest in found]


def one(texts: Sequence[str]) -> str:
    """The alternatives as a part of one word."""
    return texts[0] if len(texts) == 1 else f"{{{','.join(texts)}}}"
