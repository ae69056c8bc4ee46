"""torchcfm's matcher and networks, beside the installed torchcfm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import proxflow as pf
from proxflow.adapters import Convention, check_convention
from proxflow.adapters.torchcfm import ConditionalFlowMatcher, to_field
from proxflow.results import Verdict
from tests.adapters.models import digit_field, digit_images, exact_model, moons_coupling, moons_potential

torchcfm = pytest.importorskip("torchcfm")
torchcfm_models = pytest.importorskip("torchcfm.models.models")


def batches(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=generator, dtype=dtype), torch.randn(shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(12, 2), (6, 3, 4, 4)], ids=str)
@pytest.mark.parametrize("return_noise", [False, True])
@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_on_paired_batches_the_numbers_are_torchcfms(
    shape: tuple[int, ...], dtype: torch.dtype, return_noise: bool, sigma: float
) -> None:
    """Same seed, same draws, of later batches too: only the permutation is ours."""
    x0, x1 = batches(*shape, dtype=dtype)
    pairs = pf.couplings.pair(x0, x1)
    torch.manual_seed(11)
    matcher = torchcfm.ConditionalFlowMatcher(sigma=sigma)
    drawn = [
        matcher.sample_location_and_conditional_flow(pairs.source, pairs.target, return_noise=return_noise)
        for _ in range(2)
    ]
    torch.manual_seed(11)
    matcher = ConditionalFlowMatcher(sigma=sigma)
    for theirs in drawn:
        ours = matcher.sample_location_and_conditional_flow(x0, x1, None, return_noise)
        assert len(ours) == len(theirs) == (4 if return_noise else 3)
        for mine, other in zip(ours, theirs, strict=True):
            assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
            assert torch.equal(mine, other)


@pytest.mark.parametrize("t", [0.5, torch.tensor(0.5), torch.zeros(5), torch.zeros(6, 2)])
def test_times_that_are_not_one_for_each_point_are_refused(t: Any) -> None:
    with pytest.raises(ValueError, match="t must be one time for each of 6 points, got"):
        ConditionalFlowMatcher().sample_location_and_conditional_flow(*batches(6, 2), t)


def test_the_guided_form_returns_what_torchcfm_returns_and_permutes_labels_with_their_points() -> None:
    x0, x1 = batches(20, 2)
    y0, y1 = torch.arange(20), 100 + torch.arange(20)
    theirs = torchcfm.ExactOptimalTransportConditionalFlowMatcher(0.0).guided_sample_location_and_conditional_flow(
        x0, x1, y0, y1, torch.full((20,), 0.25), True
    )
    ours = ConditionalFlowMatcher().guided_sample_location_and_conditional_flow(
        x0, x1, y0, y1, torch.full((20,), 0.25), True
    )
    assert [(one.dtype, one.shape) for one in ours] == [(one.dtype, one.shape) for one in theirs]
    _, x, velocity, source_label, target_label, _ = ours
    ends = x + 0.75 * velocity
    torch.testing.assert_close(ends, x1[target_label - 100])
    torch.testing.assert_close(x - 0.25 * velocity, x0[source_label])
    assert sorted(target_label.tolist()) == y1.tolist()
    assert ConditionalFlowMatcher().guided_sample_location_and_conditional_flow(x0, x1)[3:] == (None, None)


def test_a_population_coupling_keeps_the_loaders_rows_and_makes_their_noise() -> None:
    coupling = moons_coupling()
    points = coupling.rows.flat
    matcher = ConditionalFlowMatcher(coupling, generator=torch.Generator().manual_seed(0))
    rows = torch.randperm(len(points), generator=torch.Generator().manual_seed(1))[:50]
    given = torch.randn(50, 2, dtype=points.dtype, generator=torch.Generator().manual_seed(2))
    for x0 in (given, None):
        t, x, velocity, _, label = matcher.guided_sample_location_and_conditional_flow(x0, points[rows], None, rows)
        assert torch.equal(label, rows)
        torch.testing.assert_close(x + (1 - t)[:, None] * velocity, points[rows])
        source = x - t[:, None] * velocity
        assert torch.equal(moons_potential().sample_atom(source, None), coupling.atom_of_row[rows])
    half = points[rows].float() + 1
    _, x, _ = matcher.sample_location_and_conditional_flow(None, half, index=rows)
    assert x.dtype == torch.float32


def test_a_coupling_without_noise_for_rows_draws_whole_pairs_with_their_labels() -> None:
    points = torch.arange(40.0).reshape(20, 2)
    coupling = pf.couplings.Minibatch(points, 20, labels=torch.arange(20))
    matcher = ConditionalFlowMatcher(coupling, generator=torch.Generator().manual_seed(0))
    x0, x1 = batches(10, 2)
    t, x, velocity, y0, label = matcher.guided_sample_location_and_conditional_flow(x0, x1, None, torch.zeros(10))
    assert y0 is None
    torch.testing.assert_close(x + (1 - t)[:, None] * velocity, points[label], rtol=1e-5, atol=1e-5)
    unlabelled = ConditionalFlowMatcher(pf.couplings.Independent(points))
    with pytest.raises(ValueError, match="Independent draws its own rows and has no labels"):
        unlabelled.guided_sample_location_and_conditional_flow(x0, x1, None, torch.zeros(10))


def test_points_of_another_source_are_refused() -> None:
    points = moons_coupling().rows.flat
    with pytest.raises(ValueError, match=r"x0 has the mean square 2\d\.?\d*, the coupling's source Gaussian\(2\)"):
        ConditionalFlowMatcher(moons_coupling()).sample_location_and_conditional_flow(
            5 * torch.randn(100, 2, generator=torch.Generator().manual_seed(0)), points[:100]
        )


def test_what_the_matcher_cannot_use_is_refused() -> None:
    x0, x1 = batches(5, 2)
    with pytest.raises(ValueError, match="sigma must be a number of at least 0"):
        ConditionalFlowMatcher(sigma=-0.1)
    with pytest.raises(ValueError, match=r"t must be one time for each of 5 points, got \(3,\)"):
        ConditionalFlowMatcher().sample_location_and_conditional_flow(x0, x1, torch.rand(3))
    with pytest.raises(ValueError, match="without a coupling x0 must be given"):
        ConditionalFlowMatcher().sample_location_and_conditional_flow(None, x1)
    for drawing in (None, pf.couplings.Independent(x1)):
        with pytest.raises(ValueError, match="index names rows of a coupling that makes noise for them"):
            ConditionalFlowMatcher(drawing).sample_location_and_conditional_flow(x0, x1, index=torch.arange(5))
    with pytest.raises(ValueError, match="have no labels y0"):
        ConditionalFlowMatcher(moons_coupling()).guided_sample_location_and_conditional_flow(x0, x1, x0[:, 0])


class torch_wrapper(nn.Module):
    """As torchcfm's examples wrap a network for their solver: one time for all points."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, t: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.model(torch.cat([x, t.repeat(x.shape[0])[:, None]], 1))


