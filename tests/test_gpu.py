"""What runs on a GPU gives what the CPU gives; skipped where PyTorch sees none."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import proxflow as pf
from proxflow.couplings.stream import batch_of
from proxflow.kernels import search
from proxflow.kernels.search import argmax_affine
from proxflow.kernels.softmax import sums
from tests.processes import Processes

DEVICE = torch.device("cuda")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def cloud(n: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, dim, generator=generator) * torch.linspace(1, 0.1, dim)).to(DEVICE, dtype)


@pytest.fixture(params=[True, False], ids=["fused", "products"])
def fused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Searches of every size by the kernels, or by products."""
    monkeypatch.setattr(search, "_LEAST_FUSED", 0 if request.param else 1 << 62)
    return bool(request.param)


def best_scores(queries: Tensor, slopes: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    scores = queries.double() @ slopes.double().T + offsets.double()
    return scores, scores.amax(1)


@pytest.mark.parametrize("rows", [1, 100, 700])
@pytest.mark.parametrize(("columns", "depth"), [(1, 3), (300, 1), (5000, 7), (20_000, 16), (3000, 65), (1000, 784)])
def test_kernels_find_the_best_slopes_of_float64(rows: int, columns: int, depth: int) -> None:
    from proxflow.kernels.fused_search import fused_best

    single, double = torch.float32, torch.float64
    for kept, asked in ((single, single), (torch.float16, single), (torch.int8, single), (double, double)):
        table = cloud(columns, depth + 2, seed=depth)  # as a potential keeps its points
        table = (table if kept.is_floating_point else (30 * table).round().clamp(-127, 127)).to(kept)
        queries, slopes = cloud(rows, depth, seed=1, dtype=asked), table[:, :depth]
        offsets = 3 * cloud(columns, 1, seed=2, dtype=asked)[:, 0]
        found = fused_best(queries, slopes, offsets)
        scores, best = best_scores(queries, slopes, offsets)
        if found is None:  # points of a line are near to one another
            assert depth == 1
            continue
        index, score = found
        clear = index >= 0
        assert clear.float().mean() > 0.9 or columns == 1
        torch.testing.assert_close(score[clear], best[clear], rtol=1e-12, atol=1e-12)
        own = scores.gather(1, index.clamp(min=0)[:, None])[:, 0]
        torch.testing.assert_close(own[clear], best[clear], rtol=1e-12, atol=1e-12)


def test_kernels_give_the_first_of_tied_slopes_and_leave_too_many_to_products(fused: bool) -> None:
    slopes = cloud(4000, 20)
    twice = torch.cat([slopes, slopes])
    queries = cloud(500, 20, seed=1)
    assert int(argmax_affine(queries, twice).max()) < 4000
    same = torch.ones(9000, 20, device=DEVICE)
    assert torch.equal(argmax_affine(queries, same), torch.zeros(500, dtype=torch.int64, device=DEVICE))
    queries[3] = torch.nan
    others = torch.arange(500, device=DEVICE) != 3
    assert torch.equal(argmax_affine(queries, slopes)[others], argmax_affine(queries[others], slopes))


@pytest.mark.parametrize(("rows", "columns", "depth"), [(100, 300, 1), (700, 5000, 7), (300, 20_000, 65)])
def test_kernels_find_the_best_two_slopes_of_float64(rows: int, columns: int, depth: int, fused: bool) -> None:
    for stored in (torch.float32, torch.float16):
        queries, slopes, offsets = cloud(rows, depth, 1), cloud(columns, depth, 2, stored), cloud(columns, 1, 3)[:, 0]
        found = search.top_two_affine(queries, slopes, offsets)
        scores, _ = best_scores(queries, slopes, offsets)
        top = scores.topk(2, dim=1).values
        own = scores.gather(1, torch.stack([found.best, found.second], dim=1))
        torch.testing.assert_close(own, top, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.gap.double(), top[:, 0] - top[:, 1], rtol=1e-4, atol=1e-5)
        assert (found.best != found.second).all()


@pytest.mark.parametrize(("rows", "columns", "depth"), [(100, 300, 1), (3000, 5000, 7), (3000, 20_000, 65)])
@pytest.mark.parametrize("least", [0, 1 << 62], ids=["fused", "blocks"])
def test_softmax_laws_are_summed_as_in_float64(
    least: int, rows: int, columns: int, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "_LEAST_FUSED", least)
    for scale in (0.1, 3.0):
        v, atoms, bias = scale * cloud(rows, depth, 1), 3 * cloud(columns, depth, 2), scale * cloud(columns, 1, 3)[:, 0]
        scores = v.double() @ atoms.double().T + bias.double()
        laws, rounding = scores.softmax(1), 1e-6 * (1 + float(scores.abs().max()))
        torch.testing.assert_close(sums.log_sums(v, atoms, bias).double(), scores.logsumexp(1), rtol=0, atol=rounding)
        total, squares = sums.summed_laws(v, atoms, bias)
        torch.testing.assert_close(total, laws.sum(0), rtol=2 * rounding, atol=1e-30)
        torch.testing.assert_close(squares, laws.square().sum(0), rtol=4 * rounding, atol=1e-30)


def test_potentials_keep_their_points_for_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from proxflow.kernels import fused_search

    monkeypatch.setattr(search, "_LEAST_FUSED", 0)
    rounded: list[int] = []
    panel = fused_search._panel

    def counted(slopes: Tensor, *others: Any) -> Any:
        rounded.append(len(slopes))
        return panel(slopes, *others)

    monkeypatch.setattr(fused_search, "_panel", counted)
    points = cloud(30_000, 20)
    potential = pf.potentials.Discrete(points, 0.1 * cloud(30_000, 1, seed=1)[:, 0])
    for seed in range(3):
        noise = torch.randn(100, 20, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(seed))
        scores, _ = best_scores(noise, points, -potential.heights)
        assert torch.equal(potential.nearest_atom(noise), scores.argmax(1))
        tiny = potential.nearest_atom(1e-7 * noise)
        assert torch.equal(tiny, best_scores(1e-7 * noise, points, -potential.heights)[0].argmax(1))
    assert rounded == [30_000]


def test_a_fit_holds_its_certificate_on_the_cpu(fused: bool) -> None:
    points = cloud(3000, 20)
    fit = pf.semidiscrete.fit(points, tol=0.1, progress=False)
    assert fit.converged
    assert fit.potential.points.device.type == DEVICE.type
    assert isinstance(fit.potential, pf.potentials.Discrete)
    potential = copy.deepcopy(fit.potential).cpu()
    noise = torch.randn(300_000, 20, generator=torch.Generator().manual_seed(9))
    counts = torch.bincount(potential.nearest_atom(noise), minlength=3000).double()
    expected = len(noise) / 3000
    chi2 = float(((counts - expected).square() - counts).sum() / expected / len(noise))
    assert chi2 == pytest.approx(fit.chi2, abs=0.05)


@pytest.mark.parametrize(
    "options",
    [
        {"epsilon": 0.5},
        {"symmetry": pf.symmetry.HorizontalFlip((1, 2, 4))},
        {"source": pf.measures.Uniform(8, -1.0, 1.0)},
        {"weights": torch.linspace(1, 2, 500)},
    ],
    ids=["smooth", "flips", "uniform", "weights"],
)
def test_fits_of_every_kind_converge(options: dict[str, Any], fused: bool) -> None:
    points = cloud(500, 8)
    options = {key: value.to(DEVICE) if isinstance(value, Tensor) else value for key, value in options.items()}
    if "symmetry" in options:
        points = points.reshape(-1, 1, 2, 4)
    fit = pf.semidiscrete.fit(points, tol=0.3, progress=False, **options)
    assert fit.converged
    low, high = fit.transport_cost_interval
    assert low <= fit.transport_cost <= high


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_an_estimate_tells_the_time_of_the_fit(epsilon: float) -> None:
    points = cloud(5000, 16)
    told = pf.semidiscrete.estimate(points, tol=0.02, epsilon=epsilon)
    fit = pf.semidiscrete.fit(points, tol=0.02, epsilon=epsilon, progress=False)
    assert 0.5 < told.seconds / fit.seconds < 2
    assert told.memory is not None
    assert points.nbytes < told.memory < 1 << 32


def test_an_exact_fit_is_that_of_the_cpu() -> None:
    points = cloud(60, 2, dtype=torch.float64)
    here, there = (pf.semidiscrete.fit(each, progress=False) for each in (points.cpu(), points))
    assert here.method == there.method
    of_rows = [fit.potential.heights.cpu()[fit.atom_of_row.cpu()] for fit in (here, there)]
    torch.testing.assert_close(*(heights - heights.mean() for heights in of_rows), rtol=1e-7, atol=1e-7)


def test_rows_in_two_bytes_give_the_fit_of_the_same_rows_in_four(fused: bool) -> None:
    points = cloud(2000, 32, dtype=torch.float16)
    halves, whole = (pf.semidiscrete.fit(each, tol=0.5, progress=False) for each in (points, points.float()))
    torch.testing.assert_close(halves.potential.heights, whole.potential.heights, rtol=1e-5, atol=1e-6)


def test_the_rest_of_an_interrupted_fit_is_that_of_an_uninterrupted_one(tmp_path: Path) -> None:
    points = cloud(2000, 8)
    options: dict[str, Any] = {"tol": 0.05, "progress": False, "seed": 3}
    whole = pf.semidiscrete.fit(points, max_samples=400_000, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.ConvergenceWarning)
        pf.semidiscrete.fit(points, max_samples=20_000, checkpoint=tmp_path / "state", **options)
        rest = pf.semidiscrete.fit(points, max_samples=400_000, checkpoint=tmp_path / "state", **options)
    torch.testing.assert_close(rest.potential.heights, whole.potential.heights, rtol=1e-3, atol=1e-3)


def test_flows_are_those_of_the_cpu() -> None:
    points = cloud(400, 6, dtype=torch.float64)
    fit = pf.semidiscrete.fit(points, tol=0.3, progress=False)
    there = pf.ProximalFlow(fit.potential)
    here = copy.deepcopy(there).cpu()
    x = 0.5 * cloud(50, 6, seed=4, dtype=torch.float64)
    for query in ("velocity", "recover_target", "recover_source"):
        found, wanted = getattr(there, query)(0.4, x), getattr(here, query)(0.4, x.cpu())
        assert found.device.type == DEVICE.type
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-7, atol=1e-7)
    drawn = there.sample(30, generator=torch.Generator(DEVICE).manual_seed(0))
    assert drawn.device.type == DEVICE.type


