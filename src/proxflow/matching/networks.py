"""Velocity networks: perceptrons for vectors, a U-Net for images; all with labels that may be left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from proxflow.errors import optional_package
from proxflow.matching.path import for_each
from proxflow.storage import storable

__all__ = ["MLP", "ResidualMLP", "UNet"]

_TURNS = 16  # of the fastest sine of ResidualMLP's time embedding


class _Perceptron(nn.Module):
    """The sizes of a perceptron on the flat point, checked, and how it is stored."""

    def __init__(self, event_shape: Sequence[int], width: int, depth: int, classes: int, frequencies: int) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        if min(math.prod(self.event_shape), width, depth, frequencies) < 1 or classes < 0:
            raise ValueError(
                f"{type(self).__name__}: sizes must be at least 1 and classes at least 0, got event_shape "
                f"{self.event_shape}, width {width}, depth {depth}, frequencies {frequencies}, classes {classes}"
            )
        self.width, self.depth, self.classes, self.frequencies = width, depth, classes, frequencies

    def constructor_arguments(self) -> dict[str, object]:
        """Sizes and state."""
        return {
            "event_shape": self.event_shape,
            "width": self.width,
            "depth": self.depth,
            "classes": self.classes,
            "frequencies": self.frequencies,
            "state": dict(self.state_dict()),
        }


@storable
class ResidualMLP(_Perceptron):
    """A residual perceptron whose blocks are modulated by the time and, if wanted, the class (adaLN-Zero).

    h = input(x), then h + gate * (linear, SiLU, linear)(norm(h) * (1 + scale) + shift) in each block, where scale,
    shift and gate are linear in an embedding of time and class, and gates begin at 0, as in the diffusion transformers
    of Peebles & Xie (2023). The output begins at 0 too. Where the width is below 2 d, x also goes around the blocks,
    each coordinate times a learned function of time: they could not carry the noise of every coordinate besides what
    they learn.

    Called as ``MLP`` is. State: ``input``, ``blocks.*``, ``norm``, ``output``, ``time``, ``embedding``, ``bypass``.

    Args:
        event_shape: shape of one point.
        width: width of the hidden layers.
        depth: number of blocks.
        classes: number of classes; 0 for a network without labels.
        frequencies: frequencies of the time embedding, in equal ratios from a half turn to 16 turns.
        state: parameters, as of ``state_dict``; random if None.

    Raises:
        ValueError: a size is below 1, or classes below 0.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        width: int = 512,
        depth: int = 3,
        classes: int = 0,
        frequencies: int = 16,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(event_shape, width, depth, classes, frequencies)
        dim = math.prod(self.event_shape)
        self.input = nn.Linear(dim, width)
        condition = max(1, width // 4)  # then modulations cost less than the layers of a block
        self.time = nn.Sequential(nn.Linear(2 * frequencies, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.embedding = nn.Embedding(classes + 1, condition) if classes else None
        self.blocks = nn.ModuleList(_Block(width, condition) for _ in range(depth))
        self.norm = _ModulatedNorm(width, condition)
        self.output = _zero(nn.Linear(width, dim))
        self.bypass = _zero(nn.Linear(condition, dim)) if width < 2 * dim else None
        if state is not None:
            _restore(self, state)

    def forward(self, t: Tensor | float, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Velocity (B, *event)."""
        ratios = torch.linspace(0, math.log2(2 * _TURNS), self.frequencies, dtype=x.dtype, device=x.device).exp2()
        condition = self.time(_fourier(for_each(t, x), ratios))
        if self.embedding is not None:
            condition = condition + self.embedding(_class_numbers(label, self.classes, x))
        condition = nn.functional.silu(condition)
        flat = x.flatten(1)
        value = self.input(flat)
        for block in self.blocks:
            value = block(value, condition)
        velocity: Tensor = self.output(self.norm(value, condition))
        if self.bypass is not None:
            velocity = velocity + self.bypass(condition) * flat
        return velocity.reshape(x.shape)


class _ModulatedNorm(nn.Module):
    """Layer norm without parameters of its own, times 1 + scale, plus shift: both linear in a condition."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.modulation = _zero(nn.Linear(condition, 2 * width))

    def forward(self, value: Tensor, condition: Tensor) -> Tensor:
        """(B, width), of values (B, width) and conditions (B, C)."""
        shift, scale = self.modulation(condition).chunk(2, dim=1)
        return torch.addcmul(shift, nn.functional.layer_norm(value, value.shape[1:], eps=1e-6), 1 + scale)


class _Block(nn.Module):
    """One residual block."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.norm = _ModulatedNorm(width, condition)
        self.gate = _zero(nn.Linear(condition, width))
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, value: Tensor, condition: Tensor) -> Tensor:
        """(B, width), of values (B, width) and conditions (B, C)."""
        hidden = nn.functional.silu(self.first(self.norm(value, condition)))
        return torch.addcmul(value, self.gate(condition), self.second(hidden))


@storable
class MLP(_Perceptron):
    """A perceptron on the flat point, a Fourier embedding of the time and, if wanted, a learned embedding of the class.

    Layers with width < 2 d cannot carry the noise of every coordinate besides what they learn; x then also goes around
    them, each coordinate times a learned function of time.

    network(t, x, label=None): t a float or (B,), x (B, *event), label (B,) whole numbers from -1 to classes - 1, where
    -1 and None mean "no class" (the field of classifier-free guidance). State: ``input``, ``hidden``, ``output``,
    ``embedding``, ``bypass``.

    Args:
        event_shape: shape of one point.
        width: width of the hidden layers.
        depth: number of hidden layers.
        classes: number of classes; 0 for a network without labels.
        frequencies: frequencies of the time embedding: 2^0 to 2^(frequencies - 1) half turns.
        state: parameters, as of ``state_dict``; random if None.

    Raises:
        ValueError: a size is below 1, or classes below 0.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        width: int = 512,
        depth: int = 3,
        classes: int = 0,
        frequencies: int = 6,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(event_shape, width, depth, classes, frequencies)
        dim = math.prod(self.event_shape)
        self.input = nn.Linear(dim + 2 * frequencies, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.output = nn.Linear(width, dim)
        self.embedding = nn.Embedding(classes + 1, width) if classes else None
        self.bypass = _zero(nn.Linear(2 * frequencies, dim)) if width < 2 * dim else None
        if state is not None:
            _restore(self, state)

    def forward(self, t: Tensor | float, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Velocity (B, *event)."""
        powers = torch.arange(self.frequencies, dtype=x.dtype, device=x.device).exp2()
        time = _fourier(for_each(t, x), powers)
        value = self.input(torch.cat([x.flatten(1), time], dim=1))
        if self.embedding is not None:
            value = value + self.embedding(_class_numbers(label, self.classes, x))
        value = nn.functional.silu(value)
        for layer in self.hidden:
            value = nn.functional.silu(layer(value))
        velocity: Tensor = self.output(value)
        if self.bypass is not None:
            velocity = velocity + self.bypass(time) * x.flatten(1)
        return velocity.reshape(x.shape)


@storable
class UNet(nn.Module):
    """diffusers' UNet2DModel as a velocity network for images; called as ``MLP`` is.

    Images are padded to a size that the levels halve evenly. State: ``model.*``, as diffusers names it.

    Args:
        event_shape: (H, W) or (C, H, W).
        channels: channels of each level, at least 8; multiples of 32 make the best use of group normalisation.
        classes: number of classes; 0 for a network without labels.
        state: parameters, as of ``state_dict``; random if None.

    Raises:
        ValueError: the event shape is not that of an image, or a number is out of range.
        MissingExtraError: diffusers is not installed.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        channels: Sequence[int] = (64, 128, 128),
        classes: int = 0,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.event_shape, self.channels, self.classes = tuple(event_shape), tuple(channels), classes
        if len(self.event_shape) not in (2, 3):
            raise ValueError(
                f"UNet: event_shape must be (H, W) or (C, H, W), got {self.event_shape}; use MLP for vectors"
            )
        if not self.channels or min(self.channels) < 8 or classes < 0:
            raise ValueError(
                f"UNet: channels must be at least 8 and classes at least 0, got {self.channels}, {classes}"
            )
        planes = self.event_shape[0] if len(self.event_shape) == 3 else 1
        levels = len(self.channels)
        _check_image(self.event_shape, levels)
        self.model = optional_package("diffusers.models.unets.unet_2d", "images").UNet2DModel(
            in_channels=planes,
            out_channels=planes,
            layers_per_block=2,
            block_out_channels=self.channels,
            down_block_types=("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
            norm_num_groups=math.gcd(32, *self.channels),
            num_class_embeds=classes + 1 if classes else None,
        )
        height, width = self.event_shape[-2:]
        multiple = 2 ** (levels - 1)
        self._padding = (0, -width % multiple, 0, -height % multiple)
        if state is not None:
            _restore(self, state)

    def constructor_arguments(self) -> dict[str, object]:
        """Sizes and state."""
        return {
            "event_shape": self.event_shape,
            "channels": self.channels,
            "classes": self.classes,
            "state": dict(self.state_dict()),
        }

    def forward(self, t: Tensor | float, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Velocity (B, *event)."""
        times = 1000 * for_each(t, x)  # diffusers' unit of time
        images = x if x.ndim == 4 else x[:, None]
        padded = nn.functional.pad(images, self._padding)
        numbers = _class_numbers(label, self.classes, x) if self.classes else None
        velocity: Tensor = self.model(padded, times, class_labels=numbers, return_dict=False)[0]
        height, width = self.event_shape[-2:]
        return velocity[..., :height, :width].reshape(x.shape)


def _fourier(times: Tensor, half_turns: Tensor) -> Tensor:
    """Sines and cosines (B, 2 K) of times (B,), which make these half turns (K,) while t goes from 0 to 1."""
    angle = math.pi * times[:, None] * half_turns
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _zero(layer: nn.Linear) -> nn.Linear:
    """A layer that begins as zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _check_image(event_shape: tuple[int, ...], levels: int) -> None:
    """Refuse channels that come last, and images that have no pixel left at the lowest level."""
    first, last = event_shape[0], event_shape[-1]
    if len(event_shape) == 3 and last in (1, 3, 4) and first > 4:
        raise ValueError(
            f"UNet: event_shape {event_shape} looks like (H, W, C); channels come first: points.movedim(-1, 1)"
        )
    if min(event_shape[-2:]) < 2 ** (levels - 1):
        raise ValueError(
            f"UNet: {levels} levels halve an image {levels - 1} times, too often for {event_shape}; give fewer of them"
        )


def _restore(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state in its own dtype."""
    network.load_state_dict({name: entry.clone() for name, entry in state.items()}, assign=True)


def _class_numbers(label: Tensor | None, classes: int, x: Tensor) -> Tensor:
    """(B,) entries of an embedding table, whose first is "no class".

    Raises:
        ValueError: labels that are no whole numbers, or not one for all points or for each.
    """
    if label is None:
        return torch.zeros(len(x), dtype=torch.int64, device=x.device)
    if label.is_floating_point() or label.ndim > 1 or label.numel() not in (1, len(x)):
        raise ValueError(
            f"label must be whole numbers from -1 to {classes - 1}, one for each of {len(x)} points, got "
            f"{tuple(label.shape)} of {label.dtype}"
        )
    return label.to(x.device, torch.int64).expand(len(x)) + 1
