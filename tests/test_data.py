"""Data sets: built-in ones, files and folders back and forth, and what is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import proxflow as pf
from proxflow.data import BUILT_IN, Standardisation

POINTS = np.random.default_rng(0).normal(size=(6, 2)) * [3.0, 0.5] + [10.0, -2.0]
LABELS = np.array([2, 0, 1, 1, 0, 2])
SYNTHETIC = sorted(set(BUILT_IN) - {"digits"})
f64 = torch.float64


def raw(source, **options) -> pf.data.Dataset:
    return pf.data.load(source, standardise=False, dtype=f64, **options)


def table(points=POINTS, **more) -> pa.Table:
    return pa.table({f"x{i}": points[:, i] for i in range(points.shape[1])} | more)


def write_npy(path: Path) -> None:
    np.save(path, POINTS)


def write_npz(path: Path) -> None:
    np.savez(path, points=POINTS, labels=LABELS)


def write_pt(path: Path) -> None:
    torch.save({"points": torch.from_numpy(POINTS), "labels": torch.from_numpy(LABELS)}, path)


def write_csv(path: Path) -> None:
    pyarrow.csv.write_csv(table(label=LABELS), path)


def write_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(table(label=LABELS), path)


WRITERS = {".npy": write_npy, ".npz": write_npz, ".pt": write_pt, ".csv": write_csv, ".parquet": write_parquet}


def refusal(source, **options) -> str:
    """The one line that a refused source gives."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        pf.data.load(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -------------------------------------------------------------------- built in


def test_digits_are_those_of_scikit_learn():
    dataset, bunch = raw("digits"), load_digits()
    assert dataset.points.shape == (1797, 8, 8)
    assert np.array_equal(dataset.points.numpy(), bunch.images)
    assert np.array_equal(dataset.labels.numpy(), bunch.target)
    assert (dataset.name, dataset.n, dataset.dim, dataset.event_shape) == ("digits", 1797, 64, (8, 8))


def test_moons_lie_near_two_half_circles():
    dataset = raw("moons", n=400)
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.5]], dtype=f64)[dataset.labels]
    radii = (dataset.points - centres).norm(dim=1)
    assert (radii - 1).abs().max() < 6 * 0.05
    assert torch.bincount(dataset.labels).tolist() == [200, 200]


def test_eight_gaussians_sit_on_a_ring():
    dataset = raw("8gaussians", n=4000)
    for label in range(8):
        own = dataset.points[dataset.labels == label]
        angle = label * np.pi / 4
        centre = 5 * torch.tensor([np.cos(angle), np.sin(angle)], dtype=f64)
        assert ((own.mean(0) - centre).abs() < 5 / np.sqrt(len(own))).all()
        assert ((own.std(0) - 1).abs() < 5 / np.sqrt(2 * len(own))).all()


def test_circle_is_the_unit_circle():
    dataset = raw("circle", n=50)
    torch.testing.assert_close(dataset.points.norm(dim=1), torch.ones(50, dtype=f64), rtol=1e-15, atol=1e-15)
    assert dataset.labels is None


def test_swissroll_lies_on_its_sheet():
    x, _, z = raw("swissroll", n=50).points.T
    angle = torch.hypot(x, z)
    torch.testing.assert_close(x, angle * torch.cos(angle))
    torch.testing.assert_close(z, angle * torch.sin(angle))


def test_scurve_lies_near_its_two_circles():
    x, _, z = raw("scurve", n=50).points.T
    assert ((x.square() + (1 - z.abs()).square()).sqrt() - 1).abs().max() < 0.4


@pytest.mark.parametrize("name", SYNTHETIC)
def test_synthetic_sets_follow_n_and_seed(name):
    first = pf.data.load(name, n=20, seed=3)
    assert first.n == 20
    assert first.name == name
    assert torch.equal(first.points, pf.data.load(name, n=20, seed=3).points)
    assert not torch.equal(first.points, pf.data.load(name, n=20, seed=4).points)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_synthetic_sets_leave_the_global_generators_alone(name):
    before, before_torch = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    pf.data.load(name, n=20)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before_torch, torch.random.get_rng_state())


@pytest.mark.parametrize("name", SYNTHETIC)
@pytest.mark.parametrize("n", [0, -3, 2.5])
def test_refuses_a_bad_number_of_points(name, n):
    assert "n must be a positive integer" in refusal(name, n=n)


@pytest.mark.parametrize("name", SYNTHETIC)
@pytest.mark.parametrize("seed", [-1, 2**32])
def test_refuses_a_seed_out_of_range(name, seed):
    assert "seed must be from 0" in refusal(name, seed=seed)


