"""Fashion-MNIST in few steps: the same network trained on independent, minibatch, population and subspace pairs.

60,000 images to train on and the 10,000 test images held out (Debian's dataset-fashion-mnist). Of the samples at 1 to
100 Euler steps, against the held-out images:

  Frechet      squared Frechet distance of normal laws fitted to 64 features of a small classifier, which is trained
               here first; its features are those of this data set, and the figure is no FID
  energy       energy distance in the space of the images, unbiased
  variance     total variance over that of the held-out images: 1 is right
  nearest row  median distance to the nearest training image, over that of a held-out image: 0 is a copy
  precision    share of samples among the held-out images, within their distance to their third neighbour, in the
               features (Kynkaanniemi et al. 2019)
  recall       share of held-out images among the samples, likewise

The last two rows are noise, and training images. A row takes about an hour on two cores; --device cuda runs the same
with a network of four times the width.

python benchmarks/fashion_few_steps.py
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torchcfm.optimal_transport import OTPlanSampler

import proxflow as pf
from digits_few_steps import TorchCFM
from proxflow.data.fashion_mnist import INSTALLED, read_idx

STEPS = (1, 2, 4, 8, 100)
BATCH = 256
NEIGHBOURS = 3
MEASURES = ("Frechet", "energy", "variance", "nearest row", "precision", "recall")


class Classifier(nn.Module):
    """Two convolutions and a layer of 64 features, of square images whose sides are a multiple of 4."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Unflatten(1, (1, side, side)),
            nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * (side // 4) ** 2, 64),
        )  # fmt: skip
        self.classes = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, 10) of flat images."""
        logits: Tensor = self.classes(torch.relu(self.features(images)))
        return logits


def trained_classifier(images: Tensor, labels: Tensor, epochs: int) -> Classifier:
    """A classifier after some epochs of Adam."""
    torch.manual_seed(0)
    network = Classifier(math.isqrt(images.shape[1])).to(images.device)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch)).to(images.device)
        for rows in order.split(BATCH):
            loss = nn.functional.cross_entropy(network(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval()


def frechet(a: Tensor, b: Tensor) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of features (n, k) and (m, k)."""
    x, y = a.double().cpu().numpy(), b.double().cpu().numpy()
    c, d = np.cov(x.T), np.cov(y.T)
    root = np.real(sqrtm(c @ d))
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.trace(c + d - 2 * root))


def covered(points: Tensor, by: Tensor) -> float:
    """Share of points (n, k) that lie within some point of ``by`` (m, k)'s distance to its third neighbour."""
    radius = torch.cdist(by, by).kthvalue(NEIGHBOURS + 1, dim=1).values
    return float((torch.cdist(points, by) <= radius).any(1).float().mean())


class Judge:
    """What samples are measured with."""

    def __init__(self, train: Tensor, held_out: Tensor, classifier: Classifier, compared: int) -> None:
        self.train, self.held_out, self.classifier, self.compared = train, held_out, classifier, compared
        self.features = self._features(held_out)

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        return torch.cat([self.classifier.features(rows) for rows in images.split(1000)])

    def measured(self, samples: Tensor) -> tuple[float, ...]:
        """The six measures."""
        features, few = self._features(samples), slice(self.compared)
        return (
            frechet(features, self.features),
            pf.metrics.energy_distance(samples[few], self.held_out[few], unbiased=True),
            pf.metrics.spread(samples, self.held_out).total,
            pf.metrics.nearest_row_ratio(samples[few], self.train, self.held_out[few]),
            covered(features[few], self.features[few]),
            covered(self.features[few], features[few]),
        )


def population(rows: Tensor, options: argparse.Namespace) -> pf.couplings.Semidiscrete:
    """Optimal pairs in all directions, with a line that says how good the fit is."""
    fit = pf.semidiscrete.fit(rows, tol=options.tol, progress=options.progress, checkpoint=options.checkpoint)
    print(f"  fit: chi2 {fit.chi2:.3f}, {fit.samples_used:,} draws, {fit.seconds:.0f} s", flush=True)
    return pf.couplings.Semidiscrete(fit.potential, rows)


def in_subspace(dim: int, rows: Tensor, options: argparse.Namespace) -> pf.couplings.Subspace:
    """Optimal pairs in the first ``dim`` principal directions."""
    return pf.couplings.Subspace.fit(rows, dim=dim, tol=options.tol)


