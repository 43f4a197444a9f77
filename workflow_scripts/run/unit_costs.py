"""Which rows of a table of unit costs plan a model: those of its own class, else those of the class nearest in size.

A class is what `hardware.costs` says: a number of parameters, such as 135M or 7B. `toy` (offline) is near to nothing.
"""

import math
import re
from collections.abc import Collection

ANY = "*"  # rows of what takes the same time with every model


def parameters(name: str) -> float | None:
    """135M -> 1.35e8; None for what is no number of parameters."""
    match = re.fullmatch(r"([0-9.]+)([MB])", name)
    return float(match[1]) * {"M": 1e6, "B": 1e9}[match[2]] if match else None


def serving(name: str, known: Collection[str]) -> str | None:
    """The class whose rows stand for this one: itself, or the nearest by ratio of sizes; None if there is none."""
    if name in known:
        return name
    sizes = {each: size for each in known if (size := parameters(each))}
    own = parameters(name)
    if own is None or not sizes:
        return None
    return min(sorted(sizes), key=lambda each: abs(math.log(sizes[each] / own)))
