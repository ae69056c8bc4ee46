"""Couplings for networks that are told a condition: from noise that keeps its law under each, to any in between.

One optimal coupling of all noise and all data gives each class its own region of the noise: a network that is told the
class then sees other noise in training than in sampling, and gets worse (a bias, not a variance). Here the condition is
drawn first and the noise, independent of it, is coupled with the data of that condition only; or, at a finite strength,
with all data, at a cost on conditions that differ.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from proxflow.checks import Numbers, count_of, whole_number
from proxflow.couplings.condition_groups import Group, checked_strength, groups_of, places_of_groups, weights_of
from proxflow.couplings.directions import choose_directions, directions_kept_by
from proxflow.couplings.joint_conditional import ConditionCost, NoiseAndCondition
from proxflow.couplings.noise_pool import WAITING, NoiseLaw
from proxflow.couplings.numbered_blocks import NumberedBlocks
from proxflow.couplings.pairs import Pairs, Rows, check_count
from proxflow.couplings.semidiscrete_coupling import Semidiscrete
from proxflow.couplings.subspace import Subspace, first_directions
from proxflow.errors import counted
from proxflow.measures import Gaussian, Source
from proxflow.potentials import AtomicPotential, SymmetricDiscrete
from proxflow.potentials.atoms import as_atomic
from proxflow.potentials.symmetric import check_symmetry
from proxflow.progress import reporter
from proxflow.seeding import own_generator
from proxflow.semidiscrete import Fit, ShortlistedFit, fit, fit_shortlisted
from proxflow.semidiscrete.fit_result import uninterrupted
from proxflow.semidiscrete.ranks import Ranks
from proxflow.semidiscrete.shortlist_fit import check_shortlist
from proxflow.symmetry import Symmetry

__all__ = ["Conditional"]

_GROUP_PAIRS = 512  # of each group on average, that are drawn together
_DRAWS_PER_ROW = 2  # that wait: with one a row takes 180 draws, with two 7, with four 3


class Conditional:
    """Semidiscrete couplings for a network that is told a condition.

    ``strength`` goes from pairs that ignore the condition to pairs that keep to it. Noise and rows have exactly their
    laws, and each pair the label of its row, at every strength; what changes is the noise given the label.

    - ``math.inf``, the default: a coupling of its own for each class. Given the class the noise has **exactly** the
      source's law, so that a network meets in sampling the noise that it was trained on.
    - 0: one coupling of all rows, at the least cost. The noise tells the class: **it leaks**. Without guidance samples
      are biased.
    - between: noise and a condition c0 drawn apart are coupled with rows and theirs at |x0 - x1|^2 plus a cost on
      conditions that differ; at strength 1 unrelated ones cost on average what all of optimal transport saves. The
      noise leaks, the less the larger the strength; ``metrics.label_leakage`` measures it. (``JointConditional`` has
      c0 itself for its label: nothing leaks, but the row is one of a near condition.)

    Several conditions are columns of the labels, each with a strength of its own if wanted: those with ``math.inf`` are
    kept apart, the others cost. Whole numbers are classes, floats are numbers, or an embedding whose columns share one
    strength.

    Args:
        points: (N, *event), finite, float32, float64, or stored as float16, bfloat16, uint8 or int8: pairs are then
            float32.
        labels: (N,) or (N, k): whole numbers, or finite floats at a finite strength. A column that is kept apart holds
            whole numbers.
        potentials: of each group of rows that is coupled together, fitted to its rows alone; ``Conditional.fit`` makes
            them. Groups are the classes, by their label, where labels are (N,) whole numbers that are kept apart; else
            they are numbered from 0, in the order of the columns that are kept apart (one group, 0, if none is).
        strength: one number for all columns, or one for each, of at least 0.
        weights: (N,), of the rows, as given to ``fit``; equal if None. Groups are drawn by the sums of theirs.
        directions: of each group, (d, k) orthonormal columns, if its potential is one of ``rows @ directions``: each
            group is then a ``Subspace`` coupling.
        symmetry: a group of maps, as given to ``fit``: targets are images of rows, as of ``Semidiscrete``.
        max_memory: bytes of noise that wait for their row to be asked for, of all groups together, each by its number
            of rows and at least 512 draws. If None 256 MiB, or two draws for each row where that is more: with fewer,
            ``noise_for`` draws many times as often.

    Streams and training draw the pairs of all groups in blocks: a search of a few noise vectors in each of many groups
    takes most of its time to begin.

    Raises:
        ValueError: bad points, labels, strength, weights or directions, a group without potential or directions, or a
            potential of other points, strength, weights or symmetry.
    """

    def __init__(
        self,
        points: Numbers,
        labels: Numbers,
        potentials: Mapping[int, AtomicPotential | SymmetricDiscrete],
        *,
        strength: float | Sequence[float] = math.inf,
        weights: Numbers | None = None,
        directions: Mapping[int, Numbers] | None = None,
        symmetry: Symmetry | None = None,
        max_memory: int | None = None,
    ) -> None:
        self.rows = Rows("Conditional", points, labels, weights)
        self.strength = checked_strength(self.rows, strength)
        self.symmetry = _checked_symmetry(symmetry, self.rows, self.strength)
        memory = WAITING if max_memory is None else count_of("Conditional", "max_memory", max_memory, 0)
        groups = groups_of(self.rows, self.strength)
        for what, given in (("potential", potentials), ("directions", directions)):
            missing = [] if given is None else sorted(set(groups.members) - set(given))
            if missing:
                raise ValueError(f"Conditional: no {what} for the classes {missing[:5]}; fit one to the rows of each")
        self._groups = groups
        self._parts: dict[int, Semidiscrete | ConditionCost | Subspace] = {}
        for group, rows in groups.members.items():
            frame = None if directions is None else directions[group]
            own = Group.of(self.rows, rows, frame, self.strength, _noise_of(potentials[group]))
            share = memory * len(rows) // len(self.rows)
            least = _DRAWS_PER_ROW * own.joined.numel() * own.rows.dtype.itemsize if max_memory is None else 0
            self._parts[group] = _part(own, potentials[group], symmetry, max(share, least))
        self.source = next(iter(self._parts.values())).source
        self._numbered = NumberedBlocks.within_memory(_GROUP_PAIRS * len(self._parts), self.rows.dim)

    @classmethod
    def fit(
        cls,
        points: Numbers,
        labels: Numbers,
        *,
        strength: float | Sequence[float] = math.inf,
        directions: int | Literal["auto"] | None = None,
        weights: Numbers | None = None,
        source: Source | None = None,
        symmetry: Symmetry | None = None,
        epsilon: float = 0.0,
        shortlist: int | None = None,
        tol: float = 1e-2,
        seed: int = 0,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Fit a potential to each group of rows that is coupled together: to each class, by default.

        Args:
            points: (N, *event), see the class.
            labels: (N,) or (N, k), see the class.
            strength: of the cost on conditions that differ, from 0 to ``math.inf``, which keeps them apart.
            directions: number of principal directions of each group that are coupled, as in ``Subspace.fit``; "auto"
                chooses it for each. None couples in all. With a symmetry as many fewer, or else more, as it takes.
            weights: (N,), of the rows; equal if None.
            source: law of the noise; standard normal if None, and wherever directions are given.
            symmetry: a group, as ``symmetry.HorizontalFlip((C, H, W))``, whose images of a row are data of its class,
                too; classes are then kept apart. See ``Subspace.fit``.
            epsilon: epsilon of the fits, in units of the scores; see ``semidiscrete.fit``.
            shortlist: for groups of very many rows on a CPU: pairs are nearly optimal, each noise vector searched among
                so many parts of the rows of its group; see ``Subspace.fit``.
            tol: tolerance on chi2 of each fit.
            seed: seed of the choices and the fits.
            checkpoint: folder to save the fit of each group in, made if it is not there; the same call goes on from
                it, but for the choice of directions.
            progress: show a status line; None shows one on a terminal.

        Raises:
            ValueError: bad data or arguments, a shortlist with a symmetry or epsilon, or a checkpoint that is of other
                fits or no folder.
            KeyboardInterrupt: Ctrl-C was pressed; what was fitted is in the checkpoint.
        """
        data = Rows("Conditional", points, labels, weights)
        strength = checked_strength(data, strength)
        if directions is not None and source is not None and source != Gaussian(data.dim):
            raise ValueError("Conditional: directions need standard normal noise; leave out source= or directions=")
        symmetry = _checked_symmetry(symmetry, data, strength)
        check_shortlist("Conditional.fit", shortlist, symmetry, epsilon)
        ranks = Ranks.of_default_group()
        folder = ranks.from_first(lambda: None if checkpoint is None else _made(Path(checkpoint)))
        report = reporter("fit", progress if ranks.rank == 0 else False)
        record: Fit | ShortlistedFit | None
        potentials: dict[int, AtomicPotential | SymmetricDiscrete] = {}
        frames: dict[int, Tensor] = {}
        groups = groups_of(data, strength).members
        for place, (label, rows) in enumerate(groups.items(), 1):
            if len(groups) > 1:
                report(f"class {label}, {place} of {len(groups)}: {counted(len(rows), 'row')}")
            options: dict[str, Any] = {"tol": tol, "seed": seed, "progress": progress}
            options["checkpoint"] = None if folder is None else folder / f"{label}.safetensors"
            if symmetry is not None and directions is not None:
                own, mass, frame = data.flat[rows], weights_of(data, rows), None
                if directions != "auto":
                    frame = _kept_directions(Rows("Conditional", own, None, mass), directions, symmetry)
                dim = None if frame is None else frame.shape[1]
                options |= {"frame": frame, "weights": mass, "symmetry": symmetry, "epsilon": epsilon}
                part = Subspace.fit(own, dim, **options)
                frames[label], record = part.directions, part.record
                assert record is not None  # noqa: S101 - of its fit
            else:
                if directions is not None:
                    own_weights = weights_of(data, rows)
                    frames[label] = _coupled_directions(data.flat[rows], own_weights, directions, seed, progress)
                group = Group.of(data, rows, frames.get(label), strength, source)
                options["source"] = group.joint_source
                if shortlist is not None:
                    record = fit_shortlisted(group.joined, group.rows.weights, count=shortlist, **options)
                else:
                    options |= {"symmetry": symmetry, "epsilon": epsilon}
                    record = fit(group.joined, group.rows.weights, **options)
            potentials[label] = uninterrupted(record).potential
        chosen = frames if directions is not None else None
        return cls(points, labels, potentials, strength=strength, weights=weights, directions=chosen, symmetry=symmetry)

    def __repr__(self) -> str:
        return self.rows.described(counted(len(self._parts), "group"))

    @property
    def potentials(self) -> dict[int, AtomicPotential | SymmetricDiscrete]:
        """The potential of each class, or other group of rows that is coupled together."""
        return {label: part.potential for label, part in self._parts.items()}

    @property
    def directions(self) -> dict[int, Tensor] | None:
        """The coupled directions of each group, (d, k); None where all are."""
        found = {label: part.directions for label, part in self._parts.items() if isinstance(part, Subspace)}
        return found or None

    @property
    def deterministic(self) -> bool:
        """Whether noise and class decide the point: the velocities of the pairs are then the field that is learned."""
        return all(part.deterministic for part in self._parts.values())

    @property
    def tensors(self) -> list[Tensor | None]:
        """What the coupling depends on, for checkpoints."""
        classes = [self.rows.labels] if self.rows.weights is None else [self.rows.labels, self.rows.weights]
        soft = [] if set(self.strength) == {math.inf} else [torch.tensor(self.strength, dtype=torch.float64)]
        group = [] if self.symmetry is None else self.symmetry.tensors
        return [*classes, *soft, *group, *(tensor for part in self._parts.values() for tensor in part.tensors)]

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Pairs:
        """n pairs: classes by their weight in the data, noise of the source in each, coupled within the class.

        Raises:
            ValueError: n is no whole number of at least 1.
        """
        check_count("Conditional", n)
        generator = own_generator(generator)
        wanted = self._groups.of_row[self.rows.draw_index(n, generator)]
        index = torch.empty(n, dtype=torch.int64, device=wanted.device)

        def drawn(label: int, places: Tensor) -> Pairs:
            pairs = self._parts[label].sample(len(places), generator=generator)
            index[places] = self._groups.members[label][pairs.index]
            return pairs

        noise, target = self._gathered(wanted, drawn)
        return self.rows.pairs(noise, index, target)

    def batch(self, number: int, n: int, seed: int) -> Pairs:
        """Batch ``number`` of n pairs of an endless sequence, whatever was drawn before."""
        check_count("Conditional", n)
        size = self._numbered.size
        return self._numbered.batch(number, n, seed, lambda generator: self.sample(size, generator=generator))

    def pairs_for(self, index: Numbers, *, generator: torch.Generator | None = None) -> Pairs:
        """Pairs of given rows, each in its own class; with a symmetry targets are images of them.

        See ``Semidiscrete.pairs_for``.

        Raises:
            ValueError: as of ``noise_for``, but for the symmetry.
        """
        asked, generator = self.rows.checked_index(index), own_generator(generator)
        if self.symmetry is None:
            return self.rows.pairs(self.noise_for(asked, generator=generator), asked)

        def found(label: int, places: Tensor) -> Pairs:
            part = self._parts[label]
            assert not isinstance(part, ConditionCost)  # noqa: S101 - there is none with a symmetry
            return part.pairs_for(self._place_in_group(label, asked[places]), generator=generator)

        noise, target = self._gathered(self._groups.of_row[asked], found)
        return self.rows.pairs(noise, asked, target)

    def rows_for(self, noise: Numbers, *, generator: torch.Generator | None = None) -> Tensor:
        """A row for each source point (n, *event), (n,) int64: of a class that is drawn apart from the noise.

        See ``Semidiscrete.rows_for``.
        """
        generator, given = own_generator(generator), self.rows.checked_noise(noise)
        wanted = self._groups.of_row[self.rows.draw_index(len(given), generator)]
        index = torch.empty(len(given), dtype=torch.int64, device=given.device)
        for label, places in places_of_groups(wanted):
            found = self._parts[label].rows_for(given[places], generator=generator)
            index[places] = self._groups.members[label][found]
        return index

    @property
    def row_weights(self) -> Tensor:
        """How often each row is to come, (N,) float64 of sum 1."""
        return self.rows.mass

    @property
    def noise_law(self) -> NoiseLaw:
        """How exact what ``noise_for`` has given so far is, over all classes."""
        laws = [part.noise_law for part in self._parts.values()]
        return NoiseLaw(
            served=sum(law.served for law in laws),
            approximated=sum(law.approximated for law in laws),
            largest_gap=max(law.largest_gap for law in laws),
            draws=sum(law.draws for law in laws),
        )

    def noise_for(self, index: Numbers, *, generator: torch.Generator | None = None) -> Tensor:
        """Source points of given rows, (len(index), *event), each in the cell of its row in its own class.

        See ``Semidiscrete.noise_for``.
        """
        asked = self.rows.checked_index(index)
        labels = self._groups.of_row[asked]
        noise = self.rows.flat.new_empty(len(asked), *self.rows.event_shape, dtype=self.rows.dtype)
        for label, places in places_of_groups(labels):
            given = self._parts[label].noise_for(self._place_in_group(label, asked[places]), generator=generator)
            noise[places] = given.reshape(len(places), *self.rows.event_shape)
        return noise

    def _place_in_group(self, label: int, rows: Tensor) -> Tensor:
        """Numbers of rows among those of their group."""
        return torch.searchsorted(self._groups.members[label], rows)

    def _gathered(self, group: Tensor, pairs_of: Callable[[int, Tensor], Pairs]) -> tuple[Tensor, Tensor]:
        """Noise and targets (n, d), each from the pairs of its group, which are asked for the places that it fills."""
        noise = self.rows.flat.new_empty(len(group), self.rows.dim, dtype=self.rows.dtype)
        target = torch.empty_like(noise)
        for label, places in places_of_groups(group):
            pairs = pairs_of(label, places)
            noise[places], target[places] = pairs.source.flatten(1), pairs.target.flatten(1)
        return noise, target


