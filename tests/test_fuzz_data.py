"""Fits, metrics, analysis and couplings of data at their worst, by hypothesis: each call ends in an answer that an
independent computation confirms, or in an error that says what is wrong.

Weights span up to 18 orders of magnitude; points lie up to 1e6 spreads from the origin, with outliers as far, equal and
nearly equal rows, in float32 and float64. What a fit states is measured on the tensors that it returned, by an argmax
in float64 over draws of its own.
"""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.spatial.distance import cdist
from torch import Tensor

import proxflow as pf
from proxflow.analysis import Verdict, check_terminal_hypotheses, data_dimension, minibatch_convergence
from proxflow.checks import flat_points
from proxflow.errors import ConvergenceWarning
from proxflow.metrics import energy_distance, wasserstein
from proxflow.potentials import Entropic
from proxflow.semidiscrete import Fit, fit
from tests.fuzzing import FLOATS, Maker, attempt, calls
from tests.fuzzing import report as _report  # noqa: F401 - a fixture

DRAWS = 20_000  # that judge a fit
SIGMAS = 5
APART = 1 << 40  # seeds that no maker has: overlapping streams give equal rows by right


def cloud(make: Maker, count: int, dim: int, *, hard: bool = True) -> Tensor:
    """Points (count, dim) in float64, of spread one; far off, with outliers and near-duplicates where ``hard``."""
    points = make.normal(count, dim)
    if not hard:
        return points
    if count > 2 and make.chance(3):
        points[1] = points[0]
    if count > 3 and make.chance(3):
        points[2] = points[3] * (1 + make.pick(1e-15, 1e-9, 1e-4))
    if make.chance(3):
        points[-1] = make.pick(1e3, 1e6)
    if dim > 1 and make.chance(5):
        points[:, 1:] = points[:, :1]  # on a line
    return points + make.pick(0.0, 0.0, 7.0, 1e6)


def weights_of(make: Maker, count: int) -> Tensor | None:
    """None, Zipf's, log-normal ones over many orders, or one that is tiny."""
    kind = make.data.draw(st.sampled_from(["none", "zipf", "wide", "tiny", "plain"]), label="weights")
    if kind == "none":
        return None
    weights = torch.rand(count, generator=make.generator, dtype=torch.float64) + 0.1
    if kind == "zipf":
        weights = 1 / torch.arange(1, count + 1, dtype=torch.float64)
    elif kind == "wide":
        weights = torch.exp(6 * make.normal(count))
    elif kind == "tiny":
        weights[0] = make.pick(1e-12, 1e-15, 1e-18)
    return weights * make.pick(1.0, 1e-30, 1e30)


# ------------------------------------------------------------------ fits


