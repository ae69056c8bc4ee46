"""How fast minibatch OT approaches the population flow: published curves, the two routes to the excess, real data.

python benchmarks/minibatch_rates.py [--quick] [--figure runs/minibatch_rates.png] [--only published routes images]
"""

from __future__ import annotations

import argparse
import io
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import proxflow as pf
from proxflow.analysis.convergence.rate import Rate, fit_rate
from proxflow.analysis.convergence.record import MinibatchConvergence
from proxflow.analysis.convergence.study import minibatch_convergence

STUDIES = ("published", "routes", "images")
POWERS = [2**k for k in range(11)]
PUBLISHED_SIZES = [2**k for k in range(2, 12)]
PUBLISHED_ATOMS = (5, 10, 50)
PUBLISHED_DIMENSIONS = (10, 1000)
ACCURACY = 0.02  # standard errors over the excess


@dataclass(frozen=True)
class Curve:
    """A line of the figure: values over batch sizes, with one standard error."""

    name: str
    panel: str
    sizes: Tensor
    values: Tensor
    stderr: Tensor


def atoms_in_a_box(count: int, dim: int) -> Tensor:
    """Uniform points of [-1, 1]^dim, float64."""
    return 2 * torch.rand(count, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1


def published(
    sizes: list[int], atoms: tuple[int, ...], dimensions: tuple[int, ...], pairs: int, accuracy: float
) -> list[Curve]:
    """N(0, I) to few atoms (Boite et al. 2026): bias of the cost ~ n^-1, error of the map E|x1 - T(x0)|^2 ~ n^-1/2.

    Batches are of independent draws of the atoms, as published.
    """
    print("N(0, I_d) to uniform atoms of [-1, 1]^d; exponents from the five largest sizes, 95% intervals")
    print(f"  {'d':>5s}{'atoms':>7s}  {'bias C_n - W2^2':24s}{'map E|x1 - T(x0)|^2':24s}{'seconds':>8s}")
    curves = []
    for dim in dimensions:
        for count in atoms:
            began = time.perf_counter()
            result = minibatch_convergence(
                atoms_in_a_box(count, dim),
                sizes,
                replacement=True,
                relative_error=accuracy,
                fit_tol=1e-3,
                kept_pairs=pairs,
                max_memory=2**31,
            )
            map_error = result.measure(0.0)
            of_map = fit_rate(result.batch_sizes, map_error.value, map_error.stderr)
            seconds = time.perf_counter() - began
            print(f"  {dim:5d}{count:7d}  {exponent(result.rate):24s}{exponent(of_map):24s}{seconds:8.1f}", flush=True)
            name = f"{count} atoms, d = {dim}"
            curves.append(Curve(name, "bias of the cost", result.batch_sizes, 2 * result.gap, 2 * result.gap_stderr))
            curves.append(Curve(name, "error of the map", result.batch_sizes, map_error.value, map_error.stderr))
    return curves


def routes(sizes: list[int], count: int | None, accuracy: float) -> list[Curve]:
    """(C_n - W2^2) / 2 beside the mean Fenchel-Young gap, W2^2 by a closed form, exact cells, or primal costs.

    Both are of the same pairs: "apart" is their difference over the standard error of the pairs' own differences.
    """
    factor = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cases: dict[str, Tensor | pf.potentials.Potential] = {
        "normal, d = 4": pf.potentials.Quadratic(torch.ones(4, dtype=torch.float64), factor @ factor.T),
        "two moons": pf.data.load("moons", n=count).points,
    }
    if count is None:
        cases["digits"] = pf.data.load("digits").points
    return [curve_of(name, case, sizes, accuracy) for name, case in cases.items()]


def images(sizes: list[int], accuracy: float) -> list[Curve]:
    """Fashion-MNIST, 10,000 images, where its files are installed."""
    try:
        points = pf.data.load("fashion-mnist", n=10_000).points
    except ValueError as error:
        print(f"Fashion-MNIST is left out: {error}")
        return []
    return [curve_of("Fashion-MNIST", points, sizes, accuracy)]


def curve_of(name: str, case: Tensor | pf.potentials.Potential, sizes: list[int], accuracy: float) -> Curve:
    """Run and print one study."""
    began = time.perf_counter()
    result = minibatch_convergence(case, sizes, relative_error=accuracy)
    seconds = time.perf_counter() - began
    low, high = result.transport_cost_interval
    fitted = "" if result.fit_seconds is None else f", the fit {result.fit_seconds:.1f} s of it"
    print(f"{name}: {seconds:.1f} s{fitted}")
    print(f"  W2^2 {result.transport_cost:.5g} [{low:.5g}, {high:.5g}], J(h) - J* {result.height_error:.2g}")
    print(
        f"  {'n':>6s}{'batches':>9s}{'C_n':>10s}{'(C_n - W2^2)/2':>22s}{'mean gap':>22s}{'apart':>7s}{'ms/batch':>10s}"
    )
    for k, size in enumerate(result.batch_sizes.tolist()):
        print(f"  {size:6d}{int(result.batches[k]):9d}{float(result.cost[k]):10.4g}{routes_of(result, k)}", flush=True)
    print(f"  excess ~ n^-a: a = {exponent(result.rate)} over n = {result.rate.sizes}")
    for t in (0.25, 0.5, 0.9):
        found = result.measure(t)
        ratio = (found.value / result.bound(t)).tolist()
        over = ((found.value - result.bound(t)) / found.stderr).max()
        print(
            f"  t = {t:4.2f}: measured error / bound {min(ratio):.3f} to {max(ratio):.3f} "
            f"(at most {float(over):.1f} standard errors above it)"
        )
    print(f"  {result.advice}")
    return Curve(name, "excess over W2^2", result.batch_sizes, 2 * result.gap, 2 * result.gap_stderr)


def routes_of(result: MinibatchConvergence, k: int) -> str:
    """Both routes of one batch size, and how many standard errors apart they are."""
    half, half_error = 0.5 * float(result.excess[k]), 0.5 * float(result.excess_stderr[k])
    gap, gap_error = float(result.gap[k]), float(result.gap_stderr[k])
    apart = float(result.disagreement[k] / result.disagreement_stderr[k])
    return (
        f"{half:12.4g} +- {half_error:7.2g}{gap:12.4g} +- {gap_error:7.2g}{apart:7.1f}"
        f"{1e3 * float(result.seconds_per_batch[k]):10.2f}"
    )


def exponent(rate: Rate) -> str:
    """The exponent with its interval."""
    if rate.exponent is None or rate.interval is None:
        return "none: too short a range" if rate.value is None else "none"
    return f"{rate.exponent:.3f} [{rate.interval[0]:.3f}, {rate.interval[1]:.3f}]"


def draw(curves: list[Curve], target: Path | io.BytesIO) -> None:
    """One panel for each kind of curve, on logarithmic scales."""
    panels = list(dict.fromkeys(curve.panel for curve in curves))
    slopes = {"bias of the cost": 1.0, "error of the map": 0.5}
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained", dpi=130)
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for curve in (curve for curve in curves if curve.panel == panel):
            axes.errorbar(curve.sizes, curve.values, 2 * curve.stderr, marker="o", markersize=3, label=curve.name)
        if panel in slopes:
            first = next(curve for curve in curves if curve.panel == panel)
            guide = first.values[0] * (first.sizes / first.sizes[0]).double() ** -slopes[panel]
            axes.plot(first.sizes, guide, color="0.6", linestyle="--", label=f"slope -{slopes[panel]:g}")
        axes.set(xscale="log", yscale="log", xlabel="batch size n", ylabel=panel, title=panel)
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncol=2)
    figure.savefig(target, format="png")


def main(arguments: list[str] | None = None) -> None:
    """Run the studies asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--figure", type=Path, help="where to write the picture; runs/minibatch_rates.png by default")
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=STUDIES, help="some of the studies")
    options = parser.parse_args(arguments)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if options.quick:
        curves = published([4, 8, 16, 32], (5,), (3,), 256, 0.2) + routes([1, 2, 4, 8], 100, 0.2)
        draw(curves, options.figure or io.BytesIO())
        return
    curves = []
    if "published" in options.only:
        curves += published(PUBLISHED_SIZES, PUBLISHED_ATOMS, PUBLISHED_DIMENSIONS, 1 << 13, ACCURACY)
    if "routes" in options.only:
        curves += routes(POWERS, None, ACCURACY)
    if "images" in options.only:
        curves += images(POWERS, ACCURACY)
    path = options.figure or Path("runs") / "minibatch_rates.png"
    if curves:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(curves, path)
        print(f"figure: {path}")


if __name__ == "__main__":
    main()
