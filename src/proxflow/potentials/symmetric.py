"""Finitely many orbits: a discrete potential that keeps one atom of each, and a group.

phi(u) = max_j max_g <u, g y_j> - h_j is the potential of all images of the atoms, and invariant: phi(g u) = phi(u).
Its maximum is found on the noise moved by each element, and needs no memory for images. The prox mixes images of
several atoms, so that it, and what follows from it, works on all of them, made when first asked for.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from proxflow.checks import count_of, working_dtype
from proxflow.errors import counted
from proxflow.kernels.geometry import finite_rows
from proxflow.measures import Source
from proxflow.potentials.atoms import atoms_in_words, check_atoms, check_like_atoms, register_atoms
from proxflow.potentials.base import GeneralizedQuadratic, Potential, check_rotation_invariant
from proxflow.potentials.discrete import Discrete
from proxflow.potentials.orbits import Nearest, nearest_images, orbit_frame, orbit_images, orbit_of_row
from proxflow.results import ProxResult
from proxflow.storage import storable
from proxflow.symmetry import Symmetry
from proxflow.torch_support import Derived, in_full_precision

__all__ = ["SymmetricDiscrete", "check_invariant", "check_symmetry"]


@storable
class SymmetricDiscrete(Potential):
    """phi(u) = max_j max_g <u, g y_j> - h_j over atoms y_j and the elements g of a group.

    The flow goes to the law "an atom by its orbit's mass, moved by a random element". ``conjugate``, ``brenier_map``,
    ``nearest_atom`` and ``nearest_image`` hold N atoms in memory; ``decompose`` and all that is derived from it hold
    the up to G N distinct images as well, as ``expanded`` gives them. Differentiable in queries, points and heights;
    where points or heights want gradients, images are made anew for each query. Precision as in ``Discrete``. State:
    ``points`` (N, d), ``heights`` (N,), ``weights`` (N,), each of a whole orbit.

    Args:
        points: (N, d) finite rows of different orbits, float32, float64, or stored as float16, bfloat16, uint8 or int8.
        heights: (N,) finite, in the dtype of queries or in float64.
        symmetry: the group, acting on R^d.
        weights: (N,) of the orbits, positive, normalised to sum 1; equal if None.
        source: law of the noise, invariant under the group; standard normal if None.
        max_iterations: cap on active-set steps per query.

    Raises:
        ValueError: bad atoms, two of one orbit, a group of another dimension, or a source that is not known to be
            invariant.
    """

    points: Tensor
    heights: Tensor
    weights: Tensor

    def __init__(
        self,
        points: Tensor,
        heights: Tensor,
        symmetry: Symmetry,
        weights: Tensor | None = None,
        *,
        source: Source | None = None,
        max_iterations: int = 1000,
    ) -> None:
        check_atoms("SymmetricDiscrete", points, heights, weights)
        super().__init__(points.shape[1], source)
        check_symmetry("SymmetricDiscrete", symmetry, points.shape[1:])
        check_invariant("SymmetricDiscrete", self.source)
        _check_orbits(points, symmetry)
        register_atoms(self, points, heights, weights)
        self.symmetry = symmetry
        self.max_iterations = count_of("SymmetricDiscrete", "max_iterations", max_iterations)
        self._frame = Derived(functools.partial(orbit_frame, symmetry=symmetry))
        self._normalised = Derived(_normalised_slopes)
        self._images = Derived(functools.partial(_expanded_detached, self.source, symmetry, max_iterations))

    def extra_repr(self) -> str:
        """Size and dtype of the atoms, for printing."""
        return atoms_in_words(self.points, f"{self.symmetry!r}")

    def constructor_arguments(self) -> dict[str, object]:
        """Points, heights, group, weights and source."""
        return {
            "points": self.points,
            "heights": self.heights,
            "symmetry": self.symmetry,
            "weights": self.weights,
            "source": self.source,
            "max_iterations": self.max_iterations,
        }

    @property
    def epsilon(self) -> float:
        """0: nothing is smoothed."""
        return 0.0

    @property
    def iterative(self) -> bool:
        """True: the active-set method reports a status per row."""
        return True

    def expanded(self) -> Discrete:
        """The same potential with all distinct images as atoms, ``points`` first, an orbit's weight shared evenly."""
        if torch.is_grad_enabled() and (self.points.requires_grad or self.heights.requires_grad):
            given = self.source, self.symmetry, self.max_iterations
            return _expanded(*given, self.points, self.heights, self.weights)
        return self._images(self.points, self.heights, self.weights)

    @in_full_precision
    def nearest_image(self, u: Tensor) -> Nearest:
        """What each source point is transported to: the atom, and the element that moves it there, (B,) int64 each."""
        self._check_query(u, "u")
        slopes, offsets = self._normalised(self.points, self.heights, *self._frame(self.points))
        return nearest_images(self.symmetry, u.detach().to(slopes.dtype), slopes, offsets)

    def nearest_atom(self, u: Tensor) -> Tensor:
        """The atom whose orbit each source point is transported to, (B,) int64."""
        return self.nearest_image(u).atom

    def images_of(self, atom: int) -> Tensor:
        """Every element's image of one atom, (G, d)."""
        point = self._rows(slice(atom, atom + 1))
        return torch.cat([self.symmetry.apply(point, element) for element in range(len(self.symmetry))])

    def nearest_image_of(self, u: Tensor, atom: Tensor) -> Nearest:
        """The image of a given atom (B,) that each source point would rather go to: argmax_g <u, g y_j>."""
        self._check_query(u, "u")
        point, exact = self.points[atom].double(), u.detach().double()
        scores = [(self.symmetry.apply(point, g) * exact).sum(1) for g in range(len(self.symmetry))]
        return Nearest(atom, torch.stack(scores).argmax(0))

    def image(self, nearest: Nearest) -> Tensor:
        """The points g y_j themselves, (B, d)."""
        return self.symmetry.apply(self._rows(nearest.atom), nearest.element)

    def brenier_map(self, u: Tensor) -> Tensor:
        """The image that each source point is transported to, (B, d); NaN where a source point is not finite."""
        return torch.where(finite_rows(u)[:, None], self.image(self.nearest_image(u)), torch.nan)

    def conjugate(self, u: Tensor) -> Tensor:
        """phi(u), (B,)."""
        nearest = self.nearest_image(u)
        image = self.symmetry.apply(self.points[nearest.atom].double(), nearest.element)
        return ((u.double() * image).sum(1) - self.heights[nearest.atom].double()).to(u.dtype)

    def value(self, y: Tensor) -> Tensor:
        """psi(y), (B,), as of ``expanded``."""
        return self.expanded().value(y)

    def decompose(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> ProxResult:
        """The Moreau pair, as of ``expanded``."""
        return self.expanded().decompose(x, alpha, beta)

    def second_epi_derivative(self, y: Tensor, u: Tensor) -> GeneralizedQuadratic:
        """Zero on the span of the differences of the contact set of u, +inf off it; as of ``expanded``."""
        return self.expanded().second_epi_derivative(y, u)

    def decompose_jacobian(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
        """(1 / beta) times the projector on the contact span, (B, d, d), as of ``expanded``."""
        return self.expanded().decompose_jacobian(x, alpha, beta)

    def smooth_support(self, y: Tensor) -> Tensor:
        """Verified at images whose height is psi's there, failed elsewhere, (B,) of ``Verdict``."""
        return self.expanded().smooth_support(y)

    def _rows(self, which: slice | Tensor) -> Tensor:
        """Some atoms, in the dtype of results."""
        return self.points[which].to(working_dtype(self.points))

    def _check_query(self, x: Tensor, name: str) -> None:
        self.check(x, name)
        check_like_atoms("SymmetricDiscrete", x, name, self.points, self.heights)


class _Slopes(NamedTuple):
    """Atoms about the frame's centre and scaled by its radius, in the dtype of the heights, and minus heights."""

    slopes: Tensor
    offsets: Tensor


def _normalised_slopes(points: Tensor, heights: Tensor, centre: Tensor, radius: Tensor) -> _Slopes:
    heights = heights.detach()
    unit_points = (points.detach().double() - centre) / radius
    unit_heights = (heights.double() - heights.median().double()) / radius
    return _Slopes(unit_points.to(heights.dtype).contiguous(), -unit_heights.to(heights.dtype))


def _expanded(
    source: Source, symmetry: Symmetry, max_iterations: int, points: Tensor, heights: Tensor, weights: Tensor
) -> Discrete:
    images, atom = orbit_images(points, symmetry)
    share = weights.detach() / torch.bincount(atom, minlength=len(points))
    return Discrete(images, heights[atom], share[atom], source=source, max_iterations=max_iterations)


def _expanded_detached(
    source: Source, symmetry: Symmetry, max_iterations: int, points: Tensor, heights: Tensor, weights: Tensor
) -> Discrete:
    return _expanded(source, symmetry, max_iterations, points.detach(), heights.detach(), weights)


def check_symmetry(owner: str, symmetry: Symmetry, event_shape: Sequence[int]) -> None:
    """Refuse what is no group, or one that acts on events of another shape; flat ones are taken as they are.

    Raises:
        ValueError: naming ``owner`` and what to do.
    """
    if not isinstance(symmetry, Symmetry):
        raise ValueError(
            f"{owner}: symmetry must be a group of proxflow.symmetry, got {type(symmetry).__name__}; Group(matrices) "
            "makes one of any"
        )
    dim, acts_on, shape = math.prod(event_shape), symmetry.event_shape, tuple(event_shape)
    if symmetry.dim != dim:
        raise ValueError(f"{owner}: the symmetry acts in dimension {symmetry.dim}, the points have {dim}")
    if len(shape) > 1 and len(acts_on) > 1 and _without_ones(shape) != _without_ones(acts_on):
        raise ValueError(f"{owner}: the symmetry acts on events of shape {acts_on}, those of the points are {shape}")


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size > 1)


def check_invariant(owner: str, source: Source) -> None:
    """Refuse a source that a group is not known to leave as it is."""
    check_rotation_invariant(owner, source, "without a symmetry any source will do")


def _check_orbits(points: Tensor, symmetry: Symmetry) -> None:
    first = orbit_of_row(points.detach(), symmetry)
    again = torch.nonzero(first != torch.arange(len(points), device=points.device))[:, 0]
    if len(again):
        found = counted(len(again), "row is an image", "rows are images")
        raise ValueError(
            f"SymmetricDiscrete: {found} of an earlier one, the first: row {int(again[0])} of row "
            f"{int(first[again[0]])}; keep one of each orbit with their summed weight (semidiscrete.fit does)"
        )
