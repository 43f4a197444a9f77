"""Rows that a stage does not train (`hold_out`), for their loss before and after it."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from run.files import canonical
from run.program import InputError


def hold_out(rows: Sequence[dict[str, Any]], share: float, data: str) -> frozenset[int]:
    """The places of the rows that are not trained, `share` of them, and a few more if the last ones are equal.

    By the hash of what they say: equal rows stay together, and every training on the data holds out the same ones.
    Raises InputError if that leaves no row on either side.
    """
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(hashlib.sha256(canonical(row["messages"]).encode()).hexdigest(), []).append(place)
    held: set[int] = set()
    for said in sorted(places):
        if len(held) >= math.floor(share * len(rows)):
            break
        held.update(places[said])
    if share and not 0 < len(held) < len(rows):
        raise InputError(
            f"{data}: hold_out {share:g} of {len(rows)} rows is {len(held)}; fix: leave some to train and one to "
            "measure, or hold_out: 0"
        )
    return frozenset(held)
