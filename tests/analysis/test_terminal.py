"""Rates of A(t) against the scale law with textbook conjugates, dense algebra, and scipy's matrix exponential."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import linalg
from torch.utils._python_dispatch import TorchDispatchMode

import proxflow as pf
from proxflow.analysis.terminal.flat_field import FlatField, clock
from proxflow.analysis.terminal.lyapunov import lyapunov_exponents
from proxflow.analysis.terminal.scale_law import local_scale, scale_law, scale_spectrum
from proxflow.analysis.terminal.terminal_spectrum import tangent_splitting, terminal_spectrum
from proxflow.kernels.lanczos import extreme_eigenvalues
from proxflow.potentials import Ball, Discrete, Ellipsoid, Product, Quadratic
from proxflow.sampling.solvers import Field
from proxflow.schedules import Cosine, Linear, Polynomial
from tests.marks import slow_beyond

f64 = torch.float64
TIMES = [0.9, 0.99, 0.999]
SCHEDULES = [(Linear(), 1.0), (Cosine(), 1.0), (Polynomial(2.5), 2.5), (Polynomial(0.5), 0.5)]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = f64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


FACTOR = normal(5, 3, seed=1)
AXES = torch.tensor([0.4, 1.0, 1.7], dtype=f64)
ATOMS = normal(30, 3, seed=2)
HEIGHTS = 0.2 * normal(30, seed=3)


# (F F')^(1/2) = F (F'F)^(-1/2) F', without the noise of a root of 0
ROOT = FACTOR @ torch.from_numpy(linalg.inv(linalg.sqrtm((FACTOR.T @ FACTOR).numpy()))) @ FACTOR.T


# target, its phi as in docs/theory.md 7, dimension of the target
CASES = {
    "circle": (Ball(2), lambda u: u.norm(), 1),
    "sphere": (Ball(3), lambda u: u.norm(), 2),
    "sphere in R^10": (Ball(10), lambda u: u.norm(), 9),
    "clifford torus": (Product([Ball(2), Ball(2)]), lambda u: u[:2].norm() + u[2:].norm(), 2),
    "ellipsoid": (Ellipsoid(AXES), lambda u: (AXES * u).norm(), 2),
    "singular gaussian": (
        Quadratic(torch.ones(5, dtype=f64), FACTOR @ FACTOR.T),
        lambda u: u.sum() + 0.5 * u @ ROOT @ u,
        3,
    ),
    "atoms": (Discrete(ATOMS, HEIGHTS), lambda u: (ATOMS @ u - HEIGHTS).max(), 0),
}


def predicted(
    phi: Callable[[torch.Tensor], torch.Tensor], kept: int, x0: torch.Tensor, t: float, schedule: pf.schedules.Schedule
) -> torch.Tensor:
    """(W / -alpha') c / (alpha + beta c) - 1, c an eigenvalue of Hess phi(x0): docs/theory.md 6 with eta = 1 / c."""
    c = torch.linalg.eigvalsh(torch.func.vmap(torch.func.hessian(phi))(x0))
    c[:, : x0.shape[1] - kept] = 0.0  # up to rounding
    time = torch.tensor(t, dtype=f64)
    alpha, beta, slope = schedule.alpha(time), schedule.beta(time), schedule.alpha_derivative(time)
    return schedule.wronskian(time) / -slope * c / (alpha + beta * c) - 1


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("schedule", "exponent"), SCHEDULES, ids=lambda value: str(value))
def test_exact_flows_follow_the_scale_law(name: str, schedule: pf.schedules.Schedule, exponent: float) -> None:
    potential, phi, kept = CASES[name]
    flow = pf.ProximalFlow(potential, schedule)
    x0 = normal(3, potential.dim, seed=4)
    normals = potential.dim - kept
    exact = terminal_spectrum(flow, x0, TIMES)
    wanted = torch.stack([predicted(phi, kept, x0, t, schedule) for t in TIMES])
    torch.testing.assert_close(exact.rates, wanted, rtol=0, atol=1e-9)
    assert (exact.rates[..., :normals] + 1).abs().max() <= 1e-12 if normals else True
    assert exact.asymmetry.max() <= 1e-12
    assert (exact.lowest, exact.highest) == (potential.dim, 0)
    if normals:
        slowest = exact.remaining_time_rates[-1, :, :normals]
        # Cosine: (pi / 2) (1 - t) / tan(pi (1 - t) / 2) = 1 - (pi (1 - t) / 2)^2 / 3 + ...
        assert (slowest + exponent).abs().max() <= (math.pi * 1e-3 / 2) ** 2 / 3 + 1e-9


