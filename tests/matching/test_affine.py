"""The affine part of a velocity: against full linear regression, and what is left of it against its size."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import proxflow as pf
from proxflow.matching import MLP, AffineResidual, ResidualMLP, affine, sample_path
from tests.marks import slow_beyond
from tests.matching.test_networks import residual

SCHEDULES = [pf.schedules.Linear(), pf.schedules.Cosine(), pf.schedules.Polynomial(2)]


class Nothing(nn.Module):
    """The network that gives 0."""

    def forward(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Zeros."""
        return torch.zeros_like(x)


class Normal:
    """Normal data with any covariance and mean, from the same axes of the noise, at an angle to their optimal pairs."""

    def __init__(self, deviations: Tensor, angle: float) -> None:
        dim = len(deviations)
        generator = torch.Generator().manual_seed(3)
        self.turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q
        self.root = self.turn @ torch.diag(deviations.double()) @ self.turn.T
        self.mean = torch.linspace(-1, 2, dim, dtype=torch.float64)
        self.angle = angle

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> pf.couplings.Pairs:
        """n pairs."""
        mapped, other = torch.randn(2, n, len(self.mean), generator=generator, dtype=torch.float64)
        source = math.cos(self.angle) * mapped + math.sin(self.angle) * other
        return pf.couplings.Pairs(source, self.mean + mapped @ self.root, torch.arange(n))

    def velocity(self, t: Any, x: Tensor, schedule: pf.schedules.Schedule) -> Tensor:
        """E[V | X = x], by the full covariance matrices."""
        alpha, beta, alpha_rate, beta_rate = (
            float(coefficient(t))
            for coefficient in (schedule.alpha, schedule.beta, schedule.alpha_derivative, schedule.beta_derivative)
        )
        one, data, both = torch.eye(len(self.mean)).double(), self.root @ self.root, math.cos(self.angle) * self.root
        variance = alpha**2 * one + 2 * alpha * beta * both + beta**2 * data
        covariance = alpha * alpha_rate * one + (alpha * beta_rate + alpha_rate * beta) * both + beta * beta_rate * data
        return beta_rate * self.mean + (x - beta * self.mean) @ torch.linalg.solve(variance, covariance)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("angle", [0.0, 0.7, math.pi / 2], ids=["optimal", "turned", "independent"])
def test_it_is_the_velocity_of_a_normal_law(angle: float, schedule: pf.schedules.Schedule) -> None:
    law = Normal(torch.tensor([3.0, 1.0, 0.3, 0.05]), angle)
    network = AffineResidual.fit(Nothing(), law, schedule=schedule, pairs=1 << 17)
    pairs = law.sample(500, generator=torch.Generator().manual_seed(9))
    for t in (0.0, 0.2, 0.5, 0.9):
        x = sample_path(pairs, torch.full((500,), t, dtype=torch.float64), schedule).x
        exact = law.velocity(t, x, schedule)
        assert (network(t, x) - exact).square().mean() < 1e-3 * exact.square().mean()


@pytest.mark.slow
@pytest.mark.parametrize("schedule", slow_beyond(1, SCHEDULES), ids=repr)
def test_what_is_left_has_the_size_that_it_says(schedule: pf.schedules.Schedule) -> None:
    """Of digits, whose law is far from normal: a network that gives noise of size 1 adds as much as is left."""
    points = pf.data.load("digits").points
    coupling = pf.couplings.Subspace.fit(points, dim=3)
    network = AffineResidual.fit(Nothing(), coupling, schedule=schedule)
    pairs = coupling.sample(20_000, generator=torch.Generator().manual_seed(5))
    for t in (0.1, 0.5, 0.9):
        path = sample_path(pairs, torch.full((20_000,), t), schedule)
        left = (path.velocity - network(path.t, path.x)).flatten(1) @ network.axes
        size = network._moments(path.t[:1, None]).rest[0]
        varied = network.variances[1] > 0.05  # the others live of a few rows, which 16,384 draws count roughly
        ratio = left.square().mean(0)[varied].sqrt() / size[varied]
        assert (ratio - 1).abs().max() < 0.05
        wrong_slope = left + 0.05 * (path.x.flatten(1) @ network.axes)
        assert wrong_slope.square().mean() > left.square().mean()


