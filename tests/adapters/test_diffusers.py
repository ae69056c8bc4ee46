"""diffusers: models both ways, sampled by its scheduler and by proxflow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.adapters import Convention, check_convention
from proxflow.adapters.diffusers import FieldModel, SchedulerTimes, convention_of, to_field
from proxflow.results import Verdict
from tests.adapters.models import digit_field, digit_images

pytest.importorskip("diffusers")
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DModel,
)


def noise(count: int) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def scheduler_samples(model: Any, scheduler: FlowMatchEulerDiscreteScheduler, x: Tensor, **conditioning: Any) -> Tensor:
    """Their loop."""
    for timestep in scheduler.timesteps:
        output = model(x, timestep=timestep.expand(len(x)), return_dict=False, **conditioning)[0]
        x = scheduler.step(output, timestep, x, return_dict=False)[0]
    return x


def euler(field: Any, scheduler: FlowMatchEulerDiscreteScheduler, x: Tensor) -> Tensor:
    """Euler's method on the scheduler's grid, from noise to data."""
    return pf.sampling.integrate(field, x, times=1 - scheduler.sigmas).end


def unet(classes: int | None = None) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        num_class_embeds=classes,
    ).eval()


@pytest.mark.parametrize("shift", [1.0, 3.0])
@torch.no_grad()
def test_a_unet_is_sampled_to_the_same_images_by_both(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(6)
    model, labels = unet(classes=3), torch.tensor([0, 1, 2, 1])
    theirs = scheduler_samples(model, scheduler, noise(4), class_labels=labels)
    ours = euler(to_field(model, scheduler, class_labels=labels), scheduler, noise(4))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)  # float32, 1000 (1 - t) rounded to 6e-5 of a timestep


@torch.no_grad()
def test_a_transformer_is_sampled_to_the_same_images_by_both() -> None:
    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=1,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        out_channels=1,
        pos_embed_max_size=8,
    ).eval()
    prompt: dict[str, Any] = {"encoder_hidden_states": torch.randn(2, 5, 8), "pooled_projections": torch.randn(2, 8)}
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(4)
    theirs = scheduler_samples(model, scheduler, noise(2), **prompt)
    ours = euler(to_field(model, scheduler, **prompt), scheduler, noise(2))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_field_is_sampled_by_their_pipeline(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    pipeline = DDPMPipeline(unet=FieldModel(digit_field(), scheduler, (1, 8, 8)), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        batch_size=3, generator=torch.Generator().manual_seed(0), num_inference_steps=10, output_type="np"
    ).images
    scheduler.set_timesteps(10)
    ours = (euler(digit_field(), scheduler, noise(3)) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(torch.from_numpy(images).movedim(-1, 1), ours, rtol=0, atol=1e-5)


def test_there_and_back_is_the_field_itself() -> None:
    for options in ({}, {"invert_sigmas": True}, {"num_train_timesteps": 250}):
        scheduler = FlowMatchEulerDiscreteScheduler(**options)
        model = FieldModel(digit_field(), scheduler, (1, 8, 8))
        x = noise(4)
        for t in (0.0, 0.25, 0.5):  # exact in float32, so that 1 - (1 - t) is t
            torch.testing.assert_close(to_field(model, scheduler)(t, x), digit_field()(t, x), rtol=1e-5, atol=1e-5)
    labelled = FieldModel(lambda t, x, y: x * y[:, None, None, None], scheduler, (1, 8, 8), unit=1.0)
    assert torch.equal(labelled(x, 1.0, torch.full((4,), 2)).sample, -2 * x)
    with pytest.raises(ValueError, match=r"t must be one time or \(B,\), one for each of 4 points, got \(4, 1\)"):
        model(x, torch.full((4, 1), 500))


@pytest.mark.parametrize("invert", [False, True])
@torch.no_grad()
def test_inverted_sigmas_end_at_the_data_too(invert: bool) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=invert)
    scheduler.set_timesteps(50)
    ends = scheduler_samples(FieldModel(digit_field(), scheduler, (1, 8, 8)), scheduler, noise(20))
    nearest = torch.cdist(ends.flatten(1), digit_images().flatten(1)).min(1).values
    assert float(nearest.max()) < 0.1  # of standardised pixels: independent pairs of finite data end at the rows


def test_another_kind_of_scheduler_is_refused() -> None:
    with pytest.raises(ValueError, match="DDPMScheduler is no scheduler of flow matching"):
        convention_of(DDPMScheduler())
    with pytest.raises(ValueError, match="use_dynamic_shifting"):
        SchedulerTimes(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_times_are_those_of_shifted_sigmas(shift: float) -> None:
    """P(t > s) = P(sigma < 1 - s); sigma = shift u / (1 + (shift - 1) u) for uniform u, a rising function."""
    drawn = SchedulerTimes(FlowMatchEulerDiscreteScheduler(shift=shift)).sample(
        20000, generator=torch.Generator().manual_seed(0)
    )
    assert bool(((drawn >= 0) & (drawn < 1)).all())
    for s in (0.2, 0.5, 0.8):
        share = (1 - s) / (shift - (shift - 1) * (1 - s))
        assert abs(float((drawn > s).double().mean()) - share) < 0.015  # four standard errors, and 1/1000 of the grid


def test_models_in_a_wrong_convention_are_named() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    right = FieldModel(digit_field(), scheduler, (1, 8, 8))

    def negated(x: Tensor, timestep: Tensor, return_dict: bool) -> tuple[Tensor]:
        return (-right(x, timestep).sample,)

    def rising(x: Tensor, timestep: Tensor, return_dict: bool) -> tuple[Tensor]:
        return (right(x, 1000 - timestep).sample,)

    def verdict(model: Any) -> tuple[Verdict, Convention]:
        found = check_convention(to_field(model, scheduler), digit_images(), count=256)
        return found.verdict, found.best

    assert verdict(right) == (Verdict.verified, Convention())
    assert verdict(negated) == (Verdict.failed, Convention("negative velocity"))
    assert verdict(rising) == (Verdict.failed, Convention(time="reversed"))