COUPLINGS: dict[str, Callable[[Tensor, argparse.Namespace], pf.couplings.Coupling]] = {
    "independent": lambda rows, _: pf.couplings.Independent(rows),
    "OT-CFM, torchcfm": lambda rows, _: TorchCFM(rows, OTPlanSampler("exact")),
    "population": population,
    "subspace": lambda rows, options: pf.couplings.Subspace.fit(rows, tol=options.tol),
    **{f"subspace of {k}": partial(in_subspace, k) for k in (4, 8, 16, 40)},
}
ROWS = tuple(COUPLINGS)[:4]


def images(name: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images in [0, 1], (N, 784), and labels, of "train" or "t10k"."""
    pixels, labels = (read_idx(INSTALLED / f"{name}-{part}-ubyte.gz") for part in ("images-idx3", "labels-idx1"))
    flat = torch.from_numpy(pixels.astype(np.float32) / 255).reshape(len(pixels), -1)
    return flat.to(device), torch.from_numpy(labels.astype(np.int64)).to(device)


def sampled(coupling: pf.couplings.Coupling, options: argparse.Namespace, device: torch.device) -> list[Tensor]:
    """Samples of a network trained on a coupling, at each number of steps."""
    torch.manual_seed(0)
    network = pf.matching.AffineResidual.fit(pf.matching.ResidualMLP((784,), width=options.width), coupling)
    trained = pf.matching.train(network, coupling, steps=options.train_steps, batch_size=BATCH, progress=False).network
    noise = torch.randn(options.generated, 784, generator=torch.Generator().manual_seed(1000)).to(device)
    with torch.no_grad():
        return [pf.sampling.integrate(trained, noise, steps=k, method="euler").end for k in STEPS]


def show(name: str, measured: list[tuple[float, ...]]) -> None:
    """The lines of a row."""
    for number, measure in enumerate(MEASURES):
        cells = "".join(f"{values[number]:10.4f}" for values in measured)
        print(f"{name if number == 0 else '':24s}{cells}  {measure}", flush=True)


def main() -> None:
    """Print the measures for each row and number of steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-steps", type=int, default=6000)
    parser.add_argument("--width", type=int, default=None, help="of the network; 512, or 2048 on a GPU")
    parser.add_argument("--points", type=int, default=60_000, help="images to train on")
    parser.add_argument("--generated", type=int, default=10_000)
    parser.add_argument("--compared", type=int, default=2000, help="samples of the measures that take all distances")
    parser.add_argument("--tol", type=float, default=0.1, help="chi2 of the fits")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(COUPLINGS))
    parser.add_argument("--progress", action="store_true", help="of the fit in all directions")
    parser.add_argument("--checkpoint", help="file of the fit in all directions, which goes on from it")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    if not (INSTALLED / "train-images-idx3-ubyte.gz").is_file():
        print(f"{INSTALLED} holds no images; install Debian's package dataset-fashion-mnist")
        return
    device, epochs = torch.device(options.device), 3
    if options.quick:
        options.train_steps, options.points, options.generated, options.compared, epochs = 2, 100, 60, 60, 1
        options.width = 16
    options.width = options.width or (2048 if device.type == "cuda" else 512)
    (rows, labels), (held_out, held_out_labels) = images("train", device), images("t10k", device)
    rows, labels = rows[: options.points], labels[: options.points]
    mean, scale = rows.mean(0), (rows - rows.mean(0)).square().mean().sqrt()  # as data.load standardises images
    rows, held_out = (rows - mean) / scale, (held_out - mean) / scale
    classifier = trained_classifier(rows, labels, epochs)
    with torch.no_grad():
        right = (classifier(held_out).argmax(1) == held_out_labels).float().mean()
    judge = Judge(rows, held_out, classifier, options.compared)
    print(f"{len(rows):,} images, {options.train_steps} steps, width {options.width}; classifier right on {right:.1%}")
    print(f"{'Euler steps':24s}" + "".join(f"{k:>10d}" for k in STEPS))
    for name in options.rows:
        began = time.perf_counter()
        coupling = COUPLINGS[name](rows, options)
        coupled = time.perf_counter()
        ends = sampled(coupling, options, device)
        trained = time.perf_counter()
        show(name, [judge.measured(end) for end in ends])
        directions = getattr(coupling, "directions", None)
        remark = "" if directions is None else f", {directions.shape[1]} directions"
        print(
            f"  coupling {coupled - began:.0f} s, training and sampling {trained - coupled:.0f} s{remark}", flush=True
        )
    noise = torch.randn(options.generated, 784, generator=torch.Generator().manual_seed(1000)).to(device)
    show("noise itself", [judge.measured(noise)])
    show("training images", [judge.measured(rows[: options.generated])])


if __name__ == "__main__":
    main()
