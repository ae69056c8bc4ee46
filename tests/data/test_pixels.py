"""Single image files as they are meant to be seen: depth, transparency, orientation, frames, size."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, features
from torch.nn.functional import interpolate

from proxflow.data.pixels import read_pixels
from tests.data.sources import raw, refusal
from tests.data.test_images import pixels


def read(path: Path, **options: Any) -> np.ndarray:
    """The only point of a folder."""
    points = raw(path.parent, **options).points
    assert len(points) == 1
    return points[0].numpy()


# ------------------------------------------------------------------ depth


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_sixteen_bits_keeps_its_depth(suffix: str, tmp_path: Path) -> None:
    array = pixels(5, 4, dtype=np.uint16)
    Image.fromarray(array).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(read(tmp_path / f"a.{suffix}"), array / 65535)


def png(array: np.ndarray, colour: int, *chunks: bytes) -> bytes:
    """A file of 16 bits, which Pillow does not write in colour; its chunks are put before the pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = array.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in array)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    extra = b"".join(chunk(part[:4], part[4:]) for part in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def tiff(array: np.ndarray, **tags: int) -> bytes:
    """An uncompressed file of one strip."""
    height, width = array.shape[:2]
    bands = 1 if array.ndim == 2 else array.shape[2]
    entries = {256: width, 257: height, 258: 8 * array.itemsize, 259: 1, 262: 2 if bands > 1 else 1, 277: bands}
    entries |= {278: height, 279: array.nbytes, 284: 1} | {int(name[1:]): value for name, value in tags.items()}
    start = 8 + 2 + 12 * (len(entries) + 1) + 4
    entries[273] = start + 2 * bands
    depth = struct.pack(f"<{bands}H", *[8 * array.itemsize] * bands)
    lines = b""
    for tag in sorted(entries):
        value = struct.pack("<HHII", tag, 4, 1, entries[tag])
        if tag == 258:
            value = struct.pack("<HHI", tag, 3, bands) + (
                struct.pack("<I", start) if bands > 2 else depth.ljust(4, b"\0")
            )
        lines += value
    header = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + lines + b"\0\0\0\0"
    return header + depth + array.astype(array.dtype.newbyteorder("<")).tobytes()


def test_colours_of_sixteen_bits_are_refused_rather_than_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    array = pixels(5, 4, 3, dtype=np.uint16)
    for name, content in (("png", png(array, 2)), ("tif", tiff(array))):
        path = tmp_path / name / f"a.{name}"
        path.parent.mkdir()
        path.write_bytes(content)
        message = refusal(path.parent)
        assert str(path) in message
        assert 'its colours have 16 bits: pip install "proxflow[deep-images]"' in message


@pytest.mark.parametrize(("name", "colour"), [("png", 2), ("png", 6), ("tif", 2)])
def test_colours_of_sixteen_bits_keep_their_depth(name: str, colour: int, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    array = pixels(5, 4, 4 if colour == 6 else 3, dtype=np.uint16)
    path = tmp_path / f"a.{name}"
    path.write_bytes(png(array, colour) if name == "png" else tiff(array))
    expected = array[..., :3] / 65535
    if colour == 6:
        alpha = array[..., 3:] / 65535
        expected = 1 - alpha + alpha * expected
    for found in (read(path), np.moveaxis(read_pixels(path.read_bytes())[0], -1, 0)):
        np.testing.assert_allclose(found, np.moveaxis(expected, -1, 0), rtol=0, atol=1e-15)


def test_white_is_zero_in_some_tiffs(tmp_path: Path) -> None:
    array = pixels(5, 4, dtype=np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff(array, t262=0))
    np.testing.assert_allclose(read(tmp_path / "a.tif"), 1 - array / 65535, rtol=0, atol=1e-15)


def test_floats_are_taken_as_they_are_and_only_in_their_range(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((5, 4)).astype(np.float32)
    Image.fromarray(array).save(tmp_path / "a.tif")
    assert np.array_equal(read(tmp_path / "a.tif"), array)
    for broken in (array * 300, array - 1, array * np.float32(np.nan)):
        Image.fromarray(broken).save(tmp_path / "a.tif")
        assert "must lie in [0, 1]" in refusal(tmp_path)


def test_whole_numbers_without_a_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.arange(20, dtype=np.int32).reshape(5, 4)).save(tmp_path / "a.tif")
    assert "whole numbers of 32 bits have no white" in refusal(tmp_path)


# ------------------------------------------------------------------ colours


def test_palettes_and_printing_colours_become_red_green_and_blue(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((5, 4, 3), [250, 0, 0], np.uint8))
    image.quantize(2).save(tmp_path / "a.png")
    image.convert("CMYK").save(tmp_path / "b.tif")
    image.convert("CMYK").save(tmp_path / "c.jpg", quality=100)
    points = raw(tmp_path).points.numpy()
    expected = np.broadcast_to(np.array([250, 0, 0])[:, None, None] / 255, (3, 3, 5, 4))
    np.testing.assert_allclose(points, expected, rtol=0, atol=3 / 255)  # JPEG's own rounding


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L", "I;16"])
def test_transparent_pixels_are_white_whatever_their_hidden_colour(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    options: dict[str, Any] = {}
    hidden, alpha = np.full((2, 2), 10, np.uint8), np.array([[0, 255], [0, 255]], np.uint8)
    shown = np.array([[255, 10], [255, 10]]) / 255
    if mode == "RGBA":
        image = Image.fromarray(np.dstack([hidden] * 3 + [alpha]))
    elif mode == "LA":
        image = Image.fromarray(np.dstack([hidden, alpha]))
    elif mode == "P":
        image = Image.fromarray((alpha > 0).astype(np.uint8))
        image.putpalette([10] * 6)
        options = {"transparency": 0}
    else:
        values = np.where(alpha > 0, 10, 20).astype(np.uint16 if mode == "I;16" else np.uint8)
        image = Image.fromarray(np.dstack([values] * 3) if mode == "RGB" else values)
        options = {"transparency": (20,) * 3 if mode == "RGB" else 20}
        shown = np.where(shown == 1, 1, 10 / (65535 if mode == "I;16" else 255))
    image.save(path, **options)
    found = read(path)
    assert np.array_equal(found, shown if mode in ("L", "LA", "I;16") else np.stack([shown] * 3))


def test_half_transparent_pixels_are_mixed_with_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (0, 0, 0, 51)).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png"), np.full((3, 2, 2), 204 / 255))


# ------------------------------------------------------------------ orientation


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "16-bit png", "16-bit colour png", "16-bit colour tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(kind: str, orientation: int, tmp_path: Path) -> None:
    array = pixels(8, 16) // 2 + np.arange(16, dtype=np.uint8) * 8
    path = tmp_path / f"a.{kind[-3:]}"
    exif = Image.Exif()
    exif[274] = orientation
    labelled = Image.fromarray(array)
    labelled.getexif()[274] = orientation
    turned = np.asarray(ImageOps.exif_transpose(labelled))
    if "colour" in kind:
        pytest.importorskip("cv2")
        deep = np.dstack([array.astype(np.uint16) * 257] * 3)
        path.write_bytes(png(deep, 2, b"eXIf" + exif.tobytes()[6:]) if "png" in kind else tiff(deep, t274=orientation))
        turned = np.stack([turned] * 3)
    elif "16-bit" in kind:
        Image.fromarray(array.astype(np.uint16) * 257).save(path, exif=exif)
    else:
        by_kind: dict[str, dict[str, Any]] = {
            "jpg": {"quality": 100},
            "png": {},
            "tif": {"compression": "tiff_lzw"},
        }
        Image.fromarray(array).save(path, exif=exif, **by_kind[kind])
    if kind == "16-bit colour tif" and orientation > 4:
        assert f"stored on its side (TIFF orientation {orientation})" in refusal(tmp_path)
        return
    np.testing.assert_allclose(read(path), turned / 255, rtol=0, atol=4 / 255 if kind == "jpg" else 1e-12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_uncompressed_tiffs_are_upright_or_refused(orientation: int, tmp_path: Path) -> None:
    """Pillow 13 mixes up the rows of those that lie on their side."""
    array = pixels(3, 4)
    (tmp_path / "a.tif").write_bytes(tiff(array, t274=orientation))
    if orientation > 4:
        assert f"stored on its side (TIFF orientation {orientation})" in refusal(tmp_path)
        return
    turned = {1: array, 2: array[:, ::-1], 3: array[::-1, ::-1], 4: array[::-1]}[orientation]
    assert np.array_equal(read(tmp_path / "a.tif"), turned / 255)


# ------------------------------------------------------------------ several images in a file


def animation(path: Path, count: int = 3) -> list[np.ndarray]:
    arrays = [np.full((4, 5), 60 * number, np.uint8) for number in range(count)]
    images = [Image.fromarray(array) for array in arrays]
    options: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
    images[0].save(path, save_all=True, append_images=images[1:], **options)
    return arrays


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp"])
def test_files_of_several_images_are_refused_or_expanded(suffix: str, tmp_path: Path) -> None:
    if suffix == "webp" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    arrays = animation(tmp_path / "b" / f"b.{suffix}")
    Image.fromarray(np.full((4, 5), 250, np.uint8)).save(tmp_path / "a" / "a.png")
    message = refusal(tmp_path)
    assert f"b.{suffix}" in message
    assert "it holds 3 images; choose with frames='first' or frames='all' (--frames first, --frames all)" in message
    first, every = raw(tmp_path, frames="first"), raw(tmp_path, frames="all")
    assert first.labels.tolist() == [0, 1]
    assert every.labels.tolist() == [0, 1, 1, 1]
    shades = every.points.flatten(1)
    assert torch.equal(shades.amin(1), shades.amax(1))
    assert (shades[:, 0] * 255).round().tolist() == [250, *(int(array[0, 0]) for array in arrays)]
    assert torch.equal(first.points, every.points[:2])
    some = raw(tmp_path, frames="all", n=2, seed=1)
    assert all(any(torch.equal(point, other) for other in every.points) for point in some.points)


def test_frames_must_be_known(tmp_path: Path) -> None:
    assert "frames must be 'first' or 'all', got 'last'" in refusal(tmp_path, frames="last")


def test_the_first_image_of_a_camera_file_is_the_photo(tmp_path: Path) -> None:
    array = np.full((16, 16, 3), 100, np.uint8)
    Image.fromarray(array).save(
        tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))]
    )
    assert np.array_equal(read(tmp_path / "a.jpg"), np.full((3, 16, 16), 100 / 255))


