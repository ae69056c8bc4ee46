"""Built-in data sets: each against what defines it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import proxflow as pf
from proxflow.data import BUILT_IN
from tests.data.sources import SYNTHETIC, WRITERS, f64, raw, refusal


def test_digits_are_those_of_scikit_learn() -> None:
    dataset, bunch = raw("digits"), load_digits()
    assert dataset.points.shape == (1797, 8, 8)
    assert np.array_equal(dataset.points.numpy(), bunch.images)
    assert np.array_equal(dataset.labels.numpy(), bunch.target)
    assert (dataset.name, dataset.n, dataset.dim, dataset.event_shape) == ("digits", 1797, 64, (8, 8))


def test_moons_lie_near_two_half_circles() -> None:
    dataset = raw("moons", n=400)
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.5]], dtype=f64)[dataset.labels]
    radii = (dataset.points - centres).norm(dim=1)
    assert (radii - 1).abs().max() < 6 * 0.05
    assert torch.bincount(dataset.labels).tolist() == [200, 200]


def test_eight_gaussians_sit_on_a_ring() -> None:
    dataset = raw("8gaussians", n=4000)
    for label in range(8):
        own = dataset.points[dataset.labels == label]
        angle = label * np.pi / 4
        centre = 5 * torch.tensor([np.cos(angle), np.sin(angle)], dtype=f64)
        assert ((own.mean(0) - centre).abs() < 5 / np.sqrt(len(own))).all()
        assert ((own.std(0) - 1).abs() < 5 / np.sqrt(2 * len(own))).all()


def test_circle_is_the_unit_circle() -> None:
    dataset = raw("circle", n=50)
    torch.testing.assert_close(dataset.points.norm(dim=1), torch.ones(50, dtype=f64), rtol=1e-15, atol=1e-15)
    assert dataset.labels is None


def test_swissroll_lies_on_its_sheet() -> None:
    x, _, z = raw("swissroll", n=50).points.T
    angle = torch.hypot(x, z)
    torch.testing.assert_close(x, angle * torch.cos(angle))
    torch.testing.assert_close(z, angle * torch.sin(angle))


def test_scurve_lies_near_its_two_circles() -> None:
    x, _, z = raw("scurve", n=50).points.T
    assert ((x.square() + (1 - z.abs()).square()).sqrt() - 1).abs().max() < 0.4


@pytest.mark.parametrize("name", SYNTHETIC)
def test_synthetic_sets_follow_n_and_seed(name: str) -> None:
    first = pf.data.load(name, n=20, seed=3)
    assert first.n == 20
    assert first.name == name
    assert torch.equal(first.points, pf.data.load(name, n=20, seed=3).points)
    assert not torch.equal(first.points, pf.data.load(name, n=20, seed=4).points)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_synthetic_sets_leave_the_global_generators_alone(name: str) -> None:
    before, before_torch = np.random.get_state(legacy=False)["state"]["key"].copy(), torch.random.get_rng_state()  # noqa: NPY002
    pf.data.load(name, n=20)
    assert np.array_equal(before, np.random.get_state(legacy=False)["state"]["key"])  # noqa: NPY002
    assert torch.equal(before_torch, torch.random.get_rng_state())


@pytest.mark.parametrize("name", SYNTHETIC)
@pytest.mark.parametrize("n", [0, -3, 2.5])
def test_refuses_a_bad_number_of_points(name: str, n: float) -> None:
    assert "n must be a positive integer" in refusal(name, n=n)


@pytest.mark.parametrize("name", SYNTHETIC)
@pytest.mark.parametrize("seed", [-1, 2**32])
def test_refuses_a_seed_out_of_range(name: str, seed: int) -> None:
    assert "seed must be from 0" in refusal(name, seed=seed)


def test_an_unknown_name_lists_the_known_ones() -> None:
    message = refusal("didgits")
    assert "'didgits'" in message
    assert all(name in message for name in BUILT_IN)
    assert all(suffix in message for suffix in WRITERS)