def test_an_unknown_name_lists_the_known_ones():
    message = refusal("didgits")
    assert "'didgits'" in message
    assert all(name in message for name in BUILT_IN)
    assert all(suffix in message for suffix in WRITERS)


# -------------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", WRITERS)
def test_files_come_back_bit_by_bit(suffix, tmp_path):
    path = tmp_path / f"points{suffix}"
    WRITERS[suffix](path)
    for source in (path, str(path)):
        dataset = raw(source)
        assert np.array_equal(dataset.points.numpy(), POINTS)
        assert dataset.name == "points"
        if suffix == ".npy":
            assert dataset.labels is None
        else:
            assert np.array_equal(dataset.labels.numpy(), LABELS)


def test_suffixes_are_read_in_any_case(tmp_path):
    path = tmp_path / "POINTS.NPY"
    with path.open("wb") as file:
        np.save(file, POINTS)
    assert raw(path).n == 6


def test_the_only_array_of_an_archive_may_have_any_name(tmp_path):
    np.savez(tmp_path / "a.npz", whatever=POINTS)
    assert np.array_equal(raw(tmp_path / "a.npz").points.numpy(), POINTS)
    np.savez(tmp_path / "b.npz", first=POINTS, second=POINTS)
    assert "expected an entry 'points', found first, second" in refusal(tmp_path / "b.npz")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.uint8, torch.bool])
def test_tensors_of_any_real_dtype_keep_their_values(dtype, tmp_path):
    tensor = torch.tensor([[0.5, 3.0], [1.0, 0.0]]).to(dtype)
    torch.save(tensor, tmp_path / "x.pt")
    assert torch.equal(raw(tmp_path / "x.pt").points, tensor.double())


def test_tensors_with_a_gradient_and_sparse_ones_are_read(tmp_path):
    torch.save(torch.eye(3, requires_grad=True), tmp_path / "a.pt")
    torch.save(torch.eye(3).to_sparse(), tmp_path / "b.pt")
    assert torch.equal(raw(tmp_path / "a.pt").points, torch.eye(3, dtype=f64))
    assert torch.equal(raw(tmp_path / "b.pt").points, torch.eye(3, dtype=f64))


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize("wrapped", [True, False], ids=["in torch.save", "bare pickle"])
@pytest.mark.parametrize("suffix", [".pt", ".npy", ".npz"])
def test_no_file_runs_code(wrapped, suffix, tmp_path):
    mark, path = tmp_path / "sprung", tmp_path / f"trap{suffix}"
    if wrapped:
        torch.save({"points": Trap(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(mark)))
    message = refusal(path)
    assert str(path) in message
    assert not mark.exists()
    for dangerous in ("weights_only", "allow_pickle", "trust"):
        assert dangerous not in message
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists()


def test_a_pickle_in_a_pt_file_says_what_to_save_instead(tmp_path):
    torch.save({"points": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    assert "objects other than tensors" in refusal(tmp_path / "trap.pt")


@pytest.mark.parametrize("content", [b"", b"hello world\n" * 20, bytes(range(256))], ids=["empty", "text", "bytes"])
@pytest.mark.parametrize("suffix", WRITERS)
def test_unreadable_files_are_named(suffix, content, tmp_path):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    assert str(path) in refusal(path)


@pytest.mark.parametrize("suffix", sorted(set(WRITERS) - {".csv"}))
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.98])
def test_truncated_files_are_named(suffix, kept, tmp_path):
    path = tmp_path / f"cut{suffix}"
    WRITERS[suffix](path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert f"{path} cannot be read" in refusal(path)


def test_an_unknown_suffix_lists_the_known_ones(tmp_path):
    (tmp_path / "x.txt").write_text("1 2")
    message = refusal(tmp_path / "x.txt")
    assert "'.txt'" in message
    assert all(suffix in message for suffix in WRITERS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
def test_rows_that_are_not_finite_are_named(bad, suffix, tmp_path):
    points = POINTS.copy()
    points[[1, 4], [0, 1]] = bad
    path = tmp_path / f"holes{suffix}"
    if suffix == ".npy":
        np.save(path, points)
    elif suffix == ".csv":
        pyarrow.csv.write_csv(table(points), path)
    else:
        pyarrow.parquet.write_table(table(points), path)
    message = refusal(path)
    assert str(path) in message
    assert "2 rows" in message
    assert "[1, 4]" in message


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((0, 3)), "non-empty"),
        (np.zeros((3, 0)), "non-empty"),
        (np.ones(3), r"(N, *event)"),
        (np.array(1.0), r"(N, *event)"),
        (np.array([["a"]]), "expected numbers"),
        (np.array([[1j]]), "expected numbers"),
        (np.array([["2020-01-01"]], dtype="M8[D]"), "expected numbers"),
        (np.array([[object()]]), "cannot be read"),
    ],
)
def test_arrays_that_are_no_points_are_refused(array, words, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, array)
    message = refusal(path)
    assert words in message
    assert str(path) in message


