"""Published networks behind the contract, five lines each at most; those of absent packages are left out."""

import contextlib

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel

import registry

with contextlib.suppress(ImportError):  # denoising-diffusion-pytorch
    from denoising_diffusion_pytorch import KarrasUnet, Unet

    @registry.register("ddp-unet")  # predicts noise, has no labels
    def ddp_unet(input_size=32, in_channels=3):
        net = Unet(16, dim_mults=(1, 2), channels=in_channels, flash_attn=False)
        sizes = {"input_size": input_size, "in_channels": in_channels, "size_multiple": 2}
        return registry.wrap(net, predicts="epsilon", time="step", **sizes)

    @registry.register("ddp-unet-x0")  # of GaussianDiffusion(objective="pred_x0", beta_schedule="cosine")
    def ddp_unet_x0(input_size=32, in_channels=3):
        net = Unet(16, dim_mults=(1, 2), channels=in_channels, flash_attn=False)
        sizes = {"input_size": input_size, "in_channels": in_channels, "size_multiple": 2}
        return registry.wrap(net, predicts="x0", time="step", beta_schedule="cosine", **sizes)

    @registry.register("karras-unet")  # EDM2's, preconditioned around it, given ln σ / 4
    def karras_unet(input_size=32, in_channels=3, num_classes=10):
        net = KarrasUnet(image_size=input_size, channels=in_channels, num_classes=num_classes + 1, **KARRAS)
        sizes = {"input_size": input_size, "in_channels": in_channels, "num_classes": num_classes}
        form = {"predicts": "edm", "time": "log_sigma", "space": "edm", "label_dropout": 0.1}
        return registry.wrap(net, call=lambda net, x, t, y: net(x, t, class_labels=y), **form, **sizes)


@registry.register("diffusers-dit")  # returns an object, learns the variance, drops labels itself
def dit(input_size=32, in_channels=4, num_classes=1000):
    options = {"sample_size": input_size, "in_channels": in_channels, "num_embeds_ada_norm": num_classes}
    net = DiTTransformer2DModel(2, 16, out_channels=2 * in_channels, num_layers=2, **options)
    sizes = {"input_size": input_size, "in_channels": in_channels, "num_classes": num_classes}
    form = {"predicts": "epsilon", "time": "step", "learn_sigma": True, "null_class": num_classes}
    return registry.wrap(net, **form, **sizes)


@registry.register("diffusers-unet")  # a flow from data to noise, of 1000·t; returns a tuple
def unet(input_size=32, in_channels=3):
    net = UNet2DModel(input_size, in_channels, in_channels, **SMALL)
    sizes = {"input_size": input_size, "in_channels": in_channels}
    call = lambda net, x, t, y: net(x, 1000 * t, return_dict=False)  # noqa: E731
    return registry.wrap(net, predicts="-velocity", time="-unit", call=call, **sizes)


@registry.register("diffusers-sd")  # wants text, of which there is none; counted and timed
def sd(input_size=64, in_channels=4):
    net = UNet2DConditionModel(input_size, in_channels, in_channels, cross_attention_dim=16, **SMALL_SD)
    sizes = {"input_size": input_size, "in_channels": in_channels, "beta_schedule": "scaled_linear"}
    call = lambda net, x, t, y: net(x, t, x.new_zeros(len(x), 77, 16))  # noqa: E731
    return registry.wrap(net, predicts="epsilon", time="step", call=call, **sizes)


class Denoiser(torch.nn.Module):
    """D(x; σ), as of EDM's program: a convolution between c_in and c_skip, which takes labels one-hot."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(channels, 16, 3, padding=1)
        self.label = torch.nn.Linear(classes, 16)
        self.noise = torch.nn.Linear(1, 16)
        self.last = torch.nn.Conv2d(16, channels, 3, padding=1)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        s = sigma.view(-1, 1, 1, 1)
        scale = (s**2 + 0.25).rsqrt()
        c = self.label(class_labels) + self.noise(sigma.log().view(-1, 1) / 4)
        h = self.last(torch.relu(self.first(scale * x) + c[:, :, None, None]))
        return 0.25 * scale**2 * x + 0.5 * s * scale * h


@registry.register("edm-denoiser")  # given σ, predicts x0
def edm_denoiser(input_size=32, in_channels=3, num_classes=10):
    net = Denoiser(in_channels, num_classes)
    sizes = {"input_size": input_size, "in_channels": in_channels, "num_classes": num_classes}
    call = lambda net, x, t, y: net(x, t, torch.nn.functional.one_hot(y, num_classes).to(x.dtype))  # noqa: E731
    return registry.wrap(net, predicts="x0", time="sigma", call=call, **sizes)


KARRAS = {"dim": 16, "dim_max": 32, "num_downsamples": 1, "attn_res": (4,), "attn_dim_head": 16}
SMALL = {
    "block_out_channels": (32, 32),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
SMALL_SD = {"block_out_channels": (32,) * 4, "layers_per_block": 1, "norm_num_groups": 8}
