"""Fashion-MNIST from the files that Debian's package installs, or from a folder of them."""

from __future__ import annotations

from pathlib import Path

from proxflow.data.idx import read_idx
from proxflow.data.raw import Array, Raw
from proxflow.data.reading import reading
from proxflow.data.request import Request

__all__ = ["CLASSES", "INSTALLED", "read_fashion_mnist"]

INSTALLED = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_IMAGES, _LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
_SIDE = 28


def read_fashion_mnist(request: Request) -> Raw:
    """The training images (N, 28, 28) in [0, 1] and their classes.

    Raises:
        ValueError: a file is missing, damaged, or of other data.
    """
    folder = INSTALLED if request.data_dir is None else request.data_dir
    image_path, label_path = _find(folder, _IMAGES), _find(folder, _LABELS)
    images, labels = _read(image_path, ndim=3), _read(label_path, ndim=1)
    if images.shape[1:] != (_SIDE, _SIDE) or len(images) == 0:
        raise ValueError(f"{image_path}: expected images of 28 x 28 pixels, got an array of {images.shape}")
    if len(labels) != len(images):
        raise ValueError(f"{label_path} has {len(labels):,} labels for {len(images):,} images; fetch both files again")
    if labels.max() >= len(CLASSES):
        raise ValueError(f"{label_path} has the label {labels.max()}; the classes are 0 to {len(CLASSES) - 1}")
    return Raw(len(images), lambda rows: images[rows] / 255, labels, CLASSES)


def _read(path: Path, ndim: int) -> Array:
    with reading(path):
        array = read_idx(path)
        if array.ndim != ndim or array.dtype != "u1":
            raise ValueError(f"expected bytes in {ndim} dimensions, got {array.dtype} in {array.ndim}")
        return array


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise ValueError(
        f"fashion-mnist: {folder} holds no {name}(.gz); install Debian's package dataset-fashion-mnist, or give the "
        "folder of the files with data_dir= (--data-dir)"
    )
