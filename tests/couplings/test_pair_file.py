"""Files of pairs: their noise, their rows, what they say of themselves, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections import Counter
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import proxflow as pf
from proxflow.couplings import (
    Conditional,
    Independent,
    JointConditional,
    Minibatch,
    PairFile,
    PairSampler,
    Semidiscrete,
    Subspace,
)
from proxflow.couplings.numbered_noise import NumberedNoise
from proxflow.measures import Uniform
from proxflow.potentials import Discrete
from proxflow.semidiscrete import fit
from tests.couplings.normality import ALPHA, frequency_p_value, normal_p_value, same_law_p_value

ROWS, EVENT = 30, (1, 2)
F64 = torch.float64


def points(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(ROWS, *EVENT, generator=torch.Generator().manual_seed(0), dtype=F64).to(dtype)


@pytest.fixture(scope="module")
def coupling() -> Semidiscrete:
    return Semidiscrete(fit(points()).potential, points())


@pytest.fixture(scope="module")
def folder(coupling: Semidiscrete, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    PairFile.write(coupling, folder / "drawn", pairs=1000)
    PairFile.write(coupling, folder / "epochs", epochs=20)
    return folder


def opened(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """All noise and rows of a file."""
    file = PairFile(folder / name, points())
    pairs = file.__getitems__(range(len(file)))
    return torch.stack([noise for noise, _ in pairs]), torch.tensor([row for _, row in pairs])


# ------------------------------------------------------------------ noise by its number


def test_vectors_are_normal_quantiles_of_one_stream_of_philox() -> None:
    """The stream made in one piece, and quantiles by another algorithm (Wichura's)."""
    noise = NumberedNoise(11, 6)  # 2 counters of 4 words a vector, of which 6 words are used
    key = np.random.SeedSequence(11).generate_state(2, np.uint64)
    words = np.random.Philox(key=key).random_raw(5 * 8).reshape(5, 8)[:, :6]
    expected = [[NormalDist().inv_cdf(((int(word) >> 12) + 0.5) / 2**52) for word in vector] for vector in words]
    torch.testing.assert_close(noise.run(0, 5), torch.tensor(expected, dtype=F64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [1, 3, 4, 70_000])
def test_a_vector_is_the_same_alone_and_in_company(dim: int) -> None:
    noise = NumberedNoise(3, dim)
    run = noise.run(5, 4)
    assert torch.equal(noise.of([8, 5, 7]), run[[3, 0, 2]])
    assert torch.equal(noise.of([2**40]), noise.run(2**40, 1))
    assert not torch.isin(run, NumberedNoise(4, dim).run(5, 4)).any()
    assert noise.of([]).shape == (0, dim)


def test_vectors_are_independent_and_normal() -> None:
    noise = NumberedNoise(0, 5).run(0, 4000)
    assert normal_p_value(noise) > ALPHA
    assert normal_p_value(torch.cat([noise[1:], noise[:-1]], dim=1)[::2]) > ALPHA  # two in a row, as one of R^10


# ------------------------------------------------------------------ pairs


@pytest.mark.parametrize("name", ["drawn", "epochs"])
def test_noise_goes_to_the_row_of_its_cell(coupling: Semidiscrete, folder: Path, name: str) -> None:
    noise, row = opened(folder, name)
    assert noise.shape == (len(row), *EVENT)
    assert noise.dtype == torch.float32
    best = (noise.flatten(1) @ coupling.potential.points.mT - coupling.potential.heights).argmax(1)
    assert torch.equal(coupling.potential.points[best], points()[row].flatten(1))
    assert len(noise.flatten(1).unique(dim=0)) == len(noise)  # each vector once


def test_every_row_comes_once_an_epoch_in_an_order_of_its_own(folder: Path) -> None:
    _, row = opened(folder, "epochs")
    epochs = row.reshape(20, ROWS)
    assert torch.equal(epochs.sort(1).values, torch.arange(ROWS).expand(20, -1))
    assert len(epochs.unique(dim=0)) == 20


def test_pairs_of_a_row_are_independent_draws_of_its_cell(coupling: Semidiscrete, tmp_path: Path) -> None:
    """Of the largest cell, where draws would be most alike: the same law as of pairs that were sampled."""
    PairFile.write(coupling, tmp_path / "many", epochs=300)
    noise, row = opened(tmp_path, "many")
    sampled = coupling.sample(10_000, generator=torch.Generator().manual_seed(0))
    for number in (0, 7):
        own = noise[row == number]
        assert same_law_p_value(own, sampled.source[sampled.index == number]) > ALPHA
        centred = (own - own.mean(0)).flatten(1)
        along = (centred[1:] * centred[:-1]).mean(0) / centred.square().mean(0)
        assert float(along.abs().max()) < 4 / math.sqrt(len(own))  # of neighbours in the file


def test_rows_that_are_drawn_come_by_their_weights(tmp_path: Path) -> None:
    weights = torch.arange(1, ROWS + 1) / 10.0
    PairFile.write(
        Semidiscrete(fit(points(), weights).potential, points(), weights=weights), tmp_path / "a", pairs=6000
    )
    _, row = opened(tmp_path, "a")
    assert frequency_p_value(row, weights) > ALPHA


@pytest.mark.parametrize("directions", [None, 1])
def test_classes_keep_their_noise_apart(directions: int | None, tmp_path: Path) -> None:
    labels = torch.tensor([4] * 20 + [9] * 10)
    coupling = Conditional.fit(points(), labels, directions=directions, tol=1e-3)
    PairFile.write(coupling, tmp_path / "a", epochs=60)
    noise, row = opened(tmp_path, "a")
    assert torch.equal(torch.bincount(row), torch.full((ROWS,), 60))
    for label, potential in coupling.potentials.items():
        own = labels[row] == label
        assert normal_p_value(noise[own]) > ALPHA
        frame = torch.eye(2) if coupling.directions is None else coupling.directions[label]
        best = (noise[own].flatten(1) @ frame @ potential.points.mT - potential.heights).argmax(1)
        torch.testing.assert_close(potential.points[best], points()[row[own]].flatten(1) @ frame)


def test_a_subspace_takes_its_directions_from_the_same_noise(tmp_path: Path) -> None:
    coupling = Subspace.fit(points(), dim=1, tol=1e-3)
    PairFile.write(coupling, tmp_path / "a", epochs=30)
    noise, row = opened(tmp_path, "a")
    best = (noise.flatten(1) @ coupling.directions @ coupling.potential.points.mT - coupling.potential.heights).argmax(
        1
    )
    found, told = coupling.potential.points[best], points()[row].flatten(1) @ coupling.directions
    assert float(torch.isclose(found, told).double().mean()) > 0.99
    assert normal_p_value(noise) > ALPHA


def test_equal_rows_and_independent_pairs_come_once_an_epoch_too(tmp_path: Path) -> None:
    doubled = torch.cat([points(), points()[:3]])
    for coupling in (Semidiscrete(fit(doubled).potential, doubled), Independent(doubled)):
        PairFile.write(coupling, tmp_path / "a", epochs=4)
        row = [row for _, row in PairFile(tmp_path / "a", doubled)]  # type: ignore[attr-defined]
        assert Counter(row) == dict.fromkeys(range(ROWS + 3), 4)


# ------------------------------------------------------------------ what the file says


def uneven() -> tuple[Discrete, Tensor]:
    """Two atoms of equal weight whose cells have the masses .6 and .4."""
    rows = torch.tensor([[-1.0], [1.0]], dtype=F64)
    return Discrete(rows, torch.tensor([0.0, 2 * NormalDist().inv_cdf(0.6)], dtype=F64)), rows


def test_it_states_the_error_of_the_masses_and_how_even_the_visits_are(tmp_path: Path) -> None:
    potential, rows = uneven()
    several: tuple[dict[str, Any], ...] = ({"pairs": 4000}, {"epochs": 1000})
    for options in several:
        record = PairFile.write(Semidiscrete(potential, rows), tmp_path / "a", **options)
        assert record.chi2 == pytest.approx(0.04, abs=4 * record.chi2_stderr)  # (.2^2 + .2^2) / 2
        assert record.chi2_stderr < 0.02
        file = PairFile(tmp_path / "a", rows)
        assert file.record == record
        visits = (
            torch.bincount(torch.tensor([row for _, row in file.__getitems__(range(len(file)))])).double()
            / len(file)
            * 2
        )
        assert (record.fewest, record.most) == pytest.approx((float(visits.min()), float(visits.max())))
        assert record.visit_chi2 == pytest.approx(float((visits - 1).square().mean()), abs=1e-6)
    assert (record.epochs, record.visit_chi2) == (1000, 0)


def test_the_stated_error_of_chi2_is_its_spread_over_seeds(tmp_path: Path) -> None:
    potential, rows = uneven()
    found = [PairFile.write(Semidiscrete(potential, rows), tmp_path / "a", pairs=500, seed=s) for s in range(60)]
    chi2 = torch.tensor([record.chi2 for record in found])
    stated = sum(record.chi2_stderr for record in found) / 60
    assert float(chi2.std()) == pytest.approx(stated, rel=0.4)  # 60 draws tell a deviation to 9%
    assert float(chi2.mean()) == pytest.approx(0.04, abs=4 * stated / math.sqrt(60))


def test_a_row_without_a_cell_gets_independent_noise_which_is_counted(tmp_path: Path) -> None:
    rows = torch.tensor([[-1.0], [0.0], [1.0]], dtype=F64)
    high = Discrete(rows, torch.tensor([0.0, 2.0, 0.0], dtype=F64))
    record = PairFile.write(Semidiscrete(high, rows), tmp_path / "a", epochs=500)
    assert (record.approximated, record.fewest, record.most) == (500, 1, 1)
    assert record.draws == 3 * (32 + 2 * 500)
    file = PairFile(tmp_path / "a", rows)
    pairs = file.__getitems__(range(len(file)))
    noise, row = torch.stack([noise for noise, _ in pairs]), torch.tensor([row for _, row in pairs])
    assert normal_p_value(noise[row == 1]) > ALPHA
    assert bool((noise[row == 0] < 0).all())
    assert PairFile.write(Semidiscrete(high, rows), tmp_path / "a", epochs=2, max_draws=64).draws == 64


def test_files_are_small(folder: Path) -> None:
    overhead = 4 * ROWS + 1400  # the sketch, and the description
    assert (folder / "drawn").stat().st_size < 4 * 1000 + overhead
    assert (folder / "epochs").stat().st_size < 8 * 20 * ROWS + overhead


# ------------------------------------------------------------------ reading


def test_a_pair_is_the_same_alone_in_a_batch_and_in_copies(folder: Path) -> None:
    file = PairFile(folder / "epochs", points())
    copies = [file, copy.deepcopy(file), pickle.loads(pickle.dumps(file)), PairFile(folder / "epochs", points())]
    for other in copies:
        together = other.__getitems__([3, 599, -1, 3])
        for (noise, row), (alone, own) in zip(together, [file[3], file[599], file[599], file[3]], strict=True):
            assert torch.equal(noise, alone)
            assert row == own
    assert len(pickle.dumps(file)) < 2000
    assert isinstance(file[0][1], int)


def test_the_noise_follows_the_points_in_dtype_and_shape(folder: Path) -> None:
    single = PairFile(folder / "drawn", points())[5][0]
    double = PairFile(folder / "drawn", points().double().flatten(1))[5][0]
    assert (double.dtype, double.shape) == (F64, (2,))
    assert torch.equal(double.float().reshape(EVENT), single)
    assert torch.equal(PairFile(folder / "drawn", points().numpy())[5][0], single)


def test_global_generators_are_left_alone(coupling: Semidiscrete, folder: Path, tmp_path: Path) -> None:
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002
    PairFile.write(coupling, tmp_path / "a", epochs=2)
    _ = PairFile(folder / "drawn", points())[0]
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state(legacy=False)["state"]["key"])  # noqa: NPY002


def test_seeds_are_other_noise_and_the_same_seed_is_the_same_file(
    coupling: Semidiscrete, folder: Path, tmp_path: Path
) -> None:
    for seed, name in ((0, "again"), (1, "other")):
        PairFile.write(coupling, tmp_path / name, pairs=1000, seed=seed)
    assert (tmp_path / "again").read_bytes() == (folder / "drawn").read_bytes()
    assert not torch.isin(opened(tmp_path, "other")[0], opened(folder, "drawn")[0]).any()


def test_a_smoothed_potential_draws_its_rows_at_random(tmp_path: Path) -> None:
    coupling = Semidiscrete(fit(points(), epsilon=0.3, tol=1e-3).potential, points())
    record = PairFile.write(coupling, tmp_path / "a", pairs=3000)
    noise, row = opened(tmp_path, "a")
    scores = (noise.flatten(1) @ coupling.potential.points.mT - coupling.potential.heights).argmax(1)
    assert 0.05 < float((coupling.atom_of_row[row] != scores).double().mean()) < 0.9
    assert abs(record.chi2) < 4 * record.chi2_stderr + 1e-3


def test_a_sampler_takes_epoch_after_epoch_and_shares_them_out(folder: Path) -> None:
    file = PairFile(folder / "epochs", points())
    sampler = PairSampler(file)
    loader = DataLoader(file, batch_size=7, sampler=sampler)
    for epoch in (0, 19, 3):
        sampler.set_epoch(epoch)
        seen = [row for _, rows in loader for row in rows.tolist()]
        assert seen == [file[epoch * ROWS + k][1] for k in range(ROWS)]
    shares = [PairSampler(file, rank=rank, processes=4) for rank in range(4)]
    for share in shares:
        share.set_epoch(22)
    assert sorted(place for share in shares for place in share) == list(range(2 * ROWS, 3 * ROWS))
    assert {len(share) for share in shares} == {7, 8}
    assert len(PairSampler(PairFile(folder / "drawn", points()))) == 1000
    with pytest.raises(ValueError, match="whole numbers, 0 <= rank < processes, got rank 2 of 2"):
        PairSampler(file, rank=2, processes=2)
    with pytest.raises(ValueError, match=r"whole numbers, .* got rank 0\.5 of 2"):
        PairSampler(file, rank=0.5, processes=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epoch must be an integer of at least 0, got -1"):
        sampler.set_epoch(-1)


# ------------------------------------------------------------------ what is refused


def test_damaged_files_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    whole, path = (folder / "epochs").read_bytes(), tmp_path / "damaged"
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"damaged is truncated or no file of pairs .*write it again") as caught:
            PairFile(path, points())
        assert "\n" not in str(caught.value)
    generator = np.random.default_rng(0)
    for place in [len(whole) - 1, *generator.integers(8, len(whole), 20)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(generator.integers(7))]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"PairFile: .*damaged") as caught:
            PairFile(path, points())
        assert "\n" not in str(caught.value)


