"""A small CNN for the digits that scikit-learn bundles: features on any machine, with nothing to download.

Made for the project's `digits` data, 16×16 grey pixels enlarged from 8×8. Its scores compare sets of such
digits; on photographs they mean nothing. `python -m tests.train_digits` trains it.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.metrics.extractors import extractors

SIDE = 16
SPATIAL_CHANNELS = 7


class DigitsNet(nn.Module):
    """Grey (N, 1, 16, 16) images in [0, 1] to pool (N, 64), spatial (N, 448) and logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            )

        self.coarse = nn.Sequential(conv(1, 20), conv(20, 40, stride=2), conv(40, 40))  # 40 × 8 × 8
        self.fine = nn.Sequential(conv(40, 32, stride=2), nn.Flatten(), nn.Dropout(0.3))  # 32 · 4 · 4
        self.pool = nn.Sequential(nn.Linear(32 * 4 * 4, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, grey: Tensor) -> dict[str, Tensor]:
        """The three outputs; spatial is the first 7 channels at 8×8, in the order height, width, channel."""
        coarse = self.coarse(grey)
        pool = self.pool(self.fine(coarse))
        spatial = coarse[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return {"pool": pool, "spatial": spatial, "logits": self.head(pool)}


@extractors.register("digits")
class Digits(nn.Module):
    """Features of a small CNN for 8×8 digits, its weights within the package.

    Images become grey (the mean of their channels) and 16×16 (`enlarge`).
    """

    name = "digits"
    outputs = {"pool": 64, "spatial": 8 * 8 * SPATIAL_CHANNELS, "logits": 10}  # noqa: RUF012

    def __init__(self) -> None:
        from safetensors.torch import load

        super().__init__()
        weights = files("bench.metrics.extractors").joinpath("digits.safetensors").read_bytes()
        self.digest = hashlib.sha256(weights).hexdigest()[:12]
        self.network = DigitsNet().eval().requires_grad_(False)
        self.network.load_state_dict(load(weights))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of uint8 (N, 3, H, W) images: pool (N, 64), spatial (N, 448), logits (N, 10)."""
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features: dict[str, Tensor] = self.network(enlarge(images))
        return features


def enlarge(images: Tensor) -> Tensor:
    """Images as the network sees them: uint8 (N, C, H, W) -> (N, 1, 16, 16) float32 in [0, 1].

    The mean of the channels, resized bilinearly and antialiased, corners not aligned.
    """
    grey = images.float().mean(1, keepdim=True) / 255
    if grey.shape[-2:] == (SIDE, SIDE):
        return grey
    return F.interpolate(grey, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
