"""The training loop: what it learns, keeps, refuses and survives."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import proxflow as pf
from proxflow.matching import MLP, LogitNormal, field_of, train
from tests.matching import runs


def _state(result: pf.matching.TrainResult) -> list[torch.Tensor]:
    return [*result.network.state_dict().values(), *result.last_network.state_dict().values()]


def _same(one: pf.matching.TrainResult, other: pf.matching.TrainResult) -> bool:
    return all(torch.equal(a, b) for a, b in zip(_state(one), _state(other), strict=True))


@pytest.fixture(scope="module")
def whole() -> pf.matching.TrainResult:
    return runs.small_run(runs.network())


@pytest.mark.slow
def test_the_exact_flow_of_two_atoms_is_learned() -> None:
    points = torch.tensor([[-1.0], [1.0]])
    fit = pf.semidiscrete.fit(points)
    torch.manual_seed(0)
    network = MLP((1,), width=64, depth=2)
    result = train(
        network,
        pf.couplings.Semidiscrete(fit.potential, points),
        steps=2000,
        learning_rate=3e-3,
        progress=False,
    )
    assert result.finished
    assert [record.step for record in result.history] == [500, 1000, 1500, 2000]
    errors = [record.field_error for record in result.history]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.07, "over seeds 0 to 9 of both: .037 to .052"
    noise = torch.randn(500, 1, generator=torch.Generator().manual_seed(1))
    end = pf.sampling.integrate(result.network, noise, steps=20, method="euler").end
    exact = pf.ProximalFlow(fit.potential).transport(noise)
    assert float(((end - exact).abs() < 0.2).float().mean()) > 0.9


def test_field_error_is_the_distance_to_the_exact_field_on_its_trajectories() -> None:
    points = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    fit = pf.semidiscrete.fit(points)
    network = MLP((4,), width=8, depth=1)
    result = train(network, pf.couplings.Semidiscrete(fit.potential, points), steps=1, ema_decay=0.0, progress=False)
    flow = pf.ProximalFlow(fit.potential, on_failure="nan")
    generator = torch.Generator().manual_seed(3)
    noise, t = torch.randn(4000, 4, generator=generator), torch.rand(4000, generator=generator)
    x = flow.interpolate(t, noise)
    exact = flow.velocity(t, x)
    with torch.no_grad():
        error = (result.network(t, x) - exact).square().mean() / exact.square().mean()
    assert result.history[-1].field_error == pytest.approx(float(error), rel=0.1)


def test_same_seed_same_network(whole: pf.matching.TrainResult) -> None:
    assert _same(whole, runs.small_run(runs.network()))
    assert not _same(whole, runs.small_run(runs.network(), seed=6))


def test_given_network_is_the_last_one(whole: pf.matching.TrainResult) -> None:
    network = runs.network()
    result = runs.small_run(network)
    assert result.last_network is network
    averaged: Any = result.network
    assert not torch.equal(averaged.input.weight, network.input.weight)
    assert not result.network.training


@pytest.mark.parametrize("moment", [1, 13, 39])
def test_resumed_after_a_crash_it_ends_the_same(whole: pf.matching.TrainResult, tmp_path: Path, moment: int) -> None:
    network, calls = runs.network(), 0

    def crash(module: torch.nn.Module, _: object) -> None:
        nonlocal calls
        calls += module.training
        if calls == moment:
            raise RuntimeError("power cut")

    handle = network.register_forward_pre_hook(crash)
    with pytest.raises(RuntimeError, match="power cut"):
        runs.small_run(network, checkpoint=tmp_path / "state", checkpoint_every=6)
    handle.remove()
    result = runs.small_run(runs.network(), checkpoint=tmp_path / "state", checkpoint_every=6)
    assert _same(whole, result)
    assert [r.loss for r in result.history] == [r.loss for r in whole.history]


def test_a_handler_of_a_program_that_has_python_in_it_is_left_alone(
    whole: pf.matching.TrainResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(number: int, handler: object) -> None:
        assert handler is not None, "Python cannot install what it does not know"

    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "signal", installed)
    assert _same(whole, runs.small_run(runs.network()))


def test_interrupt_ends_the_step_saves_and_returns(whole: pf.matching.TrainResult, tmp_path: Path) -> None:
    network, calls = runs.network(), 0

    def press(module: torch.nn.Module, _: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 17:
            os.kill(os.getpid(), signal.SIGINT)

    handle = network.register_forward_pre_hook(press)
    stopped = runs.small_run(network, checkpoint=tmp_path / "state")
    handle.remove()
    assert not stopped.finished
    assert stopped.steps == 17
    assert _same(whole, runs.small_run(runs.network(), checkpoint=tmp_path / "state"))


def test_finished_run_resumed_is_returned(whole: pf.matching.TrainResult, tmp_path: Path) -> None:
    runs.small_run(runs.network(), checkpoint=tmp_path / "state")
    again = runs.small_run(runs.network(), checkpoint=tmp_path / "state")
    assert again.finished
    assert _same(whole, again)


def test_other_data_or_options_are_refused(tmp_path: Path) -> None:
    runs.small_run(runs.network(), checkpoint=tmp_path / "state")
    with pytest.raises(ValueError, match="belongs to a run on other data"):
        runs.small_run(runs.network(), checkpoint=tmp_path / "state", seed=6)
    moved = runs.points()
    moved[7, 1] += 1e-3
    with pytest.raises(ValueError, match="belongs to a run on other data"):
        train(
            runs.network(),
            pf.couplings.Minibatch(moved, 100, runs.labels()),
            steps=runs.STEPS,
            batch_size=32,
            seed=5,
            checkpoint=tmp_path / "state",
            progress=False,
        )
    pf.save(pf.schedules.Linear(), tmp_path / "other")
    with pytest.raises(ValueError, match="is not a checkpoint of a training run"):
        runs.small_run(runs.network(), checkpoint=tmp_path / "other")


def test_more_steps_lengthen_a_finished_run(tmp_path: Path) -> None:
    state = tmp_path / "state"
    short = runs.small_run(runs.network(), checkpoint=state)
    long = runs.small_run(runs.network(), checkpoint=state, steps=2 * runs.STEPS)
    assert long.finished
    assert long.steps == 2 * runs.STEPS
    assert [(each.step, each.loss) for each in long.history[:4]] == [(each.step, each.loss) for each in short.history]
    assert [each.step for each in long.history[4:]] == [50, 60, 70, 80]
    assert not _same(short, long)
    again = runs.small_run(runs.network(), checkpoint=state, steps=2 * runs.STEPS)
    assert _same(again, long)
    with pytest.raises(ValueError, match="has made 80 steps; ask for steps of at least that"):
        runs.small_run(runs.network(), checkpoint=state)


ROWS, TALL = runs.points(), 5 * runs.points()[:, :1]
OTHERS: dict[str, tuple[Any, ...]] = {
    "batch": (pf.couplings.Minibatch(ROWS, 60), pf.couplings.Minibatch(ROWS, 61)),
    "solver": (pf.couplings.Minibatch(ROWS, 60), pf.couplings.Minibatch(ROWS, 60, solver="sinkhorn")),
    "source": (
        pf.couplings.Independent(ROWS),
        pf.couplings.Independent(ROWS, source=pf.measures.Uniform(3)),
    ),
    "epsilon": tuple(
        pf.couplings.Semidiscrete(pf.potentials.Entropic(TALL, torch.zeros(len(TALL)), epsilon), TALL)
        for epsilon in (0.1, 0.2)
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_coupling_of_the_same_data_is_refused(what: str, tmp_path: Path) -> None:
    one, other = OTHERS[what]
    event = (one.rows.dim,)
    train(MLP(event, width=8), one, steps=2, checkpoint=tmp_path / "state", progress=False)
    train(MLP(event, width=8), one, steps=2, checkpoint=tmp_path / "state", progress=False)
    with pytest.raises(ValueError, match="belongs to a run on other data or with another network, coupling"):
        train(MLP(event, width=8), other, steps=2, checkpoint=tmp_path / "state", progress=False)


class _Power(pf.schedules.Schedule):
    """1 - t^n, told by a table of its powers."""

    def __init__(self, n: float) -> None:
        self.table = torch.full((2000,), 1.0)
        self.table[1000] = n

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        return 1 - t ** self.table[1000]

    def beta(self, t: torch.Tensor) -> torch.Tensor:
        return t ** self.table[1000]

    def alpha_derivative(self, t: torch.Tensor) -> torch.Tensor:
        return -self.table[1000] * t ** (self.table[1000] - 1)

    def beta_derivative(self, t: torch.Tensor) -> torch.Tensor:
        return self.table[1000] * t ** (self.table[1000] - 1)


class _Slotted:
    """Times from ``low`` to 1."""

    __slots__ = ("low",)

    def __init__(self, low: float) -> None:
        self.low = low

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        return self.low + (1 - self.low) * torch.rand(n, generator=generator)


PATHS: dict[str, tuple[Any, Any]] = {
    "powers that print alike": (
        {"schedule": pf.schedules.Polynomial(2)},
        {"schedule": pf.schedules.Polynomial(2.0000001)},
    ),
    "tables that print alike": ({"schedule": _Power(1.0)}, {"schedule": _Power(2.0)}),
    "laws of times": ({"times": _Slotted(0.0)}, {"times": _Slotted(0.1)}),
}


@pytest.mark.parametrize("what", PATHS)
def test_another_path_of_the_same_name_is_refused(what: str, tmp_path: Path) -> None:
    one, other = PATHS[what]
    runs.small_run(runs.network(), checkpoint=tmp_path / "state", steps=2, **one)
    torch.set_printoptions(precision=9)
    try:
        runs.small_run(runs.network(), checkpoint=tmp_path / "state", steps=2, **one)
    finally:
        torch.set_printoptions(profile="default")
    with pytest.raises(ValueError, match="belongs to a run on other data"):
        runs.small_run(runs.network(), checkpoint=tmp_path / "state", steps=2, **other)


class _OfTraining(pf.schedules.Linear):
    """Takes times as training gives them, (n, 1) in float32, and no others."""

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        assert t.dtype == torch.float32
        return 1 - t

    def beta(self, t: torch.Tensor) -> torch.Tensor:
        assert t.dtype == torch.float32
        return t


class _Counting(_Slotted):
    """Other times at every call, of 32 at once."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        super().__init__(0.0)
        self.calls = 0

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        assert n == 32
        self.calls += 1
        return super().sample(n, generator=generator) / self.calls


