"""The paper's figure (arXiv 2602.12683): rates in rescaled time on the circle and on two moons, for three fields.

A perceptron trained on pairs assigned exactly in batches of 512, the same one trained on the population coupling, and
the exact flow smoothed by a stated epsilon. Rates are those of the symmetric part of the linearised field along its own
trajectories: mean and standard deviation over 100 initial points. On a curve the theorem gives -1 across it and 0 along
it in the limit. What is computed fades to 0 at last: networks have bounded derivatives, and smoothing gives the exact
flow of finitely many points a width. Moons, here without noise, end in tips, where the theorem does not apply: points
that end near one are reported apart. The last line times extreme eigenvalues of a network field in 784 dimensions.

python benchmarks/terminal_figures.py [--figure runs/terminal.png]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import make_moons
from torch import Tensor

import proxflow as pf

TIMES = (0.5, 0.7, 0.9, 0.97, 0.99, 0.999)
BATCH, EPSILON = 512, 0.002
NEAR = 0.3  # of a tip, in standardised units
Field = Callable[[Tensor, Tensor], Tensor]


def fields(points: Tensor, steps: int) -> dict[str, Field]:
    """The three fields of a data set."""
    sharp = pf.semidiscrete.fit(points, progress=False)
    smooth = pf.semidiscrete.fit(points.double(), epsilon=EPSILON, progress=False)
    couplings: dict[str, pf.couplings.Coupling] = {
        f"network, exact assignment of {BATCH}": pf.couplings.Minibatch(points, min(BATCH, len(points))),
        "network, semidiscrete": pf.couplings.Semidiscrete(sharp.potential, points),
    }
    found: dict[str, Field] = {}
    for name, coupling in couplings.items():
        torch.manual_seed(0)
        network = pf.matching.MLP((2,), width=128)
        trained = pf.matching.train(network, coupling, steps=steps, batch_size=min(BATCH, len(points)), progress=False)
        found[name] = trained.network.double()
    found[f"exact flow, epsilon = {EPSILON:g}"] = pf.ProximalFlow(smooth.potential)
    return found


def curve(name: str, n: int) -> tuple[Tensor, Tensor]:
    """Points of a curve, standardised, (n, 2), and its tips: moons without their usual noise have four."""
    data = pf.data.load(name, n=n)
    if name == "circle":
        return data.points, torch.zeros(0, 2)
    moons = torch.from_numpy(make_moons(n, noise=0.0, random_state=0)[0]).float()
    ends = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.5], [2.0, 0.5]])
    return data.standardisation.apply(moons), data.standardisation.apply(ends)


def report(name: str, field: Field, x0: Tensor, ends: Tensor) -> pf.analysis.TerminalSpectrum:
    """Print mean and deviation of both rates, of points that end near a tip and of the others."""
    spectrum = pf.analysis.terminal_spectrum(field, x0, TIMES)
    last = spectrum.points[-1]
    near = (torch.cdist(last, ends.to(last)) < NEAR).any(1) if len(ends) else torch.zeros(len(last), dtype=torch.bool)
    for label, rows in (("", ~near), (", near the tips", near)):
        if not bool(rows.any()):
            continue
        print(f"  {name}{label}: {int(rows.sum())} points")
        for rank, kind in ((0, "normal "), (1, "tangent")):
            part = spectrum.rates[:, rows, rank]
            cells = zip(part.mean(1).tolist(), part.std(1, correction=0).tolist(), strict=True)
            print(f"    {kind}" + "".join(f"{mean:9.3f} +- {spread:.3f}" for mean, spread in cells))
    print(f"    asymmetry at the last time: {float(spectrum.asymmetry[-1].mean()):.2g}", flush=True)
    return spectrum


def draw(panels: dict[tuple[str, str], pf.analysis.TerminalSpectrum], path: Path) -> None:
    """One panel for each data set and field."""
    figure = Figure(figsize=(11, 6), layout="constrained", dpi=130)
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    for panel, ((data, name), spectrum) in zip(axes.flat, panels.items(), strict=True):
        tau = -torch.log(1 - spectrum.times)
        for rank, colour in ((0, "#1f2933"), (1, "#c2410c")):
            mean, spread = spectrum.rates[:, :, rank].mean(1), spectrum.rates[:, :, rank].std(1, correction=0)
            panel.plot(tau, mean, color=colour, marker=".")
            panel.fill_between(tau, mean - spread, mean + spread, color=colour, alpha=0.2, lw=0)
        panel.set_title(f"{data}: {name}", fontsize=9)
        panel.axhline(-1, color="#94a3b8", ls=":")
        panel.axhline(0, color="#94a3b8", ls=":")
        panel.set_ylim(-1.6, 1)
    figure.supxlabel("rescaled time")
    figure.supylabel("rate")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"figure: {path}")


def extremes(dim: int, points: int, count: int) -> None:
    """Seconds and residuals of extreme eigenvalues of a network field."""
    torch.manual_seed(0)
    network = pf.matching.MLP((dim,), width=512, depth=3)
    x0 = torch.randn(points, dim, generator=torch.Generator().manual_seed(0))
    began = time.perf_counter()
    spectrum = pf.analysis.terminal_spectrum(network, x0, (0.1, 0.3, 0.5, 0.7, 0.9), count=count)
    seconds = time.perf_counter() - began
    worst = float((spectrum.residuals / spectrum.rates.abs().amax(2, keepdim=True)).max())
    print(f"{count} extreme eigenvalues, {points} points, 5 times, d = {dim}: {seconds:.1f} s, residual {worst:.1e}")


def main() -> None:
    """Print the tables, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-steps", type=int, default=3000)
    parser.add_argument("--figure", type=Path, default=Path("runs/terminal.png"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; no figure")
    options = parser.parse_args()
    size, initial = (60, 5) if options.quick else (2000, 100)
    panels = {}
    print("rates at t = " + ", ".join(f"{t:g}" for t in TIMES))
    for name in ("circle", "moons"):
        points, ends = curve(name, size)
        print(name)
        x0 = torch.randn(initial, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for title, field in fields(points, 2 if options.quick else options.train_steps).items():
            panels[name, title] = report(title, field, x0, ends)
    if not options.quick:
        draw(panels, options.figure)
    extremes(*((320, 2, 4) if options.quick else (784, 64, 20)))


if __name__ == "__main__":
    main()
