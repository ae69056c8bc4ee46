"""The pixels of an image file as they are meant to be seen: upright, on white, at their full depth."""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from proxflow.data.reading import Array
from proxflow.errors import MissingExtraError, counted, optional_package

__all__ = ["ON_WHITE", "SUFFIXES", "frames_of", "read_pixels"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
ON_WHITE = "on white"  # an image that is partly transparent, as it is counted
# What a file may hold, whatever it is called; Pillow would hand other kinds, such as PostScript, to other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION = 258, 262, 274  # tags of TIFF, the last one also of EXIF
_SMALL = 1_000_000  # pixels of any image
_MOST_PIXELS_A_BYTE = 10_000  # in a file; one of a single colour reaches 8,256 (one bit a pixel, deflated)
_UPRIGHT: dict[int, Callable[[Array], Array]] = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[::-1],
}


def frames_of(source: Path | bytes) -> int:
    """How many images a file holds."""
    with _opened(source) as image:
        return _frames(image)


def read_pixels(
    source: Path | bytes,
    frames: Sequence[int] | None = None,
    size: int | None = None,
    changes: Counter[str] | None = None,
) -> list[Array]:
    """The images of these ascending numbers in one file, (H, W) grey or (H, W, 3), from 0 (black) to 1 (white).

    Args:
        source: a path, or the content of a file.
        frames: numbers of the images; None for the only one.
        size: cut out the central square and resize it to this many pixels a side, antialiased.
        changes: counts the images that were put ``ON_WHITE``.

    Raises:
        ValueError: the file holds several images and none was chosen, or numbers that are no shades.
    """
    with _opened(source) as image:
        if frames is None and _frames(image) > 1:
            raise ValueError(
                f"it holds {_frames(image)} images; choose with frames='first' or frames='all' (--frames first, "
                "--frames all)"
            )
        found = []
        for frame in frames or [0]:
            found.append(_shades(image, source, frame, size))
            if changes is not None and _is_transparent(image):
                changes[ON_WHITE] += 1
        return found


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Any]:
    pillow = optional_package("PIL.Image", "data", "pillow")
    log = logging.getLogger("PIL")
    level = log.level
    with warnings.catch_warnings():
        # Pillow warns of odd metadata that change no pixel, and of sizes well below those that it refuses; what it logs
        # of damage it then raises.
        warnings.simplefilter("ignore")
        log.setLevel(logging.CRITICAL)
        try:
            with pillow.open(BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as image:
                yield image
        finally:
            log.setLevel(level)


def _frames(image: Any) -> int:
    """Of a camera's file (MPO) the first image is the photo; the others are previews and second views of it."""
    return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))


def _shades(image: Any, source: Path | bytes, frame: int, size: int | None) -> Array:
    image.seek(frame)
    _refuse_absurd_size(image, source)
    pixels = _pixels(image, source, frame)
    orientation = image.getexif().get(_ORIENTATION, 1)  # after loading: Pillow turns a TIFF itself, and says so here
    if orientation in _UPRIGHT:
        pixels = _UPRIGHT[orientation](pixels)
    if size is not None:
        pixels = _central_square(pixels, size)
    return pixels / 255 if pixels.dtype == np.uint8 else pixels


def _refuse_absurd_size(image: Any, source: Path | bytes) -> None:
    """A damaged header may claim any size, and memory would be asked for before the pixels are found missing."""
    there = len(source) if isinstance(source, bytes) else source.stat().st_size
    width, height = image.size
    if width * height > max(_SMALL, _MOST_PIXELS_A_BYTE * there):
        raise ValueError(f"damaged: its header says {width} x {height} pixels, and the file has {there:,} bytes")


def _pixels(image: Any, source: Path | bytes, frame: int) -> Array:
    """Bytes, or numbers in [0, 1]."""
    bits = _bits(image)
    if image.format == "TIFF":
        _refuse_on_its_side(image, bits)
    if image.mode == "F":
        return _floats(image)
    if image.mode.startswith("I;16"):
        return _deep_grey(image, bits)
    if image.mode == "I":
        raise ValueError("its whole numbers of 32 bits have no white; save it with 8 or 16 bits")
    return _bytes(image) if bits <= 8 else _deep_colour(image, source, frame)


