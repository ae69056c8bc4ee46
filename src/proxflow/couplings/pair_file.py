"""Files of pairs: a row and the number of its noise, a few bytes each, that any loader reads in any process.

A file is safetensors: ``row`` (P,), ``number`` (P,) of the noise where pair p does not have noise p, ``sketch`` (N,) of
the points, and a description in JSON. Noise is made again from its number when it is asked for (``numbered_noise``).
The sketch of a row is its inner product with one fixed normal vector: it tells other points from the same ones in
another rounding, which a hash would not.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.utils.data import Dataset

from proxflow.checks import Numbers, as_tensor, flat_points, whole_number, working_dtype
from proxflow.couplings.numbered_noise import NumberedNoise
from proxflow.couplings.numbered_pairs import NumberedPairs, drawn_pairs, pairs_by_epochs
from proxflow.fingerprint import fingerprint
from proxflow.measures import Gaussian
from proxflow.progress import reporter
from proxflow.results import brief_repr
from proxflow.semidiscrete.certificate import mass_error
from proxflow.semidiscrete.problem import Tally
from proxflow.storage import write_atomically

__all__ = ["PairFile", "PairFileRecord"]

_FORMAT_VERSION = 1
_DRAWS_PER_ROW = 32, 2  # at the most, and more for each epoch: a cell of a third of its mass is still filled
_SAME_SKETCH = 1e-4  # of the sketches' size: far above the rounding of float32, far below what lies between rows
_SAME_WEIGHT = 1e-5  # relative
_SKETCH_SEED = 0
_SKETCH_ROWS = 1 << 12  # in float64 at once


@brief_repr
@dataclass(frozen=True)
class PairFileRecord:
    """What a file of pairs holds, and how good it is.

    Attributes:
        pairs: number of pairs P.
        rows: number of rows N of the points.
        dim: coordinates of a point.
        epochs: in each of which every row comes exactly once; None where pairs were drawn.
        seed: of the noise and of all else.
        chi2: sum_i (m_i - w_i)^2 / w_i, m_i the mass of the noise that the coupling gives to row i and w_i the row's
            weight, estimated without bias from ``draws`` vectors. Pairs by epochs have noise that is off N(0, I) by
            this chi2; drawn ones have exact noise, and rows whose weights are off by it.
        chi2_stderr: its standard error.
        visit_chi2: sum_i (v_i / P - w_i)^2 / w_i, v_i how often row i comes in the file: 0 by epochs; by chance alone
            (N - 1) / P.
        fewest: the least v_i / (P w_i), over rows of positive weight.
        most: the largest.
        draws: vectors of noise that were drawn for the pairs.
        approximated: pairs that got noise independent of their row, since too few draws fell to it.
    """

    pairs: int
    rows: int
    dim: int
    epochs: int | None
    seed: int
    chi2: float
    chi2_stderr: float
    visit_chi2: float
    fewest: float
    most: float
    draws: int
    approximated: int


class PairFile(Dataset[tuple[Tensor, int]]):
    """Pairs (noise, row) of a file that ``PairFile.write`` made: a map-style data set for any ``DataLoader``.

    ``pairs[p]`` is a vector of noise of the points' event shape and dtype, on the CPU, and the number of its row; with
    ``points[row]`` and ``labels[row]`` beside it a network is trained. Pair p is the same in every process, worker and
    rank, on every machine and at every batch size, and costs about as much as drawing the noise. The file is mapped,
    not read: processes share its pages, and copies (pickled ones too) open it again.

    Pairs by epochs lie epoch by epoch, each in a random order: read them in order, without shuffling, or by
    ``PairSampler``. The pairs of a row have independent noise. See ``PairFileRecord`` for the law of the noise.

    Args:
        path: the file.
        points: (N, *event), the points that it was written for, in their order; float32, float64, or stored as
            float16, bfloat16, uint8 or int8: the noise is then float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no pairs, is damaged, or is of a newer format; or other points.

    Attributes:
        record: what the file holds.
    """

    def __init__(self, path: str | os.PathLike[str], points: Numbers) -> None:
        self.path = Path(path).absolute()
        tensor = as_tensor("PairFile", "points", points)
        flat = flat_points("PairFile", tensor, stored=True)
        self._event_shape, self._dtype = tuple(tensor.shape[1:]), working_dtype(flat)
        self._open()
        if _fingerprint(self.record, self._tensors) != self._written:
            raise ValueError(f"PairFile: {self.path} is damaged: it is not what was written; write it again")
        _check_points(self.path, flat, self.record, self._tensors["sketch"])

    @classmethod
    def write(
        cls,
        coupling: Any,
        path: str | os.PathLike[str],
        pairs: int | None = None,
        *,
        epochs: int | None = None,
        seed: int = 0,
        max_draws: int | None = None,
        progress: bool | None = None,
    ) -> PairFileRecord:
        """Draw pairs of a coupling and write them to ``path``; the file is complete or not there.

        Args:
            coupling: one that has rows for given noise: ``Semidiscrete``, ``Conditional``, ``Subspace`` of either, or
                ``Independent``; the noise must be standard normal.
            path: the file; an older one is replaced.
            pairs: number of pairs. The noise is exactly N(0, I), and rows come by chance.
            epochs: in place of it, how often every row comes; its noise is drawn from its own cell.
            seed: seed of the noise and of all else, at most 64 bits. Files of different seeds have independent noise.
            max_draws: with ``epochs``, vectors drawn at the most; (32 + 2 epochs) N if None.
            progress: show a status line; None shows one on a terminal.

        Returns:
            What the file holds; ``PairFile.record`` has it too.

        Raises:
            ValueError: not one of pairs and epochs, a number out of range, a coupling of other noise or without rows
                for it, or rows of unequal weights with ``epochs``.
            FileNotFoundError: the folder of ``path`` does not exist.
        """
        number, wanted = _checked_request(coupling, pairs, epochs, seed)
        weights, report = coupling.row_weights.cpu(), reporter("pairs", progress)
        if epochs is None:
            found = drawn_pairs(coupling, wanted, number, report)
        else:
            per_row, per_epoch = _DRAWS_PER_ROW
            most = (
                (per_row + per_epoch * wanted) * len(weights)
                if max_draws is None
                else _positive("max_draws", max_draws)
            )
            found = pairs_by_epochs(coupling, wanted, number, most, report)
        record = _record_of(found, weights, coupling.rows.dim, None if epochs is None else wanted, number)
        tensors = {"row": _narrowed(found.row), "sketch": _sketch(coupling.rows.flat)}
        if found.number is not None:
            tensors["number"] = _narrowed(found.number)
        description = {
            "format_version": _FORMAT_VERSION,
            "record": dataclasses.asdict(record),
            "fingerprint": _fingerprint(record, tensors),
        }
        write_atomically(Path(path), to_bytes(tensors, metadata={"proxflow_pairs": json.dumps(description)}))
        return record

    def __len__(self) -> int:
        return self.record.pairs

    def __getitem__(self, pair: int) -> tuple[Tensor, int]:
        return self.__getitems__([pair])[0]

    def __getitems__(self, pairs: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Several at once, as a ``DataLoader`` asks for a batch."""
        places = [self._place(pair) for pair in pairs]
        noise = self._noise.of(self._numbers(places)).to(self._dtype).reshape(len(places), *self._event_shape)
        return list(zip(noise, self._tensors["row"][places].tolist(), strict=True))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_tensors"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()
        if self._written != state["_written"]:
            raise ValueError(f"PairFile: {self.path} was written anew since it was opened; open it again")

    def _open(self) -> None:
        """Map the file."""
        self.record, self._written, self._tensors = _read(self.path)
        self._noise = NumberedNoise(self.record.seed, self.record.dim)

    def _place(self, pair: int) -> int:
        place = whole_number(pair)
        if place is None or not -len(self) <= place < len(self):
            raise IndexError(f"PairFile: pairs are numbered 0 to {len(self) - 1}, got {pair!r}")
        return place % len(self)

    def _numbers(self, places: list[int]) -> list[int]:
        """Of the noise of some pairs."""
        return self._tensors["number"][places].tolist() if "number" in self._tensors else places


