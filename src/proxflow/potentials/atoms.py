"""What every potential made of finitely many atoms asks of its data and its queries, and the frame it computes in."""

from __future__ import annotations

from typing import Protocol, TypeGuard

import torch
from torch import Tensor, nn

from proxflow.checks import STORED, normalised_weights, working_dtype
from proxflow.errors import counted
from proxflow.kernels.equal_rows import first_equal_rows
from proxflow.kernels.geometry import distances_from
from proxflow.measures import Source

__all__ = [
    "AtomicPotential",
    "as_atomic",
    "atoms_in_words",
    "centre_and_radius",
    "check_atoms",
    "check_like_atoms",
    "has_atoms",
    "register_atoms",
]

_COLUMNS = 8  # of many rows, whose medians are taken at once: each takes a copy


class AtomicPotential(Protocol):
    """A potential of finitely many atoms: what a coupling asks of it. ``Discrete``, ``Entropic``, or one of your own.

    Attributes:
        points: (N, d) distinct atoms.
        heights: (N,), h_j in phi(u) = max_j <u, y_j> - h_j, or in its smoothed form.
        weights: (N,) of the atoms, of sum 1.
        source: law of the noise.
        epsilon: of the smoothing; 0 where the noise decides the atom.
    """

    points: Tensor
    heights: Tensor
    weights: Tensor
    source: Source

    @property
    def epsilon(self) -> float: ...  # noqa: D102

    def conjugate(self, u: Tensor) -> Tensor: ...  # noqa: D102

    def sample_atom(self, u: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """An atom for each source point, (B,) int64: the one it is transported to, or a draw of its law."""
        ...


def has_atoms(potential: object) -> TypeGuard[AtomicPotential]:
    """Whether a potential is an ``AtomicPotential``; ``isinstance`` does not see the buffers of a module."""
    names = ("points", "heights", "weights", "source", "epsilon", "conjugate", "sample_atom")
    return all(hasattr(potential, name) for name in names)


def as_atomic(owner: str, potential: object) -> AtomicPotential:
    """The potential, if it is an ``AtomicPotential``.

    Raises:
        ValueError: it is none; of a ``SymmetricDiscrete``, ``expanded`` is one.
    """
    if has_atoms(potential):
        return potential
    remedy = "; give its expanded()" if hasattr(potential, "expanded") else ""
    raise ValueError(
        f"{owner}: the potential must have atoms (potentials.AtomicPotential), as in semidiscrete.fit(points).potential"
        f", got {type(potential).__name__}{remedy}"
    )


def centre_and_radius(points: Tensor) -> tuple[Tensor, Tensor]:
    """A centre (d,) of rows (N, d), in float64, and the largest distance from it, () and never 0.

    The centre is the row nearest to the median of each coordinate: a few far rows do not move it, differences from it
    keep the digits of all the others, and it lies in every plane that holds the rows.
    """
    rows = points.detach()
    medians = torch.cat([columns.median(0).values for columns in rows.split(_COLUMNS, dim=1)])
    middle = distances_from(rows, medians.double()).argmin(0, keepdim=True)
    centre = rows.index_select(0, middle)[0].double()
    radius = distances_from(rows, centre).amax()
    return centre, torch.where(radius > 0, radius, 1.0)


def check_atoms(owner: str, points: Tensor, heights: Tensor, weights: Tensor | None) -> None:
    """Refuse atoms that are not distinct finite rows, or heights and weights that do not go with them.

    Raises:
        ValueError: naming ``owner``, the argument, the shape or offending rows, and what to do.
    """
    if not isinstance(points, Tensor) or points.ndim != 2 or 0 in points.shape:
        shape = tuple(getattr(points, "shape", ()))
        raise ValueError(f"{owner}: points must be a non-empty (N, d) tensor, got shape {shape}")
    if points.dtype not in (torch.float32, torch.float64, *STORED):
        raise ValueError(f"{owner}: points must be float32 or float64, got {points.dtype}; convert them to float32")
    for name, values in (("heights", heights), ("weights", weights)):
        if values is not None:
            _check_per_atom(owner, name, values, points)
    bad = torch.nonzero(~torch.isfinite(points).all(1))[:, 0]
    if len(bad):
        found = counted(len(bad), "row of points is", "rows of points are")
        raise ValueError(f"{owner}: {found} not finite, the first: {bad[:5].tolist()}")
    if weights is not None and not bool((weights > 0).all()):
        raise ValueError(f"{owner}: weights must be positive; leave out atoms of weight zero")
    if len(first_equal_rows(points.detach())[0]) < len(points):
        raise ValueError(
            f"{owner}: the points must be distinct; merge equal rows and add up their weights (semidiscrete.fit does)"
        )


def atoms_in_words(points: Tensor, *more: str) -> str:
    """What a potential prints of its atoms (N, d): their number, dimension and dtype, and what is added."""
    dtype = str(points.dtype).removeprefix("torch.")
    return ", ".join([f"{counted(len(points), 'atom')} in R^{points.shape[1]}", dtype, *more])


def register_atoms(module: nn.Module, points: Tensor, heights: Tensor, weights: Tensor | None) -> None:
    """Make checked atoms the state of a potential: weights of sum 1, equal if None."""
    weights = torch.ones_like(heights) if weights is None else weights
    shares = normalised_weights(type(module).__name__, weights, points).to(weights.dtype)
    module.register_buffer("points", points)
    module.register_buffer("heights", heights)
    module.register_buffer("weights", shares)


def check_like_atoms(
    owner: str, x: Tensor, name: str, points: Tensor, numbers: Tensor, *, or_float64: bool = False
) -> None:
    """Refuse a query of another dtype or device than results have, and heights or weights in fewer bytes.

    ``or_float64``: of queries whose answer would lose digits in float32.
    """
    dtype = working_dtype(points)
    fits = x.dtype == dtype or (or_float64 and x.dtype == torch.float64)
    if not fits or x.device != points.device:
        stored = "" if dtype == points.dtype else f"stored in {points.dtype}, for queries of "
        remedy = "one of them, e.g. potential.to(dtype, device)" if points.is_floating_point() else f"{name}"
        raise ValueError(
            f"{owner}: {name} is {x.dtype} on {x.device}, the points are {stored}{dtype} on "
            f"{points.device}; convert {remedy}"
        )
    if numbers.dtype not in (dtype, torch.float64):
        raise ValueError(
            f"{owner}: only points can be stored in fewer bytes, heights and weights are {numbers.dtype}; build it "
            "with these in float32"
        )


def _check_per_atom(owner: str, name: str, values: Tensor, points: Tensor) -> None:
    if values.shape != (len(points),):
        raise ValueError(f"{owner}: {name} must have shape ({len(points)},), got {tuple(values.shape)}")
    dtype = working_dtype(points)
    if values.dtype not in (dtype, torch.float64) or values.device != points.device:
        raise ValueError(
            f"{owner}: {name} is {values.dtype} on {values.device}, the points are {points.dtype} on {points.device}; "
            f"give them in {dtype} or in float64"
        )
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{owner}: {name} must be finite")