BARE: list[tuple[str, pf.schedules.Schedule]] = [(name, Linear()) for name in CASES]
BARE += [("sphere", Cosine()), ("atoms", Cosine()), ("clifford torus", Polynomial(2.5)), ("atoms", Polynomial(2.5))]


@pytest.mark.parametrize(("name", "schedule"), slow_beyond(len(CASES), BARE), ids=lambda value: str(value))
def test_a_bare_callable_has_the_spectrum_of_its_flow(name: str, schedule: pf.schedules.Schedule) -> None:
    potential, _, _ = CASES[name]
    flow = pf.ProximalFlow(potential, schedule)
    x0 = normal(2, potential.dim, seed=4)
    exact = terminal_spectrum(flow, x0, TIMES)
    bare = terminal_spectrum(lambda t, x: flow(t, x), x0, TIMES, schedule=schedule)
    # dopri5 keeps 1e-7 alpha in each of its steps; the rates depend on (x - beta y) / alpha
    torch.testing.assert_close(bare.points, exact.points, rtol=0, atol=1e-6)
    torch.testing.assert_close(bare.rates, exact.rates, rtol=0, atol=1e-6)
    assert bare.asymmetry.max() <= 1e-10


def test_a_flow_between_the_normal_rate_and_zero_gains_a_direction() -> None:
    """Noise of size s behaves like a normal direction while 1 - t >> s and like a tangent one once 1 - t << s."""
    s = 1e-3
    flow = pf.ProximalFlow(Quadratic(torch.zeros(2, dtype=f64), torch.diag(torch.tensor([1.0, s * s], dtype=f64))))
    rates = terminal_spectrum(flow, normal(1, 2), [0.9, 1 - s, 1 - 1e-6]).rates[:, 0, 0]
    assert rates[0] < -0.98
    assert rates[1] == pytest.approx(1 / (1 - s + 1) - 1, abs=1e-9)  # 1 / (t + (1 - t) / s) - 1 at 1 - t = s
    assert rates[2] > -2e-3


def matrix_field(matrix: torch.Tensor) -> Field:
    return lambda t, x: x @ matrix.T.to(x)


def test_rates_and_asymmetry_of_a_linear_field() -> None:
    matrix = normal(6, 6, seed=5)
    found = terminal_spectrum(matrix_field(matrix), normal(3, 6), [0.5])
    wanted = 0.5 * torch.linalg.eigvalsh(0.5 * (matrix + matrix.T))  # alpha / -alpha' = 1 - t
    torch.testing.assert_close(found.rates[0], wanted.expand(3, -1), rtol=0, atol=1e-12)
    asymmetry = (matrix - matrix.T).norm() / matrix.norm()
    torch.testing.assert_close(found.asymmetry[0], asymmetry.expand(3), rtol=1e-12, atol=0)
    rotation = terminal_spectrum(matrix_field(matrix - matrix.T), normal(1, 6), [0.5])
    assert float(rotation.asymmetry) == pytest.approx(2.0, rel=1e-12)
    path = torch.from_numpy(linalg.expm(0.5 * matrix.numpy()))
    torch.testing.assert_close(found.points[0], normal(3, 6) @ path.T, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("which", "lowest", "highest"), [("both", 3, 4), ("lowest", 7, 0), ("highest", 0, 7)])
