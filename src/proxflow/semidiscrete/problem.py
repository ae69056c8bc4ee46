"""The semi-dual problem in its own units: atoms centred and scaled to the unit ball, noise drawn by need."""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.checks import working_dtype
from proxflow.kernels.geometry import ScaledRows, coordinates, row_norm, weighted_sum
from proxflow.kernels.search import affine_scores, argmax_affine, best_of_parts
from proxflow.kernels.shortlist import GroupedSlopes, Shortlist, argmax_on_shortlist
from proxflow.kernels.signed_sums import SlopesInParts, best_of_signs
from proxflow.kernels.softmax.sums import log_sums, summed_laws
from proxflow.measures import Source, draw
from proxflow.potentials.atoms import centre_and_radius
from proxflow.potentials.orbits import nearest_images, orbit_distances, orbit_frame
from proxflow.semidiscrete.antithetic import frame_size, random_frame
from proxflow.semidiscrete.invariant_frame import InvariantFrame, invariant_frame
from proxflow.semidiscrete.ranks import ALONE, Ranks
from proxflow.semidiscrete.shared_directions import Sharing, shared_axes, turned
from proxflow.storage import storable
from proxflow.symmetry import Symmetry

__all__ = ["GAP_DRAWS", "SMALL_GAP", "SemiDual", "Tally", "chunk_sizes", "inner"]

GAP_DRAWS = 1 << 9  # of noise, that tell how near scores are to one another
SMALL_GAP = 0.05  # quantile of the gap between best and second-best score that is compared with errors of scores
_ROUNDINGS = 2.0**8  # if that quantile is so many roundings wide, rounding moves less than 1% of it to another atom
_BLOCKS_AT_ONCE = 2  # of shared directions: wider products are quicker, and processes share whole ones
_ROWS = 1 << 11  # of noise, whose images are made at once
_SAMPLED = 1 << 12  # atoms, that tell what a group does to all
_GAP_SCORES = 1 << 24  # at once, and as many for groups


@storable
@dataclass(frozen=True)
class Tally:
    """How samples of the noise were assigned: sum (N,) and sum of squares (N,) of the assignment probabilities."""

    total: Tensor
    squares: Tensor
    draws: int

    @property
    def mass(self) -> Tensor:
        """Estimated cell masses, (N,)."""
        return self.total / self.draws

    def __add__(self, other: Tally) -> Tally:
        """Of the samples of both."""
        return Tally(self.total + other.total, self.squares + other.squares, self.draws + other.draws)


