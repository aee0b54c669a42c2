"""Plain, slow second opinion on DiT, U-DiT, U-ViT and TinyUNet, for tests and the benchmark.

Every network is one function of a flat state dict in its authors' checkpoint layout, an input, timesteps
and labels. Nothing is fused, merged, cached or dropped out: each formula is written out where it is used,
each weight is looked up by name, and sizes come from the shapes of the weights. Nothing here is shared with
the package under test.

Shapes: N batch, C channels, H x W grid, T tokens, D width, h heads, d = D/h. Tokens are (N, T, D) in
row-major order, feature maps (N, C, H, W). Everything follows the dtype and the device of the input.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute tables in: float32, or float64 if the input is float64."""
    return torch.promote_types(dtype, torch.float32)


def _frequencies(count: int, like: Tensor) -> Tensor:
    """10000^(-i/count), i = 0 ... count - 1, with the dtype and device of `like`."""
    i = torch.arange(count, dtype=like.dtype, device=like.device)
    return torch.exp(-math.log(10000) * i / count)


def _sinusoid(t: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """(N,) timesteps -> (N, width): the cosines, then the sines."""
    t = t.to(_wide(dtype))
    angle = t[:, None] * _frequencies(width // 2, t)
    return torch.cat([angle.cos(), angle.sin()], dim=1).to(dtype)


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def _conv(state: State, name: str, x: Tensor) -> Tensor:
    """Convolution that keeps the grid; dense or depthwise by the shape of its (odd-sized) kernel."""
    weight = state[f"{name}.weight"]
    groups = x.shape[1] // weight.shape[1]
    return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2, groups=groups)


def _norm(x: Tensor, eps: float) -> Tensor:
    """Layer norm over the channels of tokens or of a feature map, without affine."""
    dim = 1 if x.ndim == 4 else 2
    centred = x - x.mean(dim, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(dim, keepdim=True) + eps)


def _affine_norm(state: State, name: str, x: Tensor) -> Tensor:
    return _norm(x, 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return _norm(x, 1e-6) * (1 + scale) + shift


def _modulation(state: State, name: str, cond: Tensor, x: Tensor, count: int) -> list[Tensor]:
    """(N, D) condition -> `count` shifts, scales and gates for the channels of x, tokens or feature map."""
    shape = (len(x), -1, 1, 1) if x.ndim == 4 else (len(x), 1, -1)
    return [m.reshape(shape) for m in _linear(state, f"{name}.1", F.silu(cond)).chunk(count, dim=1)]


def _condition(state: State, suffix: str, t: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """(N,) steps and (N,) labels -> (N, D): the sum of their embeddings."""
    name = f"t_embedder{suffix}.mlp"
    hidden = F.silu(_linear(state, f"{name}.0", _sinusoid(t, 256, dtype)))
    return _linear(state, f"{name}.2", hidden) + state[f"y_embedder{suffix}.embedding_table.weight"][y]


def _heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, T, 3D), channels ordered (q|k|v, head, channel) -> q, k, v, each (N, h, T, d)."""
    q, k, v = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    return q, k, v


def _attention(q: Tensor, k: Tensor, v: Tensor, scale: Tensor | float) -> Tensor:
    """Three times (N, h, T, d) -> (N, T, D); the scale is a number or (h, 1, 1)."""
    logits = torch.matmul(q, k.transpose(2, 3)) * scale
    return torch.matmul(torch.softmax(logits, dim=3), v).transpose(1, 2).flatten(2)


def _token_attention(state: State, name: str, x: Tensor, num_heads: int) -> Tensor:
    q, k, v = _heads(_linear(state, f"{name}.qkv", x), num_heads)
    return _linear(state, f"{name}.proj", _attention(q, k, v, q.shape[3] ** -0.5))


def _token_mlp(state: State, name: str, x: Tensor, approximate: str) -> Tensor:
    return _linear(state, f"{name}.fc2", F.gelu(_linear(state, f"{name}.fc1", x), approximate=approximate))


def _patchify(state: State, name: str, x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, HW/p^2, D), one token for each p x p patch."""
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], stride=weight.shape[-1]).flatten(2).transpose(1, 2)


