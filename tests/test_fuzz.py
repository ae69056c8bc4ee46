"""Calls of the public API made by hypothesis: each ends in a right answer, or in an error that says what is wrong.

Right answers are recognised by laws that do not go through the code that gave them: x = alpha u + beta y, the
Fenchel-Young gap, firm nonexpansiveness. One example is one call; ``PROXFLOW_FUZZ`` sets how many there are in all.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import proxflow as pf
from proxflow.errors import ConvergenceWarning
from proxflow.measures import Empirical, Gaussian, Uniform
from proxflow.potentials import (
    Ball,
    Discrete,
    Ellipsoid,
    Entropic,
    GeneralizedQuadratic,
    Potential,
    Product,
    Quadratic,
    Quantile,
    Radial,
)
from proxflow.results import ProxResult, Status
from proxflow.sampling import integrate
from proxflow.schedules import Cosine, Linear, Polynomial, Schedule
from proxflow.semidiscrete import fit
from tests.fuzzing import FLOATS, OUTCOMES, Maker, attempt, calls, check_message, extreme_number
from tests.fuzzing import report as _report  # noqa: F401 - a fixture

# ------------------------------------------------------------------ making calls


@dataclass(frozen=True)
class Subject:
    """A potential, and what is known of it: size of its data, of its heights, the dtype that it needs."""

    potential: Potential
    size: float
    height: float
    extreme: bool


def rotation(make: Maker, dim: int) -> Tensor:
    return torch.linalg.qr(make.normal(dim, dim))[0]


def closed_form(make: Maker, dim: int, scale: float, dtype: torch.dtype) -> Potential:
    kind = make.data.draw(st.sampled_from(["ball", "ellipsoid", "quadratic", "quantile", "radial"]), label="kind")
    if kind == "ball":
        return Ball(dim, scale)
    if kind == "ellipsoid":
        return Ellipsoid(scale * torch.exp(make.normal(dim)).to(dtype))
    if kind == "quadratic":
        rank = make.whole(0, dim)
        root = scale * make.normal(dim, rank)
        return Quadratic((scale * make.normal(dim)).to(dtype), (root @ root.T).to(dtype))
    level = torch.rand(4, generator=make.generator, dtype=torch.float64).sort().values
    levels = torch.cat([torch.zeros(1), level, torch.ones(1)]).to(dtype)
    values = (scale * make.normal(6).abs().cumsum(0)).to(dtype)
    if make.chance(3):
        values[2] = values[1]
    if kind == "radial":
        return Radial(dim, (levels, values))
    return Quantile((levels, values - values.mean()))


def atoms(make: Maker, dim: int, scale: float, dtype: torch.dtype) -> Potential:
    count = make.whole(1, 12)
    points = (scale * (make.normal(count, dim) + make.pick(0.0, 3.0, 1e3))).to(dtype)
    heights = (scale * make.normal(count)).to(dtype)
    weights = None if make.chance(2) else make.normal(count).exp().to(dtype)
    if make.data.draw(st.booleans(), label="entropic"):
        return Entropic(points, heights, scale * make.pick(1.0, 0.1, 1e-3), weights)
    return Discrete(points, heights, weights)


def simple(make: Maker, dim: int, scale: float, dtype: torch.dtype) -> Potential:
    return atoms(make, dim, scale, dtype) if make.chance(2) else closed_form(make, dim, scale, dtype)


def subject(make: Maker, dtype: torch.dtype) -> Subject | None:
    """Any potential; None where its data overflow or coincide in ``dtype``, which its constructor must say."""
    dim, scale = make.whole(1, 5), make.scale() if make.chance(3) else 1.0
    if dtype == torch.float32 and scale > 1e15 and make.chance(2):
        scale = 1e15
    kind = make.data.draw(st.sampled_from(["plain", "plain", "product", "rotated", "scaled"]), label="wrapper")
    try:
        potential = simple(make, dim, scale, dtype)
        size = 1e3 * scale
        if kind == "product":
            potential = Product([potential, simple(make, make.whole(1, 2), scale, dtype)])
        elif kind == "rotated":
            d = potential.dim
            potential = potential.rotate(rotation(make, d), scale * make.normal(d))
        elif kind == "scaled":
            factor = make.pick(0.2, 7.0, 1e-4)
            potential, scale = potential.scale(factor), scale * factor
            size = 1e3 * scale
    except (ValueError, TypeError) as error:
        check_message(error)
        if not extreme_number(scale, dtype):
            raise
        OUTCOMES["errors from constructors"] += 1
        return None
    return Subject(potential, size, size, extreme_number(scale, dtype))


def beyond(s: Subject, x: Tensor, dtype: torch.dtype) -> bool:
    """Whether queries are so large, or so far out, that a solver may say that it did not reach its tolerance."""
    lengths = norm(x[torch.isfinite(x).all(1)])
    sharp = "Entropic" in repr(s.potential) and not 1e-1 < s.size < 1e6
    out = bool((lengths > 1e8 * s.size).any())
    return s.extreme or sharp or out or extreme(dtype, x, lengths / s.size)


def extreme(dtype: torch.dtype, *numbers: Tensor | float) -> bool:
    flat = torch.cat([torch.as_tensor(n, dtype=torch.float64).flatten() for n in numbers]).abs()
    return any(extreme_number(n, dtype) for n in flat[torch.isfinite(flat)].tolist())


# ------------------------------------------------------------------ laws


def relative(dtype: torch.dtype) -> float:
    return 1e-9 if dtype == torch.float64 else 3e-4


def least(dtype: torch.dtype) -> float:
    """What underflow may cost."""
    return torch.finfo(dtype).tiny


def norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.double(), dim=1)


def overflows(size: Tensor, dtype: torch.dtype) -> Tensor:
    return ~(size < torch.finfo(dtype).max / 1e6)


def check_fenchel_young(
    s: Subject, u: Tensor, y: Tensor, du: Tensor | float = 0.0, dy: Tensor | float = 0.0, cap: float = math.inf
) -> None:
    """phi(u) + psi(y) - <u, y> is zero up to errors ``du`` and ``dy`` of both points and the size of its terms."""
    phi, psi = s.potential.conjugate(u).double(), s.potential.value(y).double()
    rel, dtype = relative(u.dtype), u.dtype
    du, dy = torch.as_tensor(du).double(), torch.as_tensor(dy).double()
    product = (u.double() * y.double()).sum(1)
    # error of psi by that of y is |u| dy, and the other way round; both curved and of first order
    terms = torch.where(torch.isfinite(phi), phi.abs(), 0.0) + torch.where(torch.isfinite(psi), psi.abs(), 0.0)
    size = terms + norm(u) * (norm(y) + s.size) + s.height
    of_y = torch.where(norm(u) > 0, 4 * dy * norm(u), 0.0)
    slack = rel * size + 4 * du * (norm(y) + s.size) + of_y + 1e3 * least(dtype)
    slack = slack + 1e-2 * s.size * du.square()  # phi of a normal law is quadratic
    big = overflows(size, dtype) | overflows(norm(u).square(), dtype) | overflows(norm(y).square(), dtype)
    gap = phi + psi - product
    # a point may be off the domain by its error bound
    off = torch.isposinf(psi) & (dy > s.potential.domain_tolerance(y).double())
    good = (gap.abs() <= slack) | big | off
    assert good.all(), f"Fenchel-Young gap {gap[~good].tolist()} above {slack[~good].tolist()}"


def check_pair(s: Subject, x: Tensor, alpha: Tensor, beta: Tensor, pair: ProxResult, moderate: bool) -> None:
    """All laws of a Moreau pair, on the rows that were finite; the others are NaN and alone so."""
    dtype = x.dtype
    assert pair.point.shape == pair.multiplier.shape == x.shape
    assert pair.point.dtype == pair.multiplier.dtype == pair.gap.dtype == pair.error_bound.dtype == dtype
    finite = torch.isfinite(x).all(1) & torch.isfinite(alpha) & torch.isfinite(beta)
    for tensor in (pair.point, pair.error_bound[:, None]):
        assert torch.isnan(tensor[~finite]).all()
    assert (pair.status[~finite] == int(Status.non_finite)).all()
    solved = pair.status == int(Status.converged)
    if moderate:
        assert solved[finite].all(), f"status {pair.status[finite].tolist()}"
    known = pair.status != int(Status.non_finite)
    assert torch.isfinite(pair.point[known]).all()
    assert not torch.isnan(pair.error_bound[known]).any()
    positive = solved & (alpha > 0)
    of_source = norm(x.double() - beta.double()[:, None] * pair.point.double()) / alpha.double()
    positive &= ~(overflows(of_source, dtype) & ~torch.isfinite(pair.multiplier).all(1))
    assert torch.isfinite(pair.multiplier[positive]).all(), "a multiplier that is not finite and need not be so"
    assert (pair.gap[positive] >= 0).all()
    x, y, u = x[positive], pair.point[positive], pair.multiplier[positive]
    a, b = alpha[positive].double(), beta[positive].double()
    rebuilt = a[:, None] * u.double() + b[:, None] * y.double()
    size = norm(x) + a * norm(u) + b * (norm(y) + s.size)
    error = norm(rebuilt - x.double())
    slack = relative(dtype) * size + (1 + a + b) * 1e2 * least(dtype) * (1 + s.size)
    assert (error <= slack).all(), f"x - alpha u - beta y = {error.tolist()} above {slack.tolist()}"
    bound = pair.error_bound[positive].double()
    assert (bound >= 0).all()
    du = relative(dtype) * (norm(x) + b * (norm(y) + s.size)) / a + (b / a * bound).nan_to_num(0.0)
    usable = torch.isfinite(du)
    check_fenchel_young(s, u[usable], y[usable], du[usable], bound[usable])
    if len(x) >= 2 and bool((a == a[0]).all()) and bool((b == b[0]).all()):
        dx, dy = x[0].double() - x[1].double(), y[0].double() - y[1].double()
        inner = dx @ dy - b[0] * dy @ dy
        step = (bound[0] + bound[1]) * (dx.norm() + b[0] * dy.norm() + b[0] * (bound[0] + bound[1]))
        step = step.nan_to_num(torch.inf)
        assert inner >= -4 * step - 1e2 * relative(dtype) * size.amax() * dy.norm() - 1e-40, "not firmly nonexpansive"


def check_form(form: GeneralizedQuadratic, dim: int, rows: Tensor) -> None:
    basis, hessian = form.basis[rows].double(), form.hessian[rows].double()
    assert torch.isfinite(basis).all()
    assert torch.isfinite(hessian).all()
    gram = basis.mT @ basis
    used = gram.diagonal(dim1=1, dim2=2) > 0.5
    torch.testing.assert_close(gram, torch.diag_embed(used.double()), rtol=0, atol=1e-4)
    size = hessian.abs().amax((1, 2), keepdim=True).clamp(min=1e-300)
    torch.testing.assert_close(hessian / size, hessian.mT / size, rtol=0, atol=1e-4)
    assert (torch.linalg.eigvalsh(hessian / size) >= -1e-4).all()


def check_derivative(jacobian: Tensor, low: Tensor, high: Tensor, rows: Tensor, rel: float) -> None:
    """Symmetric, with its spectrum in an interval per row."""
    matrix, low, high = jacobian[rows].double(), low[rows].double(), high[rows].double()
    assert torch.isfinite(matrix).all(), "a derivative that is not finite"
    unit = torch.maximum(low.abs(), high.abs())[:, None, None].clamp(min=1e-300)
    scaled = matrix / unit
    torch.testing.assert_close(scaled, scaled.mT, rtol=0, atol=rel)
    spectrum = torch.linalg.eigvalsh(0.5 * (scaled + scaled.mT))
    assert (spectrum >= (low / unit[:, 0, 0])[:, None] - rel).all()
    assert (spectrum <= (high / unit[:, 0, 0])[:, None] + rel).all()


def check_density(s: Subject, y: Tensor, density: Tensor) -> None:
    assert density.shape == (len(y),)
    finite = torch.isfinite(y).all(1)  # there too it may be NaN, where rounding decides its value
    assert torch.isnan(density[~finite]).all() | (density[~finite] == -torch.inf).all()


# ------------------------------------------------------------------ potentials

METHODS = ("value", "conjugate", "brenier_map", "prox", "prox", "prox", "prox_jacobian", "form", "log_density")


@calls(0.55)
@given(st.data())
def test_potentials(data: st.DataObject) -> None:
    make = Maker(data)
    dtype = data.draw(st.sampled_from(FLOATS), label="dtype")
    s = subject(make, dtype)
    if s is None:
        return
    potential = s.potential
    x = make.rows(potential.dim, dtype, s.size / 1e3)
    method = data.draw(st.sampled_from(METHODS), label="method")
    finite = torch.isfinite(x).all(1)
    far = beyond(s, x, dtype)
    if make.chance(10) and len(x):
        wrong = make.misfit(x)
        name = {"form": "value", "prox": "brenier_map", "prox_jacobian": "conjugate", "log_density": "value"}
        assert attempt(lambda: getattr(potential, name.get(method, method))(wrong), bad=True) is None
        return
    if method == "value":
        value = attempt(lambda: potential.value(x), bad=False)
        assert value.shape == (len(x),)
        check_values(s, x, value, make)
    elif method == "conjugate":
        phi = attempt(lambda: potential.conjugate(x), bad=False)
        check_conjugates(s, x, phi)
    elif method == "brenier_map":
        y = attempt(lambda: potential.brenier_map(x), bad=False)
        assert torch.isnan(y[~finite]).all()
        answered = finite & torch.isfinite(y).all(1)
        assert far or answered[finite].all()
        check_fenchel_young(s, x[answered], y[answered])
    elif method in ("prox", "prox_jacobian"):
        step = make.pick(1.0, 0.3, 1e-6, 50.0, 1e8, 1e-30, 1e30, 0.0, -1.0, math.nan, math.inf)
        as_tensor = make.chance(3)
        bad = not as_tensor and not 0 < step < math.inf
        rows = torch.full((len(x),), step, dtype=dtype) if as_tensor else step
        steps = torch.full((len(x),), step, dtype=dtype)
        usable = steps > 0
        steps = torch.where(usable, steps, torch.nan)
        far = far or not 1e-7 < step < 1e9
        if method == "prox":
            pair = attempt(lambda: potential.prox(x, rows), bad=bad)
            if pair is not None:
                check_pair(s, x, steps, torch.ones_like(steps), pair, not far and dtype == torch.float64)
        elif not bad or make.chance(2):
            jacobian = attempt(lambda: potential.prox_jacobian(x, rows), bad=bad)
            if jacobian is not None:
                zero = torch.zeros_like(steps)
                check_derivative(jacobian, zero, zero + 1, finite & torch.isfinite(steps) & ~zeros(far, finite), 1e-3)
    elif method == "form":
        y = potential.brenier_map(x)
        form = attempt(lambda: potential.second_epi_derivative(y, x), bad=False)
        check_form(form, potential.dim, finite & ~zeros(far, finite))
    else:
        density = attempt(lambda: potential.log_density(x), bad=True)
        if density is not None:
            check_density(s, x, density)


def zeros(flag: bool, like: Tensor) -> Tensor:
    return torch.full_like(like, flag)


def check_values(s: Subject, y: Tensor, value: Tensor, make: Maker) -> None:
    """The Fenchel-Young inequality against any u; what it is where it is attained, other tests see."""
    finite = torch.isfinite(y).all(1)
    assert not torch.isnan(value[finite]).any(), "psi is NaN at a finite point"
    assert not (value[finite] == -torch.inf).any()
    assert not torch.isfinite(value[~finite]).any(), "psi is a number at a point that is not finite"
    y, value = y[finite], value[finite].double()
    u = make.normal(len(y), s.potential.dim).to(y.dtype)
    phi = s.potential.conjugate(u).double()
    size = phi.abs() + norm(u) * (norm(y) + s.size) + s.height
    gap = phi + value - (u.double() * y.double()).sum(1)
    tolerance = s.potential.domain_tolerance(y).double() * norm(u)
    assert (gap >= -relative(y.dtype) * size - 2 * tolerance).all()


def check_conjugates(s: Subject, u: Tensor, phi: Tensor) -> None:
    """Finite where its size fits the dtype, convex between neighbouring rows."""
    finite = torch.isfinite(u).all(1)
    assert phi.shape == (len(u),)
    assert not torch.isfinite(phi[~finite]).any(), "phi is a number at a point that is not finite"
    size = norm(u) * s.size + norm(u).square() * s.size + s.height
    small = finite & ~overflows(size, u.dtype)
    assert torch.isfinite(phi[small]).all()
    kept, size = u[small], size[small]
    if len(kept) >= 2:
        middle = s.potential.conjugate(0.5 * kept[:1] + 0.5 * kept[1:2]).double()
        ends = 0.5 * phi[small][:2].double().sum()
        assert middle <= ends + relative(u.dtype) * (size[:2].sum() + s.height)


# ------------------------------------------------------------------ flows


def schedule_of(make: Maker) -> Schedule:
    return make.pick(Linear(), Linear(), Cosine(), Polynomial(2.5), Polynomial(0.5))


QUERIES = (
    "velocity", "velocity", "recover_target", "recover_source", "solve", "solve", "jacobian", "divergence", "transport",
    "interpolate", "log_prob",
)  # fmt: skip


@calls(0.25)
@given(st.data())
def test_flows(data: st.DataObject) -> None:
    make = Maker(data)
    dtype = data.draw(st.sampled_from(FLOATS), label="dtype")
    s = subject(make, dtype)
    if s is None:
        return
    flow = pf.ProximalFlow(s.potential, schedule_of(make), on_failure=make.pick("raise", "nan"))
    x = make.rows(flow.dim, dtype, s.size / 1e3)
    time = data.draw(st.sampled_from([0.0, 1.0, 0.5, 1e-6, 1 - 1e-6, 0.9, 1e-30, -0.1, 1.5, math.nan]), label="t")
    per_row = make.chance(3)
    name = data.draw(st.sampled_from(QUERIES), label="query")
    if make.chance(12) and len(x):
        wrong = make.misfit(x)
        arguments: tuple[Any, ...] = (wrong,) if name in ("transport", "log_prob") else (time, wrong)
        assert attempt(lambda: getattr(flow, name)(*arguments), bad=True) is None or wrong.shape == x.shape[:1]
        return
    t = torch.full((len(x),), time, dtype=dtype) if per_row else time
    times = torch.full((len(x),), time, dtype=dtype if per_row else torch.float64).double()  # as the flow takes them
    times = torch.where((times >= 0) & (times <= 1), times, torch.nan)
    alpha, beta = flow.schedule.alpha(times), flow.schedule.beta(times)
    finite = torch.isfinite(x).all(1)
    far = beyond(s, x, dtype) or 0 < time < 1e-10
    far = far or ("Entropic" in repr(s.potential) and 0.99 < time < 1)  # alpha may be 1e-15 there
    ended = name in ("velocity", "recover_source", "jacobian", "divergence")
    bad = not per_row and (not 0 <= time <= 1 or (ended and time == 1))
    failing = s.potential.iterative and (far or dtype == torch.float32)
    arguments = (x,) if name in ("transport", "log_prob") else (t, x)
    if name == "log_prob":
        density = attempt(lambda: flow.log_prob(x), bad=True)
        if density is not None:
            check_density(s, x, density)
        return
    answer = attempt(lambda: getattr(flow, name)(*arguments), bad=bad and name != "transport", failing=failing)
    if answer is None:
        return
    moderate = not far and dtype == torch.float64
    if name == "solve":
        check_pair(s, x, alpha, beta, answer, moderate)
        return
    usable = finite & torch.isfinite(times) & ((times < 1) | (not ended))
    if name == "transport":
        usable, times = finite, torch.zeros_like(times)
    broken = answer[~usable]
    assert torch.isnan(broken).reshape(len(broken), math.prod(broken.shape[1:])).any(1).all()
    solved = torch.isfinite(answer.flatten(1) if answer.ndim > 1 else answer[:, None]).all(1)
    smooth = (beta > 0) | (name not in ("jacobian", "divergence"))  # a Brenier map may have jumps
    assert not moderate or solved[usable & smooth].all(), "a finite row that gave NaN"
    if name in ("jacobian", "divergence"):
        low, high = rates(flow, times)
        rows = solved & usable & ~zeros(far, usable) & torch.isfinite(high)
        if name == "jacobian":
            check_derivative(answer, low, high, rows, 1e-3)
        else:
            slack = 1e-3 * flow.dim * torch.maximum(low.abs(), high.abs())
            assert (answer[rows] >= flow.dim * low[rows] - slack[rows]).all()
            assert (answer[rows] <= flow.dim * high[rows] + slack[rows]).all()
        return
    check_ends(s, flow, name, times, x, answer, solved & usable)


def rates(flow: pf.ProximalFlow, times: Tensor) -> tuple[Tensor, Tensor]:
    schedule = flow.schedule
    return schedule.alpha_derivative(times) / schedule.alpha(times), schedule.beta_derivative(times) / schedule.beta(
        times
    )


def check_ends(
    s: Subject, flow: pf.ProximalFlow, name: str, t: Tensor, x: Tensor, answer: Tensor, rows: Tensor
) -> None:
    """Both ends of the trajectory from what the call gave, against Fenchel and Young."""
    schedule, dtype = flow.schedule, x.dtype
    t, x, answer = t[rows], x[rows].double(), answer[rows].double()
    a, b = schedule.alpha(t).double(), schedule.beta(t).double()
    da, db = schedule.alpha_derivative(t).double(), schedule.beta_derivative(t).double()
    w = a * db - da * b
    if name == "transport":
        y, u, dy, du = answer, x, 0 * a, 0 * a
    elif name == "interpolate":
        u, y = x, (answer - a[:, None] * x) / b[:, None]
        du, dy = 0 * a, relative(dtype) * 0.1 * (norm(answer) + norm(x)) / b
    elif name == "recover_target":
        y, u = answer, (x - b[:, None] * answer) / a[:, None]
        du, dy = relative(dtype) * (norm(x) + b * (norm(y) + s.size)) / a, 0 * a
    elif name == "recover_source":
        u, y = answer, (x - a[:, None] * answer) / b[:, None]
        du, dy = 0 * a, relative(dtype) * ((norm(x) + a * norm(u)) / b + s.size)
    else:
        y = (a[:, None] * answer - da[:, None] * x) / w[:, None]
        u = (db[:, None] * x - b[:, None] * answer) / w[:, None]
        dy = relative(dtype) * (a * norm(answer) + da.abs() * norm(x)) / w
        du = relative(dtype) * (db * norm(x) + b * norm(answer)) / w + dy * b / a
    largest = 1e-2 * torch.finfo(dtype).max
    keep = torch.isfinite(u).all(1) & torch.isfinite(y).all(1) & (norm(u) < largest) & (norm(y) < largest)
    # psi is infinite off its domain: a point that the call did not give, but that follows from it, is moved back
    derived = name not in ("transport", "recover_target")
    y, u, du, dy = y[keep].to(dtype), u[keep].to(dtype), du[keep], dy[keep]
    if derived and len(y):
        keep = dy <= 1e-2 * (norm(y) + s.size)
        y, u, du, dy = y[keep], u[keep], du[keep], dy[keep]
        zero = torch.zeros_like(y[:, 0])
        inside = s.potential.decompose(y, zero, zero + 1).point
        moved = norm(inside.double() - y.double())
        assert (~(moved > 2 * dy + 10 * relative(dtype) * (norm(y) + s.size))).all(), "off the domain"
        ok = torch.isfinite(inside).all(1)
        y, u, du, dy = inside[ok], u[ok], du[ok], (dy + moved)[ok]
    check_fenchel_young(s, u, y, du, dy)


@calls(0.05)
@given(st.data())
def test_integrate(data: st.DataObject) -> None:
    make = Maker(data)
    dtype = data.draw(st.sampled_from([*FLOATS, torch.float16]), label="dtype")
    method = make.pick("euler", "midpoint", "heun", "dopri5", "proximal", "rk4")
    steps = make.pick(None, 1, 2, 5, 0, -1, 2.5)
    bad = (
        dtype == torch.float16 or method == "rk4" or (steps is not None and not (isinstance(steps, int) and steps > 0))
    )
    kind = data.draw(st.sampled_from(["constant", "flow", "flow"]), label="field")
    if kind == "flow" and steps is None and method not in ("proximal", "dopri5"):
        steps = 10  # the default of 100 steps is only long
    wide = dtype if dtype in FLOATS else torch.float32
    if kind == "constant":
        x = make.rows(3, dtype, 1.0)
        drift = make.normal(3).to(dtype)
        far = extreme(wide, x)
        answer = attempt(lambda: integrate(lambda t, x: drift.expand_as(x), x, steps, method), bad=bad, failing=far)
        if answer is None:
            return
        finite = torch.isfinite(x).all(1)
        expected = x[finite] + drift
        size = norm(expected)[:, None] + norm(x[finite])[:, None] + 2
        assert ((answer.end[finite] - expected).abs() <= (2e-5 if dtype == torch.float32 else 1e-5) * size).all()
        assert not torch.isfinite(answer.end[~finite]).all(1).any()
        return
    s = subject(make, wide)
    if s is None:
        return
    flow = pf.ProximalFlow(s.potential, schedule_of(make), on_failure="nan")
    x = make.rows(flow.dim, dtype, 1.0)
    far = beyond(s, x, wide) or s.size > 1e6 or bool((norm(x) > 1e6).any())
    if method == "dopri5" and (far or flow.schedule != Linear()):
        method = "heun"  # an adaptive method on a field of jumps takes its 10,000 steps, which is long
    answer = attempt(lambda: integrate(flow, x, steps, method), bad=bad, failing=far or dtype == torch.float32)
    if answer is None:
        return
    finite = torch.isfinite(x).all(1)
    assert answer.times[0] == 0
    assert answer.times[-1] == 1
    assert answer.points.shape == (len(answer.times), *x.shape)
    assert not torch.isfinite(answer.end[~finite]).all(1).any()
    ended = torch.isfinite(answer.end).all(1)
    assert far or dtype == torch.float32 or ended[finite].all()
    if flow.schedule == Linear() and method in ("euler", "proximal") and not far and dtype == torch.float64:
        # straight trajectories: the end is the Brenier map of the start up to the rounding of the steps
        check_fenchel_young(s, x[ended], answer.end[ended], 1e-9 * (norm(x[ended]) + s.size), 1e-9 * s.size)


# ------------------------------------------------------------------ fits, schedules, measures


@calls(0.05)
@given(st.data())
def test_fits(data: st.DataObject) -> None:
    make = Maker(data)
    dtype = data.draw(st.sampled_from([*FLOATS, *FLOATS, torch.float16, torch.int64]), label="dtype")
    count, dim = data.draw(st.integers(0, 12), label="N"), data.draw(st.integers(1, 5), label="d")
    scale = make.scale()
    points = scale * (make.normal(count, dim) + make.pick(0.0, 0.0, 10.0))
    if count > 1 and make.chance(4):
        points[1] = points[0]
    if count > 2 and make.chance(4):
        points[:, 1:] = 0
    broken = count > 0 and make.chance(8)
    if broken:
        points[0, 0] = make.pick(math.nan, math.inf)
    if dtype == torch.int64:
        points = torch.zeros(count, dim)
    points = points.to(dtype)
    weights = make.pick(None, torch.rand(count, generator=make.generator) + 0.1, torch.full((count,), -1.0))
    epsilon = make.pick(0.0, 0.0, 0.0, 0.3 * scale, -1.0, math.nan)
    tol = make.pick(0.05, 0.05, 0.05, 0.0, math.nan)
    samples = make.pick(500, 3000, 3000, 0)
    broken = broken or not bool(torch.isfinite(points).all())  # beyond the range of float16
    bad = dtype == torch.int64 or count == 0 or broken or not epsilon >= 0 or not tol > 0 or samples == 0
    bad = bad or (weights is not None and bool((weights < 0).any()))
    far = dtype in FLOATS and extreme_number(scale, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = attempt(
            lambda: fit(points, weights, epsilon=epsilon, tol=tol, max_samples=samples, progress=False),
            bad=bad or far,
        )
    if result is None:
        return
    mass, potential = result.cell_mass, result.potential
    assert float(mass.sum()) == pytest.approx(1, abs=1e-6)
    assert (mass >= 0).all()
    assert torch.isfinite(potential.heights).all()
    assert math.isfinite(result.chi2)
    assert result.chi2_stderr >= 0
    target = potential.weights.double()
    assert float(target.sum()) == pytest.approx(1, abs=1e-5)
    chi2 = float(((mass - target).square() / target).sum())
    if result.chi2_stderr == 0:
        assert chi2 == pytest.approx(result.chi2, rel=1e-3, abs=1e-9 if dtype == torch.float64 else 1e-4)
    assert result.converged == (result.chi2 + 2 * result.chi2_stderr <= tol)
    low, high = result.transport_cost_interval
    assert low <= result.transport_cost <= high
    assert (potential.points[result.atom_of_row] == points).all()


@calls(0.04)
@given(st.data())
def test_schedules(data: st.DataObject) -> None:
    make = Maker(data)
    degree = make.pick(0.5, 1, 2.5, 40.0, 0.0, -1.0, math.nan)
    kind = make.pick("linear", "cosine", "polynomial", "polynomial")
    bad = kind == "polynomial" and not degree > 0
    schedule = attempt(
        lambda: Linear() if kind == "linear" else Cosine() if kind == "cosine" else Polynomial(degree), bad=bad
    )
    if schedule is None:
        return
    dtype = data.draw(st.sampled_from(FLOATS), label="dtype")
    inner = torch.rand(5, generator=make.generator, dtype=torch.float64)
    t = torch.cat([torch.tensor([0.0, 1.0, 1e-30, 1 - 1e-7]), inner, torch.tensor([math.nan])]).to(dtype)
    alpha, beta, w = schedule.alpha(t)[:-1], schedule.beta(t)[:-1], schedule.wronskian(t)[:-1]
    for part in (alpha, beta):
        assert ((part >= 0) & (part <= 1)).all()
    assert (alpha[0], beta[0], alpha[1]) == (1, 0, 0)
    assert beta[1] == pytest.approx(1)
    assert (w >= 0).all()
    order = t[:-1].argsort()
    assert (alpha[order].diff() <= 1e-6).all()
    assert (beta[order].diff() >= -1e-6).all()
    h = 1e-6
    at = inner.clamp(0.01, 0.95)
    for name in ("alpha", "beta"):
        function = getattr(schedule, name)
        slope = (function(at + h) - function(at - h)) / (2 * h)
        torch.testing.assert_close(getattr(schedule, f"{name}_derivative")(at), slope, rtol=1e-4, atol=1e-4)
    clock = schedule.rescaled_time(t)
    assert torch.isnan(clock[-1])
    assert clock[1] == torch.inf
    torch.testing.assert_close(torch.exp(-clock[:-1]), alpha, rtol=1e-4, atol=1e-6)


@calls(0.06)
@given(st.data())
def test_measures(data: st.DataObject) -> None:
    make = Maker(data)
    dtype = data.draw(st.sampled_from(FLOATS), label="dtype")
    dim, scale = make.whole(0, 5), make.scale()
    kind = data.draw(st.sampled_from(["gaussian", "uniform", "empirical"]), label="law")
    count = make.whole(0, 6)
    points = (scale * make.normal(count, dim)).to(make.pick(dtype, dtype, torch.float16))
    low, high = make.pick((0.0, 1.0), (-scale, scale), (1.0, 1.0), (0.0, math.nan))
    width = make.pick(0.0, scale, 0.1, -1.0, math.nan)
    bad = dim < 1 or (kind == "uniform" and not low < high)
    unfit = points.numel() == 0 or points.dtype not in FLOATS or not bool(torch.isfinite(points).all())
    bad = bad or (kind == "empirical" and (unfit or not width >= 0))

    def build() -> Any:
        if kind == "gaussian":
            return Gaussian(dim)
        return Uniform(dim, low, high) if kind == "uniform" else Empirical(points, bandwidth=width)

    law = attempt(build, bad=bad)
    if law is None:
        return
    draws = law.sample(make.whole(0, 9), generator=make.generator, dtype=dtype)
    assert draws.dtype == dtype
    assert draws.shape[1] == dim
    assert torch.isfinite(draws).all()
    x = torch.cat([draws, make.rows(dim, dtype, 1.0)])
    wrong = make.chance(6)
    no_density = kind == "empirical" and width == 0
    try:
        density = law.log_prob(x[:, :0] if wrong else x)
    except ValueError as error:
        check_message(error)
        assert wrong or no_density
        return
    finite = torch.isfinite(x).all(1)
    assert not wrong
    assert not torch.isnan(density[finite]).any(), "a log-density that is NaN at a finite point"
    assert not torch.isfinite(density[~finite]).any()
    assert not (density[finite] == torch.inf).any()