def test_other_files_and_none_are_refused(folder: Path, tmp_path: Path) -> None:
    pf.save(pf.schedules.Linear(), tmp_path / "schedule")
    with pytest.raises(ValueError, match="schedule holds no pairs"):
        PairFile(tmp_path / "schedule", points())
    with pytest.raises(FileNotFoundError, match="nothing: no such file"):
        PairFile(tmp_path / "nothing", points())
    newer = (folder / "drawn").read_bytes().replace(b'format_version\\": 1', b'format_version\\": 2')
    (tmp_path / "newer").write_bytes(newer)
    with pytest.raises(ValueError, match="has format 2, this version of proxflow reads up to 1"):
        PairFile(tmp_path / "newer", points())


def test_a_copy_whose_file_was_written_anew_says_so(coupling: Semidiscrete, tmp_path: Path) -> None:
    PairFile.write(coupling, tmp_path / "a", pairs=10)
    pickled = pickle.dumps(PairFile(tmp_path / "a", points()))
    PairFile.write(coupling, tmp_path / "a", pairs=10, seed=1)
    with pytest.raises(ValueError, match="was written anew"):
        pickle.loads(pickled)


def test_points_that_it_was_not_written_for_are_refused(folder: Path) -> None:
    swapped = points()
    swapped[[3, 8]] = swapped[[8, 3]]
    for given, said in (
        (points()[:-1], "for 30 points of 2 numbers, got 29 of 2"),
        (points().repeat(1, 2, 1), "for 30 points of 2 numbers, got 30 of 4"),
        (swapped, r"2 rows differ, the first: \[3, 8\]"),
        (1.01 * points(), "for other points: 30 rows differ"),
    ):
        with pytest.raises(ValueError, match=f"PairFile: .*{said}"):
            PairFile(folder / "drawn", given)
    PairFile(folder / "drawn", points() * (1 + 2**-20))  # another rounding


