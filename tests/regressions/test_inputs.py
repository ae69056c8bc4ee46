"""Points, weights and numbers in the forms in which people have them: torch, numpy and pandas, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import proxflow as pf
from proxflow.analysis import data_dimension, local_dimension
from proxflow.checks import as_tensor, flat_points, point_weights
from proxflow.couplings import pair
from proxflow.metrics import energy_distance, label_accuracy, wasserstein
from proxflow.semidiscrete import fit

pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")

ROWS = np.random.default_rng(0).normal(size=(40, 2))
WEIGHTS = np.random.default_rng(1).uniform(1, 2, size=40)
SHUFFLED = np.random.default_rng(2).permutation(40)  # an index that must not reorder anything
SPARSE = torch.eye(40, 2, dtype=torch.float64).to_sparse()

FORMS: dict[str, Callable[[NDArray[Any]], Any]] = {
    "array": lambda x: x,
    "read-only": lambda x: _read_only(x),
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "reversed twice": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "Fortran order": np.asfortranarray,
    "field of records": lambda x: _field(x),
    "nothing masked": lambda x: np.ma.masked_array(x, mask=False),
    "pandas": lambda x: _pandas(x),
    "nullable pandas": lambda x: _pandas(x).astype("Float64"),
    "polars": lambda x: pl.Series(x) if x.ndim == 1 else pl.DataFrame(x),
    "nested lists": lambda x: x.tolist(),
}


def _read_only(x: NDArray[Any]) -> NDArray[Any]:
    x = x.copy()
    x.flags.writeable = False
    return x


def _field(x: NDArray[Any]) -> NDArray[Any]:
    records = np.zeros(x.shape, dtype=[("flag", "i1"), ("value", x.dtype)])  # 9 bytes: no whole number of values apart
    records["value"] = x
    return records["value"]


def _pandas(x: NDArray[Any]) -> Any:
    return pd.DataFrame(x, index=SHUFFLED) if x.ndim == 2 else pd.Series(x, index=SHUFFLED)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("values", [ROWS, WEIGHTS])
def test_every_form_gives_the_same_tensor(form: str, values: NDArray[Any]) -> None:
    found = as_tensor("fit", "points", FORMS[form](values))
    assert found.dtype == torch.float64
    assert np.array_equal(found.numpy(), values)


def test_float32_stays_float32() -> None:
    single = ROWS.astype("f4")
    for given in (single, single.astype(">f4"), _pandas(single), _pandas(single).astype("Float32")):
        assert flat_points("fit", given).dtype == torch.float32


@pytest.mark.parametrize("form", FORMS)
def test_a_fit_of_arrays_and_frames_is_that_of_tensors(form: str) -> None:
    expected = fit(torch.tensor(ROWS), torch.tensor(WEIGHTS))
    found = fit(FORMS[form](ROWS), FORMS[form](WEIGHTS))
    assert torch.equal(found.potential.points, expected.potential.points)
    assert torch.equal(found.potential.heights, expected.potential.heights)
    assert torch.equal(found.atom_of_row, expected.atom_of_row)


@pytest.mark.parametrize("form", FORMS)
def test_pairs_of_arrays_and_frames_are_those_of_tensors(form: str) -> None:
    expected = pair(torch.tensor(ROWS), torch.tensor(ROWS[::-1].copy()))
    found = pair(FORMS[form](ROWS), FORMS[form](ROWS[::-1]))
    assert torch.equal(found.index, expected.index)
    assert torch.equal(found.target, found.source)


@pytest.mark.parametrize("form", FORMS)
def test_metrics_and_dimension_of_arrays_and_frames_are_those_of_tensors(form: str) -> None:
    moved = ROWS + np.array([3.0, 4.0])
    x, y = FORMS[form](ROWS), FORMS[form](moved[::-1])
    assert wasserstein(x, y).value == pytest.approx(5, rel=1e-12)  # a translation by (3, 4)
    assert energy_distance(x, y) == energy_distance(torch.tensor(ROWS), torch.tensor(moved[::-1].copy()))
    found, expected = data_dimension(x, scales=[0.5, 1.0]), data_dimension(torch.tensor(ROWS), scales=[0.5, 1.0])
    assert torch.equal(found.trace, expected.trace)
    samples, labels = np.concatenate([ROWS, ROWS + 20]), np.repeat([3, 5], 40)
    if form == "pandas":
        samples, labels = pd.DataFrame(samples), pd.Series(labels, index=np.arange(80)[::-1])
    assert label_accuracy(samples, labels, samples, labels).value == 1


@pytest.mark.parametrize("form", FORMS)
def test_fields_and_dimensions_take_arrays_and_frames(form: str) -> None:
    rows, x = torch.tensor(ROWS), torch.tensor(ROWS[:5])
    field = pf.IndependentField(FORMS[form](ROWS), FORMS[form](WEIGHTS))
    expected_velocity = pf.IndependentField(rows, torch.tensor(WEIGHTS))(0.5, x)
    torch.testing.assert_close(field(0.5, x), expected_velocity, rtol=1e-12, atol=1e-12)  # products by columns differ
    found, expected = (local_dimension(field, x, 0.5, points=each) for each in (FORMS[form](ROWS), rows))
    assert found.below_spacing is not None
    assert expected.below_spacing is not None
    assert torch.equal(found.below_spacing, expected.below_spacing)


@pytest.mark.parametrize("form", FORMS)
def test_couplings_take_arrays_and_frames(form: str) -> None:
    points, generators = FORMS[form](ROWS), [torch.Generator().manual_seed(0) for _ in range(2)]
    found = pf.couplings.Minibatch(points, 8).sample(8, generator=generators[0])
    expected = pf.couplings.Minibatch(torch.tensor(ROWS), 8).sample(8, generator=generators[1])
    assert torch.equal(found.target, expected.target)


class _WithPoints:
    points = torch.zeros(3, 2)


MISSING = ROWS.copy()
MISSING[[3, 7], 1] = np.nan
REFUSED = {
    "sparse": (SPARSE, r"sparse_coo; call its \.to_dense\(\)"),
    "nested": (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged), "nested.*stack"),
    "meta": (torch.ones(3, 2, device="meta"), "meta device"),
    "complex array": (ROWS + 0j, "complex128; give real and imaginary parts"),
    "complex tensor": (torch.ones(3, 2) + 0j, "complex64; give real and imaginary parts"),
    "integers": (np.arange(6).reshape(3, 2), "int64; convert"),
    "integer frame": (pd.DataFrame({"a": [1, 2]}), "int64; convert"),
    "half": (ROWS.astype("f2"), "float16; convert"),
    "long double": (ROWS.astype(np.longdouble), "convert it to float64"),
    "truth values": (ROWS > 0, "bool; convert"),
    "text": ("points.csv", "got str; convert"),
    "array of text": (ROWS.astype(str), "array of <U32; convert it to numbers"),
    "objects": (ROWS.astype(object), "array of object; convert it to numbers"),
    "dates": (np.zeros((3, 2), dtype="M8[s]"), "datetime64"),
    "records": (np.zeros(3, dtype=[("a", "f8")]), "convert it to numbers"),
    "None": (None, "NoneType"),
    "dict": ({"a": 1}, "got dict"),
    "data set": (_WithPoints(), r"got _WithPoints; give its \.points"),
    "cells": (pytest.importorskip("anndata").AnnData(ROWS), r"got AnnData; give its \.X, or .* \.obsm\['X_pca'\]"),
    "dataset of torch": (torch.utils.data.TensorDataset(torch.ones(3, 2)), r"got TensorDataset; give its \.tensors"),
    "ragged": ([[1.0], [1.0, 2.0]], r"got list \(setting an array element"),
    "list with None": ([[1.0, None]], "convert it to numbers"),
    "masked": (np.ma.masked_invalid(MISSING), r"2 rows of points are masked, the first: \[3, 7\]; drop or fill"),
    "missing": (pd.DataFrame(MISSING), r"2 rows of points hold NaN or inf, the first: \[3, 7\]; drop"),
    "NA": (pd.DataFrame(MISSING).astype("Float64"), r"2 rows of points hold NaN or inf, the first: \[3, 7\]; drop"),
    "a column of names": (pd.DataFrame({"x": [1.0, 2.0], "who": ["a", "b"]}), "no numbers in 'who'; drop or convert"),
    "a column of truth": (pd.DataFrame({"x": [1.0, 2.0], "is": [True, False]}), "no numbers in 'is'; drop or convert"),
    "a column of names in polars": (pl.DataFrame({"x": [1.0], "n": [2], "who": ["a"]}), "no numbers in 'who'; drop or"),
    "a column of decimals in polars": (
        pl.DataFrame({"x": [1.0], "d": [Decimal("2.5")], "who": ["a"]}),
        "in 'd', 'who'",
    ),
    "names in polars": (pl.Series("who", ["a", "b"]), "no numbers in 'who'; drop or convert"),
    "one column": (pd.Series(WEIGHTS), r"got \(40,\); reshape numbers of the line to \(N, 1\)"),
    "empty": (pd.DataFrame(), r"got \(0, 0\)"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("call", [lambda x: flat_points("fit", x), data_dimension, lambda x: pf.measures.Empirical(x)])
def test_what_holds_no_rows_of_numbers_is_refused_with_a_remedy(case: str, call: Any) -> None:
    value, said = REFUSED[case]
    with pytest.raises(ValueError, match=rf"^(fit|data_dimension|Empirical): .*{said}"):
        call(value)


REFUSED_WEIGHTS = {
    "sparse": (torch.ones(40).to_sparse(), "to_dense"),
    "text": (["a"] * 40, "weights must be .* convert it to numbers"),
    "complex": ([1j] * 40, "complex"),
    "masked": (np.ma.masked_less(WEIGHTS, 1.05), "rows of weights are masked"),
    "missing": (pd.Series(WEIGHTS).astype("Float64").where(WEIGHTS > 1.05), "weights must be finite"),
    "frame": (pd.DataFrame(WEIGHTS), r"shape \(40,\), got \(40, 1\)"),
    "dict": ({}, "got dict"),
}


@pytest.mark.parametrize("case", REFUSED_WEIGHTS)
def test_weights_that_are_no_numbers_are_refused_with_a_remedy(case: str) -> None:
    value, said = REFUSED_WEIGHTS[case]
    with pytest.raises(ValueError, match=rf"^fit: .*{said}"):
        point_weights("fit", value, torch.zeros(40, 2))


@pytest.mark.parametrize("size", [5e-324, 1e-300, 1.0, 1e300, 8e307])
def test_only_the_proportions_of_weights_count(size: float) -> None:
    found = point_weights("fit", np.array([1.0, 2.0, 1.0]) * size, torch.zeros(3, 2))
    assert found.tolist() == [0.25, 0.5, 0.25]


# ------------------------------------------------------------------ numbers

POINTS = torch.tensor(ROWS)
FIT = fit(POINTS)
FLOW = pf.ProximalFlow(FIT.potential)


Number = Callable[[float], Any]  # a type of numbers, of Python or numpy


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def integrated(whole: Number, real: Number) -> torch.Tensor:
    def field(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x) - t

    fixed = pf.sampling.integrate(field, POINTS[:3], whole(3)).end
    adaptive = pf.sampling.integrate(field, POINTS[:3], whole(2), "dopri5", rtol=real(0.125), atol=real(0.125)).end
    return torch.cat([fixed, adaptive])


def trained(whole: Number, real: Number) -> torch.Tensor:
    torch.manual_seed(0)
    network = pf.matching.MLP((2,), width=8, depth=2)
    coupling = pf.couplings.Independent(POINTS.float())
    pf.matching.train(
        network, coupling, steps=whole(3), batch_size=whole(8), learning_rate=real(0.125), weight_decay=real(0.5),
        label_dropout=real(0.125), ema_decay=real(0.5), gradient_clip=real(0.5), evaluate_every=whole(2), seed=whole(1),
        progress=False,
    )  # fmt: skip
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def scheduled(whole: Number, real: Number) -> torch.Tensor:
    schedules = pf.schedules.Linear(), pf.schedules.Cosine(), pf.schedules.Polynomial(whole(2))
    names = ("alpha", "beta", "alpha_derivative", "beta_derivative", "wronskian", "rescaled_time")
    return torch.stack([getattr(schedule, name)(real(0.375)) for schedule in schedules for name in names])


CALLS: dict[str, Callable[[Number, Number], torch.Tensor]] = {
    "integrate": integrated,
    "train": trained,
    "schedules": scheduled,
    "fit": lambda whole, real: (
        fit(torch.tensor(ROWS[:20] @ np.eye(2, 5)), tol=real(0.5), max_samples=whole(5000), seed=whole(3)).cell_mass
    ),
    "measures": lambda whole, real: pf.measures.Gaussian(whole(3)).sample(whole(4), generator=generator()),
    "box": lambda whole, real: pf.measures.Uniform(whole(3), real(0), real(2)).sample(whole(4), generator=generator()),
    "minibatch": lambda whole, real: (
        pf.couplings.Minibatch(POINTS, whole(8)).sample(whole(5), generator=generator()).target
    ),
    "semidiscrete": lambda whole, real: (
        pf.couplings.Semidiscrete(FIT.potential, POINTS).sample(whole(5), generator=generator()).source
    ),
    "wasserstein": lambda whole, real: torch.tensor(
        wasserstein(POINTS, POINTS + 1, exact_up_to=whole(0), projections=whole(7), seed=whole(3)).value
    ),
    "local_dimension": lambda whole, real: (
        pf.analysis.local_dimension(FLOW, POINTS[:3], real(0.5), probes=whole(4), seed=whole(1)).dimension
    ),
    "terminal_spectrum": lambda whole, real: (
        pf.analysis.terminal_spectrum(FLOW, POINTS[:3], [real(0.5)], count=whole(1), seed=whole(1)).rates
    ),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("whole", "real"), [(np.int64, np.float64), (np.int32, np.float32), (np.uint16, np.float16)])
def test_numpy_scalars_are_numbers(call: str, whole: Number, real: Number) -> None:
    torch.testing.assert_close(CALLS[call](whole, real), CALLS[call](int, float), rtol=0, atol=0)


@pytest.mark.parametrize(("whole", "real"), [(np.int64, np.float32), (np.uint16, np.float64)])
def test_objects_made_of_numpy_scalars_are_stored(whole: Number, real: Number, tmp_path: Path) -> None:
    def again(entry: object) -> Any:
        pf.save(entry, tmp_path / "object.safetensors")
        return pf.load(tmp_path / "object.safetensors")

    found = again(fit(torch.tensor(ROWS[:, :1]), tol=real(0.125), seed=whole(3), max_samples=whole(5000)))
    assert (found.tol, found.seed) == (0.125, 3)
    ball, box = again(pf.potentials.Ball(whole(3), real(0.5))), again(pf.measures.Uniform(whole(2), real(0), real(1)))
    assert (ball.dim, ball.radius, box.dim, box.high) == (3, 0.5, 2, 1.0)
    network = again(pf.matching.MLP((whole(2),), width=whole(8), depth=whole(2)))
    assert (network.event_shape, network.width) == ((2,), 8)


def test_start_points_that_are_no_tensor_are_refused_by_their_type() -> None:
    with pytest.raises(ValueError, match="integrate: x0 must be a torch tensor, got ndarray; convert it"):
        pf.sampling.integrate(FLOW, ROWS)  # type: ignore[arg-type]


def test_what_is_no_field_is_refused_by_its_type() -> None:
    points = torch.zeros(3, 2)
    for query in (pf.sampling.integrate, pf.sampling.log_likelihood):
        with pytest.raises(ValueError, match=r"Ball is a potential; give its flow, ProximalFlow\(potential\)"):
            query(pf.potentials.Ball(2), points)
        with pytest.raises(ValueError, match=r"the field must be callable as field\(t, x\), got Tensor"):
            query(points, points)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the source must be a law as measures.Gaussian\(d\), got 'normal'"):
        pf.sampling.log_likelihood(lambda t, x: x, points, source="normal")  # type: ignore[arg-type]


NO_COUNTS: dict[str, Callable[[Any], object]] = {
    "integrate": lambda n: pf.sampling.integrate(FLOW, POINTS, n),
    "train": lambda n: pf.matching.train(
        pf.matching.MLP((2,), width=8, depth=2), pf.couplings.Independent(POINTS.float()), steps=n
    ),
    "Gaussian": pf.measures.Gaussian,
    "Gaussian.sample": lambda n: pf.measures.Gaussian(2).sample(n),
    "Independent.sample": lambda n: pf.couplings.Independent(POINTS).sample(n),
    "Minibatch": lambda n: pf.couplings.Minibatch(POINTS, n),
    "Ball": pf.potentials.Ball,
    "wasserstein": lambda n: wasserstein(POINTS, POINTS, projections=n),
    "label_accuracy": lambda n: label_accuracy(POINTS, POINTS[:, 0] > 0, POINTS, POINTS[:, 0] > 0, seed=n),
    "fit": lambda n: fit(POINTS, seed=n),
    "data.load": lambda n: pf.data.load("moons", n=n),
    "local_dimension": lambda n: pf.analysis.local_dimension(FLOW, POINTS[:3], 0.5, probes=n),
}


@pytest.mark.parametrize("number", [True, np.True_, 2.5, np.float64(3), "3"])
@pytest.mark.parametrize("call", NO_COUNTS)
def test_truth_values_fractions_and_text_are_no_counts(call: str, number: Any) -> None:
    with pytest.raises(ValueError, match=r"integer|whole number|at least 1|between 1"):
        NO_COUNTS[call](number)
