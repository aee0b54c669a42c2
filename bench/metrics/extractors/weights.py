"""Weights of extractors that are downloaded: files, addresses, checksums and reading.

    bench weights                 # which are here
    bench weights fetch dinov2    # download one, and check it

They are in torch's hub cache, which other programs use for the same files. Weights are read as safetensors or
with `weights_only`, so no pickled code runs.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.metrics.extractors import file_digest
from registry.errors import UsageError, reason

SILENCE_SECONDS = 30  # of a server, until a download is given up


@dataclass(frozen=True)
class Weights:
    """A file of weights that is downloaded.

    Attributes:
        extractor: whose.
        what: in words.
        file: its name in the cache.
        url: where it comes from.
        sha256: of its content.
        bytes: its size.
        licence: of the weights.
    """

    extractor: str
    what: str
    file: str
    url: str
    sha256: str
    bytes: int
    licence: str

    @property
    def path(self) -> Path:
        """Where it lies, or would."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file

    def found(self) -> Path:
        """The file, checked.

        Raises:
            UsageError: it is not there, or damaged.
        """
        if not self.path.is_file():
            raise UsageError(
                f"the {self.extractor} weights are not in {self.path.parent}: `bench weights fetch "
                f"{self.extractor}` downloads them ({self.bytes / 1e9:.1f} GB), or name a copy with --weights"
            )
        if not self.sha256.startswith(file_digest(self.path)):
            raise UsageError(
                f"{self.path} is damaged: delete it, and `bench weights fetch {self.extractor}` downloads it "
                "anew"
            )
        return self.path

    def fetch(self) -> Path:
        """The file, downloaded and checked unless it is there; on a terminal with a progress bar.

        Raises:
            UsageError: no network, no place on disk, or a file of another content.
        """
        if self.path.is_file():
            return self.found()
        patience = socket.getdefaulttimeout()
        socket.setdefaulttimeout(SILENCE_SECONDS)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            print(f"downloading the {self.extractor} weights to {self.path}", file=sys.stderr)
            torch.hub.download_url_to_file(
                self.url, str(self.path), self.sha256, progress=sys.stderr.isatty()
            )
        except (OSError, RuntimeError) as error:  # no network, no place on disk; another hash
            raise UsageError(
                f"the {self.extractor} weights are not in {self.path.parent} and cannot be downloaded "
                f"({reason(error)}): put {self.file} there, from {self.url}, or name a copy of it with "
                "--weights"
            ) from None
        finally:
            socket.setdefaulttimeout(patience)
        return self.path


INCEPTION = Weights(
    "inception",
    "Inception-v3 of 2015-12-05, converted by torch-fidelity",
    "weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    95_628_359,
    "Apache-2.0",
)
DINOV2 = Weights(
    "dinov2",
    "DINOv2 ViT-L/14, without registers",
    "dinov2_vitl14_pretrain.pth",
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    1_217_586_395,
    "Apache-2.0",
)
CLIP = Weights(
    "clip",
    "CLIP ViT-L/14 at 336 pixels, of which the image half is used",
    "clip-vit-large-patch14-336.bin",
    "https://huggingface.co/openai/clip-vit-large-patch14-336/resolve/main/pytorch_model.bin",
    "c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801",
    1_711_974_081,
    "MIT",
)
WEIGHTS = {each.extractor: each for each in (INCEPTION, DINOV2, CLIP)}


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of a state dict by `weights_only`; all else is left out.

    Raises:
        UsageError: a file that cannot be read so.
    """
    state: Any
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
    items = state.items() if isinstance(state, Mapping) else ()
    return {name: value for name, value in items if isinstance(value, Tensor)}


def fill(network: nn.Module, state: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Give a network its weights; batch norm's counters are not needed.

    Args:
        network: whose names those of the state are.
        state: tensors by name; others are ignored.
        path: of the file, for the message.
        what: the network is, for the message.

    Raises:
        UsageError: a tensor is missing or of another shape.
    """
    own = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    wrong = [name for name, value in own.items() if name not in state or state[name].shape != value.shape]
    if wrong:
        raise UsageError(
            f"{path} does not hold the weights of {what}: of its {len(own)} tensors {len(wrong)} are missing "
            f"or of another shape, {wrong[0]} first"
        )
    network.load_state_dict({name: state[name] for name in own}, strict=False)
    network.eval().requires_grad_(False)
