"""The law of every training recipe: the exact minimiser of its loss ends on the data (docs/theory.md 8).

A perfect network is integrated, in closed form or by quadrature, for every coupling, path and law of times on offer. A
recipe that is not flow matching, a share of independent pairs that grows with time, goes through the same code, and
must be seen to miss.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.special import ndtr, ndtri

from proxflow.couplings import Coupling, Independent, Minibatch, Pairs, Semidiscrete
from proxflow.couplings.pairs import joined
from proxflow.matching import LogitNormal, PathSample, TimeSampler, Uniform, sample_path, train
from proxflow.schedules import Cosine, Linear, Polynomial, Schedule
from proxflow.semidiscrete import fit
from tests.couplings.normality import ALPHA
from tests.laws.exact_minimiser import (
    F64,
    GaussianPairs,
    JointLaw,
    Mixture,
    MonotonePairs,
    TwoModes,
    atom_levels,
    atom_quantile,
    ends,
    minimiser,
    rank_pairs,
    standard_deviation,
    time_near_atoms,
    turned_pairs,
    w2,
)
from tests.laws.recipes import (
    ATOMS,
    IN_SPACE,
    ON_THE_LINE,
    ROWS,
    WEIGHTS,
    Recipe,
    entropic_potential,
    independent_atoms,
)
from tests.marks import slow_beyond

SCHEDULES: tuple[Schedule, ...] = (Linear(), Cosine(), Polynomial(2.0))
TIMES: dict[str, TimeSampler] = {"uniform": Uniform(), "logit-normal": LogitNormal(0.5, 1.5)}
EXACT = 1e-3  # of the target's standard deviation: W2 of what counts as exact
MISSED = 20 * EXACT  # W2 of what must be seen to miss
NODES = 1000  # of the midpoint rule in a quarter of the levels
DRAWN_AT_ONCE = 960  # pairs, in whole batches of all sizes here
SIGMAS = 5.0  # standard errors: once in 10^6 of correct code, at seeds that are fixed


def growing(t: Tensor) -> Tensor:
    """The share t^2 of independent pairs: a joint law that changes with time."""
    return t.square()


def constant(t: Tensor) -> Tensor:
    """The share .3 of independent pairs."""
    return torch.full_like(t, 0.3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def largest_z(values: Tensor, batch: int = 1, least: Tensor | float = 1e-9) -> float:
    """Of means over (n, *shape) being 0, in standard errors; batches of rows are independent, the rows of one are not.

    Standard errors of ``least`` at the least: what is known of them, or rounding.
    """
    values = values[: len(values) // batch * batch].unflatten(0, (-1, batch)).mean(1)
    error = (values.std(0) / math.sqrt(len(values))).clamp(min=least)
    return float((values.mean(0).abs() / error).max())


# ---------------------------------------------------------------- on the line, finitely many atoms


@functools.cache
def recipe(name: str) -> Recipe:
    return ON_THE_LINE[name]()


@functools.cache
def pairs_of(name: str) -> Pairs:
    """Pairs of the coupling itself."""
    made, generator = recipe(name), seeded(1)
    size = min(made.draws, DRAWN_AT_ONCE)
    return joined([made.coupling.sample(size, generator=generator) for _ in range(made.draws // size)])


def relative_w2(law: JointLaw, points: Tensor, weights: Tensor, scale: float, schedule: Schedule) -> float:
    """W2 between the ends of the minimiser's flow and ascending atoms (J, 1), over the scale.

    Two starts lie on either side of each jump of the target's quantiles, as near as W2 asks for: where they reach the
    right atoms, what lies between them adds .9 of what counts as exact at the most.
    """
    bracket = 0.9 * EXACT
    distance = (bracket * scale) ** 2 / (2 * float(points[:, 0].diff().square().sum()))  # about 10^-7
    level = atom_levels(weights, distance)
    end = ends(law, schedule, ndtri(level)[:, None], time_near_atoms(schedule, points))[:, 0]
    return math.hypot(w2(level, end, atom_quantile(points[:, 0], weights, level)) / scale, bracket)


@pytest.mark.parametrize("schedule", slow_beyond(1, SCHEDULES), ids=repr)
@pytest.mark.parametrize("name", ON_THE_LINE)
def test_the_minimiser_ends_on_the_atoms(name: str, schedule: Schedule) -> None:
    """GivenLabel a label, on the atoms of the label; all labels together, on the data."""
    made = recipe(name)
    scale = standard_deviation(made.points[:, 0], made.weights)
    total = torch.zeros_like(made.weights)
    for given in made.labels:
        some = given.weights > 0
        assert relative_w2(given.law, given.law.points[some], given.weights[some], scale, schedule) <= EXACT
        place = torch.searchsorted(made.points[:, 0].contiguous(), given.law.points[:, 0].contiguous())
        total[place] += given.share * given.weights
    torch.testing.assert_close(total, made.weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ON_THE_LINE)
def test_the_coupling_draws_that_joint_law(name: str) -> None:
    """Noise is normal, and each quarter of it goes to the atoms as often as the law says, for each label."""
    made, pairs = recipe(name), pairs_of(name)
    assert stats.kstest(pairs.source[:, 0].numpy(), "norm").pvalue > ALPHA
    noise = ndtri((torch.arange(4 * NODES, dtype=F64) + 0.5) / (4 * NODES))[:, None]
    quarter = torch.nn.functional.one_hot((4 * ndtr(pairs.source[:, 0])).long(), 4).to(F64)
    for given in made.labels:
        with_label = torch.ones(len(pairs)) if given.label is None else (pairs.label == given.label)
        chance = given.share * given.law.probability(noise)
        atom = (pairs.target == given.law.points[:, 0]).to(F64)
        table = with_label[:, None, None] * quarter[:, :, None] * atom[:, None, :]
        expected = chance.unflatten(0, (4, NODES)).mean(1) / 4
        least = (expected / len(pairs)).sqrt() + 1 / (4 * NODES)  # rare cells show their errors in no sample
        assert largest_z(table - expected, made.batch, least) <= SIGMAS
        product = with_label[:, None] * within_batch(pairs, made.batch)
        assert largest_z(product - (noise * (chance @ given.law.points)).mean(0), made.batch, 1 / NODES) <= SIGMAS


def within_batch(pairs: Pairs, batch: int) -> Tensor:
    """Products x0 x1, (n, 1), in the mean as large as they are, but less noisy where pairs are drawn in batches.

    Noise and rows of a batch are drawn apart before they are assigned: the product of their means has mean zero.
    """
    product = pairs.source * pairs.target
    if batch == 1:
        return product
    x0, x1 = (points.unflatten(0, (-1, batch)).mean(1) for points in (pairs.source, pairs.target))
    return product - (x0 * x1).repeat_interleave(batch, dim=0)


def residual_products(law: JointLaw, path: PathSample, schedule: Schedule) -> Tensor:
    """What the normal equations of the loss set to zero in the mean: (velocity - v*) f, for functions f of t and x."""
    t, x = path.t, path.x[:, 0]
    features = torch.stack([torch.ones_like(t), x, x * t, x * (t > 0.7), torch.cos(2 * x), torch.sin(3 * x) * t], dim=1)
    return (path.velocity - minimiser(law, schedule, t, path.x)) * features


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", ON_THE_LINE)
def test_the_field_is_the_minimiser_on_the_pairs_of_the_coupling(name: str, times: str) -> None:
    """Whatever the law of t: the regression is a separate one at each t."""
    made, pairs = recipe(name), pairs_of(name)
    schedule = SCHEDULES[list(ON_THE_LINE).index(name) % len(SCHEDULES)]
    t = TIMES[times].sample(len(pairs), generator=seeded(2)).double()
    for given in made.labels:
        rows = torch.ones(len(pairs), dtype=torch.bool) if given.label is None else pairs.label == given.label
        own = Pairs(pairs.source[rows], pairs.target[rows], pairs.index[rows])
        path = sample_path(own, t[rows], schedule)
        assert largest_z(residual_products(given.law, path, schedule), made.batch) <= SIGMAS


def test_a_share_of_independent_pairs_must_not_change_with_time() -> None:
    """A constant share ends on the atoms, a growing one misses them."""
    law, scale = recipe("entropic").labels[0].law, standard_deviation(ATOMS[:, 0], WEIGHTS)
    exact, growing_share = (Mixture(law, independent_atoms(), share) for share in (constant, growing))
    assert relative_w2(exact, ATOMS, WEIGHTS, scale, Linear()) <= EXACT
    assert relative_w2(growing_share, ATOMS, WEIGHTS, scale, Linear()) >= MISSED


def test_what_misses_is_the_minimiser_of_its_own_pairs_and_not_of_the_coupling() -> None:
    """Pairs mixed by their times have the field of the mixture, and are seen not to have the coupling's."""
    law, pairs = recipe("entropic").labels[0].law, recipe("entropic").coupling.sample(30_000, generator=seeded(1))
    t = Uniform().sample(len(pairs), generator=seeded(2)).double()
    path = sample_path(mixed_by_time(pairs, t), t)
    mixture = Mixture(law, independent_atoms(), growing)
    assert largest_z(residual_products(mixture, path, Linear())) <= SIGMAS
    assert largest_z(residual_products(law, path, Linear())) >= 2 * SIGMAS