def test_numbered_batches_are_those_of_the_cpu(fused: bool, tmp_path: Path) -> None:
    points = cloud(800, 6)
    labels = torch.arange(800, device=DEVICE) % 3
    couplings: list[pf.couplings.Coupling] = [
        pf.couplings.Semidiscrete(pf.semidiscrete.fit(points, tol=0.3, progress=False).potential, points),
        pf.couplings.Subspace.fit(points, 2),
        pf.couplings.Conditional.fit(points, labels, directions=2),
        pf.couplings.Independent(points),
        pf.couplings.Minibatch(points, 64),
    ]
    for coupling in couplings:
        pairs = batch_of(coupling, 3, 64, 0)
        again = batch_of(coupling, 3, 64, 0)
        assert torch.equal(pairs.source, again.source)
        assert torch.equal(pairs.target, again.target)
        apart = torch.cdist(pairs.target.to(DEVICE), points, compute_mode="donot_use_mm_for_euclid_dist")
        assert float(apart.amin(1).max()) < 1e-6
    record = pf.couplings.PairFile.write(couplings[1], tmp_path / "pairs.safetensors", epochs=3)
    assert record.pairs == 2400


def test_training_and_few_steps(tmp_path: Path) -> None:
    points = cloud(500, 4)

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(5, 32), nn.SiLU(), nn.Linear(32, 4))

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return self.body(torch.cat([t.expand(len(x)).reshape(-1, 1), x], dim=1))

    coupling = pf.couplings.Subspace.fit(points, 2)
    result = pf.matching.train(Field(), coupling, steps=40, batch_size=64, progress=False)
    assert next(result.network.parameters()).device.type == DEVICE.type
    x = torch.randn(20, 4, device=DEVICE)
    assert torch.isfinite(result.network(torch.tensor(0.5, device=DEVICE), x)).all()


