"""Draw docs/images/audit-*.png: for each figure of an audit a good case above a bad one, with the value measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import Tensor

import proxflow as pf
from proxflow.analysis.auditing.equivalent_batch import batch_curve
from proxflow.report.audit_page import figure_in_words

FOLDER = Path(__file__).parent / "images"
DATA, GOOD, BAD = "0.7", "tab:blue", "tab:red"
Field = Callable[[Tensor, Tensor], Tensor]
Panel = Callable[[mpl.axes.Axes, bool], str]  # draws the good or the bad case, and says its value

CENTRES = 2.5 * torch.tensor([[0.0, 1.0], [-0.87, -0.5], [0.87, -0.5]], dtype=torch.float64)


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ROWS = CENTRES.repeat(40, 1) + 0.35 * normal(120, 2, seed=0)
NEW = CENTRES.repeat(40, 1) + 0.35 * normal(120, 2, seed=1)
FLOW = pf.ProximalFlow(pf.semidiscrete.fit(ROWS).potential)
INDEPENDENT = pf.IndependentField(ROWS)


def turning(t: Tensor, x: Tensor) -> Tensor:
    """The exact velocity with a rotation added."""
    return FLOW.velocity(t, x) + 3 * torch.stack([-x[:, 1], x[:, 0]], 1)


def value(name: str, field: Field | pf.ProximalFlow, **options: object) -> str:
    """A figure as ``audit`` measures it."""
    found = pf.analysis.audit(field, count=512, steps=16, compare_independent=False, progress=False, **options)  # type: ignore[arg-type]
    return f"{found.figures[name].value:.2g}"


def path(field: Field | pf.ProximalFlow, count: int, steps: int = 60) -> tuple[Tensor, Tensor]:
    """Times, and points (steps + 1, n, 2) of trajectories from some noise."""
    found = pf.sampling.integrate(field, normal(count, 2, seed=3), steps)
    return found.times.double(), found.points


def square(axes: mpl.axes.Axes, half: float = 4.2) -> None:
    """The plane around the data."""
    axes.set(xlim=(-half, half), ylim=(-half, half), xticks=[], yticks=[], aspect="equal")


# ------------------------------------------------------------------ is it a prox?


def asymmetry(axes: mpl.axes.Axes, good: bool) -> str:
    """Velocities half way."""
    field: Field = FLOW.velocity if good else turning
    line = torch.linspace(-2.5, 2.5, 13, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    v = field(torch.tensor(0.5, dtype=torch.float64), x)
    axes.quiver(*x.T, *v.T, color=GOOD if good else BAD, width=0.006)
    square(axes, 3)
    return value("jacobian_asymmetry", field, data=ROWS)


def largest_eigenvalue(axes: mpl.axes.Axes, good: bool) -> str:
    """Eigenvalues of beta D recover_target on trajectories; 1 is the bound."""
    field = FLOW.velocity if good else INDEPENDENT
    times, points = path(FLOW if good else INDEPENDENT, 60)
    largest = []
    for k in range(15, 60, 5):
        t = times[k]
        jacobian = torch.func.vmap(torch.func.jacrev(lambda row, t=t: field(t, row[None])[0]))(points[k])
        both = t * ((1 - t) * jacobian + torch.eye(2, dtype=torch.float64))
        largest.append(torch.linalg.eigvalsh(0.5 * (both + both.mT))[:, -1])
    values = torch.cat(largest)
    axes.hist(values.numpy(), bins=40, range=(-0.1, 2.5), color=GOOD if good else BAD)
    axes.axvline(1, color="black", lw=1, ls="--")
    axes.set(yticks=[])
    return value("largest_eigenvalue", FLOW if good else INDEPENDENT, data=ROWS)


def drift(axes: mpl.axes.Axes, good: bool) -> str:
    """Where the recovered data point moves along a trajectory."""
    field = FLOW.velocity if good else INDEPENDENT
    times, points = path(FLOW if good else INDEPENDENT, 40)
    moved = torch.stack([x + (1 - t) * field(t, x) for t, x in zip(times[:-1], points[:-1], strict=True)]).transpose(
        0, 1
    )
    axes.scatter(*ROWS.T, s=6, color=DATA)
    for line in moved:
        axes.plot(*line.T, color=GOOD if good else BAD, lw=0.8, marker="." if good else None)
    square(axes)
    return value("recovered_drift", FLOW if good else INDEPENDENT, data=ROWS)


def exchanges(axes: mpl.axes.Axes, good: bool) -> str:
    """Noise and what is made of it."""
    field = FLOW if good else turning
    _, points = path(field, 70)
    for start, stop in zip(points[0], points[-1], strict=True):
        axes.plot(*torch.stack([start, stop]).T, color=GOOD if good else BAD, lw=0.8)
    axes.scatter(*points[-1].T, s=8, color="black", zorder=3)
    square(axes)
    return value("repairing_gain", field, data=ROWS)


# ------------------------------------------------------------------ how far from optimal, does it make the data?


def pair_excess(axes: mpl.axes.Axes, good: bool) -> str:
    """The error of the velocity over t, and the bound of pairs that allow it."""
    field = INDEPENDENT if not good else (lambda t, x: FLOW.velocity(t, x) * 1.02)
    found = pf.analysis.audit(field, FLOW, data=ROWS, count=512, steps=16, compare_independent=False, progress=False)
    axes.plot(found.times, found.velocity_error, color=GOOD if good else BAD)
    axes.plot(found.times, found.velocity_bound, color="black", ls="--", lw=1)
    axes.set(ylim=(0, 2.5), xlabel="t")
    return f"{found.figures['pair_excess'].value:.2g}"


def samples(name: str, made: Tensor, axes: mpl.axes.Axes, good: bool, **options: Tensor) -> str:
    """Samples over the data; the field that makes them goes straight to one of them."""
    flow = pf.ProximalFlow(pf.semidiscrete.fit(made).potential)
    axes.scatter(*ROWS.T, s=14, color=DATA)
    axes.scatter(*flow.transport(normal(90, 2, seed=5)).T, s=8, color=GOOD if good else BAD)
    square(axes)
    return value(name, flow, **{"data": ROWS} | options)


def variance(axes: mpl.axes.Axes, good: bool) -> str:
    """All spread too widely."""
    return samples("variance_ratio", NEW if good else 1.25 * NEW, axes, good)


def groups(axes: mpl.axes.Axes, good: bool) -> str:
    """A class is missing."""
    labels = torch.arange(len(ROWS)) % 3
    return samples("group_least", NEW if good else NEW[torch.arange(len(NEW)) % 3 > 0], axes, good, labels=labels)


def precision(axes: mpl.axes.Axes, good: bool) -> str:
    """Samples between the classes."""
    return samples("precision", NEW if good else NEW + 0.8 * normal(len(NEW), 2, seed=6), axes, good)


def recall(axes: mpl.axes.Axes, good: bool) -> str:
    """Only the middle of each class."""
    middle = CENTRES.repeat(40, 1)
    return samples("recall", NEW if good else middle + 0.2 * (NEW - middle), axes, good)


def copies(axes: mpl.axes.Axes, good: bool) -> str:
    """Training rows again."""
    held_out = CENTRES.repeat(40, 1) + 0.35 * normal(120, 2, seed=9)
    return samples("nearest_row_ratio", NEW if good else ROWS, axes, good, held_out=held_out)


def equivalent_batch(axes: mpl.axes.Axes, good: bool) -> str:
    """Errors of perfect networks by the size of their minibatches, and the sizes that the field's error speaks for."""
    field: Field = FLOW.velocity if good else partly_independent
    found = pf.analysis.audit(field, FLOW, data=ROWS, count=512, steps=16, compare_independent=False, progress=False)
    batch = found.figures["equivalent_batch"]
    curve = batch_curve(FLOW, INDEPENDENT, torch.arange(1, 8, dtype=torch.float64) / 8, 0)
    axes.axvspan(batch.low, min(batch.high, 128), color=GOOD if good else BAD, alpha=0.3, lw=0)
    axes.errorbar(curve.sizes, curve.value, 2 * curve.stderr, color="black", lw=1, marker=".", capsize=2)
    axes.set(xlim=(0.8, 128), xlabel="size of minibatches", ylim=(0, 1.7))
    axes.set_xscale("log")
    axes.set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
    axes.minorticks_off()
    return figure_in_words(batch)


