"""Masses of Laguerre cells against products of intervals, a fine grid of lines, and difference quotients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from proxflow.kernels.gaussian_cells import GaussianCells, gaussian_cells
from tests.marks import slow_beyond

Array = NDArray[np.float64]


def cloud(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    points = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return points / points.norm(dim=1).max()


def rotation(dim: int) -> torch.Tensor:
    return torch.linalg.qr(cloud(dim, dim, seed=9))[0]


def laplacian(cells: GaussianCells) -> torch.Tensor:
    count = len(cells.mass)
    adjacency = torch.zeros(count, count, dtype=torch.float64)
    adjacency.index_put_((cells.left, cells.right), cells.weight, accumulate=True)
    adjacency.index_put_((cells.right, cells.left), cells.weight, accumulate=True)
    return torch.diag(adjacency.sum(1)) - adjacency


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_cells_of_a_turned_product_are_products_of_intervals(dim: int) -> None:
    levels = np.array([0.05, 0.2, 0.35, 0.7, 0.97])
    edges = ndtri(levels)
    line = np.array([-1.0, -0.8, -0.3, 0.1, 0.15, 1.0])
    heights = np.concatenate([[0.0], np.cumsum(np.diff(line) * edges)])
    mass = np.diff(np.concatenate([[0.0], levels, [1.0]]))
    grids = np.meshgrid(*[line] * dim, indexing="ij")
    points = torch.from_numpy(np.stack([g.ravel() for g in grids], axis=1)) @ rotation(dim)
    total = np.sum(np.meshgrid(*[heights] * dim, indexing="ij"), axis=0).ravel()
    expected = np.prod([g.ravel() for g in np.meshgrid(*[mass] * dim, indexing="ij")], axis=0)
    cells = gaussian_cells(points, torch.from_numpy(total))
    assert cells.mass.numpy() == pytest.approx(expected, abs=1e-9)


def masses_by_lines(points: Array, heights: Array, lines: int) -> Array:
    """N(0, I_2) mass of planar cells: exact along each of many parallel lines, trapezoidal across them."""
    order = np.argsort(points[:, 1])
    points, heights = points[order], heights[order]
    rise = points[None, :, 1] - points[:, None, 1]
    masses = np.zeros(len(points))
    first = np.linspace(-8.5, 8.5, lines)
    weight = np.exp(-0.5 * first**2) / np.sqrt(2 * np.pi) * (first[1] - first[0])
    for x, w in zip(first, weight, strict=True):
        level = heights - x * points[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = (level[None, :] - level[:, None]) / rise
        high = np.where(rise > 0, crossing, np.inf).min(1)
        low = np.where(rise < 0, crossing, -np.inf).max(1)
        masses += w * np.clip(ndtr(high) - ndtr(low), 0, None)
    out = np.empty_like(masses)
    out[order] = masses
    return out


@pytest.mark.parametrize("convex", slow_beyond(1, [False, True]))
def test_planar_masses_agree_with_a_fine_grid_of_lines(convex: bool) -> None:
    points = cloud(60, 2)
    heights = 0.5 * points.square().sum(1) if convex else 0.3 * cloud(60, 1, seed=4)[:, 0]
    cells = gaussian_cells(points, heights)
    expected = masses_by_lines(points.numpy(), heights.numpy(), 40001)
    assert cells.mass.numpy() == pytest.approx(expected, abs=1e-6)
    assert (expected == 0).any() != convex  # empty cells are part of the test


@pytest.mark.slow
def test_masses_in_space_agree_with_a_long_sample() -> None:
    points = cloud(50, 3)
    heights = 0.4 * points.square().sum(1)
    cells = gaussian_cells(points, heights)
    noise = torch.randn(4_000_000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    counts = sum(torch.bincount((n @ points.T - heights).argmax(1), minlength=50) for n in noise.split(100_000))
    deviation = (counts / len(noise) - cells.mass) / (cells.mass * (1 - cells.mass) / len(noise)).sqrt()
    assert float(deviation.abs().max()) < 4.5
    assert float(deviation.square().mean()) == pytest.approx(1, abs=0.7)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_weights_of_faces_are_the_derivatives_of_the_masses(dim: int) -> None:
    points = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None] if dim == 1 else cloud(80, dim)
    heights = 0.4 * points.square().sum(1)
    direction = 1e-6 * cloud(len(points), 1, seed=3)[:, 0]
    ahead, behind = gaussian_cells(points, heights + direction), gaussian_cells(points, heights - direction)
    derivative = -laplacian(gaussian_cells(points, heights)) @ direction
    torch.testing.assert_close((ahead.mass - behind.mass) / 2, derivative, rtol=0, atol=1e-4 * float(derivative.norm()))


def test_few_and_coincident_slopes() -> None:
    two = gaussian_cells(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double(), torch.tensor([0.0, 1.0]).double())
    assert two.mass.tolist() == pytest.approx([ndtr(0.5), ndtr(-0.5)], abs=1e-14)
    one = gaussian_cells(torch.tensor([[1.0, 0.0, 0.0]]).double(), torch.zeros(1).double())
    assert one.mass.tolist() == pytest.approx([1.0], abs=1e-14)
