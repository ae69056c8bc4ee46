"""Fashion-MNIST: from small files made here, and from the real ones where they are installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import proxflow as pf
from proxflow.data import fashion_mnist
from tests.data.sources import IMAGE_FILE, IMAGE_LABELS, IMAGES, LABEL_FILE, raw, refusal, write_fashion_mnist


def test_files_of_a_folder_come_back(tmp_path: Path) -> None:
    dataset = raw("fashion-mnist", data_dir=write_fashion_mnist(tmp_path))
    assert dataset.event_shape == (28, 28)
    assert np.array_equal(dataset.points.numpy(), IMAGES / 255)
    assert dataset.labels.tolist() == IMAGE_LABELS.tolist()
    assert (dataset.name, dataset.n) == ("fashion-mnist", 12)
    assert [dataset.label_names[i] for i in (0, 1, 8, 9)] == ["T-shirt/top", "Trouser", "Bag", "Ankle boot"]
    assert dataset.class_counts["Ankle boot"] == 2


def test_a_subset_is_of_these_images(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    dataset, whole = (raw("fashion-mnist", data_dir=str(tmp_path), n=n) for n in (5, None))
    rows = [int((whole.points == image).flatten(1).all(1).nonzero()) for image in dataset.points]
    assert rows == sorted(rows)
    assert len(set(rows)) == 5
    assert dataset.labels.tolist() == IMAGE_LABELS[rows].tolist()
    assert dataset.label_names == whole.label_names


def test_a_missing_package_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "INSTALLED", tmp_path / "none")
    message = refusal("fashion-mnist")
    assert "dataset-fashion-mnist" in message
    assert "--data-dir" in message
    assert str(tmp_path / "none") in message


@pytest.mark.parametrize("name", [IMAGE_FILE, LABEL_FILE])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    for path in tmp_path.glob(f"{name}*"):
        path.unlink()
    assert f"{tmp_path} holds no {name}(.gz)" in refusal("fashion-mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (IMAGES[:, :20], IMAGE_LABELS, "expected images of 28 x 28 pixels, got an array of (12, 20, 28)"),
        (IMAGES[:0], IMAGE_LABELS[:0], "expected images of 28 x 28 pixels, got an array of (0, 28, 28)"),
        (IMAGES[:, 0], IMAGE_LABELS, "expected bytes in 3 dimensions, got uint8 in 2"),
        (IMAGES, IMAGE_LABELS[:, None], "expected bytes in 1 dimension, got uint8 in 2"),
        (IMAGES, IMAGE_LABELS[:7], "has 7 labels for 12 images"),
        (IMAGES, IMAGE_LABELS + 1, "has the label 10; the classes are 0 to 9"),
    ],
)
def test_files_of_other_data_are_refused(
    images: NDArray[Any], labels: NDArray[Any], words: str, tmp_path: Path
) -> None:
    message = refusal("fashion-mnist", data_dir=write_fashion_mnist(tmp_path, images, labels))
    assert words in message
    assert str(tmp_path) in message


@pytest.mark.parametrize("kept", [0, 1, 5, 100, 5000])
def test_truncated_files_are_named(kept: int, tmp_path: Path) -> None:
    path = write_fashion_mnist(tmp_path) / f"{IMAGE_FILE}.gz"
    path.write_bytes(path.read_bytes()[:kept])
    assert f"{path} cannot be read" in refusal("fashion-mnist", data_dir=tmp_path)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = write_fashion_mnist(tmp_path) / f"{IMAGE_FILE}.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    assert f"{path} cannot be read" in refusal("fashion-mnist", data_dir=tmp_path)


@pytest.mark.skipif(not fashion_mnist.INSTALLED.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_real_files_have_the_published_statistics() -> None:
    dataset = pf.data.load("fashion-mnist", standardise=False)
    assert (dataset.n, dataset.event_shape) == (60_000, (28, 28))
    assert set(dataset.class_counts.values()) == {6000}
    assert dataset.labels[:5].tolist() == [9, 0, 0, 3, 0]
    # The constants that everybody normalises this set with.
    assert float(dataset.points.mean()) == pytest.approx(0.2860, abs=5e-5)
    assert float(dataset.points.std()) == pytest.approx(0.3530, abs=5e-5)
