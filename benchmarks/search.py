"""The search behind every fit, argmax_j <u, y_j> - h_j: its rate beside the bare product, and whether it is exact.

A search by products takes float32 scores of all atoms. On processors with AMX, one that screens takes them in bfloat16
first, and in float64 for the few atoms that may still be the best. Rates are in operations of the full product, 2 N d a
draw, a second, so that a search that saves some of them can pass the rate of the bare product. Draws for which the two
searches name different atoms are decided in float64: the number of each that are wrong is told. On other processors,
where screening would take hours, it is told of the products beside those in float64.

python benchmarks/search.py
python benchmarks/search.py --only Fashion-MNIST
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

import proxflow as pf
from proxflow.kernels import search
from proxflow.kernels.screened_search import can_screen, screened_best
from proxflow.semidiscrete.problem import SemiDual
from proxflow.semidiscrete.start import marginal_form
from timing import medians

_MOST_SCORES = 1 << 28  # that are written to memory at once, 1 GiB


def mixture(n: int, dim: int) -> Tensor:
    """n rows of 50 normal clusters, whose means are as far apart as their standard deviation is 2."""
    generator = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(50, dim, generator=generator)
    return means[torch.randint(50, (n,), generator=generator)] + torch.randn(n, dim, generator=generator)


def noisy_images(n: int, dim: int) -> Tensor:
    """Fashion-MNIST with noise added, over and over until there are n rows, in its first principal directions."""
    images = pf.data.load("fashion-mnist").points.flatten(1)
    mean = images.mean(0)
    axes = torch.linalg.eigh((images - mean).T.double() @ (images - mean).double()).eigenvectors[:, -dim:].float()
    places = (images - mean) @ axes
    rows = places.repeat(-(-n // len(places)), 1)[:n]
    noisy: Tensor = rows + 0.1 * places.std() * torch.randn(n, dim, generator=torch.Generator().manual_seed(0))
    return noisy


def cases() -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Name and atoms (N, d), each made when its turn comes."""
    yield "Fashion-MNIST", lambda: pf.data.load("fashion-mnist").points.flatten(1)
    for dim in (16, 32, 64):
        yield "mixture", partial(mixture, 1_000_000, dim)
    for dim in (16, 32):
        yield "Fashion-MNIST with noise", partial(noisy_images, 1_000_000, dim)


def heights_of(points: Tensor) -> Tensor:
    """Those that a fit starts from, which are right where the principal components are independent, (N,)."""
    weights = torch.full((len(points),), 1 / len(points), dtype=torch.float64)
    problem = SemiDual(points, weights, pf.measures.Gaussian(points.shape[1]), 0.0, 1 << 28)
    heights: Tensor = problem.radius * marginal_form(problem, torch.Generator().manual_seed(0))
    return heights.float()


def show(name: str, points: Tensor, heights: Tensor, batch: int, repeats: int, draws: int, screens: bool) -> None:
    """The rates on one data set, and the misses of ``draws``."""
    count, dim = points.shape
    noise = torch.randn(batch, dim, generator=torch.Generator().manual_seed(1))
    panels = points.split(4096)
    buffer = torch.empty(batch, min(count, 4096))
    contenders: dict[str, Callable[[], object]] = {
        "bare product, in blocks": lambda: [torch.mm(noise, rows.mT, out=buffer[:, : len(rows)]) for rows in panels]
    }
    if batch * count <= _MOST_SCORES:
        contenders["bare product, whole"] = lambda: noise @ points.mT
    contenders["search by products"] = lambda: search.best_by_products(noise, points, -heights)
    if screens:
        contenders["search that screens"] = lambda: screened_best(noise, points, -heights)
    seconds = medians(contenders, repeats)
    print(f"{name}, N = {count:,}, d = {dim}, {batch:,} draws at once, {torch.get_num_threads()} threads")
    product = min(taken for name, taken in seconds.items() if name.startswith("bare"))
    for way, taken in seconds.items():
        rate = 2 * count * dim * batch / taken / 1e9
        print(f"  {way:26s}{1e6 * taken / batch:9.1f} us a draw{rate:9.0f} GFLOP/s{product / taken:8.2f} x")
    wrong = wrong_answers(points, heights, draws, batch, by_screening if screens else by_exact_products)
    screened = f", {wrong[1]} wrong by screening" if screens else ""
    print(f"  of {draws:,} draws: {wrong[0]} wrong by products{screened}", flush=True)


def by_screening(noise: Tensor, points: Tensor, heights: Tensor) -> Tensor:
    """Best atoms, (n,)."""
    found = screened_best(noise, points, -heights)
    if found is None:
        raise SystemExit("too many scores are near to one another to screen them")
    return found[0]


def by_exact_products(noise: Tensor, points: Tensor, heights: Tensor) -> Tensor:
    """Best atoms by products in float64, (n,)."""
    return search.best_by_products(noise.double(), points.double(), -heights.double()).place


def wrong_answers(
    points: Tensor, heights: Tensor, draws: int, batch: int, other: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> tuple[int, int]:
    """Of how many draws the search by products, or the other one, names an atom that is not the best, in float64."""
    generator, wrong = torch.Generator().manual_seed(2), [0, 0]
    for rows in torch.arange(draws).split(batch):
        noise = torch.randn(len(rows), points.shape[1], generator=generator)
        places = search.best_by_products(noise, points, -heights).place, other(noise, points, heights)
        scores = [(noise.double() * points[atoms].double()).sum(1) - heights[atoms].double() for atoms in places]
        wrong[0] += int((scores[0] < scores[1]).sum())
        wrong[1] += int((scores[1] < scores[0]).sum())
    return wrong[0], wrong[1]


def main() -> None:
    """Print the rates and misses on each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4096, help="draws at once")
    parser.add_argument("--draws", type=int, default=100_000, help="of which misses are counted")
    parser.add_argument("--only", help="cases with this name")
    parser.add_argument("--quick", action="store_true", help="a few rows, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        points = mixture(2_000, 16)
        show("mixture", points, heights_of(points), 300, 1, 600, screens=True)
        return
    for name, make in cases():
        if options.only not in (None, name):
            continue
        points = make()
        screens = can_screen(points[: options.batch], points)
        show(name, points, heights_of(points), options.batch, 5, options.draws, screens)


if __name__ == "__main__":
    main()
