"""diffusers: models trained for ``FlowMatchEulerDiscreteScheduler``, both ways, and the times that it trains at.

Its sigma runs from 1 at the noise to 0 at the data, x = sigma noise + (1 - sigma) data, so that sigma = 1 - t. A model
is called with the timestep sigma times ``num_train_timesteps`` (1000) and predicts noise - data. ``shift`` moves the
grid of sigmas, in training and in sampling, and not the field: a model is told sigma after the shift. ``invert_sigmas``
is for models whose timestep rises with t and which predict data - noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from proxflow.adapters.convention import Convention, Field
from proxflow.adapters.convention import to_field as field_of_convention
from proxflow.checks import real_number
from proxflow.errors import optional_package
from proxflow.matching.path import for_each

__all__ = ["FieldModel", "SchedulerTimes", "convention_of", "to_field"]


def convention_of(scheduler: Any, *, unit: float | None = None) -> Convention:
    """The convention of models that are sampled by a scheduler.

    Args:
        scheduler: a ``FlowMatchEulerDiscreteScheduler``, or its ``FlowMatchHeunDiscreteScheduler``.
        unit: what the model is called with at sigma = 1, where that is not ``num_train_timesteps``: 1 for Flux.

    Raises:
        ValueError: another scheduler: those of diffusion predict noise along other paths.
        MissingExtraError: diffusers is not installed.
    """
    library = optional_package("diffusers", "images")
    if not isinstance(scheduler, library.FlowMatchEulerDiscreteScheduler | library.FlowMatchHeunDiscreteScheduler):
        raise ValueError(
            f"adapters.diffusers: {type(scheduler).__name__} is no scheduler of flow matching; state what its model "
            "predicts by adapters.to_field(model, adapters.Convention(...), schedule=...)"
        )
    steps = float(scheduler.config.num_train_timesteps) if unit is None else real_number(unit)
    if scheduler.config.get("invert_sigmas", False):
        return Convention("velocity", "forward", steps)
    return Convention("negative velocity", "reversed", steps)


def to_field(model: Callable[..., Any], scheduler: Any, *, unit: float | None = None, **conditioning: Any) -> Field:
    """The velocity field of a diffusers model: -model(x, timestep=1000 (1 - t)).

    Args:
        model: a U-Net or transformer; called with x, ``timestep=`` (B,) and ``return_dict=False``.
        scheduler: that it was trained for.
        unit: see ``convention_of``.
        conditioning: passed on with every call: ``class_labels=``, ``encoder_hidden_states=`` and the like.

    Returns:
        field(t, x) -> velocity (B, *event), t one number or (B,).

    Raises:
        ValueError: a scheduler of another kind.
        MissingExtraError: diffusers is not installed.
    """

    def called(timestep: Tensor, x: Tensor) -> Tensor:
        output: Tensor = model(x, timestep=timestep, return_dict=False, **conditioning)[0]
        return output

    return field_of_convention(called, convention_of(scheduler, unit=unit))


class FieldModel(nn.Module):
    """A field as a diffusers model: ``model(sample, timestep).sample`` is its prediction, noise - data.

    It stands where pipelines have a ``UNet2DModel``: ``DDPMPipeline(unet=FieldModel(field, scheduler, (1, 8, 8)),
    scheduler=scheduler)`` samples it.

    Args:
        field: (t, x) -> velocity, or (t, x, label) where class labels are given.
        scheduler: by which it will be sampled.
        event_shape: (C, H, W) of one image.
        unit: see ``convention_of``.

    Raises:
        ValueError: a scheduler of another kind.
        MissingExtraError: diffusers is not installed.
    """

    def __init__(
        self,
        field: Callable[..., Tensor],
        scheduler: Any,
        event_shape: tuple[int, int, int],
        *,
        unit: float | None = None,
    ) -> None:
        super().__init__()
        self.field = field
        self.convention = convention_of(scheduler, unit=unit)
        planes, height, width = event_shape
        self.config = SimpleNamespace(in_channels=planes, out_channels=planes, sample_size=(height, width))

    @property
    def dtype(self) -> torch.dtype:
        """Of the field's numbers, where it has any; else PyTorch's default."""
        return next((one.dtype for one in self._numbers() if one.is_floating_point()), torch.get_default_dtype())

    @property
    def device(self) -> torch.device:
        """Of the field's numbers, where it has any; else the CPU."""
        return next((one.device for one in self._numbers()), torch.device("cpu"))

    def _numbers(self) -> Iterator[Tensor]:
        return itertools.chain(self.parameters(), self.buffers())

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Prediction (B, C, H, W), as ``.sample`` or the only entry of a tuple."""
        share = torch.as_tensor(timestep, dtype=torch.float64, device=sample.device) / self.convention.unit
        reversed_time = self.convention.time == "reversed"
        t = for_each(1 - share if reversed_time else share, sample)
        velocity = self.field(t, sample) if class_labels is None else self.field(t, sample, class_labels)
        output = -velocity if reversed_time else velocity
        if not return_dict:
            return (output,)
        return optional_package("diffusers.models.unets.unet_2d", "images").UNet2DOutput(sample=output)


class SchedulerTimes:
    """The law of t in training scripts that draw one of the scheduler's sigmas: ``matching.train(times=...)``.

    Args:
        scheduler: a ``FlowMatchEulerDiscreteScheduler`` before ``set_timesteps``, with its shift.

    Raises:
        ValueError: a scheduler of another kind, or one whose sigmas wait for the size of an image.
        MissingExtraError: diffusers is not installed.
    """

    def __init__(self, scheduler: Any) -> None:
        convention = convention_of(scheduler)
        if scheduler.config.get("use_dynamic_shifting", False):
            raise ValueError(
                "SchedulerTimes: with use_dynamic_shifting the sigmas depend on the size of the image; give a "
                "scheduler with a fixed shift"
            )
        sigmas = torch.as_tensor(scheduler.sigmas, dtype=torch.float32)
        self.times = (sigmas if convention.time == "forward" else 1 - sigmas).clamp(0, 1 - 2**-24)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n independent times, (n,) float32."""
        return self.times[torch.randint(len(self.times), (n,), generator=generator)]
