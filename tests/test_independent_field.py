"""The closed-form field of independent pairs, against mixture densities, the continuity equation and its own flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import proxflow as pf
from proxflow.independent_field import IndependentField
from proxflow.measures import Empirical, Gaussian, Source, Uniform
from proxflow.schedules import Cosine, Linear, Polynomial, Schedule
from tests.peak_memory import peak_bytes
from tests.semidiscrete.sources import PlainNormal, Wide

SCHEDULES = [Linear(), Cosine(), Polynomial(2.5)]


def cloud(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return 1.5 * torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


def unequal(count: int) -> torch.Tensor:
    return torch.linspace(0.2, 1.0, count, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("t", [0.0, 0.3, 0.8])
def test_normal_source_agrees_with_the_score_of_the_mixture(schedule: Schedule, t: float) -> None:
    """Tweedie: E[X0 | X_t = x] = -alpha grad log p_t(x), and x = alpha E[X0 | x] + beta E[X1 | x]."""
    points, weights = cloud(7, 3), unequal(7)
    times = torch.tensor(t, dtype=torch.float64)
    alpha, beta = schedule.alpha(times), schedule.beta(times)
    mixture = MixtureSameFamily(
        Categorical(weights), MultivariateNormal(beta * points, alpha.square() * torch.eye(3, dtype=torch.float64))
    )
    x = (alpha * cloud(20, 3, seed=1) + beta * cloud(20, 3, seed=2)).requires_grad_()
    (score,) = torch.autograd.grad(mixture.log_prob(x).sum(), x)
    x = x.detach()
    source = -alpha * score
    field = IndependentField(points, weights, schedule)
    if t > 0:
        torch.testing.assert_close(field.recover_target(t, x), (x - alpha * source) / beta, rtol=1e-9, atol=1e-9)
        target = (x - alpha * source) / beta
        velocity = schedule.alpha_derivative(times) * source + schedule.beta_derivative(times) * target
        torch.testing.assert_close(field(t, x), velocity, rtol=1e-9, atol=1e-9)
    else:
        mean = (weights[:, None] * points).sum(0) / weights.sum()
        torch.testing.assert_close(field.recover_target(t, x), mean.expand(20, 3))


def smooth_empirical() -> Source:
    return Empirical(torch.tensor([[-1.0], [0.3], [2.0]], dtype=torch.float64), bandwidth=0.4)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("source", [Gaussian(1), smooth_empirical()], ids=repr)
def test_the_field_carries_the_density(schedule: Schedule, source: Source) -> None:
    """d p_t / dt + d (p_t v_t) / dx = 0 for p_t(x) = sum_j b_j p0((x - beta y_j) / alpha) / alpha."""
    points, weights = cloud(4, 1), unequal(4)
    field = IndependentField(points, weights, schedule, source)
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]

    def density(t: float, at: torch.Tensor) -> torch.Tensor:
        times = torch.tensor(t, dtype=torch.float64)
        alpha, beta = schedule.alpha(times), schedule.beta(times)
        parts = [b * source.log_prob((at - beta * y) / alpha).exp() for b, y in zip(weights, points, strict=True)]
        return torch.stack(parts).sum(0) / (weights.sum() * alpha)

    t, step = 0.45, 1e-5
    change = (density(t + step, x) - density(t - step, x)) / (2 * step)
    ahead, behind = x + step, x - step
    flux = density(t, ahead) * field(t, ahead)[:, 0] - density(t, behind) * field(t, behind)[:, 0]
    torch.testing.assert_close(change, -flux / (2 * step), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("t", [0.0, 0.2, 0.97])
def test_densities_and_softmax_agree(t: float) -> None:
    points, weights = cloud(40, 3), unequal(40)
    x = cloud(15, 3, seed=3)
    softmax = IndependentField(points, weights)
    densities = IndependentField(points, weights, source=PlainNormal(3), max_memory=1 << 12)
    torch.testing.assert_close(softmax(t, x), densities(t, x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(softmax.posterior(t, x), densities.posterior(t, x), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(softmax.posterior(t, x) @ points, softmax.recover_target(t, x))


def test_bounded_source_gives_nan_where_no_pair_passes() -> None:
    points = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    field = IndependentField(points, source=Uniform(1))
    # at t = 1/2 the pairs are on [-1/2, 0] and [1/2, 1]
    value = field.recover_target(0.5, torch.tensor([[-0.2], [0.25], [0.7]], dtype=torch.float64))
    torch.testing.assert_close(value, torch.tensor([[-1.0], [torch.nan], [1.0]]).double(), equal_nan=True)


def test_its_flow_ends_on_the_data_with_their_weights() -> None:
    points = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
    weights = torch.tensor([0.2, 0.5, 0.3])
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    end = pf.sampling.integrate(IndependentField(points, weights), noise, steps=60, method="heun").end
    distance, atom = torch.cdist(end, points).min(1)
    assert float(distance.max()) < 0.2
    share = torch.bincount(atom, minlength=3) / 4000
    assert (share - weights).abs().max() < 0.03


def test_jacobian_is_symmetric_for_a_normal_source() -> None:
    field = IndependentField(cloud(9, 3))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z: field(0.4, z[None])[0]))(cloud(5, 3, seed=4))
    torch.testing.assert_close(jacobian, jacobian.mT, rtol=0, atol=1e-12)


def test_equal_rows_are_as_good_as_weights() -> None:
    points, x = cloud(3, 2), cloud(6, 2, seed=1)
    doubled = IndependentField(torch.cat([points, points[:1]]))
    weighted = IndependentField(points, torch.tensor([2.0, 1.0, 1.0]))
    torch.testing.assert_close(doubled(0.5, x), weighted(0.5, x))


def test_atoms_of_weight_zero_do_not_count() -> None:
    points, x = cloud(3, 2), cloud(6, 2, seed=1)
    field = IndependentField(points, torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(field(0.5, x), IndependentField(points[[0, 2]])(0.5, x))


def test_event_shapes_and_a_time_for_each_row() -> None:
    images = torch.randn(10, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    field = IndependentField(images)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    times = torch.tensor([0.1, 0.5, 0.9])
    value = field(times, x)
    assert value.shape == x.shape
    for row, t in enumerate(times.tolist()):
        torch.testing.assert_close(value[row : row + 1], field(t, x[row : row + 1]), rtol=1e-5, atol=1e-5)


def test_rows_out_of_range_are_nan_and_alone() -> None:
    field, x = IndependentField(cloud(5, 2)), cloud(4, 2, seed=1)
    value = field(torch.tensor([0.5, 1.0, -0.1, 0.5], dtype=torch.float64), x)
    assert torch.isnan(value[1:3]).all()
    torch.testing.assert_close(value[[0, 3]], field(0.5, x[[0, 3]]))


def test_far_from_the_origin_single_precision_is_kept() -> None:
    points, x = cloud(20, 2).float(), cloud(50, 2, seed=1).float()
    shift = 64.0  # exact in float32 with room to spare
    moved = IndependentField(points + shift)(0.5, 0.5 * x + 0.5 * (points[0] + shift))
    still = IndependentField(points)(0.5, 0.5 * x + 0.5 * points[0])
    torch.testing.assert_close(moved, still + shift, rtol=0, atol=1e-3)


def test_memory_is_bounded() -> None:
    points = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5_000, 8, generator=torch.Generator().manual_seed(1))
    field = IndependentField(points, max_memory=1 << 26)
    assert peak_bytes(lambda: field(0.5, x)) < 3 * (1 << 26)  # all scores at once would be 400 MB


def test_state_dict_round_trip() -> None:
    field, x = IndependentField(cloud(5, 2), unequal(5)), cloud(4, 2, seed=1)
    other = IndependentField(cloud(5, 2, seed=9))
    other.load_state_dict(field.state_dict())
    torch.testing.assert_close(other(0.3, x), field(0.3, x), rtol=0, atol=0)
    arguments: dict[str, Any] = field.constructor_arguments()
    again = IndependentField(**arguments)
    torch.testing.assert_close(again(0.3, x), field(0.3, x))


def test_empty_batch() -> None:
    empty = torch.empty(0, 2, dtype=torch.float64)
    assert IndependentField(cloud(5, 2))(0.5, empty).shape == (0, 2)
    assert IndependentField(cloud(5, 2), source=PlainNormal(2))(0.5, empty).shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": torch.zeros(3)}, "points must be a non-empty"),
        ({"points": torch.zeros(0, 2)}, "points must be a non-empty"),
        ({"points": torch.zeros(3, 2, dtype=torch.int64)}, "points must be float32 or float64"),
        ({"points": torch.tensor([[0.0], [torch.nan]])}, r"1 row of points holds NaN or inf, the first: \[1\]"),
        ({"points": torch.zeros(3, 2), "weights": torch.ones(2)}, r"weights must have shape \(3,\)"),
        ({"points": torch.zeros(2, 2), "weights": torch.tensor([1.0, -1.0])}, "weights must be finite"),
        ({"points": torch.zeros(2, 2), "weights": torch.zeros(2)}, "weights are all zero"),
        ({"points": torch.zeros(2, 2), "source": Gaussian(3)}, "the source has dimension 3, the points 2"),
    ],
)
def test_bad_data_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IndependentField(**arguments)


def test_bad_queries_are_refused() -> None:
    field = IndependentField(cloud(5, 2))
    with pytest.raises(ValueError, match=r"x must have shape \(B, \*event\) with 2 entries"):
        field(0.5, torch.zeros(4, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"x is torch\.float32"):
        field(0.5, torch.zeros(4, 2))
    for t in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"t must be in \[0, 1\)"):
            field(t, cloud(4, 2))
    with pytest.raises(ValueError, match=r"t must be a scalar or have shape \(4,\)"):
        field(torch.zeros(3), cloud(4, 2))


def test_atoms_changed_in_place_are_seen() -> None:
    field, x = IndependentField(cloud(30, 3)), cloud(5, 3, seed=4)
    with torch.no_grad():
        field.points.add_(cloud(30, 3, seed=5))
    assert torch.equal(field(0.4, x), IndependentField(field.points.clone())(0.4, x))


def test_autocast_changes_no_answer() -> None:
    field, x = IndependentField(cloud(30, 3).float()), cloud(5, 3, seed=4).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = field(0.9, x), field.posterior(0.9, x)
    assert torch.equal(inside[0], field(0.9, x))
    assert torch.equal(inside[1], field.posterior(0.9, x))


USES: dict[str, Callable[..., Any]] = {
    "samples": lambda field, source, **schedule: pf.sampling.integrate(field, cloud(20, 2), 8, **schedule).end,
    "spectrum": lambda field, source, **schedule: (
        pf.analysis.terminal_spectrum(field, cloud(1, 2), [0.5], **schedule).rates
    ),
    "density": lambda field, source, **schedule: (
        pf.sampling.log_likelihood(field, cloud(1, 2, seed=7), rtol=0.1, atol=0.1, **source, **schedule).value
    ),
    "audit": lambda field, source, **schedule: (
        pf.analysis.audit(
            field, data=cloud(9, 2), count=64, steps=8, compare_independent=False, progress=False, **source, **schedule
        ).figures
    ),
}


@pytest.mark.filterwarnings("ignore::proxflow.ConvergenceWarning")
@pytest.mark.parametrize("use", USES)
def test_it_knows_its_schedule_and_its_noise(use: str) -> None:
    """A bare callable is taken in the linear schedule and from normal noise, of which this field has neither."""
    field = IndependentField(cloud(9, 2), schedule=Cosine(), source=Wide(2))
    told = USES[use](lambda t, x: field(t, x), {"source": Wide(2)}, schedule=Cosine())
    for known in (field, field.velocity):
        found = USES[use](known, {})
        assert found == told if use == "audit" else torch.equal(found, told)
    with pytest.raises(ValueError, match=r"the field has the schedule Cosine\(\), but schedule=Linear\(\) was given"):
        USES[use](field, {}, schedule=Linear())