def test_pairs_that_are_not_there_are_refused(folder: Path) -> None:
    file = PairFile(folder / "drawn", points())
    for pair in (1000, -1001, 0.5, None):
        with pytest.raises(IndexError, match="pairs are numbered 0 to 999"):
            _ = file[pair]  # type: ignore[index]


def test_what_cannot_be_written_is_refused(coupling: Semidiscrete, tmp_path: Path) -> None:
    flat, weights = points().flatten(1), torch.arange(1, ROWS + 1)
    uneven = Semidiscrete(fit(points(), weights).potential, points(), weights=weights)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (coupling, {}, "one of pairs= and epochs=, got None and None"),
        (coupling, {"pairs": 3, "epochs": 3}, "one of pairs= and epochs="),
        (coupling, {"pairs": 0}, "pairs must be an integer of at least 1, got 0"),
        (coupling, {"epochs": 1.5}, "epochs must be an integer of at least 1, got 1.5"),
        (coupling, {"epochs": 1, "max_draws": 0}, "max_draws must be an integer"),
        (coupling, {"pairs": 3, "seed": "x"}, "seed must be an integer of at most 64 bits, got 'x'"),
        (Minibatch(flat, 5), {"pairs": 3}, "Minibatch has no rows for given noise"),
        (Subspace(Minibatch(flat[:, :1], 5), flat, torch.eye(2)[:, :1]), {"pairs": 3}, "Minibatch pairs what it draws"),
        (JointConditional.fit(flat, flat[:, 0], 1.0, tol=0.3), {"pairs": 3}, "JointConditional has no rows"),
        (Independent(flat, source=Uniform(2)), {"pairs": 3}, "only standard normal noise .* Uniform"),
        (uneven, {"epochs": 3}, "in an epoch every row comes once, but the rows have weights"),
    ]
    for given, options, said in cases:
        with pytest.raises(ValueError, match=said):
            PairFile.write(given, tmp_path / "a", **options)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="no folder"):
        PairFile.write(coupling, tmp_path / "missing" / "a", pairs=3)


def test_an_older_file_stays_where_writing_fails(
    coupling: Semidiscrete, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PairFile.write(coupling, tmp_path / "a", pairs=10)
    before = (tmp_path / "a").read_bytes()

    def interrupted(*_: object, **__: object) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(coupling, "rows_for", interrupted)
    with pytest.raises(KeyboardInterrupt):
        PairFile.write(coupling, tmp_path / "a", pairs=20)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == before


def test_the_record_prints_in_a_few_lines(folder: Path) -> None:
    record = PairFile(folder / "drawn", points()).record
    assert "chi2=" in repr(record)
    assert dataclasses.is_dataclass(record)
