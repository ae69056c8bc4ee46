"""Records print in a few lines: the values of small tensors, shape and dtype of large ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import proxflow as pf

POINTS = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def fitted() -> pf.semidiscrete.Fit:
    return pf.semidiscrete.fit(POINTS, tol=0.5, progress=False)


def trained() -> pf.matching.TrainResult:
    network = pf.matching.MLP((12,), width=8, depth=2)
    return pf.matching.train(network, pf.couplings.Independent(POINTS), steps=2, batch_size=8, progress=False)


RECORDS: dict[str, tuple[Callable[[], object], list[str]]] = {
    "fit": (
        fitted,
        ["Fit(", "Discrete", "chi2=", "converged=True", "cell_mass=<200 float64>", "atom_of_row=<200 int64>"],
    ),
    "data": (lambda: pf.data.load("digits"), ["Dataset(", "points=<1797 x 8 x 8 float32>", "name='digits'"]),
    "pairs": (
        lambda: pf.couplings.Independent(POINTS).sample(64, generator=generator()),
        ["Pairs(source=<64 x 12 float32>", "label=None"],
    ),
    "prox": (
        lambda: pf.potentials.Ball(12).prox(POINTS, 0.5),
        ["ProxResult(point=<200 x 12 float32>", "status=<200 int64>"],
    ),
    "prox of one row": (lambda: pf.potentials.Ball(12).prox(POINTS[:1], 0.5), ["gap=[0]", "status=[0]"]),
    "trajectory": (
        lambda: pf.sampling.integrate(lambda t, x: -x, POINTS, 50),
        ["Trajectory(times=<51 float32>, points=<51 x 200 x 12 float32>, evaluations=50)"],
    ),
    "training": (trained, ["TrainResult(network=<MLP of ", "steps=2"]),
    "study": (
        lambda: pf.analysis.minibatch_convergence(fitted(), [1, 4], relative_error=0.3, max_pairs=256),
        ["MinibatchConvergence(batch_sizes=[1, 4]", "advice='"],
    ),
    "spectrum": (
        lambda: pf.analysis.terminal_spectrum(pf.ProximalFlow(fitted().potential), POINTS[:9], [0.5]),
        ["TerminalSpectrum(times=[0.5], rates=<1 x 9 x 12 float32>"],
    ),
    "dimension": (
        lambda: pf.analysis.data_dimension(POINTS),
        ["DataDimension(dimension=<200 float64>"],
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_prints_in_a_few_lines(name: str) -> None:
    make, parts = RECORDS[name]
    text = str(make())
    assert len(text.splitlines()) <= 16
    assert max(map(len, text.splitlines())) <= 120
    for part in parts:
        assert part in text


def test_devices_and_odd_values_are_shown() -> None:
    pairs = pf.couplings.Pairs(torch.zeros(3, 2, device="meta"), torch.zeros(0, 2), torch.arange(9), "x" * 500)  # type: ignore[arg-type]
    assert repr(pairs).replace("\n   ", "") == (
        f"Pairs(source=<3 x 2 float32 on meta>, target=<0 x 2 float32>, index=<9 int64>, label='{'x' * 76}...)"
    )
