"""EDM2: "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv 2312.02696).

The paper's configuration G: a U-Net in which every layer preserves the magnitude of its input (MP, Appendix
B). It has no biases and no group normalisation; weights are normalised whenever they are used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from registry import register
from registry.backbone import Backbone, LongSkip, Size, height_width, require_positive
from registry.checkpoints import Rule
from registry.errors import UsageError
from registry.training_output import TrainingOutput

EPS = 1e-4  # added to a root mean square
BALANCE = 0.3  # weight t of the branch in a residual sum (`mp_sum`)
LARGEST = 256.0  # activations are clipped to ± this value


class EDM2(Backbone):
    """Preconditioned denoiser D(x; σ) around a magnitude-preserving U-Net; t is σ.

    In training mode it also returns the learned uncertainty u(σ), and normalises its weights in place (forced
    weight normalisation, Section 2.3).
    """

    objective = "edm"
    vae = "edm2"  # the latents that the published weights were trained on
    checkpoint_names: ClassVar[list[Rule]] = [
        (r"^unet\.", ""),
        (r"^enc\.(\d+x\d+)_", r"encoder.\1."),
        (r"^dec\.(\d+x\d+)_", r"decoder.\1."),
    ]

    def __init__(
        self,
        input_size: Size = 64,
        num_classes: int = 1000,
        in_channels: int = 4,
        model_channels: int = 192,
        channel_mult: tuple[int, ...] = (1, 2, 3, 4),
        num_blocks: int = 3,
        attn_resolutions: tuple[int, ...] = (16, 8),
        channels_per_head: int = 64,
        dropout: float = 0.0,
        sigma_data: float = 0.5,
    ) -> None:
        """
        Args:
            input_size: side of the input grid in cells, or (H, W); 64 for latents of 512×512 images.
            num_classes: number of classes; 0: unconditional, as are the published guiding networks. There is
                no null class.
            in_channels: channels of the input; 4 for latents.
            model_channels: width of the first level, in channels.
            channel_mult: width of each level as a multiple of model_channels; each further level halves H
                and W.
            num_blocks: residual blocks of a level of the encoder; the decoder has one more.
            attn_resolutions: heights H of the levels whose blocks have self-attention. The first block of
                the decoder always has it.
            channels_per_head: width of an attention head; narrower blocks have no attention.
            dropout: probability of dropping a feature in each block in training.
            sigma_data: standard deviation σ_data of the data.

        Raises:
            UsageError: a size is not positive, or a width cannot be split into heads.
        """
        require_positive(
            model_channels=model_channels,
            channel_mult=min(channel_mult, default=0),
            num_blocks=num_blocks,
            channels_per_head=channels_per_head,
            sigma_data=sigma_data,
        )
        depth = len(channel_mult)
        super().__init__(
            input_size=input_size,
            in_channels=in_channels,
            num_classes=num_classes,
            size_multiple=2 ** (depth - 1),
        )
        widths = [model_channels * mult for mult in channel_mult]
        emb_channels, self.sigma_data = max(widths), sigma_data
        self.emb_fourier = Fourier(widths[0])
        self.emb_noise = MPLayer(widths[0], emb_channels)
        self.emb_label = MPLayer(num_classes, emb_channels) if num_classes else None

        height, width = height_width(input_size)
        names = [f"{height >> level}x{width >> level}" for level in range(depth)]
        attends = [height >> level in attn_resolutions for level in range(depth)]

        def block(channels: int, out_channels: int, attention: bool = False, **kind: Any) -> EDM2Block:
            heads = out_channels // channels_per_head if attention else 0
            return EDM2Block(channels, out_channels, emb_channels, heads, dropout=dropout, **kind)

        self.encoder = nn.ModuleDict()
        skips, channels = [], in_channels + 1
        for level, (name, out) in enumerate(zip(names, widths, strict=True)):
            self.encoder[name] = stage = Encoder()
            if level == 0:
                stage["conv"] = MPLayer(channels, out, 3)
                channels = out
            else:
                stage["down"] = block(channels, channels, resample="down")
            skips.append(channels)
            for i in range(num_blocks):
                stage[f"block{i}"] = block(channels, out, attends[level])
                channels = out
                skips.append(channels)

        self.decoder = nn.ModuleDict()
        for level in reversed(range(depth)):
            self.decoder[names[level]] = blocks = Decoder()
            out = widths[level]
            if level == depth - 1:
                blocks["in0"] = block(out, out, True, decoder=True)
                blocks["in1"] = block(out, out, decoder=True)
            else:
                blocks["up"] = block(channels, channels, decoder=True, resample="up")
            for i in range(num_blocks + 1):
                blocks[f"block{i}"] = block(
                    channels + skips.pop(), out, attends[level], decoder=True, skip=True
                )
                channels = out
        self.out_conv = MPLayer(channels, in_channels, 3)
        self.out_gain = nn.Parameter(torch.zeros(()))

        self.logvar_fourier = Fourier(128)
        self.logvar_linear = MPLayer(128, 1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor | TrainingOutput:
        """x = x0 + σ·noise (N, C, H, W), t = σ (N,), y (N,) or None for no label -> x0 (N, C, H, W)."""
        self.check_input(x)
        sigma = t.to(at_least_float32(x)).view(-1, 1, 1, 1)
        size = (sigma**2 + self.sigma_data**2).sqrt()
        c_noise = sigma.flatten().log() / 4
        output = self.raw((x / size).to(x.dtype), c_noise, y)
        denoised = (self.sigma_data / size) ** 2 * x + sigma * self.sigma_data / size * output
        if self.training:
            return TrainingOutput(denoised, log_variance=self.log_variance(c_noise))
        return denoised

    def raw(self, x: Tensor, c_noise: Tensor, y: Tensor | None) -> Tensor:
        """The U-Net without its preconditioning: x of variance 1, c_noise = ln(σ)/4 (N,) -> (N, C, H, W)."""
        emb = self.emb_noise(self.emb_fourier(c_noise).to(x.dtype))
        if self.emb_label is not None:
            labels = emb.new_zeros(len(x), self.num_classes)
            if y is not None:
                labels = labels.scatter(1, y[:, None], math.sqrt(self.num_classes))
            emb = mp_sum(emb, self.emb_label(labels), 0.5)
        emb = mp_silu(emb)

        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips: list[Tensor] = []
        for stage in self.encoder.values():
            skips += stage(x, emb)
            x = skips[-1]
        for stage in self.decoder.values():
            x = stage(x, emb, skips)
        return self.out_conv(x) * self.out_gain

    def log_variance(self, c_noise: Tensor) -> Tensor:
        """The learned uncertainty u(σ), given c_noise = ln(σ)/4: (N,) -> (N,)."""
        return self.logvar_linear(self.logvar_fourier(c_noise)).flatten()

    def stages(self) -> dict[str, nn.Module]:
        encoder = {f"encoder {name}": stage for name, stage in self.encoder.items()}
        decoder = {f"decoder {name}": stage for name, stage in self.decoder.items()}
        embeddings = {"noise": self.emb_noise}
        if self.emb_label is not None:
            embeddings["label"] = self.emb_label
        return {**embeddings, **encoder, **decoder, "output": self.out_conv}


class Encoder(nn.ModuleDict):
    """A level of the encoder: a convolution or downsampling block, then further blocks."""

    def forward(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """x (N, C, H, W), emb (N, D) -> the output of each block; all are skips."""
        outputs = []
        for block in self.values():
            x = block(x, emb) if isinstance(block, EDM2Block) else block(x)
            outputs.append(x)
        return outputs


class Decoder(nn.ModuleDict):
    """A level of the decoder: two blocks or an upsampling block, then blocks that each take a skip."""

    def forward(self, x: Tensor, emb: Tensor, skips: list[Tensor]) -> Tensor:
        """x (N, C, H, W), emb (N, D) -> (N, C', H', W'); takes its skips from the end of `skips`."""
        for block in self.values():
            x = block(x, emb, None if block.skip is None else skips.pop())
        return x


class EDM2Block(nn.Module):
    """Residual block (Figure 21). The encoder's form normalises each pixel, the decoder's takes a skip.

    Args:
        in_channels: channels of the input and the skip together.
        out_channels: channels of the output.
        emb_channels: width D of the embedding.
        heads: heads of the self-attention after the block; 0: no attention.
        dropout: probability of dropping a feature before the second convolution in training.
        decoder: the decoder's form instead of the encoder's.
        skip: whether it takes a long skip connection.
        resample: "down" or "up" before anything else; "" for neither.

    Raises:
        UsageError: out_channels is not a multiple of heads.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        heads: int,
        *,
        dropout: float,
        decoder: bool = False,
        skip: bool = False,
        resample: str = "",
    ) -> None:
        super().__init__()
        self.heads, self.decoder, self.resample = heads, decoder, resample
        self.skip = LongSkip() if skip else None
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = MPLayer(in_channels if decoder else out_channels, out_channels, 3)
        self.emb_linear = MPLayer(emb_channels, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_res1 = MPLayer(out_channels, out_channels, 3)
        self.conv_skip = MPLayer(in_channels, out_channels, 1) if in_channels != out_channels else None
        if heads and out_channels % heads:
            raise UsageError(f"{out_channels} channels cannot be cut into {heads} attention heads")
        if heads:
            self.attn_qkv = MPLayer(out_channels, 3 * out_channels, 1)
            self.attn_proj = MPLayer(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor, skip: Tensor | None = None) -> Tensor:
        """x (N, C, H, W), emb (N, D), skip (N, C_skip, H, W) -> (N, C_out, H', W')."""
        if self.skip is not None:
            x = mp_cat(x, self.skip(skip))
        if self.resample:
            x = resample(x, self.resample)
        if not self.decoder:
            if self.conv_skip is not None:
                x = self.conv_skip(x)
            x = normalize(x, [1])

        h = self.conv_res0(mp_silu(x))
        c = self.emb_linear(emb) * self.emb_gain + 1
        h = self.conv_res1(self.dropout(mp_silu(h * c[..., None, None])))
        if self.decoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, h, BALANCE)
        if self.heads:
            x = mp_sum(x, self.attention(x), BALANCE)
        return x.clamp(-LARGEST, LARGEST)

    def attention(self, x: Tensor) -> Tensor:
        """Self-attention with q, k and v of unit magnitude: (N, C, H, W) -> (N, C, H, W).

        Channels of qkv are ordered (head, channel, q|k|v).
        """
        qkv = self.attn_qkv(x).unflatten(1, (self.heads, -1, 3)).flatten(4)  # (N, heads, d, 3, T)
        q, k, v = normalize(qkv, [2]).transpose(2, 4).unbind(3)  # (N, heads, T, d)
        h = F.scaled_dot_product_attention(q, k, v)
        return self.attn_proj(h.transpose(2, 3).reshape(x.shape))


class MPLayer(nn.Module):
    """Convolution or linear map without bias that preserves the magnitude of its input (Eq. 47, 66).

    Each filter is scaled to a root mean square of 1/√(number of its weights) when it is used. In training
    mode the stored weight is also normalised in place, outside of the gradient.

    Args:
        in_channels, out_channels: channels of input and output.
        kernel: side of the filters; 0 for a linear map.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 0) -> None:
        super().__init__()
        sides = (kernel, kernel) if kernel else ()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *sides))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) or (N, C) -> (N, C_out, H, W) or (N, C_out)."""
        if self.training:
            with torch.no_grad():
                self.weight.copy_(self.normalized())
        weight = self.scaled().to(x.dtype)
        if weight.dim() == 2:
            return F.linear(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    def normalized(self) -> Tensor:
        """The weight, each filter at a root mean square of 1, in float32 or better."""
        weight = self.weight.to(at_least_float32(self.weight))
        return normalize(weight, list(range(1, weight.dim())))

    def scaled(self) -> Tensor:
        """The weight as it is used."""
        return self.normalized() / math.sqrt(self.weight[0].numel())

    def merged(self) -> nn.Module:
        """A plain layer for inference, whose weight is normalised once."""
        out_channels, in_channels, *sides = self.weight.shape
        layer: nn.Module = nn.Linear(in_channels, out_channels, bias=False, device="meta")
        if sides:
            layer = nn.Conv2d(
                in_channels, out_channels, sides[0], padding=sides[0] // 2, bias=False, device="meta"
            )
        layer.weight = nn.Parameter(self.scaled().detach().to(self.weight.dtype))
        return layer


class Fourier(nn.Module):
    """Random Fourier features of unit magnitude: √2·cos(c·freqs + phases).

    Args:
        features: number of features.
    """

    freqs: Tensor
    phases: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(features))
        self.register_buffer("phases", 2 * math.pi * torch.rand(features))

    def forward(self, c: Tensor) -> Tensor:
        """(N,) -> (N, features), in the dtype of c."""
        return (c[:, None] * self.freqs.to(c.dtype) + self.phases.to(c.dtype)).cos() * math.sqrt(2)


def resample(x: Tensor, mode: str) -> Tensor:
    """Means of 2×2 cells ("down"), or each cell repeated 2×2 times ("up"): (N, C, H, W) -> (N, C, H', W').

    These are depthwise convolutions, because the published GFLOPs count them as such.
    """
    ones = x.new_ones(x.shape[1], 1, 2, 2)
    if mode == "up":
        return F.conv_transpose2d(x, ones, stride=2, groups=x.shape[1])
    return F.conv2d(x, ones / 4, stride=2, groups=x.shape[1])


def at_least_float32(x: Tensor) -> torch.dtype:
    """The dtype of x, or float32 if that is more precise."""
    return torch.promote_types(x.dtype, torch.float32)


def normalize(x: Tensor, dims: Sequence[int]) -> Tensor:
    """x divided by its root mean square along `dims` (Eq. 3, 66); the shape of x."""
    size = math.prod([x.shape[dim] for dim in dims])
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=at_least_float32(x))
    return x / (EPS + norm / math.sqrt(size)).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU(x)/0.596, which preserves the magnitude of standard normal input (Eq. 81)."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """(1 − t)·a + t·b, scaled to preserve magnitude (Eq. 88)."""
    size = math.hypot(1 - t, t)
    return a * ((1 - t) / size) + b * (t / size)


def mp_cat(a: Tensor, b: Tensor) -> Tensor:
    """a and b concatenated on channels, scaled to contribute equally whatever their widths (Eq. 103)."""
    width_a, width_b = a.shape[1], b.shape[1]
    scale = math.sqrt((width_a + width_b) / 2)
    return torch.cat([a * (scale / math.sqrt(width_a)), b * (scale / math.sqrt(width_b))], dim=1)


register("edm2-xxs", model_channels=64)(EDM2)  # in the authors' program, not in the paper
register("edm2-xs", model_channels=128)(EDM2)
register("edm2-s", model_channels=192)(EDM2)
register("edm2-m", model_channels=256, dropout=0.1)(EDM2)
register("edm2-l", model_channels=320, dropout=0.1)(EDM2)
register("edm2-xl", model_channels=384, dropout=0.1)(EDM2)
register("edm2-xxl", model_channels=448, dropout=0.1)(EDM2)