def test_a_checkpoint_changes_nothing_and_asks_nothing_of_a_path(tmp_path: Path) -> None:
    results = [
        runs.small_run(runs.network(), steps=3, schedule=_OfTraining(), times=_Counting(), checkpoint=path)
        for path in (None, tmp_path / "state")
    ]
    assert _same(*results)


def test_a_coupling_can_be_trained_on_twice() -> None:
    coupling = pf.couplings.Minibatch(runs.points(), 100, runs.labels())
    one, other = (train(runs.network(), coupling, steps=5, batch_size=32, progress=False) for _ in range(2))
    assert _same(one, other)


def test_a_checkpoint_in_no_folder_is_refused_before_training(tmp_path: Path) -> None:
    network, calls = runs.network(), []
    network.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=r"the folder of the checkpoint .* does not exist"):
        runs.small_run(network, checkpoint=tmp_path / "nowhere" / "state")
    assert not calls


def test_a_gradient_that_is_not_finite_does_not_reach_the_checkpoint(tmp_path: Path) -> None:
    network = runs.network()
    calls = 0

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return gradient * math.nan if calls == 10 else gradient

    network.output.bias.register_hook(spoil)
    with pytest.raises(pf.ConvergenceError, match=r"parameter .* not finite at step 10; .*state keeps the last good"):
        runs.small_run(network, checkpoint=tmp_path / "state", checkpoint_every=5)
    kept = pf.load(tmp_path / "state")
    assert kept.step == 5
    assert all(bool(torch.isfinite(value).all()) for value in kept.network.values())