def test_extreme_rates_agree_with_the_whole_spectrum(which: str, lowest: int, highest: int) -> None:
    dim = 300
    matrix = normal(dim, dim, seed=6) / dim**0.5
    options: dict[str, Any] = {"count": 7, "which": which, "tolerance": 1e-5}
    found = terminal_spectrum(matrix_field(matrix), normal(2, dim), [0.2, 0.5], **options)
    assert (found.lowest, found.highest) == (lowest, highest)
    whole = torch.linalg.eigvalsh(0.5 * (matrix + matrix.T))
    ends = torch.cat([whole[:lowest], whole[dim - highest :]])
    clock = 1 - found.times[:, None, None]
    assert (found.residuals <= 1e-5 * clock * whole.abs().max() * (1 + 1e-9)).all()
    # residual^2 over the gap to the next eigenvalue
    torch.testing.assert_close(found.rates, clock * ends.expand(2, 2, -1), rtol=0, atol=1e-6)
    asymmetry = (matrix - matrix.T).norm() / matrix.norm()
    assert ((found.asymmetry - asymmetry).abs() <= 5 * found.asymmetry_stderr).all()
    assert (found.asymmetry_stderr < 0.05).all()


def test_repeated_eigenvalues_are_found_as_often_as_they_are_there() -> None:
    dim = 256
    frame = torch.linalg.qr(normal(dim, dim, seed=7))[0]
    values = torch.linspace(-0.5, 0.5, dim, dtype=f64)
    values[:9], values[-6:] = -1.0, 1.0
    matrix = frame @ torch.diag(values) @ frame.T
    like, generator = torch.zeros(1, dim, dtype=f64), torch.Generator().manual_seed(0)
    found = extreme_eigenvalues(lambda rows: rows @ matrix, like, 12, 8, 1e-8, 400, generator)
    wanted = torch.cat([values[:12], values[-8:]])
    torch.testing.assert_close(found.values[0], wanted, rtol=0, atol=1e-8)
    identity = torch.eye(20, dtype=f64)
    torch.testing.assert_close(found.vectors[0].T @ found.vectors[0], identity, rtol=0, atol=1e-12)
    zero = extreme_eigenvalues(torch.zeros_like, like, 3, 3, 1e-8, 400, generator)
    assert zero.values.abs().max() == 0


def test_an_exact_flow_in_high_dimension_keeps_its_multiplicities() -> None:
    dim = 320
    flow = pf.ProximalFlow(Product([Ball(5), Quadratic(torch.zeros(315, dtype=f64), torch.zeros(315, 315, dtype=f64))]))
    x0 = normal(2, dim, seed=8)
    found = terminal_spectrum(flow, x0, [0.9], count=6, which="highest", tolerance=1e-6)
    eta = x0[:, :5].norm(dim=1)
    wanted = (1 / (0.9 + 0.1 * eta) - 1)[:, None].expand(-1, 4)
    torch.testing.assert_close(found.rates[0, :, 2:], wanted, rtol=0, atol=1e-9)
    assert (found.rates[0, :, :2] + 1).abs().max() <= 1e-9
    assert found.asymmetry.max() <= 1e-9


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def test_no_square_matrix_is_made_in_high_dimension() -> None:
    dim = 1500
    scales = torch.linspace(-1, 1, dim, dtype=f64)
    with LargestTensor() as largest:  # type: ignore[no-untyped-call]
        found = terminal_spectrum(lambda t, x: scales * torch.sin(x), normal(1, dim), [0.5], count=4, tolerance=0.05)
    assert 0 < largest.numbers < dim**2 // 10
    assert torch.isfinite(found.rates).all()


class Network(torch.nn.Module):
    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        sizes = [dim + 1, width, width, width, dim]
        layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, t: torch.Tensor, x: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        times = torch.as_tensor(t, dtype=x.dtype).expand(len(x))
        h = torch.cat([x, times[:, None]], 1)
        for layer in self.layers[:-1]:
            h = torch.nn.functional.silu(layer(h))
        return self.layers[-1](h)