def test_values_beyond_the_dtype_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1e200], [-1e200]]))
    assert "too large for torch.float32" in refusal(tmp_path / "x.npy", standardise=False)
    assert pf.data.load(tmp_path / "x.npy").points.tolist() == [[1.0], [-1.0]]


# -------------------------------------------------------------------- tables


def csv_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def test_a_table_without_column_names_keeps_its_first_row(tmp_path):
    path = tmp_path / "bare.csv"
    np.savetxt(path, POINTS, delimiter=",", fmt="%.17g")
    assert np.array_equal(raw(path).points.numpy(), POINTS)


def test_a_first_line_that_may_be_names_or_numbers_is_refused(tmp_path):
    assert "may be column names or numbers" in refusal(csv_file(tmp_path, "0,1\n2,3\n4,5\n"))


@pytest.mark.parametrize("cell", ["red", "2020-01-01", "1;2"])
def test_columns_that_are_not_numeric_are_named(cell, tmp_path):
    message = refusal(csv_file(tmp_path, f"x,colour,z\n1,{cell},3\n4,{cell},6\n"))
    assert "'colour'" in message
    assert "table.csv" in message
    assert "'x'" not in message


def test_an_empty_cell_is_a_row_that_is_not_finite(tmp_path):
    assert "1 rows hold NaN or inf, the first: [1]" in refusal(csv_file(tmp_path, "x,y\n1,2\n3,\n5,6\n"))


def test_integer_and_boolean_columns_are_numbers(tmp_path):
    assert raw(csv_file(tmp_path, "x,y\n1,true\n3,false\n")).points.tolist() == [[1, 1], [3, 0]]


def test_a_written_row_index_is_refused(tmp_path):
    assert "row index" in refusal(csv_file(tmp_path, ",x\n0,5.5\n1,6.5\n"))
    indexed = table().append_column("__index_level_0__", pa.array(range(6)))
    pyarrow.parquet.write_table(indexed, tmp_path / "indexed.parquet")
    assert "row index" in refusal(tmp_path / "indexed.parquet")


@pytest.mark.parametrize(
    "text", ["", "x,y\n", "label\n1\n2\n", "x,y\n1,2\n3\n"], ids=["nothing", "header", "labels", "ragged"]
)
def test_tables_without_points_are_refused(text, tmp_path):
    assert "table.csv" in refusal(csv_file(tmp_path, text))


# -------------------------------------------------------------------- labels


def test_text_labels_are_numbered_in_alphabetical_order(tmp_path):
    path = csv_file(tmp_path, "x,label\n1,dog\n2,cat\n3,eel\n4,cat\n")
    assert raw(path).labels.tolist() == [1, 0, 2, 0]
    np.savez(tmp_path / "x.npz", points=POINTS, labels=np.array(list("bacabb")))
    assert raw(tmp_path / "x.npz").labels.tolist() == [1, 0, 2, 0, 1, 1]


@pytest.mark.parametrize("labels", [LABELS.astype(np.uint8), LABELS.astype(np.float32), LABELS.astype(np.int32)])
def test_whole_numbers_of_any_dtype_are_labels(labels, tmp_path):
    np.savez(tmp_path / "x.npz", points=POINTS, labels=labels)
    assert raw(tmp_path / "x.npz").labels.tolist() == LABELS.tolist()
    assert raw(tmp_path / "x.npz").labels.dtype == torch.int64


@pytest.mark.parametrize("bad", [0.5, np.nan, np.inf])
def test_labels_that_are_not_whole_are_named(bad, tmp_path):
    labels = LABELS.astype(float)
    labels[3] = bad
    np.savez(tmp_path / "x.npz", points=POINTS, labels=labels)
    assert "row 3" in refusal(tmp_path / "x.npz")


def test_a_missing_label_is_refused(tmp_path):
    assert "labels must be whole numbers or text; row 1" in refusal(csv_file(tmp_path, "x,label\n1,4\n2,\n3,1\n"))