def test_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    network, calls = runs.network(), 0

    def spoil(module: Any, _: object) -> None:
        nonlocal calls
        calls += module.training
        if calls == 15:
            module.output.bias.data.fill_(torch.nan)

    network.register_forward_pre_hook(spoil)
    with pytest.raises(pf.ConvergenceError, match=r"nan at step 15; .*state keeps the last good one"):
        runs.small_run(network, checkpoint=tmp_path / "state", checkpoint_every=5)
    kept = pf.load(tmp_path / "state")
    assert kept.step == 10
    assert all(bool(torch.isfinite(value).all()) for value in kept.network.values())


def test_logs(tmp_path: Path) -> None:
    result = runs.small_run(runs.network(), log_dir=tmp_path)
    with open(tmp_path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [10, 20, 30, 40]
    assert [float(row["loss"]) for row in rows] == [record.loss for record in result.history]
    assert all(math.isnan(float(row["field_error"])) for row in rows)  # a minibatch coupling is no reference
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_bf16_learns_too() -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    try:
        result = runs.small_run(runs.network(), mixed_precision="bf16")
    finally:
        AcceleratorState._reset_state()
    assert result.history[-1].loss < result.history[0].loss
    trained: Any = result.network
    assert trained.input.weight.dtype == torch.float32


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.999])
def test_average_is_that_of_the_parameters(decay: float) -> None:
    network, kept = runs.network(), []
    network.register_forward_pre_hook(lambda module, _: kept.append(module.output.bias.detach().clone()))
    result = runs.small_run(network, steps=4, ema_decay=decay, evaluate_every=4)
    trained: Any = result.network
    after = [*kept[1:], network.output.bias.detach()]
    average = after[0]
    for k, value in enumerate(after[1:], start=1):
        kept_share = min(decay, (1 + k) / (10 + k))
        average = kept_share * average + (1 - kept_share) * value
    assert torch.allclose(trained.output.bias, average, rtol=1e-6)


