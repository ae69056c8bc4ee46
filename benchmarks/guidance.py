"""Classifier-free guidance on class-wise, class-blind and independent pairs.

One network, told the class, which is left out for a tenth of the pairs, is trained on each kind of pairs and sampled
with guidance weights from 1 to 4. On class-blind optimal pairs the noise tells the class, which a network that is told
the class misses in sampling; guidance makes up for it, or overdoes it. Of the samples, against held-out images:

  right      share to which a classifier of the data gives the class that was asked for

and the measures of fashion_few_steps.py, in the features of that classifier.

"leak" is how often the class is predicted from the noise of pairs, over chance; ``--leaks`` prints both alone.
Mean and standard error over the seeds, of the split, the network, the training and the noise. The last row are training
images with their classes.

python benchmarks/guidance.py --data digits
python benchmarks/guidance.py --data fashion
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

import proxflow as pf
from fashion_few_steps import MEASURES as MEASURES_OF_SAMPLES
from fashion_few_steps import Judge, images, trained_classifier

WEIGHTS = (1.0, 1.5, 2.0, 3.0, 4.0)
BATCH = 256
MEASURES = ("right", *MEASURES_OF_SAMPLES)
COMPARED = 1000  # samples of the measures that take all distances

Labelled = tuple[Tensor, Tensor]  # images (n, d) and their classes
Row = tuple[float, ...]


def conditional(strength: float, directions: int | None) -> Callable[[Labelled, float, int], pf.couplings.Coupling]:
    """A coupling of classes at a strength, in all directions or a few."""
    return lambda train, tol, seed: pf.couplings.Conditional.fit(
        *train, strength=strength, directions=directions, tol=tol, seed=seed
    )


COUPLINGS: dict[str, Callable[[Labelled, float, int], pf.couplings.Coupling]] = {
    "independent": lambda train, *_: pf.couplings.Independent(*train),
    "class-wise": conditional(math.inf, None),
    "strength 0.3": conditional(0.3, None),
    "class-blind": conditional(0.0, None),
    "class-wise, 8 directions": conditional(math.inf, 8),
    "class-blind, 8 directions": conditional(0.0, 8),
}


def digits(seed: int, _: int) -> tuple[Labelled, Labelled]:
    """1,437 digits to train on and 360 held out."""
    data = pf.data.load("digits")
    order = torch.randperm(len(data.points), generator=torch.Generator().manual_seed(seed))
    points, labels = data.points.flatten(1)[order], cast(Tensor, data.labels)[order]
    return (points[:1437], labels[:1437]), (points[1437:], labels[1437:])


def fashion(seed: int, count: int) -> tuple[Labelled, Labelled]:
    """Some of the training images, and the test images."""
    (rows, labels), held_out = images("train", torch.device("cpu")), images("t10k", torch.device("cpu"))
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count]
    mean, scale = rows.mean(0), (rows - rows.mean(0)).square().mean().sqrt()  # as data.load standardises images
    return ((rows[chosen] - mean) / scale, labels[chosen]), ((held_out[0] - mean) / scale, held_out[1])


DATA = {"digits": digits, "fashion": fashion}


def judge_of(train: Labelled, held_out: Labelled, epochs: int) -> Judge:
    """What samples are measured with."""
    return Judge(train[0], held_out[0], trained_classifier(*train, epochs), COMPARED)


@torch.no_grad()
def accuracy(judge: Judge, samples: Labelled) -> float:
    """Share of images to which the classifier gives their class."""
    return float((judge.classifier(samples[0]).argmax(1) == samples[1]).float().mean())


def measured(judge: Judge, samples: Labelled) -> Row:
    """All measures."""
    return (accuracy(judge, samples), *judge.measured(samples[0]))


def trained(train: Labelled, coupling: pf.couplings.Coupling, options: argparse.Namespace, seed: int) -> nn.Module:
    """The network of a coupling."""
    torch.manual_seed(seed)
    shape, classes = tuple(train[0].shape[1:]), int(train[1].max()) + 1
    network = pf.matching.ResidualMLP(shape, width=options.width, classes=classes)
    start = pf.matching.AffineResidual.fit(network, coupling, pairs=options.pairs, seed=seed)
    settings = {"steps": options.train_steps, "batch_size": BATCH, "seed": seed, "progress": False}
    return pf.matching.train(start, coupling, **settings).network


def sampled(network: nn.Module, labels: Tensor, dim: int, weight: float, steps: int, seed: int) -> Tensor:
    """Samples of given classes with guidance."""
    noise = torch.randn(len(labels), dim, generator=torch.Generator().manual_seed(1000 + seed))
    with torch.no_grad():
        return pf.sampling.integrate(
            pf.matching.field_of(network, labels, weight), noise, steps=steps, method="euler"
        ).end


def leak_of(coupling: pf.couplings.Coupling, seed: int) -> pf.metrics.LabelLeakage:
    """How well the class is told from the noise of its pairs."""
    pairs = coupling.sample(2000, generator=torch.Generator().manual_seed(2000 + seed))
    return pf.metrics.label_leakage(pairs.source, cast(Tensor, pairs.label))


def show_leaks(name: str, options: argparse.Namespace) -> None:
    """How often the class is told from the noise, and by chance."""
    leaks = []
    for seed in range(options.seeds):
        train = DATA[options.data](seed, options.points)[0]
        leaks.append(leak_of(COUPLINGS[name](train, options.tol, seed), seed))
    told, chance = cell([leak.value for leak in leaks]), cell([leak.chance for leak in leaks])
    print(f"{name:38s} class told from the noise {told}, by chance {chance}", flush=True)


def results(name: str, seed: int, options: argparse.Namespace) -> tuple[dict[int, list[Row]], float, str]:
    """For each number of steps the measures at each weight; the leak; what it took."""
    train, held_out = DATA[options.data](seed, options.points)
    judge = judge_of(train, held_out, options.epochs)
    began = time.perf_counter()
    coupling = COUPLINGS[name](train, options.tol, seed)
    leak = leak_of(coupling, seed)
    coupled = time.perf_counter()
    network = trained(train, coupling, options, seed)
    seconds = f"coupling {coupled - began:.0f} s, training {time.perf_counter() - coupled:.0f} s"
    order = torch.randint(len(train[1]), (options.generated,), generator=torch.Generator().manual_seed(3000 + seed))
    labels = train[1][order]
    measures = {
        steps: [
            measured(judge, (sampled(network, labels, train[0].shape[1], weight, steps, seed), labels))
            for weight in WEIGHTS
        ]
        for steps in options.steps
    }
    return measures, leak.value - leak.chance, seconds


def real(seed: int, options: argparse.Namespace) -> tuple[Row, float]:
    """The measures of training images, and the classifier's accuracy on held-out ones."""
    train, held_out = DATA[options.data](seed, options.points)
    judge = judge_of(train, held_out, options.epochs)
    shown = train[0][: options.generated], train[1][: options.generated]
    return measured(judge, shown), accuracy(judge, held_out)


