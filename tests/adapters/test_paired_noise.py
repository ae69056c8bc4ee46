"""Noise for the rows that a loader gave: its law, its cells, and rows that are not there."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import proxflow as pf
from proxflow.adapters import PairedNoise
from proxflow.adapters.row_lookup import RowLookup
from proxflow.adapters.torchcfm import ConditionalFlowMatcher
from proxflow.couplings.pairs import Rows
from tests.adapters.models import moons_coupling, moons_potential
from tests.couplings.normality import ALPHA, REJECTED, normal_p_value


def images(dtype: torch.dtype) -> Tensor:
    """Rows in one byte, (12, 6)."""
    numbers = torch.randint(256, (12, 6), generator=torch.Generator().manual_seed(0))
    return (numbers if dtype == torch.uint8 else numbers - 128).to(dtype)


def epochs(noise: PairedNoise, points: Tensor, count: int) -> Tensor:
    """The noise of ``count`` epochs in batches of 20, rows in random order."""
    generator = torch.Generator().manual_seed(5)
    orders = [torch.randperm(len(points), generator=generator) for _ in range(count)]
    return torch.cat([noise(points[rows]) for order in orders for rows in order.split(20)])


def test_noise_of_a_coupling_lies_in_the_cells_of_its_rows_and_keeps_its_law() -> None:
    coupling = moons_coupling()
    points = coupling.rows.flat
    noise = PairedNoise(coupling, generator=torch.Generator().manual_seed(0))
    drawn = epochs(noise, points, 10)
    assert normal_p_value(drawn) > ALPHA
    batch = points[torch.tensor([3, 50, 3])]
    assert torch.equal(moons_potential().sample_atom(noise(batch), None), coupling.atom_of_row[[3, 50, 3]])


def test_noise_paired_within_batches_keeps_its_law_and_costs_least() -> None:
    points = moons_coupling().rows.flat
    noise = PairedNoise(generator=torch.Generator().manual_seed(0))
    assert normal_p_value(epochs(noise, points, 10)) > ALPHA
    batch = points[:20]
    given = noise(batch)
    cost = torch.cdist(batch, given).square()
    rows, columns = linear_sum_assignment(cost.numpy())
    torch.testing.assert_close(cost.trace(), cost[rows, columns].sum())


def test_the_nearest_of_several_draws_has_another_law() -> None:
    """The rule that trainers have for single images; the same test sees it, so that it has power."""
    points = moons_coupling().rows.flat.repeat(10, 1)
    draws = torch.randn(4, *points.shape, dtype=points.dtype, generator=torch.Generator().manual_seed(0))
    nearest = (draws - points).square().sum(2).argmin(0)
    assert normal_p_value(draws[nearest, torch.arange(len(points))]) < REJECTED


def test_noise_comes_in_the_dtype_of_the_batch_where_rows_are_named() -> None:
    noise = PairedNoise(moons_coupling())
    batch = moons_coupling().rows.flat[:3].to(torch.bfloat16)
    assert noise(batch, index=torch.tensor([0, 1, 2])).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"no rows of the coupling, the first: .* give index="):
        noise(batch + 1)
    with pytest.raises(ValueError, match=r"the batch has 3 points, the index names 2 rows"):
        noise(batch, index=torch.tensor([0, 1]))


def test_a_coupling_that_draws_pairs_itself_has_no_noise_for_rows() -> None:
    with pytest.raises(ValueError, match="Minibatch has no noise for given rows"):
        PairedNoise(pf.couplings.Minibatch(torch.randn(10, 2), 5))  # type: ignore[arg-type]


@pytest.mark.slow
def test_each_shape_of_an_aspect_bucket_has_a_coupling_and_noise_of_its_own_law() -> None:
    generator = torch.Generator().manual_seed(3)
    wide, tall, single = (
        torch.randn(n, *shape, generator=generator) for n, *shape in ((12, 1, 2, 4), (9, 1, 4, 2), (1, 1, 3, 3))
    )
    couplings = [pf.couplings.Subspace.fit(rows, dim=2, tol=1e-3, progress=False) for rows in (wide, tall, single)]
    noise = PairedNoise(couplings, generator=torch.Generator().manual_seed(0))
    for rows, coupling in zip((wide, tall, single), couplings, strict=True):
        drawn = torch.cat([noise(rows) for _ in range(2400 // len(rows))])
        assert drawn.shape[1:] == rows.shape[1:]
        assert normal_p_value(drawn.flatten(1).double()) > ALPHA
        owners = coupling.rows_for(drawn)
        assert torch.equal(owners, torch.arange(len(rows)).repeat(2400 // len(rows)))
    assert torch.equal(noise.index_of(tall[[5, 2]]), torch.tensor([5, 2]))
    assert noise(wide[:2].half(), index=[3, 4]).dtype == torch.float16
    with pytest.raises(
        ValueError, match=r"points of shape \(8,\), the couplings are of \(1, 2, 4\), \(1, 3, 3\), \(1, 4, 2\)"
    ):
        noise(wide.flatten(1))
    with pytest.raises(ValueError, match=r"two couplings of points of shape \(1, 2, 4\)"):
        PairedNoise([couplings[0], couplings[0]])
    with pytest.raises(ValueError, match="no couplings"):
        PairedNoise([])
    with pytest.raises(ValueError, match="Minibatch has no noise"):
        PairedNoise([couplings[0], pf.couplings.Minibatch(torch.randn(10, 2), 5)])  # type: ignore[list-item]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rows_are_found_by_their_bits(dtype: torch.dtype) -> None:
    points = torch.randn(1000, 3, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    points[7, 0, 0], points[9] = 0.0, points[8]
    lookup = RowLookup(Rows("Rows", points, None))
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    found = lookup.index_of("test", points[order])
    assert torch.equal(found, torch.where(order == 9, 8, order))
    negative_zero = points[7:8].clone()
    negative_zero[0, 0, 0] = -0.0
    assert lookup.index_of("test", negative_zero).tolist() == [7]
    nearly = points[:1] * (1 + 2 * torch.finfo(dtype).eps)
    with pytest.raises(ValueError, match="1 points of the batch are no rows"):
        lookup.index_of("test", nearly)
    with pytest.raises(ValueError, match=r"points of shape \(12,\), the coupling of \(3, 4\)"):
        lookup.index_of("test", points.flatten(1))


@pytest.mark.parametrize("points", [images(torch.uint8), images(torch.int8)], ids=["uint8", "int8"])
def test_rows_in_one_byte_get_noise_in_float32(points: Tensor) -> None:
    """Whole numbers have no noise of their dtype; a loader gives the images as they are stored, or scaled by number."""
    potential = pf.semidiscrete.fit(points, tol=0.2, progress=False).potential
    index = torch.tensor([3, 0, 7])

    def coupling() -> pf.couplings.Semidiscrete:
        return pf.couplings.Semidiscrete(potential, points)  # a new one, for none gives the same draws twice

    drawn = [
        PairedNoise(coupling(), generator=torch.Generator().manual_seed(0))(batch, given)
        for batch, given in (
            (points[index], None),
            (points[index].float(), None),
            (points[index].long(), None),
            (points[index].float() / 128, index),
        )
    ]
    for noise in drawn:
        assert noise.dtype == torch.float32
        assert torch.equal(noise, drawn[0])
    assert torch.equal(coupling().rows_for(drawn[0]), index)
    alone = PairedNoise(generator=torch.Generator().manual_seed(0))
    assert alone(points).dtype == torch.float32
    assert alone(points).shape == points.shape
    matcher = ConditionalFlowMatcher(coupling(), generator=torch.Generator().manual_seed(0))
    scaled = points[index].float() / 128
    t, x, velocity = matcher.sample_location_and_conditional_flow(None, scaled, index=index)
    torch.testing.assert_close(x, t[:, None] * scaled + (1 - t[:, None]) * drawn[0])
    torch.testing.assert_close(velocity, scaled - drawn[0])


@pytest.mark.parametrize("points", [images(torch.uint8), images(torch.int8)], ids=["uint8", "int8"])
def test_paths_to_bytes_are_refused(points: Tensor) -> None:
    """As ``train`` refuses them: targets from 0 to 255 beside noise of variance 1 are no mistake that a loss shows."""
    potential = pf.semidiscrete.fit(points, tol=0.2, progress=False).potential
    own = ConditionalFlowMatcher(pf.couplings.Semidiscrete(potential, points))
    whole, batch = ConditionalFlowMatcher(pf.couplings.Minibatch(points, 4)), ConditionalFlowMatcher()
    given = f"x1 is given in {points.dtype}, and targets would be these whole numbers; .*index= where"
    for matcher in (own, batch):
        with pytest.raises(ValueError, match=given):
            matcher.sample_location_and_conditional_flow(torch.randn(8, 3), points[:8])
    with pytest.raises(ValueError, match=f"the coupling's rows are stored in {points.dtype}"):
        whole.sample_location_and_conditional_flow(None, points[:8].float())


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=str)
def test_what_is_a_row_in_two_bytes_alone_is_none(stored: torch.dtype) -> None:
    points = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)).to(stored)
    lookup = RowLookup(Rows("Rows", points, None))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    for batch in (points[order], points[order].float()):
        assert torch.equal(lookup.index_of("test", batch), order)
    augmented = points.float() * (1 + 2.0**-14)
    assert torch.equal(augmented.to(stored), points)
    with pytest.raises(ValueError, match="100 points of the batch are no rows"):
        lookup.index_of("test", augmented)


def test_equal_rows_with_unlike_labels_must_be_named() -> None:
    points = torch.tensor([[1.0], [2.0], [1.0], [3.0], [3.0]])
    lookup = RowLookup(Rows("Rows", points, torch.tensor([0, 1, 1, 2, 2])))
    assert lookup.index_of("test", points[[1, 3, 4]]).tolist() == [1, 3, 3]
    with pytest.raises(ValueError, match="unlike labels"):
        lookup.index_of("test", points[2:3])
