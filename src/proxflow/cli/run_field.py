"""The flow or network of a run folder as a field, with what the run keeps of its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxflow.cli.options import schedule_named

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from proxflow.cli.run_folder import RunFolder
    from proxflow.data import Standardisation
    from proxflow.semidiscrete import Fit

__all__ = ["RunField", "read_run_field"]


@dataclass(frozen=True)
class RunField:
    """A field of standardised points.

    Attributes:
        field: field(t, x) -> velocity.
        event_shape: shape of one point.
        dtype: dtype of its points.
        standardisation: how data are brought to its points and back.
        schedule: name of its schedule.
        classes: number of classes that a network is told; 0 for none, and for a flow.
        conditional: conditional(t, x, label) -> velocity of a network that is told classes; else None.
        fit: the fit that the flow is, or that the network was coupled with; None where there is none.
        rows: the standardised data, (N, *event).
        labels: of the rows of a network's run, (N,), as the network is told them; None where there are none.
    """

    field: Callable[[Tensor, Tensor], Tensor]
    event_shape: tuple[int, ...]
    dtype: torch.dtype
    standardisation: Standardisation
    schedule: str
    classes: int
    conditional: Callable[[Tensor, Tensor, Tensor], Tensor] | None
    fit: Fit | None
    rows: Tensor
    labels: Tensor | None


def read_run_field(folder: RunFolder, label: str | None = None) -> RunField:
    """The field of a run; of a network that is told classes, with the class of this name, or none.

    Raises:
        ValueError: there is no run, it is damaged or of a study, or has no such class.
    """
    import torch

    import proxflow as pf

    if folder.is_trained:
        network, standardisation, shape, schedule = folder.read_network()
        number = None if label is None else folder.class_number(label, network.classes)
        rows, labels = folder.read_trained_on()
        field = pf.matching.field_of(network, number)
        fitted, classes = folder.fit_of_training(), network.classes

        def told(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
            return pf.matching.field_of(network, label)(t, x)

        conditional = told if classes else None
        return RunField(
            field, shape, torch.float32, standardisation, schedule, classes, conditional, fitted, rows.float(), labels
        )
    if label is not None:
        raise ValueError(f"{folder.path} holds a fitted flow, which takes no --label")
    fit, standardisation, shape, schedule = folder.read_fit()
    flow = pf.ProximalFlow(fit.potential.double(), schedule_named(schedule))
    rows = fit.potential.points.double().reshape(-1, *shape)
    return RunField(flow, shape, torch.float64, standardisation, schedule, 0, None, fit, rows, None)
