"""Samples at few steps: what Ctrl-C leaves, the memory of the normal law, and what is said of bad clouds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.metrics import few_steps, step_quality
from proxflow.metrics.step_quality import _normal_like
from proxflow.sampling import integrate
from tests.peak_memory import peak_bytes


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the third number of steps is taken."""
    calls: list[int] = []

    def stopped(*arguments: Any, **options: Any) -> Any:
        calls.append(options["steps"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return integrate(*arguments, **options)

    monkeypatch.setattr(step_quality, "integrate", stopped)


@pytest.mark.usefixtures("interrupted")
def test_ctrl_c_comes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        few_steps(lambda t, x: x, normal(20, 2), normal(30, 2, seed=1))


@pytest.mark.usefixtures("interrupted")
def test_ctrl_c_keeps_what_is_done_where_that_is_asked_for_and_says_so() -> None:
    with pytest.warns(pf.ConvergenceWarning, match="interrupted: the numbers of steps 4, 8, 100 are missing"):
        found = few_steps(lambda t, x: x, normal(20, 2), normal(30, 2, seed=1), partial=True)
    assert found.steps == (1, 2)
    assert len(found.samples) == len(found.energy_distance) == len(found.spread) == 2


@pytest.mark.usefixtures("interrupted")
def test_ctrl_c_stops_a_trainer_that_measures() -> None:
    lightning = pytest.importorskip("proxflow.adapters.lightning", exc_type=ImportError)
    network = torch.nn.Linear(2, 2)
    watch = lightning.FlowQuality(lambda module: lambda t, x: module(x), normal(30, 2))
    module: Any = SimpleNamespace(training=True, device="cpu", log=lambda *_args, **_options: None)
    module.eval, module.train = network.eval, network.train
    module.__dict__["__call__"] = network
    watch._field = lambda _: lambda t, x: network(x)
    with pytest.raises(KeyboardInterrupt):
        watch.on_train_epoch_end(SimpleNamespace(current_epoch=0, is_global_zero=True), module)
    assert network.training


@pytest.mark.slow
def test_the_normal_law_is_drawn_in_bounded_memory() -> None:
    """All weights of 400 draws from 50,000 rows at once are 160 MB."""
    data = normal(50_000, 2).double() * torch.tensor([3.0, 0.5]) + 7
    assert peak_bytes(lambda: _normal_like(data, 400)) < 80e6
    drawn = _normal_like(data, 2000)
    torch.testing.assert_close(drawn.mean(0), data.mean(0), atol=0.3, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), data.T.cov(), atol=0.8, rtol=0.1)


def test_blocks_draw_what_a_whole_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    data = normal(40, 3).double()
    whole = _normal_like(data, 64)
    monkeypatch.setattr(step_quality, "_MOST_WEIGHTS", 40 * 16)
    assert torch.allclose(_normal_like(data, 64), whole)
