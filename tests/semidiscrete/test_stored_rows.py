"""Rows stored in two bytes or one: all that is made of them is what their float32 copy gives, without that copy."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import proxflow as pf
from proxflow.analysis import audit, data_dimension, minibatch_convergence
from proxflow.couplings import (
    Conditional,
    Independent,
    JointConditional,
    Minibatch,
    PairFile,
    Semidiscrete,
    Subspace,
    directions,
)
from proxflow.couplings.directions import choose_directions, principal_directions
from proxflow.kernels import geometry, search
from proxflow.matching import MLP, train
from proxflow.potentials import Discrete, Entropic, SymmetricDiscrete
from proxflow.potentials.orbits import orbit_of_row
from proxflow.semidiscrete import Fit, descent, fit, problem, returned, spacings
from proxflow.semidiscrete.problem import SemiDual
from proxflow.semidiscrete.shared_directions import Sharing
from proxflow.semidiscrete.start import carried_heights
from proxflow.symmetry import Group, HorizontalFlip
from tests.marks import slow_beyond
from tests.peak_memory import peak_bytes

EITHER = pytest.mark.parametrize(
    "dtype", slow_beyond(1, [torch.uint8, torch.float16, torch.bfloat16, torch.int8]), ids=str
)
HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
FLIP = HorizontalFlip((1, 2, 2))


def stored(dtype: torch.dtype, count: int = 200, dim: int = 8) -> Tensor:
    """Rows of unequal spread, (N, d), in two bytes, or in one as whole numbers: those of images lie about 128."""
    scales = torch.linspace(1, 0.3, dim)
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(0)) * scales
    if dtype.is_floating_point:
        return rows.to(dtype)
    least, most = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    return (30 * rows + (least + most + 1) // 2).round().clamp(least, most).to(dtype)


def same(one: Any, other: Any) -> bool:
    """Whether two answers are the same, bit by bit and in the same dtype."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one.nan_to_num(7.5), other.nan_to_num(7.5))
    if isinstance(one, tuple):
        return all(map(same, one, other))
    return same(tuple(vars(one).values()), tuple(vars(other).values())) if hasattr(one, "__dict__") else one == other


def check_same_fit(half: Fit, single: Fit, dtype: torch.dtype) -> None:
    assert half.potential.points.dtype == dtype
    assert same(half.potential.points.float(), single.potential.points)
    assert same(half.potential.heights, single.potential.heights)
    assert same(half.cell_mass, single.cell_mass)
    assert half.method == single.method
    for name in ("chi2", "transport_cost", "transport_cost_interval", "samples_used"):
        assert getattr(half, name) == getattr(single, name)


FITS: dict[str, tuple[int, Callable[[Tensor], dict[str, Any]]]] = {
    "noise": (8, lambda rows: {}),
    "a plane": (2, lambda rows: {"tol": 1e-3}),
    "a line": (1, lambda rows: {"tol": 1e-3}),
    "weights": (8, lambda rows: {"weights": torch.linspace(1, 3, len(rows))}),
    "a weight that float32 lacks": (8, lambda rows: {"weights": [1e-40] + [1.0] * (len(rows) - 1)}),
    "smoothed": (4, lambda rows: {"epsilon": 0.3}),
    "a symmetry": (4, lambda rows: {"symmetry": FLIP}),
    "a warm start": (4, lambda rows: {"warm_start": fit(rows[:150].float(), tol=0.2)}),
}


@EITHER
@pytest.mark.parametrize("case", FITS)
def test_a_fit_is_that_of_the_float32_copy(case: str, dtype: torch.dtype) -> None:
    dim, options = FITS[case]
    rows = stored(dtype, dim=dim)
    given = {"tol": 0.2, "progress": False} | options(rows)
    half, single = fit(rows, **given), fit(rows.float(), **given)
    check_same_fit(half, single, dtype)
    if case in ("noise", "a weight that float32 lacks"):
        assert half.potential.heights.dtype == (torch.float32 if case == "noise" else torch.float64)


