"""Planted faults are found and named, sound fields raise no alarm; all fields are exact flows in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.analysis import Audit, Figure, audit
from proxflow.analysis.auditing.verdict import advise, faults, verdict_of
from proxflow.potentials import Discrete, Quadratic
from tests.marks import slow_beyond

f64 = torch.float64
SEEDS = (0, 1, 2)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


def draws(flow: pf.ProximalFlow, n: int, seed: int) -> Tensor:
    return flow.sample(n, generator=torch.Generator().manual_seed(100 + seed), dtype=f64)


def gaussian(seed: int, schedule: pf.schedules.Schedule | None = None) -> pf.ProximalFlow:
    dim = 2 + seed % 3
    factor = normal(dim, dim, seed=seed) + torch.eye(dim, dtype=f64)
    return pf.ProximalFlow(Quadratic(normal(dim, seed=seed + 50), factor @ factor.T), schedule)


def atoms(seed: int) -> pf.ProximalFlow:
    """Three clusters of four atoms; any heights make an exact flow, of the weights that it has."""
    centres = 3 * torch.eye(3, dtype=f64).repeat_interleave(4, 0)
    points = centres + 0.4 * normal(12, 3, seed=seed)
    return pf.ProximalFlow(Discrete(points, 0.4 * points.square().sum(1)))


def without_the_first_cluster(flow: pf.ProximalFlow) -> pf.ProximalFlow:
    assert isinstance(flow.potential, Discrete)
    return pf.ProximalFlow(Discrete(flow.potential.points[4:], flow.potential.heights[4:]))


def turned(flow: pf.ProximalFlow, speed: float) -> Callable[[Tensor, Tensor], Tensor]:
    """With a rotation about the centre of an isotropic law, which leaves all its marginals alone."""
    skew = torch.zeros(flow.dim, flow.dim, dtype=f64)
    skew[0, 1], skew[1, 0] = speed, -speed
    return lambda t, x: flow.velocity(t, x) + x @ skew


def isotropic(seed: int) -> pf.ProximalFlow:
    dim = 2 + seed
    return pf.ProximalFlow(Quadratic(torch.zeros(dim, dtype=f64), (0.5 + seed) * torch.eye(dim, dtype=f64)))


def judged(field: Any, *args: Any, **options: Any) -> Audit:
    return audit(field, *args, count=400, steps=8, compare_independent=False, progress=False, **options)


def reversed_in_time(seed: int) -> Audit:
    flow = atoms(seed)
    return judged(lambda t, x: -flow.velocity(1 - t, x), flow, data=draws(flow, 500, seed))


def swapped(seed: int) -> Audit:
    flow = gaussian(seed, pf.schedules.Cosine() if seed == 2 else None)
    schedule = flow.schedule

    def field(t: Tensor, x: Tensor) -> Tensor:
        y, u = flow.recover_target(t, x), flow.recover_source(t, x)
        return schedule.alpha_derivative(t) * y + schedule.beta_derivative(t) * u

    return judged(field, data=draws(flow, 500, seed), schedule=schedule)


def dropped(seed: int) -> Audit:
    flow = atoms(seed)
    return judged(without_the_first_cluster(flow), flow, data=draws(flow, 500, seed))


def copied(seed: int) -> Audit:
    flow = gaussian(seed)
    rows = draws(flow, 40, seed)
    return judged(pf.IndependentField(rows), data=rows, held_out=draws(flow, 300, seed + 7))


def too_wide(seed: int) -> Audit:
    flow = gaussian(seed)
    covariance: Any = flow.potential.covariance
    centred = pf.ProximalFlow(Quadratic(torch.zeros(flow.dim, dtype=f64), covariance))
    return judged(pf.ProximalFlow(centred.potential.scale(math.sqrt(1.1))), centred)


def too_narrow(seed: int) -> Audit:
    flow = atoms(seed)
    return judged(pf.ProximalFlow(flow.potential.scale(math.sqrt(0.9))), flow, data=draws(flow, 500, seed))


def rotating(seed: int) -> Audit:
    flow = isotropic(seed)
    return judged(turned(flow, 0.7), flow)


ROTATED_SPREAD = torch.tensor([[5.0, 5.0], [-1.0, 1.0]], dtype=f64)  # long along the diagonal

FAULTS: dict[Callable[[int], Audit], str] = {
    reversed_in_time: "time is reversed",
    swapped: "alpha and sigma are swapped",
    dropped: "Modes are dropped",
    copied: "Rows are memorised",
    too_wide: "too large, by 10%",
    too_narrow: "too small, by 10%",
    rotating: "A rotation is in the field",
}


@pytest.mark.parametrize("seed", slow_beyond(1, SEEDS))
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_named_first(fault: Callable[[int], Audit], seed: int) -> None:
    found = fault(seed)
    assert found.warnings
    assert FAULTS[fault] in found.warnings[0]
    assert FAULTS[fault] in found.verdict
    assert len(found.warnings) == 1


@pytest.mark.parametrize("seed", slow_beyond(1, SEEDS))
def test_samples_that_fly_apart_are_read_in_another_way(seed: int) -> None:
    """A sharp flow read backwards ends far out and scatters there, by more than its distance from the data."""
    angle = torch.arange(8, dtype=f64) * math.pi / 4
    flow = pf.ProximalFlow(Discrete(2 * torch.stack([angle.cos(), angle.sin()], 1), torch.zeros(8, dtype=f64)))
    found = audit(lambda t, x: -flow.velocity(1 - t, x), data=draws(flow, 200, seed), count=128, steps=8, seed=seed,
                  compare_independent=False, progress=False)  # fmt: skip
    assert len(found.warnings) == 1
    assert "time is reversed" in found.warnings[0]


def sound_gaussian(seed: int) -> Audit:
    flow = gaussian(seed)
    return judged(flow.velocity, flow)


def sound_with_data_alone(seed: int) -> Audit:
    flow = gaussian(seed, pf.schedules.Cosine())
    rows = draws(flow, 500, seed)
    return judged(flow, data=rows, held_out=draws(flow, 200, seed + 7))


def sound_atoms(seed: int) -> Audit:
    flow = atoms(seed)
    return judged(flow, flow, data=draws(flow, 500, seed))


def sound_independent(seed: int) -> Audit:
    rows = draws(gaussian(seed), 200, seed)
    return judged(pf.IndependentField(rows), data=rows)


@pytest.mark.parametrize("seed", slow_beyond(2, range(5)))
@pytest.mark.parametrize(
    "sound", [sound_gaussian, sound_with_data_alone, sound_atoms, sound_independent], ids=lambda sound: sound.__name__
)
def test_a_sound_field_raises_no_alarm(sound: Callable[[int], Audit], seed: int) -> None:
    found = sound(seed)
    assert found.warnings == ()
    assert "No fault was found" in found.verdict


def test_weights_are_averaged_where_the_variance_is_off() -> None:
    assert too_wide(0).advice.startswith("Mend the variance first: average the weights")


def test_a_cost_below_that_of_the_exact_flow_is_called_so() -> None:
    flow = atoms(0)
    found = judged(pf.IndependentField(0.7 * draws(flow, 200, 0)), flow)
    cost = found.figures["cost_excess"].value
    assert cost < 0
    assert f"the cost is {-cost:.1%} below that of the exact flow" in found.verdict


@pytest.mark.parametrize(("low", "said"), [(-0.01, "the cost is not told from"), (0.01, "the cost is 2.0% above")])
def test_a_cost_that_sampling_explains_is_called_so(low: float, said: str) -> None:
    values = {"recovered_drift": (0.3, 0.3), "repairing_gain": (0.0, 0.0), "cost_excess": (0.02, low)}
    figures = {
        name: Figure(name, value, least, 2 * value - least, 0.0, None, "") for name, (value, least) in values.items()
    }
    assert f"{said} that of the exact flow" in verdict_of(figures, (), "")


@pytest.mark.parametrize(("drift", "said"), [(0.02, "Train for longer"), (0.3, "Train on optimal pairs")])
def test_optimal_pairs_are_advised_where_pairs_are_not_optimal(drift: float, said: str) -> None:
    errors = {"recovered_drift": drift, "repairing_gain": 0.0, "one_step_error": 0.2, "four_step_error": 0.1}
    figures = {name: Figure(name, value, value, value, 0.0, None, "") for name, value in errors.items()}
    assert advise(figures, (), None).startswith(said)


def test_a_field_without_values_is_said_to_have_none() -> None:
    found = judged(lambda t, x: x * math.nan, data=normal(100, 2, seed=0))
    assert "not finite" in found.verdict
    assert found.figures == {}


def eddies(x: Tensor) -> Tensor:
    """Of the stream function a cos(k x) cos(k y), which turn one way and the other, k^2 a at most."""
    wave, size = 6.0, 0.02
    phase = wave * x
    turning = torch.stack([-phase[:, 0].cos() * phase[:, 1].sin(), phase[:, 0].sin() * phase[:, 1].cos()], 1)
    return size * wave * turning


def test_a_rotation_is_stated_as_it_was_judged() -> None:
    """Without what is antisymmetric in single places alone."""
    turning = turned(isotropic(0), 0.5)
    found = judged(lambda t, x: turning(t, x) + eddies(x), isotropic(0))
    rotation, all_of_it = (found.figures[name].value for name in ("rotation", "jacobian_asymmetry"))
    assert all_of_it > 1.2 * rotation
    assert f"is {rotation:.0%} of the norm of its Jacobian" in found.warnings[0]


def test_eddies_as_errors_of_training_leave_them_are_no_rotation() -> None:
    flow = isotropic(0)
    found = judged(lambda t, x: flow.velocity(t, x) + eddies(x), flow)
    assert found.figures["jacobian_asymmetry"].low > 0.1
    assert found.figures["rotation"].low < 0.05
    assert found.warnings == ()


class TwoPoints:
    """Noise near (3, 0) or (-3, 0)."""

    dim = 2

    def sample(self, n: int, *, generator: Any = None, dtype: Any = None, device: Any = None) -> Tensor:
        side = 6.0 * torch.randint(2, (n, 1), generator=generator) - 3
        noise = torch.randn(n, 2, generator=generator, dtype=f64)
        return (noise + side * torch.tensor([1.0, 0.0])).to(dtype=dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        centres = torch.tensor([[3.0, 0.0], [-3.0, 0.0]], dtype=x.dtype)
        return torch.logsumexp(-0.5 * torch.cdist(x, centres).square(), 1)


def test_independent_pairs_of_other_noise_have_a_rotation_that_is_no_fault() -> None:
    """Their field is a gradient for normal noise alone (docs/theory.md 2)."""
    source = TwoPoints()
    rows = 0.3 * torch.randn(100, 2, dtype=f64, generator=torch.Generator().manual_seed(0)) @ ROTATED_SPREAD
    found = judged(pf.IndependentField(rows, source=source), source=source, data=rows)
    assert found.figures["jacobian_asymmetry"].low > 0.05
    assert found.warnings == ()
    assert "rotation" not in found.advice


def uneven(*scales: float) -> Audit:
    """Variances along the principal directions are off, and their sum is right."""
    variances = torch.tensor([3.0, 2.0, 1.0], dtype=f64)
    flow, other = (
        pf.ProximalFlow(Quadratic(torch.zeros(3, dtype=f64), torch.diag(variances * torch.tensor(factors, dtype=f64))))
        for factors in ((1.0, 1.0, 1.0), scales)
    )
    return judged(other.velocity, flow, data=draws(flow, 5000, 0))


def test_a_variance_that_is_off_along_one_direction_is_named() -> None:
    found = uneven(1.1, 0.85, 1.0)
    assert found.figures["variance_ratio"].value == pytest.approx(1, abs=0.03)
    assert len(found.warnings) == 1
    assert "too large, by 10%, along the first principal direction" in found.warnings[0]
    assert "too small, by 15%, along the second" in found.warnings[0]
    assert "third" not in found.warnings[0]
    assert found.advice.startswith("Mend the variance first")


def test_a_variance_that_is_off_by_a_few_percent_along_a_direction_is_no_fault() -> None:
    assert uneven(1.02, 0.97, 1.0).warnings == ()


@pytest.mark.parametrize(("errors", "named"), [(3.2, 0), (3.5, 1)])
def test_several_directions_are_several_chances_of_a_false_alarm(errors: float, named: int) -> None:
    """Three standard errors beyond what matters are enough for one figure, and not for the largest of three."""
    stderr = 0.01
    value = 1.03 + errors * stderr
    figures = {
        name: Figure(name, one, one - 1.96 * stderr, one + 1.96 * stderr, 1.0, None, "")
        for name, one in (("variance_ratio", 1.0), ("variance_ratio_1", 1.0), ("variance_ratio_2", value))
    }
    assert len(faults(figures, None, None, normal_source=True)) == named
