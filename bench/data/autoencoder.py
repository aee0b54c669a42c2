"""The autoencoder between images and latents: diffusers' AutoencoderKL, by default that of the papers.

`edm2` is that of EDM2: sd-vae-ft-mse, with latents normalised to mean 0 and standard deviation 0.5 in each
channel. `edm2:DIR` takes the weights from a folder.
"""

from __future__ import annotations

import functools
import logging
import math
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bench.data import grid
from bench.utils.precision import tf32
from registry.errors import UsageError, reason

VAE = "stabilityai/sd-vae-ft-ema"
SCALE = 0.18215  # of the papers' latents
Precision = Literal["fp32", "bf16"]
# Images decoded together: the widest layers take 256 MiB in float32 for each of 512×512.
AT_ONCE: dict[Precision, int] = {"fp32": 16, "bf16": 64}
EDM2_MEAN, EDM2_STD = (5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28)  # of its z


class Autoencoder:
    """A frozen AutoencoderKL.

    Args:
        network: the AutoencoderKL.
        precision: of weights and arithmetic; in bf16 also in channels-last memory, as tensor cores like it.

    Attributes:
        scale, shift: latents as networks see them are (z − shift) · scale.
        channels, reduction: an image (H, W, 3) becomes (channels, H / reduction, W / reduction).

    Raises:
        UsageError: a scale that is not positive, or a scale or shift that is not finite.
    """

    def __init__(self, network: Any, precision: Precision = "fp32") -> None:
        self.dtype, self.at_once = torch.float32, AT_ONCE[precision]
        self.network = network.float().eval().requires_grad_(False)
        if precision == "bf16":
            self.dtype = torch.bfloat16
            self.network.to(self.dtype, memory_format=torch.channels_last)
        config = network.config
        self.scale: float = config.scaling_factor
        self.shift: float = config.shift_factor or 0.0
        self.channels: int = config.latent_channels
        self.reduction: int = 2 ** (len(config.block_out_channels) - 1)
        if not (0 < self.scale < math.inf and math.isfinite(self.shift)):
            raise UsageError(
                f"the VAE's config.json has scaling_factor {self.scale} and shift_factor {self.shift}: both "
                "must be finite, and the first above 0"
            )

    @torch.no_grad()
    def posterior(self, images: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z: (N, H, W, 3) uint8 -> twice (N, C, h, w) float32, not scaled.

        In float32 without TF32.
        """
        with tf32(False, device):
            x = self._pixels(images).to(device, self.dtype)
            moments = self.network.to(device).encode(x).latent_dist
            return moments.mean.float(), moments.std.float()

    @torch.no_grad()
    def decode(self, latents: Tensor, scale: float | None = None) -> np.ndarray:
        """Images of latents, on their device: (N, C, h, w) -> (N, H, W, 3) uint8.

        In float32 with TF32 or without, as it is switched on around this: sampling has a setting for both.

        Args:
            latents: scaled, as networks see them.
            scale: what they were scaled by, if not by this autoencoder's own.

        Raises:
            UsageError: another number of channels, or the VAE makes numbers that are not finite.
        """
        if latents.shape[1] != self.channels:
            raise UsageError(f"this VAE decodes latents of {self.channels} channels, not {latents.shape[1]}")
        network = self.network.to(latents.device)
        z = self._to_z(latents.float() / (scale or self.scale) + self.shift)
        images = []
        for part in z.to(self.dtype).split(self.at_once):
            decoded = network.decode(part).sample
            if not decoded.isfinite().all():
                raise UsageError("the VAE decodes these latents to numbers that are not finite")
            images.append(self._to_images(decoded))
        return np.concatenate(images)

    def _pixels(self, images: np.ndarray) -> Tensor:
        return grid.to_grids(images)

    def _to_z(self, latents: Tensor) -> Tensor:
        return latents

    def _to_images(self, decoded: Tensor) -> np.ndarray:
        return grid.to_images(decoded)


class EDM2Autoencoder(Autoencoder):
    """That of EDM2 (arXiv 2312.02696, and its released program), which encodes images in [0, 1]."""

    def __init__(self, network: Any, precision: Precision = "fp32") -> None:
        super().__init__(network, precision)
        self.scale, self.shift = 1.0, 0.0
        if self.channels != len(EDM2_MEAN):
            raise UsageError(f"EDM2's latents have {len(EDM2_MEAN)} channels, not {self.channels}")
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (EDM2_MEAN, EDM2_STD))
        self._mean, self._deviation = mean, 2 * std  # latents have a deviation of a half

    def posterior(self, images: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, as of `Autoencoder`."""
        mean, std = super().posterior(images, device)
        deviation = self._deviation.to(device)
        return (mean - self._mean.to(device)) / deviation, std / deviation

    def _pixels(self, images: np.ndarray) -> Tensor:
        return (grid.to_grids(images) + 1) / 2

    def _to_z(self, latents: Tensor) -> Tensor:
        return latents * self._deviation.to(latents.device) + self._mean.to(latents.device)

    def _to_images(self, decoded: Tensor) -> np.ndarray:
        images = (decoded.clamp(0, 1) * 255).to(torch.uint8)  # cut, not rounded
        return images.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def absolute(vae: str) -> str:
    """An autoencoder as `load` takes it, for use from any folder."""
    form, place = _split(vae)
    place = str(Path(place).resolve()) if place and Path(place).is_dir() else place
    return f"{form}:{place}" if form and place else form or place


def _split(vae: str) -> tuple[str, str]:
    """`edm2` or nothing, and the folder or id."""
    form, colon, place = vae.partition(":")
    return (form, place) if form == "edm2" and (colon or not Path(vae).is_dir()) else ("", vae)


@functools.lru_cache(maxsize=1)
def load(vae: str | None = None, precision: Precision = "fp32") -> Autoencoder:
    """The autoencoder of a diffusers folder or, by its id, of the Hugging Face hub or its local cache.

    Args:
        vae: the folder or id, by default that of the papers; or `edm2`, alone or before one: `edm2:DIR`.
        precision: see `Autoencoder`.

    Raises:
        UsageError: it is not here and cannot be fetched, or is damaged. Only safetensors are read.
    """
    from diffusers import AutoencoderKL

    form, place = _split(vae or VAE)
    vae = place or "stabilityai/sd-vae-ft-mse"
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    fetch = functools.partial(
        AutoencoderKL.from_pretrained, vae, use_safetensors=True, output_loading_info=True
    )
    try:
        with warnings.catch_warnings(action="ignore"):  # of libraries about each other
            try:
                network, loading = fetch(local_files_only=True)
            except OSError:
                if Path(vae).is_dir() or not _online():
                    raise
                network, loading = fetch()
        if loading["missing_keys"]:  # for diffusers only worth a warning
            raise ValueError(f"its weights lack {loading['missing_keys'][0]}")
    except Exception as error:  # of a damaged file too, whose errors have no common type
        if Path(vae).is_dir():
            raise UsageError(f"cannot read an AutoencoderKL from the folder {vae}: {reason(error)}") from None
        raise UsageError(
            f"the VAE {vae!r} is not on this machine and cannot be fetched: where there is a network, run "
            f"`hf download {vae} --local-dir DIR`, then give that folder as the VAE (vae=DIR, or --vae DIR)"
        ) from None
    return EDM2Autoencoder(network, precision) if form else Autoencoder(network, precision)


def _online() -> bool:
    """Whether the hub answers; its own client tries for half a minute."""
    from huggingface_hub.constants import ENDPOINT

    try:
        urllib.request.urlopen(urllib.request.Request(ENDPOINT, method="HEAD"), timeout=10)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