def masses_of(found: Fit, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Counts of draws in each cell, and the sum of squares that an unbiased chi2 takes off, from the tensors alone."""
    potential = found.potential
    points, heights = potential.points.double(), potential.heights.double()
    noise = torch.randn(DRAWS, points.shape[1], generator=generator, dtype=torch.float64)
    scores = noise @ points.mT - heights
    if isinstance(potential, Entropic):
        law = torch.softmax(scores / potential.epsilon + potential.weights.double().log(), dim=1)
    else:
        law = torch.nn.functional.one_hot(scores.argmax(1), len(points)).double()
    return law.sum(0), law.square().sum(0)


def check_certificate(found: Fit, generator: torch.Generator) -> None:
    """The chi2 and the cell masses that a fit states are those of the potential that it returned."""
    target = found.potential.weights.double()
    target = target / target.sum()
    counts, squares = masses_of(found, generator)
    chi2 = float(((counts.square() - squares) / target).sum()) / (DRAWS * (DRAWS - 1)) - 1
    mass = found.cell_mass.double()
    # of an estimate from pairs of draws: both in a cell, and one draw's share in the sum
    ratio = mass / target
    variance = 2 * float(ratio.square().sum()) / DRAWS**2
    variance += 4 * float((mass * ratio.square()).sum() - (mass * ratio).sum().square()) / DRAWS
    error = math.hypot(math.sqrt(max(variance, 0.0)), found.chi2_stderr)
    # a cell of ten counts is Poisson, not normal: one count more of a rare cell weighs 2 counts / (b B^2)
    grain = float(((2 * counts + 1) / target)[counts > 0].max()) / DRAWS**2
    assert abs(chi2 - found.chi2) <= SIGMAS * (error + grain), (
        f"chi2 {chi2:.3g}, stated {found.chi2:.3g} +- {error:.2g}"
    )
    spent = DRAWS if found.chi2_stderr == 0 else 1 / (1 / DRAWS + 1 / max(found.evaluation_samples, 1))
    limit = float((mass * (1 - mass)).clamp(min=0).sqrt().sum()) / math.sqrt(spent) + SIGMAS / math.sqrt(spent)
    check_queries(found, generator)
    away = 0.5 * float((counts / DRAWS - mass).abs().sum())
    assert away <= limit, f"total variation {away:.3g} from the stated masses, {limit:.2g} could be chance"


def check_queries(found: Fit, generator: torch.Generator) -> None:
    """The atom that the potential names in its own arithmetic is the best one, or one that is as good."""
    potential = found.potential
    if isinstance(potential, Entropic):
        return
    points, heights = potential.points.double(), potential.heights.double()
    noise = torch.randn(1000, points.shape[1], generator=generator, dtype=torch.float64).to(potential.points.dtype)
    scores = noise.double() @ points.mT - heights
    chosen = scores.gather(1, potential.nearest_atom(noise)[:, None])[:, 0]
    spread = float(torch.linalg.vector_norm(points - points.median(0).values, dim=1).median())
    missed = int((scores.amax(1) - chosen > 1e-3 * spread).sum())
    assert missed <= 5, f"{missed} of 1,000 draws go to an atom that is not the best"


@calls(0.06, seconds=30)
@given(st.data())
def test_fits_certify_what_they_return(data: st.DataObject) -> None:
    make = Maker(data)
    dtype = data.draw(st.sampled_from(FLOATS), label="dtype")
    count, dim = data.draw(st.integers(1, 25), label="N"), data.draw(st.sampled_from([1, 1, 2, 3, 4, 8, 30]), label="d")
    points = (cloud(make, count, dim) * make.pick(1.0, 1.0, 1e-4, 1e4)).to(dtype)
    weights = weights_of(make, count)
    epsilon = make.pick(0.0, 0.0, 0.0, 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = attempt(
            lambda: fit(points, weights, epsilon=epsilon, tol=0.1, max_samples=20_000, progress=False), bad=True
        )
    if found is None:
        return
    assert torch.isfinite(found.potential.heights).all()
    assert float(found.cell_mass.sum()) == 1 or abs(float(found.cell_mass.sum()) - 1) < 1e-6
    given_mass = torch.full((count,), 1 / count, dtype=torch.float64) if weights is None else weights / weights.sum()
    merged = torch.zeros(len(found.potential.points), dtype=torch.float64).index_add_(0, found.atom_of_row, given_mass)
    torch.testing.assert_close(found.potential.weights.double(), merged, rtol=1e-5, atol=1e-30)
    assert (found.potential.points[found.atom_of_row] == points).all()
    if found.converged:
        check_certificate(found, make.generator)


# ------------------------------------------------------------------ metrics


def brute_energy(x: NDArray[Any], y: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> float:
    parts = [cdist(p, q) for p, q in ((x, y), (x, x), (y, y))]
    return float(2 * a @ parts[0] @ b - a @ parts[1] @ a - b @ parts[2] @ b)


def least_cost(x: NDArray[Any], y: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> float:
    """W2^2 by a general solver of linear programmes, of points of size one."""
    n, m, cost = len(x), len(y), cdist(x, y, "sqeuclidean")
    marginals = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    return float(linprog(cost.ravel(), A_eq=marginals, b_eq=np.concatenate([a, b]), method="highs").fun)


@calls(0.12, seconds=30)
@given(st.data())
def test_metrics(data: st.DataObject) -> None:
    make = Maker(data)
    n, m, dim = make.whole(0, 7), make.whole(1, 7), make.whole(1, 4)
    dtype, scale = data.draw(st.sampled_from(FLOATS), label="dtype"), make.pick(1.0, 1.0, 1e-12, 1e12)
    x, y = make.normal(n, dim), make.normal(m, dim) * make.pick(1.0, 3.0) + make.pick(0.0, 1.0)
    offset = make.pick(0.0, 0.0, 100.0)
    x, y = ((points + offset).to(dtype) for points in (x, y))
    a, b = (None if make.chance(3) else torch.exp(make.pick(1, 6) * make.normal(k)) for k in (n, m))
    if a is not None and n > 1 and make.chance(3):
        a[0] = make.pick(0.0, 1e-15)
    broken = a is not None and n > 0 and make.chance(8)
    if broken:
        a[-1] = make.pick(-1.0, math.nan, math.inf)
    if n and make.chance(8):
        x[0, 0], broken = math.nan, True
    differentiable = make.chance(3)
    name = data.draw(st.sampled_from(["energy", "wasserstein"]), label="metric")
    metric: Any = energy_distance if name == "energy" else wasserstein

    def call() -> Any:
        found = metric(x * scale, y * scale, a, b, differentiable=differentiable)
        return found if differentiable or name == "energy" else found.value

    found = attempt(call, bad=n == 0 or broken)
    if found is None:
        return
    shares = [
        (torch.full((k,), 1 / k, dtype=torch.float64) if w is None else w / w.sum()).numpy()
        for k, w in ((n, a), (m, b))
    ]
    centre = y.double().mean(0)
    x, y = (((p * scale).double() / scale - centre).numpy() for p in (x, y))
    size = max(1.0, float(np.abs(x).max()), float(np.abs(y).max()))
    rel = 1e-9 if dtype == torch.float64 else 1e-6
    value = float(found) / scale
    if name == "energy":
        assert abs(value - brute_energy(x, y, *shares)) <= 10 * rel * size
        return
    expected = least_cost(x, y, *shares)
    assert abs(value**2 - expected) <= (1e-5 if dtype == torch.float32 else 1e-6) * size**2


# ------------------------------------------------------------------ analysis


@calls(0.02, seconds=30)
@given(st.data())
def test_dimension(data: st.DataObject) -> None:
    make = Maker(data)
    count, true, dim = 300, make.whole(1, 3), data.draw(st.sampled_from([3, 5, 30]), label="d")
    frame = torch.linalg.qr(make.normal(dim, dim))[0][:, :true]
    scale, dtype = make.pick(1.0, 1.0, 1e-4, 1e4, 1e200, 1e-200), data.draw(st.sampled_from(FLOATS), label="dtype")
    points = make.normal(count, true) @ frame.mT
    outliers = make.pick(0, 0, 3)
    points[:outliers] = make.pick(1e3, 1e6) * make.normal(outliers, dim)
    offset = make.pick(0.0, 0.0, 7.0)
    if dtype == torch.float64 and make.chance(3):
        offset = 1e6
    points = ((points + offset) * scale).to(dtype)
    if make.chance(4):
        points = torch.cat([points, points[outliers : outliers + 50]])
    found = attempt(lambda: data_dimension(points), bad=not 1e-100 < scale < 1e100 or bool(points.isinf().any()))
    if found is None or (dtype == torch.float32 and not 1e-30 < scale < 1e30):
        return
    inner = found.dimension[outliers:]
    stderr = found.stderr[outliers:]
    known = torch.isfinite(inner)
    assert not torch.isinf(found.dimension).any()
    away = (inner - true).abs()[known]
    limit = (SIGMAS * stderr[known]).clamp(min=0.5)
    assert (away <= limit).all(), f"dimension {inner[known][away.argmax()]:.2f} of {true}"


@calls(0.01, seconds=30)
@given(st.data())
def test_minibatch_studies(data: st.DataObject) -> None:
    make = Maker(data)
    count, dim = make.whole(2, 25), make.whole(1, 5)
    points = cloud(make, count, dim, hard=False) * make.pick(1.0, 1e-3, 1e3) + make.pick(0.0, 5.0)
    sizes = make.pick([1, 4], [1, 2, 16], [count])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = attempt(
            lambda: minibatch_convergence(
                points, sizes, relative_error=0.3, max_pairs=512, seed=make.whole(0, 9), progress=False
            ),
            bad=max(sizes) > count,
        )
    if found is None:
        return
    error = torch.hypot(found.excess_stderr, 2 * found.gap_stderr)
    floor = 1e-9 * found.cost
    assert (found.excess >= -SIGMAS * found.excess_stderr - floor).all()
    assert ((found.excess - 2 * found.gap).abs() <= SIGMAS * error + floor).all(), "two routes to one excess disagree"
    fall = found.cost.diff()
    assert (fall <= SIGMAS * torch.hypot(found.cost_stderr[1:], found.cost_stderr[:-1]) + floor[1:]).all()


@calls(0.03, seconds=30)
@given(st.data())
def test_hypotheses_hold_only_where_the_support_is(data: st.DataObject) -> None:
    make = Maker(data)
    dim = make.whole(1, 4)
    points = make.normal(dim + 3, dim)
    potential = make.pick(pf.potentials.Discrete(points, 0.5 * points.square().sum(1)), pf.potentials.Ball(dim))
    u = make.normal(3, dim) * make.pick(1.0, 10.0)
    on_support = make.chance(2)
    y = potential.brenier_map(u) if on_support else None
    if not on_support:  # a prox between the atoms, or inside of the ball, with u in dpsi(y) all the same
        pair = potential.prox(0.3 * make.normal(3, dim), 0.2)
        y, u = pair.point, pair.multiplier
    found = attempt(lambda: check_terminal_hypotheses(potential, u, y), bad=not on_support)
    if found is None:
        return
    if isinstance(potential, pf.potentials.Ball):
        distance = (torch.linalg.vector_norm(y, dim=1) - 1).abs()
    else:
        distance = torch.cdist(y, points).amin(1)
    gap = distance > 1e-3
    assert not (found.smooth_support[gap] == int(Verdict.verified)).any(), "verified at a point that is not data"


# ------------------------------------------------------------------ couplings


def copied(make: Maker, coupling: Any) -> Any:
    how = make.pick(copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c)))
    return how(coupling)


@calls(0.06, seconds=30)
@given(st.data())
def test_couplings_and_their_copies(data: st.DataObject) -> None:
    """A copy of a coupling that was used draws other noise, and every target is a row of the data."""
    make = Maker(data)
    count, dim = make.whole(4, 20), make.whole(1, 4)
    points = cloud(make, count, dim, hard=False)  # in float64 no two draws are equal by chance
    kind = data.draw(st.sampled_from(["independent", "minibatch", "semidiscrete"]), label="coupling")
    if kind == "semidiscrete":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            potential = fit(points, tol=0.3, max_samples=3000, progress=False).potential
        coupling: Any = pf.couplings.Semidiscrete(potential, points)
    elif kind == "minibatch":
        size = make.whole(0, count + 1)
        coupling = attempt(lambda: pf.couplings.Minibatch(points, size), bad=not 1 <= size <= count)
    else:
        coupling = pf.couplings.Independent(points)
    if coupling is None:
        return
    n = make.whole(1, 30)
    first = coupling.sample(n, generator=make.generator)
    assert torch.equal(first.target, points[first.index])
    if kind == "semidiscrete" and make.chance(2):
        index = torch.randint(count, (n,), generator=make.generator)
        noise = coupling.noise_for(index, generator=make.generator)
        assert noise.shape == (n, dim)
    other = attempt(lambda: copied(make, coupling), bad=True)
    if other is None:
        return
    draws = [
        c.sample(n, generator=torch.Generator().manual_seed(seed)).source
        for c, seed in ((coupling, APART + 1), (other, APART + 2))
    ]
    assert not bool((draws[0][:, None] == draws[1][None]).all(2).any()), "a copy gave the same noise"
    if kind == "semidiscrete":
        index = torch.arange(count)
        parts = [
            c.noise_for(index, generator=torch.Generator().manual_seed(seed))
            for c, seed in ((coupling, APART + 3), (other, APART + 4))
        ]
        assert not bool((parts[0][:, None] == parts[1][None]).all(2).any()), "a copy gave the same noise of its pool"


# ------------------------------------------------------------------ inputs

SWAPPED: dict[str, Any] = {"<": ">", "=": ">", ">": "<"}


@calls(0.05, seconds=30)
@given(st.data())
def test_arrays_are_their_tensors(data: st.DataObject) -> None:
    make = Maker(data)
    kinds = ["f4", "f8", "f8", "f2", "i8", "c16", "U8", "O", "b1"]
    kind, count, dim = data.draw(st.sampled_from(kinds), label="dtype"), make.whole(0, 5), make.whole(0, 4)
    array = make.normal(count, dim).numpy().astype(kind)
    if make.chance(3) and array.dtype.kind == "f":
        array = array.astype(array.dtype.newbyteorder(SWAPPED[array.dtype.byteorder]))
    view = make.pick(lambda x: x, lambda x: x[::-1], lambda x: x.T.copy().T, lambda x: np.broadcast_to(x[:1], x.shape))
    array = view(array)
    bad = kind not in ("f4", "f8") or array.size == 0
    if make.chance(4):
        array = np.ma.masked_array(array, mask=False)
        if make.chance(2) and array.size:
            array[0, 0], bad = np.ma.masked, True
    found = attempt(lambda: flat_points("fit", array), bad=bad)
    if found is None:
        return
    assert found.dtype == (torch.float32 if kind == "f4" else torch.float64)
    assert np.array_equal(found.numpy(), np.asarray(array, dtype=np.float64))
