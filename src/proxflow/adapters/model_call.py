"""How a model of somebody else's is called: the order of its arguments, the shape of its time and of its points."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from proxflow.adapters.model_file import ScriptedNetwork
from proxflow.errors import in_a_line

__all__ = ["ORDERS", "ModelCall", "find_call"]

Model = Callable[..., Any]

ORDERS: dict[str, Callable[[Model, Tensor, Tensor], Any]] = {
    "t,x": lambda model, t, x: model(t, x),
    "x,t": lambda model, t, x: model(x, t),
    "column-t,x": lambda model, t, x: model(t[:, None], x),
    "x,column-t": lambda model, t, x: model(x, t[:, None]),
    "concatenated": lambda model, t, x: model(torch.cat([x, t[:, None]], 1)),
}
"""Ways to call a model by name; t is (B,), as a column (B, 1), and concatenated are x (B, d) and t, (B, d + 1)."""

_TRIED_ROWS = (3, 5, 7, 11)  # the first that is no length of an axis of the points, lest a swap pass unseen
_FIRST, _LAST = 0.25, 0.75  # times that are tried
_SAME = 1e-4  # of the outputs' size, within which two ways to call are one, as with a model that reshapes its time
_TIME = re.compile(r"(t|ts|tt|tau|time|times|timestep|timesteps|time_steps?|sigma|sigmas|noise_level)", re.IGNORECASE)
_TELLING = (
    "mat1 and mat2",
    "channels",
    "Guard",
    "size",
    "shape",
    "dimension",
)  # of errors about points, first the best


@dataclass(frozen=True)
class ModelCall:
    """A way to call a model.

    Attributes:
        order: one of ``ORDERS``.
        event_shape: of a point, as the model takes it.
    """

    order: str
    event_shape: tuple[int, ...]

    def __str__(self) -> str:
        points = (
            f"points {self.event_shape}" if len(self.event_shape) > 1 else f"points of {self.event_shape[0]} numbers"
        )
        return f"called as model({self.order}) on {points}"

    def __call__(self, model: Model, t: Tensor, x: Tensor) -> Tensor:
        """What a model gives at times (B,) and points (B, *event), of their shape.

        Raises:
            ValueError: it gives something else.
        """
        output = ORDERS[self.order](model, t, x.reshape(len(x), *self.event_shape))
        value = _tensor_of(output)
        if value is None or value.shape != (len(x), *self.event_shape):
            got = type(output).__name__ if value is None else tuple(value.shape)
            raise ValueError(f"the model gave {got} for points {(len(x), *self.event_shape)}")
        return value.reshape(x.shape)


def _tensor_of(output: Any) -> Tensor | None:
    """A tensor, the only entry of a tuple, or what diffusers calls ``sample``."""
    if isinstance(output, tuple | list) and len(output) == 1:
        output = output[0]
    output = getattr(output, "sample", output) if not isinstance(output, Tensor) else output
    return output if isinstance(output, Tensor) else None


@torch.no_grad()
def find_call(model: Model, points: Tensor, order: str | None = None) -> ModelCall:
    """The way in which a model answers, by trying all on a few points.

    Points of several axes are tried as they are, then with one more axis for a channel, then flat. Where one of the
    first two arguments is named as a time (t, time, timestep, sigma, ...), it is the time. Ways that give the same
    numbers are one.

    Args:
        model: any callable; what it returns is a tensor, a tuple of one, or has it as ``sample``.
        points: (N, *event) of the data, of the model's dtype.
        order: one of ``ORDERS``, if it is known.

    Raises:
        ValueError: an unknown order, no way in which it answers (the points are of another shape, or it takes more
            arguments), or several that differ.
    """
    if order is not None and order not in ORDERS:
        raise ValueError(f"detect_field: order must be one of {', '.join(ORDERS)}, got {order!r}")
    orders = _orders_by_name(model) if order is None else (order,)
    failures: list[str] = []
    for event in _shapes(tuple(points.shape[1:])):
        answers: dict[ModelCall, Tensor] = {}
        for name in orders:
            call = ModelCall(name, event)
            try:
                answers[call] = _tried(model, points, call)
            except Exception as error:  # whatever a model raises that is called in another way than it was meant
                failures.append(f"model({name}) on points {event} raised {in_a_line(error)}")
        if answers:
            return _only(answers)
    telling = next((line for word in _TELLING for line in failures if word in line), failures[0])
    raise ValueError(f"detect_field: the model does not take the data in any way that was tried: {telling}")


def _orders_by_name(model: Model) -> Sequence[str]:
    """The orders that the names of the model's arguments allow; all where they do not tell."""
    timely = [_TIME.fullmatch(name) is not None for name in _argument_names(model)[:2]]
    if sum(timely) != 1 or len(timely) != 2:
        return list(ORDERS)
    return ("t,x", "column-t,x") if timely[0] else ("x,t", "x,column-t")


def _argument_names(model: Model) -> list[str]:
    """Of a module's ``forward``, scripted or not, or of any callable; none where Python does not know them."""
    model = model.script if isinstance(model, ScriptedNetwork) else model
    if isinstance(model, torch.jit.ScriptModule):
        return [argument.name for argument in cast(Any, model.forward).schema.arguments[1:]]
    try:
        return list(inspect.signature(getattr(model, "forward", model)).parameters)
    except (TypeError, ValueError):
        return []


def _shapes(event: tuple[int, ...]) -> list[tuple[int, ...]]:
    flat = (int(torch.Size(event).numel()),)
    return list(dict.fromkeys([event, *([(1, *event)] if len(event) == 2 else []), flat]))


def _tried(model: Model, points: Tensor, call: ModelCall) -> Tensor:
    count = next(rows for rows in _TRIED_ROWS if rows not in points.shape[1:] or rows == _TRIED_ROWS[-1])
    x = points[torch.arange(count) % len(points)]
    return call(model, torch.linspace(_FIRST, _LAST, count).to(x), x)


def _only(answers: dict[ModelCall, Tensor]) -> ModelCall:
    """The first of several ways that all give the same.

    Raises:
        ValueError: they do not.
    """
    (first, value), *others = answers.items()
    differing = [call.order for call, other in others if not _alike(value, other)]
    if differing:
        raise ValueError(
            f"detect_field: the model answers as model({first.order}) and as model({'), model('.join(differing)}), "
            "which differ; state the order (--call)"
        )
    return first


def _alike(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) <= _SAME * float(a.abs().max())
