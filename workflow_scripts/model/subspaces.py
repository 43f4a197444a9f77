"""What a LoRA's matrices say of its delta: subspaces, norms and angles, from the factors; a delta is never dense.

With B = Qb Rb and A' = Qa Ra, the delta B A is Qb (Rb Ra') Qa', whose inner matrix is of the adapter's rank: its
singular values are the delta's, and so are, rotated by Qb and Qa, its singular vectors.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Of a tuned matrix's leading left singular vectors, those that resemble none of the base's (2410.21228 and PEFT's
# intruders.py): how many are looked at, and what they may have in common with one of the base's.
LEADING, ALIKE = 10, 0.5


@dataclass(frozen=True)
class Delta:
    """A delta by its singular values (k), and its left and right singular vectors (outputs, k) and (inputs, k)."""

    values: "np.ndarray"
    outputs: "np.ndarray"
    inputs: "np.ndarray"

    @property
    def norm(self) -> float:
        """Frobenius."""
        return math.sqrt(float((self.values**2).sum()))


def delta_of(a: "Tensor", b: "Tensor", scaling: float) -> Delta:
    """The delta `b @ a * scaling`, of factors (rank, inputs) and (outputs, rank). k: its numerical rank."""
    import numpy as np

    left, upper = np.linalg.qr(b.double().cpu().numpy())
    right, lower = np.linalg.qr(a.double().cpu().numpy().T)
    u, values, v = np.linalg.svd(upper @ lower.T * scaling)
    kept = values > values.max(initial=0) * max(b.shape[0], a.shape[1]) * np.finfo(np.float64).eps
    return Delta(values[kept], left @ u[:, kept], right @ v.T[:, kept])


def span(rows: "Tensor") -> "np.ndarray":
    """An orthonormal basis (inputs, rank) of what a matrix A (rank, inputs) reads from, of full rank as it is drawn."""
    import numpy as np

    basis: np.ndarray = np.linalg.qr(rows.double().cpu().numpy().T)[0]
    return basis


def overlap(one: "np.ndarray", other: "np.ndarray") -> float | None:
    """||one' other||_F^2 / k of orthonormal columns, k the fewer of both: 1 where one subspace holds the other.

    Of random subspaces of d dimensions it is the more columns of both / d (random_overlap). None without columns.
    """
    fewer = min(one.shape[1], other.shape[1])
    return float(((one.T @ other) ** 2).sum()) / fewer if fewer else None


def random_overlap(one: "np.ndarray", other: "np.ndarray") -> float | None:
    """The mean overlap of random subspaces of these dimensions."""
    return max(one.shape[1], other.shape[1]) / one.shape[0] if one.shape[1] and other.shape[1] else None


def smallest_angle(one: "np.ndarray", other: "np.ndarray") -> float | None:
    """The smallest principal angle [degrees] between two subspaces; None without columns."""
    from scipy.linalg import subspace_angles

    if not one.shape[1] or not other.shape[1]:
        return None
    return float(math.degrees(subspace_angles(one, other).min()))


def cosine(one: Delta, other: Delta) -> float | None:
    """The cosine between two deltas as vectors; None where one is zero."""
    if not one.norm or not other.norm:
        return None
    inner = (one.outputs.T @ other.outputs) * (one.inputs.T @ other.inputs)
    return float(one.values @ inner @ other.values) / (one.norm * other.norm)


def left_vectors(weight: "Tensor") -> "Tensor":
    """All left singular vectors (outputs, k) of a dense matrix, in no order; from the smaller of its two Gram matrices,
    in a third of the time of an SVD.
    """
    import torch

    weight = weight.float()
    if weight.shape[0] <= weight.shape[1]:
        return torch.linalg.eigh(weight @ weight.T)[1]
    left = weight @ torch.linalg.eigh(weight.T @ weight)[1]
    norms = left.norm(dim=0)
    kept = norms > norms.max() * 1e-5
    return left[:, kept] / norms[kept]


def intruders(base: "Tensor", known: "Tensor", *loras: "tuple[Tensor, Tensor, float]") -> int:
    """How many of the LEADING left singular vectors of base + the LoRAs' deltas resemble none of the base's.

    known: left_vectors(base). loras: (A, B, scaling) each; the sum is only multiplied with, never made.
    """
    import numpy as np
    from scipy.sparse.linalg import LinearOperator, svds

    weight = base.float().cpu().numpy()
    factors = [(a.float().cpu().numpy(), b.float().cpu().numpy() * scaling) for a, b, scaling in loras]
    tuned = LinearOperator(
        weight.shape,
        matvec=lambda x: weight @ x + sum(b @ (a @ x) for a, b in factors),
        rmatvec=lambda y: weight.T @ y + sum(a.T @ (b.T @ y) for a, b in factors),
        dtype=np.float32,
    )
    few = min(LEADING, min(weight.shape) - 1)
    found: Any = svds(tuned, k=few, return_singular_vectors="u", v0=np.ones(min(weight.shape), np.float32))[0]
    alike = np.abs(found.T @ known.float().cpu().numpy()).max(1)
    return int((alike < ALIKE).sum())
