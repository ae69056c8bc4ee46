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


OBJECTS: dict[str, tuple[Callable[[], object], str]] = {
    "atoms": (lambda: fitted().potential, "Discrete(200 atoms in R^12, float32)"),
    "smoothed atoms": (
        lambda: pf.potentials.Entropic(POINTS.double(), torch.zeros(200).double(), 0.5),
        "Entropic(200 atoms in R^12, float64, epsilon=0.5)",
    ),
    "flow": (
        lambda: pf.ProximalFlow(pf.potentials.Ball(3), pf.schedules.Cosine()),
        "ProximalFlow(\n  schedule=Cosine()\n  (potential): Ball()\n)",
    ),
    "independent": (lambda: pf.couplings.Independent(POINTS), "Independent(200 rows of (12,), float32)"),
    "minibatch": (
        lambda: pf.couplings.Minibatch(POINTS.reshape(200, 3, 4), 64),
        "Minibatch(200 rows of (3, 4), float32, batch_size=64)",
    ),
    "semidiscrete": (
        lambda: pf.couplings.Semidiscrete(fitted().potential, POINTS),
        "Semidiscrete(200 rows of (12,), float32, Discrete)",
    ),
    "subspace": (
        lambda: pf.couplings.Subspace.fit(POINTS, 2, tol=0.5, progress=False),
        "Subspace(200 rows of (12,), float32, 2 directions)",
    ),
    "conditional": (
        lambda: pf.couplings.Conditional.fit(POINTS, torch.arange(200) % 2, directions=1, tol=0.5, progress=False),
        "Conditional(200 rows of (12,), float32, 2 groups)",
    ),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_prints_what_it_is(name: str) -> None:
    make, text = OBJECTS[name]
    assert repr(make()) == text