# ------------------------------------------------------------------ size


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("shape", [(64, 96), (96, 64), (64, 64)])
def test_size_keeps_the_shorter_side_and_cuts_the_other(shape: tuple[int, ...], depth: int, tmp_path: Path) -> None:
    """The truth is torch's own antialiased resize, whose central square is cut out."""
    array = pixels(*shape, dtype=np.uint8 if depth == 8 else np.uint16)
    Image.fromarray(array).save(tmp_path / "a.png")
    whole = torch.from_numpy(array / np.iinfo(array.dtype).max)[None, None]
    height, width = (side // 4 for side in shape)
    resized = interpolate(whole, (height, width), mode="bilinear", antialias=True)[0, 0]
    top, left = (height - 16) // 2, (width - 16) // 2
    expected = resized[top : top + 16, left : left + 16]
    tolerance = 1.01 / 255 if depth == 8 else 1e-6  # Pillow rounds after each of two directions; float32
    np.testing.assert_allclose(read(tmp_path / "a.png", size=16), expected, rtol=0, atol=tolerance)


def test_mixed_sizes_become_one(tmp_path: Path) -> None:
    for name, shape in (("a", (30, 40)), ("b", (64, 20, 3)), ("c", (7, 7))):
        Image.fromarray(pixels(*shape)).save(tmp_path / f"{name}.png")
    assert raw(tmp_path, size=12).event_shape == (3, 12, 12)


def test_a_square_of_the_right_size_is_unchanged(tmp_path: Path) -> None:
    array = pixels(12, 12)
    Image.fromarray(array).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png", size=12), array / 255)


@pytest.mark.parametrize("size", [0, -3, 2.5, True])
def test_sizes_that_are_none(size: Any, tmp_path: Path) -> None:
    assert f"size must be a positive integer, in pixels, got {size!r}" in refusal(tmp_path, size=size)


# ------------------------------------------------------------------ broken files


@pytest.mark.parametrize("content", [b"hello world", b"", b"%!PS-Adobe-3.0\nshowpage\n"], ids=["text", "empty", "ps"])
def test_what_is_no_image_is_named(content: bytes, tmp_path: Path) -> None:
    Image.fromarray(pixels(8, 8)).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(content)
    assert f"{tmp_path / 'b.jpg'} cannot be read" in refusal(tmp_path)


def test_an_image_of_another_kind_than_its_name_is_read(tmp_path: Path) -> None:
    array = pixels(8, 8)
    Image.fromarray(array).save(tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(read(tmp_path / "a.jpg"), array / 255)


def test_an_image_too_large_to_be_one_is_refused_at_its_header(tmp_path: Path) -> None:
    content = png(pixels(2, 2, dtype=np.uint16), 0)
    header = b"IHDR" + struct.pack(">II", 2_000_000, 2_000_000) + content[24:29]
    content = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    (tmp_path / "a.png").write_bytes(content)
    assert "could be decompression bomb" in refusal(tmp_path)


def test_an_image_with_more_pixels_than_its_file_can_hold_is_refused(tmp_path: Path) -> None:
    """Pillow allows 10,000 x 10,000 pixels, which as numbers need gigabytes."""
    Image.fromarray(pixels(8, 8)).save(tmp_path / "a.gif")
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(content[:6] + struct.pack("<HH", 10_000, 10_000) + content[10:])
    assert "damaged: its header says 10000 x 10000 pixels" in refusal(tmp_path)


def test_large_images_of_one_colour_are_no_damage(tmp_path: Path) -> None:
    for suffix in ("png", "gif", "tif"):
        path = tmp_path / suffix / f"a.{suffix}"
        path.parent.mkdir()
        Image.new("1", (3000, 3000)).save(path)
        assert raw(path.parent, size=2).n == 1


def test_more_images_than_fit_in_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 1)
    Image.fromarray(pixels(8, 8)).save(tmp_path / "a.png")
    assert "take fewer with n= (--points), or smaller ones with size= (--size)" in refusal(tmp_path)
