"""Folders of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.sources import raw, refusal


def picture(path: Path, array: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path)


def pixels(*shape: int, seed: int = 0, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(np.iinfo(dtype).max + 1, size=shape).astype(dtype)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)], ids=["grey", "colour"])
def test_a_folder_of_images_comes_back_with_its_labels(shape, tmp_path):
    arrays = [pixels(*shape, seed=seed) for seed in range(4)]
    for name, array in zip(["cat/a", "cat/b", "dog/a", "eel/z"], arrays, strict=True):
        picture(tmp_path / "pets" / f"{name}.png", array)
    dataset = raw(tmp_path / "pets")
    expected = np.stack(arrays) / 255
    assert np.array_equal(dataset.points.numpy(), expected if len(shape) == 2 else np.moveaxis(expected, -1, 1))
    assert dataset.labels.tolist() == [0, 0, 1, 2]
    assert dataset.label_names == ("cat", "dog", "eel")
    assert dataset.name == "pets"


def test_a_flat_folder_has_no_labels(tmp_path):
    picture(tmp_path / "a.png", pixels(3, 3))
    assert raw(tmp_path).labels is None


@pytest.mark.parametrize("first", ["a", "b"])
def test_grey_and_colour_images_mix_as_colour(first, tmp_path):
    grey, colour = pixels(5, 4), pixels(5, 4, 3)
    picture(tmp_path / f"{first}.png", grey)
    picture(tmp_path / f"{'b' if first == 'a' else 'a'}.png", colour)
    points = raw(tmp_path).points.numpy() * 255
    index = 0 if first == "a" else 1
    assert np.array_equal(np.rint(points[index]), np.stack([grey] * 3))
    assert np.array_equal(np.rint(points[1 - index]), np.moveaxis(colour, -1, 0))


def test_sixteen_bit_images_keep_their_depth(tmp_path):
    array = pixels(5, 4, dtype=np.uint16)
    picture(tmp_path / "a.png", array)
    assert np.array_equal(raw(tmp_path).points[0].numpy(), array / 65535)


def test_black_and_white_images_are_grey(tmp_path):
    picture(tmp_path / "a.png", pixels(5, 4), "1")
    points = raw(tmp_path).points
    assert points.shape == (1, 5, 4)
    assert set(points.flatten().tolist()) == {0.0, 1.0}


def test_images_of_two_sizes_are_named(tmp_path):
    picture(tmp_path / "a.png", pixels(5, 4))
    picture(tmp_path / "b.png", pixels(4, 4))
    message = refusal(tmp_path)
    assert "b.png has 4 x 4 pixels" in message
    assert "resize" in message


@pytest.mark.parametrize("kept", [0, 60])
def test_a_broken_image_is_named(kept, tmp_path):
    picture(tmp_path / "a.png", pixels(40, 40))
    picture(tmp_path / "b.png", pixels(40, 40))
    content = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(content[:kept])
    assert f"{tmp_path / 'b.png'} cannot be read" in refusal(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    assert "holds no images" in refusal(tmp_path)


def test_nested_folders_and_the_folder_itself_are_classes(tmp_path):
    for name in ("a", "cat/b", "cat/old/c"):
        picture(tmp_path / f"{name}.png", pixels(3, 3))
    assert raw(tmp_path).label_names == (".", "cat", "cat/old")


def test_a_subset_reads_its_own_images_only(tmp_path):
    arrays = [pixels(3, 3, seed=seed) for seed in range(9)]
    for i, array in enumerate(arrays):
        picture(tmp_path / f"{i}" / "a.png", array)
    dataset = raw(tmp_path, n=4, seed=2)
    chosen = dataset.labels.tolist()
    assert np.array_equal(dataset.points.numpy(), np.stack([arrays[i] for i in chosen]) / 255)
    for i in set(range(9)) - set(chosen):
        (tmp_path / f"{i}" / "a.png").write_bytes(b"")
    assert torch.equal(raw(tmp_path, n=4, seed=2).points, dataset.points)