def _checked_request(coupling: Any, pairs: int | None, epochs: int | None, seed: int) -> tuple[int, int]:
    """Seed, and number of pairs or epochs, as Python's.

    Raises:
        ValueError: as ``PairFile.write`` says.
    """
    if (pairs is None) == (epochs is None):
        raise ValueError(f"PairFile.write: give one of pairs= and epochs=, got {pairs!r} and {epochs!r}")
    wanted = _positive("pairs", pairs) if epochs is None else _positive("epochs", epochs)
    number = whole_number(seed)
    if number is None or not -(2**63) <= number < 2**64:
        raise ValueError(f"PairFile.write: seed must be an integer of at most 64 bits, got {seed!r}")
    if not hasattr(coupling, "rows_for"):
        raise ValueError(
            f"PairFile.write: {type(coupling).__name__} has no rows for given noise; Semidiscrete, Conditional and "
            "Subspace have"
        )
    if coupling.source != Gaussian(coupling.rows.dim):
        raise ValueError(
            "PairFile.write: only standard normal noise is made again from its number, the coupling's is "
            f"{coupling.source!r}"
        )
    weights = coupling.row_weights
    if epochs is not None and float((weights * len(weights) - 1).abs().max()) > _SAME_WEIGHT:
        raise ValueError("PairFile.write: in an epoch every row comes once, but the rows have weights; give pairs=")
    return number, wanted