def test_the_network_sees_points_of_mean_variance_one() -> None:
    seen = []

    class Watched(Nothing):
        def forward(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
            seen.append(x)
            return super().forward(t, x, label)

    points = 30 + 5 * torch.randn(500, 4, 4, generator=torch.Generator().manual_seed(0)) ** 3
    coupling = pf.couplings.Independent(points)
    network = AffineResidual.fit(Watched(), coupling)
    pairs = coupling.sample(20_000)
    for t in (0.0, 0.3, 0.99):
        network(t, sample_path(pairs, torch.full((20_000,), t)).x)
        assert seen[-1].shape == pairs.source.shape
        assert abs(float(seen[-1].mean())) < 0.05
        assert abs(float(seen[-1].square().mean()) - 1) < 0.1


@pytest.mark.parametrize("t", [0.0, 1 - 2**-24, 1.0])
def test_coordinates_that_never_vary(t: float) -> None:
    points = torch.cat([torch.randn(200, 2), torch.full((200, 3), 7.0)], dim=1)
    network = AffineResidual.fit(ResidualMLP((5,), width=16), pf.couplings.Independent(points))
    assert torch.isfinite(network(t, points[:5])).all()
    noise = torch.randn(2000, 5)
    with torch.no_grad():
        end = pf.sampling.integrate(network, noise, steps=20, method="euler").end
    assert (end[:, 2:] - 7).abs().max() < 1e-3


@pytest.mark.parametrize(
    "coupling",
    [
        lambda points: pf.couplings.Independent(points),
        lambda points: pf.couplings.Minibatch(points, 64),
        lambda points: pf.couplings.Minibatch(points, 64, epsilon=0.5),
        lambda points: pf.couplings.Subspace.fit(points, dim=2),
        lambda points: pf.couplings.Conditional.fit(points, torch.arange(300) % 3),
    ],
    ids=["independent", "minibatch", "entropic", "subspace", "conditional"],
)
def test_couplings(coupling: Callable[..., Any]) -> None:
    """Half of the error of the velocity's mean at least is gone, before any training."""
    points = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)) * torch.linspace(3, 0.1, 6) + 2
    drawn = coupling(points)
    network = AffineResidual.fit(Nothing(), drawn, pairs=2000)
    path = sample_path(drawn.sample(256), torch.rand(256))
    assert pf.matching.flow_matching_loss(network, path) < 0.5 * path.velocity.square().mean()


@pytest.mark.parametrize("label", [None, 1])
def test_it_is_called_as_its_network_is(label: int | None, tmp_path: Path) -> None:
    points = torch.randn(100, 2, 3)
    inner = residual((2, 3), classes=3)
    network = AffineResidual.fit(inner, pf.couplings.Independent(points), schedule=pf.schedules.Cosine()).eval()
    assert network.event_shape == (2, 3)
    assert network.classes == 3
    field: Any = pf.matching.field_of(network, label)
    velocity = field(0.5, points[:4])
    assert velocity.shape == (4, 2, 3)
    assert torch.allclose(velocity[:1], field(torch.tensor(0.5), points[:1]), atol=1e-5)
    pf.save(network, tmp_path / "network")
    loaded = pf.load(tmp_path / "network").eval()
    assert loaded.schedule == network.schedule
    again: Any = pf.matching.field_of(loaded, label)
    assert torch.equal(again(0.5, points[:4]), velocity)
    with pytest.raises(ValueError, match="labels 0 to 2"):
        pf.matching.field_of(network, 3)


def test_half_precision_keeps_the_affine_part() -> None:
    """Near t = 1 it is -x0 = -(x - beta x1) / alpha: bfloat16 would lose it."""
    points = 10 + 1e-3 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    network = AffineResidual.fit(MLP((4,), width=16), pf.couplings.Independent(points))
    path = sample_path(pf.couplings.Independent(points).sample(100), torch.full((100,), 0.99))
    plain = network(path.t, path.x)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(path.t, path.x)
    assert half.dtype == torch.float32
    assert torch.allclose(plain, half, atol=0.05)


def test_above_2048_coordinates_each_is_regressed_by_itself() -> None:
    coupling = pf.couplings.Independent(torch.randn(20, 2100) + 5)
    network = AffineResidual.fit(Nothing(), coupling, pairs=300)
    assert network.axes is None
    path = sample_path(coupling.sample(64), torch.full((64,), 0.5))
    assert pf.matching.flow_matching_loss(network, path) < 0.1 * path.velocity.square().mean()


def test_bad_arguments() -> None:
    one = torch.ones(3)
    with pytest.raises(ValueError, match=r"variances must be finite and of shape \(2, 3\), got \(3,\)"):
        AffineResidual(Nothing(), torch.eye(3), torch.ones(2, 3), one, one)
    with pytest.raises(ValueError, match="means must be finite"):
        AffineResidual(Nothing(), torch.eye(3), torch.full((2, 3), torch.nan), torch.ones(2, 3), one)
    with pytest.raises(ValueError, match="must be a torch"):
        AffineResidual(lambda t, x: x, torch.eye(3), torch.ones(2, 3), torch.ones(2, 3), one)  # type: ignore[arg-type]
    pairs: Any
    for pairs in (1, 2.5, "many"):
        with pytest.raises(ValueError, match="pairs must be a whole number of at least 2"):
            AffineResidual.fit(Nothing(), pf.couplings.Independent(torch.randn(5, 2)), pairs=pairs)


@pytest.mark.parametrize("pairs", [200, 300, 1000])
def test_no_pair_is_counted_twice(pairs: int) -> None:
    """Rows without noise: batch k of fewer pairs begins elsewhere, among those that were counted."""
    rows = torch.arange(2000.0)[:, None]
    coupling = pf.couplings.Minibatch(rows, 2000)
    drawn = torch.cat([batch.target for batch in affine._drawn(coupling, pairs, 0)])
    assert len(torch.unique(drawn)) == len(drawn) == pairs
