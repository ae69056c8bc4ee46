"""The likelihood that an audit measures, against the entropy of normal laws, and where it is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.analysis import audit
from proxflow.analysis.auditing.audit_subject import Given, subject_of
from proxflow.analysis.auditing.held_out_likelihood import density_bits
from tests.peak_memory import peak_bytes

f64 = torch.float64
WIDE = torch.tensor([2.0, 0.5, 1.2], dtype=f64)
ENTROPY = float(0.5 * math.log2(2 * math.pi * math.e) + WIDE.log2().mean())  # bits by dimension, of N(0, diag(WIDE^2))


def field(t: Tensor, x: Tensor) -> Tensor:
    """Of independent pairs of N(0, I) and N(0, diag(WIDE^2))."""
    return (t * WIDE**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * WIDE**2) * x


def draws(count: int, seed: int) -> Tensor:
    return WIDE * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=f64)


def quick(model: object, *args: object, **options: object) -> pf.analysis.Audit:
    return audit(model, *args, count=64, steps=8, compare_independent=False, likelihood=True, progress=False, **options)  # type: ignore[arg-type]


def test_of_a_normal_law_it_is_the_entropy() -> None:
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(3, dtype=f64), torch.diag(WIDE**2)))
    found = quick(field, flow, data=draws(300, 0), held_out=draws(200, 1)).figures["density_bits"]
    assert found.low <= ENTROPY <= found.high
    assert found.high - found.low < 0.4
    assert found.exact == pytest.approx(found.value, abs=1e-3)  # of the same rows, in closed form


@pytest.mark.slow
def test_intervals_cover_the_entropy() -> None:
    """At 95%, 200 repetitions cover at least 180 times but for chance of 1e-3."""
    covered = 0
    for seed in range(200):
        subject = subject_of(
            field, Given(None, None, draws(128, seed), None, None, None, None, seed), lambda said: None
        )
        found = density_bits(field, subject)
        covered += found.low <= ENTROPY <= found.high
    assert covered >= 180


def test_held_out_rows_come_before_the_data() -> None:
    found = quick(field, data=draws(300, 0), held_out=3 * draws(200, 1)).figures["density_bits"]
    assert found.low > ENTROPY + 1


def test_it_is_refused_in_a_line_where_it_makes_no_sense() -> None:
    rows = draws(30, 0)
    atoms = pf.ProximalFlow(pf.potentials.Discrete(rows, 0.5 * rows.square().sum(1)))
    with pytest.raises(ValueError, match="audit: there is no likelihood, leave it out") as refused:
        quick(atoms, data=rows)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="audit: the model does not lead to all rows"):
        quick(pf.IndependentField(rows), data=rows, held_out=rows + 0.3)
    with pytest.raises(ValueError, match="likelihood is that of rows, which were not given"):
        quick(lambda t, x: x, source=pf.measures.Gaussian(3))


def test_a_trained_network_leaves_no_graph_behind() -> None:
    """With one, the memory would be that of some 100 evaluations: many gigabytes for a network of usual size."""
    network = pf.matching.MLP((3,), width=128, depth=3).double()
    subject = subject_of(network, Given(None, None, draws(128, 0), None, None, None, None, 0), lambda said: None)
    alone = torch.randn(128, 3, dtype=f64)
    evaluation = peak_bytes(lambda: network(torch.tensor(0.5, dtype=f64), alone))
    assert peak_bytes(lambda: density_bits(network, subject)) < 20 * evaluation
