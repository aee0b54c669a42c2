"""DINOv2 ViT-L/14 (Oquab et al. 2023, arXiv 2304.07193): the features behind FD-DINOv2 (arXiv 2306.04675).

Images are resized as EDM2's `calculate_metrics.py` does by default: bicubic with antialiasing, in float32,
neither rounded nor clipped, to 224×224 whatever their shape. `dgm-eval` and EDM2's `pil` mode round to whole
pixel values; torch-fidelity resizes bilinearly without antialiasing, as TensorFlow 1 did.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.metrics.extractors import extractors, file_digest
from bench.metrics.extractors.weights import DINOV2, fill, read

SIDE, PATCH = 224, 14
TRAINED = 37  # patches a side that the table of positions is for: 518 pixels
WIDTH = 1024  # of ViT-L
DEPTH, HEADS = 24, 16
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def prepare(images: Tensor) -> Tensor:
    """Images as the network sees them: uint8 (N, 3, H, W) -> float32 (N, 3, 224, 224)."""
    resized = F.interpolate(images.float(), (SIDE, SIDE), mode="bicubic", antialias=True)
    mean, deviation = (
        torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, DEVIATION)
    )
    return (resized / 255 - mean) / deviation


class Scale(nn.Module):
    """A factor for each channel, `gamma`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(…, width), scaled."""
        return x * self.gamma


class Attention(nn.Module):
    """Self-attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, width) to the same."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, each normalised before, scaled after and added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.ls1, self.ls2 = Scale(width), Scale(width)
        self.attn = Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, width) to the same."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x)))))


class DINOv2Net(nn.Module):
    """(N, 3, 224, 224) to the normalised class token (N, width). Names are those of the weights."""

    def __init__(self, width: int = WIDTH, depth: int = DEPTH, heads: int = HEADS) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, stride=PATCH)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, TRAINED**2 + 1, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def positions(self, side: int) -> Tensor:
        """The table of positions for side × side patches: (1, 1 + side², width).

        Bicubic, by the factor (side + 0.1)/37 of the authors' program, which is not quite side/37.
        """
        of_class, of_patches = self.pos_embed.split((1, TRAINED**2), dim=1)
        grid = of_patches.unflatten(1, (TRAINED, TRAINED)).permute(0, 3, 1, 2)
        factor = (side + 0.1) / TRAINED
        resized = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
        return torch.cat([of_class, resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """The class token."""
        patches = self.patch_embed["proj"](x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches.flatten(2).mT], dim=1)
        tokens = tokens + self.positions(patches.shape[-1])
        for block in self.blocks:
            tokens = block(tokens)
        features: Tensor = self.norm(tokens)[:, 0]
        return features


@extractors.register("dinov2")
class DINOv2(nn.Module):
    """DINOv2 ViT-L/14 at 224×224 pixels, as EDM2 and dgm-eval score: `pool` is the class token, 1,024 wide.

    Args:
        weights: the authors' `dinov2_vitl14_pretrain.pth`, or a `.safetensors` of the same; by default the
            file in torch's hub cache, where `bench weights fetch dinov2` puts it.

    Raises:
        UsageError: weights that are not there, are damaged or belong to another network.
    """

    name = "dinov2"
    outputs = {"pool": WIDTH}  # noqa: RUF012

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        path = DINOV2.found() if weights is None else weights
        self.digest = DINOV2.sha256[:12] if weights is None else file_digest(path)  # `found` checks it
        with torch.device("meta"):
            network = DINOv2Net(WIDTH, DEPTH, HEADS)
        self.network = network.to_empty(device="cpu")
        fill(self.network, read(path), path, "DINOv2 ViT-L/14")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of uint8 (N, 3, H, W) images: pool (N, 1024)."""
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return {"pool": self.network(prepare(images))}
