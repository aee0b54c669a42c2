"""Inception-v3 of 2015-12-05, as the ADM suite uses it: one pass for all five scores.

The network is torch-fidelity's faithful port of the TensorFlow graph (its resizing included). Added
here, on the outside: the spatial features of sFID, and weights that are never unpickled.
"""

from __future__ import annotations

import contextlib
import io
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from bench.metrics.extractors import extractors, file_digest
from registry.errors import UsageError, reason

# Of the file behind URL_INCEPTION_V3, whose name ends in the first digits of it.
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SPATIAL_CHANNELS = 7  # the suite keeps 17·17·7 = 2023 spatial features
SILENCE_SECONDS = 30  # of a server, until a download is given up


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
        path = _own_copy() if weights is None else weights
        self.digest = file_digest(path)
        if weights is None and not SHA256.startswith(self.digest):
            raise UsageError(f"{path} is damaged: delete it, and it is downloaded anew")
        self.network = _Network()
        _load(self.network, path)

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


def _own_copy() -> Path:
    """The weights file in torch's hub cache, downloaded if it is not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
    if path.is_file():
        return path
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"downloading the Inception weights to {path}", file=sys.stderr)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), SHA256, progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:  # no network, no place on disk; another hash
        raise UsageError(
            f"the Inception weights are not in {path.parent} and cannot be downloaded ({reason(error)}): "
            f"put {path.name} there, from {URL_INCEPTION_V3}, or name a copy of it with --weights"
        ) from None
    finally:
        socket.setdefaulttimeout(patience)
    return path


def _load(network: nn.Module, path: Path) -> None:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of its reader
        # The first sentence: torch goes on to advise unpickling everything.
        problem = reason(error).partition(". ")[0]
        raise UsageError(f"{path} holds no readable weights: {problem}") from None
    own = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    found = {
        name: value.shape
        for name, value in (state.items() if isinstance(state, Mapping) else ())
        if isinstance(value, Tensor)
    }
    wrong = [name for name, value in own.items() if found.get(name) != value.shape]
    if wrong:
        raise UsageError(
            f"{path} does not hold the weights of torch-fidelity's Inception-v3: of its {len(own)} tensors "
            f"{len(wrong)} are missing or of another shape, {wrong[0]} first"
        )
    network.load_state_dict({name: state[name] for name in own}, strict=False)