def _refuse_on_its_side(image: Any, bits: int) -> None:
    """Pillow mixes up the rows of an uncompressed TIFF of orientations 5 to 8, and OpenCV reads none of those."""
    orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation > 4 and (image.tile[0][0] == "raw" or bits > 8):
        raise ValueError(f"it is stored on its side (TIFF orientation {orientation}); turn it upright and save it")


def _bits(image: Any) -> int:
    """Bits of a channel in the file: of colours in 16 bits Pillow gives 8."""
    if image.format == "TIFF":
        return int(np.max(image.tag_v2.get(_BITS_PER_SAMPLE, 1)))
    deep = image.format == "PNG" and image.tile and re.search(r";16B?$", str(image.tile[0][3]))
    return 16 if deep else 8


def _bytes(image: Any) -> Array:
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        pillow = optional_package("PIL.Image", "data", "pillow")
        image = pillow.alpha_composite(pillow.new("RGBA", image.size, "white"), _with_alpha(image)).convert("RGB")
    return np.asarray(image.convert("L" if grey else "RGB"))


def _with_alpha(image: Any) -> Any:
    return image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")


def _is_transparent(image: Any) -> bool:
    """Whether some pixel may be seen through; of deep grey, whether a shade stands for that."""
    if not image.has_transparency_data or image.mode.startswith("I"):
        return bool(image.has_transparency_data)
    return bool(_with_alpha(image).getchannel("A").getextrema()[0] < 255)


def _floats(image: Any) -> Array:
    pixels = np.asarray(image, dtype=np.float64)
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(
            f"its floating-point numbers run from {pixels.min():.3g} to {pixels.max():.3g} and must lie in [0, 1]; "
            "rescale them, or save it with 8 or 16 bits"
        )
    return pixels


def _deep_grey(image: Any, bits: int) -> Array:
    key = image.info.get("transparency")
    pixels = np.asarray(image) / (2**bits - 1)
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow undoes for bytes
        pixels = 1 - pixels
    return pixels if key is None else np.where(np.asarray(image) == key, 1.0, pixels)


def _deep_colour(image: Any, source: Path | bytes, frame: int) -> Array:
    """Colours of 16 bits, on white, by OpenCV, since Pillow cuts them to 8."""
    try:
        cv2 = optional_package("cv2", "deep-images", "opencv-python-headless")
    except MissingExtraError as error:
        raise ValueError(
            'its colours have 16 bits: pip install "proxflow[deep-images]" to read them, or save it with 8 bits'
        ) from error
    image.load()  # so that a TIFF's orientation, which OpenCV undoes as well, is not undone again
    if isinstance(source, bytes):
        found = cv2.imdecode(np.frombuffer(source, np.uint8), cv2.IMREAD_UNCHANGED)
    else:
        found = (cv2.imreadmulti(str(source), start=frame, count=1, flags=cv2.IMREAD_UNCHANGED)[1] or [None])[0]
    if found is None or found.ndim != 3 or found.dtype != np.uint16:
        raise ValueError(f"its {counted(len(image.getbands()), 'channel')} of 16 bits cannot be read; save it with 8")
    colours: Array = found[:, :, 2::-1] / 65535  # OpenCV's order is blue, green, red, alpha
    if found.shape[2] == 3:
        return colours
    alpha: Array = found[:, :, 3:] / 65535
    return np.asarray(1 - alpha * (1 - colours))


def _central_square(pixels: Array, size: int) -> Array:
    """As torchvision's Resize and CenterCrop, with Pillow: the whole shorter side is kept."""
    pillow, fit = (
        optional_package("PIL.Image", "data", "pillow"),
        optional_package("PIL.ImageOps", "data", "pillow").fit,
    )
    if pixels.dtype == np.uint8:
        image = pillow.fromarray(np.ascontiguousarray(pixels))
        return np.asarray(fit(image, (size, size), pillow.Resampling.BILINEAR))
    if pixels.ndim == 3:
        return np.stack([_central_square(channel, size) for channel in np.moveaxis(pixels, -1, 0)], axis=-1)
    image = pillow.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    return np.asarray(fit(image, (size, size), pillow.Resampling.BILINEAR))
