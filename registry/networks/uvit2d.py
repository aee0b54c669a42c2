"""diffusers' UVit2DModel, and a class-conditional latent denoiser built from its blocks.

UVit2DModel is the U-ViT of "simple diffusion" (arXiv 2301.11093), adapted to masked token prediction. The
U-ViT of arXiv 2209.12152 (`uvit-*`) is a different network.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from diffusers import UVit2DModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.normalization import RMSNorm
from diffusers.models.unets.uvit_2d import ConvMlmLayer, UVitBlock
from torch import Tensor, nn

from registry import register
from registry.backbone import Backbone, LongSkip, Size, height_width, require_positive
from registry.checkpoints import Rule
from registry.layers.attention import check_heads
from registry.layers.embeddings import LabelEmbedding, TimestepEmbedding


class UVit2D(Backbone):
    """UVit2DModel with diffusers' defaults: predicts codebook logits from VQ tokens and text."""

    checkpoint_names: ClassVar[list[Rule]] = [(r"^", "net.")]

    def __init__(self, input_size: Size = 16) -> None:
        """
        Args:
            input_size: side of the grid of VQ tokens, or (H, W); 16 for 256×256 images and a VQ-GAN that
                downsamples by 16.
        """
        super().__init__(input_size=input_size, in_channels=1, num_classes=0)
        self.net = UVit2DModel()
        self.out_channels = self.net.config.codebook_size

    def example_inputs(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        """Token ids (N, H, W), text embeddings (N, 77, 768), pooled (N, 768), micro-conditions (N, 5)."""
        config, weight = self.net.config, self.net.project_to_hidden.weight
        like = {"device": weight.device, "dtype": weight.dtype}
        conditions = config.micro_cond_embed_dim // config.micro_cond_encode_dim
        return (
            torch.randint(
                config.vocab_size, (batch_size, *height_width(self.input_size)), device=weight.device
            ),
            torch.randn(batch_size, 77, config.encoder_hidden_size, **like),
            torch.randn(batch_size, config.cond_embed_dim, **like),
            torch.rand(batch_size, conditions, **like) * 512,
        )

    def forward(self, tokens: Tensor, text: Tensor, pooled: Tensor, micro_conditions: Tensor) -> Tensor:
        """Arguments as of `example_inputs` -> logits (N, codebook_size, H, W)."""
        return self.net(tokens, text, pooled, micro_conditions)

    def stages(self) -> dict[str, nn.Module]:
        return dict(self.net.named_children())


class UVit2DLatent(Backbone):
    """Class-conditional denoiser of UVit2DModel's blocks: a transformer between two convolutional stages.

    The latent replaces the VQ tokens. The sum of step and label embeddings replaces pooled text and micro-
    conditions; cross-attention is to the two of them instead of to text. Predicts noise.

    Unlike UVit2DModel it has long skips: one around the transformer, one around everything between stem and
    head. A denoiser needs them to predict the noise of every cell, which the halved grid and the norms would
    lose. The U-ViT of "simple diffusion" has the skips of a U-Net for the same reason.
    """

    def __init__(
        self,
        input_size: Size = 32,
        num_classes: int = 1000,
        in_channels: int = 4,
        block_out_channels: int = 256,
        num_res_blocks: int = 2,
        hidden_size: int = 512,
        depth: int = 12,
        num_heads: int = 8,
        mlp_ratio: float = 2.75,
        class_dropout_prob: float = 0.1,
    ) -> None:
        """
        Args:
            input_size: side of the input grid in cells, or (H, W); 32 for latents of 256×256 images.
            num_classes: number of classes without the null class; 0: unconditional.
            in_channels: channels of the input; 4 for latents.
            block_out_channels: channels of the two convolutional stages; the transformer runs at H/2, W/2.
            num_res_blocks: pairs of a ConvNeXt block and an attention in each convolutional stage.
            hidden_size: width D of a token, in channels.
            depth: transformer blocks between the stages.
            num_heads: attention heads in the transformer and in the stages.
            mlp_ratio: feed-forward width as a multiple of hidden_size; 2.75 as in UVit2DModel's defaults.
            class_dropout_prob: probability that a label becomes the null class in training; 0: no null class.

        Raises:
            UsageError: a width is not a multiple of num_heads, or a size is not positive.
        """
        super().__init__(
            input_size=input_size, in_channels=in_channels, num_classes=num_classes, size_multiple=2
        )
        require_positive(block_out_channels=block_out_channels, num_res_blocks=num_res_blocks)
        require_positive(hidden_size=hidden_size, depth=depth, mlp_ratio=mlp_ratio)
        check_heads(hidden_size, num_heads)
        check_heads(block_out_channels, num_heads)
        eps, affine, bias = 1e-6, True, False

        def end(downsample: bool) -> UVitBlock:
            return UVitBlock(
                block_out_channels,
                num_res_blocks,
                hidden_size,
                0.0,
                affine,
                eps,
                bias,
                num_heads,
                0.0,
                downsample,
                not downsample,
            )

        self.embed = nn.Conv2d(in_channels, block_out_channels, 1, bias=bias)
        self.time = TimestepEmbedding(hidden_size)
        self.label = LabelEmbedding(num_classes, hidden_size, class_dropout_prob) if num_classes else None
        self.down_block = end(downsample=True)
        self.to_hidden = nn.Sequential(
            RMSNorm(block_out_channels, eps, affine), nn.Linear(block_out_channels, hidden_size, bias=bias)
        )
        self.transformer = nn.ModuleList(
            BasicTransformerBlock(
                dim=hidden_size,
                num_attention_heads=num_heads,
                attention_head_dim=hidden_size // num_heads,
                cross_attention_dim=hidden_size,
                attention_bias=bias,
                norm_type="ada_norm_continuous",
                ada_norm_continous_conditioning_embedding_dim=hidden_size,
                norm_elementwise_affine=affine,
                norm_eps=eps,
                ada_norm_bias=bias,
                ff_inner_dim=int(hidden_size * mlp_ratio),
                ff_bias=bias,
                attention_out_bias=bias,
            )
            for _ in range(depth)
        )
        self.from_hidden = nn.Sequential(
            RMSNorm(hidden_size, eps, affine), nn.Linear(hidden_size, block_out_channels, bias=bias)
        )
        self.skip2 = LongSkip()
        self.up_block = end(downsample=False)
        self.skip1 = LongSkip()
        self.head = ConvMlmLayer(block_out_channels, block_out_channels, bias, affine, eps, in_channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.check_input(x)
        context = self.time(t)[:, None]
        if self.label is not None:
            context = torch.cat([context, self.label(y)[:, None]], dim=1)  # (N, 2, D)
        pooled = context.sum(dim=1)  # (N, D)

        skip1 = self.embed(x)  # (N, C, H, W)
        skip2 = self.down_block(skip1, pooled, context, None)  # (N, C, H/2, W/2)
        n, channels, height, width = skip2.shape
        x = self.to_hidden(skip2.permute(0, 2, 3, 1).reshape(n, height * width, channels))
        for block in self.transformer:
            x = block(x, encoder_hidden_states=context, added_cond_kwargs={"pooled_text_emb": pooled})
        x = self.from_hidden(x).reshape(n, height, width, channels).permute(0, 3, 1, 2)
        # Stages of diffusers view their input as (N, C, H·W), so it must be contiguous.
        x = (x + self.skip2(skip2)).contiguous()
        return self.head(self.up_block(x, pooled, context, None) + self.skip1(skip1))


register("uvit2d")(UVit2D)
register("uvit2d-latent")(UVit2DLatent)
