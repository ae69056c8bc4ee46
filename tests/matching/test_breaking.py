"""Broken pairs, and how many of them a field bears."""

from __future__ import annotations

import math

import pytest
import torch

import proxflow as pf
from proxflow.couplings import Independent, Minibatch, Pairs, Semidiscrete
from proxflow.matching import Breaking, BreakingLaw, break_pairs, breaking_law
from proxflow.schedules import Cosine, Linear, Schedule

N = 4000


def _pairs() -> Pairs:
    source = torch.randn(N, 2, generator=torch.Generator().manual_seed(0))
    return Pairs(source, 3 * source, torch.arange(N), torch.arange(N))


def _two_atoms(labels: torch.Tensor | None = None) -> Semidiscrete:
    """Noise above 0 goes to 1, below to -1."""
    points = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    return Semidiscrete(pf.potentials.Discrete(points, torch.zeros(2, dtype=torch.float64)), points, labels)


def test_each_pair_is_broken_with_its_probability() -> None:
    probability = torch.rand(N, generator=torch.Generator().manual_seed(1)).square()
    broken = (break_pairs(_pairs(), probability, torch.Generator().manual_seed(2)).source != _pairs().source).any(1)
    for low in (0.0, 0.25, 0.5, 0.75):
        bin_ = (probability >= low) & (probability < low + 0.25)
        expected = probability[bin_].mean()
        error = math.sqrt(float(expected * (1 - expected)) / int(bin_.sum()))
        assert abs(float(broken[bin_].float().mean() - expected)) < 4 * error


def test_sources_are_permuted_and_the_rest_stays() -> None:
    pairs, probability = _pairs(), torch.full((N,), 0.7)
    broken = break_pairs(pairs, probability, torch.Generator().manual_seed(0))
    assert torch.equal(broken.source.sort(0).values, pairs.source.sort(0).values)
    assert torch.equal(broken.target, pairs.target)
    assert torch.equal(broken.index, pairs.index)
    assert torch.equal(broken.label, pairs.label)


def test_broken_pairs_are_uncorrelated() -> None:
    broken = break_pairs(_pairs(), torch.ones(N))
    correlation = torch.corrcoef(torch.stack([broken.source[:, 0], broken.target[:, 0]]))[0, 1]
    assert abs(float(correlation)) < 4 / math.sqrt(N)


def test_probability_zero_breaks_none() -> None:
    assert torch.equal(break_pairs(_pairs(), torch.zeros(N)).source, _pairs().source)


def _independent_share(t: float, schedule: Schedule) -> float:
    """E (v_ind - v)^2 / E v^2 of the flow of two atoms, by quadrature over the noise that goes to +1."""
    time = torch.tensor(t, dtype=torch.float64)
    alpha, beta = float(schedule.alpha(time)), float(schedule.beta(time))
    slope, speed = float(schedule.alpha_derivative(time)), float(schedule.beta_derivative(time))
    u = torch.linspace(0, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-u.square() / 2)
    other = u + 2 * beta / alpha  # noise that comes to the same x_t on its way to -1
    crossing = torch.exp(-other.square() / 2)
    optimal = slope * u + speed
    independent = (density * optimal + crossing * (slope * other - speed)) / (density + crossing)
    apart = torch.trapezoid(density * (independent - optimal).square(), u)
    return float(apart / torch.trapezoid(density * optimal.square(), u))


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=repr)
@pytest.mark.parametrize("pull", [0.01, 0.1])
def test_the_pull_is_what_was_asked_for(schedule, pull) -> None:
    law = breaking_law(_two_atoms(), Breaking(0.0, pull), schedule, seed=3)
    lowered = 0
    for t, probability in zip(law.times[1:-1].tolist(), law.probability[1:-1].tolist(), strict=True):
        expected = math.sqrt(pull / _independent_share(t, schedule))
        assert probability == pytest.approx(min(1.0, expected), rel=0.3)  # 256 probes
        lowered += probability < 1
    assert lowered >= 5


def test_points_far_apart_may_be_broken_as_often_as_wanted() -> None:
    points = 20 * torch.eye(64)
    coupling = Semidiscrete(pf.potentials.Discrete(points, torch.zeros(64)), points)
    law = breaking_law(coupling, Breaking(), Linear())
    late = law.times >= 0.3
    torch.testing.assert_close(law.probability[late], law.times[late].square())
    assert law.share == pytest.approx(1 / 3, abs=0.02)


def test_in_the_plane_few_pairs_are_broken() -> None:
    points = pf.data.load("moons", n=1000).points
    law = breaking_law(Semidiscrete(pf.semidiscrete.fit(points).potential, points), Breaking(), Linear())
    assert law.share < 0.05


def test_labels_condition_the_field() -> None:
    """With a class for each atom there is one path behind each x, and all pairs may be broken."""
    law = breaking_law(_two_atoms(torch.tensor([0, 1])), Breaking(0.0), Linear())
    torch.testing.assert_close(law.probability, torch.ones_like(law.times))


def test_limits() -> None:
    free = breaking_law(_two_atoms(), Breaking(2.0, math.inf), Linear())
    torch.testing.assert_close(free.probability, free.times.square())
    none = breaking_law(_two_atoms(), Breaking(2.0, 0.0), Linear())
    assert float(none.probability[none.times < 0.5].max()) == 0


def test_where_nothing_is_known_no_pair_is_broken() -> None:
    points = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    assert breaking_law(Independent(points), Breaking(), Linear()) is None
    elsewhere = Minibatch(points, 10, source=pf.measures.Uniform(2))
    assert breaking_law(elsewhere, Breaking(), Linear()) is None


def test_a_law_is_linear_between_its_times() -> None:
    law = BreakingLaw(torch.tensor([0.0, 1.0]).double(), torch.tensor([0.0, 0.5]).double())
    torch.testing.assert_close(law(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([0.0, 0.25, 0.5]))
    assert law.share == pytest.approx(0.25)


@pytest.mark.parametrize("arguments", [{"exponent": -1.0}, {"pull": -0.1}, {"pull": math.nan}])
def test_bad_numbers(arguments) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        Breaking(**arguments)


def test_pairs_are_drawn_in_batches_of_training() -> None:
    """A coupling that assigns what it draws is another one at another size."""

    class Assigned:
        source = pf.measures.Gaussian(2)
        sizes: tuple[int, ...] = ()

        def sample(self, n: int, *, generator: torch.Generator | None = None) -> Pairs:
            self.sizes = (*self.sizes, n)
            noise = torch.randn(n, 2, generator=generator)
            return pf.couplings.pair(noise, noise.flip(0) + 1)

    coupling = Assigned()
    assert breaking_law(coupling, Breaking(), Linear(), batch_size=30) is not None
    assert set(coupling.sizes) == {30}


def test_the_buffer_of_a_minibatch_coupling_is_left_alone() -> None:
    """The law is that of whole assignments, whatever was drawn before."""
    coupling = Minibatch(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)), 30)
    first = breaking_law(coupling, Breaking(), Linear())
    coupling.sample(7, generator=torch.Generator().manual_seed(1))
    second = breaking_law(coupling, Breaking(), Linear())
    assert first is not None
    assert second is not None
    assert torch.equal(first.probability, second.probability)
