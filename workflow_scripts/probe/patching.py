"""Activation patching at the slot: a model in which a layer's state is another model's, there alone.

The state is the residual stream that leaves a decoder layer, at every position where a token of the slot is predicted
(the last one before the slot and those of the tokens that are fed in it), of the same text in both. Below the layer and
at all earlier positions the model is itself, and its layers above read the other's state: patched after the last one,
the slot is the other's; with a state of its own nothing changes. The two models share norm, head and embeddings.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probe.scoring import (
    BUDGET,
    TOLERANCE,
    Branch,
    Row,
    batches,
    beside,
    read_tokens,
    slot_branches,
    trunks,
)
from run.program import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

Parts = list[dict[str, float]]  # the slot and its parts [nats], by row


@dataclass(frozen=True)
class Donor:
    """A model whose states are patched in. states: by batch, (layers, rows, tokens, width); parts: what it says."""

    states: "list[Tensor]"
    parts: Parts


class Patcher:
    """Patches a model at the slots of rows, as Slot.split gives them. budget: tokens per forward pass: memory.

    Raises InputError for a model without one list of its decoder layers.
    """

    def __init__(self, model: Any, rows: Sequence[Row], budget: int | None = None) -> None:
        self.model, self.layers = model, decoder_layers(model)
        places = batches([len(row.trunk) for row in rows], budget or BUDGET[model.device.type])
        self.batches = [[(place, rows[place]) for place in own] for own in places]

    def donor(self) -> Donor:
        """The states of the model as it is now."""
        import torch

        states: list[Tensor] = []
        found: dict[int, dict[str, float]] = {}
        for batch in self.batches:
            with torch.inference_mode():
                cache = self._trunk(batch)
                with kept(self.layers) as seen:
                    found |= self._slot(batch, cache)
            states.append(torch.stack(seen))
        return Donor(states, in_order(found))

    def patched(self, donor: Donor) -> list[Parts]:
        """For each decoder layer, what the model as it is now says with the donor's state after it.

        Raises InputError where the donor's last state does not say what the donor says: then more than the state goes
        from layer to layer.
        """
        import torch

        found: list[dict[int, dict[str, float]]] = [{} for _ in self.layers]
        for batch, states in zip(self.batches, donor.states, strict=True):
            with torch.inference_mode():
                cache = self._trunk(batch)
                for layer, state, own in zip(self.layers, states, found, strict=True):
                    with replaced(layer, state):
                        own |= self._slot(batch, cache)
        results = [in_order(own) for own in found]
        self._prove(donor, results[-1])
        return results

    def _trunk(self, batch: Sequence[tuple[int, Row]]) -> Any:
        """The key-value cache of the rows' trunks."""
        from transformers import DynamicCache

        ids = trunks([row for _, row in batch]).to(self.model.device)
        # whole, also of layers with a sliding window
        return self.model(
            input_ids=ids, past_key_values=DynamicCache(), use_cache=True, logits_to_keep=1
        ).past_key_values

    def _slot(self, batch: Sequence[tuple[int, Row]], cache: Any) -> dict[int, dict[str, float]]:
        """The slot and its parts by row's place, by a pass that begins with the trunk's last token, once per branch."""
        fed: list[list[tuple[int, int, int]]] = []
        wanted: list[tuple[int, int, int]] = []
        branches = [branches_from_trunk(row) for _, row in batch]
        for at, own in enumerate(branches):
            line: list[tuple[int, int, int]] = []
            for branch in own:
                start = len(line)
                wanted += [(at, start + depth, token) for depth, token in enumerate(branch.tokens[1:])]
                line += [(token, branch.at + depth, start) for depth, token in enumerate(branch.tokens[:-1])]
            fed.append(line)
        logits = self.model(**beside(fed, cache, self.model), use_cache=True).logits
        cache.crop(-max(map(len, fed)))
        read = iter([value for value, _ in read_tokens(logits, wanted)])
        found = {}
        for (place, row), own in zip(batch, branches, strict=True):
            marked, ended = ([next(read) for _ in branch.tokens[1:]] for branch in own)
            parts = row.slot.parts(marked, ended)  # type: ignore[union-attr]
            found[place] = {"slot": sum(parts.values()), **parts}
        return found

    def _prove(self, donor: Donor, last: Parts) -> None:
        """Raise InputError unless the last layer's patch says what the donor says."""
        apart = max(
            abs(one["slot"] - other["slot"]) / max(1, abs(other["slot"]) / 10)
            for one, other in zip(last, donor.parts, strict=True)
        )
        if not apart <= TOLERANCE[str(self.model.dtype).removeprefix("torch.")]:
            raise InputError(
                f"{self.model.config.model_type}: with the other model's state after the last layer the slot differs "
                f"by {apart:.3g} nats from that model's; fix: `ablate: null` for this base"
            )


def branches_from_trunk(row: Row) -> list[Branch]:
    """The two branches of a row's slot, each with the trunk's last token before it, whose state is patched as well."""
    return [Branch(branch.at - 1, (row.trunk[branch.at - 1], *branch.tokens)) for branch in slot_branches(row)]


def in_order(found: dict[int, dict[str, float]]) -> Parts:
    """The rows' values in the rows' order."""
    return [found[place] for place in range(len(found))]


def decoder_layers(model: Any) -> "nn.ModuleList":
    """The decoder's layers, in order. Raises InputError for a model without one list of them."""
    from torch import nn

    count = model.config.num_hidden_layers
    lists = [part for part in model.get_decoder().children() if isinstance(part, nn.ModuleList) and len(part) == count]
    if len(lists) != 1:
        raise InputError(
            f"{model.config.model_type}: its decoder has no list of {count} layers to patch; fix: `ablate: null`"
        )
    return lists[0]


@contextmanager
def kept(layers: "nn.ModuleList") -> "Iterator[list[Tensor]]":
    """In the block the list gets what every layer gives, in order."""
    seen: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda module, taken, given: seen.append(state_of(given))) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def replaced(layer: "nn.Module", state: "Tensor") -> Iterator[None]:
    """In the block the layer gives this state."""
    hook = layer.register_forward_hook(
        lambda module, taken, given: (state, *given[1:]) if isinstance(given, tuple) else state
    )
    try:
        yield
    finally:
        hook.remove()


def state_of(given: Any) -> "Tensor":
    """The residual stream of what a decoder layer gives."""
    state: Tensor = given[0] if isinstance(given, tuple) else given
    return state
