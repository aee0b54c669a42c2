"""Inception-v3 of 2015-12-05, as the ADM suite uses it: one pass for all five scores.

The network is torch-fidelity's faithful port of the TensorFlow graph (its resizing included). Added
here, on the outside: the spatial features of sFID, and weights that are never unpickled.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from bench.metrics.extractors import extractors, file_digest
from bench.metrics.extractors.weights import INCEPTION, fill, read

SPATIAL_CHANNELS = 7  # the suite keeps 17·17·7 = 2023 spatial features


@extractors.register("inception")
class Inception(nn.Module):
    """Inception-v3 of the ADM suite: pool3, the spatial features of sFID, logits without bias.

    `spatial` is the first 7 channels of the first branch of `mixed_6` after its ReLU, flattened height,
    width, channel: the order in which reference files keep their statistics.

    Args:
        weights: torch-fidelity's weights file, or a `.safetensors` of the same; by default the file in
            torch's hub cache, downloaded if it is not there.

    Raises:
        UsageError: weights that are not to be had, are damaged or belong to another network.
    """

    name = "inception"
    outputs = {"pool": 2048, "spatial": 17 * 17 * SPATIAL_CHANNELS, "logits": 1008}  # noqa: RUF012

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        path = INCEPTION.fetch() if weights is None else weights
        self.digest = file_digest(path)
        self.network = _Network()
        fill(self.network, read(path), path, "torch-fidelity's Inception-v3")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of uint8 (N, 3, H, W) images: pool (N, 2048), spatial (N, 2023), logits (N, 1008)."""
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with _tap(self.network.Mixed_6d.branch1x1) as tapped, exact:
            pool, logits = self.network(images)
        (spatial,) = tapped
        return {"pool": pool, "spatial": spatial.permute(0, 2, 3, 1).flatten(1), "logits": logits}


class _Network(FeatureExtractorInceptionV3):
    """torch-fidelity's network without weights: its constructor would download or unpickle them."""

    def __init__(self) -> None:
        nothing = io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        super().__init__("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=nothing)

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return super().load_state_dict(state, strict and bool(state), assign)


@contextlib.contextmanager
def _tap(module: nn.Module) -> Iterator[list[Tensor]]:
    """A list that receives the first channels of what `module` puts out."""
    tapped: list[Tensor] = []
    hook = module.register_forward_hook(lambda _, __, out: tapped.append(out[:, :SPATIAL_CHANNELS].float()))
    try:
        yield tapped
    finally:
        hook.remove()
