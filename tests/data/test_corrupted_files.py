"""Files of every kind with bytes flipped, cut off or under another name: each is read, or refused in one line.

PROXFLOW_FUZZ sets how many are tried, as in tests/test_fuzz_data.py: a tenth of it of each kind.
"""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import proxflow as pf
from tests.cli.commands import call
from tests.data.sources import LABEL_FILE, WRITERS, write_fashion_mnist
from tests.fuzzing import CALLS

SECONDS = 10  # of the processor; more is a hang, since the files have a few kilobytes
PHOTO = np.add.outer(np.arange(40), np.arange(30)).astype(np.uint8)
IMAGES = ("png", "jpg", "gif", "tif", "bmp", "webp")
KINDS = [*WRITERS, *IMAGES, "idx", "idx.gz"]


def write(kind: str, folder: Path) -> Path:
    """A sound file of a kind; for images and IDX in a folder that can be loaded."""
    if kind in WRITERS:
        WRITERS[kind](folder / f"a{kind}")
        return folder / f"a{kind}"
    if kind in IMAGES:
        Image.fromarray(np.dstack([PHOTO, PHOTO // 2, PHOTO // 3])).save(folder / f"a.{kind}")
        return folder / f"a.{kind}"
    write_fashion_mnist(folder)
    return folder / ("train-images-idx3-ubyte.gz" if kind == "idx.gz" else LABEL_FILE)


def corrupted(content: bytes, generator: np.random.Generator) -> bytes:
    """A few bytes changed (often near the start, where headers are), the end cut off, a part lost or repeated."""
    damage = generator.integers(5)
    values = np.frombuffer(content, np.uint8).copy()
    if damage <= 2:
        reach = len(values) if damage else min(200, len(values))
        places = generator.integers(reach, size=generator.integers(1, 9))
        values[places] ^= generator.integers(1, 256, size=len(places)).astype(np.uint8)
        return values.tobytes()
    first, last = sorted(generator.integers(len(values) + 1, size=2).tolist())
    return content[:last] if damage == 3 else content[:first] + content[last:] * int(generator.integers(1, 3))


def source_of(kind: str, path: Path) -> tuple[str, dict[str, Any]]:
    if kind.startswith("idx"):
        return "fashion-mnist", {"data_dir": path.parent}
    return str(path if kind in WRITERS else path.parent), {}


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """No more than so many seconds of the processor."""

    def stop(_signal: int, _frame: object) -> None:
        raise TimeoutError("reading hangs")

    earlier = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, earlier)


def outcome(kind: str, path: Path) -> str:
    """How one load ends; whatever is neither data nor an error of one line fails."""
    source, options = source_of(kind, path)
    try:
        with limited():
            dataset = pf.data.load(source, standardise=False, **options)
    except ValueError as error:
        said = str(error)
        assert "\n" not in said
        assert "reading hangs" not in said
        assert len(said) < 1000
        assert any(part in said for part in (path.name, path.parent.name)), said
        return "refused"
    assert torch.isfinite(dataset.points).all()
    assert dataset.labels is None or len(dataset.labels) == dataset.n
    return "read"


@pytest.mark.parametrize("kind", KINDS)
def test_corrupted_files_are_read_or_refused_in_one_line(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(KINDS.index(kind))
    path = write(kind, tmp_path)
    content = path.read_bytes()
    ends: Counter[str] = Counter()
    for _ in range(max(5, CALLS // 40)):
        path.write_bytes(corrupted(content, generator))
        ends[outcome(kind, path)] += 1
    with capfd.disabled():
        print(f"\n{kind}: {', '.join(f'{count} {end}' for end, count in sorted(ends.items()))}")
    path.write_bytes(content)
    assert outcome(kind, path) == "read"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", KINDS)
def test_files_under_another_name_are_read_or_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    content = write(kind, tmp_path).read_bytes()
    for number, other in enumerate(KINDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = write(other, folder)
        path.write_bytes(content)
        end = outcome(other, path)
        assert end == "read" or other != kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_corrupted_file_leaves_no_run(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(kind, tmp_path)
    path.write_bytes(path.read_bytes()[:15])
    source, options = source_of(kind, path)
    given = ["--data-dir", options["data_dir"]] if options else []
    for command in ("fit", "train", "batch-size", "terminal"):
        assert call(command, source, *given, "--out", tmp_path / "run") == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()