def _unpatchify(x: Tensor, rows: int, cols: int, patch: int) -> Tensor:
    """(N, rows*cols, p^2 C), ordered (row, column, channel) inside a patch -> (N, C, rows*p, cols*p)."""
    x = x.reshape(len(x), rows, cols, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(*x.shape[:2], rows * patch, cols * patch)


def _count(state: State, name: str) -> int:
    """How many numbered modules there are under `name`."""
    return len({key.split(".")[1] for key in state if key.startswith(f"{name}.")})


def _dit_positions(rows: int, cols: int, width: int, like: Tensor) -> Tensor:
    """(1, rows*cols, width): sines and cosines of the column, then of the row; from float64."""
    index = torch.arange(rows * cols, dtype=torch.float64, device=like.device)[:, None]
    omega = _frequencies(width // 4, index)
    col, row = (index % cols) * omega, (index // cols) * omega
    return torch.cat([col.sin(), col.cos(), row.sin(), row.cos()], dim=1)[None].to(like.dtype)


def dit(state: State, x: Tensor, t: Tensor, y: Tensor, *, num_heads: int) -> Tensor:
    """DiT and SiT: (N, C, H, W), (N,) steps 0...999, (N,) labels -> (N, C_out, H, W).

    Peebles and Xie, "Scalable Diffusion Models with Transformers" (arXiv 2212.09748); layout of
    facebookresearch/DiT. The position table is taken from the state, or computed where it has none.
    """
    patch = state["x_embedder.proj.weight"].shape[-1]
    rows, cols = x.shape[2] // patch, x.shape[3] // patch
    cond = _condition(state, "", t, y, x.dtype)
    x = _patchify(state, "x_embedder.proj", x)
    x = x + (state["pos_embed"] if "pos_embed" in state else _dit_positions(rows, cols, x.shape[2], x))
    for i in range(_count(state, "blocks")):
        name = f"blocks.{i}"
        m = _modulation(state, f"{name}.adaLN_modulation", cond, x, 6)
        x = x + m[2] * _token_attention(state, f"{name}.attn", _modulate(x, m[0], m[1]), num_heads)
        x = x + m[5] * _token_mlp(state, f"{name}.mlp", _modulate(x, m[3], m[4]), "tanh")
    shift, scale = _modulation(state, "final_layer.adaLN_modulation", cond, x, 2)
    x = _linear(state, "final_layer.linear", _modulate(x, shift, scale))
    return _unpatchify(x, rows, cols, patch)


def _rope(x: Tensor, cols: int) -> Tensor:
    """Turn channel pairs of (N, h, T, d): pair 2i by column * theta_i, pair 2i + 1 by row * theta_i."""
    index = torch.arange(x.shape[2], dtype=_wide(x.dtype), device=x.device)[:, None]
    theta = _frequencies(x.shape[3] // 4, index)
    angle = torch.stack([(index % cols) * theta, (index // cols) * theta], dim=2).flatten(1)
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., 0::2].to(angle.dtype), x[..., 1::2].to(angle.dtype)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=4).flatten(3).to(x.dtype)


def _map_attention(
    state: State, name: str, x: Tensor, num_heads: int, cosine: bool, rope: bool, factor: int, shortcut: bool
) -> Tensor:
    """Attention of (N, C, H, W) inside each of the factor^2 groups of tokens with equal (i, j) mod factor."""
    if x.shape[2] % factor or x.shape[3] % factor:
        raise ValueError(f"a grid of {x.shape[2]} x {x.shape[3]} does not divide by {factor}")
    if f"{name}.downsampler.layer.weight" in state:
        mapped = _conv(state, f"{name}.downsampler.layer", x)
        x = x + mapped if shortcut else mapped
    out = torch.zeros_like(x)
    for i, j in itertools.product(range(factor), repeat=2):
        group = x[:, :, i::factor, j::factor]
        q, k, v = _heads(_linear(state, f"{name}.to_qkv", group.flatten(2).transpose(1, 2)), num_heads)
        scale: Tensor | float = q.shape[3] ** -0.5
        if rope:
            q, k = _rope(q, group.shape[3]), _rope(k, group.shape[3])
        if cosine:
            q, k = F.normalize(q, dim=3), F.normalize(k, dim=3)
            scale = state[f"{name}.logit_scale"].clamp(max=4.6052).exp()
        out[:, :, i::factor, j::factor] = _attention(q, k, v, scale).transpose(1, 2).reshape(group.shape)
    return _conv(state, f"{name}.to_out", out)


def _map_ffn(state: State, name: str, x: Tensor) -> Tensor:
    """Feed-forward network of (N, C, H, W); its kind shows in the names of its weights."""
    if f"{name}.fc1.weight" in state:  # mlp
        return _conv(state, f"{name}.fc2", F.gelu(_conv(state, f"{name}.fc1", x), approximate="tanh"))
    if f"{name}.dwconv.weight" in state:  # dwconv
        x = F.gelu(_conv(state, f"{name}.project_in", x))
        return _conv(state, f"{name}.project_out", _conv(state, f"{name}.dwconv", x))
    x = F.gelu(_conv(state, f"{name}.project_in.1", _conv(state, f"{name}.project_in.0", x)))  # reparam
    x = x + sum(_conv(state, f"{name}.dwconv.{i}", x) for i in range(3))
    return _conv(state, f"{name}.project_out.1", _conv(state, f"{name}.project_out.0", x))


def udit(
    state: State, x: Tensor, t: Tensor, y: Tensor, *,
    num_heads: int, cosine: bool, rope: bool, factor: int, shortcut: bool,
) -> Tensor:  # fmt: skip
    """DiT-UNet and U-DiT: (N, C, H, W), (N,) steps 0...999, (N,) labels -> (N, C_out, H, W).

    Tian et al., "U-DiTs: Downsample Tokens in U-Shaped Diffusion Transformers" (arXiv 2405.02730); layout of
    YuchuanTian/U-DiT. H and W divide by 4 * factor. `factor` 1 is full attention, 2 the downsampled one;
    `shortcut` adds the downsampler's input to its output. The re-parameterised FFN runs branch by branch.
    """
    conds = [_condition(state, f"_{level}", t, y, x.dtype) for level in (1, 2, 3)]

    def stage(name: str, x: Tensor, cond: Tensor) -> Tensor:
        for unit, layer in itertools.product(range(_count(state, name)), (1, 2)):
            attn, mlp = f"{name}.{unit}.attn{layer}", f"{name}.{unit}.mlp{layer}"
            m = _modulation(state, f"{name}.{unit}.adaLN_modulation{layer}", cond, x, 6)
            z = _modulate(x, m[0], m[1])
            x = x + m[2] * _map_attention(state, attn, z, num_heads, cosine, rope, factor, shortcut)
            x = x + m[5] * _map_ffn(state, mlp, _modulate(x, m[3], m[4]))
        return x

    skip1 = stage("encoder_level_1", _conv(state, "x_embedder.proj", x), conds[0])
    skip2 = stage("encoder_level_2", F.pixel_unshuffle(_conv(state, "down1_2.body.0", skip1), 2), conds[1])
    x = stage("latent", F.pixel_unshuffle(_conv(state, "down2_3.body.0", skip2), 2), conds[2])
    x = torch.cat([F.pixel_shuffle(_conv(state, "up3_2.body.0", x), 2), skip2], dim=1)
    x = stage("decoder_level_2", _conv(state, "reduce_chan_level2", x), conds[1])
    x = torch.cat([F.pixel_shuffle(_conv(state, "up2_1.body.0", x), 2), skip1], dim=1)
    x = stage("decoder_level_1", _conv(state, "reduce_chan_level1", x), conds[1])  # twice the stem's width
    x = _conv(state, "output", x)
    shift, scale = _modulation(state, "final_layer.adaLN_modulation", conds[1], x, 2)
    return _conv(state, "final_layer.out_proj", _modulate(x, shift, scale))


def _uvit_block(state: State, name: str, x: Tensor, num_heads: int) -> Tensor:
    x = x + _token_attention(state, f"{name}.attn", _affine_norm(state, f"{name}.norm1", x), num_heads)
    return x + _token_mlp(state, f"{name}.mlp", _affine_norm(state, f"{name}.norm2", x), "none")


def uvit(state: State, x: Tensor, t: Tensor, y: Tensor | None, *, num_heads: int) -> Tensor:
    """U-ViT: (N, C, H, W), (N,) steps 0...999, (N,) labels or None -> noise (N, C, H, W).

    Bao et al., "All are Worth Words: A ViT Backbone for Diffusion Models" (arXiv 2209.12152); layout of
    baofff/U-ViT. Class-conditional where the state has a label table; the time token has no MLP.
    """
    patch = state["patch_embed.proj.weight"].shape[-1]
    rows, cols = x.shape[2] // patch, x.shape[3] // patch
    x = _patchify(state, "patch_embed.proj", x)
    x = torch.cat([_sinusoid(t, x.shape[2], x.dtype)[:, None], x], dim=1)
    if "label_emb.weight" in state:
        x = torch.cat([state["label_emb.weight"][y][:, None], x], dim=1)
    x = x + state["pos_embed"]
    half = _count(state, "in_blocks")
    skips = []
    for i in range(half):
        x = _uvit_block(state, f"in_blocks.{i}", x, num_heads)
        skips.append(x)
    x = _uvit_block(state, "mid_block", x, num_heads)
    for i in range(half):
        x = _linear(state, f"out_blocks.{i}.skip_linear", torch.cat([x, skips.pop()], dim=2))
        x = _uvit_block(state, f"out_blocks.{i}", x, num_heads)
    x = _affine_norm(state, "norm", x)[:, -rows * cols :]  # without the label and time tokens
    x = _unpatchify(_linear(state, "decoder_pred", x), rows, cols, patch)
    return _conv(state, "final_layer", x)


def tiny_unet(state: State, x: Tensor, t: Tensor) -> Tensor:
    """TinyUNet of the article "U-Net Architecture", its norms given as many of 8 groups as divide C.

    Args:
        state: in the article's names (t_emb.1.weight, d1.norm1.weight, …, out.bias).
        x: (N, C, H, W).
        t: (N,).

    Returns:
        (N, C, H, W).
    """

    def norm(name: str, z: Tensor) -> Tensor:
        groups = next(g for g in (8, 4, 2, 1) if z.shape[1] % g == 0)
        return F.group_norm(z, groups, state[f"{name}.weight"], state[f"{name}.bias"])

    def block(name: str, z: Tensor) -> Tensor:
        h = _conv(state, f"{name}.conv1", F.silu(norm(f"{name}.norm1", z)))
        h = h + _linear(state, f"{name}.t_proj", F.silu(embedding))[:, :, None, None]
        h = _conv(state, f"{name}.conv2", F.silu(norm(f"{name}.norm2", h)))
        return h + (_conv(state, f"{name}.skip", z) if f"{name}.skip.weight" in state else z)

    def join(z: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([F.interpolate(z, size=skip.shape[-2:], mode="nearest"), skip], dim=1)

    cos, sin = _sinusoid(t, state["t_emb.1.weight"].shape[1], x.dtype).chunk(2, dim=1)
    embedding = _linear(state, "t_emb.1", torch.cat([sin, cos], dim=1))
    embedding = _linear(state, "t_emb.3", F.silu(embedding))
    s1 = block("d1", x)
    s2 = block("d2", F.avg_pool2d(s1, 2))
    s3 = block("d3", F.avg_pool2d(s2, 2))
    z = block("u3", join(block("mid", F.avg_pool2d(s3, 2)), s3))
    z = block("u1", join(block("u2", join(z, s2)), s1))
    return _conv(state, "out", z)
