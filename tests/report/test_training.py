"""The page of a training run."""

from __future__ import annotations

import dataclasses
import math
import sys

import pytest
import torch

import proxflow as pf
from proxflow.report import compare_steps, render_training_page

ARGUMENTS = {"coupling": "independent", "network": "mlp", "conditional": False, "batch_size": 8, "schedule": "linear"}


def _run(data: str, n: int, coupling: str) -> tuple[pf.matching.TrainResult, pf.data.Dataset]:
    dataset = pf.data.load(data, n=n)
    if coupling == "semidiscrete":
        pairs = pf.couplings.Semidiscrete(pf.semidiscrete.fit(dataset.points, tol=0.1).potential, dataset.points)
    else:
        pairs = pf.couplings.Independent(dataset.points)
    torch.manual_seed(0)
    network = pf.matching.MLP(dataset.event_shape, width=8, depth=1)
    return pf.matching.train(network, pairs, steps=4, batch_size=8, evaluate_every=2, progress=False), dataset


@pytest.mark.parametrize(("data", "pictures"), [("digits", 3), ("moons", 3)])
@pytest.mark.parametrize("coupling", ["semidiscrete", "independent"])
def test_page_says_how_training_went(data, pictures, coupling) -> None:
    result, dataset = _run(data, 60, coupling)
    comparison = compare_steps(result, dataset, pf.schedules.Linear(), 0)
    page = render_training_page(result, comparison, dataset, ARGUMENTS, f"proxflow train {data}")
    assert page.count("<img") == pictures
    assert f"proxflow train {data}" in page
    assert "Training finished after 4 steps" in page
    assert ("no exact flow to compare with" in page) == (coupling == "independent")
    assert "nan" not in page.replace("nance", "").lower().split("base64")[0]


def test_samples_no_better_than_noise_are_not_praised() -> None:
    result, dataset = _run("moons", 60, "independent")
    comparison = compare_steps(result, dataset, pf.schedules.Linear(), 0)
    for of_noise, better in ((min(comparison.energy_distance) - 0.01, False), (10.0, True)):
        changed = dataclasses.replace(comparison, of_noise=of_noise)
        assert changed.beats_noise == better
        page = render_training_page(result, changed, dataset, ARGUMENTS)
        assert ("no better than noise" in page) != better
        assert ("#15803d" in page) == better


def test_ctrl_c_keeps_the_numbers_of_steps_that_are_done(monkeypatch) -> None:
    result, dataset = _run("moons", 60, "independent")
    whole = compare_steps(result, dataset, pf.schedules.Linear(), 0)
    module = sys.modules[compare_steps.__module__]
    integrate, calls = module.integrate, []

    def interrupted(*arguments, **options):
        calls.append(options["steps"])
        if len(calls) == stop:
            raise KeyboardInterrupt
        return integrate(*arguments, **options)

    monkeypatch.setattr(module, "integrate", interrupted)
    stop = 4
    part = compare_steps(result, dataset, pf.schedules.Linear(), 0)
    assert part.steps == whole.steps[:3]
    assert torch.equal(part.samples, whole.samples[:3])
    assert "at 4 steps" in render_training_page(result, part, dataset, ARGUMENTS)
    stop = len(calls) + 1
    with pytest.raises(KeyboardInterrupt):
        compare_steps(result, dataset, pf.schedules.Linear(), 0)


def test_comparison_is_of_the_same_noise() -> None:
    result, dataset = _run("moons", 60, "independent")
    comparison = compare_steps(result, dataset, pf.schedules.Linear(), 3)
    assert comparison.samples.shape == (len(comparison.steps), 1000, 2)
    noise = torch.randn(1000, 2, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        one_step = noise + result.network(0.0, noise)
    assert torch.allclose(comparison.samples[0], one_step, atol=1e-5)
    assert all(math.isfinite(distance) for distance in comparison.energy_distance)