def test_networks_of_x_and_t_concatenated_are_fields() -> None:
    torch.manual_seed(0)
    network = torchcfm_models.MLP(dim=2, time_varying=True)
    x = torch.randn(6, 2)
    wrapped = torch_wrapper(network)
    for field in (to_field(network), to_field(wrapped), to_field(network, layout="concatenated")):
        assert torch.equal(field(0.3, x), wrapped(torch.tensor(0.3), x))
        assert torch.equal(field(torch.linspace(0, 1, 6), x)[4], field(0.8, x)[4])
    with pytest.raises(ValueError, match=r"x must be \(B, d\), got \(2, 3, 4\)"):
        to_field(network)(0.5, torch.zeros(2, 3, 4))


def test_networks_of_t_and_x_are_fields_with_or_without_labels() -> None:
    class Labelled(nn.Module):
        def forward(self, t: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
            return t[:, None] * x + (0 if y is None else y[:, None])

    x = torch.randn(3, 2)
    torch.testing.assert_close(to_field(Labelled())(0.5, x), 0.5 * x)
    torch.testing.assert_close(to_field(Labelled(), label=torch.ones(3))(0.5, x), 0.5 * x + 1)


def test_a_layout_that_the_arguments_do_not_tell_must_be_stated() -> None:
    def anything(*inputs: Tensor) -> Tensor:
        return inputs[-1]

    with pytest.raises(ValueError, match="state layout="):
        to_field(anything)
    x = torch.randn(3, 2)
    assert torch.equal(to_field(anything, layout="t, x")(0.1, x), x)
    with pytest.raises(ValueError, match="layout must be one of"):
        to_field(anything, layout="x, t")
    with pytest.raises(ValueError, match="takes no label"):
        to_field(anything, layout="concatenated", label=torch.zeros(3))


def test_a_network_trained_on_swapped_batches_is_named() -> None:
    """x0 the data and x1 the noise: both time and sign are reversed."""
    field = digit_field()

    def network(t: Tensor, x: Tensor) -> Tensor:
        return -field(1 - t, x)

    found = check_convention(to_field(network), digit_images(), count=256)
    assert found.verdict is Verdict.failed
    assert "predicts negative velocity at reversed time, not velocity at forward time" in found.message


def test_a_network_of_x_and_t_that_predicts_the_data_is_named() -> None:
    data = exact_model(Convention("data"), pf.schedules.Linear())

    def network(x_and_t: Tensor) -> Tensor:
        return data(x_and_t[:, -1], x_and_t[:, :-1])

    found = check_convention(to_field(network), moons_coupling(), count=256)
    assert "predicts data at forward time, not velocity" in found.message


def test_rows_of_a_coupling_of_ones_own_may_be_anything() -> None:
    class Own:
        rows = np.zeros((5, 2))

        def sample(self, n: int, *, generator: torch.Generator | None = None) -> pf.couplings.Pairs:
            return pf.couplings.Pairs(torch.zeros(n, 2), torch.ones(n, 2), torch.zeros(n, dtype=torch.int64))

    velocity = ConditionalFlowMatcher(Own()).sample_location_and_conditional_flow(None, torch.zeros(7, 2))[2]
    assert torch.equal(velocity, torch.ones(7, 2))
