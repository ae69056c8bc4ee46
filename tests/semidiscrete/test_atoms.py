import numpy as np
import pytest
import torch

from proxflow.semidiscrete import fit
from proxflow.semidiscrete.prepare import gather_atoms

ROWS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 1.0]], dtype=torch.float64)


def test_duplicate_rows_share_an_atom_and_add_their_weights() -> None:
    rows = ROWS[[2, 0, 2, 1, 3, 0]]
    atoms = gather_atoms(rows, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    assert len(atoms.points) == 4
    torch.testing.assert_close(atoms.points[atoms.atom_of_row], rows, rtol=0, atol=0)
    expected = {tuple(ROWS[0].tolist()): 8, tuple(ROWS[1].tolist()): 4, tuple(ROWS[2].tolist()): 4}
    for point, weight in zip(atoms.points.tolist(), atoms.weights.tolist(), strict=True):
        assert weight == pytest.approx(expected.get(tuple(point), 5) / 21, rel=1e-14)


def test_negative_and_positive_zero_are_the_same_point() -> None:
    atoms = gather_atoms(torch.tensor([[0.0, 1.0], [-0.0, 1.0]]), None)
    assert len(atoms.points) == 1


def test_a_weight_of_zero_on_one_of_two_equal_rows_is_fine() -> None:
    atoms = gather_atoms(ROWS[[0, 0, 1]], torch.tensor([0.0, 1.0, 1.0]))
    assert atoms.weights.tolist() == [0.5, 0.5]


def test_events_are_flattened_and_weights_default_to_equal() -> None:
    atoms = gather_atoms(torch.arange(24.0).reshape(4, 2, 3), None)
    assert atoms.points.shape == (4, 6)
    assert atoms.weights.dtype == torch.float64
    assert atoms.weights.tolist() == [0.25] * 4


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (torch.zeros(0, 3), "points"),
        (torch.zeros(3, 0), "points"),
        (torch.zeros(5), "points"),
        (torch.zeros(5, 2, dtype=torch.int64), "int64"),
        (torch.zeros(5, 2, dtype=torch.int16), "int16; convert them to float32"),
        (torch.tensor([[0.0], [1.0], [torch.nan], [2.0], [torch.inf]]), r"points.*2, 4"),
    ],
)
def test_bad_points_are_refused_by_name_and_row(points: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit(points)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1.0, 1.0], r"weights.*\(4,\)"),
        ([1.0, -1.0, 1.0, 1.0], r"weights.*\[1\]"),
        ([1.0, 1.0, torch.nan, 1.0], r"weights.*\[2\]"),
        ([1.0, 1.0, torch.inf, 1.0], r"weights.*\[2\]"),
        ([0.0, 0.0, 0.0, 0.0], "weights.*zero"),
        ([1.0, 1.0, 1.0, 0.0], "weight zero.*3"),
    ],
)
def test_bad_weights_are_refused_by_name_and_row(weights: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit(ROWS, torch.tensor(weights))


def test_numpy_rows_give_the_fit_of_the_tensor() -> None:
    numpy_fit = fit(ROWS.numpy().astype(np.float64))
    assert torch.equal(numpy_fit.potential.heights, fit(ROWS).potential.heights)
