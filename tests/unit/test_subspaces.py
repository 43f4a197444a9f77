"""Numbers of deltas from their factors are those of the dense matrices."""

import numpy as np
import pytest
import torch

from model.subspaces import (
    LEADING,
    cosine,
    delta_of,
    intruders,
    left_vectors,
    overlap,
    random_overlap,
    smallest_angle,
    span,
)

OUTPUTS, INPUTS, RANK, SCALING = 40, 60, 6, 1.7


def factors(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(RANK, INPUTS, generator=generator), torch.randn(OUTPUTS, RANK, generator=generator)


def dense(seed):
    a, b = factors(seed)
    return (b.double() @ a.double() * SCALING).numpy()


def delta(seed):
    return delta_of(*factors(seed), SCALING)


def test_values_and_subspaces_are_those_of_a_dense_svd():
    found = delta(1)
    u, values, v = np.linalg.svd(dense(1))
    assert found.values == pytest.approx(values[:RANK])
    assert found.norm == pytest.approx(np.linalg.norm(dense(1)))
    assert np.abs(found.outputs.T @ u[:, :RANK]) == pytest.approx(np.eye(RANK), abs=1e-9)
    assert np.abs(found.inputs.T @ v[:RANK].T) == pytest.approx(np.eye(RANK), abs=1e-9)
    assert (found.outputs * found.values) @ found.inputs.T == pytest.approx(dense(1))


def test_the_cosine_is_that_of_the_dense_deltas():
    one, other = dense(1), dense(1) + 0.5 * dense(2)
    a, b = (torch.cat(pair, axis) for pair, axis in zip(zip(factors(1), factors(2), strict=True), (0, 1), strict=True))
    b[:, RANK:] *= 0.5
    expected = (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)
    assert cosine(delta(1), delta_of(a, b, SCALING)) == pytest.approx(expected)
    assert 0.5 < expected < 0.99


def test_an_adapter_overlaps_wholly_with_itself_and_its_opposite_points_the_other_way():
    one = delta(1)
    assert overlap(one.inputs, one.inputs) == pytest.approx(1)
    assert overlap(one.outputs, one.outputs) == pytest.approx(1)
    assert smallest_angle(one.inputs, one.inputs) == pytest.approx(0, abs=1e-5)
    assert cosine(one, one) == pytest.approx(1)
    a, b = factors(1)
    assert cosine(one, delta_of(a, -b, SCALING)) == pytest.approx(-1)


def test_random_factors_overlap_by_rank_over_size():
    pairs = [(delta(2 * seed), delta(2 * seed + 1)) for seed in range(200)]
    for side, size in (("inputs", INPUTS), ("outputs", OUTPUTS)):
        sides = [[getattr(each, side) for each in pair] for pair in pairs]
        assert random_overlap(*sides[0]) == pytest.approx(RANK / size)
        assert np.mean([overlap(*pair) for pair in sides]) == pytest.approx(RANK / size, rel=0.03)


def test_a_delta_reads_from_where_its_a_reads_and_one_of_zeros_from_nowhere():
    a, b = factors(1)
    assert overlap(delta(1).inputs, span(a)) == pytest.approx(1)
    nothing = delta_of(a, torch.zeros_like(b), SCALING)
    assert nothing.norm == 0
    assert (
        overlap(nothing.inputs, span(a)) is smallest_angle(nothing.inputs, span(a)) is cosine(nothing, delta(1)) is None
    )


def counted(base, *deltas):
    """As PEFT counts them, from dense SVDs."""
    known, found = (torch.linalg.svd(each, full_matrices=False)[0] for each in (base, base + sum(deltas)))
    return int(((found.T @ known).abs().max(1).values[:LEADING] < 0.5).sum())


@pytest.mark.parametrize("shape", [(OUTPUTS, INPUTS), (INPUTS, OUTPUTS)])
@pytest.mark.parametrize("strength", [0.0, 0.3, 3.0])
def test_intruders_are_those_of_dense_decompositions(shape, strength):
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(*shape, generator=generator)
    loras = [
        (torch.randn(RANK, shape[1], generator=generator), torch.randn(shape[0], RANK, generator=generator), scaling)
        for scaling in (strength, strength / 2)
    ]
    deltas = [b @ a * scaling for a, b, scaling in loras]
    expected = counted(base, *deltas)
    assert intruders(base, left_vectors(base), *loras) == expected
    assert (expected == 0) == (strength == 0)
