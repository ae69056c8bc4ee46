"""Any model as a field, with its data to tell how it is to be read where that is not stated.

Two questions: how the model is called, which trying tells (``model_call``), and what it predicts, which its regression
error on fresh pairs tells (``convention_check``). That error needs pairs like those of the training, which a file does
not keep: noise and data are paired at random, and, where nothing can be told from these, by assignment of batches, as
models of optimal pairs were. A reading that these pairs do not tell is refused, unless it is stated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from proxflow.adapters.convention import Convention, Field, to_field
from proxflow.adapters.convention_check import ConventionCheck, check_convention
from proxflow.adapters.model_call import ModelCall, find_call
from proxflow.checks import Numbers, as_tensor, flat_points
from proxflow.couplings import Coupling, Independent, Minibatch
from proxflow.measures import Source
from proxflow.results import Verdict, brief_repr
from proxflow.schedules import Schedule

__all__ = ["DetectedField", "detect_field"]

_UNITS = (1.0, 1000.0)  # of time that are tried: t itself, and the timesteps of diffusers
_BATCH = 256  # pairs assigned together


@brief_repr
@dataclass(frozen=True)
class DetectedField:
    """A model as a field, and how it was read.

    Attributes:
        field: field(t, x) -> velocity, x like the data, t one number or (B,).
        dtype: of its points.
        call: how the model is called.
        convention: what it predicts.
        check: by which the convention was found, or what it says of one that was stated.
    """

    field: Field
    dtype: torch.dtype
    call: ModelCall
    convention: Convention
    check: ConventionCheck

    def __str__(self) -> str:
        how = "as the data confirm" if self.check.verdict is not Verdict.assumed else "as stated: the data cannot tell"
        return f"{self.call}; it predicts {self.convention}, {how}"


def detect_field(
    model: Callable[..., Any],
    data: Numbers,
    *,
    convention: Convention | None = None,
    order: str | None = None,
    source: Source | None = None,
    schedule: Schedule | None = None,
    seed: int = 0,
) -> DetectedField:
    """A model's velocity field; how it is called and what it predicts are found out, or checked where they are stated.

    Args:
        model: any callable, such as ``read_model`` gives; of a module the dtype is that of its numbers.
        data: (N, *event) rows that the model should generate, in the coordinates that it was trained in.
        convention: what it predicts; found by ``check_convention`` if None.
        order: of its arguments, one of ``adapters.ORDERS``; found by trying if None.
        source: law of the noise; standard normal if None.
        schedule: alpha and beta of the path that it was trained on; Linear if None.
        seed: of the pairs.

    Raises:
        ValueError: points of another shape than the model takes; a convention that is not true, which the message
            names; or one that is not stated and that the data do not tell.
    """
    rows = as_tensor("detect_field", "data", data)
    flat_points("detect_field", rows, "data")
    rows = rows.to(_dtype_of(model, rows))
    call = find_call(model, rows, order)

    def called(t: Tensor, x: Tensor) -> Tensor:
        return call(model, t, x)

    for coupling in _couplings(rows, source):
        check = check_convention(called, coupling, stated=convention or Convention(), units=_UNITS, schedule=schedule,
                                 seed=seed)  # fmt: skip
        if check.verdict is not Verdict.assumed:
            break
    _require_told(check, convention)
    found = check.best if convention is None else convention
    return DetectedField(to_field(called, found, schedule=schedule), rows.dtype, call, found, check)


def _require_told(check: ConventionCheck, stated: Convention | None) -> None:
    """Refuse a convention that is not true, and one that nobody told."""
    if stated is None and check.verdict is Verdict.assumed:
        raise ValueError(
            f"detect_field: the data cannot tell what the model predicts (read as {check.best}, it explains "
            f"{max(check.explained, 0.0):.0%} of the variance, {check.margin:.1f} standard errors from {check.rival}); "
            "see that they are in the units that it was trained in, or state its convention (--convention)"
        )
    if stated is not None and check.verdict is Verdict.failed:
        raise ValueError(
            f"detect_field: the model does not predict {stated}, but {check.best}: read so it explains "
            f"{check.explained:.0%} of the variance; give convention {check.best.name!r}"
        )


def _dtype_of(model: Callable[..., Any], rows: Tensor) -> torch.dtype:
    numbers = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    return next((entry.dtype for entry in numbers if entry.is_floating_point()), rows.dtype)


def _couplings(rows: Tensor, source: Source | None) -> Iterator[Coupling]:
    yield Independent(rows, source=source)
    yield Minibatch(rows, min(_BATCH, len(rows)), source=source)
