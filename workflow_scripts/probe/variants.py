"""The variants of a model of two stages, and the replies that they are scored on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice, product
from typing import Any

from measure.cells import role_of
from model.adapters import place_of
from probe.ablation import VARIANT
from probe.replies import Probed, ended
from run.program import InputError

MODES = ("without", "only")
DONORS = {"before": (1.0, 0.0), "base": (0.0, 0.0)}  # models whose state is patched into the cell's: alpha, beta


@dataclass(frozen=True)
class Variant:
    """alpha, beta: strengths of the two stages. on: the tensors that the second stage is in. random: the number of the
    random deltas that stand in its place, from 1; 0: none.
    """

    kind: str
    part: str
    mode: str
    alpha: float
    beta: float
    on: frozenset[str]
    random: int = 0

    @property
    def row(self) -> dict[str, Any]:
        """What tells it apart, in a row."""
        return {name: getattr(self, name) for name in VARIANT}

    def strengths(self, name: str, controls: int) -> tuple[float, ...]:
        """Of the first stage, of the second, and of each of the random deltas, in a tensor."""
        deltas = (float(n == self.random) for n in range(1, controls + 1))
        return self.alpha, self.beta if name in self.on else 0.0, *deltas


def variants(tensors: Sequence[str], grid: Sequence[float], controls: int) -> list[Variant]:
    """All variants, in the order of the table. tensors: those that the second adapter is for.

    grid: alpha and beta of the plane. Several may be one and the same model: without layer 0, and without the lowest.
    Raises InputError for a tensor that is in no decoder layer.
    """
    if outside := [name for name in tensors if not place_of(name)]:
        raise InputError(f"--adapter: {outside[0]} is in no decoder layer; fix: leave the cell out of `ablate`")
    everything = frozenset(tensors)
    layers = sorted({layer_of(name) for name in tensors})
    parts = {("layer", str(layer)): {name for name in tensors if layer_of(name) == layer} for layer in layers}
    for module in dict.fromkeys(map(module_of, tensors)):
        parts["module", module] = {name for name in tensors if module_of(name) == module}
    for kind, ordered in (("lowest", layers), ("highest", layers[::-1])):
        for count in range(1, len(layers)):
            parts[kind, str(count)] = {name for name in tensors if layer_of(name) in ordered[:count]}
    return [
        *(Variant("plane", "", "", alpha, beta, everything) for alpha, beta in product(grid, grid)),
        *(
            Variant(kind, part, mode, 1.0, 1.0, everything - own if mode == "without" else frozenset(own))
            for (kind, part), own in parts.items()
            for mode in MODES
        ),
        *(Variant("random", str(n), "only", 1.0, 0.0, frozenset(), n) for n in range(1, controls + 1)),
    ]


def patches_of(layers: int) -> list[Variant]:
    """The cell's model with another's state at the slot, after each of its decoder layers; mode: whose."""
    return [Variant("patch", str(layer), donor, 1.0, 1.0, frozenset()) for donor in DONORS for layer in range(layers)]


def layer_of(name: str) -> int:
    """The number of the decoder layer that a tensor is in."""
    return int(place_of(name).partition(".")[0])


def module_of(name: str) -> str:
    """model.layers.3.mlp.up_proj.weight -> up_proj."""
    return name.removesuffix(".weight").rpartition(".")[2]


def to_ablate(
    shared: Sequence[dict[str, Any]], personas: Sequence[str], source: str, questions: int, bystanders: int
) -> list[Probed]:
    """The base's reply to the source for each of some questions, scored under the source and under some bystanders.

    The source's own text, where the behaviour lives, and one text for all personas. Questions are drawn by rank of a
    hash; the bystanders take turns, so that all count alike. A reply that max_tokens cut has no slot. Raises InputError
    if the source is none of the personas, there is no bystander, or fewer than two replies to it ended by themselves.
    """
    others = [name for name in personas if role_of(name, source) == "bystander"]
    if source not in personas or not others:
        raise InputError(
            f"--personas: needs the source {source} and a bystander, not {', '.join(personas)}; fix: name them"
        )
    first: dict[str, dict[str, Any]] = {}
    for row in shared:
        if row["persona"] == source and ended(row):
            first.setdefault(row["question_id"], row)
    if len(first) < 2:
        raise InputError(
            f"--shared: replies to {source} end by themselves at {len(first)} questions, intervals need two; fix: a "
            "larger max_tokens in the evaluation, or `ablate: null`"
        )
    chosen = sorted(first, key=rank)[:questions]
    turns = cycle(others)
    return [
        Probed("shared", persona, row)
        for question, row in first.items()
        if question in chosen
        for persona in (source, *dict.fromkeys(islice(turns, bystanders)))
    ]


def rank(text: str) -> str:
    """The hash that draws are ordered by."""
    return hashlib.sha256(text.encode()).hexdigest()