@EITHER
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_a_fit_with_shared_directions_too(offset: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """About the origin rows are searched as they are; far from it a copy about their centre is."""
    monkeypatch.setattr(descent, "best_sharing", lambda *_: Sharing(64, 8))
    rows = (stored(dtype, 300, 40) + offset).to(dtype)
    options: dict[str, Any] = {"tol": 0.5, "max_samples": 10_000, "max_memory": 1 << 13, "progress": False}
    half, single = (fit(each, **options) for each in (rows, rows.float()))
    check_same_fit(half, single, dtype)


def mapped(folder: Path, rows: Tensor) -> Any:
    np.save(folder / "rows.npy", rows.numpy())
    return np.load(folder / "rows.npy", mmap_mode="r")


def test_a_mapped_file_of_float16_and_its_pairs(tmp_path: Path) -> None:
    rows = stored(torch.float16)
    given = mapped(tmp_path, rows)
    half, single = (fit(each, tol=0.2, progress=False) for each in (given, rows.float()))
    check_same_fit(half, single, torch.float16)
    pairs = Semidiscrete(half.potential, given).sample(50, generator=torch.Generator().manual_seed(1))
    assert pairs.source.dtype == pairs.target.dtype == torch.float32
    assert same(pairs.target, rows.float()[pairs.index])


class _LargestConverted(TorchDispatchMode):
    """The most numbers of a wider dtype that one operation made of rows in float16."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(x.dtype == torch.float16 for x in inputs) and isinstance(result, Tensor):
            wide = result.dtype in (torch.float32, torch.float64)
            self.numbers = max(self.numbers, result.numel() if wide else 0)
        return result


def test_a_fit_of_a_mapped_file_makes_no_float32_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = stored(torch.float16, 4000, 64)
    monkeypatch.setattr(geometry, "_BLOCK_NUMBERS", 1 << 13)
    for module in (problem, returned):
        monkeypatch.setattr(module, "_ROWS", 128)
    monkeypatch.setattr(spacings, "_NEIGHBOURS", (1 << 8, 1 << 8))  # of few rows more would be many
    monkeypatch.setattr(spacings, "_NUMBERS", 128 << 8)
    monkeypatch.setattr(descent, "best_sharing", lambda *_: Sharing(64, 8))
    given = mapped(tmp_path, rows)
    with _LargestConverted() as seen:
        fit(given, tol=50, max_samples=2000, max_memory=1 << 19, progress=False)
    assert 0 < seen.numbers < rows.numel() / 8
    with _LargestConverted() as seen:
        rows.float()
    assert seen.numbers == rows.numel()


@EITHER
@pytest.mark.parametrize("count", slow_beyond(2, [1, 20, 400]))
def test_a_search_converts_a_block_at_a_time(count: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_CHUNK_NUMBERS", 1 << 14)
    monkeypatch.setattr(search, "_BLOCK_BYTES", 1 << 16)
    slopes = stored(dtype, 20_000, 70)
    queries, offsets = torch.randn(count, 70, generator=torch.Generator().manual_seed(1)), torch.zeros(20_000)
    assert peak_bytes(lambda: search.best_by_products(queries, slopes, offsets)) < slopes.nbytes
    assert peak_bytes(lambda: search.best_by_products(queries, slopes.float(), offsets)) > 2 * slopes.nbytes


def test_problem_and_potential_keep_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "_BLOCK_NUMBERS", 1 << 14)
    monkeypatch.setattr(search, "_CHUNK_NUMBERS", 1 << 14)
    rows, weights = stored(torch.float16, 5000, 120), torch.full((5000,), 1 / 5000, dtype=torch.float64)
    noise = torch.randn(3, 120, generator=torch.Generator().manual_seed(1))

    def gaps(rows: Tensor) -> Tensor:
        problem = SemiDual(rows, weights, pf.measures.Gaussian(120), 0.0, 1 << 20)
        return problem.score_gaps(noise, 0.1 * rows[:, 0].double(), [])

    torch.testing.assert_close(gaps(rows), gaps(rows.float()), rtol=0, atol=1e-5)
    potential = Discrete(rows, torch.zeros(5000))
    for task in (lambda: gaps(rows), lambda: potential.nearest_atom(noise)):
        assert peak_bytes(task) < rows.nbytes
    far = Discrete((rows + 20).to(torch.float16), torch.zeros(5000))
    assert peak_bytes(lambda: far.nearest_atom(noise)) > 2 * rows.nbytes


POTENTIALS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "discrete": Discrete,
    "discrete, heights in float64": lambda points, heights: Discrete(points, heights.double()),
    "discrete, far from the origin": lambda points, heights: Discrete(points, heights),
    "entropic": lambda points, heights: Entropic(points, heights, 0.2),
    "symmetric": lambda points, heights: SymmetricDiscrete(points, heights, FLIP),
}
QUERIES: dict[str, Callable[[Any, Tensor], Any]] = {
    "conjugate": lambda potential, u: potential.conjugate(u),
    "brenier_map": lambda potential, u: potential.brenier_map(u),
    "value": lambda potential, u: potential.value(0.3 * u),
    "prox": lambda potential, u: potential.prox(u, 0.3),
    "decompose": lambda potential, u: potential.decompose(u, 0.2, 0.8),
    "decompose_jacobian": lambda potential, u: potential.decompose_jacobian(u, 0.2, 0.8),
    "second_epi_derivative": lambda potential, u: potential.second_epi_derivative(potential.brenier_map(u), u),
    "smooth_support": lambda potential, u: potential.smooth_support(potential.brenier_map(u)),
    "a flow": lambda potential, u: pf.ProximalFlow(potential).velocity(0.4, u),
    "draws of a flow": lambda potential, u: pf.ProximalFlow(potential).sample(9, generator=torch.Generator()),
}


@EITHER
@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("kind", POTENTIALS)
def test_queries_are_answered_as_of_the_float32_copy(kind: str, query: str, dtype: torch.dtype) -> None:
    points, generator = stored(dtype, 60, 4), torch.Generator().manual_seed(3)
    if kind == "discrete, far from the origin":
        points = (points.double() + 4).to(dtype).unique(dim=0)
    heights, u = 0.3 * torch.randn(len(points), generator=generator), torch.randn(30, 4, generator=generator)
    half, single = (POTENTIALS[kind](rows, heights) for rows in (points, points.float()))
    assert half.points.dtype == dtype
    assert same(QUERIES[query](half, u), QUERIES[query](single, u))


@EITHER
@pytest.mark.parametrize("kind", POTENTIALS)
def test_atoms_are_chosen_as_of_the_float32_copy(kind: str, dtype: torch.dtype) -> None:
    points, u = stored(dtype, 60, 4), torch.randn(500, 4, generator=torch.Generator().manual_seed(4))
    half, single = (POTENTIALS[kind](rows, torch.zeros(60)) for rows in (points, points.float()))
    if kind == "entropic":
        assert same(half.atom_probabilities(u), single.atom_probabilities(u))
    else:
        assert same(half.nearest_atom(u), single.nearest_atom(u))


def labels(rows: Tensor) -> Tensor:
    return torch.arange(len(rows)) % 2


def semidiscrete(rows: Tensor, **options: Any) -> Semidiscrete:
    return Semidiscrete(fit(rows, tol=0.2, progress=False, **options).potential, rows, labels(rows))


COUPLINGS: dict[str, Callable[[Tensor], Any]] = {
    "independent": lambda rows: Independent(rows, labels(rows)),
    "minibatch": lambda rows: Minibatch(rows, 16, labels(rows)),
    "semidiscrete": semidiscrete,
    "entropic": lambda rows: semidiscrete(rows, epsilon=0.2),
    "symmetric": lambda rows: semidiscrete(rows, symmetry=FLIP),
    "subspace": lambda rows: Subspace.fit(rows, 2, labels=labels(rows), tol=0.2),
    "conditional": lambda rows: Conditional.fit(rows, labels(rows), tol=0.2),
    "conditional in subspaces": lambda rows: Conditional.fit(rows, labels(rows), directions=2, tol=0.2),
    "conditional at a cost": lambda rows: Conditional.fit(rows, labels(rows), strength=0.5, tol=0.2),
    "conditional on numbers": lambda rows: Conditional.fit(rows, rows[:, 0].float() / 3, strength=0.5, tol=0.2),
    "joint": lambda rows: JointConditional.fit(rows, labels(rows).float(), 0.5, tol=0.2),
}


@EITHER
@pytest.mark.parametrize("name", COUPLINGS)
def test_pairs_are_those_of_the_float32_copy(name: str, dtype: torch.dtype) -> None:
    rows = stored(dtype, 64, 4)
    half, single = COUPLINGS[name](rows), COUPLINGS[name](rows.float())
    assert half.rows.flat.dtype == dtype
    drawn = [coupling.sample(40, generator=torch.Generator().manual_seed(5)) for coupling in (half, single)]
    assert drawn[0].source.dtype == drawn[0].target.dtype == torch.float32
    assert same(drawn[0], drawn[1])
    if hasattr(half, "noise_for") and name != "symmetric":
        index = torch.arange(20)
        given = [each.noise_for(index, generator=torch.Generator().manual_seed(6)) for each in (half, single)]
        assert same(given[0], given[1])
    if hasattr(half, "rows_for") and name != "symmetric":
        noise = torch.randn(20, 4, generator=torch.Generator().manual_seed(7))
        found = [each.rows_for(noise, generator=torch.Generator().manual_seed(8)) for each in (half, single)]
        assert same(found[0], found[1])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8], ids=str)
def test_pairs_are_right_for_rows_in_other_units(dtype: torch.dtype) -> None:
    """argmax_j <u, s y_j + o> - s h_j is that of <u, y_j> - h_j: noise goes to the same rows at any scale, offset.

    The fits differ in a draw whose two best scores are equal to rounding, if there is one, and heights then by a
    thousandth of a gap, so that pairs are compared at the same heights.
    """
    rows = stored(dtype, 64, 4)
    units = rows.float() / 127.5 - 1
    fits = [fit(each, tol=0.2, progress=False) for each in (rows, units)]
    heights = [each.potential.heights.double() for each in fits]
    torch.testing.assert_close(heights[0] / 127.5, heights[1], atol=1e-3, rtol=0)
    alike = Discrete(rows, 127.5 * fits[1].potential.heights)
    couplings = (
        (Semidiscrete(alike, rows), Semidiscrete(fits[1].potential, units)),
        (Subspace.fit(rows, 2, tol=0.2), Subspace.fit(units, 2, tol=0.2)),
        (Minibatch(rows, 16), Minibatch(units, 16)),
    )
    for pair in couplings:
        drawn, wanted = (each.sample(400, generator=torch.Generator().manual_seed(5)) for each in pair)
        assert torch.equal(drawn.index, wanted.index)
        torch.testing.assert_close(drawn.source, wanted.source)
        torch.testing.assert_close(drawn.target / 127.5 - 1, wanted.target)


@EITHER
def test_images_of_rows_by_epochs(dtype: torch.dtype) -> None:
    rows, index = stored(dtype, 64, 4), torch.arange(64)
    couplings = [semidiscrete(each, symmetry=FLIP) for each in (rows, rows.float())]
    both = [coupling.pairs_for(index, generator=torch.Generator()) for coupling in couplings]
    assert both[0].target.dtype == torch.float32
    assert same(both[0], both[1])


@EITHER
def test_directions_are_those_of_the_float32_copy(dtype: torch.dtype) -> None:
    rows = stored(dtype, 40, 4)
    found = [choose_directions(each, counts=(1, 2), progress=False) for each in (rows, rows.float())]
    assert same(found[0], found[1])


@EITHER
def test_a_file_of_pairs(dtype: torch.dtype, tmp_path: Path) -> None:
    rows = stored(dtype, 64, 4)
    PairFile.write(semidiscrete(rows), tmp_path / "pairs", 30, progress=False)
    noise, row = PairFile(tmp_path / "pairs", rows)[3]
    expected, same_row = PairFile(tmp_path / "pairs", rows.float())[3]
    assert same(noise, expected)
    assert row == same_row


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8], ids=str)
def test_no_network_is_trained_in_the_units_of_bytes(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=rf"stored in {dtype}, and targets .* give them in the network's units"):
        train(MLP((4,), width=8), Independent(stored(dtype, 64, 4)), steps=1, progress=False)


@HALVES
def test_a_network_in_float32_trains_on_them(dtype: torch.dtype, tmp_path: Path) -> None:
    rows = stored(dtype, 64, 4)
    state = tmp_path / "state"
    options: dict[str, Any] = {"steps": 3, "batch_size": 8, "progress": False}
    results = []
    for each in (rows, rows.float()):
        torch.manual_seed(0)
        results.append(
            train(MLP((4,), width=8), Independent(each), checkpoint=state if each is rows else None, **options)
        )
    for one, other in zip(*(result.network.parameters() for result in results), strict=True):
        assert same(one.detach(), other.detach())
    with pytest.raises(ValueError, match=r"parameters are torch\.float64, the coupling's pairs torch\.float32"):
        train(MLP((4,), width=8).double(), Independent(rows), **options)


@EITHER
def test_saved_and_loaded_in_two_bytes(dtype: torch.dtype, tmp_path: Path) -> None:
    fitted = fit(stored(dtype, 64, 4), tol=0.2, progress=False)
    pf.save(fitted, tmp_path / "fit")
    loaded = pf.load(tmp_path / "fit")
    assert loaded.potential.points.dtype == dtype
    for name in ("points", "heights", "weights"):
        assert same(getattr(loaded.potential, name), getattr(fitted.potential, name))


@EITHER
def test_a_checkpoint_is_of_these_rows(dtype: torch.dtype, tmp_path: Path) -> None:
    rows = stored(dtype, 64, 4)
    options: dict[str, Any] = {"tol": 0.2, "progress": False, "checkpoint": tmp_path / "state"}
    first, again = fit(rows, **options), fit(rows, **options)
    assert same(first.potential.heights, again.potential.heights)
    rows[0] = 0
    with pytest.raises(ValueError, match="belongs to a fit of other points"):
        fit(rows, **options)


def test_a_warm_start_of_bytes_by_other_numbers() -> None:
    """3.7 is not the byte 3: its height is not that of another atom."""
    rows = stored(torch.uint8, 64, 4)
    known = fit(rows.float() + 0.7, tol=0.2, progress=False)
    assert same(carried_heights(known, rows), carried_heights(known, rows.float()))
    assert not same(carried_heights(known, rows), known.potential.heights.double())


@EITHER
def test_equal_rows_are_merged(dtype: torch.dtype) -> None:
    rows = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [2.0, 1.0]], dtype=dtype)
    fitted = fit(rows, progress=False)
    assert fitted.atom_of_row.tolist() == [0, 0, 1]
    torch.testing.assert_close(fitted.potential.weights, torch.tensor([2 / 3, 1 / 3]))


def test_a_study_of_their_minibatches() -> None:
    rows = stored(torch.float16, 40, 3)
    options: dict[str, Any] = {"relative_error": 0.2, "max_pairs": 1 << 12, "progress": False}
    fits = [fit(each, tol=0.05, progress=False) for each in (rows, rows.float())]
    found = [minibatch_convergence(each, [1, 4], **options) for each in fits]
    torch.testing.assert_close(found[0].excess, found[1].excess, rtol=1e-12, atol=0)
    assert same(found[0].field_error(0.5, queries=8), found[1].field_error(0.5, queries=8))


@pytest.mark.parametrize("named", slow_beyond(1, [False, True]))
def test_an_audit_against_their_exact_flow(named: bool) -> None:
    rows = stored(torch.float16, 40, 3)
    found = []
    for each in (rows, rows.float()):
        fitted = fit(each, tol=0.05, progress=False)
        flow = pf.ProximalFlow(fitted.potential)
        field = flow if named else lambda t, x, flow=flow: flow(t, x)
        found.append(audit(field, fitted, count=64, steps=8, compare_independent=False, progress=False).figures)
    assert "equivalent_batch" in found[0]
    assert list(found[0]) == list(found[1])
    for name, figure in found[0].items():
        assert figure.value == pytest.approx(found[1][name].value, rel=1e-6, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64, torch.bool])
@pytest.mark.parametrize("call", [fit, Independent, lambda rows: Discrete(rows, torch.zeros(5))])
def test_other_whole_numbers_are_refused(call: Any, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=rf"points must be float32 or float64, got {dtype}; convert them to float32"):
        call(torch.eye(5).to(dtype))


@pytest.mark.parametrize("call", [data_dimension, pf.measures.Empirical])
def test_what_has_no_use_for_them_says_what_to_do(call: Any) -> None:
    with pytest.raises(ValueError, match=r"got torch\.float16; convert them to float32"):
        call(stored(torch.float16))


@HALVES
def test_rows_that_are_not_finite_are_refused(dtype: torch.dtype) -> None:
    rows = stored(dtype)
    rows[3, 1], rows[7, 0] = math.nan, math.inf
    with pytest.raises(ValueError, match=r"fit: 2 rows of points hold NaN or inf, the first: \[3, 7\]"):
        fit(rows)


@EITHER
@pytest.mark.parametrize("kind", ["discrete", "entropic", "symmetric"])
def test_queries_and_heights_need_their_digits(kind: str, dtype: torch.dtype) -> None:
    rows, u = stored(dtype, 60, 4), torch.randn(3, 4)
    potential = POTENTIALS[kind](rows, torch.zeros(60))
    with pytest.raises(ValueError, match=rf"stored in {dtype}, for queries of torch\.float32"):
        potential.conjugate(u.double())
    with pytest.raises(ValueError, match=f"must be float32 or float64, got {dtype}"):
        potential.conjugate(u.to(dtype))
    with pytest.raises(ValueError, match=rf"heights is {dtype}.* give them in torch\.float32 or in float64"):
        POTENTIALS[kind](rows, torch.zeros(60, dtype=dtype))
    assert torch.isfinite(potential.float().conjugate(u)).all()
    with pytest.raises(ValueError, match=r"only points can be stored in fewer bytes, .* weights are torch\.float16"):
        potential.half().conjugate(u)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8], ids=str)
def test_whole_numbers_stay_when_a_potential_is_converted(dtype: torch.dtype) -> None:
    """As all whole numbers in a module: queries stay in float32, and what is said of others does not advise that."""
    rows, u = stored(dtype, 60, 4), torch.randn(30, 4)
    potential = Discrete(rows, torch.linspace(0, 3, 60))
    expected = potential.nearest_atom(u)
    double = potential.double()
    assert double.points.dtype == dtype
    assert same(double.nearest_atom(u), expected)
    with pytest.raises(ValueError, match=r"for queries of torch\.float32 on cpu; convert u$"):
        double.nearest_atom(u.double())


def test_bytes_do_not_wrap_around() -> None:
    """Differences, negatives and images of such rows are those of numbers."""
    rows = torch.tensor([[0, 255], [255, 0], [1, 254], [254, 2]], dtype=torch.uint8)
    fitted = fit(rows, tol=1e-6, progress=False)
    single = fit(rows.float(), tol=1e-6, progress=False)
    check_same_fit(fitted, single, torch.uint8)
    turned = Group(torch.stack([torch.eye(2), -torch.eye(2)]))
    images = [SymmetricDiscrete(each, torch.zeros(4), turned).expanded().points for each in (rows, rows.float())]
    assert same(*images)
    assert float(images[0].min()) == -255


@EITHER
def test_given_noise_is_float32(dtype: torch.dtype) -> None:
    coupling = Independent(stored(dtype, 64, 4))
    with pytest.raises(ValueError, match=rf"noise is {dtype} on cpu, that of the points is torch\.float32"):
        coupling.rows_for(stored(dtype, 5, 4))


COPIES: dict[str, Callable[[Tensor], Any]] = {
    "directions": lambda rows: principal_directions(rows, 2),
    "directions that a flip keeps": lambda rows: principal_directions(rows, 2, symmetry=HorizontalFlip((1, 16, 16))),
    "halves": lambda rows: directions._halves(rows.flatten(1), torch.full((len(rows),), 1 / 20_000.0).double(), 100, 0),
    "orbits": lambda rows: orbit_of_row(rows.flatten(1), HorizontalFlip((1, 16, 16))),
    "rows of atoms": lambda rows: Semidiscrete(Discrete(rows.flatten(1), torch.zeros(len(rows))), rows),
    "a subspace": lambda rows: Subspace.fit(rows, 1, tol=1, progress=False),
}


@pytest.mark.parametrize("case", slow_beyond(len(COPIES) - 1, COPIES))
def test_what_prepares_a_coupling_makes_no_copy(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "_BLOCK_NUMBERS", 1 << 16)
    rows = stored(torch.int8, 20_000, 256).reshape(-1, 1, 16, 16)
    assert peak_bytes(lambda: COPIES[case](rows)) < 4 * rows.nbytes  # those of a copy in float32