def partly_independent(t: Tensor, x: Tensor) -> Tensor:
    """Between the exact velocity and that of independent pairs."""
    return 0.7 * FLOW.velocity(t, x) + 0.3 * INDEPENDENT(t, x)


def leakage(axes: mpl.axes.Axes, good: bool) -> str:
    """The noise that rows of three classes came from, each followed back with its own class."""
    rows = CENTRES.repeat(300, 1) + 0.35 * normal(900, 2, seed=8)
    labels = torch.arange(len(rows)) % 3
    middle, width = (0.0 * CENTRES, 1.0) if good else (0.4 * CENTRES, 0.6)
    rate = 0.35 / width  # of the linear map from the noise of a class to its rows

    def field(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        shift = CENTRES[label] - rate * middle[label]
        return shift + (rate - 1) * (x - t * shift) / (1 - t + t * rate)

    shown = labels[:150]
    noise = pf.sampling.encode(lambda t, x: field(t, x, shown), rows[:150]).end
    for label, (shade, mark) in enumerate((("black", "o"), (GOOD if good else BAD, "o"), ("0.6", "s"))):
        axes.scatter(*noise[shown == label].T, s=8, color=shade, marker=mark)
    square(axes, 3)
    return value("label_leakage", FLOW, data=rows, labels=labels, conditional=field)


def likelihood(axes: mpl.axes.Axes, good: bool) -> str:
    """Where the model is dense, and new rows."""
    spread = torch.tensor([[1.6, 0.9], [0.9, 0.9]], dtype=torch.float64)
    new = normal(128, 2, seed=7) @ torch.linalg.cholesky(spread).mT
    model = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(2), spread if good else torch.eye(2)))
    line = torch.linspace(-4.2, 4.2, 80, dtype=torch.float64)
    density = model.log_prob(torch.cartesian_prod(line, line)).view(80, 80).mT
    axes.scatter(*new.T, s=6, color=DATA)
    axes.contour(line, line, density, levels=[-8, -6, -4, -2.5], colors=GOOD if good else BAD, linestyles="solid")
    square(axes)
    return value("density_bits", model, data=new, likelihood=True)


