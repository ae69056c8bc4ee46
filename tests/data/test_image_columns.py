"""Images in a column of a parquet file, as Hugging Face data sets have them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from tests.cli.commands import call
from tests.data.sources import raw, refusal

COLOUR = np.random.default_rng(0).integers(256, size=(6, 5, 4, 3)).astype(np.uint8)
LABELS = [2, 0, 2, 0, 2, 4]
NAMES = ["ant", "bee", "cat", "dog", "eel"]


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, kind)
    return content.getvalue()


def hugging_face(names: list[str]) -> dict[str, str]:
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    return {"huggingface": json.dumps({"info": {"features": features}})}


def write(path: Path, images: list[bytes | None], metadata: dict[str, str] | None = None, **columns: Any) -> Path:
    cells = [{"bytes": content, "path": f"{number}.png"} for number, content in enumerate(images)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array(cells, kind)} | columns).replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)
    return path


def test_images_come_back_with_the_names_of_their_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "pets.parquet", [*map(encoded, COLOUR)], hugging_face(NAMES), label=LABELS)
    dataset = raw(path)
    assert np.array_equal(dataset.points.numpy(), np.moveaxis(COLOUR / 255, -1, 1))
    assert dataset.labels.tolist() == LABELS
    assert dataset.label_names == tuple(NAMES)
    assert dataset.columns is None
    assert dataset.notes[0] == "images of the column image"
    some = raw(path, n=3, seed=1)
    assert any(np.array_equal(some.points[0].numpy(), np.moveaxis(image / 255, -1, 0)) for image in COLOUR)


def test_grey_images_without_labels_in_many_files(tmp_path: Path) -> None:
    for part in range(2):
        write(tmp_path / "digits" / f"{part}.parquet", [encoded(image[:, :, 0]) for image in COLOUR[3 * part :][:3]])
    dataset = raw(tmp_path / "digits")
    assert np.array_equal(dataset.points.numpy(), COLOUR[..., 0] / 255)
    assert dataset.labels is None


def test_names_are_left_out_where_labels_are_not_their_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", [*map(encoded, COLOUR)], hugging_face(NAMES[:3]), label=LABELS)
    assert raw(path).label_names is None


def test_vectors_have_the_names_of_their_classes_too(tmp_path: Path) -> None:
    table = pa.table({"v": [[1.0, 2.0], [3.0, 4.5]], "label": [1, 0]}).replace_schema_metadata(hugging_face(NAMES))
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert raw(tmp_path / "x.parquet").label_names == tuple(NAMES)


def test_mixed_sizes_are_cut_out_and_resized(tmp_path: Path) -> None:
    images = [encoded(COLOUR[0]), encoded(np.zeros((9, 7), np.uint8), "JPEG")]
    path = write(tmp_path / "x.parquet", images)
    message = refusal(path)
    assert f"row 1 of the column 'image' of {path} has 9 x 7 pixels" in message
    assert "size=32 (--size 32)" in message
    assert raw(path, size=3).points.shape == (2, 3, 3, 3)


def test_other_columns_are_named_and_numbers_are_had_for_the_asking(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", [*map(encoded, COLOUR)], width=[1.0, 2, 4, 3, 5, 7], mask=[0, 1] * 3)
    assert raw(path, drop="mask").notes[0] == (
        "images of the column image; left out: width (beside images), mask (dropped)"
    )
    assert raw(path, columns="width").points[:, 0].tolist() == [1, 2, 4, 3, 5, 7]
    assert raw(path, columns="image").points.shape == (6, 3, 5, 4)
    assert raw(path, drop="image").columns == ("width", "mask")
    assert "cannot be a coordinate: it is images" in refusal(path, columns=["image", "width"])
    assert "size= (--size) is for images" in refusal(path, columns="width", size=3)
    assert "there is no column 'nope'" in refusal(path, label="nope")
    assert "frames='all' (--frames all) is for folders" in refusal(path, frames="all")


def test_of_two_columns_of_images_one_is_chosen(tmp_path: Path) -> None:
    cells = [{"bytes": encoded(image), "path": None} for image in COLOUR]
    path = write(tmp_path / "x.parquet", [encoded(image[:, :, 0]) for image in COLOUR], mask=cells)
    assert "the columns image, mask hold images; choose one with columns='image' (--columns image)" in refusal(path)
    assert raw(path, columns="mask").points.shape == (6, 3, 5, 4)
    assert raw(path, drop="mask").points.shape == (6, 5, 4)


def test_rows_without_an_image_are_named_or_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", [encoded(COLOUR[0]), None, encoded(COLOUR[2])], label=[0, 1, 2])
    assert "row 1 of the column 'image' holds no image" in refusal(path)
    kept = raw(path, drop_missing=True)
    assert kept.labels.tolist() == [0, 2]
    assert "1 of 3 rows left out, without an image" in kept.notes
    assert "it has no rows" in refusal(write(tmp_path / "none.parquet", [None]), drop_missing=True)


@pytest.mark.parametrize("content", [b"", b"no image", encoded(COLOUR[0])[:60]])
def test_a_damaged_image_is_refused_by_its_row(content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", [encoded(COLOUR[0]), content])
    assert f"row 1 of the column 'image' of {path} cannot be read" in refusal(path)


def test_the_command_line_fits_them_and_names_the_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(
        tmp_path / "x.parquet", [encoded(image[:, :, 0]) for image in COLOUR], hugging_face(NAMES), label=LABELS
    )
    assert call("fit", path, "--max-samples", "2000", "--out", tmp_path / "run") in (0, None)
    said = capsys.readouterr()
    assert "images of the column image" in said.err
    assert "6 points in dimension 20" in said.out
