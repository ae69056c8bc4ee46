"""Log-likelihoods of one known field by proxflow and by other libraries: error in bits, evaluations, seconds.

The field is what a perfect network learns from independent pairs of N(0, I) and a mixture of two normal laws, so that
the truth is a formula. Peers, where installed: zuko (FreeFormJacobianTransform, FFJORD) and Meta's flow_matching
(ODESolver.compute_likelihood). Each adaptive solver is asked for one tolerance: first with the exact divergence, then
with random probes.

Last, Hutchinson's estimate beside Hutch++ (Meyer, Musco, Musco and Woodruff 2021) at the same number of products, on
the linear field from N(0, I) to the normal law of digits, whose integrated divergence is log det of the map.
Run: python benchmarks/likelihood.py [--quick]
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from torch import Tensor

import proxflow as pf

Field = Callable[[Tensor, Tensor], Tensor]
Method = Callable[[Field, Tensor, float, bool], Tensor]


class Mixture:
    """Two normal laws of deviations .5 and .3 in R^dim, their means 2 from the origin."""

    def __init__(self, dim: int) -> None:
        self.means = torch.zeros(2, dim, dtype=torch.float64)
        self.means[0, 0], self.means[1, 1] = -2.0, 2.0
        self.deviations = torch.tensor([0.5, 0.3], dtype=torch.float64)
        self.weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
        self.evaluations = 0

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n rows."""
        part = torch.multinomial(self.weights, n, True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[part] + self.deviations[part, None] * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """The truth."""
        squares = (x[:, None] - self.means).square().sum(2) / self.deviations**2
        normaliser = x.shape[1] * (self.deviations * math.sqrt(2 * math.pi)).log()
        return torch.logsumexp(self.weights.log() - 0.5 * squares - normaliser, 1)

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        """E[X1 - X0 | x_t], counted."""
        self.evaluations += 1
        variance = (1 - t) ** 2 + t**2 * self.deviations**2
        centred = x[:, None] - t * self.means
        logits = self.weights.log() - 0.5 * (centred.square().sum(2) / variance + x.shape[1] * variance.log())
        parts = self.means + ((t * self.deviations**2 - (1 - t)) / variance)[:, None] * centred
        return (torch.softmax(logits, 1)[:, :, None] * parts).sum(1)


def by_proxflow(field: Field, x: Tensor, tolerance: float, exact: bool) -> Tensor:
    """sampling.log_likelihood."""
    options = {"divergence": "exact"} if exact else {"divergence": "hutchinson", "probes": 2}
    with torch.no_grad():
        return pf.sampling.log_likelihood(field, x, rtol=tolerance, atol=tolerance, **options).value


def by_zuko(field: Field, x: Tensor, tolerance: float, exact: bool) -> Tensor:
    """From t = 1 to 0."""
    from zuko.transforms import FreeFormJacobianTransform

    torch.manual_seed(0)
    transform = FreeFormJacobianTransform(field, 1.0, 0.0, atol=tolerance, rtol=tolerance, exact=exact)
    with torch.no_grad():
        noise, log_det = transform.call_and_ladj(x)
    found: Tensor = pf.measures.Gaussian(x.shape[1]).log_prob(noise) + log_det
    return found


def by_flow_matching(field: Field, x: Tensor, tolerance: float, exact: bool) -> Tensor:
    """With the order of its arguments."""
    from flow_matching.solver import ODESolver

    torch.manual_seed(0)
    solver = ODESolver(lambda x, t: field(t, x))
    log_p0 = pf.measures.Gaussian(x.shape[1]).log_prob
    options = {"method": "dopri5", "atol": tolerance, "rtol": tolerance, "exact_divergence": exact}
    found: Tensor = solver.compute_likelihood(x, log_p0, None, **options)[1].detach()
    return found


METHODS: list[tuple[str, str, Method]] = [
    ("proxflow", "proxflow", by_proxflow),
    ("zuko", "zuko", by_zuko),
    ("flow_matching", "flow-matching", by_flow_matching),
]


def compare(dim: int, rows: int, tolerance: float, exact: bool) -> None:
    """Print one table."""
    law = Mixture(dim)
    x = law.sample(rows, torch.Generator().manual_seed(0))
    kind = "exact divergence" if exact else "random probes (proxflow 2, its minimum; zuko 1)"
    print(f"\n{rows} points in R^{dim}, tolerance {tolerance:g}, {kind}")
    for module, package, method in METHODS if exact else METHODS[:2]:  # flow_matching's probes are float32
        if importlib.util.find_spec(module) is None:
            print(f"  {module}: not installed (pip install {package})")
            continue
        method(law.velocity, x[:2].clone(), 1e-2, exact)  # imports and first calls
        law.evaluations, start = 0, time.perf_counter()
        value = method(law.velocity, x.clone(), tolerance, exact)
        error = (value - law.log_prob(x)) / math.log(2)
        size, worst = float(error.square().mean().sqrt()), float(error.abs().max())
        print(
            f"  {module} {version(package)}: bits off, root mean square {size:.1e}, worst {worst:.1e}, "
            f"{law.evaluations} evaluations, {time.perf_counter() - start:.2f} s"
        )


def signs(dim: int, count: int, generator: torch.Generator) -> Tensor:
    """Random signs (dim, count)."""
    return 2 * torch.randint(0, 2, (dim, count), generator=generator).double() - 1


def hutchinson(matrix: Tensor, products: int, generator: torch.Generator) -> Tensor:
    """Of the trace."""
    probes = signs(len(matrix), products, generator)
    return (probes * (matrix @ probes)).sum() / products


def hutch_plus_plus(matrix: Tensor, products: int, generator: torch.Generator) -> Tensor:
    """Of the trace: exactly on the span of a third of the products, Hutchinson's off it."""
    third = products // 3
    span = torch.linalg.qr(matrix @ signs(len(matrix), third, generator))[0]
    probes = signs(len(matrix), products - 2 * third, generator)
    rest = probes - span @ (span.T @ probes)
    found: Tensor = (span * (matrix @ span)).sum() + (rest * (matrix @ rest)).sum() / rest.shape[1]
    return found


def compare_probes(repeats: int) -> None:
    """Print the scatter of both estimates."""
    rows = pf.data.load("digits").points.flatten(1).double()
    for noise in (0.3, 0.1, 0.03):
        covariance = rows.T.cov() + noise**2 * torch.eye(rows.shape[1]).double()
        values, vectors = torch.linalg.eigh(covariance)
        matrix = (vectors * values.log() / 2) @ vectors.T  # of the optimal map, the square root of the covariance
        generator = torch.Generator().manual_seed(0)
        for products in (16, 48):
            scatter = [
                float(torch.stack([estimate(matrix, products, generator) for _ in range(repeats)]).std())
                for estimate in (hutchinson, hutch_plus_plus)
            ]
            print(
                f"  noise {noise:g} added, {products} products: log det {float(matrix.trace()):.1f} nats, scatter "
                f"{scatter[0]:.2f} of Hutchinson's, {scatter[1]:.2f} of Hutch++, {scatter[1] / scatter[0]:.1f} x"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a few points in the plane")
    quick = parser.parse_args().quick
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for dim, rows in [(2, 8)] if quick else [(2, 200), (32, 50)]:
        for tolerance in (1e-5,) if quick else (1e-5, 1e-7):
            compare(dim, rows, tolerance, exact=True)
        compare(dim, rows, 1e-5, exact=False)
    print("\nestimates of the integrated divergence, digits")
    compare_probes(20 if quick else 1000)
