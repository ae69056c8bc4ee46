"""Groups of orthogonal maps: what they do to rows, and what is refused."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.symmetry import Group, HorizontalFlip, Shifts, Symmetry

f64 = torch.float64


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=f64)


def turns(order: int, dtype: torch.dtype = f64) -> Tensor:
    """The rotations of the plane by multiples of 360 / order degrees."""
    angle = 2 * math.pi * torch.arange(order, dtype=f64) / order
    matrices = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(-1, 2, 2)
    return (matrices.round() if order == 4 else matrices).to(dtype)


def sign_changes(dim: int) -> Tensor:
    signs = torch.cartesian_prod(*[torch.tensor([1.0, -1.0], dtype=f64)] * dim).reshape(-1, dim)
    return torch.diag_embed(signs)


GROUPS: dict[str, Symmetry] = {
    "flip": HorizontalFlip((2, 3, 4)),
    "shifts": Shifts((3, 4), axes=(0, 1)),
    "quarter turns": Group(turns(4)),
    "turns by 60 degrees": Group(turns(6)),
    "sign changes": Group(sign_changes(3)),
}


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS.keys())
def test_elements_are_isometries_with_inverses_and_act_row_by_row(group: Symmetry) -> None:
    x = rows(5, group.dim)
    assert torch.equal(group.apply(x, 0), x)
    images = torch.stack([group.apply(x, g) for g in range(len(group))])
    torch.testing.assert_close(torch.cdist(images, images), torch.cdist(x, x).expand(len(group), 5, 5))
    for g in range(len(group)):
        torch.testing.assert_close(group.apply(images[g], group.inverse(g)), x)
    element = torch.arange(5) % len(group)
    assert torch.equal(group.apply(x, element), images[element, torch.arange(5)])
    assert len(torch.unique(images[:, 0].round(decimals=9), dim=0)) == len(group)
    still = group.invariant_part(x)
    for g in range(len(group)):
        torch.testing.assert_close(group.apply(still, g), still)


def test_a_flip_is_torch_flip() -> None:
    images = rows(6, 3, 4, 5)
    assert torch.equal(HorizontalFlip((3, 4, 5)).apply(images.flatten(1), 1), images.flip(-1).flatten(1))


def test_shifts_are_torch_roll() -> None:
    field = rows(1, 3, 4)
    found = torch.cat([Shifts((3, 4), axes=(0, 1)).apply(field.flatten(1), g) for g in range(12)])
    expected = torch.cat([field.roll((i, j), (1, 2)).flatten(1) for i in range(3) for j in range(4)])
    assert torch.equal(found, expected)


def test_the_identity_comes_first_in_any_order() -> None:
    group = Group(turns(4).flip(0))
    x = rows(3, 2)
    assert torch.equal(group.apply(x, 0), x)
    assert torch.equal(group.apply(group.apply(x, 1), group.inverse(1)), x)


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS.keys())
def test_groups_come_back_from_files_copies_and_pickles(group: Symmetry, tmp_path: Path) -> None:
    pf.save(group, tmp_path / "group.safetensors")
    x = rows(4, group.dim)
    for other in (pf.load(tmp_path / "group.safetensors"), copy.deepcopy(group), pickle.loads(pickle.dumps(group))):
        assert other == group
        assert all(torch.equal(other.apply(x, g), group.apply(x, g)) for g in range(len(group)))
    assert group != HorizontalFlip((7, 2))


def test_float32_matrices_of_a_group_are_taken() -> None:
    assert len(Group(turns(7, torch.float32))) == 7


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        (torch.eye(2), r"shape \(G, d, d\), got \(2, 2\)"),
        (torch.eye(2, dtype=torch.float16)[None], "float32 or float64"),
        (torch.stack([torch.eye(2), 2 * torch.eye(2)]), "matrix 1 is not orthogonal"),
        (torch.stack([torch.eye(2), torch.full((2, 2), math.nan)]), "matrix 1 is not orthogonal"),
        (turns(4)[1:], "identity is missing"),
        (torch.cat([turns(4), turns(4)[2:3]]), "matrices 2 and 4 are equal"),
        (turns(4)[[1, 0]], "inverse of matrix 0 is missing"),
        (sign_changes(2)[[2, 0, 1]], "product of matrices 0 and 2 is missing"),
    ],
)
def test_what_is_no_group_is_refused_by_its_first_element(matrices: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Group(matrices)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(8,), (8, 1), (0, 8), (2.0, 8), 8, ()])
def test_shapes_without_mirror_images_are_refused(shape: Any) -> None:
    with pytest.raises(ValueError, match="HorizontalFlip: event_shape must"):
        HorizontalFlip(shape)


@pytest.mark.parametrize("axes", [(), (2,), (0, 0), (1, -1), (0.5,)])
def test_axes_that_are_none_are_refused(axes: Any) -> None:
    with pytest.raises(ValueError, match="Shifts: axes must be distinct axes"):
        Shifts((3, 4), axes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8], ids=str)
@pytest.mark.parametrize(
    "turn", [torch.tensor([[0.0, 1], [1, 0]]), -torch.eye(2), torch.tensor([[0.6, 0.8], [0.8, -0.6]])]
)
def test_images_of_bytes_are_those_of_numbers(turn: Tensor, dtype: torch.dtype) -> None:
    group = Group(torch.stack([torch.eye(2), turn]))
    rows = torch.tensor([[0, 100], [127, 127], [3, 128]]).to(dtype)
    numbers = rows.float()
    for element in (0, 1, torch.tensor([0, 1, 1])):
        assert torch.equal(group.apply(rows, element).float(), group.apply(numbers, element))
    assert torch.equal(group.invariant_part(rows), group.invariant_part(numbers))
