"""Folders of images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.sources import raw, refusal


def picture(path: Path, array: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path)


def pixels(*shape: int, seed: int = 0, dtype: type[np.unsignedinteger[Any]] = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(np.iinfo(dtype).max + 1, size=shape).astype(dtype)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)], ids=["grey", "colour"])
def test_a_folder_of_images_comes_back_with_its_labels(shape: tuple[int, ...], tmp_path: Path) -> None:
    arrays = [pixels(*shape, seed=seed) for seed in range(4)]
    for name, array in zip(["cat/a", "cat/b", "dog/a", "eel/z"], arrays, strict=True):
        picture(tmp_path / "pets" / f"{name}.png", array)
    dataset = raw(tmp_path / "pets")
    expected = np.stack(arrays) / 255
    assert np.array_equal(dataset.points.numpy(), expected if len(shape) == 2 else np.moveaxis(expected, -1, 1))
    assert dataset.labels.tolist() == [0, 0, 1, 2]
    assert dataset.label_names == ("cat", "dog", "eel")
    assert dataset.name == "pets"


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", pixels(3, 3))
    assert raw(tmp_path).labels is None


@pytest.mark.parametrize("first", ["a", "b"])
def test_grey_and_colour_images_mix_as_colour(first: str, tmp_path: Path) -> None:
    grey, colour = pixels(5, 4), pixels(5, 4, 3)
    picture(tmp_path / f"{first}.png", grey)
    picture(tmp_path / f"{'b' if first == 'a' else 'a'}.png", colour)
    points = raw(tmp_path).points.numpy() * 255
    index = 0 if first == "a" else 1
    assert np.array_equal(np.rint(points[index]), np.stack([grey] * 3))
    assert np.array_equal(np.rint(points[1 - index]), np.moveaxis(colour, -1, 0))


def test_sixteen_bit_images_keep_their_depth(tmp_path: Path) -> None:
    array = pixels(5, 4, dtype=np.uint16)
    picture(tmp_path / "a.png", array)
    assert np.array_equal(raw(tmp_path).points[0].numpy(), array / 65535)


def test_black_and_white_images_are_grey(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", pixels(5, 4), "1")
    points = raw(tmp_path).points
    assert points.shape == (1, 5, 4)
    assert set(points.flatten().tolist()) == {0.0, 1.0}


def test_images_of_two_sizes_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", pixels(5, 4))
    picture(tmp_path / "b.png", pixels(4, 4))
    message = refusal(tmp_path)
    assert "b.png has 4 x 4 pixels" in message
    assert "size=32 (--size 32)" in message


@pytest.mark.parametrize("kept", [0, 60])
def test_a_broken_image_is_named(kept: int, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", pixels(40, 40))
    picture(tmp_path / "b.png", pixels(40, 40))
    content = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(content[:kept])
    assert f"{tmp_path / 'b.png'} cannot be read" in refusal(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    assert "holds no images" in refusal(tmp_path)


def test_files_far_below_belong_to_the_class_at_the_top(tmp_path: Path) -> None:
    for name in ("cat/b", "cat/old/c", "dog/old/a"):
        picture(tmp_path / f"{name}.png", pixels(3, 3))
    dataset = raw(tmp_path)
    assert dataset.label_names == ("cat", "dog")
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.notes == ("2 classes by sub-folder: cat, dog",)


def test_a_single_sub_folder_is_a_class(tmp_path: Path) -> None:
    picture(tmp_path / "faces" / "a.png", pixels(3, 3))
    assert raw(tmp_path).class_counts == {"faces": 1}
    assert raw(tmp_path).notes == ("1 class by sub-folder: faces",)


def test_an_image_beside_the_classes_is_refused(tmp_path: Path) -> None:
    for name in ("cat/b", "dog/c", "a"):
        picture(tmp_path / f"{name}.png", pixels(3, 3))
    message = refusal(tmp_path)
    assert "a.png lies beside sub-folders of images (cat, dog), which are classes; move images" in message


@pytest.mark.parametrize(
    "hidden", [".ipynb_checkpoints/b", "cat/.ipynb_checkpoints/b", "cat/._b", "__MACOSX/cat/b", "cat/@eaDir/b/c"]
)
def test_hidden_files_are_no_data(hidden: str, tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "b.png", pixels(3, 3))
    picture(tmp_path / f"{hidden}.png", pixels(4, 4))
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"")
    dataset = raw(tmp_path)
    assert dataset.class_counts == {"cat": 1}
    assert dataset.notes == ("1 class by sub-folder: cat",)


def test_other_files_are_left_out_and_said(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "b.png", pixels(3, 3))
    for name in ("cat/b.txt", "cat/c.HEIC", "labels.txt", "README"):
        (tmp_path / name).write_text("")
    assert raw(tmp_path).notes[1] == "left out 4 other files: no suffix, .heic, .txt"


def test_links_are_followed_once(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "a.png", pixels(3, 3))
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "pets")
    assert raw(tmp_path / "pets").class_counts == {"cat": 1}


def test_a_folder_that_may_not_be_entered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "cat" / "a.png", pixels(3, 3))
    picture(tmp_path / "dog" / "a.png", pixels(3, 3))
    scan = os.scandir

    def refuse(path: Path) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"{tmp_path / 'dog'} cannot be read (Permission denied)" in refusal(tmp_path)


# ------------------------------------------------------------------ splits


def split_pets(folder: Path, *splits: str) -> Path:
    for number, name in enumerate(splits):
        for kind in ("cat", "dog"):
            picture(folder / name / kind / "a.png", pixels(3, 3, seed=number))
    return folder


def test_splits_are_no_classes(tmp_path: Path) -> None:
    message = refusal(split_pets(tmp_path, "train", "test", "sample"))
    assert "test, train are splits of the data rather than classes; choose one with split='test'" in message
    dataset = raw(tmp_path, split="train")
    assert dataset.label_names == ("cat", "dog")
    assert np.array_equal(dataset.points[0].numpy(), pixels(3, 3, seed=0) / 255)
    assert dataset.name == tmp_path.name


def test_one_split_alone_is_a_split(tmp_path: Path) -> None:
    assert "split='Train' (--split Train)" in refusal(split_pets(tmp_path, "Train"))


def test_train_may_be_a_class_among_others(tmp_path: Path) -> None:
    assert raw(split_pets(tmp_path, "bus", "train")).label_names == ("bus", "train")


@pytest.mark.parametrize("split", ["val", "", ".", "..", "train/.."])
def test_a_split_that_is_not_there_lists_those_that_are(split: str, tmp_path: Path) -> None:
    message = refusal(split_pets(tmp_path, "train", "test"), split=split)
    assert f"has no sub-folder {split!r}; it has test, train" in message


def test_a_subset_reads_its_own_images_only(tmp_path: Path) -> None:
    arrays = [pixels(3, 3, seed=seed) for seed in range(9)]
    for i, array in enumerate(arrays):
        picture(tmp_path / f"{i}" / "a.png", array)
    dataset = raw(tmp_path, n=4, seed=2)
    chosen = dataset.labels.tolist()
    assert np.array_equal(dataset.points.numpy(), np.stack([arrays[i] for i in chosen]) / 255)
    for i in set(range(9)) - set(chosen):
        (tmp_path / f"{i}" / "a.png").write_bytes(b"")
    assert torch.equal(raw(tmp_path, n=4, seed=2).points, dataset.points)


def test_what_was_changed_in_images_is_said(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", pixels(4, 4, 3))
    picture(tmp_path / "b.png", pixels(4, 4))
    over = np.dstack([pixels(4, 4, 3), np.full((4, 4), 255, np.uint8)])
    picture(tmp_path / "c.png", over)  # opaque
    assert raw(tmp_path).notes == ("1 grey image made red, green and blue, as the others are",)
    over[0, 0, 3] = 0
    picture(tmp_path / "c.png", over)
    assert raw(tmp_path, size=2).notes == (
        "1 grey image made red, green and blue, as the others are",
        "1 image with transparent pixels put on white",
    )
    assert raw(tmp_path, n=1, seed=0).notes in ((), ("1 image with transparent pixels put on white",))


def test_grey_images_alone_stay_grey(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", pixels(4, 4))
    assert raw(tmp_path).notes == ()
