"""Finitely many atoms, of which each noise vector is searched among a few groups: potentials of nearly optimal pairs.

Of all pairs (u, y_j) those are allowed whose atom is on the shortlist of u (``kernels/shortlist``). Optimal transport
on the allowed pairs, the cost of all others being infinite, has the dual potential phi(u) = max of <u, y_j> - h_j over
the shortlist of u. It is no Brenier potential: jumps between shortlists break its convexity, and there is no prox. But
its cells may carry the weights exactly, and of all couplings of these laws on allowed pairs its own costs least
(Kantorovich's duality). Solvers that restrict fine pairs by a coarse plan are known as multiscale optimal transport
(Gerber and Maggioni 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from proxflow.checks import whole_number
from proxflow.errors import counted
from proxflow.kernels.geometry import ScaledRows
from proxflow.kernels.shortlist import GroupedSlopes, Shortlist, argmax_on_shortlist
from proxflow.measures import Gaussian, Source
from proxflow.potentials.atoms import atoms_in_words, centre_and_radius, check_atoms, check_like_atoms, register_atoms
from proxflow.potentials.discrete import Discrete
from proxflow.storage import storable
from proxflow.torch_support import Derived, in_full_precision

__all__ = ["Shortlisted"]


@storable
class Shortlisted(nn.Module):
    """phi(u) = max <u, y_j> - h_j over the atoms on the shortlist of u.

    ``semidiscrete.fit_shortlisted`` finds the heights whose cells have the wanted ``weights``, and
    ``couplings.Semidiscrete`` couples by them; flows take a ``Discrete`` potential. State: ``points`` (N, d),
    ``heights`` (N,), ``weights`` (N,), and the shortlist's ``group`` (N,), ``centres`` (G, d) and ``levels`` (G,).
    Queries must have the dtype and device of the points, or be float32 where those are stored in fewer bytes; scores
    are taken in the dtype of the heights, about a centre of the points, of which a copy is kept.

    Args:
        points: (N, d) distinct finite rows, float32, float64, or stored as float16, bfloat16, uint8 or int8. Not
            copied, as heights are not: what changes them changes the potential.
        heights: (N,) finite, in the dtype of queries or in float64.
        shortlist: which atoms a query is searched among.
        weights: (N,) positive, normalised to sum 1; equal if None. In the dtype of queries or in float64.
        source: law of the noise; standard normal if None.

    Raises:
        ValueError: a shape, dtype or device does not match, rows are not finite or not distinct, a weight is not
            positive, or a group has no atom.
    """

    points: Tensor
    heights: Tensor
    weights: Tensor
    group: Tensor
    centres: Tensor
    levels: Tensor

    def __init__(
        self,
        points: Tensor,
        heights: Tensor,
        shortlist: Shortlist,
        weights: Tensor | None = None,
        *,
        source: Source | None = None,
    ) -> None:
        check_atoms("Shortlisted", points, heights, weights)
        _check_shortlist(shortlist, points)
        super().__init__()
        self.source: Source = Gaussian(points.shape[1]) if source is None else source
        if self.source.dim != points.shape[1]:
            raise ValueError(f"Shortlisted: the source has dimension {self.source.dim}, the points {points.shape[1]}")
        register_atoms(self, points, heights, weights)
        self.register_buffer("group", shortlist.group)
        self.register_buffer("centres", shortlist.centres)
        self.register_buffer("levels", shortlist.levels)
        self.count = int(shortlist.count)
        self._frame = Derived(centre_and_radius)
        self._grouped = Derived(_grouped)

    def extra_repr(self) -> str:
        """Size and dtype of the atoms, for printing."""
        return atoms_in_words(self.points, f"count={self.count}")

    def constructor_arguments(self) -> dict[str, object]:
        """Points, heights, shortlist, weights and source."""
        return {
            "points": self.points,
            "heights": self.heights,
            "shortlist": self.shortlist,
            "weights": self.weights,
            "source": self.source,
        }

    @property
    def shortlist(self) -> Shortlist:
        """Which atoms a query is searched among."""
        return Shortlist(self.group, self.centres, self.levels, self.count)

    @property
    def dim(self) -> int:
        """Dimension d of the space."""
        return int(self.points.shape[1])

    @property
    def epsilon(self) -> float:
        """0: nothing is smoothed."""
        return 0.0

    @in_full_precision
    def nearest_atom(self, u: Tensor) -> Tensor:
        """The atom that each source point (B, d) is transported to, (B,) int64.

        A few thousand rows at once take the least time each: those of a group share a product.
        """
        if u.ndim != 2 or u.shape[1] != self.dim:
            raise ValueError(f"Shortlisted: u must have shape (B, {self.dim}), got {tuple(u.shape)}")
        check_like_atoms("Shortlisted", u, "u", self.points, self.heights)
        grouped = self._grouped(self.points, self.heights, self.group, *self._frame(self.points))
        return argmax_on_shortlist(u.detach().to(self.heights.dtype), self.shortlist, grouped)

    def sample_atom(self, u: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``nearest_atom(u)``, (B,) int64: nothing is left to chance; as ``Entropic`` and couplings have it."""
        return self.nearest_atom(u)

    def conjugate(self, u: Tensor) -> Tensor:
        """phi(u), (B,)."""
        atom = self.nearest_atom(u)
        return ((u.double() * self.points[atom].double()).sum(1) - self.heights[atom].double()).to(u.dtype)

    def over_all_atoms(self) -> Discrete:
        """The Brenier potential max_j <u, y_j> - h_j of the same heights: its cells have other masses."""
        return Discrete(self.points, self.heights, self.weights, source=self.source)