@pytest.mark.parametrize("labels", [LABELS[:5], LABELS[:, None], np.array(3)])
def test_labels_of_the_wrong_shape_are_refused(labels, tmp_path):
    np.savez(tmp_path / "x.npz", points=POINTS, labels=labels)
    assert "6 points need as many labels" in refusal(tmp_path / "x.npz")


# -------------------------------------------------------------------- images


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


# -------------------------------------------------------------------- standardisation


def test_standardised_points_have_mean_zero_and_unit_spread(tmp_path):
    write_npy(tmp_path / "x.npy")
    points = pf.data.load(tmp_path / "x.npy", dtype=f64).points
    torch.testing.assert_close(points.mean(0), torch.zeros(2, dtype=f64), rtol=0, atol=1e-15)
    assert float(points.square().mean()) == pytest.approx(1, rel=1e-14)


def test_one_scale_keeps_the_proportions_of_distances(tmp_path):
    write_npy(tmp_path / "x.npy")
    points = pf.data.load(tmp_path / "x.npy", dtype=f64).points
    original = torch.from_numpy(POINTS)
    ratio = torch.pdist(points) / torch.pdist(original)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, f64])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_standardisation_is_undone_to_rounding(dtype, offset, tmp_path):
    original = torch.from_numpy(POINTS + offset)
    np.save(tmp_path / "x.npy", original.numpy())
    dataset = pf.data.load(tmp_path / "x.npy", dtype=dtype)
    undone = dataset.standardisation.undo(dataset.points)
    assert undone.dtype == dtype
    assert dataset.points.dtype == dtype
    rounding = 4 * torch.finfo(dtype).eps * float(original.abs().max())
    assert (undone.double() - original).abs().max() <= rounding


def test_standardisation_takes_whole_numbers():
    standardisation = Standardisation(torch.tensor([0.5], dtype=f64), 2.0)
    assert standardisation.apply(torch.tensor([[1], [2]])).tolist() == [[0.25], [0.75]]


def test_without_standardisation_nothing_changes(tmp_path):
    write_npy(tmp_path / "x.npy")
    standardisation = raw(tmp_path / "x.npy").standardisation
    assert standardisation.scale == 1.0
    assert standardisation.mean.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("value", [0.1, 0.0, -7.3e5, 1e308])
def test_constant_columns_become_exactly_zero_and_come_back(value, tmp_path):
    points = POINTS.copy()
    points[:, 1] = value
    np.save(tmp_path / "x.npy", points)
    dataset = pf.data.load(tmp_path / "x.npy", dtype=f64)
    assert dataset.points[:, 1].tolist() == [0.0] * 6
    assert dataset.standardisation.undo(dataset.points)[:, 1].tolist() == [value] * 6


@pytest.mark.parametrize("count", [1, 3])
def test_equal_points_get_scale_one(count, tmp_path):
    np.save(tmp_path / "x.npy", np.full((count, 2), 0.1))
    dataset = pf.data.load(tmp_path / "x.npy")
    assert dataset.standardisation.scale == 1.0
    assert dataset.points.tolist() == [[0.0, 0.0]] * count


@pytest.mark.parametrize("size", [1e-200, 1e-3, 1e200])
def test_the_scale_follows_the_size_of_the_data(size, tmp_path):
    np.save(tmp_path / "x.npy", POINTS)
    np.save(tmp_path / "y.npy", POINTS * size)
    scale = pf.data.load(tmp_path / "x.npy").standardisation.scale
    assert pf.data.load(tmp_path / "y.npy").standardisation.scale == pytest.approx(scale * size, rel=1e-13)


# -------------------------------------------------------------------- hash


def test_the_hash_is_of_the_values_and_their_shape(tmp_path):
    hashes = []
    for name, array in {"a": POINTS, "b": POINTS.copy(), "c": POINTS[::-1], "d": POINTS.reshape(6, 2, 1)}.items():
        np.save(tmp_path / f"{name}.npy", array)
        hashes.append(pf.data.load(tmp_path / f"{name}.npy").content_hash)
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
    write_csv(tmp_path / "e.csv")
    assert pf.data.load(tmp_path / "e.csv", dtype=f64, standardise=False).content_hash == hashes[0]


def test_loading_does_not_change_the_default_dtype():
    before = torch.get_default_dtype()
    pf.data.load("circle", n=4, dtype=f64)
    assert torch.get_default_dtype() == before


def test_a_missing_reader_names_its_extra(tmp_path, monkeypatch):
    write_parquet(tmp_path / "x.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r'pip install "proxflow\[data\]"'):
        pf.data.load(tmp_path / "x.parquet")
