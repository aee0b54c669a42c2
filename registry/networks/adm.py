"""ADM: "Diffusion Models Beat GANs on Image Synthesis" (arXiv 2105.05233), in pixel space.

A U-Net of residual blocks with self-attention at the coarse scales. Feature maps are (N, C, H, W). The
published images were sampled with the predicted x0 clamped (`ancestral clip=true`, `ddim clip=true`). Those
with guidance used the gradient of a classifier (`bench.diffusion.guidance.classifier_gradient`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from registry import register
from registry.backbone import Backbone, LongSkip, Size, height_width, require_positive
from registry.checkpoints import Rule
from registry.errors import UsageError
from registry.layers.attention import check_heads
from registry.layers.embeddings import LabelEmbedding, sinusoids


class ADM(Backbone):
    """U-Net of residual blocks, scaled and shifted by the condition; predicts noise and a variance range."""

    images: ClassVar[int] = 1  # input images, concatenated on channels at the stem

    def __init__(
        self,
        input_size: Size = 256,
        num_classes: int = 1000,
        in_channels: int = 3,
        hidden_size: int = 256,
        channel_mult: tuple[float, ...] = (1, 1, 2, 2, 4, 4),
        num_res_blocks: int = 2,
        attention_rates: tuple[int, ...] = (8, 16, 32),
        head_width: int = 64,
        num_heads: int = 4,
        new_attention_order: bool = False,
        scale_shift_norm: bool = True,
        resblock_updown: bool = True,
        norm_num_groups: int = 32,
        dropout: float = 0.0,
        learn_sigma: bool = True,
        class_dropout_prob: float = 0.0,
    ) -> None:
        """
        Args:
            input_size: side of the input grid in pixels, or (H, W).
            num_classes: number of classes without the null class; 0: unconditional.
            in_channels: channels of the input; 3 for colour images.
            hidden_size: base width C, in channels.
            channel_mult: width of each scale as a multiple of hidden_size, full resolution first; each
                further scale halves H and W.
            num_res_blocks: residual blocks of each scale of the encoder; the decoder has one more.
            attention_rates: downsampling factors of the scales with attention; 8 is the scale of H/8.
            head_width: channels of an attention head; 0: num_heads heads at every width.
            num_heads: attention heads if head_width is 0.
            new_attention_order: qkv channels ordered (q|k|v, head, channel), as in the released 64×64
                weights; else (head, q|k|v, channel), as in all others.
            scale_shift_norm: whether the condition scales and shifts the second norm of a block, or is added
                before it.
            resblock_updown: change the resolution by residual blocks; else by strided convolutions and
                nearest neighbours.
            norm_num_groups: groups of every GroupNorm; must divide the width of every scale.
            dropout: probability of dropping a feature in each residual block in training.
            learn_sigma: output the variance range beside the noise (2·C channels), or the noise alone (C).
            class_dropout_prob: probability that a label becomes the null class in training; 0, as
                published: no null class.

        Raises:
            UsageError: hidden_size is odd, a width is not a multiple of norm_num_groups or of head_width, or
                another value is out of range.
        """
        require_positive(
            hidden_size=hidden_size,
            num_res_blocks=num_res_blocks,
            channel_mult=min(channel_mult, default=0),
            attention_rates=min(attention_rates, default=1),
            head_width=head_width or 1,
            norm_num_groups=norm_num_groups,
        )
        super().__init__(
            input_size=input_size,
            in_channels=in_channels,
            num_classes=num_classes,
            learn_sigma=learn_sigma,
            size_multiple=2 ** (len(channel_mult) - 1),
        )
        if not 0 <= dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1, not {dropout}")
        if hidden_size % 2:
            raise UsageError(f"hidden_size {hidden_size} is odd: a step is embedded as sines and cosines")
        widths = [int(times * hidden_size) for times in channel_mult]
        if any(width < 1 or width % norm_num_groups for width in widths):
            raise UsageError(f"widths {widths} are not all multiples of norm_num_groups {norm_num_groups}")
        self.hidden_size, self.num_res_blocks = hidden_size, num_res_blocks
        deepest = len(widths) - 1

        def norm(width: int) -> nn.GroupNorm:
            return nn.GroupNorm(norm_num_groups, width)

        def block(width_in: int, width: int, resample: str = "") -> ADMBlock:
            return ADMBlock(width_in, width, 4 * hidden_size, norm, dropout, scale_shift_norm, resample)

        def attention(width: int) -> ADMAttention:
            if head_width and width % head_width:
                raise UsageError(f"head_width {head_width} does not divide {width}, the width of a scale")
            heads = width // head_width if head_width else num_heads
            return ADMAttention(width, heads, norm, new_attention_order)

        def step(level: int, *layers: nn.Module) -> ADMStep:
            return ADMStep(*layers, *([attention(widths[level])] if 2**level in attention_rates else []))

        self.stem = nn.Conv2d(self.images * in_channels, widths[0], 3, padding=1)
        self.time = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size), nn.SiLU(), nn.Linear(4 * hidden_size, 4 * hidden_size)
        )
        self.label = LabelEmbedding(num_classes, 4 * hidden_size, class_dropout_prob) if num_classes else None
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        skips = [width := widths[0]]  # channels of each skip
        for level, level_width in enumerate(widths):
            steps = nn.ModuleList()
            for _ in range(num_res_blocks):
                steps.append(step(level, block(width, level_width)))
                skips.append(width := level_width)
            if level < deepest:
                down = block(width, width, "down") if resblock_updown else ADMDownsample(width)
                steps.append(ADMStep(down))
                skips.append(width)
            self.encoder.append(steps)
        self.middle = ADMStep(block(width, width), attention(width), block(width, width))
        for level in range(deepest, -1, -1):
            steps = nn.ModuleList()
            for i in range(num_res_blocks + 1):
                joined = step(level, block(width + skips.pop(), widths[level]))
                width = widths[level]
                if level > 0 and i == num_res_blocks:
                    joined.append(block(width, width, "up") if resblock_updown else ADMUpsample(width))
                steps.append(joined)
            self.decoder.append(steps)
        self.skips = nn.ModuleList(LongSkip() for _ in range(len(widths) * (num_res_blocks + 1)))
        self.head = nn.Sequential(norm(width), nn.SiLU(), nn.Conv2d(width, self.out_channels, 3, padding=1))
        self.init_weights()

    def init_weights(self) -> None:
        """The last layer of each branch and of the network is zero, labels are standard normal.

        All other weights keep PyTorch's defaults.
        """
        if self.label is not None:
            nn.init.normal_(self.label.table.weight)
        ends: list[Any] = [self.head[-1]]
        for layer in self.modules():
            if isinstance(layer, ADMBlock):
                ends.append(layer.conv2)
            elif isinstance(layer, ADMAttention):
                ends.append(layer.out)
        for end in ends:
            nn.init.zeros_(end.weight)
            nn.init.zeros_(end.bias)

    @property
    def checkpoint_names(self) -> list[Rule]:  # type: ignore[override]
        """Names of the authors' checkpoints, which number the blocks across all scales."""
        steps = self.num_res_blocks + 1  # modules of a scale that the checkpoints number
        return [
            (r"^input_blocks\.0\.0\.", "stem."),
            (r"^input_blocks\.(\d+)\.", lambda m: "encoder.{}.{}.".format(*divmod(int(m[1]) - 1, steps))),
            (r"^output_blocks\.(\d+)\.", lambda m: "decoder.{}.{}.".format(*divmod(int(m[1]), steps))),
            (r"^middle_block\.", "middle."),
            (r"^time_embed\.", "time."),
            (r"^label_emb\.", "label.table."),
            (r"^out\.", "head."),
            (r"\.in_layers\.0\.", ".norm1."),
            (r"\.in_layers\.2\.", ".conv1."),
            (r"\.emb_layers\.1\.", ".modulation."),
            (r"\.out_layers\.0\.", ".norm2."),
            (r"\.out_layers\.3\.", ".conv2."),
            (r"\.skip_connection\.", ".shortcut."),
            (r"\.proj_out\.", ".out."),
            (r"\.op\.", ".conv."),
        ]

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.check_input(x)
        return self.denoise(x, t, y)

    def denoise(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """x (N, images·C, H, W), t (N,), y (N,) -> (N, C_out, H, W)."""
        c = self.time(sinusoids(t, self.hidden_size).to(x.dtype))
        c = F.silu(c if self.label is None else c + self.label(y))  # once for all blocks
        x = self.stem(x)
        skips = [x]
        for steps in self.encoder:
            for step in steps:  # type: ignore[attr-defined]
                x = step(x, c)
                skips.append(x)
        x = self.middle(x, c)
        marks = iter(self.skips)
        for steps in self.decoder:
            for step in steps:  # type: ignore[attr-defined]
                x = step(torch.cat([x, next(marks)(skips.pop())], dim=1), c)
        return self.head(x)

    def stages(self) -> dict[str, nn.Module]:
        embeddings = {"time": self.time, **({"label": self.label} if self.label is not None else {})}
        down = {f"down{i}": steps for i, steps in enumerate(self.encoder, 1)}
        up = {f"up{len(self.decoder) - i}": steps for i, steps in enumerate(self.decoder)}
        return {**embeddings, "stem": self.stem, **down, "middle": self.middle, **up, "head": self.head}


class ADMCosine(ADM):
    """ADM trained on the cosine β schedule, as the released 64×64 weights are."""

    beta_schedule = "cosine"


class ADMUpsampler(ADM):
    """ADM that is given a low-resolution version of the image: the second stage of ADM-U.

    The low-resolution image is enlarged bilinearly and concatenated to x on channels.
    """

    images = 2

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None, low_res: Tensor) -> Tensor:  # type: ignore[override]
        """x (N, C, H, W), t (N,), y (N,), low_res (N, C, h, w) of any size -> (N, C_out, H, W)."""
        self.check_input(x)
        low_res = F.interpolate(low_res, x.shape[2:], mode="bilinear")
        return self.denoise(torch.cat([x, low_res], dim=1), t, y)

    def example_inputs(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        """Those of `Backbone`, and a low-resolution image (N, C, H/4, W/4)."""
        height, width = height_width(self.input_size)
        x, t, y = super().example_inputs(batch_size)
        return x, t, y, torch.randn_like(x[..., : height // 4, : width // 4])


class ADMStep(nn.ModuleList):
    """Layers in sequence. Residual blocks take the condition; attention and resampling do not."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(layers)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, C, H, W), c = SiLU(condition) (N, 4·hidden_size) -> (N, C', H', W')."""
        for layer in self:
            x = layer(x, c) if isinstance(layer, ADMBlock) else layer(x)
        return x


class ADMBlock(nn.Module):
    """Residual block: twice GroupNorm, SiLU and a 3×3 convolution; the condition acts on the second norm.

    Args:
        in_channels, out_channels: channels of the feature map.
        condition: width of the condition.
        norm: makes a norm for a number of channels.
        dropout: probability of dropping a feature before the second convolution in training.
        scale_shift_norm: as for `ADM`.
        resample: "down" halves H and W by 2×2 means, "up" doubles them by nearest neighbours, both before
            the first convolution and in the shortcut; "" keeps them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        condition: int,
        norm: Callable[[int], nn.Module],
        dropout: float,
        scale_shift_norm: bool,
        resample: str = "",
    ) -> None:
        super().__init__()
        self.scale_shift_norm, self.resample = scale_shift_norm, resample
        self.norm1 = norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(condition, (1 + scale_shift_norm) * out_channels)
        self.norm2 = norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, C_in, H, W), c = SiLU(condition) (N, condition) -> (N, C_out, H', W')."""
        h = self.conv1(self.resampled(F.silu(self.norm1(x))))
        modulation = self.modulation(c)[..., None, None]
        if self.scale_shift_norm:
            scale, shift = modulation.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + modulation)
        return self.shortcut(self.resampled(x)) + self.conv2(self.dropout(F.silu(h)))

    def resampled(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resample else x


class ADMAttention(nn.Module):
    """Self-attention over the cells of a feature map, with a residual connection.

    Args:
        width: channels of the feature map.
        num_heads: heads, each width / num_heads wide.
        norm: makes a norm for a number of channels.
        new_attention_order: as for `ADM`.

    Raises:
        UsageError: the width is not a multiple of num_heads.
    """

    def __init__(
        self, width: int, num_heads: int, norm: Callable[[int], nn.Module], new_attention_order: bool
    ) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads, self.new_attention_order = num_heads, new_attention_order
        self.norm = norm(width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        n, width, rows, columns = x.shape
        qkv = self.qkv(self.norm(x).flatten(2)).mT  # (N, T, 3C)
        if self.new_attention_order:
            q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = qkv.unflatten(2, (self.num_heads, 3, -1)).permute(3, 0, 2, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v)  # (N, heads, T, C/heads)
        h = h.transpose(2, 3).reshape(n, width, rows * columns)
        return x + self.out(h).view_as(x)


class ADMDownsample(nn.Module):
    """Halves H and W by a 3×3 convolution of stride 2.

    Args:
        width: channels of the feature map.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H/2, W/2)."""
        return self.conv(x)


class ADMUpsample(nn.Module):
    """Doubles H and W by nearest neighbours, then a 3×3 convolution.

    Args:
        width: channels of the feature map.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


_64: dict[str, Any] = {
    "input_size": 64,
    "hidden_size": 192,
    "channel_mult": (1, 2, 3, 4),
    "num_res_blocks": 3,
    "attention_rates": (2, 4, 8),
    "new_attention_order": True,
    "dropout": 0.1,
}
_128: dict[str, Any] = {
    "input_size": 128,
    "channel_mult": (1, 1, 2, 3, 4),
    "attention_rates": (4, 8, 16),
    "head_width": 0,
}
_512: dict[str, Any] = {
    "input_size": 512,
    "channel_mult": (0.5, 1, 1, 2, 2, 4, 4),
    "attention_rates": (16, 32, 64),
}
register("adm-64", **_64)(ADMCosine)
register("adm-128", **_128)(ADM)
register("adm-256", aliases=["adm"])(ADM)
register("adm-512", **_512)(ADM)
# The second stage of ADM-U: from 64×64 (adm-64) to 256×256, from 128×128 (adm-128) to 512×512.
register("adm-u-64-256", hidden_size=192, head_width=0)(ADMUpsampler)
register("adm-u-128-512", input_size=512, hidden_size=192, attention_rates=(16, 32))(ADMUpsampler)