def _grouped(points: Tensor, heights: Tensor, group: Tensor, centre: Tensor, radius: Tensor) -> GroupedSlopes:
    exact = heights.detach().double()
    offsets = ((exact.median() - exact) / radius).to(heights.dtype)
    return GroupedSlopes(ScaledRows(points.detach(), centre, radius), group, heights.dtype).with_offsets(offsets)


def _check_shortlist(shortlist: Shortlist, points: Tensor) -> None:
    group, centres, levels = shortlist.group, shortlist.centres, shortlist.levels
    groups = len(centres)
    if group.shape != (len(points),) or group.dtype != torch.int64:
        raise ValueError(
            f"Shortlisted: the shortlist's group must have shape ({len(points)},) and be int64, got "
            f"{tuple(group.shape)} of {group.dtype}"
        )
    if centres.shape != (groups, points.shape[1]) or levels.shape != (groups,):
        raise ValueError(
            f"Shortlisted: the shortlist's centres and levels must have shapes (G, {points.shape[1]}) and (G,), got "
            f"{tuple(centres.shape)} and {tuple(levels.shape)}"
        )
    if any(not part.is_floating_point() or part.device != points.device for part in (centres, levels)):
        raise ValueError(
            f"Shortlisted: the shortlist's centres and levels must be floating-point numbers on {points.device}, got "
            f"{centres.dtype} and {levels.dtype} on {centres.device}"
        )
    if not bool(torch.isfinite(centres).all() & torch.isfinite(levels).all()):
        raise ValueError("Shortlisted: the shortlist's centres and levels must be finite")
    inside = bool(((group >= 0) & (group < groups)).all())
    if not inside or bool((torch.bincount(group, minlength=groups) == 0).any()):
        raise ValueError(f"Shortlisted: each of the {counted(groups, 'group')} must have an atom, numbered from 0")
    if not 1 <= (whole_number(shortlist.count) or 0) <= groups:
        raise ValueError(
            f"Shortlisted: the shortlist's count must be between 1 and the {counted(groups, 'group')}, got "
            f"{shortlist.count!r}"
        )
