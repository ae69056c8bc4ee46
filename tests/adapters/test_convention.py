"""Any callable: read as stated, and told when the statement is wrong."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.adapters import Convention, check_convention, to_field
from proxflow.adapters.convention import DIRECTIONS, PREDICTIONS
from proxflow.results import Verdict
from tests.adapters.models import F64, digit_field, digit_images, exact_model, moons_coupling, moons_potential

CONVENTIONS = [Convention(prediction, time) for prediction, time in itertools.product(PREDICTIONS, DIRECTIONS)]
SCHEDULES = [pf.schedules.Linear(), pf.schedules.Cosine()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("convention", CONVENTIONS, ids=str)
def test_a_model_in_any_convention_is_the_field_that_it_means(
    convention: Convention, schedule: pf.schedules.Schedule
) -> None:
    flow = pf.ProximalFlow(moons_potential(), schedule)
    field = to_field(exact_model(convention, schedule), convention, schedule=schedule)
    x0 = torch.randn(50, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    for t in (0.05, 0.5, 0.95):
        x = flow.interpolate(t, x0)
        # the certificate of the flow times 1 / beta or 1 / alpha, at most 20, of the conversion
        torch.testing.assert_close(field(t, x), flow.velocity(t, x), rtol=0, atol=1e-8)
    times = torch.linspace(0.05, 0.95, 50, dtype=F64)
    torch.testing.assert_close(field(times, x0), flow.velocity(times, x0), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("convention", CONVENTIONS, ids=str)
def test_every_wrong_convention_is_named(convention: Convention, schedule: pf.schedules.Schedule) -> None:
    found = check_convention(exact_model(convention, schedule), moons_coupling(), schedule=schedule, count=512)
    assert found.best == convention
    assert found.verdict is (Verdict.verified if convention == Convention() else Verdict.failed)
    assert found.explained > 0.99
    assert str(convention) in found.message
    assert ("not velocity at forward time" in found.message) == (convention != Convention())


def test_independent_pairs_of_images_tell_a_field_that_is_no_transport_map() -> None:
    field = digit_field()
    reversed_sign = check_convention(lambda t, x: -field(1 - t, x), digit_images(), count=512)
    assert reversed_sign.verdict is Verdict.failed
    assert reversed_sign.best == Convention("negative velocity", "reversed")
    assert check_convention(field, digit_images(), count=512).verdict is Verdict.verified


def test_another_unit_of_time_is_found_among_those_given() -> None:
    stated, true = Convention("data"), Convention("data", unit=1000.0)
    model = exact_model(true, pf.schedules.Linear())
    found = check_convention(model, moons_coupling(), stated=stated, units=(1000.0,), count=256)
    assert (found.best, found.verdict) == (true, Verdict.failed)
    assert check_convention(model, moons_coupling(), stated=stated, count=256).verdict is Verdict.assumed


def test_untrained_networks_tell_nothing() -> None:
    points = digit_images().flatten(1)
    moons = moons_coupling().rows.flat.float()
    for seed in range(8):
        torch.manual_seed(seed)
        for data in (points, moons, 0.1 * moons, 3 + moons):
            for network in (pf.matching.MLP, pf.matching.ResidualMLP):
                found = check_convention(network(data.shape[1:], width=32), data, count=256, seed=seed)
                assert found.verdict is Verdict.assumed
                assert found.message.startswith("cannot tell")


def test_where_two_conventions_are_the_same_field_neither_is_named() -> None:
    """Independent pairs of N(0, I) and N(0, I): the field is a(t) x with a(1 - t) = -a(t)."""

    def field(t: Tensor, x: Tensor) -> Tensor:
        return (((2 * t - 1) / (t**2 + (1 - t) ** 2))[:, None]) * x

    points = torch.randn(4000, 16, dtype=F64, generator=torch.Generator().manual_seed(1))
    found = check_convention(field, points, count=4000)
    assert found.verdict is Verdict.assumed
    assert found.margin < 5
    assert {found.best, found.rival} == {Convention(), Convention("negative velocity", "reversed")}


def test_pairs_of_another_coupling_do_not_accuse_an_exact_flow() -> None:
    """Off the pairs that a model was trained on its error proves nothing; no verdict may come of it."""
    flow = exact_model(Convention(), pf.schedules.Linear())
    for seed in range(3):
        found = check_convention(flow, moons_coupling().rows.flat, seed=seed, count=256)
        assert found.verdict is not Verdict.failed


def test_a_trained_network_is_told_from_its_reverse() -> None:
    points = pf.data.load("digits", n=300).points.flatten(1)
    torch.manual_seed(0)
    network = pf.matching.MLP(points.shape[1:], width=128, depth=2)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    coupling = pf.couplings.Independent(points)
    for _ in range(100):
        path = pf.matching.sample_path(coupling.sample(256, generator=generator), torch.rand(256, generator=generator))
        loss = pf.matching.flow_matching_loss(network, path)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert check_convention(network, points, count=1024).verdict is Verdict.verified
    found = check_convention(lambda t, x: network(1 - t, x), points, count=1024)
    assert (found.verdict, found.best) == (Verdict.failed, Convention(time="reversed"))


def test_a_noise_prediction_is_kept_off_the_beginning() -> None:
    field = to_field(exact_model(Convention("noise"), pf.schedules.Linear()), Convention("noise"))
    x = torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(2))
    assert bool(torch.isfinite(field(0.0, x)).all())
    assert torch.equal(field(0.0, x), field(1e-3, x))


def test_what_is_no_convention_is_refused() -> None:
    with pytest.raises(ValueError, match="prediction must be one of velocity"):
        Convention("epsilon")
    with pytest.raises(ValueError, match="time must be one of forward, reversed"):
        Convention(time="backwards")
    with pytest.raises(ValueError, match="unit must be a positive"):
        Convention(unit=0)
    with pytest.raises(ValueError, match="convention must be an"):
        to_field(lambda t, x: x, "velocity")  # type: ignore[arg-type]


def test_what_cannot_be_checked_is_refused() -> None:
    points = torch.randn(20, 2)
    with pytest.raises(ValueError, match=r"the model gave \(256, 1\) for x of \(256, 2\)"):
        check_convention(lambda t, x: x[:, :1], points)
    with pytest.raises(ValueError, match="NaN or inf at every reading"):
        check_convention(lambda t, x: x * torch.nan, points)
    with pytest.raises(ValueError, match="count must be an integer of at least 64"):
        check_convention(lambda t, x: x, points, count=3)


def test_the_adapters_need_no_library_before_they_are_used() -> None:
    peers = "{'torchcfm', 'flow_matching', 'diffusers', 'lightning', 'pytorch_lightning'}"
    program = (
        "import sys, proxflow as pf; pf.adapters.torchcfm, pf.adapters.flow_matching, pf.adapters.diffusers; "
        f"print(sorted({peers} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