def test_a_network_on_images_against_its_dense_jacobian() -> None:
    torch.manual_seed(0)
    network = Network(784, 64)
    x0 = normal(4, 1, 28, 28, dtype=torch.float32)

    def field(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return network(t, x.flatten(1)).reshape(x.shape) - x

    found = terminal_spectrum(field, x0, [0.8, 0.9], count=20)
    assert found.points.shape == (2, 4, 1, 28, 28)
    assert found.rates.dtype == torch.float32
    largest = found.rates.abs().amax(2, keepdim=True)
    assert (found.residuals <= 1e-3 * largest).all()
    t = torch.tensor(0.9)
    jacobian = torch.func.jacrev(lambda x: field(t, x.reshape(1, 1, 28, 28)).flatten())(found.points[1, 2].flatten())
    whole = 0.1 * torch.linalg.eigvalsh(0.5 * (jacobian + jacobian.T).detach())
    torch.testing.assert_close(found.rates[1, 2], torch.cat([whole[:10], whole[-10:]]), rtol=0, atol=1e-4)


def test_attention_is_differentiated_forward() -> None:
    torch.manual_seed(0)
    layer = torch.nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    found = terminal_spectrum(lambda t, x: layer(x, x, x, need_weights=False)[0], normal(2, 4, 8), [0.5])
    assert torch.isfinite(found.rates).all()


def test_rows_that_are_not_finite_stay_alone() -> None:
    x0 = normal(4, 3)
    x0[1, 0] = torch.nan
    flow = pf.ProximalFlow(Ball(3))
    for field in (flow, lambda t, x: flow(t, x)):
        found = terminal_spectrum(field, x0, [0.5, 0.9])
        clean = terminal_spectrum(field, x0[[0, 2, 3]], [0.5, 0.9])
        assert torch.isnan(found.rates[:, 1]).all()
        assert torch.isnan(found.asymmetry[:, 1]).all()
        torch.testing.assert_close(found.rates[:, [0, 2, 3]], clean.rates, rtol=0, atol=1e-8)


def test_no_points_give_no_rates() -> None:
    flow = pf.ProximalFlow(Ball(3))
    for field in (flow, lambda t, x: flow(t, x)):
        found = terminal_spectrum(field, torch.empty(0, 3, dtype=f64), [0.5, 0.9], count=2)
        assert found.rates.shape == (2, 0, 2)
        assert found.points.shape == (2, 0, 3)


def test_small_memory_gives_the_same() -> None:
    flow, x0 = pf.ProximalFlow(Ball(4)), normal(7, 4)
    for field in (flow, lambda t, x: flow(t, x)):
        whole = terminal_spectrum(field, x0, [0.7])
        blocks = terminal_spectrum(field, x0, [0.7], max_memory=1)
        torch.testing.assert_close(blocks.rates, whole.rates, rtol=0, atol=1e-12)


# ------------------------------------------------------------------ tangent spaces


def planes(y: torch.Tensor) -> torch.Tensor:
    """Tangent planes of a sphere at y."""
    return torch.linalg.svd(y[:, None, :])[2][:, 1:].mT


def test_the_kept_directions_are_the_tangent_space() -> None:
    flow, x0 = pf.ProximalFlow(Ball(4)), normal(6, 4, seed=9)
    for field in (flow, lambda t, x: flow(t, x)):
        split = tangent_splitting(field, x0, TIMES, planes)
        assert split.angle.max() <= 1e-7
        assert split.tangent_rates.shape == (3, 6, 3)
        assert (split.gap[-1] - 1).abs().max() <= 0.01
        assert (split.next_rate + 1).abs().max() <= 1e-6


def test_the_principal_angle_to_a_turned_space_is_the_turn() -> None:
    flow, x0 = pf.ProximalFlow(Product([Ball(2), Ball(2)])), normal(3, 4, seed=10)
    y = flow.transport(x0)
    zero = torch.zeros_like(y[:, :2])
    along = [torch.stack([-y[:, 1], y[:, 0]], 1), torch.stack([-y[:, 3], y[:, 2]], 1)]
    first, second = torch.cat([along[0], zero], 1), torch.cat([zero, along[1]], 1)
    out = torch.cat([y[:, :2], zero], 1)
    turned = math.cos(0.3) * first + math.sin(0.3) * out
    split = tangent_splitting(flow, x0, [0.9], torch.stack([turned, 2 * second], 2))
    torch.testing.assert_close(split.angle, torch.full((1, 3), 0.3, dtype=f64), rtol=0, atol=1e-9)


# ------------------------------------------------------------------ Lyapunov exponents


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=str)
def test_lyapunov_exponents_of_an_exact_flow(schedule: pf.schedules.Schedule) -> None:
    """Dx_t / Dx_0 = alpha I + beta Hess phi, whose only other eigenvalue on the sphere is alpha + beta / |x0|."""
    flow, x0 = pf.ProximalFlow(Ball(3), schedule), normal(2, 3, seed=11)
    found = lyapunov_exponents(flow, x0, TIMES)
    t = torch.tensor(TIMES, dtype=f64)[:, None]
    alpha, beta = schedule.alpha(t), schedule.beta(t)
    tangent = (alpha + beta / x0.norm(dim=1)).log() / -alpha.log()
    wanted = torch.stack([-torch.ones_like(tangent), tangent, tangent], 2)
    torch.testing.assert_close(found.exponents, wanted.sort(2)[0], rtol=0, atol=1e-10)
    bare = lyapunov_exponents(lambda t, x: flow(t, x), x0, TIMES[:1], schedule=schedule)
    torch.testing.assert_close(bare.exponents, found.exponents[:1], rtol=0, atol=1e-6)
    two = lyapunov_exponents(flow, x0, TIMES, count=2)
    torch.testing.assert_close(two.exponents, found.exponents[..., 1:], rtol=0, atol=1e-10)