def cell(values: list[float]) -> str:
    """Mean and standard error."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.4g} +- {error:.2g}"


def show(name: str, runs: list[list[Row]]) -> None:
    """The lines of a row of the table: a measure each."""
    for number, measure in enumerate(MEASURES):
        cells = "".join(f"{cell([run[k][number] for run in runs]):>20s}" for k in range(len(runs[0])))
        print(f"{name if number == 0 else '':38s}{cells}  {measure}", flush=True)


def main() -> None:
    """Print the measures of each kind of pairs at each weight."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(DATA), default="digits")
    parser.add_argument("--train-steps", type=int, default=3000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--points", type=int, default=10_000, help="Fashion-MNIST's images to train on")
    parser.add_argument("--generated", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="*", default=[8, 32], help="Euler steps")
    parser.add_argument("--tol", type=float, default=0.05, help="chi2 of the fits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="*", default=list(COUPLINGS), choices=list(COUPLINGS))
    parser.add_argument("--leaks", action="store_true", help="print how well the class is told from the noise, no more")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    options.pairs, options.epochs = None, 30 if options.data == "digits" else 10
    if options.quick:
        options.train_steps, options.width, options.points, options.generated = 2, 16, 200, 60
        options.seeds, options.tol, options.epochs, options.pairs, options.steps = 1, 0.5, 1, 256, [1]
    if options.leaks:
        for name in options.rows:
            show_leaks(name, options)
        return
    print(f"{options.data}, {options.train_steps} steps, width {options.width}, {options.seeds} seeds")
    print(f"{'guidance weight':38s}" + "".join(f"{weight:>20g}" for weight in WEIGHTS))
    for name in options.rows:
        runs = [results(name, seed, options) for seed in range(options.seeds)]
        for steps in options.steps:
            show(f"{name}, {steps} steps", [measures[steps] for measures, _, _ in runs])
        print(f"  leak {cell([leak for _, leak, _ in runs])}; {'; '.join(words for *_, words in runs)}", flush=True)
    truth = [real(seed, options) for seed in range(options.seeds)]
    show("training images", [[row] for row, _ in truth])
    print(f"classifier right on held-out images: {cell([right for _, right in truth])}")


if __name__ == "__main__":
    main()
