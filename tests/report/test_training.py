"""The page of a training run."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
import torch

import proxflow as pf
from proxflow.metrics import step_quality
from proxflow.report import render_training_page
from proxflow.report.training_page import complaint
from proxflow.sampling import integrate
from proxflow.seeding import generator_of
from tests.marks import slow_beyond
from tests.report.written import Page

ARGUMENTS = {"coupling": "independent", "network": "mlp", "conditional": False, "batch_size": 8, "schedule": "linear"}


def _run(data: str, n: int, coupling: str) -> tuple[pf.matching.TrainResult, pf.data.Dataset]:
    dataset = pf.data.load(data, n=n)
    pairs: pf.couplings.Coupling
    if coupling == "semidiscrete":
        pairs = pf.couplings.Semidiscrete(pf.semidiscrete.fit(dataset.points, tol=0.1).potential, dataset.points)
    else:
        pairs = pf.couplings.Independent(dataset.points)
    torch.manual_seed(0)
    network = pf.matching.MLP(dataset.event_shape, width=8, depth=1)
    return pf.matching.train(network, pairs, steps=4, batch_size=8, evaluate_every=2, progress=False), dataset


@pytest.mark.parametrize(("data", "pictures"), slow_beyond(1, [("digits", 7), ("moons", 5)]))
@pytest.mark.parametrize("coupling", slow_beyond(1, ["semidiscrete", "independent"]))
def test_page_says_how_training_went(data: str, pictures: int, coupling: str) -> None:
    result, dataset = _run(data, 60, coupling)
    comparison = result.few_steps(dataset.points)
    page = render_training_page(result, comparison, dataset, ARGUMENTS, f"proxflow train {data}")
    assert len(Page(page).alts) == pictures
    assert len(page) < 5e6
    assert Page(page).cell("command") == f"proxflow train {data}"
    assert "Training finished after 4 steps" in page
    assert ("no exact flow to compare with" in page) == (coupling == "independent")
    assert not re.search(r"\bnan\b", Page(page).text.lower())


@pytest.mark.slow
def test_samples_that_are_not_good_are_not_praised() -> None:
    result, dataset = _run("moons", 60, "independent")
    comparison = result.few_steps(dataset.points)
    best = min(comparison.energy_distance)
    ones = torch.ones(2, dtype=torch.float64)
    right = tuple(dataclasses.replace(s, total=1.05, total_error=0.01, column=ones) for s in comparison.spread)
    wrong = tuple(dataclasses.replace(found, total=0.8, total_error=0.01) for found in comparison.spread)
    far: dict[str, Any] = {"of_normal": 2 * best, "energy_distance_error": (0.1 * best,) * 5, "spread": right}
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({**far, "of_noise": 1.9 * best}, "hardly better than noise"),
        ({**far, "of_noise": 2.1 * best}, ""),
        ({**far, "of_noise": 2.1 * best, "spread": wrong}, "do not spread as the data do"),
        ({**far, "of_noise": 2.1 * best, "of_normal": 1.29 * best}, "hardly nearer to the data than a normal law"),
        ({**far, "of_noise": 2.1 * best, "of_normal": 1.29 * best, "energy_distance_error": (best,) * 5}, ""),
    )
    words = [word for _, word in cases if word]
    for changes, said in cases:
        changed = dataclasses.replace(comparison, **changes)
        page = render_training_page(result, changed, dataset, ARGUMENTS)
        assert [word in page for word in words] == [word == said for word in words]
        assert ('class="verdict good"' in page) == (said == "")
        assert (complaint(changed) == "") == (said == "")


def test_a_column_that_does_not_vary_is_named() -> None:
    """Its share of all distances and of the total variance may be too small to be seen there."""
    result, dataset = _run("moons", 60, "independent")
    comparison = result.few_steps(dataset.points)
    best = min(comparison.energy_distance)
    for column, off, said in (([1.0, 0.5], 0.05, True), ([1.0, 0.5], 0.2, False), ([math.nan, 1.1], 0.01, False)):
        measured: dict[str, Any] = {"column": torch.tensor(column), "column_error": torch.tensor([off, off])}
        spread = tuple(dataclasses.replace(s, total=1.0, total_error=0.01, **measured) for s in comparison.spread)
        changes: dict[str, Any] = {
            "of_normal": 2 * best,
            "of_noise": 3 * best,
            "energy_distance_error": (0.1 * best,) * 5,
        }
        complained = complaint(dataclasses.replace(comparison, spread=spread, **changes))
        assert ("1 of 2 columns" in complained) == said
        assert ("column 2, with 0.5 times" in complained) == said


def test_an_affine_field_is_not_praised() -> None:
    """The affine part of the velocity alone ends on the normal law of the data's moments, whose spread is right."""
    dataset = pf.data.load("moons", n=2000)
    dataset = dataclasses.replace(dataset, points=dataset.points * torch.tensor([4.0, 0.5]))
    coupling = pf.couplings.Minibatch(dataset.points, 128)  # near enough to optimal for Euler's steps to do no harm
    torch.manual_seed(0)
    network = pf.matching.AffineResidual.fit(pf.matching.MLP((2,), width=8, depth=1), coupling)
    result = pf.matching.train(network, coupling, steps=1, batch_size=8, progress=False)
    comparison = result.few_steps(dataset.points)
    assert comparison.spreads_right
    assert comparison.beats_noise
    assert not comparison.beats_normal
    assert 'class="verdict good"' not in render_training_page(result, comparison, dataset, ARGUMENTS)


