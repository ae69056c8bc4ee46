"""How many draws a fit takes, where atoms are of unequal weight or unequally far from others."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor

import proxflow as pf
from proxflow.measures import Gaussian
from proxflow.semidiscrete.descent import Descent, Iterate
from proxflow.semidiscrete.problem import SemiDual
from proxflow.semidiscrete.start import Start
from tests.marks import slow_beyond


def _breast_cancer() -> tuple[Tensor, Tensor | None]:
    points = torch.as_tensor(load_breast_cancer().data)
    return (points - points.mean(0)) / points.std(0), None


def _digits_with_zipf_weights() -> tuple[Tensor, Tensor | None]:
    points = pf.data.load("digits").points.flatten(1)
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    return points, 1 / (1 + order.double())


def _heavy_tails() -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(77)
    normal = torch.randn(3000, 8, generator=generator, dtype=torch.float64)
    return normal / torch.rand(3000, 1, generator=generator, dtype=torch.float64).sqrt(), None


def _clusters(count: int, each: int, width: float) -> Callable[[], Tensor]:
    def points() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        centres = 3 * torch.randn(count, 8, generator=generator)
        return centres.repeat_interleave(each, 0) + width * torch.randn(count * each, 8, generator=generator)

    return points


def _clusters_of_unequal_width() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    centres, widths = 3 * torch.randn(20, 4, generator=generator), 0.05 + torch.rand(20, 1, generator=generator)
    spread = 0.3 * widths.repeat_interleave(100, 0) * torch.randn(2000, 4, generator=generator)
    return centres.repeat_interleave(100, 0) + spread


def _near_copies(count: int, copied: int, times: int, *distances: float) -> Callable[[], Tensor]:
    """Digits, and copies of the first of them, at one distance in each coordinate, or at some between two."""

    def points() -> Tensor:
        generator = torch.Generator().manual_seed(3)
        rows = pf.data.load("digits").points.flatten(1)[:count]
        copies = rows[:copied].repeat(times, 1)
        low, high = math.log10(distances[0]), math.log10(distances[-1])
        distance = 10 ** torch.linspace(low, high, len(copies))[torch.randperm(len(copies), generator=generator)]
        return torch.cat([rows, copies + distance[:, None] * torch.randn(copies.shape, generator=generator)])

    return points


def test_averages_weigh_heights_by_the_fourth_root_of_the_draws() -> None:
    """Of k^p for p = 1/4 the variance is (p + 1)^2 / (2 p + 1) = 25 / 24 times that of a uniform average (theory 3)."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(40, 4, generator=generator)
    descent = Descent(SemiDual(points, torch.full((40,), 1 / 40, dtype=torch.float64), Gaussian(4), 0.0, 1 << 28))
    zeros = torch.zeros(40, dtype=torch.float64)
    iterate = Iterate.start(Start(zeros, (1.0,) * (1 + len(descent.groups)), 1.0, 0), generator)
    heights = []
    for _ in range(400):
        iterate = descent.step(iterate, generator)
        heights.append(iterate.heights)
    weights = torch.arange(1, 401, dtype=torch.float64) ** 0.25  # all steps are of 256 draws
    assert iterate.moved == 400 * 256
    assert iterate.averages.relative_variance * iterate.moved == pytest.approx(25 / 24, rel=2e-3)
    torch.testing.assert_close(iterate.averages.heights, weights @ torch.stack(heights) / weights.sum())


@pytest.mark.filterwarnings("ignore::proxflow.ConvergenceWarning")  # the cap ends them
@pytest.mark.parametrize("law", slow_beyond(1, [_breast_cancer, _digits_with_zipf_weights, _heavy_tails]))
def test_fits_come_near_the_statistical_limit(law: Callable[[], tuple[Tensor, Tensor | None]]) -> None:
    """chi2 M / N was 1.5 to 2 where all steps had one length; averages as these do not get below 25/24 in the mean."""
    points, weights = law()
    fit = pf.semidiscrete.fit(points, weights, tol=0.0125, max_samples=100 * len(points))
    a_draw = fit.samples_used / len(points)
    assert (fit.chi2 - 2 * fit.chi2_stderr) * a_draw <= 1.2


@pytest.mark.filterwarnings("ignore::proxflow.ConvergenceWarning")
@pytest.mark.parametrize(
    ("points", "most"),
    slow_beyond(1, [(_clusters(20, 50, 0.1), 1.5), (_clusters(100, 20, 0.03), 2.2), (_clusters_of_unequal_width, 1.5)]),
)
def test_fits_of_tight_clusters(points: Callable[[], Tensor], most: float) -> None:
    """Groups that cut through clusters took steps of the size of those between clusters, chi2 M / N was 2.6; of the
    smaller clusters some looked as if they were far from all other rows, and it was 37."""
    rows = points()
    fit = pf.semidiscrete.fit(rows, tol=0.01, max_samples=300 * len(rows))
    a_draw = fit.samples_used / len(rows)
    assert (fit.chi2 - 2 * fit.chi2_stderr) * a_draw <= most


@pytest.mark.filterwarnings("ignore::proxflow.ConvergenceWarning")
@pytest.mark.parametrize(
    "points",
    slow_beyond(
        1,
        [
            _near_copies(800, 800, 1, 1e-5, 1e-1),
            _near_copies(800, 800, 1, 1e-3),
            _near_copies(800, 800, 1, 3e-2),  # where only half of them are much nearer to each other than to the rest
            _near_copies(1000, 100, 1, 1e-3),
            _near_copies(300, 300, 4, 1e-4),
        ],
    ),
)
def test_fits_of_near_copies(points: Callable[[], Tensor]) -> None:
    """A pair moved in units of the gap between its rows, a thousandth of that to others: chi2 M / N was 3.5 to 10."""
    rows = points()
    fit = pf.semidiscrete.fit(rows, tol=0.01, max_samples=100 * len(rows))
    a_draw = fit.samples_used / len(rows)
    assert (fit.chi2 - 2 * fit.chi2_stderr) * a_draw <= 1.3


def test_a_few_rows_that_were_saved_twice_do_not_keep_a_fit_from_ending() -> None:
    """chi2 was .12 after three times as many draws."""
    rows = _near_copies(1600, 100, 1, 1e-6)()
    fit = pf.semidiscrete.fit(rows, tol=0.02, max_samples=120 * len(rows))
    assert fit.converged
    assert len(fit.cell_mass) == 1700