def test_fits_on_shortlists() -> None:
    points = cloud(2000, 6)
    fit = pf.semidiscrete.fit_shortlisted(points, count=4, tol=0.05, progress=False)
    assert fit.converged
    assert 0.9 < fit.optimality < 1
    u = cloud(500, 6, seed=3)
    there, here = fit.potential.nearest_atom(u), copy.deepcopy(fit.potential).cpu().nearest_atom(u.cpu())
    assert float((there.cpu() == here).double().mean()) > 0.99
    batch = pf.couplings.Semidiscrete(fit.potential, points).batch(0, 64, 0)
    assert batch.source.device.type == DEVICE.type


def test_the_commands_fit_and_pair_on_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.cli.commands import call

    device = ["--device", DEVICE.type]
    assert call("fit", "digits", "--points", 300, *device, "--out", tmp_path / "run") == 0
    assert call("fit", "digits", "--points", 300, *device, "--estimate") == 0
    assert call("pairs", "digits", "--points", 300, *device, "--epochs", 2, "--out", tmp_path / "pairs") == 0
    assert call("sample", tmp_path / "run", "--count", 3) == 0
    assert "Error" not in capsys.readouterr().err


def _fit_on_the_gpu(rank: int) -> tuple[Tensor, Tensor]:
    fit = pf.semidiscrete.fit(cloud(1000, 8), tol=0.5, max_samples=30_000, progress=False)
    return fit.potential.heights.cpu(), fit.cell_mass.cpu()


def _fit_with_split_atoms(rank: int) -> tuple[Tensor, Tensor]:
    with pf.semidiscrete.split_atoms():
        return _fit_on_the_gpu(rank)


@pytest.mark.parametrize("task", [_fit_on_the_gpu, _fit_with_split_atoms], ids=["draws", "atoms"])
def test_processes_that_share_a_gpu_find_the_fit_of_one(tmp_path: Path, task: Any) -> None:
    processes = Processes(tmp_path)
    (alone,) = processes.run(1, _fit_on_the_gpu)
    for heights, mass in processes.run(2, task):
        assert torch.equal(mass, alone[1])
        torch.testing.assert_close(heights, alone[0], rtol=0, atol=1e-6)