def mixed_by_time(pairs: Pairs, t: Tensor) -> Pairs:
    """Noise drawn anew, and so independent of the target, with probability ``growing(t)``."""
    noise = torch.randn(pairs.source.shape, generator=seeded(3), dtype=F64)
    apart = torch.rand(len(pairs), generator=seeded(4), dtype=F64) < growing(t)
    return Pairs(torch.where(apart[:, None], noise, pairs.source), pairs.target, pairs.index, pairs.label)


# ---------------------------------------------------------------- on the line, densities


WIDE = torch.tensor([4.0], dtype=F64)
MODES = TwoModes()

SMOOTH: dict[str, JointLaw] = {
    "N(0, 16), optimal": GaussianPairs(WIDE, 1.0),
    "N(0, 16), independent": GaussianPairs(WIDE, 0.0),
    "N(0, 16), fixed angle": GaussianPairs(WIDE, math.cos(0.5)),
    "N(0, 16), constant share": Mixture(GaussianPairs(WIDE, 1.0), GaussianPairs(WIDE, 0.0), constant),
    "two modes, optimal": MonotonePairs(MODES),
    "two modes, independent": rank_pairs(MODES, 1),
    "two modes, batches of 4": rank_pairs(MODES, 4),
    "two modes, fixed angle": turned_pairs(MODES, 0.5),
    "two modes, constant share": Mixture(MonotonePairs(MODES), rank_pairs(MODES, 1), constant),
}

