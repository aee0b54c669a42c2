"""Held-out loss against closed forms: data whose best denoiser is known, and predictors that know nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import data
from bench.data import Dataset
from bench.diffusion import objective
from bench.diffusion.flow import Flow
from bench.metrics.held_out import bands, held_out_loss
from bench.records.quantities import BANDS
from bench.records.schema import HeldOutSettings
from registry.errors import UsageError

SETTINGS = HeldOutSettings(images=512)


class Gaussian(Dataset):
    """Grids of independent normal numbers with deviation 0.5."""

    name, shape, digest = "gaussian", (4, 8, 8), "0"
    deviation = 0.5

    def __len__(self) -> int:
        return 512

    def grids(self, indices: np.ndarray, flip: Any = None, noise: Any = None) -> Tensor:
        rows = [torch.randn(self.shape, generator=torch.Generator().manual_seed(int(i))) for i in indices]
        return self.deviation * torch.stack(rows)

    def labels(self, indices: np.ndarray) -> Tensor:
        return torch.zeros(len(indices), dtype=torch.int64)

    def to_images(self, grids: Tensor) -> np.ndarray:
        raise NotImplementedError


def _ddpm_scale(t: Tensor) -> tuple[Tensor, Tensor]:
    alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t]
    return alphas_cumprod.sqrt().float().view(-1, 1, 1, 1), (1 - alphas_cumprod).sqrt().float().view(
        -1, 1, 1, 1
    )


def best_noise(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Of `Gaussian` data: E[noise | x_t] = σ·x_t / (α²s² + σ²)."""
    alpha, sigma = _ddpm_scale(t)
    return sigma * x_t / (alpha**2 * Gaussian.deviation**2 + sigma**2)