def _part(
    group: Group, potential: AtomicPotential | SymmetricDiscrete, symmetry: Symmetry | None, max_memory: int
) -> Semidiscrete | ConditionCost | Subspace:
    """The coupling of one group."""
    weights = group.rows.weights
    if group.features is not None:
        atomic = as_atomic("Conditional", potential)
        cost = ConditionCost(atomic, group.rows.flat, group.features, weights=weights, max_memory=max_memory)
        return cost if group.directions is None else Subspace(cost, group.flat, group.directions)
    if group.directions is not None:
        return Subspace.from_potential(
            potential, group.flat, group.directions, weights=weights, symmetry=symmetry, max_memory=max_memory
        )
    part = Semidiscrete(potential, group.flat, weights=weights, max_memory=max_memory)
    if part.symmetry != symmetry:
        raise ValueError("Conditional: potentials must have the symmetry that is given, or none if none is")
    return part


def _noise_of(potential: AtomicPotential | SymmetricDiscrete) -> Source:
    """The noise that a potential was fitted to, without the conditions that go with it."""
    source = potential.source
    return source.noise if isinstance(source, NoiseAndCondition) else source


def _made(folder: Path) -> Path:
    """The folder of a checkpoint.

    Raises:
        ValueError: it cannot be made.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"Conditional.fit: checkpoint must be a folder, or one that can be made, got {folder} ({error.strerror})"
        ) from error
    return folder


def _checked_symmetry(symmetry: Symmetry | None, rows: Rows, strength: Sequence[float]) -> Symmetry | None:
    if symmetry is None:
        return None
    check_symmetry("Conditional", symmetry, rows.event_shape)
    if set(strength) != {math.inf}:
        raise ValueError("Conditional: with a symmetry classes are kept apart; leave out strength= or symmetry=")
    return symmetry


def _kept_directions(rows: Rows, count: int, symmetry: Symmetry) -> Tensor:
    """About ``count`` principal directions of a group that a symmetry keeps, (d, k)."""
    number = whole_number(count) or 0
    if not 1 <= number <= rows.dim:
        raise ValueError(f"Conditional: directions must be between 1 and {rows.dim}, got {count!r}")
    return directions_kept_by(symmetry, rows.flat, rows.mass, number)


def _coupled_directions(
    points: Tensor, weights: Tensor | None, directions: int | Literal["auto"], seed: int, progress: bool | None
) -> Tensor:
    """The directions of one class, (d, k)."""
    if directions == "auto":
        return choose_directions(points, weights, seed=seed, progress=progress).directions
    return first_directions(Rows("Conditional", points, None, weights), directions)
