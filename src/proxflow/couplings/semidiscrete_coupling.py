"""The population coupling of a finite data set: fresh noise goes to the atom of its Laguerre cell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.spatial import KDTree
from torch import Tensor

from proxflow.checks import Numbers, count_of, point_weights
from proxflow.couplings.noise_pool import WAITING, NoiseLaw, NoisePool
from proxflow.couplings.numbered_blocks import NumberedBlocks
from proxflow.couplings.pairs import Pairs, Rows, check_count
from proxflow.errors import counted
from proxflow.potentials import AtomicPotential, Shortlisted, SymmetricDiscrete
from proxflow.potentials.atoms import as_atomic
from proxflow.potentials.orbits import atom_of_rows
from proxflow.seeding import generator_of, own_generator
from proxflow.symmetry import Symmetry

__all__ = ["Semidiscrete", "rounded_alike"]

_ROUNDINGS = 1024  # of the largest coordinate, that two products of the same numbers may differ by
_LISTED_PAIRS = 1 << 14  # by shortlists, that are drawn together
_SAME_WEIGHT = 1e-5  # relative: float32 keeps weights to 1e-7, and to see 1e-5 takes 10^10 draws


class Semidiscrete:
    """Optimal pairs at every batch size, from a fitted potential: one maximum-affine search each.

    An ``Entropic`` potential draws the atom from its softmax instead. Rows of the data that are equal share an atom,
    and its noise, in proportion to their weights.

    A ``SymmetricDiscrete`` potential, from a fit with ``symmetry=``, sends noise to images of rows: targets are those
    images, ``index`` and ``label`` those of the row, and rows that are images of one another share an orbit. A row does
    not say its image, so that ``rows_for`` and ``noise_for`` refuse; ``sample`` and ``pairs_for`` give images.

    The pairs of a ``Shortlisted`` potential are optimal among those that shortlists allow. Thousands of them at once
    take the least time each: streams and training draw them in blocks.

    Args:
        potential: as fitted by ``semidiscrete.fit(points, weights)``, or an ``AtomicPotential`` of your own.
        points: (N, *event), the rows that it was fitted to, in the potential's dtype and on its device.
        labels: (N,) or (N, k), or None.
        weights: (N,), of the rows, as given to ``fit``; equal if None. Without equal rows the potential says it all.
        max_draws: number of draws in a row that may miss a cell before ``noise_for`` gives it up; 32 for each atom,
            and 2^17 at the least, if None.
        max_memory: bytes of noise that wait for their row to be asked for.

    Raises:
        ValueError: bad points, labels not one for each point, points that are not the atoms of the potential,
            weights of the rows that do not add up to those of its atoms, or ``max_draws`` and ``max_memory`` that are
            no numbers of draws and bytes.
    """

    def __init__(
        self,
        potential: AtomicPotential | SymmetricDiscrete,
        points: Numbers,
        labels: Numbers | None = None,
        *,
        weights: Numbers | None = None,
        max_draws: int | None = None,
        max_memory: int = WAITING,
    ) -> None:
        self.rows = Rows("Semidiscrete", points, labels)
        images = isinstance(potential, SymmetricDiscrete)
        self.potential = potential if images else as_atomic("Semidiscrete", potential)
        self.source = self.rows.source_or_normal(potential.source)
        self.atom_of_row = _atoms_of(self.rows.flat, potential.points, self.symmetry)
        self._shares = _shares(self.rows.flat, self.atom_of_row, potential, weights)
        most = None if max_draws is None else count_of("Semidiscrete", "max_draws", max_draws)
        self._pool = NoisePool(self._draw, potential, most, count_of("Semidiscrete", "max_memory", max_memory, 0))
        self._numbered = NumberedBlocks.within_memory(_LISTED_PAIRS, self.rows.dim)

    def __repr__(self) -> str:
        return self.rows.described(type(self.potential).__name__)

    @property
    def symmetry(self) -> Symmetry | None:
        """The group whose images of rows are the targets; None where these are rows."""
        return self.potential.symmetry if isinstance(self.potential, SymmetricDiscrete) else None

    @property
    def deterministic(self) -> bool:
        """Whether the noise decides the point: the velocities of the pairs are then the field that is learned."""
        return self.potential.epsilon == 0

    @property
    def noise_law(self) -> NoiseLaw:
        """How exact what ``noise_for`` has given so far is."""
        return self._pool.law

    @property
    def tensors(self) -> list[Tensor | None]:
        """What the coupling depends on, for checkpoints."""
        potential = self.potential
        tensors = [*self.rows.tensors_with(self.source, potential.epsilon), potential.heights, potential.weights]
        tensors += [] if self.symmetry is None else self.symmetry.tensors
        if isinstance(potential, Shortlisted):
            tensors += potential.shortlist.tensors
        return tensors if self._shares.until is None else [*tensors, self._shares.until]

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Pairs:
        """n pairs: fresh noise, and the row that it is transported to, or the image of a row.

        Raises:
            ValueError: n is no whole number of at least 1.
        """
        check_count("Semidiscrete", n)
        generator = own_generator(generator)
        if isinstance(self.potential, SymmetricDiscrete):
            noise = self.rows.draw_noise(self.source, n, generator)
            nearest = self.potential.nearest_image(noise)
            return self.rows.pairs(noise, self._shares.draw(nearest.atom, generator), self.potential.image(nearest))
        noise, atom = self._draw(n, generator)
        return self.rows.pairs(noise, self._shares.draw(atom, generator))

    def batch(self, number: int, n: int, seed: int) -> Pairs:
        """Batch ``number`` of n pairs of an endless sequence, whatever was drawn before."""
        if not isinstance(self.potential, Shortlisted):
            return self.sample(n, generator=generator_of(seed, count_of("batch", "number", number, 0)))
        check_count("Semidiscrete", n)
        size = self._numbered.size
        return self._numbered.batch(number, n, seed, lambda generator: self.sample(size, generator=generator))

    def pairs_for(self, index: Numbers, *, generator: torch.Generator | None = None) -> Pairs:
        """Pairs of given rows, for loops that visit the data in epochs: the noise is that of ``noise_for``.

        Under a symmetry the target is the image of the row that its noise is transported to: over an epoch noise has
        the source's law and targets that of rows moved by random elements, which replaces random flips by the loader.

        Args:
            index: (n,) whole numbers, rows of the points.

        Raises:
            ValueError: as of ``noise_for``.
        """
        rows = self.rows.checked_index(index)
        noise = self._pool.take(self.atom_of_row[rows], own_generator(generator))
        if isinstance(self.potential, SymmetricDiscrete):
            nearest = self.potential.nearest_image_of(noise, self.atom_of_row[rows])
            return self.rows.pairs(noise, rows, self.potential.image(nearest))
        return self.rows.pairs(noise, rows)

    def rows_for(self, noise: Numbers, *, generator: torch.Generator | None = None) -> Tensor:
        """The row that each source point (n, *event) is transported to, (n,) int64: ``sample`` with noise of one's own.

        Args:
            noise: (n, *event), of the points' dtype, on their device.
            generator: of what the noise does not decide: which of equal rows, and the atom of a smoothed potential.

        Raises:
            ValueError: noise of another shape, dtype or device, or that is not finite; or a potential with a symmetry.
        """
        generator = own_generator(generator)
        if isinstance(self.potential, SymmetricDiscrete):
            raise ValueError(
                "Semidiscrete.rows_for: with a symmetry noise goes to an image of a row, and the row does not say "
                "which; use sample, or potential.brenier_map(noise) for the images"
            )
        atom = self.potential.sample_atom(self.rows.checked_noise(noise), generator)
        return self._shares.draw(atom, generator)

    @property
    def row_weights(self) -> Tensor:
        """How often each row is to come, (N,) float64 of sum 1: its share of its atom's weight."""
        weights = self.potential.weights.double()[self.atom_of_row] * self._shares.of_row
        return weights / weights.sum()

    def noise_for(self, index: Numbers, *, generator: torch.Generator | None = None) -> Tensor:
        """Source points of given rows, (len(index), *event), for loops that visit the data in epochs.

        Each is a draw of the source in the Laguerre cell of its row (of the atom's conditional law, where the
        potential is entropic), by rejection: what falls into other cells waits until their row is asked for. Data
        visited in epochs are exactly uniform; for a fit of equal weights the noise then has the source's law up to the
        errors of the cell masses, its chi2. Rows of unequal weights must be visited as often as their weights say. A
        cell that ``max_draws`` draws in a row have missed is served by the draw that comes nearest to it, the smallest
        loss of score, until one hits it again; ``noise_law`` counts these.

        Draws that wait belong to this object in this process: a copy or a forked process begins without them.

        Args:
            index: (n,) whole numbers, rows of the points; repetitions are served by different draws.

        Raises:
            ValueError: index is not a vector of whole numbers, or names a row that is not there, or the potential has
                a symmetry.
        """
        if self.symmetry is not None:
            raise ValueError(
                "Semidiscrete.noise_for: with a symmetry noise goes to an image of a row, and the row does not say "
                "which; pairs_for(index) gives noise and images"
            )
        rows = self.rows.checked_index(index)
        noise = self._pool.take(self.atom_of_row[rows], own_generator(generator))
        return noise.reshape(len(rows), *self.rows.event_shape)

    def _draw(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        noise = self.rows.draw_noise(self.source, n, generator)
        if isinstance(self.potential, SymmetricDiscrete):
            return noise, self.potential.nearest_atom(noise)
        return noise, self.potential.sample_atom(noise, generator)


@dataclass(frozen=True)
class _Shares:
    """Which rows take an atom's noise, and how much of it each.

    Attributes:
        row: those of positive weight, atom by atom.
        until: atom + the shares of its rows up to this one, float64, ascending; None if each atom has one row.
        first: place in ``row`` of each atom's first.
        last: and of its last.
        of_row: (N,), the share of each row in its atom.
    """

    row: Tensor
    until: Tensor | None
    first: Tensor
    last: Tensor
    of_row: Tensor

    def draw(self, atom: Tensor, generator: torch.Generator | None) -> Tensor:
        """A row of each atom, at random where there are several."""
        if self.until is None:
            return self.row[atom]
        drawn_on = atom.device if generator is None else generator.device
        uniform = torch.rand(len(atom), generator=generator, dtype=torch.float64, device=drawn_on).to(atom.device)
        place = torch.searchsorted(self.until, atom + uniform, right=True)
        return self.row[torch.minimum(torch.maximum(place, self.first[atom]), self.last[atom])]


def _shares(
    rows: Tensor, atom_of_row: Tensor, potential: AtomicPotential | SymmetricDiscrete, weights: Numbers | None
) -> _Shares:
    """The shares of rows (N, d) in their atoms.

    Raises:
        ValueError: bad weights, or weights that do not add up to those of the atoms.
    """
    mass, atoms = point_weights("Semidiscrete", weights, rows), len(potential.points)
    total = torch.zeros(atoms, dtype=torch.float64, device=rows.device).index_add_(0, atom_of_row, mass)
    repeated = len(rows) > atoms
    if repeated or weights is not None:
        _check_weights(total, potential.weights, atom_of_row, given=weights is not None)
    row = atom_of_row.argsort(stable=True)
    row = row[mass[row] > 0]
    atom = atom_of_row[row]
    last = torch.bincount(atom, minlength=atoms).cumsum(0) - 1
    first = last - torch.bincount(atom, minlength=atoms) + 1
    if not repeated:
        return _Shares(row, None, first, last, torch.ones_like(mass))
    of_row = mass / total[atom_of_row]
    share = of_row[row]
    summed = share.cumsum(0)
    return _Shares(row, atom + (summed - (summed - share)[first[atom]]), first, last, of_row)


def _check_weights(total: Tensor, expected: Tensor, atom_of_row: Tensor, *, given: bool) -> None:
    """Refuse weights of rows whose sums are not the weights of their atoms, up to rounding."""
    least = torch.finfo(torch.float32).tiny  # below it float32 loses digits
    expected = expected.double()
    off = torch.nonzero((total - expected).abs() > _SAME_WEIGHT * expected + least)[:, 0]
    if not len(off):
        return
    atom = int(off[0])
    rows = torch.nonzero(atom_of_row == atom)[:, 0]
    adding = "the weights" if given else "equal weights, since none are given,"
    raise ValueError(
        f"Semidiscrete: {adding} of rows {rows[:5].tolist()} add up to {float(total[atom]):.6g} of all, but their atom "
        f"has the weight {float(expected[atom]):.6g} in the potential; give weights= as they were given to fit"
    )


def _atoms_of(rows: Tensor, atoms: Tensor, symmetry: Symmetry | None) -> Tensor:
    """The atom equal to each row, or of which it is an image, (N,) int64.

    Raises:
        ValueError: the rows are of another dtype, device or width, a row is no atom, or an atom has no row.
    """
    if rows.dtype != atoms.dtype or rows.device != atoms.device or rows.shape[1] != atoms.shape[1]:
        raise ValueError(
            f"Semidiscrete: points are {rows.dtype} on {rows.device} with {rows.shape[1]} entries each, the atoms "
            f"{atoms.dtype} on {atoms.device} with {atoms.shape[1]}; give the points that it was fitted to"
        )
    atom_of_row = atom_of_rows(atoms, rows, symmetry)
    strangers = torch.nonzero(atom_of_row < 0)[:, 0]
    if len(strangers):
        raise ValueError(
            f"Semidiscrete: {counted(len(strangers), 'point is no atom', 'points are no atoms')} of the potential, the "
            f"first: rows {strangers[:5].tolist()}; give the points that it was fitted to, or fit again"
        )
    if len(torch.unique(atom_of_row)) < len(atoms):
        raise ValueError(
            "Semidiscrete: some atoms of the potential are no row of points; give all that it was fitted to"
        )
    return atom_of_row


def rounded_alike(features: Tensor, atoms: Tensor) -> Tensor:
    """Features (N, k), each replaced by the atom that it is but for rounding, if it is one.

    A matrix product is rounded in another way on another machine or number of threads.
    """
    if features.shape[1:] != atoms.shape[1:] or features.dtype != atoms.dtype:
        return features
    size = float(atoms.abs().max()) or 1.0  # in units of it, whose squares are numbers
    known = (atoms.detach().double() / size).cpu().numpy()
    distance, atom = KDTree(known).query((features.double() / size).cpu().numpy())
    close = torch.from_numpy(distance) <= _ROUNDINGS * torch.finfo(features.dtype).eps
    nearest = atoms.detach()[torch.from_numpy(atom).to(atoms.device)].to(features.device)
    return torch.where(close.to(features.device)[:, None], nearest, features)
