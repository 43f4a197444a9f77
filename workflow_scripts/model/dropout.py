"""Dropout of compiled trainings, whose mask is computed from its seed and place instead of drawn and kept.

A compiled layer draws a Philox number per element, the dearest arithmetic of the step beside its matrix products, and
keeps the mask for the backward pass. A hash of (seed, module, element) costs a few integer operations, and the backward
pass computes it again. The masks are other ones than torch draws, as likely and as independent.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MIX = (-2048144789, -1028477387)  # the multipliers of MurmurHash3's finalizer, 0x85ebca6b and 0xc2b2ae35, as int32


def hash_dropout(model: Any) -> "Tensor":
    """Let every nn.Dropout of the model compute its mask from the returned seed, an int32 scalar that callers set.

    Set it, by fill_, before every forward pass whose masks shall be new; each module has masks of its own.
    """
    import torch

    class HashDropout(torch.nn.Module):
        seed: torch.Tensor
        place: torch.Tensor

        def __init__(self, p: float, place: int, seed: "Tensor") -> None:
            super().__init__()
            self.keep = 1 - p
            self.register_buffer("seed", seed, persistent=False)
            # a tensor, since layers that differ in a number would be compiled one by one
            self.register_buffer("place", torch.tensor(place, dtype=torch.int32, device=seed.device), persistent=False)

        def forward(self, x: "Tensor") -> "Tensor":
            if not self.training:
                return x
            return x * (kept(x.shape, self.keep, self.seed, self.place).to(x.dtype) / self.keep)

    device = next((weight.device for weight in model.parameters()), None)
    seed = torch.zeros((), dtype=torch.int32, device=device)
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, torch.nn.Dropout) and child.p
    ]
    for place, (parent, name, child) in enumerate(found):
        parent.register_module(name, HashDropout(child.p, place, seed).train(child.training))
    return seed


def kept(shape: Any, keep: float, seed: "Tensor", place: "Tensor") -> "Tensor":
    """Which elements of a tensor stay, each with probability `keep`: a hash of where it is, and of seed and place.

    The number of a row is mixed whole, that of a place within it less: the highest bits of the result count alone.
    """
    import torch

    *rows, width = shape
    count = 1
    for size in rows:
        count *= size
    row = torch.arange(count, dtype=torch.int32, device=seed.device)[:, None]
    column = torch.arange(width, dtype=torch.int32, device=seed.device)[None, :]
    number = (column ^ mixed(row ^ mixed(place ^ mixed(seed)))) * MIX[0]
    number = folded(number, 13) * MIX[1]
    return (number < round(keep * 2**32) - 2**31).view(shape)


def mixed(number: "Tensor") -> "Tensor":
    """MurmurHash3's finalizer on int32 numbers: every bit of the result depends on every bit given."""
    for shift, factor in ((16, MIX[0]), (13, MIX[1])):
        number = folded(number, shift) * factor
    return folded(number, 16)


def folded(number: "Tensor", shift: int) -> "Tensor":
    """int32 numbers, each xor itself shifted right as if it had no sign."""
    return number ^ ((number >> shift) & ((1 << (32 - shift)) - 1))