def best_velocity(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The same data under x_t = t·x0 + (1 − t)·noise: E[x0 − noise | x_t]."""
    t = t.view(-1, 1, 1, 1)
    variance = t**2 * Gaussian.deviation**2 + (1 - t) ** 2
    return (t * Gaussian.deviation**2 - (1 - t)) * x_t / variance


@pytest.mark.parametrize(("name", "network"), [("ddpm", best_noise), ("flow", best_velocity)])
def test_the_best_denoiser_of_gaussian_data_has_its_known_loss_in_every_band(name: str, network: Any) -> None:
    found = held_out_loss(network, objective(name), Gaussian(), SETTINGS)
    for band, levels in zip(found.bands, bands(objective("ddpm")), strict=True):
        scaled = levels.snr.double() * Gaussian.deviation**2
        assert band.loss == pytest.approx(float((scaled / (scaled + 1)).mean()), rel=0.02)


@pytest.mark.parametrize(
    "options",
    [
        {"beta_schedule": "scaled_linear"},
        {"beta_schedule": "cosine"},
        {"prediction_type": "v_prediction", "zero_terminal_snr": True},
    ],
)
def test_levels_that_a_schedule_lacks_are_left_out_and_told(options: dict[str, Any]) -> None:
    """Under a schedule that ends sooner the last of its levels does not stand for those beyond."""
    ddpm, linear = objective("ddpm", **options), np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    alphas_cumprod = torch.from_numpy(np.cumprod(1 - ddpm.betas))  # type: ignore[attr-defined]
    ours, levels = (alphas_cumprod / (1 - alphas_cumprod)).numpy(), linear / (1 - linear)
    variance, images = 0.49, Gaussian()
    images.deviation = math.sqrt(variance)

    def best(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        a = alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = (1 - a).sqrt() * x_t / (a * variance + 1 - a)
        x0 = a.sqrt() * variance * x_t / (a * variance + 1 - a)
        return (a.sqrt() * noise - (1 - a).sqrt() * x0 if "prediction_type" in options else noise).float()

    found = held_out_loss(best, ddpm, images, SETTINGS)
    reached = levels[(levels >= ours.min()) & (levels <= ours.max())]
    for band, (low, high) in zip(found.bands, BANDS, strict=True):
        bounds = -math.inf if low is None else low, math.inf if high is None else high
        within = (np.log(levels) >= bounds[0]) & (np.log(levels) < bounds[1])
        scored = levels[within & np.isin(levels, reached)]
        assert band.loss == pytest.approx((scored * variance / (scored * variance + 1)).mean(), rel=0.02)
        assert band.share == len(scored) / len(reached)
        ends = levels[within].min() < ours.min(), levels[within].max() > ours.max()
        assert band.log_snr == (
            pytest.approx(math.log(ours.min())) if ends[0] else low,
            pytest.approx(math.log(ours.max())) if ends[1] else high,
        )
    whole = (reached * variance / (reached * variance + 1)).mean()
    assert found.loss == pytest.approx(whole, rel=0.02)
    assert (len(reached) == 722) == (options == {"beta_schedule": "scaled_linear"})


@pytest.mark.parametrize("name", ["ddpm", "flow"])
def test_with_the_linear_schedule_and_a_flow_every_level_is_scored(name: str) -> None:
    for band, bounds in zip(bands(objective(name)), BANDS, strict=True):
        assert band.log_snr == bounds and band.share == len(band.snr) / 1000


def test_a_schedule_without_a_band_and_a_network_that_is_not_finite_are_refused() -> None:
    class Short(Flow):
        name = "short"

        def snr_range(self) -> tuple[float, float]:
            return 1.0, math.inf

    with pytest.raises(UsageError, match="objective short has no noise level with ln SNR −2…0"):
        bands(Short())

    class Broken(torch.nn.Module):
        name = "broken"

        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return torch.where(t.view(-1, 1, 1, 1) > 900, torch.nan, x)

    with pytest.raises(UsageError, match="held-out loss of broken at step 7 is not finite"):
        held_out_loss(Broken(), objective("ddpm"), Gaussian(), SETTINGS, step=7)


def test_noise_and_velocity_prediction_are_told_in_one_unit() -> None:
    noise = held_out_loss(best_noise, objective("ddpm"), Gaussian(), SETTINGS)
    velocity = held_out_loss(best_velocity, objective("flow"), Gaussian(), SETTINGS)
    # The same denoiser at the same SNR, images and noise: the same number.
    for one, other in zip(noise.bands, velocity.bands, strict=True):
        assert one.groups == pytest.approx(other.groups, rel=2e-4)


def test_who_predicts_nothing_errs_by_the_noise_itself() -> None:
    found = held_out_loss(lambda x, t, y: 0 * x, objective("ddpm"), Gaussian(), SETTINGS)
    assert [band.loss for band in found.bands] == pytest.approx([1] * 6, rel=0.02)
    assert found.loss == pytest.approx(1, rel=0.01)


def test_the_variance_half_of_an_output_is_not_read() -> None:
    def with_variance(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return torch.cat([best_noise(x, t, y), torch.full_like(x, 1e3)], 1)

    plain = held_out_loss(best_noise, objective("ddpm"), Gaussian(), SETTINGS)
    found = held_out_loss(with_variance, objective("ddpm"), Gaussian(), SETTINGS)
    assert [band.groups for band in found.bands] == [band.groups for band in plain.bands]


def test_bands_cover_all_training_steps_once() -> None:
    snr = torch.cat([band.snr for band in bands(objective("ddpm"))])
    assert len(snr) == 1000 and (snr.diff() < 0).all()
    assert sum(band.share for band in bands(objective("ddpm"))) == pytest.approx(1)


def test_levels_fill_a_band_evenly_in_every_group_of_images() -> None:
    band = bands(objective("ddpm"))[4]
    order = torch.searchsorted(-band.snr, -band.levels(torch.arange(64)))
    # 64 levels leave no gap of more than a few times the even spacing.
    assert order.sort().values.diff().max() < 3 * len(band.snr) / 64 + 1


def test_groups_are_means_of_the_images_in_their_order() -> None:
    found = held_out_loss(best_noise, objective("ddpm"), Gaussian(), SETTINGS)
    first = held_out_loss(best_noise, objective("ddpm"), Gaussian(), HeldOutSettings(images=64))
    for whole, part in zip(found.bands, first.bands, strict=True):
        assert np.mean(whole.groups) == pytest.approx(whole.loss, rel=1e-6)
        assert whole.groups[0] == pytest.approx(np.mean(part.groups[:8]), rel=1e-5)


def test_a_dataset_with_too_few_images_is_refused() -> None:
    with pytest.raises(UsageError, match=r"gaussian holds out 512 images, fewer than the 576"):
        held_out_loss(best_noise, objective("ddpm"), Gaussian(), HeldOutSettings(images=576))


def test_digits_hold_out_a_fifth_that_training_does_not_see() -> None:
    train, test = data.load("digits", split="train"), data.held_out("digits", split="train")
    assert (len(train), len(test)) == (1437, 360)
    seen = {grid.numpy().tobytes() for grid in train.grids(np.arange(len(train)))}
    # The file itself holds a few equal digits; that the parts were swapped or the same, they do not hide.
    assert sum(grid.numpy().tobytes() in seen for grid in test.grids(np.arange(len(test)))) < 5


def test_what_holds_nothing_out_says_so() -> None:
    with pytest.raises(UsageError, match="holds nothing out with split = all: train with split = train"):
        data.held_out("digits")
    with pytest.raises(UsageError, match="latents has no held-out images: it takes no option split"):
        data.held_out("latents", root="anywhere")
