"""How each solver of solvers.py is called: settings as documented, and grids of those that take any number of draws."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import ot
import torch
from ott.geometry.semidiscrete_pointcloud import SemidiscretePointCloud
from ott.problems.linear.semidiscrete_linear_problem import SemidiscreteLinearProblem
from ott.solvers.linear.semidiscrete import SemidiscreteSolver
from torch import Tensor

import proxflow as pf
from proxflow.seeding import generator_of
from proxflow.semidiscrete.fitting import posed, returned_of, task_of
from proxflow.semidiscrete.session import Session
from proxflow.semidiscrete.stochastic_fit import Run

__all__ = [
    "Setting", "Solve", "Solver", "adam_solver", "least_draws", "ott_solver", "pot_solver", "proxflow_solver",
    "steps_solver", "typical_gap",
]  # fmt: skip

Solve = Callable[[int], tuple[Tensor, int]]
"""From a seed to heights (N,) and the draws that moved them."""

TOLERANCES = (10.0, 3.0, 1.0, 0.3)  # of proxflow, in targets
LEAST = 2.5  # draws of the grids, in units of N / target, which is what no solver can do without

OTT_RATES: dict[str, Callable[[int, float], float | optax.Schedule]] = {
    "its tutorial's schedule, 2000 to 10": lambda steps, unit: optax.linear_schedule(2000.0, 10.0, steps),
    "0.5 to 0.0025": lambda steps, unit: optax.linear_schedule(0.5 * unit, 0.0025 * unit, steps),
    "constant 0.1": lambda steps, unit: 0.1 * unit,
    "constant 0.03": lambda steps, unit: 0.03 * unit,
}
"""From the number of steps, and N times the typical gap."""
OTT_RUNS = ((200, False), (200, True), (1600, True))
"""Steps with the least draws, and whether potentials are averaged over a fifth of them; by default hardly at all."""
POT_RATES = (0.5, 1.5, 5.0)
"""In units of its default, sqrt(N batch), and the typical gap."""
POT_EXPONENTS = {"2/3": 2 / 3, "1/2": 1 / 2}
ADAM_RATES = (0.1, 0.3, 1.0)
"""In units of the typical gap."""
ADAM_STEPS = (400, 1600)
POT_STEPS = 400
"""With the least draws; more of them are more steps."""


@dataclass(frozen=True)
class Setting:
    """A way to call a solver; ``prepare`` compiles what there is to compile. ``draws`` are those expected."""

    name: str
    draws: int
    prepare: Callable[[], Solve]
    documented: bool = False


@dataclass(frozen=True)
class Solver:
    """Settings with draws of their own, and a grid of those that take any number of draws."""

    name: str
    fixed: tuple[Setting, ...]
    grid: tuple[Callable[[int], Setting], ...] = ()


def typical_gap(points: Tensor) -> float:
    """Median, over noise, of how much the second least cost |x - y_j|^2 is above the least."""
    noise = torch.randn(1024, points.shape[1], generator=generator_of(0, 1), dtype=points.dtype)
    least = torch.cdist(noise, points).square().topk(2, largest=False).values
    return float((least[:, 1] - least[:, 0]).median())


def heights_of(points: Tensor, potential: Tensor) -> Tensor:
    """Heights h_j = (|y_j|^2 - g_j) / 2 of a potential g of the cost |x - y|^2, float64 on the CPU."""
    return 0.5 * (points.double().square().sum(1) - potential.double()).cpu()


def least_draws(points: Tensor, target: float) -> int:
    """Draws that grids begin with."""
    return round(LEAST * len(points) / target)


def proxflow_solver(points: Tensor, target: float) -> Solver:
    """Fits at several tolerances; up to three dimensions they are exact, whatever the tolerance."""
    pf.semidiscrete.fit(points[:500], tol=1.0, progress=False)  # so that what is compiled once is compiled

    def setting(tol: float) -> Setting:
        def solve(seed: int) -> tuple[Tensor, int]:
            fit = pf.semidiscrete.fit(points, tol=tol, seed=seed, progress=False)
            return fit.potential.heights.cpu(), fit.samples_used

        return Setting(f"tol {tol:g}, certified", round(len(points) / tol), lambda: solve, True)

    shares = TOLERANCES if points.shape[1] > 3 else (1.0,)
    return Solver("proxflow", tuple(setting(target * share) for share in shares))


def steps_solver(points: Tensor, target: float) -> Solver:
    """A fit without its evaluations and certificate, by so many draws: what other solvers do. None in few dimensions,
    where fits are exact."""

    def setting(draws: int) -> Setting:
        return Setting(f"{draws:,} draws", draws, lambda: partial(only_steps, points, target, draws))

    return Solver("steps", (), (setting,) if points.shape[1] > 3 else ())


def only_steps(points: Tensor, target: float, draws: int, seed: int) -> tuple[Tensor, int]:
    """Heights (N,) that a fit would return after so many draws; prepared as for a fit to the target."""
    task = task_of(points, None, None, 0.0, None, target, None, seed, 1 << 28)
    fine = posed(task)[1]
    session = Session(time.perf_counter(), False, None, None)
    run = Run(fine.problem, returned_of(task, fine), None, task.tol, task.max_samples, task.seed, session)
    while run.state.iterate.samples_used < draws:
        run.step()
    return run.potential.heights.cpu(), run.state.iterate.samples_used


def ott_solver(points: Tensor, target: float) -> Solver:
    """Its rates, each in all runs."""
    unit, least = len(points) * typical_gap(points), least_draws(points, target)

    def setting(run: tuple[int, bool], rate: str, draws: int) -> Setting:
        first, averaged = run
        batch = -(-least // first)
        steps = -(-draws // batch)
        name = f"{rate}, batches of {batch}{', averaged' if averaged else ''}"
        newest = 5 / steps if averaged else SemidiscreteSolver.potential_ema
        prepare = partial(compiled_ott, points, optax.sgd(OTT_RATES[rate](steps, unit)), batch, steps, newest)
        return Setting(name, batch * steps, prepare, "tutorial" in rate and not averaged)

    return Solver("OTT", (), tuple(partial(setting, *pair) for pair in product(OTT_RUNS, OTT_RATES)))


def compiled_ott(
    points: Tensor, optimizer: optax.GradientTransformation, batch: int, steps: int, newest: float
) -> Solve:
    """OTT for a seed, compiled; it evaluates its error once, at the end.

    ``newest`` is the weight of the newest potential in its average.
    """

    def sampler(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype | None = None) -> jax.Array:
        return jax.random.normal(key, shape, dtype)

    cloud = SemidiscretePointCloud(sampler, jnp.asarray(points.numpy()), epsilon=0.0)
    problem = SemidiscreteLinearProblem(cloud)
    solver = SemidiscreteSolver(
        num_iterations=steps,
        batch_size=batch,
        optimizer=optimizer,
        error_eval_every=steps,
        error_num_repeats=1,
        threshold=0.0,
        potential_ema=newest,
    )
    run = jax.jit(solver).lower(jax.random.key(0), problem).compile()

    def solve(seed: int) -> tuple[Tensor, int]:
        potential = jax.block_until_ready(run(jax.random.key(seed), problem).g)  # type: ignore[no-untyped-call]
        return heights_of(points, torch.from_numpy(np.array(potential))), batch * steps

    return solve


def pot_solver(points: Tensor, target: float) -> Solver:
    """Its default arguments, and rates with two exponents and without regularisation, which is quicker."""
    rows, gap = points.numpy(), typical_gap(points)

    def setting(name: str, batch: int, steps: int, options: dict[str, float]) -> Setting:
        def solve(seed: int) -> tuple[Tensor, int]:
            generator = np.random.default_rng(seed)
            potential = ot.semidiscrete.solve_semidiscrete(
                rows,
                lambda size: generator.standard_normal((size, rows.shape[1]), dtype=rows.dtype.type),
                max_iter=steps,
                batch_size=batch,
                **options,
            )
            return heights_of(points, torch.from_numpy(potential)), batch * steps

        return Setting(name, batch * steps, lambda: solve, not options)

    def of_grid(rate: float, exponent: str, regularised: bool, draws: int) -> Setting:
        batch = -(-least_draws(points, target) // POT_STEPS)
        lr0 = rate * gap * (len(points) * batch) ** 0.5
        name = f"rate {rate:g} / t^({exponent}), batches of {batch}{', DRAG' if regularised else ''}"
        options = {"lr0": lr0, "lr_exponent": POT_EXPONENTS[exponent], "decreasing_reg": regularised}
        return setting(name, batch, -(-draws // batch), options)

    hard = tuple(partial(of_grid, *pair, False) for pair in product(POT_RATES, POT_EXPONENTS))
    default = setting("its default arguments: DRAG", 32, 10_000, {})
    return Solver("POT", (default,), (*hard, partial(of_grid, POT_RATES[1], "1/2", True)))


def adam_solver(points: Tensor, target: float) -> Solver:
    """AlignFlow's default arguments, those of its example, and rates with an average over a fifth of the steps."""
    gap = typical_gap(points.cpu())

    def setting(name: str, rate: float, batch: int, steps: int, decay: float, epsilon: float = 0.0) -> Setting:
        def solve(seed: int) -> tuple[Tensor, int]:
            return adam(points, rate, batch, steps, decay, epsilon, seed), batch * steps

        return Setting(name, batch * steps, lambda: solve, epsilon > 0)

    def of_grid(rate: float, first: int, draws: int) -> Setting:
        batch = -(-least_draws(points, target) // first)
        steps = -(-draws // batch)
        return setting(f"rate {rate:g}, batches of {batch}", rate * gap, batch, steps, 1 - 5 / steps)

    default = setting("AlignFlow's default arguments", 1.0, 128, 2000, 0.9999, 0.01)
    example = setting("AlignFlow's example in the plane", 0.1, 1024, 1000, 0.99, 0.01)
    return Solver(
        "Adam", (default, example), tuple(partial(of_grid, *pair) for pair in product(ADAM_RATES, ADAM_STEPS))
    )


def adam(
    points: Tensor, rate: float, batch: int, steps: int, decay: float, epsilon: float = 0.0, seed: int = 0
) -> Tensor:
    """Heights (N,) of Adam on the semi-dual of the cost |x - y|^2, with an exponential average of its potentials.

    ``epsilon`` smooths the assignment, in units of the cost; 0 assigns each draw to one atom.
    """
    generator = generator_of(seed, device=points.device)
    potential = torch.zeros(len(points), device=points.device)
    mean = torch.zeros_like(potential)
    squares = points.square().sum(1)
    optimizer = torch.optim.Adam([potential], lr=rate, amsgrad=True)
    for _ in range(steps):
        noise = torch.randn(batch, points.shape[1], generator=generator, device=points.device)
        score = torch.addmm(potential - squares, noise, points.mT, alpha=2)  # |x|^2 less the cost, with the potential
        if epsilon > 0:
            mass = (score / epsilon).softmax(1).mean(0)
        else:
            mass = torch.bincount(score.max(1).indices, minlength=len(points)) / batch
        potential.grad = mass - 1 / len(points)
        optimizer.step()
        mean.lerp_(potential, 1 - decay)
    return heights_of(points, mean)
