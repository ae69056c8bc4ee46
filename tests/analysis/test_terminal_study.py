"""A terminal study is made of parts that agree with one another."""

from __future__ import annotations

import pytest
import torch

import proxflow as pf
from proxflow.analysis import scale_law, terminal_study
from proxflow.schedules import Cosine, Linear


def noise(count: int, dim: int) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=repr)
def test_a_degenerate_normal_law(schedule: pf.schedules.Schedule) -> None:
    """Widths 2 and 0.5 in a plane: rates by the scale law, and each direction counts s / (s + scale)."""
    widths = torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64)
    flow = pf.ProximalFlow(
        pf.potentials.Quadratic(torch.zeros(3, dtype=torch.float64), torch.diag(widths**2)), schedule
    )
    study = terminal_study(flow, noise(8, 3), scale=0.5, times=(0.3, 0.9))
    assert study.spectrum.times.tolist() == [0.3, 0.9]
    for k, t in enumerate(study.spectrum.times):
        expected = torch.cat([scale_law(1 / widths[:2].flip(0), t, schedule), -torch.ones(1, dtype=torch.float64)])
        torch.testing.assert_close(study.spectrum.rates[k], expected.sort().values.expand(8, 3))
    torch.testing.assert_close(study.dimension.dimension, (widths / (widths + 0.5)).sum().expand(8))
    torch.testing.assert_close(study.perturbation.survival, study.perturbation.predicted)


def test_a_network_in_many_dimensions_gives_extreme_rates() -> None:
    torch.manual_seed(0)
    network = pf.matching.MLP((300,), width=16, depth=1)
    study = terminal_study(network, noise(3, 300).float(), scale=0.5, times=(0.5,))
    assert study.spectrum.rates.shape == (1, 3, 20)
    assert study.perturbation.ends.shape == (3, 4, 300)


@pytest.mark.parametrize("times", [(), (0.9, 0.5), (0.5, 0.5), (0.5, 1.0)])
def test_bad_times(times: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="terminal_study: times must be"):
        terminal_study(pf.ProximalFlow(pf.potentials.Ball(3)), noise(2, 3), scale=0.5, times=times)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), 1e12])
def test_bad_scales(scale: float) -> None:
    with pytest.raises(ValueError, match="scale must be"):
        terminal_study(pf.ProximalFlow(pf.potentials.Ball(3)), noise(2, 3), scale=scale)