class SemiDual:
    """J(h) = E phi_h(X0) + <b, h> for normalised atoms, with the noise and the precision of its search.

    phi_h(u) = max_j <u, y_j> - h_j, or for epsilon > 0 the smooth
    epsilon log sum_j N b_j exp((<u, y_j> - h_j) / epsilon).
    Scores are shifted by <u, centre> against the user's; the assignment is the same, and heights and epsilon in the
    user's units are ``radius`` times those here. Searches take their products with the user's rows themselves where
    these are float32, or stored in fewer bytes, and about the origin, so that no copy of them is needed, and else with
    rows in units of the problem: ``_unit`` is how many units of the search one unit of the problem is. With a group of
    symmetries an atom stands for its orbit: its score is the best of its images', its cell theirs together. There
    epsilon is 0. With a shortlist the maximum is that of the atoms on the list of u; epsilon is 0 there, too. ``ranks``
    are the processes among which ``count`` shares its rows.
    """

    def __init__(
        self,
        points: Tensor,
        weights: Tensor,
        source: Source,
        epsilon: float,
        max_memory: int,
        symmetry: Symmetry | None = None,
        ranks: Ranks = ALONE,
        shortlist: Shortlist | None = None,
    ) -> None:
        self.ranks = ranks
        self.shortlist = shortlist
        self.weights = weights
        self.source = source
        self.symmetry = symmetry
        self.centre, radius = centre_and_radius(points) if symmetry is None else orbit_frame(points, symmetry)
        self.radius = float(radius)
        self.points = ScaledRows(points, self.centre, radius)
        self.epsilon = epsilon / self.radius
        self.max_memory = max_memory
        self.rows_at_once = max(256, min(1 << 16, max_memory // (16 * (points.shape[1] + 2))))
        self.rows = torch.arange(len(points), device=points.device)
        self._log_weights = torch.log(weights) + math.log(len(points))
        self.search_in(torch.float32)

    def __len__(self) -> int:
        return len(self.points)

    def restricted(self, kept: Tensor) -> SemiDual:
        """The problem of some of its atoms alone, in the same units; their ``rows`` here tell which."""
        if bool(kept.all()):
            return self
        part = copy.copy(self)
        part.rows = torch.nonzero(kept)[:, 0]
        part.points = self.points.only(part.rows)
        part.weights = self.weights[part.rows] / self.weights[part.rows].sum()
        part._log_weights = torch.log(part.weights) + math.log(len(part.points))
        part.search_in(self.dtype)
        return part

    def needs_double(self, gap: float, heights: Tensor) -> bool:
        """Whether a small score ``gap`` is too near to the rounding of float32 scores, or a number beyond its range.

        Scores are then taken in float64, and the potential gets heights and weights in float64.
        """
        single = torch.finfo(torch.float32)
        beyond = float(self.weights.min()) < single.tiny or self.radius * float(heights.abs().max()) > 0.25 * single.max
        return beyond or self.blurred(gap, heights, torch.float32)

    def blurred(self, gap: float, heights: Tensor, dtype: torch.dtype) -> bool:
        """Whether a small score ``gap`` is too near to the rounding of scores in ``dtype``."""
        size = float(self.source.dim) ** 0.5 + float(heights.abs().max())
        return bool(gap < _ROUNDINGS * torch.finfo(dtype).eps * size)

    def search_in(self, dtype: torch.dtype) -> None:
        """Draw noise and take scores in this precision from now on."""
        self.dtype = dtype
        given = self.points.rows
        as_given = self.epsilon == 0 and working_dtype(given) == dtype == torch.float32 and self._about_origin()
        self._slopes, self._unit = (given, self.radius) if as_given else (self.points.to(dtype), 1.0)
        self._grouped: GroupedSlopes | None = None  # of a shortlist, made when first asked for
        self._in_parts: tuple[SlopesInParts, Tensor] | None = None  # for antithetic noise, likewise

    def over_all_atoms(self) -> SemiDual:
        """The problem without its shortlist."""
        whole = copy.copy(self)
        whole.shortlist = None
        return whole

    def _about_origin(self) -> bool:
        """Whether products with the rows as given lose no more digits than about their centre."""
        return float(row_norm(self.centre[None])) <= self.radius

    def sizes(self, rows: Tensor) -> Tensor:
        """Norms of some atoms, by number, as products round them, in the problem's units."""
        return row_norm(self._slopes[rows].double()) / self._unit

    @property
    def elements(self) -> int:
        """Of the group: up to so many images make an orbit."""
        return 1 if self.symmetry is None else len(self.symmetry)

    @functools.cached_property
    def noise_frame(self) -> InvariantFrame | None:
        """Coordinates that each element of the group keeps or turns round, where noise gains by them."""
        frame = None if self.symmetry is None else invariant_frame(self.symmetry, len(self))
        sample = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:_SAMPLED]
        if frame is None or frame.turns(self.points[sample], self.weights[sample]):
            return None
        return frame

    @property
    def random_dim(self) -> int:
        """Dimensions that the frame of antithetic noise is random in, at least."""
        return self.source.dim if self.noise_frame is None else self.noise_frame.least

    def mean(self) -> Tensor:
        """Of the atoms and their images, (d,)."""
        mean = weighted_sum(self.weights, self.points)
        return mean if self.symmetry is None else self.symmetry.invariant_part(mean[None])[0]

    def distances(self, rows: Tensor, others: Tensor) -> Tensor:
        """Between some atoms and others, by number: the least between two of their images, (rows, others)."""
        if self.symmetry is None:
            return torch.cdist(self.points[rows], self.points[others], compute_mode="donot_use_mm_for_euclid_dist")
        return orbit_distances(self.symmetry, self.points[rows], self.points[others])

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` source draws, (n, d)."""
        return draw(self.source, n, generator, self.dtype, self.points.device)

    def count(self, noise: Tensor, heights: Tensor) -> Tally:
        """``assign`` of rows that all processes hold, each of which searches its share."""
        own = self.assign(self.ranks.share(noise), heights)
        total, squares, draws = self.ranks.summed(own.total, own.squares, own.total.new_tensor([own.draws]))
        return Tally(total, squares, int(draws))

    def antithetic_mass(self, draws: int, heights: Tensor, parts: int, generator: torch.Generator) -> Tensor:
        """Cell masses (N,) by ``draws`` normal vectors, a multiple of 2 ``parts``: each vector with so many signs.

        No ``Tally``: its draws are not independent, only those of different calls are. Processes share the vectors.
        """
        slopes, signs = self._slopes_in_parts(parts)
        shape = draws // (2 * parts), *slopes.shape
        drawn = torch.randn(shape, generator=generator, dtype=self.dtype, device=self.points.device)
        own = self.ranks.part(drawn).transpose(0, 1).contiguous()
        offsets = self._offsets(heights)
        best, _ = best_of_parts([best_of_signs(own * sign[:, None], slopes, offsets) for sign in signs])
        return self.ranks.total(torch.bincount(best.flatten(), minlength=len(self)).double()) / draws

    def _slopes_in_parts(self, parts: int) -> tuple[SlopesInParts, Tensor]:
        """And signs of coordinates by each element, (G, m, k); made when first asked for, in the dtype of noise."""
        if self._in_parts is None or self._in_parts[0].shape[0] != parts:
            like = self.centre.to(self.dtype)
            if self.noise_frame is None:
                frame, signs = random_frame(frame_size(self.source.dim, parts), like), like.new_ones(1, parts, 1)
            else:
                frame, signs = self.noise_frame.dealt(parts, like)
            self._in_parts = SlopesInParts.of(self._slopes, frame, parts), signs
        return self._in_parts

    def mass_sharing(self, noise: Tensor, heights: Tensor, sharing: Sharing, generator: torch.Generator) -> Tensor:
        """Cell masses (N,) by normal noise that is turned, block by block, into a few random directions.

        No ``Tally``: its draws are not independent, only those of different calls are. Processes share the blocks.
        """
        total = torch.zeros_like(self.weights)
        for place, rows in enumerate(noise.split(_BLOCKS_AT_ONCE * sharing.rows)):
            blocks = rows.split(sharing.rows)
            axes = [shared_axes(self.source.dim, sharing, generator, noise) for _ in blocks]
            if not self.ranks.takes(place):
                continue
            parts = coordinates(self._slopes, torch.cat(axes, dim=1)).split(sharing.directions, dim=1)
            for block, slopes in zip(blocks, parts, strict=True):
                total += self._seen_as(slopes).assign(turned(block, sharing.directions), heights).total
        (total,) = self.ranks.summed(total)
        return total / len(noise)

    def _seen_as(self, slopes: Tensor) -> SemiDual:
        """The same atoms by their coordinates (N, m) in the subspace that noise lies in."""
        part = copy.copy(self)
        part._slopes = slopes
        return part

    def assign(self, noise: Tensor, heights: Tensor) -> Tally:
        """To which atoms noise rows go, at normalised heights (N,)."""
        if self.epsilon == 0:
            counts = torch.bincount(self._best(noise, heights)[0], minlength=len(self)).double()
            return Tally(counts, counts, len(noise))
        return Tally(*summed_laws(*self._soft_scores(noise, heights)), len(noise))

    def conjugate(self, noise: Tensor, heights: Tensor) -> Tensor:
        """phi_h of each noise row, (n,) float64."""
        if self.epsilon > 0:
            return self.epsilon * log_sums(*self._soft_scores(noise, heights)).double()
        best, element = self._best(noise, heights)
        parts = torch.arange(len(noise), device=noise.device).split(_ROWS)
        level = [(noise[rows].double() * self._image(best, element, rows)).sum(1) for rows in parts]
        return torch.cat(level) - heights[best]

    def score_gaps(self, noise: Tensor, heights: Tensor, groups: list[Tensor]) -> Tensor:
        """Best score less the best of another atom, and for each labelling less that of another group, (n, 1 + L).

        Groups of all labellings are unions of those of the first.
        """
        offsets = self._offsets(heights)
        rows = max(1, min(64, _GAP_SCORES // len(self)))
        return torch.cat([_gaps(self._scores(part, offsets), groups) / self._unit for part in noise.split(rows)])

    def small_gap(self, heights: Tensor, generator: torch.Generator) -> float:
        """The gap between best and second-best score that few of ``GAP_DRAWS`` draws fall below, in float64."""
        self.search_in(torch.float64)
        gaps = self.score_gaps(self.noise(GAP_DRAWS, generator), heights, [])
        return float(gaps[:, 0].quantile(SMALL_GAP))

    # ---------------------------------------------------------------- inside

    def _best(self, noise: Tensor, heights: Tensor) -> tuple[Tensor, Tensor | None]:
        """The atom of each noise row, (n,), and the element that moves it to where the row goes, (n,)."""
        if self.shortlist is not None:
            self._grouped = self._grouped or GroupedSlopes(self._slopes, self.shortlist.group, self.dtype)
            grouped = self._grouped.with_offsets(self._offsets(heights))
            return argmax_on_shortlist(noise, self.shortlist, grouped), None
        if self.symmetry is None:
            return argmax_affine(noise, self._slopes, self._offsets(heights)), None
        best, element = nearest_images(self.symmetry, noise, self._slopes, self._offsets(heights))
        return best, element

    def _image(self, best: Tensor, element: Tensor | None, rows: Tensor) -> Tensor:
        """The points that some noise rows, by number, go to, (rows, d) float64."""
        points = self.points[best[rows]]
        return points if self.symmetry is None or element is None else self.symmetry.apply(points, element[rows])

    def _scores(self, noise: Tensor, offsets: Tensor) -> Tensor:
        """Of each atom, or of the best of its images, (n, N)."""
        scores = affine_scores(noise, self._slopes, offsets)
        for element in range(1, self.elements):
            moved = noise if self.symmetry is None else self.symmetry.apply(noise, element)
            scores = torch.maximum(scores, affine_scores(moved, self._slopes, offsets))
        return scores

    def _soft_scores(self, noise: Tensor, heights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, atoms and offsets whose scores are those over epsilon, with the weights inside."""
        offsets = self._offsets(heights / self.epsilon - self._log_weights)
        return noise / self.epsilon, self._slopes, offsets

    def _offsets(self, heights: Tensor) -> Tensor:
        return (-self._unit * heights).to(self.dtype)


def _gaps(scores: Tensor, groups: list[Tensor]) -> Tensor:
    columns = [scores]
    if groups:
        first, *others = groups
        best = _best_of_groups(scores, first)
        label = first.new_empty(best.shape[1])
        columns += [best, *(_best_of_groups(best, label.scatter(0, first, labels)) for labels in others)]
    top = torch.stack([column.topk(2, dim=1).values for column in columns], dim=1)
    return top[:, :, 0] - top[:, :, 1]


def _best_of_groups(scores: Tensor, labels: Tensor) -> Tensor:
    """Of scores (n, N) the best in each group, (n, groups)."""
    best = scores.new_full((len(scores), int(labels.max()) + 1), -torch.inf)
    return best.scatter_reduce_(1, labels.expand(len(scores), -1), scores, "amax")


def chunk_sizes(n: int, size: int) -> list[int]:
    """``n`` as a sum of ``size`` and a rest."""
    full, rest = divmod(n, size)
    return [size] * full + ([rest] if rest else [])


def inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> along the last dimension. Unlike those of BLAS its bits do not depend on where the numbers lie."""
    return (a * b).sum(-1)