GROWING: dict[str, JointLaw] = {
    "N(0, 16)": Mixture(GaussianPairs(WIDE, 1.0), GaussianPairs(WIDE, 0.0), growing),
    "two modes": Mixture(MonotonePairs(MODES), rank_pairs(MODES, 1), growing),
}


def smooth_error(law: JointLaw, name: str, schedule: Schedule) -> float:
    """W2 between the ends of the minimiser's flow and its target, over the target's deviation."""
    start = torch.linspace(-4.5, 4.5, 18, dtype=F64)  # beyond are 10^-5 of the mass
    wanted, scale = 4 * start, 4.0
    if name.startswith("two modes"):
        wanted = MODES.inverse(torch.ones(len(start), 1), torch.zeros(len(start), 1), start[:, None])[:, 0]
        scale = math.sqrt(MODES.variance)
    end = ends(law, schedule, start[:, None], tolerance=1e-5)[:, 0]
    return w2(ndtr(start), end, wanted) / scale


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("name", SMOOTH)
def test_the_minimiser_ends_on_the_density(name: str, schedule: Schedule) -> None:
    assert smooth_error(SMOOTH[name], name, schedule) <= EXACT


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("name", GROWING)
def test_with_a_growing_share_the_minimiser_misses_the_density(name: str, schedule: Schedule) -> None:
    assert smooth_error(GROWING[name], name, schedule) >= MISSED


