"""Draw docs/images/flow.png: the exact flow of a few points in the plane, and of the digits."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

import proxflow as pf

IMAGE = Path(__file__).parent / "images" / "flow.png"
TIMES = [0.0, 0.3, 0.5, 0.7, 0.85, 1.0]


def plane(axes: mpl.axes.Axes) -> None:
    """Cells of the noise plane, one colour per atom, and trajectories of the same colour."""
    data = 1.25 * pf.data.load("moons", n=24, seed=3, dtype=torch.float64).points
    flow = pf.ProximalFlow(pf.semidiscrete.fit(data, tol=1e-3).potential)
    atoms = flow.potential.points
    order = torch.empty(len(atoms), dtype=torch.int64)
    order[torch.atan2(atoms[:, 1], atoms[:, 0]).argsort()] = torch.arange(len(atoms))
    colours = mpl.colormaps["turbo"]((order.numpy() + 0.5) / len(atoms))

    line = torch.linspace(-3.2, 3.2, 700, dtype=torch.float64)
    pixels = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).reshape(-1, 2)
    cells = colours[flow.potential.nearest_atom(pixels)].reshape(700, 700, 4)
    axes.imshow(cells, extent=(-3.2, 3.2, -3.2, 3.2), origin="lower", alpha=0.28, interpolation="nearest")

    noise = torch.randn(260, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    atom, end = flow.potential.nearest_atom(noise), flow.transport(noise)
    for start, stop, j in zip(noise.tolist(), end.tolist(), atom.tolist(), strict=True):
        axes.plot(*zip(start, stop, strict=True), color=colours[j], lw=0.8)
    axes.scatter(*noise.T, s=5, color=colours[atom], zorder=3)
    axes.scatter(*atoms.T, s=34, color="white", edgecolor="black", lw=1.1, zorder=4)
    axes.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), xticks=[], yticks=[])
    axes.set_title("noise, cut into one cell per data point, goes straight to it", fontsize=10)


def digits(figure: mpl.figure.SubFigure) -> None:
    """Digits along exact trajectories, one a row."""
    data = pf.data.load("digits")
    flow = pf.ProximalFlow(pf.semidiscrete.fit(data.points).potential)
    noise = torch.randn(6, flow.dim, generator=torch.Generator().manual_seed(4))
    grid = figure.subplots(len(noise), len(TIMES), gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    for column, t in enumerate(TIMES):
        images = data.standardisation.undo(flow.interpolate(t, noise).reshape(-1, *data.event_shape))
        for row, image in enumerate(images):
            grid[row, column].imshow(image, cmap="gray_r")
            grid[row, column].set(xticks=[], yticks=[])
            grid[row, column].spines[:].set_visible(False)
        grid[0, column].set_title(f"t = {t:g}", fontsize=10)


def main() -> None:
    """Write the picture."""
    figure = Figure(figsize=(10.4, 5.3), dpi=110)
    left, right = figure.subfigures(1, 2)
    left.subplots_adjust(left=0.02, right=0.98, bottom=0.02, top=0.92)
    right.subplots_adjust(left=0.02, right=0.98, bottom=0.02, top=0.92)
    plane(left.subplots())
    digits(right)
    IMAGE.parent.mkdir(exist_ok=True)
    figure.savefig(IMAGE)
    print(f"{IMAGE.name} written")


if __name__ == "__main__":
    main()
