"""Networks: shapes, labels, times, and files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import proxflow as pf
from proxflow.matching import MLP, ResidualMLP, UNet


def residual(shape: tuple[int, ...], **options: Any) -> ResidualMLP:
    """One that is no longer zero, as every residual network is that was not trained."""
    network = ResidualMLP(shape, width=16, depth=2, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network


CASES = [
    pytest.param(lambda **k: residual((5,), **k), (5,), id="residual"),
    pytest.param(lambda **k: residual((4, 4), **k), (4, 4), id="residual, narrower than the image"),
    pytest.param(lambda **k: MLP((5,), width=16, depth=2, **k), (5,), id="vector"),
    pytest.param(lambda **k: MLP((4, 4), width=16, **k), (4, 4), id="image as vector"),
    pytest.param(lambda **k: UNet((9, 7), channels=(8, 16), **k), (9, 7), id="grey image"),
    pytest.param(lambda **k: UNet((3, 8, 8), channels=(8, 16), **k), (3, 8, 8), id="colour image"),
]


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_velocity_has_the_shape_of_the_point(make: Callable[..., Any], shape: tuple[int, ...]) -> None:
    network = make().eval()
    x = torch.randn(3, *shape)
    one = network(0.25, x)
    assert one.shape == x.shape
    assert torch.allclose(one, network(torch.full((3,), 0.25), x), atol=1e-6)
    assert torch.allclose(one, network(torch.tensor(0.25), x), atol=1e-6)
    assert not torch.allclose(one, network(0.75, x), atol=1e-6)


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_no_label_is_label_minus_one(make: Callable[..., Any], shape: tuple[int, ...]) -> None:
    network = make(classes=3).eval()
    x = torch.randn(3, *shape)
    assert torch.allclose(network(0.5, x), network(0.5, x, torch.tensor([-1, -1, -1])), atol=1e-6)
    assert not torch.allclose(network(0.5, x), network(0.5, x, torch.tensor([0, 1, 2])), atol=1e-6)
    assert torch.allclose(network(0.5, x, torch.tensor(2)), network(0.5, x, torch.full((3,), 2)), atol=1e-6)


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_saved_and_loaded(make: Callable[..., Any], shape: tuple[int, ...], tmp_path: Path) -> None:
    network = make(classes=2).eval()
    pf.save(network, tmp_path / "network")
    x = torch.randn(2, *shape)
    assert torch.equal(pf.load(tmp_path / "network").eval()(0.5, x), network(0.5, x))


@pytest.mark.parametrize("classes", [0, 3])
def test_a_residual_network_begins_as_the_field_that_does_not_move(classes: int) -> None:
    """Zero output, and gates of zero: blocks are the identity when they begin, and learn from the first step on."""
    network, x = ResidualMLP((40,), width=16, classes=classes), torch.randn(3, 40)
    assert not network(0.3, x).any()
    torch.nn.init.normal_(network.output.weight)
    assert torch.equal(network(0.3, x), network(0.9, x))
    network(0.3, x).sum().backward()
    learnt: Any = network
    assert learnt.blocks[0].gate.weight.grad.abs().max() > 0
    assert learnt.norm.modulation.weight.grad.abs().max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("make", [MLP, pytest.param(ResidualMLP, marks=pytest.mark.slow)])
def test_a_perceptron_narrower_than_its_points_learns_to_take_the_noise_away(make: Callable[..., Any]) -> None:
    """All data at 0: the velocity is -x / (1 - t), of rank 40; 8 hidden units leave four fifths of it."""
    torch.manual_seed(0)
    points = 1e-3 * torch.randn(30, 40)
    coupling = pf.couplings.Independent(points)
    options: dict[str, Any] = {"steps": 600, "learning_rate": 1e-2, "progress": False, "reference": coupling}
    error = pf.matching.train(make((40,), width=8), coupling, **options).history[-1].field_error
    without = make((40,), width=8)
    without.bypass = None
    assert error < 0.3
    assert pf.matching.train(without, coupling, **options).history[-1].field_error > 0.7


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match="sizes must be at least 1"):
        MLP((2,), width=0)
    with pytest.raises(ValueError, match="ResidualMLP: sizes must be at least 1"):
        ResidualMLP((2,), depth=0)
    with pytest.raises(ValueError, match="use MLP for vectors"):
        UNet((5,))
    with pytest.raises(ValueError, match="channels must be at least 8"):
        UNet((8, 8), channels=())


@pytest.mark.parametrize(
    ("shape", "levels", "message"),
    [((28, 28, 3), 2, r"looks like \(H, W, C\); channels come first"), ((1, 6, 9), 4, "halve an image 3 times")],
)
def test_images_that_no_unet_takes(shape: tuple[int, ...], levels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(shape, channels=(8,) * levels)


def test_unet_without_diffusers_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.models.unets.unet_2d", None)
    with pytest.raises(ImportError, match=r"proxflow\[images\]"):
        UNet((8, 8))


def test_training_without_accelerate_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.matching import runs

    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"proxflow\[train\]"):
        runs.small_run(runs.network())