# ------------------------------------------------------------------ how does it arrive, what would help?


def few_steps(axes: mpl.axes.Axes, good: bool) -> str:
    """Error against the number of steps."""
    field = FLOW if good else INDEPENDENT
    found = pf.analysis.audit(field, data=ROWS, count=512, steps=32, compare_independent=False, progress=False)
    axes.plot(found.steps, found.step_error, color=GOOD if good else BAD, marker="o")
    axes.set(ylim=(-0.05, 1), xlabel="steps", xscale="log", xticks=found.steps, xticklabels=found.steps)
    axes.minorticks_off()
    return f"{found.figures['four_step_error'].value:.2g}"


def step_grid(axes: mpl.axes.Axes, good: bool) -> str:
    """How fast the velocity changes along trajectories, and the best times of four steps."""
    field: Field = INDEPENDENT if good else late
    found = pf.analysis.audit(field, data=ROWS, count=512, steps=32, compare_independent=False, progress=False)
    times, points = path(field, 256, 64)
    velocities = torch.stack([field(t, x) for t, x in zip(times[:-1], points[:-1], strict=True)])
    change = velocities.diff(dim=0).square().sum(2).mean(1).sqrt() / times[1:-1].diff().mean()
    axes.plot(times[1:-1], change, color="black", lw=1)
    for t in found.step_grid:
        axes.axvline(t, color=GOOD if good else BAD)
    axes.set(xlim=(-0.03, 1.03), ylim=(0, None), xlabel="t", xticks=[0, 0.5, 1])
    return f"{found.figures['four_step_gain'].value:.2g}"


def late(t: Tensor, x: Tensor) -> Tensor:
    """The exact velocity with one that comes in the last third."""
    return FLOW.velocity(t, x) + torch.sigmoid(30 * (t - 0.7)) * torch.tensor([2.0, 0.0], dtype=torch.float64)


GROUPS: dict[str, tuple[tuple[str, str, Panel], ...]] = {
    "prox": (
        ("jacobian_asymmetry", "a rotation added", asymmetry),
        ("largest_eigenvalue", "independent pairs", largest_eigenvalue),
        ("recovered_drift", "independent pairs", drift),
        ("repairing_gain", "a rotation added", exchanges),
    ),
    "data": (
        ("variance_ratio", "25% too wide", variance),
        ("group_least", "a class dropped", groups),
        ("precision", "noise on top", precision),
        ("recall", "too narrow", recall),
        ("nearest_row_ratio", "training rows", copies),
    ),
    "steps": (
        ("pair_excess", "independent pairs", pair_excess),
        ("equivalent_batch", "30% of independent pairs", equivalent_batch),
        ("four_step_error", "independent pairs", few_steps),
        ("four_step_gain", "bends in the last third", step_grid),
    ),
    "density": (
        ("label_leakage", "classes coupled together", leakage),
        ("density_bits", "another covariance", likelihood),
    ),
}


def main() -> None:
    """Write the pictures."""
    FOLDER.mkdir(exist_ok=True)
    for name, panels in GROUPS.items():
        figure = Figure(figsize=(2.4 * len(panels), 5.4), dpi=110, layout="constrained")
        grid = figure.subplots(2, len(panels))
        for column, (title, fault, draw) in enumerate(panels):
            for row, good in enumerate((True, False)):
                measured = draw(grid[row, column], good)
                words = "good" if good else fault
                grid[row, column].set_title(f"{title} {measured}\n{words}", fontsize=8.5)
        figure.savefig(FOLDER / f"audit-{name}.png")
        print(f"audit-{name}.png written")


if __name__ == "__main__":
    main()
