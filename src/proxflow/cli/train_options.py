"""The options of ``proxflow train`` in groups, and the coupling and the network that they describe."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from proxflow.cli.options import ShortlistCount, Tolerance
from proxflow.errors import counted

if TYPE_CHECKING:
    from pathlib import Path

    from proxflow.cli.run_folder import RunFolder
    from proxflow.couplings import Coupling, DirectionChoice
    from proxflow.data import Dataset
    from proxflow.matching import AffineResidual, UNet
    from proxflow.schedules import Schedule
    from proxflow.semidiscrete import Fit

__all__ = ["Coupled", "CouplingOptions", "NetworkOptions", "OptimiserOptions"]

_TOLERANCE = 1e-2  # of fits, where none is given
_WIDTHS = {"residual": 512, "mlp": 512, "unet": 64}  # of the networks, where none is given


@dataclass(frozen=True)
class Coupled:
    """A coupling; the fit that it is, where that is one of all coordinates at once; the choice of its directions; and
    what is to be said of its classes.
    """

    coupling: Coupling
    fit: Fit | None = None
    choice: DirectionChoice | None = None
    classes: str | None = None


@dataclass(frozen=True)
class CouplingOptions:
    """How noise and data are paired."""

    coupling: Annotated[
        Literal["subspace", "semidiscrete", "minibatch", "independent"],
        typer.Option(
            help="The population coupling in the directions that the rows can estimate, or in all; or batch by batch."
        ),
    ] = "subspace"
    directions: Annotated[
        int | None,
        typer.Option(min=1, help="Principal directions that subspace couples; chosen from the data if not given."),
    ] = None
    shortlist: ShortlistCount = None
    tol: Tolerance = _TOLERANCE
    conditional: Annotated[
        bool, typer.Option("--conditional", help="Tell the network the label; implied by --label.")
    ] = False
    strength: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With labels, how far classes are coupled apart: 0 couples all rows at once, for sampling with "
            "guidance (with --coupling semidiscrete), 1 nearly apart; each class alone if not given.",
        ),
    ] = None
    ot_batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Pairs assigned at once by minibatch; the batch size, or all points if fewer, if not given."
        ),
    ] = None

    def check(self, dataset: Dataset, conditional: bool) -> None:
        """Refuse what does not go with the data or with one another, and warn of what may not be wanted.

        Raises:
            ValueError: says what and what to do.
        """
        if dataset.n < 2:
            raise ValueError(f"{dataset.name} has one point; a network needs at least two")
        if conditional and dataset.labels is None:
            raise ValueError(f"{dataset.name} has no labels; name their column by --label, or leave out --conditional")
        if conditional and dataset.labels is not None and int(dataset.labels.min()) < 0:
            raise ValueError(f"{dataset.name} has labels below 0; number them from 0, or leave out --conditional")
        if conditional and dataset.labels is not None and dataset.labels.is_floating_point():
            fraction = next(label for label in dataset.labels.tolist() if label != round(label))
            raise ValueError(
                f"{dataset.name} has labels such as {fraction:g}, and a network is told classes: make them whole "
                "numbers or text, or couple by couplings.JointConditional in a program of your own"
            )
        if self.strength is not None and not (conditional and self.coupling in ("subspace", "semidiscrete")):
            raise ValueError(
                "--strength is for labels (--conditional, --label) and --coupling subspace or semidiscrete; leave it "
                "out"
            )
        if self.directions is not None and self.coupling != "subspace":
            raise ValueError(f"--directions is for --coupling subspace; {self.coupling} has none to choose")
        if self.directions is not None and self.directions > dataset.dim:
            raise ValueError(
                f"--directions {self.directions} is more than the {counted(dataset.dim, 'coordinate')} of a point"
            )
        if self.shortlist is not None and self.coupling != "subspace":
            raise ValueError("--shortlist is for --coupling subspace; leave it out")
        if self.tol != _TOLERANCE and self.coupling not in ("subspace", "semidiscrete"):
            raise ValueError(f"--tol is for --coupling subspace and semidiscrete; {self.coupling} is not fitted")
        if self.ot_batch is not None and self.coupling != "minibatch":
            raise ValueError(f"--ot-batch is for --coupling minibatch; {self.coupling} assigns no batches")
        if self.ot_batch is not None and self.ot_batch > dataset.n:
            raise ValueError(
                f"--ot-batch {self.ot_batch} is more than the {counted(dataset.n, 'point')}; --coupling semidiscrete "
                "couples all of them at any batch size"
            )
        if self.strength == 0 and self.coupling == "subspace":
            typer.echo(
                "--strength 0 in a few directions only: guidance brings classes back that were coupled in all of them, "
                "by --coupling semidiscrete",
                err=True,
            )
        if self.coupling == "minibatch" and conditional:
            typer.echo(
                "minibatch with labels: within a class the noise is not normal in training but is in sampling; "
                "--coupling subspace and semidiscrete keep it normal",
                err=True,
            )

    def build(self, dataset: Dataset, conditional: bool, batch_size: int, folder: RunFolder, seed: int) -> Coupled:
        """The coupling of a data set, class by class where ``conditional``."""
        import proxflow as pf

        labels = dataset.labels if conditional else None
        if self.coupling == "independent":
            return Coupled(pf.couplings.Independent(dataset.points, labels))
        if self.coupling == "minibatch":
            batch = self.ot_batch or min(batch_size, dataset.n)
            return Coupled(pf.couplings.Minibatch(dataset.points, batch, labels))
        if labels is not None:
            wanted: int | Literal["auto"] | None = (
                None if self.coupling == "semidiscrete" else self.directions or "auto"
            )
            strength = math.inf if self.strength is None else self.strength
            coupling = pf.couplings.Conditional.fit(
                dataset.points,
                labels,
                strength=strength,
                directions=wanted,
                shortlist=self.shortlist,
                tol=self.tol,
                seed=seed,
                checkpoint=self._checkpoint(folder, of_groups=True),
            )
            return Coupled(coupling, classes=self._classes_in_words())
        return self._population(dataset, folder, seed)

    def _checkpoint(self, folder: RunFolder, *, of_groups: bool = False) -> Path:
        return folder.fit_checkpoint(of_groups, None if self.tol == _TOLERANCE else self.tol)

    def _classes_in_words(self) -> str:
        if self.strength is None:
            return (
                "classes coupled apart, so that the noise of a class is normal in training as it is in sampling "
                "(--strength 0 couples them at once, for sampling with guidance)"
            )
        return (
            f"classes coupled at strength {self.strength:g}: the noise of the pairs tells the class, so that samples "
            "without guidance are biased; sample with --guidance 1.5 to 2"
        )

    def _population(self, dataset: Dataset, folder: RunFolder, seed: int) -> Coupled:
        """The population coupling of all data, in some directions or in all."""
        import proxflow as pf
        from proxflow.semidiscrete.fit_result import uninterrupted

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pf.ConvergenceWarning)  # any fit is an exact coupling of its own weights
            if self.coupling == "semidiscrete":
                fitted = uninterrupted(
                    pf.semidiscrete.fit(dataset.points, tol=self.tol, seed=seed, checkpoint=self._checkpoint(folder))
                )
                return Coupled(pf.couplings.Semidiscrete(fitted.potential, dataset.points), fitted)
            subspace = pf.couplings.Subspace.fit(
                dataset.points,
                self.directions,
                shortlist=self.shortlist,
                tol=self.tol,
                seed=seed,
                checkpoint=self._checkpoint(folder),
            )
            uninterrupted(subspace.record)
        return Coupled(subspace, choice=subspace.selection)


@dataclass(frozen=True)
class NetworkOptions:
    """The network that is trained."""

    network: Annotated[
        Literal["residual", "mlp", "unet"], typer.Option(help="Kind of network; unet is for images.")
    ] = "residual"
    width: Annotated[
        int | None, typer.Option(min=8, help="Hidden width of residual and mlp (512), or first channels of unet (64).")
    ] = None
    depth: Annotated[int, typer.Option(min=1, help="Blocks of residual, hidden layers of mlp, or levels of unet.")] = 3

    @property
    def size(self) -> int:
        """The width asked for, or else that of the kind of network."""
        return self.width or _WIDTHS[self.network]

    def check(self, dataset: Dataset) -> None:
        """Refuse a U-Net that cannot take the data, before a coupling is fitted for it.

        Raises:
            ValueError: they are no images, or too small for it.
        """
        import torch

        if self.network == "unet":
            with torch.device("meta"):  # without memory
                self._unet(dataset, 0)

    def _unet(self, dataset: Dataset, classes: int) -> UNet:
        from proxflow.matching import UNet

        channels = [self.size * min(2**level, 4) for level in range(self.depth)]
        return UNet(dataset.event_shape, channels=channels, classes=classes)

    def build(
        self, dataset: Dataset, conditional: bool, coupling: Coupling, schedule: Schedule, seed: int
    ) -> AffineResidual | UNet:
        """A perceptron for what the affine part of the velocity leaves, or a U-Net for all of it."""
        import torch

        from proxflow.matching import MLP, AffineResidual, ResidualMLP

        classes = int(dataset.labels.max()) + 1 if conditional and dataset.labels is not None else 0
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if self.network == "unet":
                return self._unet(dataset, classes)
            kind = MLP if self.network == "mlp" else ResidualMLP
            perceptron = kind(dataset.event_shape, width=self.size, depth=self.depth, classes=classes)
            return AffineResidual.fit(perceptron, coupling, schedule=schedule, seed=seed)


@dataclass(frozen=True)
class OptimiserOptions:
    """How long and how fast it is trained."""

    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 6000
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs a step.")] = 256
    learning_rate: Annotated[float, typer.Option(help="Of AdamW, at its largest.")] = 1e-3

    def check(self) -> None:
        """Refuse a rate that training would refuse once a coupling is fitted.

        Raises:
            ValueError: it is no positive number.
        """
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"--learning-rate must be a positive number, got {self.learning_rate:g}")