def test_lyapunov_exponents_of_a_field_that_is_not_symmetric() -> None:
    matrix = normal(4, 4, seed=12)
    found = lyapunov_exponents(matrix_field(matrix), normal(2, 4), [0.3, 0.8])
    for row, t in enumerate((0.3, 0.8)):
        sizes = np.sort(linalg.svdvals(linalg.expm(t * matrix.numpy())))
        wanted = torch.from_numpy(np.log(sizes) / -math.log(1 - t))
        torch.testing.assert_close(found.exponents[row], wanted.expand(2, -1), rtol=0, atol=1e-7)


# ------------------------------------------------------------------ the scale law


@pytest.mark.parametrize(("schedule", "_"), SCHEDULES, ids=lambda value: str(value))
def test_local_scale_inverts_the_scale_law(schedule: pf.schedules.Schedule, _: float) -> None:
    eta, t = torch.tensor([0.0, 0.3, 1.0, 20.0, 1e4], dtype=f64), torch.tensor(0.9, dtype=f64)
    torch.testing.assert_close(local_scale(scale_law(eta, t, schedule), t, schedule), eta, rtol=1e-8, atol=1e-12)
    assert scale_law(torch.tensor(torch.inf), t, schedule) == -1
    assert local_scale(torch.tensor(-1.0, dtype=f64), t, schedule) == torch.inf


@pytest.mark.parametrize(("schedule", "_"), SCHEDULES[:2], ids=lambda value: str(value))
def test_an_exact_flow_has_one_scale_spectrum_at_all_times(schedule: pf.schedules.Schedule, _: float) -> None:
    flow, x0 = pf.ProximalFlow(Product([Ball(2), Ball(3)]), schedule), normal(2, 5, seed=13)
    eta = torch.stack([x0[:, :2].norm(dim=1), *[x0[:, 2:].norm(dim=1)] * 2], 1).sort(1, descending=True)[0]
    for field in (flow, lambda t, x: flow(t, x)):
        found = scale_spectrum(field, x0, [0.5, 0.9, 0.99], schedule=schedule)
        torch.testing.assert_close(found.eta[..., 2:], eta.expand(3, -1, -1), rtol=1e-4, atol=0)
        assert torch.isinf(found.eta[..., :2]).all() if field is flow else (found.eta[..., :2].abs() > 1e6).all()
        assert found.misfit.max() <= 1e-6


