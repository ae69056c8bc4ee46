"""IDX files against bytes written by hand, and every way of being broken."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from proxflow.data.fashion_mnist import read_idx

BYTES = bytes.fromhex("00000802 00000002 00000003 0001027f80ff")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["x-ubyte", "x-ubyte.gz"])
def test_bytes_written_by_hand_are_read(name: str, compressed: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(gzip.compress(BYTES) if compressed else BYTES)
    array = read_idx(tmp_path / name)
    assert array.dtype == np.uint8
    assert array.tolist() == [[0, 1, 2], [127, 128, 255]]


@pytest.mark.parametrize(
    ("code", "letter", "values"),
    [
        (0x08, "B", [0, 255]),
        (0x09, "b", [-128, 127]),
        (0x0B, "h", [-300, 300]),
        (0x0C, "i", [-70_000, 70_000]),
        (0x0D, "f", [0.5, -1e30]),
        (0x0E, "d", [0.1, -1e300]),
    ],
)
def test_every_type_is_big_endian(code: int, letter: str, values: list[float], tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(struct.pack(f">HBBI2{letter}", 0, code, 1, 2, *values))
    array = read_idx(tmp_path / "x")
    assert array.dtype.isnative
    assert array.tolist() == [struct.unpack(f">{letter}", struct.pack(f">{letter}", value))[0] for value in values]


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 3, 4), (1, 2, 3, 4), (0, 3)])
def test_every_number_of_dimensions_is_read(shape: tuple[int, ...], tmp_path: Path) -> None:
    values = np.arange(np.prod(shape), dtype=np.uint8)
    (tmp_path / "x").write_bytes(struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + values.tobytes())
    assert np.array_equal(read_idx(tmp_path / "x"), values.reshape(shape))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "truncated"),
        (BYTES[:3], "truncated: an IDX file starts with 4 bytes"),
        (BYTES[:11], "truncated: 2 dimensions need a header of 12 bytes, it has 11"),
        (BYTES[:12], "truncated: its sizes 2 x 3 need 6 bytes of values, it has 0"),
        (BYTES[:-1], "truncated: its sizes 2 x 3 need 6 bytes of values, it has 5"),
        (BYTES + b"\0", "too long: its sizes 2 x 3 need 6 bytes of values, it has more"),
        (b"\x89PNG" + BYTES, "not an IDX file: it starts with 89 50 4e 47"),
        (b"\0\1" + BYTES[2:], "not an IDX file"),
        (b"\0\0\x0a" + BYTES[3:], "not an IDX file"),
        (b"\0\0\x08\0", "not an IDX file"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "truncated|this machine has"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_broken_files_say_what_is_wrong(content: bytes, words: str, compressed: bool, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(ValueError, match=words):
        read_idx(tmp_path / "x")
