"""CLIP ViT-L/14 at 336 pixels (Radford et al. 2021, arXiv 2103.00020): the features of CMMD.

Images are prepared as the CMMD program does: the square in their middle, resized by Pillow's antialiased
bicubic filter and rounded to whole pixel values. torch-fidelity, whose network this is, resizes bilinearly
without antialiasing and whole images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch_fidelity.feature_extractor_clip import VisionTransformer

from bench.metrics.extractors import extractors, file_digest
from bench.metrics.extractors.weights import CLIP as FILE
from bench.metrics.extractors.weights import fill, read

SIDE, PATCH, WIDTH, DEPTH = 336, 14, 1024, 24
OUTPUT = 768
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)

# Hugging Face's names, which the downloaded file has, and those of OpenAI and torch-fidelity.
_NAMES = {
    r"vision_model\.embeddings\.class_embedding": "class_embedding",
    r"vision_model\.embeddings\.patch_embedding\.weight": "conv1.weight",
    r"vision_model\.embeddings\.position_embedding\.weight": "positional_embedding",
    r"vision_model\.pre_layrnorm\.": "ln_pre.",
    r"vision_model\.post_layernorm\.": "ln_post.",
    r"vision_model\.encoder\.layers\.(\d+)\.": r"transformer.resblocks.\1.",
    r"\.layer_norm(\d)\.": r".ln_\1.",
    r"\.mlp\.fc1\.": ".mlp.c_fc.",
    r"\.mlp\.fc2\.": ".mlp.c_proj.",
    r"\.self_attn\.out_proj\.": ".attn.out_proj.",
    r"^visual\.": "",
}


def prepare(images: Tensor) -> Tensor:
    """Images as the network sees them: uint8 (N, 3, H, W) -> float32 (N, 3, 336, 336)."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = images[..., top : top + side, left : left + side]
    pictures = [Image.fromarray(pixels) for pixels in square.permute(0, 2, 3, 1).contiguous().cpu().numpy()]
    # PyTorch's filter for bytes differs from Pillow's in one value of two hundred.
    resized = np.stack([np.asarray(each.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for each in pictures])
    pixels = torch.from_numpy(resized).to(images.device).permute(0, 3, 1, 2).float()
    mean, deviation = (
        torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, DEVIATION)
    )
    return (pixels / 255 - mean) / deviation


def translated(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names of OpenAI's image half, from those of Hugging Face or of the whole network."""
    found = {}
    for name, value in state.items():
        for pattern, new in _NAMES.items():
            name = re.sub(pattern, new, name)
        found[name] = value
    for kind in ("weight", "bias"):
        for name in [name for name in found if name.endswith(f".self_attn.q_proj.{kind}")]:
            block = name.removesuffix(f"self_attn.q_proj.{kind}")
            parts = [found.get(f"{block}self_attn.{part}_proj.{kind}") for part in "qkv"]
            if block.startswith("transformer.") and None not in parts:
                found[f"{block}attn.in_proj_{kind}"] = torch.cat([part for part in parts if part is not None])
    if "visual_projection.weight" in found:
        found["proj"] = found["visual_projection.weight"].mT
    return found


@extractors.register("clip")
class CLIP(nn.Module):
    """CLIP ViT-L/14 at 336×336 pixels, as CMMD scores: `pool` is the image's embedding, 768 wide.

    Args:
        weights: Hugging Face's `pytorch_model.bin` of openai/clip-vit-large-patch14-336, or a `.safetensors`
            with its names or OpenAI's; by default the file in torch's hub cache, where `bench weights fetch
            clip` puts it.

    Raises:
        UsageError: weights that are not there, are damaged or belong to another network.
    """

    name = "clip"
    outputs = {"pool": OUTPUT}  # noqa: RUF012

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        path = FILE.found() if weights is None else weights
        self.digest = FILE.sha256[:12] if weights is None else file_digest(path)  # `found` checks it
        with torch.device("meta"):
            network = VisionTransformer(SIDE, PATCH, WIDTH, DEPTH, WIDTH // 64, OUTPUT)
        self.network = network.to_empty(device="cpu")
        fill(self.network, translated(read(path)), path, "CLIP ViT-L/14 at 336 pixels")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of uint8 (N, 3, H, W) images: pool (N, 768), not normalised."""
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return {"pool": self.network(prepare(images))}