def test_independent_flow_matching_breaks_the_scale_law() -> None:
    """D recover_target = beta s^2 / (alpha^2 + beta^2 s^2) for N(0, s^2), so that eta(t) = alpha / (beta s^2)."""
    variance = torch.tensor([0.25, 4.0], dtype=f64)

    def field(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        alpha, beta = 1 - t, t
        target = beta * variance * x / (alpha**2 + beta**2 * variance)
        return (target - x) / alpha

    times = torch.tensor([0.3, 0.6, 0.9], dtype=f64)
    found = scale_spectrum(field, normal(3, 2), times)
    wanted = ((1 - times) / times)[:, None] / variance
    torch.testing.assert_close(found.eta, wanted[:, None, :].expand(-1, 3, -1), rtol=1e-9, atol=0)
    assert found.misfit[0].max() <= 1e-12
    assert found.misfit[1:].min() > 0.05
    assert found.asymmetry.max() <= 1e-12


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": [0.5, 1.0]}, r"times must be increasing numbers inside \(0, 1\)"),
        ({"times": [0.5, 0.4]}, "times must be increasing"),
        ({"times": []}, "times must be increasing"),
        ({"x0": torch.zeros(3, dtype=f64)}, "x0 must be"),
        ({"x0": torch.zeros(3, 4, dtype=f64)}, "x0 must have 3 entries per row"),
        ({"schedule": Cosine()}, "the flow has the schedule"),
        ({"schedule": "linear"}, "schedule must be a proxflow Schedule"),
        ({"count": 0}, "count must be an integer from 1 to 3"),
        ({"count": 4}, "count must be an integer from 1 to 3"),
        ({"which": "middle"}, "which must be one of"),
        ({"tolerance": 0.0}, "tolerance must be"),
        ({"max_memory": 0}, "max_memory must be"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"field": pf.ProximalFlow(Ball(3)), "x0": normal(2, 3), "times": [0.5]} | options
    with pytest.raises(ValueError, match=message):
        terminal_spectrum(**arguments)


def test_more_refusals() -> None:
    big = normal(1, 300)
    with pytest.raises(ValueError, match="give count"):
        terminal_spectrum(lambda t, x: -x, big, [0.5])
    with pytest.raises(ValueError, match="count must be an integer from 1 to 75"):
        terminal_spectrum(lambda t, x: -x, big, [0.5], count=76)
    with pytest.raises(ValueError, match="returned shape"):
        terminal_spectrum(lambda t, x: x[:, :1], normal(2, 3), [0.5])
    with pytest.raises(ValueError, match="tangent must have shape"):
        tangent_splitting(pf.ProximalFlow(Ball(3)), normal(2, 3), [0.5], torch.zeros(2, 3, 3, dtype=f64))


def test_networks_without_forward_mode_derivatives() -> None:
    """A U-Net with attention, at whose group normalisation PyTorch's forward mode fails; against differences."""
    torch.manual_seed(0)
    network = pf.matching.UNet((1, 8, 8), channels=(8, 8)).double().eval()
    x, w = torch.randn(2, 3, 64, dtype=torch.float64)
    t, step = torch.tensor(0.5, dtype=torch.float64), 1e-5
    flat = FlatField("test", pf.matching.field_of(network), x.reshape(3, 1, 8, 8), None, 1 << 28)
    along = flat.derivative_along(t, x, w) / clock(Linear(), t)
    with torch.no_grad():
        differences = (flat.velocity(t, x + step * w) - flat.velocity(t, x - step * w)) / (2 * step)
    torch.testing.assert_close(along, differences, atol=1e-7, rtol=0)