# ---------------------------------------------------------------- normal laws in R^64

SPREAD = torch.tensor([3.0] * 16 + [0.3] * 16 + [1.0] * 32, dtype=F64)
OPTIMAL, APART = GaussianPairs(SPREAD, 1.0), GaussianPairs(SPREAD, 0.0)


def deviation_ratios(law: JointLaw, starts: int = 300, tolerance: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Standard deviations reached over those wanted, (3,) for 3, .3 and 1, and the standard errors of their squares.

    The starts' own deviations are divided out, so that there is no error where the field is linear.
    """
    start = torch.randn(starts, 64, generator=seeded(), dtype=F64)
    reached = ends(law, Linear(), start, tolerance=tolerance) / SPREAD
    groups = [slice(0, 16), slice(16, 32), slice(32, 64)]
    square, own = (torch.stack([x[:, group].square().mean(1) for group in groups], dim=1) for x in (reached, start))
    ratio = square.mean(0) / own.mean(0)
    return ratio.sqrt(), (square - ratio * own).std(0) / own.mean(0) / math.sqrt(starts)


@pytest.mark.parametrize("correlation", [1.0, math.cos(0.5), 0.0], ids=["optimal", "fixed angle", "independent"])
def test_a_linear_minimiser_reaches_every_deviation(correlation: float) -> None:
    ratio, _ = deviation_ratios(GaussianPairs(SPREAD, correlation))
    assert float((ratio - 1).abs().max()) <= EXACT


def test_a_constant_share_reaches_every_deviation_and_a_growing_one_none() -> None:
    """Optimal pairs; in 64 dimensions a point shows which kind of pair it is of, so that the field is not linear."""
    ratio, error = deviation_ratios(Mixture(OPTIMAL, APART, constant))
    assert bool(((ratio.square() - 1).abs() <= SIGMAS * error + EXACT).all())
    ratio, error = deviation_ratios(Mixture(OPTIMAL, APART, growing))
    assert bool((ratio >= torch.tensor([1.03, 1.1, 1.06])).all())
    assert bool((ratio.square() - 1 >= SIGMAS * error).all())


# ---------------------------------------------------------------- normal rows in R^8 and R^64, by linear regression


@dataclass(frozen=True)
class Moments:
    """Covariances of source and target, (d, d) each."""

    source: Tensor
    cross: Tensor
    target: Tensor

    @classmethod
    def of(cls, pairs: Pairs) -> Moments:
        """Of pairs, about their means."""
        x0, x1 = pairs.source - pairs.source.mean(0), pairs.target - pairs.target.mean(0)
        return cls(x0.mT @ x0 / len(x0), x0.mT @ x1 / len(x0), x1.mT @ x1 / len(x0))


def linear_flow(moments: Moments, schedule: Schedule, share: Callable[[Tensor], Tensor] = torch.zeros_like) -> Tensor:
    """The matrix (d, d) that the flow of the best linear field multiplies deviations from the mean by.

    The regression of the velocity on x_t has the matrix C_vx C_xx^-1. Independent pairs take the place of a share q(t):
    they have no cross covariance.
    """
    dim = len(moments.source)
    unit = Pairs(torch.tensor([[1.0, 0.0]], dtype=F64), torch.tensor([[0.0, 1.0]], dtype=F64), torch.arange(1))

    def derivative(t: float, flat: np.ndarray) -> np.ndarray:
        time = torch.tensor([t], dtype=F64)
        path = sample_path(unit, time, schedule)
        (a, b), (da, db) = path.x[0], path.velocity[0]
        cross = (1 - share(time)) * moments.cross
        covariance = a * a * moments.source + a * b * (cross + cross.mT) + b * b * moments.target
        with_velocity = da * a * moments.source + da * b * cross + db * a * cross.mT + db * b * moments.target
        field = torch.linalg.solve(covariance, with_velocity.mT).mT
        return (field @ torch.from_numpy(flat).reshape(dim, dim)).flatten().numpy()

    solution = solve_ivp(
        derivative, (0.0, 1.0), torch.eye(dim, dtype=F64).flatten().numpy(), method="DOP853", rtol=1e-8, atol=1e-8
    )
    assert solution.success, solution.message
    return torch.from_numpy(solution.y[:, -1]).reshape(dim, dim)


def normal_rows(count: int, dim: int) -> tuple[Tensor, Tensor]:
    """Rows of deviations 3 to .3, turned and moved, and labels."""
    generator = seeded(5)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=F64))[0]
    deviation = torch.logspace(math.log10(3), math.log10(0.3), dim, dtype=F64)
    rows = torch.randn(count, dim, generator=generator, dtype=F64) * deviation @ turn + 1
    return rows, (rows[:, 0] > 1).long()


@functools.cache
def in_space(name: str, dim: int) -> tuple[Tensor, Pairs]:
    """Rows, and pairs that the coupling draws of them."""
    rows, labels = normal_rows(8 * dim, dim)
    coupling, generator = IN_SPACE[name].make(rows, labels), seeded(6)
    return rows, joined([coupling.sample(640, generator=generator) for _ in range(IN_SPACE[name].draws // 640)])


def covariance_reached(rows: Tensor, flow: Tensor) -> Tensor:
    """Covariance of the ends of N(0, I) in the frame where that of the rows is I, (d, d)."""
    deviation = rows - rows.mean(0)
    factor = torch.linalg.cholesky(deviation.mT @ deviation / len(rows))
    white = torch.linalg.solve_triangular(factor, flow, upper=False)
    return white @ white.mT


def covariance_error(rows: Tensor, draws: int, chi2: float) -> Tensor:
    """How far ``covariance_reached`` of the moments of so many pairs may be from I, (d, d).

    Noise of N(0, I): an entry of its covariance has variance 2 / n at most, and second orders are squares of the
    spread of its eigenvalues (Davidson and Szarek). Targets: entries are means over rows, and masses m for b move a
    mean of f by sum (m - b) f <= sqrt(chi2) sd(f).
    """
    dim, deviation = rows.shape[1], rows - rows.mean(0)
    factor = torch.linalg.cholesky(deviation.mT @ deviation / len(rows))
    white = torch.linalg.solve_triangular(factor, deviation.mT, upper=False).mT
    product = (white[:, :, None] * white[:, None, :]).std(0)
    spread = math.sqrt(dim / draws) + SIGMAS / math.sqrt(draws)
    return (SIGMAS / math.sqrt(draws) + math.sqrt(chi2)) * product + SIGMAS * math.sqrt(2 / draws) + spread**2


PLACES = [(name, dim) for name, entry in IN_SPACE.items() for dim in entry.dims]


@pytest.mark.parametrize("schedule", slow_beyond(1, SCHEDULES), ids=repr)
@pytest.mark.parametrize(("name", "dim"), PLACES)
def test_the_linear_minimiser_reaches_the_covariance_of_the_rows(name: str, dim: int, schedule: Schedule) -> None:
    """From the noise of the pairs exactly; from N(0, I) up to the errors of finitely many pairs, and of the fit."""
    rows, pairs = in_space(name, dim)
    moments = Moments.of(pairs)
    flow = linear_flow(moments, schedule)
    torch.testing.assert_close(flow @ moments.source @ flow.mT, moments.target, rtol=0, atol=1e-5)  # of 9
    error = (covariance_reached(rows, flow) - torch.eye(dim)).abs()
    assert bool((error <= covariance_error(rows, len(pairs), IN_SPACE[name].chi2)).all())


def test_with_a_growing_share_the_linear_minimiser_misses_the_covariance_of_the_rows() -> None:
    rows, pairs = in_space("semidiscrete", 8)
    error = covariance_error(rows, len(pairs), IN_SPACE["semidiscrete"].chi2)
    excess = covariance_reached(rows, linear_flow(Moments.of(pairs), Linear(), growing)) - torch.eye(8)
    assert bool((excess > error).diagonal().all())


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_linear_minimiser_of_optimal_normal_pairs_reaches_every_deviation(schedule: Schedule) -> None:
    """In R^64, from the law itself; with a constant share too, and with a growing one not."""
    turn = torch.linalg.qr(torch.randn(64, 64, generator=seeded(), dtype=F64))[0]
    moments = Moments(torch.eye(64, dtype=F64), turn.mT * SPREAD @ turn, turn.mT * SPREAD.square() @ turn)

    def ratios(share: Callable[[Tensor], Tensor]) -> Tensor:
        flow = linear_flow(moments, schedule, share)
        return (turn @ flow @ flow.mT @ turn.mT).diagonal().sqrt() / SPREAD

    for exact in (torch.zeros_like, constant):
        assert float((ratios(exact) - 1).abs().max()) <= EXACT
    assert float(ratios(growing).min()) >= 1 + MISSED


# ---------------------------------------------------------------- what a network is given in training


class Recorder(torch.nn.Module):
    """A network that keeps what it is called with in training."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros((), dtype=F64))
        self.calls: list[Tensor] = []

    def forward(self, t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        """Zero."""
        if self.training:
            self.calls.append(torch.stack([t, x[:, 0], label], dim=1).detach())
        return self.nothing * x


NUMBERS = torch.arange(len(ROWS), dtype=F64)  # labels that are no whole numbers are never left out

NUMBERED: dict[str, tuple[Callable[[], Coupling], TimeSampler, Schedule]] = {
    "independent": (lambda: Independent(ROWS, NUMBERS), LogitNormal(0.5, 1.5), Linear()),
    "minibatch": (lambda: Minibatch(ROWS, 4, NUMBERS), Uniform(), Cosine()),
    "semidiscrete": (lambda: Semidiscrete(fit(ROWS).potential, ROWS, NUMBERS), Uniform(), Linear()),
    "entropic": (
        lambda: Semidiscrete(entropic_potential(ATOMS, WEIGHTS), ROWS, NUMBERS),
        LogitNormal(-0.5, 1.0),
        Polynomial(2.0),
    ),
}


def given_in_training(name: str) -> tuple[Pairs, Tensor]:
    """The pairs (x0, x1) behind what ``train`` shows a network, and their times."""
    (make, times, schedule), network = NUMBERED[name], Recorder()
    train(network, make(), steps=10, batch_size=960, times=times, schedule=schedule, seed=3, progress=False)
    t, x, number = torch.cat(network.calls).unbind(1)
    index = number.long()
    source = (x[:, None] - schedule.beta(t)[:, None] * ROWS[index]) / schedule.alpha(t)[:, None]
    return Pairs(source, ROWS[index], index), t


def dependence_on_time(pairs: Pairs, t: Tensor) -> Tensor:
    """Products of functions of the pair and of its time, all of mean zero where they are independent, (n, 4, 3)."""
    x0, x1 = pairs.source[:, 0], pairs.target[:, 0]
    of_pair = torch.stack([x0, x1, x0 * x1, x0.square()], dim=1)
    of_time = torch.stack([t, t.square(), torch.cos(math.pi * t)], dim=1)
    return (of_pair - of_pair.mean(0))[:, :, None] * (of_time - of_time.mean(0))[:, None, :]


@pytest.mark.parametrize("name", NUMBERED)
def test_training_draws_times_apart_from_pairs(name: str) -> None:
    """So that any law of t has the same minimiser: it is that of the batches that the network sees."""
    (pairs, t), made, schedule = given_in_training(name), recipe(name), NUMBERED[name][2]
    assert len(pairs) == 9600
    assert largest_z(dependence_on_time(pairs, t), made.batch) <= SIGMAS
    residual = residual_products(made.labels[0].law, sample_path(pairs, t, schedule), schedule)
    assert largest_z(residual, made.batch) <= SIGMAS


def test_pairs_mixed_by_their_times_would_be_seen_in_training() -> None:
    pairs, t = given_in_training("semidiscrete")
    assert largest_z(dependence_on_time(mixed_by_time(pairs, t), t)) >= 2 * SIGMAS