def test_ctrl_c_keeps_the_numbers_of_steps_that_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    result, dataset = _run("moons", 60, "independent")
    whole = result.few_steps(dataset.points)
    calls: list[int] = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(options["steps"])
        if len(calls) == stop:
            raise KeyboardInterrupt
        return integrate(*arguments, **options)

    monkeypatch.setattr(step_quality, "integrate", interrupted)
    stop = 4
    with pytest.warns(pf.ConvergenceWarning, match="interrupted: the numbers of steps 8, 100 are missing"):
        part = result.few_steps(dataset.points)
    assert part.steps == whole.steps[:3]
    assert torch.equal(part.samples, whole.samples[:3])
    assert '<td class="text">4 steps</td>' in render_training_page(result, part, dataset, ARGUMENTS)
    stop = len(calls) + 1
    with pytest.raises(KeyboardInterrupt):
        result.few_steps(dataset.points)


def test_comparison_is_of_the_same_noise() -> None:
    result, dataset = _run("moons", 60, "independent")
    comparison = result.few_steps(dataset.points, seed=3)
    assert comparison.samples.shape == (len(comparison.steps), 1000, 2)
    noise = torch.randn(1000, 2, generator=generator_of(3))
    with torch.no_grad():
        one_step = noise + result.network(0.0, noise)
    assert torch.allclose(comparison.samples[0], one_step, atol=1e-5)
    assert all(math.isfinite(distance) for distance in comparison.energy_distance)


@pytest.mark.slow
def test_the_page_shows_why_so_many_directions_were_coupled() -> None:
    result, dataset = _run("moons", 60, "independent")
    comparison = result.few_steps(dataset.points, count=50, steps=(1, 2))
    choice = pf.couplings.choose_directions(dataset.points)
    page = render_training_page(result, comparison, dataset, ARGUMENTS, choice=choice)
    assert "Directions" in Page(page).headings
    assert f"{choice.count} of 2, chosen" in page


@pytest.mark.slow
def test_spread_is_listed_by_direction_and_for_tables_by_column() -> None:
    result, dataset = _run("moons", 60, "independent")
    page = render_training_page(result, result.few_steps(dataset.points, count=50), dataset, ARGUMENTS)
    found = result.few_steps(dataset.points, count=50)
    spread = found.spread[found.best]
    assert f"{spread.total:.3f} ± {spread.total_error:.3f}" in page
    for ratio, error in ((spread.direction, spread.direction_error), (spread.column, spread.column_error)):
        assert ", ".join(f"{value:.2f} ± {off:.2f}" for value, off in zip(ratio, error, strict=True)) in page
    result, dataset = _run("digits", 60, "independent")
    page = render_training_page(result, result.few_steps(dataset.points, count=50), dataset, ARGUMENTS)
    assert "spread by direction" in page
    assert "spread by column" not in page
