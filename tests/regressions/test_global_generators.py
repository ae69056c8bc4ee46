"""Nothing moves the global generators of Python, numpy and torch, but a draw for which no generator was given.

Calls are made in a fresh process, since what a first import does cannot be seen in this one.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

warnings.simplefilter("ignore")  # when this file runs as a programme

POINTS = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
LABELS = (POINTS[:, 0] > 0).long()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def proxflow() -> ModuleType:
    import proxflow as pf

    return pf


def potential() -> Any:
    return proxflow().semidiscrete.fit(POINTS, progress=False).potential


def flow() -> Any:
    return proxflow().ProximalFlow(potential())


def sample(coupling: Callable[[Any], Any]) -> Callable[[], object]:
    return lambda: coupling(proxflow().couplings).sample(16, generator=generator())


def trained(folder: str | None = None, **options: Any) -> Any:
    pf = proxflow()
    with torch.random.fork_rng():  # the first parameters of a network are the caller's draw
        network = pf.matching.MLP((2,), width=8, depth=2)
    coupling = pf.couplings.Semidiscrete(potential(), POINTS)
    return pf.matching.train(network, coupling, steps=4, batch_size=16, progress=False, log_dir=folder, **options)


def saved() -> None:
    pf = proxflow()
    with tempfile.TemporaryDirectory() as folder:
        pf.save(potential(), Path(folder) / "p.safetensors")
        pf.load(Path(folder) / "p.safetensors")


def logged() -> None:
    with tempfile.TemporaryDirectory() as folder:
        trained(folder)


def reported() -> None:
    from proxflow.report import render_page

    pf = proxflow()
    data = pf.data.load("moons", n=60)
    fitted = pf.semidiscrete.fit(data.points, progress=False)
    render_page(fitted, pf.ProximalFlow(fitted.potential), data)


def stream() -> None:
    pf = proxflow()
    with pf.couplings.PairStream(pf.couplings.Minibatch(POINTS, 8), 8, seed=1) as pairs:
        next(pairs)


def independent(method: str) -> Any:
    field = proxflow().IndependentField(POINTS)
    return proxflow().sampling.integrate(field, POINTS, 5, method)


CALLS: dict[str, Callable[[], object]] = {
    "import": proxflow,
    "pair by sinkhorn": lambda: proxflow().couplings.pair(POINTS, POINTS + 1, solver="sinkhorn", generator=generator()),
    "wasserstein": lambda: proxflow().metrics.wasserstein(POINTS, POINTS[:50]),
    "sliced wasserstein": lambda: proxflow().metrics.wasserstein(POINTS, POINTS + 1, exact_up_to=0, projections=20),
    "energy_distance": lambda: proxflow().metrics.energy_distance(POINTS, POINTS + 1),
    "label_accuracy": lambda: proxflow().metrics.label_accuracy(POINTS, LABELS, POINTS, LABELS),
    "fit by quantiles": lambda: proxflow().semidiscrete.fit(POINTS[:, :1]),
    "fit by Newton": potential,
    "fit by gradients": lambda: proxflow().semidiscrete.fit(POINTS @ torch.ones(2, 5).triu(), tol=0.3, seed=1),
    "smooth fit": lambda: proxflow().semidiscrete.fit(POINTS, epsilon=0.5, tol=0.3),
    "flow": lambda: flow().sample(8, generator=generator()),
    "prox off the trajectory": lambda: potential().prox(POINTS, 0.5),
    "Independent": sample(lambda c: c.Independent(POINTS)),
    "Minibatch": sample(lambda c: c.Minibatch(POINTS, 8)),
    "Minibatch by sinkhorn": sample(lambda c: c.Minibatch(POINTS, 8, solver="sinkhorn")),
    "Semidiscrete": sample(lambda c: c.Semidiscrete(potential(), POINTS)),
    "Conditional": sample(lambda c: c.Conditional.fit(POINTS, LABELS, tol=0.3)),
    "PairStream": stream,
    "Euler": lambda: independent("euler"),
    "dopri5": lambda: independent("dopri5"),
    "train": trained,
    "train with a log": logged,
    "sources": lambda: [
        source.sample(5, generator=generator())
        for source in (
            proxflow().measures.Gaussian(2),
            proxflow().measures.Uniform(2),
            proxflow().measures.Empirical(POINTS, bandwidth=0.1),
        )
    ],
    "data_dimension": lambda: proxflow().analysis.data_dimension(POINTS),
    "local_dimension": lambda: proxflow().analysis.local_dimension(flow(), POINTS[:3], 0.5, probes=4),
    "terminal_spectrum": lambda: proxflow().analysis.terminal_spectrum(flow(), POINTS[:3], [0.5]),
    "minibatch_convergence": lambda: proxflow().analysis.minibatch_convergence(
        POINTS, [1, 4], relative_error=0.3, max_pairs=256
    ),
    "hypotheses": lambda: proxflow().analysis.check_terminal_hypotheses(
        proxflow().potentials.Ball(2), POINTS[:3].double()
    ),
    "moons": lambda: proxflow().data.load("moons", n=50),
    "swissroll": lambda: proxflow().data.load("swissroll", n=50),
    "digits": lambda: proxflow().data.load("digits", n=50),
    "save and load": saved,
    "report": reported,
}


def states() -> dict[str, object]:
    state: Any = np.random.get_state()  # noqa: NPY002
    return {
        "random": random.getstate(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in state],
        "torch": torch.get_rng_state().tolist(),
    }


def moved_by_each_call() -> dict[str, list[str]]:
    found = {}
    for name, call in CALLS.items():
        before = states()
        call()
        after = states()
        found[name] = [which for which in before if before[which] != after[which]]
    return found


@pytest.fixture(scope="module")
def moved() -> dict[str, list[str]]:
    result = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_no_call_moves_a_global_generator(call: str, moved: dict[str, list[str]]) -> None:
    assert moved[call] == []


if __name__ == "__main__":
    print(json.dumps(moved_by_each_call()))
