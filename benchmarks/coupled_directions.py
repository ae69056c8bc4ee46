"""How many directions the rows of a data set can tell, and what the choice costs.

For each number of principal directions, the share of the data's variance that the optimal maps of two halves of the
rows agree on (``couplings.choose_directions``), the number chosen, and the seconds of the choice, of the fit in these
directions, and of a batch of 512 pairs; one thread. The normal law has 16 directions of standard deviation 3, 16 of .3
and 32 of 1.

python benchmarks/coupled_directions.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor

import proxflow as pf
from timing import medians

DEVIATIONS = torch.cat([torch.full((16,), 3.0), torch.full((16,), 0.3), torch.ones(32)])
BATCH = 512


def normal_rows(n: int) -> Tensor:
    """Rows of the 64-dimensional normal law."""
    return torch.randn(n, len(DEVIATIONS), generator=torch.Generator().manual_seed(0)) * DEVIATIONS


def table_rows() -> Tensor:
    """A table of 569 rows and 30 columns, each of variance 1."""
    columns = torch.as_tensor(load_breast_cancer().data)
    return ((columns - columns.mean(0)) / columns.std(0)).float()


def fashion_rows(n: int) -> Tensor:
    """Images of Fashion-MNIST, (n, 784)."""
    return pf.data.load("fashion-mnist", n=n).points.flatten(1)


CASES: dict[str, Callable[[], Tensor]] = {
    "1,437 digits": lambda: pf.data.load("digits", n=1437).points.flatten(1),
    "table of 569 x 30": table_rows,
    "2,000 normal rows in R^64": lambda: normal_rows(2000),
    "10,000 normal rows in R^64": lambda: normal_rows(10_000),
    "10,000 of Fashion-MNIST": lambda: fashion_rows(10_000),
    "60,000 of Fashion-MNIST": lambda: fashion_rows(60_000),
}


def show(name: str, points: Tensor) -> None:
    """Print the curve, the choice and the times of one data set."""
    began = time.perf_counter()
    choice = pf.couplings.choose_directions(points, progress=False)
    chosen = time.perf_counter()
    coupling = pf.couplings.Subspace.fit(points, dim=choice.count, progress=False)
    fitted = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    batch = medians({"batch": lambda: coupling.sample(BATCH, generator=generator)}, 20)["batch"]
    print(f"{name}: {choice.count} of {points.shape[1]} directions", end="; ")
    print(f"choice {chosen - began:.1f} s, fit {fitted - chosen:.1f} s, {BATCH} pairs {1e3 * batch:.2f} ms")
    for count, agreement, error in zip(choice.counts, choice.agreement, choice.error, strict=True):
        print(f"  {count:4d} {agreement:8.3f} +- {error:.3f}")


def main() -> None:
    """Print every case whose data are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--quick", action="store_true", help="a small case, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        show("100 normal rows in R^64", normal_rows(100))
        return
    for name in options.cases:
        try:
            points = CASES[name]()
        except ValueError as error:
            print(f"{name} is left out: {error}")
            continue
        show(name, points)


if __name__ == "__main__":
    main()
