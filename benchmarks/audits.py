"""Whether audits rank models as they were made, and whether their intervals hold what they should.

Ranking: the exact flow, and networks that were trained alike on pairs of the population, of minibatches of 256 and of
16, and on independent pairs; of digits, and from two moons to 8 Gaussians. A figure is in order where no model is worse
than the next by more than both intervals.

``--coverage``: audits of a linear field against another one, of which the true values of figures are known, with fresh
noise and data each time; how many of 200 intervals hold them. Not covered are figures without a scatter here
(Jacobians, order and assignment are those of any linear field) and those that depend on the number of rows (W2, the
least group, precision and recall).

python benchmarks/audits.py
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import proxflow as pf
from proxflow.analysis import Audit, Figure
from proxflow.analysis.auditing.condition_leakage import condition_leakage
from proxflow.analysis.auditing.equivalent_batch import batch_curve, equivalent_batch, independent_rule
from proxflow.analysis.auditing.generated_pairs import generated_pairs
from proxflow.analysis.auditing.generation import copies, paired_variances
from proxflow.analysis.auditing.optimality import misses_on_the_way, optimality_figures, pair_bound, velocity_errors
from proxflow.couplings import Coupling
from proxflow.kernels.geometry import principal_axes
from proxflow.report.audit_page import figure_in_words

PAIRS = ("exact flow", "population pairs", "minibatches of 256", "minibatches of 16", "independent pairs")
RISING = (
    "jacobian_asymmetry", "spectrum_above", "largest_eigenvalue", "recovered_drift", "cycle_violations",
    "repairing_gain", "cost_excess", "velocity_error", "pair_excess", "one_step_error", "four_step_error",
    "four_step_best_error",
)  # fmt: skip
ROUNDING = 1e-6  # of a relative figure
BY_THE_RUN = dict.fromkeys(("four_step_best_error", "four_step_gain"), "by its grid") | dict.fromkeys(
    ("variance_ratio_1", "variance_ratio_2", "variance_ratio_3"), "by its axes"
)
OTHERS = ("energy_distance", "variance_ratio", "four_step_gain")
WIDE, RIGHT = torch.tensor([2.0, 0.5, 1.2]).double(), torch.tensor([1.8, 0.6, 1.0]).double()
NOISE = 200  # trajectories of an audit of the coverage
LINEAR = pf.schedules.Linear()


class Moons:
    """Noise from two half-circles with normal scatter: a mixture of 40 normal laws."""

    dim = 2

    def __init__(self) -> None:
        angle = torch.linspace(0, math.pi, 20)
        upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], 1)
        lower = torch.stack([0.5 - angle.cos(), 0.25 - angle.sin()], 1)
        self.centres, self.width = 2 * torch.cat([upper, lower]).double(), 0.2

    def sample(self, n: int, *, generator: Any = None, dtype: Any = None, device: Any = None) -> Tensor:
        """(n, 2)."""
        chosen = self.centres[torch.randint(len(self.centres), (n,), generator=generator)]
        scatter = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return (chosen + self.width * scatter).to(dtype=dtype or torch.float32, device=device)

    def log_prob(self, x: Tensor) -> Tensor:
        """(B,)."""
        squares = torch.cdist(x, self.centres.to(x)).square() / self.width**2
        norm = math.log(2 * math.pi * self.width**2 * len(self.centres))
        return torch.logsumexp(-0.5 * squares, 1) - norm


def ranked(name: str, source: Any, trained: int, width: int, **sizes: Any) -> dict[str, Audit]:
    """Audits of all five models."""
    points = pf.data.load(name).points.flatten(1)
    rows = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))].float()
    rows = rows[: 128 if "count" in sizes else 500 if source is not None else None]  # other noise makes densities dear
    fitted = pf.semidiscrete.fit(rows, source=source, tol=0.02, max_samples=1 << 22, progress=False)
    couplings: dict[str, Coupling] = {
        "population pairs": pf.couplings.Semidiscrete(fitted.potential, rows),
        "minibatches of 256": pf.couplings.Minibatch(rows, min(256, len(rows)), source=source),
        "minibatches of 16": pf.couplings.Minibatch(rows, 16, source=source),
        "independent pairs": pf.couplings.Independent(rows, source=source),
    }
    flow = pf.ProximalFlow(fitted.potential)
    found = {"exact flow": pf.analysis.audit(flow, flow, data=rows, compare_independent=False, progress=False, **sizes)}
    for kind, coupling in couplings.items():
        torch.manual_seed(0)
        network = pf.matching.ResidualMLP(tuple(rows.shape[1:]), width=width)
        pf.matching.train(network, coupling, steps=trained, progress=False)
        field, started = pf.matching.field_of(network.eval()), time.process_time()
        found[kind] = pf.analysis.audit(field, flow, data=rows, compare_independent=False, progress=False, **sizes)
        print(f"  {kind}: audited in {time.process_time() - started:.0f} CPU s", flush=True)
    return found


def print_ranking(name: str, audits: dict[str, Audit]) -> None:
    """One line for each figure, and whether models are in order."""
    print(f"\n{name}\n{'figure':20s}" + "".join(f"{kind:>32s}" for kind in PAIRS) + "  in order")
    for figure in (*RISING, "equivalent_batch", *OTHERS):
        found = [audits[kind].figures.get(figure) for kind in PAIRS]
        order = "" if figure in OTHERS else _order(found, falling=figure == "equivalent_batch")
        cells = ["" if one is None else figure_in_words(one) for one in found]
        print(f"{figure:20s}" + "".join(f"{cell:>32s}" for cell in cells) + f"  {order}")


def _order(found: list[Figure | None], *, falling: bool) -> str:
    known = [one for one in found if one is not None]
    wrong = [
        kind
        for kind, (one, following) in zip(PAIRS, itertools.pairwise(known), strict=False)
        if (one.high < following.low if falling else one.low > following.high + ROUNDING)
    ]
    return "yes" if not wrong else f"no, {', '.join(wrong)} above the next"


def rate(t: Tensor) -> Tensor:
    """Of independent pairs of N(0, I) and N(0, diag(WIDE^2)): v = rate x, which carries x0 to WIDE x0."""
    return (t * WIDE**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * WIDE**2)


def factors(grid: list[float]) -> Tensor:
    """Of the noise after Euler steps at these times, (3,)."""
    moves = [1 + (b - a) * rate(torch.tensor(a).double()) for a, b in itertools.pairwise(grid)]
    return torch.stack(moves).prod(0)


def truths(steps: int) -> dict[str, float]:
    """Of that field against the exact flow x0 -> RIGHT x0."""
    grid, inner = torch.arange(steps).double()[:, None] / steps, torch.arange(1, 8).double()[:, None] / 8
    middle = (torch.arange(8).double()[:, None] + 0.5) / 8

    def deviation(t: Tensor) -> Tensor:
        return ((1 - t) ** 2 + t**2 * WIDE**2).sqrt()

    recovered = deviation(grid) * (1 + (1 - grid) * rate(grid))
    least, size = (RIGHT - 1).square().sum(), WIDE.square().sum()
    velocity = rate(middle) * (1 - middle + middle * RIGHT) - (RIGHT - 1)
    miss = deviation(inner) * (1 + (1 - inner) * rate(inner) - RIGHT / (1 - inner + inner * RIGHT))
    normal = torch.randn(1 << 20, 3, generator=torch.Generator().manual_seed(0)).double()

    def mean_distance(deviations: Tensor) -> Tensor:
        return (normal * deviations).square().sum(1).sqrt().mean()

    across = (WIDE**2 + RIGHT**2).sqrt()
    energy = 2 * mean_distance(across) - math.sqrt(2) * (mean_distance(WIDE) + mean_distance(RIGHT))
    bits = (0.5 * math.log(2 * math.pi) + WIDE.log() + 0.5 * RIGHT**2 / WIDE**2) / math.log(2)
    found = {
        "recovered_drift": ((recovered - WIDE).square().mean(0).sum() / size).sqrt(),
        "cost_excess": (WIDE - 1).square().sum() / least - 1,
        "velocity_error": (velocity.square().mean(0).sum() / least).sqrt(),
        "pair_excess": (2 * inner[:, 0] / (1 - inner[:, 0]) * miss.square().sum(1)).max() / least,
        "energy_distance": energy / (math.sqrt(2) * RIGHT.norm()),
        "variance_ratio": size / RIGHT.square().sum(),
        "variance_ratio_1": WIDE[0] ** 2 / RIGHT[0] ** 2,
        "variance_ratio_2": WIDE[2] ** 2 / RIGHT[2] ** 2,
        "variance_ratio_3": WIDE[1] ** 2 / RIGHT[1] ** 2,
        "one_step_error": 1.0,
        "four_step_error": ((factors([0, 0.25, 0.5, 0.75, 1]) - WIDE).square().sum() / size).sqrt(),
        "density_bits": bits.mean(),
    }
    return {name: float(value) for name, value in found.items()}


def draws(deviations: Tensor, count: int, seed: int) -> Tensor:
    """Of a normal law."""
    return deviations * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)).double()


def print_coverage(repetitions: int, steps: int) -> None:
    """How many intervals hold the truth; of 200, 190 are expected, and 180 or fewer by chance for one figure in 400."""
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(3).double(), torch.diag(RIGHT**2)))
    truth, rows = truths(steps), draws(RIGHT, 400, 10_000)
    # of the distances to these rows, which stay the same
    nearest = [torch.cdist(draws(law, 100_000, 9_999), rows).amin(1).median() for law in (WIDE, RIGHT)]
    truth |= {"label_leakage": 0.0, "nearest_row_ratio": float(nearest[0] / nearest[1]), "equivalent_batch": 1.0}
    line = pf.ProximalFlow(pf.semidiscrete.fit(draws(RIGHT, 32, 0)[:, :1], progress=False).potential)
    held: dict[str, list[bool]] = {}
    for seed in range(repetitions):
        data, new = draws(RIGHT, 256, seed), draws(RIGHT, 200, 20_000 + seed)
        found = pf.analysis.audit(lambda t, x: rate(t) * x, data=data, likelihood=True, count=NOISE, steps=steps,
                                  compare_independent=False, progress=False, seed=seed)  # fmt: skip
        figures: dict[str, Any] = dict(found.figures)
        noise = draws(torch.ones(3).double(), NOISE, 30_000 + seed)
        figures |= {f"{name} ": one for name, one in figures.items() if name.startswith("variance")}
        figures |= against_the_flow(noise, data, flow, steps)
        figures["nearest_row_ratio"] = copies(noise * WIDE, rows, new, seed)
        figures["label_leakage"] = leakage(seed)
        figures["equivalent_batch"] = of_independent_pairs(line, seed)
        best, equal = (factors(grid) - WIDE for grid in (list(found.step_grid), [0, 0.25, 0.5, 0.75, 1]))
        values = truth | {"four_step_best_error": float(best.norm() / WIDE.norm())}
        values |= {"four_step_gain": float(best.norm() / equal.norm())}
        values |= {f"{name} ": value for name, value in truth.items() if name.startswith("variance")}
        values |= ratios_along(principal_axes(data - data.mean(0), 3))
        for name, value in values.items():
            held.setdefault(name, []).append(figures[name].low <= value <= figures[name].high)
    print(f"\n{'figure':26s}{'true value':>12s}{'held it':>9s}")
    for name, hits in held.items():
        told = BY_THE_RUN.get(name) or f"{truth[name.strip()]:.3f}"
        label = f"{name.strip()}, of rows" if name.endswith(" ") else name
        print(f"{label:26s}{told:>12s}{sum(hits):>5d} of {len(hits)}")


def ratios_along(axes: Tensor) -> dict[str, float]:
    """Of the variances along unit vectors, the columns of (3, k)."""
    values = (axes * WIDE[:, None]).square().sum(0) / (axes * RIGHT[:, None]).square().sum(0)
    return {f"variance_ratio_{k + 1}": value for k, value in enumerate(values.tolist())}


def against_the_flow(noise: Tensor, data: Tensor, flow: pf.ProximalFlow, steps: int) -> dict[str, Any]:
    """What an audit measures with the exact flow as its reference."""
    pairs, exact = generated_pairs(lambda t, x: rate(t) * x, noise, (3,), LINEAR, steps), noise * RIGHT
    errors = velocity_errors(lambda t, x: rate(t) * x, noise, exact, (3,), LINEAR)
    bound = pair_bound(misses_on_the_way(pairs, flow, LINEAR), pairs, exact, LINEAR)
    figures = optimality_figures(pairs, exact, errors) | paired_variances(pairs.target, exact, data)
    return figures | {"pair_excess": bound.excess}


def of_independent_pairs(flow: pf.ProximalFlow, seed: int) -> Any:
    """The equivalent batch of their field, of rows on the line."""
    independent = independent_rule(flow, LINEAR, seed)
    noise = torch.randn(256, 1, generator=torch.Generator().manual_seed(seed)).double()
    misses = misses_on_the_way(generated_pairs(independent, noise, (1,), LINEAR, 16), flow, LINEAR)
    return equivalent_batch(misses, independent, batch_curve(flow, independent, misses.times, seed))


def leakage(seed: int) -> Any:
    """Of two classes that are shifted, each by the exact flow of its own."""
    labels = torch.randint(2, (200,), generator=torch.Generator().manual_seed(seed))
    shifted = draws(torch.ones(3).double(), 200, seed) + 2.0 * (2 * labels[:, None] - 1)

    def field(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        return 2.0 * (2 * label[:, None] - 1) + 0 * x

    return condition_leakage(field, shifted, labels, LINEAR, seed)


def main() -> None:
    """Print the tables of the ranking, or that of the coverage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coverage", action="store_true", help="of intervals, instead of the ranking")
    parser.add_argument("--steps", type=int, default=3000, help="of training")
    parser.add_argument("--only", choices=["digits", "8gaussians"], help="this ranking alone")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    print(f"proxflow {pf.__version__}, torch {torch.__version__}, threads {torch.get_num_threads()}")
    if options.coverage:
        print_coverage(*(2, 8) if options.quick else (200, 32))
        return
    sources: dict[str, Callable[[], Any]] = {"digits": lambda: None, "8gaussians": Moons}
    for name, source in sources.items():
        if options.only in (None, name):
            sizes: dict[str, Any] = {"count": 64, "steps": 8} if options.quick else {}
            print_ranking(name, ranked(name, source(), *(20, 16) if options.quick else (options.steps, 256), **sizes))


if __name__ == "__main__":
    main()
