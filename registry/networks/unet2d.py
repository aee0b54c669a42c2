"""diffusers' UNet2DModel as a backbone: a convolutional baseline that predicts noise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from registry import register
from registry.backbone import Backbone, Size, require_positive
from registry.checkpoints import Rule
from registry.errors import UsageError
from registry.layers.embeddings import LabelDropout


class UNet2D(Backbone):
    """UNet2DModel of diffusers with attention at every scale but the first.

    `unet2d-64` is the configuration of the article "U-Net Architecture". `unet2d` has the same widths, for
    class-conditional 4×32×32 latents.
    """

    checkpoint_names: ClassVar[list[Rule]] = [(r"^", "net.")]

    def __init__(
        self,
        input_size: Size = 32,
        num_classes: int = 1000,
        in_channels: int = 4,
        block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        class_dropout_prob: float = 0.1,
    ) -> None:
        """
        Args:
            input_size: side of the input grid in cells, or (H, W); 32 for latents of 256×256 images.
            num_classes: number of classes without the null class; 0: unconditional.
            in_channels: channels of the input; 4 for latents.
            block_out_channels: channels of each scale, full resolution first; each further scale halves H
                and W.
            layers_per_block: residual blocks of each scale of the encoder; the decoder has one more.
            norm_num_groups: groups of every GroupNorm; must be fewer than the channels of any scale, because
                a norm over a single channel cancels the bias of step and label.
            class_dropout_prob: probability that a label becomes the null class in training; 0: no null class.

        Raises:
            UsageError: a width is not a multiple of norm_num_groups, or a size is not positive.
        """
        require_positive(
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            block_out_channels=min(block_out_channels, default=0),
        )
        if any(channels % norm_num_groups for channels in block_out_channels):
            raise UsageError(
                f"block_out_channels {block_out_channels} are not all multiples of "
                f"norm_num_groups {norm_num_groups}"
            )
        super().__init__(
            input_size=input_size,
            in_channels=in_channels,
            num_classes=num_classes,
            size_multiple=2 ** (len(block_out_channels) - 1),
        )
        attention = len(block_out_channels) - 1
        self.label_dropout = LabelDropout(num_classes, class_dropout_prob)
        self.net = UNet2DModel(
            sample_size=input_size,
            in_channels=in_channels,
            out_channels=in_channels,
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            block_out_channels=block_out_channels,
            down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * attention),
            up_block_types=(*["AttnUpBlock2D"] * attention, "UpBlock2D"),
            num_class_embeds=num_classes + (class_dropout_prob > 0) if num_classes else None,
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.check_input(x)
        if not self.num_classes:
            return self.net(x, t, return_dict=False)[0]
        return self.net(x, t, class_labels=self.label_dropout(y), return_dict=False)[0]

    def stages(self) -> dict[str, nn.Module]:
        net = self.net
        scales = {f"down{i}": block for i, block in enumerate(net.down_blocks, 1)}
        mirror = {f"up{len(net.up_blocks) - i}": block for i, block in enumerate(net.up_blocks)}
        embeddings = {"time": net.time_embedding}
        if net.class_embedding is not None:
            embeddings["label"] = net.class_embedding
        head = {"norm": net.conv_norm_out, "output": net.conv_out}
        return {**embeddings, "stem": net.conv_in, **scales, "middle": net.mid_block, **mirror, **head}

    def long_skips(self) -> dict[str, Callable[[], contextlib.AbstractContextManager[None]]]:
        """One skip for each residual block of the decoder."""
        return {
            f"up{len(self.net.up_blocks) - i}.skip{j}": lambda block=block, j=j: _cut(block, j)  # type: ignore[misc]
            for i, block in enumerate(self.net.up_blocks)
            for j in range(len(block.resnets))
        }


@contextlib.contextmanager
def _cut(block: nn.Module, index: int) -> Iterator[None]:
    """Within this context, skip number `index` into a decoder block of diffusers is zero."""

    def cut(_module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        hidden, skips, *rest = args
        skips = list(skips)
        skips[index] = torch.zeros_like(skips[index])
        return (hidden, tuple(skips), *rest), kwargs

    handle = block.register_forward_pre_hook(cut, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


register("unet2d")(UNet2D)
register("unet2d-64", input_size=64, in_channels=3, num_classes=0)(UNet2D)
