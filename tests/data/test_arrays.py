"""Arrays with labels and without: archives whose entries have any names, pairs, images with channels last."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import proxflow as pf
from proxflow.data import Dataset
from tests.data.sources import LABELS, POINTS, raw, refusal
from tests.data.test_images import pixels

MNIST = torch.from_numpy(pixels(6, 28, 28)), torch.from_numpy(LABELS)


def is_mnist(dataset: Dataset) -> bool:
    same = torch.equal(dataset.points, MNIST[0].double()) and torch.equal(dataset.labels, MNIST[1])
    return same and dataset.event_shape == (28, 28)


# ------------------------------------------------------------------ entries


def archive(path: Path, **entries: Any) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **entries)
    else:
        torch.save({name: torch.from_numpy(entry) for name, entry in entries.items()}, path)
    return path


@pytest.fixture(params=[".npz", ".pt"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"mine{request.param}"


@pytest.mark.parametrize(
    ("points", "labels"),
    [
        ("X", "y"),
        ("x", "y"),
        ("x_train", "y_train"),
        ("X_train", "y_train"),
        ("train_images", "train_labels"),
        ("images", "labels"),
        ("data", "target"),
        ("data", "labels"),
        ("whatever", "labels"),
    ],
)
def test_labels_go_with_points_by_their_name(points: str, labels: str, path: Path) -> None:
    dataset = raw(archive(path, **{points: POINTS, labels: LABELS}))
    assert np.array_equal(dataset.points.numpy(), POINTS)
    assert dataset.labels.tolist() == LABELS.tolist()
    assert dataset.notes == (f"points: {points}, labels: {labels}",)


def test_an_archive_of_two_splits_asks_which(path: Path) -> None:
    entries = {"x_train": POINTS, "y_train": LABELS, "x_test": POINTS[:3], "y_test": LABELS[:3]}
    message = refusal(archive(path, **entries))
    assert "it holds x_train (6, 2), y_train (6,), x_test (3, 2), y_test (3,); choose the points with array=" in message
    dataset = raw(path, array="x_test")
    assert np.array_equal(dataset.points.numpy(), POINTS[:3])
    assert dataset.labels.tolist() == LABELS[:3].tolist()
    assert dataset.notes[0] == "points: x_test, labels: y_test"
    assert dataset.notes[1].startswith("left out: x_train, y_train; array= (--array)")


def test_labels_can_be_chosen(path: Path) -> None:
    dataset = raw(archive(path, points=POINTS, labels=LABELS, batch=LABELS + 1), label="batch")
    assert dataset.labels.tolist() == (LABELS + 1).tolist()


@pytest.mark.parametrize("option", ["array", "label"])
def test_an_entry_that_is_not_there_lists_those_that_are(option: str, path: Path) -> None:
    message = refusal(archive(path, X=POINTS, y=LABELS), **{option: "z"})
    assert f"there is no entry 'z' for {option}= (--{option}); it holds X (6, 2), y (6,)" in message


def test_a_target_that_is_no_label_is_left_out_and_said(path: Path) -> None:
    with pytest.warns(pf.DataWarning, match=r"the entry 'y' is left out.*not whole; label='y' \(--label y\)"):
        dataset = raw(archive(path, X=POINTS, y=POINTS[:, 0] + 0.5))
    assert dataset.labels is None
    assert dataset.notes[0] == "points: X, no labels"
    assert dataset.notes[1].startswith("left out: y;")


def test_an_array_of_objects_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=POINTS, y=np.array(["a", None] * 3, dtype=object))
    assert "Python objects, which would run code" in refusal(tmp_path / "a.npz", label="y")
    with pytest.warns(pf.DataWarning, match=r"the entry 'y' is left out.*Python objects.*text with astype\(str\)"):
        dataset = raw(tmp_path / "a.npz")
    assert np.array_equal(dataset.points.numpy(), POINTS)
    assert dataset.labels is None
    assert dataset.notes[1].startswith("left out: y;")


def test_labels_of_another_length_are_left_out_with_a_warning(path: Path) -> None:
    with pytest.warns(
        pf.DataWarning, match=r"the entry 'y' is left out.*'X': it has the shape \(5,\), and there are 6"
    ):
        dataset = raw(archive(path, X=POINTS, y=LABELS[:5]))
    assert dataset.labels is None
    assert dataset.notes[0] == "points: X, no labels"


def test_arrays_without_names_take_no_names(tmp_path: Path) -> None:
    torch.save(MNIST, tmp_path / "a.pt")
    assert "its entries have no names" in refusal(tmp_path / "a.pt", array="x")
    np.save(tmp_path / "a.npy", POINTS)
    assert "array= (--array) is for .npz and .pt files" in refusal(tmp_path / "a.npy", array="x")


# ------------------------------------------------------------------ forms of labels


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, bool])
def test_rows_with_a_single_one_are_labels(dtype: type, path: Path) -> None:
    dataset = raw(archive(path, points=POINTS, labels=np.eye(3, dtype=dtype)[LABELS]))
    assert dataset.labels.tolist() == LABELS.tolist()


def test_labels_may_be_a_column(path: Path) -> None:
    assert raw(archive(path, points=POINTS, labels=LABELS[:, None])).labels.tolist() == LABELS.tolist()


def test_labels_of_bytes_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, X=POINTS, y=np.array([*"abcabc"], dtype="S"))
    assert raw(path).label_names == ("a", "b", "c")


def test_dates_are_no_labels_and_said(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, X=POINTS, y=np.array(["2024-01-01"] * 6, dtype="M8[D]"))
    with pytest.warns(pf.DataWarning, match=r"it holds datetime64\[D\]; save it as numbers"):
        assert raw(path).labels is None


def test_rows_with_two_ones_are_no_labels(path: Path) -> None:
    rows = np.eye(3)[LABELS]
    rows[1] = 1
    assert "6 points need as many labels, got an array of shape (6, 3)" in refusal(
        archive(path, points=POINTS, labels=rows)
    )


# ------------------------------------------------------------------ torch.save


@pytest.mark.parametrize("form", [tuple, list])
@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "legacy"])
def test_mnist_as_torchvision_keeps_it(form: Callable[..., Any], zipped: bool, tmp_path: Path) -> None:
    torch.save(form(MNIST), tmp_path / "training.pt", _use_new_zipfile_serialization=zipped)
    assert is_mnist(raw(tmp_path / "training.pt"))


def test_legacy_files_are_read(tmp_path: Path) -> None:
    torch.save(
        {"points": torch.eye(3), "labels": torch.arange(3)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False
    )
    assert torch.equal(raw(tmp_path / "a.pt").points, torch.eye(3).double())


class Anything:
    pass


def test_legacy_files_of_objects_say_so(tmp_path: Path) -> None:
    torch.save(Anything(), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert "objects other than tensors" in refusal(tmp_path / "a.pt")


@pytest.mark.parametrize("form", [tuple, list])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_tensors_are_not_several_points(form: Callable[..., Any], count: int, tmp_path: Path) -> None:
    torch.save(form([torch.ones(3, 3)] * count), tmp_path / "a.pt")
    message = refusal(tmp_path / "a.pt")
    assert f"it holds a {form.__name__} of arrays (3, 3)" in message
    assert "torch.stack" in message


def test_nested_lists_of_numbers_are_points(tmp_path: Path) -> None:
    torch.save([[1.0, 2.0], [3.0, 4.0]], tmp_path / "a.pt")
    assert raw(tmp_path / "a.pt").points.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_the_weights_of_a_network_are_listed_briefly(tmp_path: Path) -> None:
    torch.save(torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(9)]).state_dict(), tmp_path / "a.pt")
    assert "it holds 0.weight (2, 2), 0.bias (2,), " in refusal(tmp_path / "a.pt")
    assert "and 10 more; choose the points" in refusal(tmp_path / "a.pt")


# ------------------------------------------------------------------ images


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_channels_that_come_last_are_put_first_and_said(channels: int, dtype: type[np.generic], tmp_path: Path) -> None:
    array = pixels(2, 6, 5, channels).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    dataset = raw(tmp_path / "a.npy")
    assert np.array_equal(dataset.points.numpy(), array.transpose(0, 3, 1, 2))
    assert dataset.notes == (
        f"images {array.shape} with channels last were made (2, {channels}, 6, 5), channels first",
    )


@pytest.mark.parametrize("shape", [(2, 3, 6, 3), (2, 1, 6, 4), (2, 6, 5, 2), (2, 4, 4, 4), (2, 6, 3)])
def test_other_arrays_stay_as_they_are(shape: tuple[int, ...], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pixels(*shape))
    assert raw(tmp_path / "a.npy").event_shape == shape[1:]
    assert raw(tmp_path / "a.npy").notes == ()


def test_bytes_keep_their_units(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pixels(9, 6, 5))
    assert raw(tmp_path / "a.npy").points.max() > 200


# ------------------------------------------------------------------ headers that claim too much


def header(shape: tuple[int, ...]) -> bytes:
    text = repr({"descr": "<f8", "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize("shape", [(10**12, 3), (10**30, 3), (10**5, 3)])
def test_arrays_larger_than_their_file_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(header(shape) + bytes(64))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as content:
        content.writestr("points.npy", header(shape) + bytes(64))
    for name in ("a.npy", "a.npz"):
        assert f"truncated: an array {shape} of float64 needs" in refusal(tmp_path / name)


def test_arrays_larger_than_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", POINTS)
    monkeypatch.setattr("os.sysconf", lambda name: 9)
    assert "12 numbers of 8 bytes need 0 GB, and this machine has 0 GB of memory" in refusal(tmp_path / "a.npy")