def test_labels_are_dropped_as_often_as_asked() -> None:
    seen = []
    network = runs.network()
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    runs.small_run(network, label_dropout=0.25)
    labels = torch.cat(seen)
    share = float((labels == -1).float().mean())
    assert abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / len(labels))
    assert set(labels.tolist()) == {-1, 0, 1, 2, 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"label_dropout": -0.1}, "label_dropout"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"gradient_clip": 0.0}, "gradient_clip"),
        ({"mixed_precision": "fp8"}, "mixed_precision"),
        ({"evaluate_every": 0}, "evaluate_every"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runs.small_run(runs.network(), **options)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool])
def test_labels_of_any_whole_number_type_are_dropped_to_minus_one(dtype: torch.dtype) -> None:
    seen = []
    network = MLP((3,), width=8, classes=2)
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    coupling = pf.couplings.Independent(runs.points(), (runs.labels() % 2).to(dtype))
    train(network, coupling, steps=5, label_dropout=0.5, progress=False)
    assert set(torch.cat(seen).tolist()) == {-1, 0, 1}


def test_rows_of_whole_number_labels_are_dropped_together() -> None:
    seen = []

    class OfThreeLabels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))

        def forward(self, t: torch.Tensor, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            seen.append(label)
            return self.scale * x

    labels = torch.stack([runs.labels(), 10 + runs.labels(), 20 + runs.labels()], dim=1)
    coupling = pf.couplings.Independent(runs.points(), labels)
    train(OfThreeLabels(), coupling, steps=5, label_dropout=0.5, progress=False)
    found = {tuple(row) for row in torch.cat(seen).tolist()}
    assert found == {(-1, -1, -1)} | {tuple(row) for row in labels.tolist()}


def test_whole_steps_and_a_coupling_are_needed() -> None:
    with pytest.raises(ValueError, match="steps must be a whole number"):
        runs.small_run(runs.network(), steps=2.5)
    with pytest.raises(ValueError, match=r"must have sample.* got Tensor; .*couplings.Independent"):
        train(runs.network(), runs.points(), steps=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("network", "label", "guidance", "message"),
    [
        (MLP((3,), width=8, classes=2), 7, 1.0, "the network has labels 0 to 1, got 7"),
        (MLP((3,), width=8), 1, 1.0, "the network has no labels, got 1"),
        (MLP((3,), width=8, classes=2), 1, math.inf, "guidance must be a finite number"),
    ],
)
def test_fields_of_labels_that_are_not_there(network: MLP, label: int, guidance: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        field_of(network, label, guidance)


@pytest.mark.parametrize("label", [1.7, torch.tensor([0.2, 0.9, 1.0]), torch.zeros(3, 1, dtype=torch.int64), "1", True])
def test_labels_that_are_no_whole_numbers_are_not_rounded_to_one(label: Any) -> None:
    with pytest.raises(ValueError, match=r"label must be"):
        field_of(MLP((3,), width=8, classes=2), label)(0.5, torch.zeros(3, 3))


def test_labels_of_any_whole_number_type_name_a_class() -> None:
    network, x = MLP((3,), width=8, classes=2), torch.randn(2, 3)
    expected = network(torch.full((2,), 0.5), x, torch.tensor([1, 0]))
    for labels in (
        [1, 0],
        np.array([1, 0], np.uint16),
        torch.tensor([True, False]),
        torch.tensor([1, 0]).to(torch.uint8),
    ):
        assert torch.equal(field_of(network, labels)(0.5, x), expected)  # type: ignore[arg-type]
    for one in (1, np.int64(1), np.array(1), torch.tensor(1)):
        assert torch.equal(field_of(network, one)(0.5, x)[0], expected[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [torch.rand(runs.points().shape[0]), torch.zeros(runs.points().shape[0], 1).long()])
def test_classes_are_trained_on_whole_numbers_only(labels: torch.Tensor) -> None:
    """Others were rounded to a class, and never dropped."""
    with pytest.raises(ValueError, match=r"takes labels \(N,\) in whole numbers, got"):
        train(MLP((3,), width=8, classes=2), pf.couplings.Independent(runs.points(), labels), steps=1)


@pytest.mark.parametrize("least", [-0.1, 0.9, math.nan])
def test_times_out_of_range_are_refused(least: float) -> None:
    class Times:
        def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
            return least + 0.5 * torch.rand(n, generator=generator)

    with pytest.raises(ValueError, match=r"times.sample must give times in \[0, 1\), got"):
        train(MLP((3,), width=8), pf.couplings.Independent(runs.points()), steps=1, times=Times(), progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": "uniform"}, "train: times must have sample"),
        ({"reference": runs.points()}, "a coupling must have sample.* got Tensor"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(MLP((3,), width=8), pf.couplings.Independent(runs.points()), steps=1, progress=False, **options)


def test_labels_that_the_network_cannot_be_told_are_refused() -> None:
    class OfTimeAndPoint(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 3)

        def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    with pytest.raises(ValueError, match=r"the coupling has labels, but OfTimeAndPoint.forward takes none"):
        train(OfTimeAndPoint(), pf.couplings.Independent(runs.points(), runs.labels()), steps=1, progress=False)
    assert train(OfTimeAndPoint(), pf.couplings.Independent(runs.points()), steps=1, progress=False).finished


def test_labels_beyond_the_network_are_refused() -> None:
    with pytest.raises(ValueError, match="labels run from 0 to 3, the network has 2 classes"):
        runs.small_run(MLP((3,), width=8, classes=2))


def test_data_that_do_not_fit_the_network_are_refused() -> None:
    with pytest.raises(ValueError, match="the network has 2 classes, but the coupling has no labels"):
        train(MLP((3,), width=8, classes=2), pf.couplings.Independent(runs.points()), steps=1)
    with pytest.raises(ValueError, match=r"parameters are torch\.float32, the coupling's pairs torch\.float64"):
        train(MLP((3,), width=8), pf.couplings.Independent(runs.points().double()), steps=1)
    with pytest.raises(ValueError, match=r"the network must be a torch\.nn\.Module, got function"):
        train(lambda t, x: x, pf.couplings.Independent(runs.points()), steps=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="schedule must be a proxflow Schedule"):
        train(MLP((3,), width=8), pf.couplings.Independent(runs.points()), steps=1, schedule="cosine")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (lambda n: (torch.zeros(n, 3), torch.ones(n, 3)), "n = 16, got tuple"),
        (
            lambda n: pf.couplings.Pairs(torch.zeros(n - 1, 3), torch.ones(n - 1, 3), torch.arange(n - 1)),
            "got 15 of them",
        ),
    ],
    ids=["tuple", "too few"],
)
def test_a_coupling_that_gives_something_else_is_refused(given: Callable[..., Any], named: str) -> None:
    class Own:
        def sample(self, n: int, *, generator: torch.Generator | None = None) -> Any:
            return given(n)

    with pytest.raises(ValueError, match=rf"must give Pairs, .*{named}"):
        train(MLP((3,), width=8), Own(), steps=2, batch_size=16, progress=False)


def test_a_field_calls_its_network_as_training_does() -> None:
    def network(t: torch.Tensor, x: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        return torch.cat([x, t[:, None]], 1).sum(1, keepdim=True) * (x if label is None else label[:, None] * x)

    x = torch.randn(4, 3)
    end = pf.sampling.integrate(field_of(network), x, steps=3, method="midpoint").end
    assert torch.isfinite(end).all()
    of_two: Any = field_of(network, 2)
    assert torch.equal(of_two(0.5, x), network(torch.full((4,), 0.5), x, torch.full((4,), 2)))
    of_another: Any = field_of(network, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="there are 2 labels for 4 points"):
        of_another(0.5, x)


def test_own_coupling_network_and_times() -> None:
    class Own:
        def sample(self, n: int, *, generator: torch.Generator | None = None) -> pf.couplings.Pairs:
            noise = torch.randn(n, 2, generator=generator)
            return pf.couplings.Pairs(noise, noise + 1, torch.arange(n))

    class Shift(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.nn.Parameter(torch.zeros(2))

        def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return self.shift.expand_as(x)

    result = train(Shift(), Own(), steps=300, learning_rate=0.1, times=LogitNormal(), ema_decay=0.9, progress=False)
    assert torch.allclose(result.network.get_parameter("shift"), torch.ones(2), atol=1e-2)


def test_guidance_extrapolates_from_no_label() -> None:
    network = runs.network()
    t, x = torch.tensor(0.3), torch.randn(5, 3)
    plain, conditional = network(t, x), network(t, x, torch.full((5,), 2))
    assert torch.equal(field_of(network)(t, x), plain)
    assert torch.equal(field_of(network, 2)(t, x), conditional)
    assert torch.allclose(field_of(network, 2, 3.0)(t, x), plain + 3 * (conditional - plain), atol=1e-6)
    with pytest.raises(ValueError, match="needs a label"):
        field_of(network, guidance=2.0)


def test_a_field_error_is_measured_where_the_noise_decides_the_point_and_nowhere_else() -> None:
    """The velocities of other pairs scatter about the field: a perfect network would not have error 0."""
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    labels, cp = torch.arange(40) % 2, pf.couplings
    exact, smooth = (pf.semidiscrete.fit(points, epsilon=epsilon, tol=0.1).potential for epsilon in (0.0, 0.5))
    decided: dict[pf.couplings.Coupling, bool] = {
        cp.Semidiscrete(exact, points): True,
        cp.Semidiscrete(smooth, points): False,
        cp.Subspace.fit(points, dim=3, tol=0.1): True,
        cp.Subspace.fit(points, dim=2, tol=0.1): False,
        cp.Conditional.fit(points, labels, tol=0.1): True,
        cp.Conditional.fit(points, labels, directions=1, tol=0.1): False,
        cp.Independent(points): False,
    }
    for coupling, known in decided.items():
        network = pf.matching.MLP((3,), width=8, depth=1, classes=0)
        trained = train(network, Unlabelled(coupling), steps=1, batch_size=8, progress=False)
        assert math.isfinite(trained.history[-1].field_error) == known, type(coupling).__name__


class Unlabelled:
    """The pairs of a coupling without their labels."""

    def __init__(self, coupling: pf.couplings.Coupling) -> None:
        self.coupling = coupling
        self.deterministic = getattr(coupling, "deterministic", False)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> pf.couplings.Pairs:
        return dataclasses.replace(self.coupling.sample(n, generator=generator), label=None)


class _ByLabel(torch.nn.Module):
    """The exact velocity from N(0, I) to N(0, s_k^2 I) under label k, for s = (1, 3)."""

    classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.scales = torch.nn.Parameter(torch.tensor([1.0, 3.0]))

    def forward(self, t: torch.Tensor, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        scale = self.scales[label]
        return ((scale - 1) / (1 - t + t * scale))[:, None] * x


def test_the_spread_of_a_result_is_that_of_its_samples_under_the_labels_of_the_rows() -> None:
    generator = torch.Generator().manual_seed(2)
    labels = (torch.arange(20000) % 4 == 0).long()  # label 1, of scale 3, in a quarter of the rows
    points = 2 * torch.randn(len(labels), 3, generator=generator)
    coupling = pf.couplings.Independent(points, labels)
    network = _ByLabel()
    result = pf.matching.TrainResult(network, network, (), 1, True, 0.0, 0, coupling)
    found, expected = result.spread, (0.75 * 1 + 0.25 * 9) / 4
    assert found.total == pytest.approx(expected, abs=4 * found.total_error)
    assert 0 < found.total_error < 0.05
    assert result.spread is found


class _Optimal(torch.nn.Module):
    """The field of optimal pairs with N(0, .04 I)."""

    classes = 0

    def __init__(self, schedule: pf.schedules.Schedule) -> None:
        super().__init__()
        self.scale, self.schedule = torch.nn.Parameter(torch.tensor(0.2)), schedule

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        rate = self.schedule.alpha_derivative(t) + self.schedule.beta_derivative(t) * self.scale
        return (rate / (self.schedule.alpha(t) + self.schedule.beta(t) * self.scale))[:, None] * x


@pytest.mark.parametrize("schedule", [pf.schedules.Linear(), pf.schedules.Polynomial(0.5)], ids=str)
def test_the_spread_is_that_along_the_path_that_was_trained_on_and_without_labels_that_it_ignores(
    schedule: pf.schedules.Schedule,
) -> None:
    """By a last step of another path than (1 - t)^(1/2) it was 1.56."""
    points = 0.2 * torch.randn(20000, 3, generator=torch.Generator().manual_seed(1))
    network, coupling = _Optimal(schedule), pf.couplings.Independent(points, torch.arange(20000) % 3)
    found = pf.matching.TrainResult(network, network, (), 1, True, 0.0, 0, coupling, schedule).spread
    assert found.total == pytest.approx(1, abs=4 * found.total_error)


def test_what_is_told_of_a_result_does_not_depend_on_what_was_drawn_before() -> None:
    def spread_after(draws: int) -> float:
        coupling = pf.couplings.Minibatch(runs.points(), 100, runs.labels())
        coupling.sample(draws, generator=torch.Generator().manual_seed(1))
        model = runs.network()
        return pf.matching.TrainResult(model, model, (), 1, True, 0.0, 0, coupling).spread.total

    assert spread_after(10) == spread_after(37)


class _Watched(torch.nn.Module):
    """Still; keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.size = torch.nn.Parameter(torch.zeros(()))
        self.given: list[torch.Tensor] = []

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        self.given.append(x)
        return self.size * x


def test_samples_of_few_steps_come_from_the_noise_and_the_path_that_were_trained_on() -> None:
    points = torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    coupling = pf.couplings.Independent(points, source=pf.measures.Uniform(2, 0.0, 1.0))
    network = _Watched()
    result = train(network, coupling, steps=1, progress=False, schedule=pf.schedules.Cosine())
    assert result.schedule == pf.schedules.Cosine()
    averaged = result.network
    assert isinstance(averaged, _Watched)
    averaged.given.clear()
    result.few_steps(points, count=200, steps=(1,))
    noise = averaged.given[0]
    with pytest.raises(ValueError, match="few_steps: the data have 3 coordinates, the noise that was trained on 2"):
        result.few_steps(torch.zeros(10, 3))
    assert 0 <= float(noise.min()) < 0.1 < 0.9 < float(noise.max()) <= 1
    again = result.few_steps(points.double().numpy(), count=200, steps=(1,))
    assert again.samples.dtype == torch.float32
    with pytest.raises(ValueError, match="steps must name at least one number"):
        result.few_steps(points, steps=())
