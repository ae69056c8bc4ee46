"""How a model is called and what it predicts, found from its data or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import proxflow as pf
from proxflow.adapters import ORDERS, Convention, convention_named, detect_field, read_model
from proxflow.schedules import Linear
from tests.adapters.models import (
    exact_model,
    moons_coupling,
    normal_field,
    normal_rows,
    write_script,
)
from tests.marks import slow_beyond

FIELD = normal_field()
ROWS = normal_rows()


def _by_column(x: Tensor, time: Tensor) -> Tensor:
    assert time.shape == (len(x), 1)
    return FIELD(x, time[:, 0])


CALLABLES: dict[str, Callable[..., Any]] = {
    "x,t": lambda x, t: FIELD(x, t),
    "t,x": lambda time, points: FIELD(points, time),
    "x,column-t": _by_column,
    "column-t,x": lambda timestep, x: _by_column(x, timestep),
    "concatenated": lambda both: FIELD(both[:, :2], both[:, 2]),
}


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_the_order_of_arguments_is_found(order: str) -> None:
    found = detect_field(CALLABLES[order], ROWS)
    assert found.call.order == order
    assert found.convention == Convention()
    torch.testing.assert_close(found.field(0.3, ROWS), FIELD(ROWS, torch.full((len(ROWS),), 0.3)))


NAMES = ["torchcfm", "data", "diffusers", "noise-reversed", "velocity-reversed:1000"]


@pytest.mark.parametrize("name", slow_beyond(1, NAMES))
@torch.no_grad()
def test_what_it_predicts_is_found_and_what_is_stated_is_checked(name: str) -> None:
    """On exact models of pairs of optimal transport, which independent pairs alone need not tell."""
    convention, rows = convention_named(name), moons_coupling().potential.points
    model = exact_model(convention, Linear())
    found = detect_field(model, rows)
    assert found.convention == convention
    assert detect_field(model, rows, convention=convention).convention == convention
    other = Convention("data", "reversed")
    with pytest.raises(ValueError, match=f"does not predict data at reversed time, but {convention}") as caught:
        detect_field(model, rows, convention=other)
    assert f"convention {convention.name!r}" in str(caught.value)


def test_names_of_conventions_are_read_as_they_are_written() -> None:
    for name in ("velocity", "negative-velocity-reversed:1000", "score-reversed", "data:0.5", "noise"):
        assert convention_named(name).name == name
    for unit in (1 / 3, 123456.789, 1e20, 999):
        assert convention_named(Convention("noise", unit=unit).name).unit == unit
    for name in ("", "flow", "velocity-backwards", "velocity:", "velocity:0.5.1", "noise:-1", "noise: 1000"):
        with pytest.raises(ValueError, match="convention must be one of"):
            convention_named(name)
    with pytest.raises(ValueError, match="unit must be a positive"):
        convention_named("velocity:0")


def test_nothing_is_guessed() -> None:
    torch.manual_seed(0)
    untrained = pf.matching.MLP((2,), width=8)
    with pytest.raises(ValueError, match="the data cannot tell what the model predicts"):
        detect_field(untrained, ROWS)
    stated = detect_field(untrained, ROWS, convention=Convention())
    assert "the data cannot tell" in str(stated)
    layer = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="which differ; state the order"):
        detect_field(lambda a, b: layer(torch.cat([a, b], 1)), ROWS)


def test_points_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"does not take the data .*\(5x4 and 3x2\)"):
        detect_field(lambda both: nn.Linear(3, 2)(both), torch.randn(50, 3))
    with pytest.raises(ValueError, match=r"on points \(2,\) raised ValueError: the model gave float"):
        detect_field(lambda t, x: 1.0, ROWS)
    with pytest.raises(ValueError, match="order must be one of"):
        detect_field(FIELD, ROWS, order="t;x")


def test_images_get_the_axis_that_a_network_needs() -> None:
    """Images without a channel go to a convolution with one, and rows of pixels to a perceptron."""
    images = torch.randn(40, 6, 5, generator=torch.Generator().manual_seed(0))
    convolution, layer = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(31, 30)
    found = detect_field(lambda x, t: (convolution(x),), images, convention=Convention())
    assert found.call.event_shape == (1, 6, 5)
    assert found.field(0.5, images).shape == images.shape
    found = detect_field(lambda both: layer(both), images, convention=Convention())
    assert found.call.event_shape == (30,)
    rows = torch.cat([images.flatten(1), torch.full((40, 1), 0.5)], 1)
    torch.testing.assert_close(found.field(0.5, images).flatten(1), layer(rows))


def test_scripts_have_the_derivatives_of_their_networks(tmp_path: Path) -> None:
    """A program that PyTorch had optimised for calls that ask for no derivative in x gave zeros from then on."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2))
    script = read_model(write_script(network, tmp_path / "model.ts"))
    found = []
    for model in (network, script):
        field = pf.adapters.torchcfm.to_field(model, layout="concatenated")
        for _ in range(4):
            field(0.5, ROWS)
        audit = pf.analysis.audit(field, data=ROWS, count=64, steps=8, compare_independent=False, progress=False)
        figures = audit.figures
        with torch.no_grad():
            likelihood = pf.sampling.log_likelihood(field, ROWS[:8]).value
        found.append((figures["jacobian_asymmetry"].value, figures["local_dimension"].value, *likelihood.tolist()))
    assert found[0][0] > 0.01
    assert found[1] == pytest.approx(found[0], rel=1e-4)