def _positive(name: str, value: object) -> int:
    number = whole_number(value)
    if number is None or number < 1:
        raise ValueError(f"PairFile.write: {name} must be an integer of at least 1, got {value!r}")
    return number


def _narrowed(numbers: Tensor) -> Tensor:
    """In 4 bytes each where they fit."""
    return numbers.to(torch.int32) if int(numbers.max()) < 2**31 else numbers


def _sketch(flat: Tensor) -> Tensor:
    """What stands for each row (N, d) in a file, (N,) float32."""
    vector = NumberedNoise(_SKETCH_SEED, flat.shape[1]).run(0, 1)[0]
    return torch.cat([rows.double().cpu() @ vector for rows in flat.split(_SKETCH_ROWS)]).float()


def _check_points(path: Path, flat: Tensor, record: PairFileRecord, sketch: Tensor) -> None:
    """Refuse points (N, d) that the file was not written for."""
    if tuple(flat.shape) != (record.rows, record.dim):
        raise ValueError(
            f"PairFile: {path} was written for {record.rows} points of {record.dim} numbers, got {len(flat)} of "
            f"{flat.shape[1]}; give the points that it was written for"
        )
    off = (_sketch(flat) - sketch).abs()
    wrong = torch.nonzero(~(off <= _SAME_SKETCH * sketch.square().mean().sqrt()))[:, 0]
    if len(wrong):
        raise ValueError(
            f"PairFile: {path} was written for other points: {len(wrong)} rows differ, the first: "
            f"{wrong[:5].tolist()}; give the points that it was written for, in their order"
        )


def _fingerprint(record: PairFileRecord, tensors: dict[str, Tensor]) -> str:
    return fingerprint(dataclasses.astuple(record), [tensors.get(name) for name in ("row", "number", "sketch")])


def _read(path: Path) -> tuple[PairFileRecord, str, dict[str, Tensor]]:
    """The record, the fingerprint and the tensors of a file, these mapped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no pairs, is damaged, or of a newer format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"PairFile: {path}: no such file; PairFile.write makes one")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("proxflow_pairs")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except safetensors.SafetensorError as error:
        raise ValueError(f"PairFile: {path} is truncated or no file of pairs ({error}); write it again") from error
    if text is None:
        raise ValueError(f"PairFile: {path} holds no pairs; PairFile.write makes such a file")
    try:
        description = json.loads(text)
        if description["format_version"] > _FORMAT_VERSION:
            raise ValueError(
                f"PairFile: {path} has format {description['format_version']}, this version of proxflow reads up to "
                f"{_FORMAT_VERSION}; upgrade it"
            )
        return PairFileRecord(**description["record"]), description["fingerprint"], tensors
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"PairFile: {path} is damaged: its description cannot be read; write it again") from error


def _record_of(found: NumberedPairs, weights: Tensor, dim: int, epochs: int | None, seed: int) -> PairFileRecord:
    """What a file is worth that has these pairs of rows with weights (N,)."""
    kept = weights > 0
    counts, weight = found.counts[kept].double(), weights[kept]
    error = mass_error(Tally(counts, counts, found.draws), weight) if found.draws > 1 else None
    visits = torch.bincount(found.row, minlength=len(weights))[kept] / (len(found.row) * weight)
    return PairFileRecord(
        pairs=len(found.row),
        rows=len(weights),
        dim=dim,
        epochs=epochs,
        seed=seed,
        chi2=float("inf") if error is None else error.chi2,
        chi2_stderr=float("inf") if error is None else error.stderr,
        visit_chi2=float(weight @ (visits - 1).square()),
        fewest=float(visits.min()),
        most=float(visits.max()),
        draws=found.draws,
        approximated=found.approximated,
    )
