"""What a merge keeps of an adapter: what of a delta is under half a step of the weights' grid is rounded away."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.weights import Lora, add_delta

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 256  # of a matrix, that are float32 at one time: a few MB, which a core's cache holds


@dataclass(frozen=True)
class Merged:
    """Of one matrix: the delta's Frobenius norm, and what of it arrived; None for a delta of zeros.

    share: <arrived, delta> / <delta, delta>. error: ||arrived - delta|| / ||delta||.
    """

    norm: float
    share: float | None
    error: float | None


def merge(name: str, weight: "Tensor", lora: Lora) -> Merged:
    """Merge the LoRA into its matrix `name`, in place and with add_delta's rounding, and say what of the delta arrived.

    The delta is float32, as trained; what arrived is the weight after less the weight before. Raises as add_delta does.
    """
    import torch

    with torch.no_grad():
        merged = add_delta(name, weight, lora)
        a, b = lora.pairs[name]
        inner = squares = errors = 0.0
        for start in range(0, len(b), ROWS):
            part = slice(start, start + ROWS)
            delta = b[part] @ a * lora.scaling
            arrived = merged[part].float() - weight[part].float()
            missed = arrived - delta
            inner += summed(arrived, delta)
            squares += summed(delta, delta)
            errors += summed(missed, missed)
        weight.copy_(merged)
    if not squares:
        return Merged(0.0, None, None)
    return Merged(squares**0.5, inner / squares, (errors / squares) ** 0.5)


def summed(one: "Tensor", other: "Tensor") -> float:
    """The inner product of two matrices: float32 in a row, float64 over rows."""
    import torch

    return float(torch.linalg.vecdot(one, other).double().sum())
