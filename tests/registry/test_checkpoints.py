"""Checkpoints of the authors and of diffusers: what loads, what it computes, and what is refused."""

import argparse
import itertools
import json
import os
import pathlib
import pickle
import random
import shutil
import sys
import types
import warnings
import zipfile

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file
from torch import nn

import registry
from registry import checkpoints
from registry.networks.udit import UDiT
from registry.networks.uvit import UViT
from tests import plain
from tests.conftest import REFERENCE, VARIANTS
from tests.reference import recipe

# ---- the authors' layouts: names and shapes for any size, held against tests/reference ----


def affine(name, outer, *inner):
    """A weight (outer, *inner) and its bias."""
    return {f"{name}.weight": (outer, *inner), f"{name}.bias": (outer,)}


def condition(suffix, width, classes):
    return {
        **affine(f"t_embedder{suffix}.mlp.0", width, 256),
        **affine(f"t_embedder{suffix}.mlp.2", width, width),
        f"y_embedder{suffix}.embedding_table.weight": (classes + 1, width),
    }


def dit_shapes(*, hidden_size, depth, patch_size, classes, in_channels=4, ratio=4, learn_sigma=True):
    d, out = hidden_size, in_channels * (2 if learn_sigma else 1)
    shapes = {
        **affine("x_embedder.proj", d, in_channels, patch_size, patch_size),
        **condition("", d, classes),
        **affine("final_layer.linear", patch_size**2 * out, d),
        **affine("final_layer.adaLN_modulation.1", 2 * d, d),
    }
    for i in range(depth):
        shapes |= affine(f"blocks.{i}.attn.qkv", 3 * d, d) | affine(f"blocks.{i}.attn.proj", d, d)
        shapes |= affine(f"blocks.{i}.mlp.fc1", ratio * d, d) | affine(f"blocks.{i}.mlp.fc2", d, ratio * d)
        shapes |= affine(f"blocks.{i}.adaLN_modulation.1", 6 * d, d)
    return shapes


def udit_shapes(*, hidden_size, depth, num_heads, ratio, ffn, downsampler, cosine, classes, in_channels=4):
    c1, c2, c3 = hidden_size, 2 * hidden_size, 4 * hidden_size
    shapes = {
        **affine("x_embedder.proj", c1, in_channels, 3, 3),
        **{k: s for i, c in enumerate((c1, c2, c3), 1) for k, s in condition(f"_{i}", c, classes).items()},
        "down1_2.body.0.weight": (c1 // 2, c1, 3, 3),
        "down2_3.body.0.weight": (c2 // 2, c2, 3, 3),
        "up3_2.body.0.weight": (2 * c3, c3, 3, 3),
        "up2_1.body.0.weight": (2 * c2, c2, 3, 3),
        **affine("reduce_chan_level2", c2, 2 * c2, 1, 1),
        **affine("reduce_chan_level1", c2, 2 * c1, 1, 1),
        **affine("output", c2, c2, 3, 3),
        **affine("final_layer.out_proj", 2 * in_channels, c2, 3, 3),
        **affine("final_layer.adaLN_modulation.1", 2 * c2, c2),
    }
    kernels = {"depthwise": (1, 5, 5), "depthwise+shortcut": (1, 5, 5)}
    levels = ("encoder_level_1", "encoder_level_2", "latent", "decoder_level_2", "decoder_level_1")
    for level, d, units in zip(levels, (c1, c2, c3, c2, c2), depth, strict=True):
        hidden = int(ratio * d)
        for unit, layer in itertools.product(range(units), (1, 2)):
            attn, mlp = f"{level}.{unit}.attn{layer}", f"{level}.{unit}.mlp{layer}"
            shapes |= affine(f"{attn}.to_qkv", 3 * d, d) | affine(f"{attn}.to_out", d, d, 1, 1)
            shapes |= affine(f"{level}.{unit}.adaLN_modulation{layer}.1", 6 * d, d)
            if cosine:
                shapes[f"{attn}.logit_scale"] = (num_heads, 1, 1)
            if downsampler is not None and downsampler != "pixel-shuffle":
                shapes |= affine(f"{attn}.downsampler.layer", d, *kernels.get(downsampler, (d, 3, 3)))
            if ffn == "mlp":
                shapes |= affine(f"{mlp}.fc1", hidden, d, 1, 1) | affine(f"{mlp}.fc2", d, hidden, 1, 1)
            elif ffn == "dwconv":
                shapes |= affine(f"{mlp}.project_in", hidden, d, 1, 1)
                shapes |= affine(f"{mlp}.dwconv", hidden, 1, 5, 5)
                shapes |= affine(f"{mlp}.project_out", d, hidden, 1, 1)
            else:
                shapes |= affine(f"{mlp}.project_in.0", hidden // 2, d, 1, 1)
                shapes |= affine(f"{mlp}.project_in.1", hidden, hidden // 2, 1, 1)
                for i, k in enumerate((5, 3, 1)):
                    shapes |= affine(f"{mlp}.dwconv.{i}", hidden, 1, k, k)
                shapes |= affine(f"{mlp}.project_out.0", hidden // 2, hidden, 1, 1)
                shapes |= affine(f"{mlp}.project_out.1", d, hidden // 2, 1, 1)
    return shapes


def uvit_shapes(*, hidden_size, depth, patch_size, tokens, classes, null_class=True, in_channels=4, ratio=4):
    d = hidden_size
    shapes = {
        "pos_embed": (1, tokens + (2 if classes else 1), d),
        **affine("patch_embed.proj", d, in_channels, patch_size, patch_size),
        **affine("norm", d),
        **affine("decoder_pred", patch_size**2 * in_channels, d),
        **affine("final_layer", in_channels, in_channels, 3, 3),
    }
    if classes:
        shapes["label_emb.weight"] = (classes + null_class, d)
    sides = [f"{side}_blocks.{i}" for side in ("in", "out") for i in range(depth // 2)]
    for name in ("mid_block", *sides):
        shapes |= affine(f"{name}.norm1", d) | affine(f"{name}.norm2", d)
        shapes |= {f"{name}.attn.qkv.weight": (3 * d, d), **affine(f"{name}.attn.proj", d, d)}
        shapes |= affine(f"{name}.mlp.fc1", ratio * d, d) | affine(f"{name}.mlp.fc2", d, ratio * d)
        if name.startswith("out"):
            shapes |= affine(f"{name}.skip_linear", d, 2 * d)
    return shapes


T_SIZE = {"hidden_size": 48, "depth": (1, 1, 2, 1, 1), "num_heads": 2, "ratio": 4, "classes": 1000}
S_SIZE = {"hidden_size": 96, "depth": (2, 5, 8, 5, 2), "num_heads": 4, "ratio": 2, "classes": 1000}
ALL_ON = {"ffn": "reparam", "downsampler": "depthwise+shortcut", "cosine": True}
LAYOUTS = {
    "dit-s-8": dit_shapes(hidden_size=384, depth=12, patch_size=8, classes=1000),
    "dit-s-4": dit_shapes(hidden_size=384, depth=12, patch_size=4, classes=1000),
    "dit-unet": udit_shapes(**T_SIZE, ffn="mlp", downsampler=None, cosine=False),
    "udit-t": udit_shapes(**T_SIZE, **ALL_ON),
    "udit-s": udit_shapes(**S_SIZE, **ALL_ON),
    "uvit-s-2": uvit_shapes(hidden_size=512, depth=12, patch_size=2, tokens=256, classes=1000),
    "uvit-s-2-cifar10": uvit_shapes(
        hidden_size=512, depth=12, patch_size=2, tokens=256, classes=0, in_channels=3
    ),
    **{
        case: udit_shapes(**T_SIZE, **{**ALL_ON, **{k: v for k, v in overrides.items() if k != "rope"}})
        for case, (name, overrides) in VARIANTS.items()
        if name == "udit-t"
    },
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_the_layouts_here_are_the_authors(case):
    theirs = json.loads((REFERENCE / f"{case}.keys.json").read_text())
    ours = {name: list(shape) for name, shape in LAYOUTS[case].items()}
    if case.startswith("dit-s"):
        ours["pos_embed"] = theirs["pos_embed"]  # their fixed table, left out of the states here
    assert ours == theirs


def weights(shapes, dtype=torch.float32):
    """The recipe's weights for a layout."""
    return {name: torch.from_numpy(recipe.weight(name, shape)).to(dtype) for name, shape in shapes.items()}


def unchanged(network, before):
    after = network.state_dict()
    return list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


def snapshot(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


# ---- small networks of each family: (ours, authors' state, plain function) ----


def small_dit(seed, dtype=torch.float32):
    draw = random.Random(seed)
    heads, patch = draw.choice([1, 2, 3]), draw.choice([1, 2, 4])
    sizes = {"hidden_size": 4 * heads * draw.choice([1, 2, 4]), "depth": draw.choice([1, 2, 3])}
    common = {**sizes, "patch_size": patch, "in_channels": draw.choice([3, 4]), "learn_sigma": seed % 2 == 0}
    height, width = patch * draw.choice([2, 3, 5]), patch * draw.choice([2, 4])
    state = weights(dit_shapes(**common, classes=5), dtype)
    network = registry.create(
        "dit-s-2", **common, num_heads=heads, num_classes=5, input_size=(height, width)
    ).to(dtype)
    return network, state, lambda s, x, t, y: plain.dit(s, x, t, y, num_heads=heads)


# Every kind of feed-forward branch, of downsampler and of attention at least once.
UDITS = [
    ("full", "depthwise", "mlp", False, False),
    ("full", "depthwise", "reparam", True, True),
    ("downsampled", "pixel-shuffle", "mlp", False, False),
    ("downsampled", "depthwise", "mlp", True, False),
    ("downsampled", "depthwise+shortcut", "dwconv", False, True),
    ("downsampled", "depthwise+shortcut", "reparam", True, True),
    ("downsampled", "conv", "dwconv", True, True),
    ("downsampled", "conv", "reparam", False, False),
]


def small_udit(seed, dtype=torch.float32):
    draw = random.Random(seed)
    attention, downsampler, ffn, cosine, rope = UDITS[seed % len(UDITS)]
    heads, factor = draw.choice([1, 2]), 2 if attention == "downsampled" else 1
    depth = tuple(draw.choice([1, 2]) if i == seed % 5 else 1 for i in range(5))
    sizes = {"hidden_size": 4 * heads * draw.choice([1, 2]), "depth": depth, "num_heads": heads}
    switches = {"ffn": ffn, "downsampler": downsampler, "cosine": cosine}
    ratio = draw.choice([2, 4])
    height, width = (4 * factor * draw.choice([1, 2, 3]) for _ in range(2))
    stored = {**switches, "downsampler": downsampler if factor == 2 else None}
    state = weights(udit_shapes(**sizes, **stored, ratio=ratio, classes=5), dtype)
    network = registry.create(
        "udit-t", **sizes, **switches, attention=attention, rope=rope, mlp_ratio=ratio, num_classes=5,
        input_size=(height, width),
    ).to(dtype)  # fmt: skip
    shortcut = downsampler in ("depthwise+shortcut", "conv")
    how = {"num_heads": heads, "cosine": cosine, "rope": rope, "factor": factor, "shortcut": shortcut}
    return network, state, lambda s, x, t, y: plain.udit(s, x, t, y, **how)


def small_uvit(seed, dtype=torch.float32):
    draw = random.Random(seed)
    heads, patch, classes = draw.choice([1, 2, 3]), draw.choice([1, 2, 4]), [5, 0, 5][seed % 3]
    sizes = {"hidden_size": 2 * heads * draw.choice([2, 4]), "depth": draw.choice([2, 4])}
    common = {**sizes, "patch_size": patch, "in_channels": draw.choice([3, 4])}
    null = draw.choice([True, False])
    rows, columns = draw.choice([2, 3, 5]), draw.choice([2, 4])
    state = weights(uvit_shapes(**common, tokens=rows * columns, classes=classes, null_class=null), dtype)
    network = registry.create(
        "uvit-s-2", **common, num_heads=heads, num_classes=classes, class_dropout_prob=0.1 * null,
        input_size=(rows * patch, columns * patch),
    ).to(dtype)  # fmt: skip
    return network, state, lambda s, x, t, y: plain.uvit(s, x, t, y, num_heads=heads)


FAMILIES = {"dit": (small_dit, 6), "udit": (small_udit, 2 * len(UDITS)), "uvit": (small_uvit, 6)}
CASES = [(family, seed) for family, (_, count) in FAMILIES.items() for seed in range(count)]


def example(network, seed):
    torch.manual_seed(seed)
    x, _, _ = network.example_inputs(3)
    return x, torch.tensor([0.0, 13.5, 777.0]), torch.tensor([0, 2, 4])


@pytest.mark.parametrize(("family", "seed"), CASES)
@torch.no_grad()
def test_authors_weights_give_the_authors_formulas(family, seed):
    network, state, formulas = FAMILIES[family][0](seed)
    assert registry.load_checkpoint(network, state) is network
    inputs = example(network, seed)
    expected = formulas(state, *inputs)
    assert 0.05 < expected.std() < 10
    assert (network.eval()(*inputs) - expected).abs().max() < 2e-5
    assert (network.deploy()(*inputs) - expected).abs().max() < 2e-5


def test_the_small_sizes_are_of_every_kind():
    sizes = [FAMILIES[family][0](seed)[0].input_size for family, seed in CASES]
    assert any(isinstance(size, int) for size in sizes)
    assert any(isinstance(size, tuple) and size[0] < size[1] for size in sizes)
    assert any(isinstance(size, tuple) and size[0] > size[1] for size in sizes)


@pytest.mark.parametrize(
    ("family", "seed"), [("dit", 1), *(("udit", i) for i in range(len(UDITS))), ("uvit", 3)]
)
def test_gradients_equal_the_formulas(family, seed, monkeypatch):
    make = FAMILIES[family][0]
    network, state, formulas = make(seed, torch.float64)
    # Tables that the networks keep in float32 are so in both, and do not bound the comparison.
    monkeypatch.setattr(plain, "_sinusoid", lambda t, width, dtype: sinusoids(t, width).to(dtype))
    if family == "dit":
        state["pos_embed"] = network.pos_embed.detach().clone()
    registry.load_checkpoint(network, state).eval()
    inputs = example(network, seed)
    output = network(*inputs)
    direction = torch.randn_like(output)
    (output * direction).sum().backward()

    state = {name: tensor.requires_grad_() for name, tensor in state.items()}
    (formulas(state, *inputs) * direction).sum().backward()
    # The loader carries their gradients to our names.
    expected = make(seed, torch.float64)[0]
    registry.load_checkpoint(expected, {name: tensor.grad for name, tensor in state.items()})
    theirs = dict(expected.named_parameters())
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert (parameter.grad - theirs[name]).norm() < 1e-9 * (theirs[name].norm() + 1e-3), name


def sinusoids(t, width):
    """`[cos, sin]` of t·10000^(−i/(width/2)), rounded as the networks round it."""
    index = torch.arange(width // 2, dtype=torch.float64)
    angles = t.float()[:, None] * (10000 ** (-index / (width // 2))).float()
    return torch.cat([angles.cos(), angles.sin()], dim=1)


# ---- files ----

TINY = {"hidden_size": 8, "depth": 1, "patch_size": 2, "in_channels": 4}


def tiny(**overrides):
    return registry.create("dit-s-2", **TINY, num_heads=2, num_classes=3, input_size=4, **overrides)


@pytest.fixture
def state():
    return weights(dit_shapes(**TINY, classes=3))


@pytest.fixture
def loaded(state):
    """What a network holds once the state is in it."""
    return snapshot(registry.load_checkpoint(tiny(), state))


def write(path, content, **how):
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)
    else:
        torch.save(content, path, **how)
    return path


def wrong(state):
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def prefixed(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("layout", ["authors", "ours"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_every_kind_of_file(tmp_path, state, loaded, suffix, layout, prefix):
    content = prefixed(prefix, state if layout == "authors" else loaded)
    path = write(tmp_path / f"weights{suffix}", content)
    for source in (path, str(path), content):
        assert unchanged(registry.load_checkpoint(tiny(), source), loaded)
    assert list(content) == list(prefixed(prefix, state if layout == "authors" else loaded))  # not touched


@pytest.mark.parametrize("suffix", [".pt", ""])
def test_the_network_inside_a_training_checkpoint(tmp_path, state, loaded, suffix):
    def load(content, **how):
        source = write(tmp_path / "checkpoint.pt", content) if suffix else content
        return registry.load_checkpoint(tiny(), source, **how)

    rest = {"opt": {"state": {0: torch.ones(2)}, "param_groups": [{"lr": 1e-4}]}, "train_steps": 400_000}
    for name in ("ema", "model", "state_dict"):
        assert unchanged(load({**rest, name: state}), loaded)
    assert unchanged(load({"model": wrong(state), "ema": prefixed("module.", state), **rest}), loaded)
    assert unchanged(load({"ema": wrong(state), "model": state}, key="model"), loaded)
    assert unchanged(load({"ema": wrong(state), "other": state}, key="other"), loaded)
    assert unchanged(load({"ema": None, "model": state}), loaded)
    assert unchanged(load({**state, "step": 3, "args": {"lr": 1e-4}}), loaded)
    assert unchanged(load({"model": wrong(state), "ema": {**prefixed("net.", state), "decay": 0.9}}), loaded)


PAIRS = [
    ("model", "ema"),  # DiT, SiT
    ("model", "model_ema"),  # k-diffusion, torchvision
    ("model", "ema_model"),
    ("state_dict", "state_dict_ema"),  # timm
    ("state_dict", "ema_state_dict"),
    ("net", "ema"),
    ("module", "ema"),
    ("module", "module_ema"),
    ("params", "params_ema"),  # BasicSR
    ("g", "g_ema"),
    ("unet", "unetEma"),
    ("network", "EMA"),
    ("model", "ema_0.9999"),
    ("model", "swa_model"),
    ("model", "averaged"),
]


@pytest.mark.parametrize(("raw", "averaged"), PAIRS)
@pytest.mark.parametrize("first", [0, 1])
def test_the_averaged_one_of_every_usual_pair(state, loaded, raw, averaged, first):
    pair = [(raw, wrong(state)), (averaged, state)]
    content = {"step": 3, **dict([pair[first], pair[1 - first]]), "opt": {"state": {}, "param_groups": []}}
    assert unchanged(registry.load_checkpoint(tiny(), content), loaded)
    raw_alone = registry.load_checkpoint(tiny(), content, key=raw)
    assert not any(p.any() for n, p in raw_alone.named_parameters() if n != "pos_embed")


def test_averages_that_lie_deeper(state, loaded):
    """As PyTorch's AveragedModel, ema_pytorch and Lightning write them."""
    swa = {"n_averaged": torch.tensor(5), **prefixed("module.", state)}
    both = {**prefixed("online_model.", wrong(state)), **prefixed("ema_model.", state)}
    for content in (
        {"model": wrong(state), "model_ema": swa},
        {"model": wrong(state), "ema": {"initted": torch.ones(1), "step": torch.ones(1), **both}},
        {"state_dict": {**prefixed("net.", wrong(state)), **prefixed("net_ema.", state)}, "epoch": 1},
        {"state_dict": prefixed("net.", state)},
        {"checkpoint": {"model": wrong(state), "ema": {"module": state}}},
    ):
        assert unchanged(registry.load_checkpoint(tiny(), content), loaded)


def test_the_only_weights_that_fit(state, loaded):
    other = {"a.weight": torch.ones(2), "b.weight": torch.ones(3)}
    for content in (
        {"denoiser": state, "vae": other, "text": other},
        {"ema": state, "vae_ema": other, "model": wrong(state)},
    ):
        assert unchanged(registry.load_checkpoint(tiny(), content), loaded)


OTHERS = {"vae.encoder.weight": torch.ones(2), "loss.scale": torch.ones(1), "betas": torch.ones(1000)}
PREFIXES = ["model.", "net.", "module.model.", "model.module.", "denoiser._orig_mod.", "a.b.c."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("layout", ["authors", "ours"])
def test_a_prefix_beside_other_networks(state, loaded, prefix, layout):
    content = {**prefixed(prefix, state if layout == "authors" else loaded), **OTHERS}
    for source in (content, {"state_dict": content, "epoch": 3}):
        assert unchanged(registry.load_checkpoint(tiny(), source), loaded)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
@pytest.mark.parametrize("prefix", ["", "net.", "ema."])
def test_wrappers_inside_a_network(state, loaded, wrapper, prefix):
    def inside(name):
        return name.replace("blocks.0.", f"blocks.0.{wrapper}.").replace(".attn.", f".attn.{wrapper}.")

    content = prefixed(prefix, {inside(name): tensor for name, tensor in state.items()})
    assert unchanged(registry.load_checkpoint(tiny(), content), loaded)


class Compiled(nn.Module):
    """Of which a part is compiled: its own names have the wrapper."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Module()
        self.inner._orig_mod = nn.Linear(2, 2)


def test_a_wrapper_of_the_network_s_own_stays():
    network = Compiled()
    state = {name: torch.ones_like(tensor) for name, tensor in network.state_dict().items()}
    assert all(name.startswith("inner._orig_mod.") for name in state)
    registry.load_checkpoint(network, prefixed("model.", state))
    assert network.inner._orig_mod.weight.min() == 1


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [
        ("denoiser.", "ema_denoiser."),  # DDT, FlowDCN
        ("net.", "ema_net.module."),  # AveragedModel in a LightningModule
        ("model.net.", "model_ema.net."),
        ("ema.online_model.", "ema.ema_model."),  # ema_pytorch
        ("model.", "ema.ema_model.model."),
        ("_orig_mod.model.", "_orig_mod.ema."),
    ],
)
def test_averages_behind_prefixes(state, loaded, raw, averaged):
    content = {**prefixed(raw, wrong(state)), **OTHERS, **prefixed(averaged, state)}
    for source in (content, {"state_dict": content}):
        assert unchanged(registry.load_checkpoint(tiny(), source), loaded)
    named = registry.load_checkpoint(tiny(), {"state_dict": content}, key=raw.removesuffix("."))
    assert not any(p.any() for n, p in named.named_parameters() if n != "pos_embed")
    undecided = {**prefixed("one.", state), **prefixed("two.", state)}
    message = refused(tiny(), undecided)
    assert "several sets of weights, 'one', 'two', and 2 of them fit dit-s-2: name one by key" in message
    assert unchanged(registry.load_checkpoint(tiny(), undecided, key="two"), loaded)


def test_averages_without_dots_in_their_names(state, loaded):
    """LitEma, of latent diffusion and its relatives, leaves the dots out; buffers it does not hold."""
    raw = prefixed("model.diffusion_model.", {**wrong(state), "pos_embed": loaded["pos_embed"]})
    averages = {f"diffusion_model{name.replace('.', '')}": tensor for name, tensor in state.items()}
    averages |= {"decay": torch.ones(()), "num_updates": torch.ones((), dtype=torch.int32)}
    content = {"state_dict": {**raw, **prefixed("model_ema.", averages), **OTHERS}}
    assert unchanged(registry.load_checkpoint(tiny(), content), loaded)
    entries = {"model": raw, "ema": {name.replace(".", ""): tensor for name, tensor in state.items()}}
    assert unchanged(registry.load_checkpoint(tiny(), entries), loaded)
    other = {f"{name}x": tensor for name, tensor in averages.items()}
    message = refused(tiny(), {"state_dict": {**raw, **prefixed("model_ema.", other)}})
    assert "averaged weights 'state_dict.model_ema' that do not fit dit-s-2, beside " in message
    assert "beside 'state_dict.model.diffusion_model', which do: name one by key" in message


def lightning(state_dict, **more):
    """What Lightning's trainer saves."""
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}
    best = {"monitor": "loss", "best_model_score": torch.tensor(0.1), "best_model_path": "a.ckpt"}
    return {
        "epoch": 3, "global_step": 400_000, "pytorch-lightning_version": "2.5.0", "loops": {"fit_loop": {}},
        "state_dict": state_dict, "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": best},
        "optimizer_states": [optimizer], "lr_schedulers": [{"last_epoch": 3}], **more,
    }  # fmt: skip


def test_lightning_s_checkpoints(tmp_path, state, loaded):
    both = {**prefixed("denoiser.", wrong(state)), **prefixed("ema_denoiser.", state), **OTHERS}
    raw = prefixed("net.", wrong(state))
    cases = (
        lightning(prefixed("net.", state)),
        lightning(both),
        lightning(raw, callbacks={"EMACallback": {"decay": 0.9, "ema_state_dict": prefixed("net.", state)}}),
        # Lightning's own WeightAveraging: the average is in the usual place.
        lightning(prefixed("net.", state), current_model_state=raw, averaging_state={"n_averaged": OTHERS}),
    )
    for content in cases:
        path = write(tmp_path / "last.ckpt", content)
        assert unchanged(registry.load_checkpoint(tiny(), path), loaded)
    unnamed = lightning(
        raw, optimizer_states=[{"state": {}, "param_groups": [], "ema": list(state.values())}]
    )
    assert "averaged weights without names, in optimizer_states" in refused(tiny(), unnamed)
    last = registry.load_checkpoint(tiny(), unnamed, key="state_dict")
    assert not any(p.any() for n, p in last.named_parameters() if n != "pos_embed")
    message = refused(tiny(), lightning({"net.a.weight": torch.ones(2, 2)}))
    assert "does not fit dit-s-2: " in message and message.endswith("state_dict.net.a.weight")
    message = refused(tiny(), lightning(prefixed("net.", {**state, "a.weight": torch.ones(2, 2)})))
    assert message.endswith("entry 'state_dict.net', does not fit dit-s-2: 1 left over: a.weight")


@pytest.mark.parametrize("module", ["lightning.fabric.utilities.data", "pytorch_lightning.utilities.parsing"])
def test_lightning_s_options_and_paths_are_plain_values(tmp_path, state, loaded, module, monkeypatch):
    kind = type("AttributeDict", (dict,), {"__module__": module})
    with monkeypatch.context() as installed:
        for end in range(1, len(module.split(".")) + 1):
            name = ".".join(module.split(".")[:end])
            installed.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules[module].AttributeDict = kind
        options = kind({"width": 8, "root": pathlib.PosixPath("/data"), "inner": kind({"a": 1})})
        path = write(tmp_path / "last.ckpt", lightning(prefixed("net.", state), hyper_parameters=options))
    assert unchanged(registry.load_checkpoint(tiny(), path), loaded)


def test_a_lightning_checkpoint_that_needs_classes_says_what_to_do(tmp_path, state):
    content = lightning(prefixed("net.", state), hyper_parameters={"optimizer": Custom()})
    message = refused(tiny(), write(tmp_path / "last.ckpt", content))
    assert f"last.ckpt holds pickled code ({__name__}.Custom), which is never run" in message
    assert 'torch.save(torch.load(FILE, weights_only=False)["state_dict"], NEW)' in message


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (("ema_0.999", "ema_0.9999", "model"), "'ema_0.999', 'ema_0.9999', and 2 of them fit dit-s-2"),
        (("online", "target"), "'online', 'target', and 2 of them fit dit-s-2"),
        (("model", "best"), "'model', 'best', and 2 of them fit"),
    ],
)
def test_two_sets_of_weights_are_named(tmp_path, state, names, named):
    path = write(tmp_path / "two.pt", dict.fromkeys(names, state))
    message = refused(tiny(), path)
    assert message.startswith(f"{path} holds several sets of weights, {named}")
    assert "name one by key" in message


def test_an_average_of_another_entry_does_not_decide(state, loaded):
    """What a message names can be given as the key."""
    sets = {"last": wrong(state), "best": {"model": wrong(state), "ema": state}}
    for content, place in ((sets, ""), ({"run": sets}, "run.")):
        message = refused(tiny(), content)
        assert f"'{place}last', '{place}best.ema', and 2 of them fit dit-s-2: name one by key" in message
        assert unchanged(registry.load_checkpoint(tiny(), content, key=f"{place}best.ema"), loaded)
        assert unchanged(registry.load_checkpoint(tiny(), content, key="best"), loaded)


@pytest.mark.parametrize("average", ["a list", "a part", "another network"])
@pytest.mark.parametrize("inside", [False, True])
def test_an_average_that_cannot_be_read_is_not_passed_over(state, average, inside):
    ema = {
        "a list": {"decay": 0.999, "shadow_params": list(state.values())},  # torch_ema
        "a part": {"x_embedder.proj.bias": state["x_embedder.proj.bias"]},
        "another network": {"a.weight": torch.ones(2)},
    }[average]
    content = {"model": state, "ema": ema}
    place = "checkpoint." if inside else ""
    message = refused(tiny(), {"checkpoint": content} if inside else content)
    assert f"averaged weights '{place}ema' that do not fit dit-s-2, beside '{place}model', which" in message


def test_no_weights_that_fit(state):
    other = {"model": {"a.weight": torch.ones(2)}, "vae": {"b.weight": torch.ones(2)}}
    assert refused(tiny(), other).endswith("2 left over: model.a.weight, vae.b.weight")
    listed = {"model": list(state.values()), 3: torch.ones(2)}
    assert refused(tiny(), listed).endswith("model.[7], …")


def test_the_command_line_that_authors_save_beside_the_weights_is_no_code(tmp_path, state, loaded):
    args = argparse.Namespace(model="DiT-S/2", image_size=256, lr=1e-4, results=None)
    path = write(tmp_path / "0400000.pt", {"ema": state, "model": wrong(state), "opt": {}, "args": args})
    assert unchanged(registry.load_checkpoint(tiny(), path), loaded)


@pytest.mark.parametrize("zipped", [True, False])
def test_both_of_torchs_formats(tmp_path, state, loaded, zipped):
    path = write(tmp_path / "old.pt", state, _use_new_zipfile_serialization=zipped)
    assert unchanged(registry.load_checkpoint(tiny(), path), loaded)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_load_into_the_networks_own(tmp_path, state, dtype):
    path = write(tmp_path / "half.safetensors", {name: tensor.to(dtype) for name, tensor in state.items()})
    network = registry.load_checkpoint(tiny(), path)
    expected = registry.load_checkpoint(tiny(), {n: tensor.to(dtype).float() for n, tensor in state.items()})
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert unchanged(network, expected.state_dict())
    half = registry.load_checkpoint(tiny().to(torch.bfloat16), state)
    assert half.embed.weight.dtype == torch.bfloat16
    assert torch.equal(half.embed.weight, state["x_embedder.proj.weight"].bfloat16())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_eight_bits_load_as_they_are(tmp_path, state, dtype, suffix):
    path = write(tmp_path / f"eight{suffix}", {name: tensor.to(dtype) for name, tensor in state.items()})
    network = registry.load_checkpoint(tiny(), path)
    assert torch.equal(network.embed.weight, state["x_embedder.proj.weight"].to(dtype).float())


class Buffers(nn.Module):
    """Holds a value of every kind."""

    def __init__(self, **values):
        super().__init__()
        for name, value in values.items():
            self.register_buffer(name, value)


FLOAT, COMPLEX = torch.ones(2), torch.ones(2, dtype=torch.complex64)
INTEGER, BOOL = torch.ones(2, dtype=torch.int32), torch.ones(2, dtype=torch.bool)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated, but files hold them
    QUANTISED = torch.quantize_per_tensor(FLOAT, 0.1, 0, torch.quint8)


@pytest.mark.parametrize(
    ("own", "given", "says"),
    [
        (FLOAT, COMPLEX, "complex64 where float32 is needed"),
        (FLOAT, INTEGER.to(torch.int8), "int8 where float32 is needed"),
        (FLOAT, BOOL, "bool where float32 is needed"),
        (FLOAT, torch.tensor([1e300, 0], dtype=torch.float64), "beyond the range of float32"),
        (FLOAT.half(), torch.tensor([7e4, 0]), "beyond the range of float16"),
        (FLOAT, torch.tensor([torch.nan, 0]), "not finite"),
        (FLOAT, torch.tensor([1, -torch.inf]).bfloat16(), "not finite"),
        (FLOAT, torch.tensor([1, torch.nan]).to(torch.float8_e5m2), "not finite"),
        (COMPLEX, torch.tensor([1, complex(0, torch.nan)]), "not finite"),
        (COMPLEX, COMPLEX.to(torch.complex128) * 1e300, "beyond the range of complex64"),
        (COMPLEX, INTEGER, "int32 where complex64 is needed"),
        (INTEGER, FLOAT, "float32 where int32 is needed"),
        (INTEGER, torch.tensor([2**40, 0]), "beyond the range of int32"),
        (BOOL, FLOAT, "float32 where bool is needed"),
        (FLOAT, FLOAT.to("meta"), "on the meta device, which holds no values"),
        (FLOAT, FLOAT.to_sparse(), "sparse"),
        (FLOAT, QUANTISED, "quantised"),
        (FLOAT, FLOAT.double() * 3, None),
        (FLOAT, FLOAT.half(), None),
        (FLOAT.half(), FLOAT, None),
        (COMPLEX, FLOAT, None),
        (COMPLEX, COMPLEX.to(torch.complex128), None),
        (INTEGER, INTEGER.long() * 7, None),
        (BOOL, BOOL, None),
        (torch.tensor([-torch.inf, 0]), torch.tensor([-torch.inf, 1]), None),  # a mask of attention
        (torch.tensor([-torch.inf, 0]), torch.tensor([1, torch.inf]), "not finite"),
    ],
)
def test_weights_of_another_kind_are_refused(tmp_path, own, given, says):
    network = Buffers(kept=FLOAT.clone(), value=own.clone())
    content = {"kept": 2 * FLOAT, "value": given}
    path = write(tmp_path / "kind.pt", content)
    for source in (path, content):
        if says:
            message = refused(network, source)
            assert message.endswith(f"does not fit Buffers: 1 unusable: value ({says})")
        else:
            registry.load_checkpoint(network, source)
            assert torch.equal(network.value, given.to(own.dtype))
            assert torch.equal(network.kept, 2 * FLOAT)


def test_a_small_file_that_would_fill_the_memory(tmp_path, state, monkeypatch):
    monkeypatch.setattr(checkpoints, "_LARGE", 2**20)
    path = write(tmp_path / "bomb.pt", {"model": {"weight": torch.zeros(1000, 1000)}})
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            with old.open(entry) as data, new.open(entry.filename, "w") as copy:
                shutil.copyfileobj(data, copy)
    monkeypatch.setattr(torch, "load", None)  # nothing is unpacked
    message = refused(tiny(), packed)
    assert "bytes and unpacks to 4,00" in message and message.startswith(str(packed))


def test_dits_fixed_table_may_be_absent_and_may_be_there(state, loaded):
    table = plain._dit_positions(2, 2, 8, torch.zeros(()))
    torch.testing.assert_close(loaded["pos_embed"], table)
    network = registry.load_checkpoint(tiny(), {**state, "pos_embed": 2 * table})
    assert torch.equal(network.pos_embed, 2 * table)
    assert torch.equal(network.embed.weight, state["x_embedder.proj.weight"])


def test_mode_and_gradients_stay_as_they_are(state):
    frozen = tiny().eval().requires_grad_(False)
    registry.load_checkpoint(frozen, state)
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    learning = registry.load_checkpoint(
        tiny(), {name: tensor.requires_grad_() for name, tensor in state.items()}
    )
    assert learning.training
    assert all(
        p.requires_grad and p.grad_fn is None for n, p in learning.named_parameters() if n != "pos_embed"
    )


@pytest.mark.parametrize(("family", "seed"), [("dit", 0), ("udit", 5), ("udit", 6), ("uvit", 0)])
def test_our_own_names_load_deployed_or_not(family, seed, tmp_path):
    make = FAMILIES[family][0]
    network, state, _ = make(seed)
    registry.load_checkpoint(network, state)
    path = write(tmp_path / "ours.pt", network.state_dict())
    again = make(seed)[0]
    assert unchanged(registry.load_checkpoint(again, path), network.state_dict())
    deployed = network.deploy()
    blank = make(seed)[0].deploy()
    assert unchanged(registry.load_checkpoint(blank, deployed.state_dict()), deployed.state_dict())


def test_a_linear_map_and_a_pointwise_convolution_are_the_same():
    network, state, formulas = small_udit(5)
    swapped = {}
    for name, tensor in state.items():
        if name.endswith("to_qkv.weight"):
            tensor = tensor[..., None, None]
        elif name.endswith("to_out.weight"):
            tensor = tensor[..., 0, 0]
        swapped[name] = tensor
    registry.load_checkpoint(network, swapped)
    inputs = example(network, 0)
    with torch.no_grad():
        assert (network.eval()(*inputs) - formulas(state, *inputs)).abs().max() < 2e-5


def test_a_derived_class_takes_its_familys_layout():
    class Derived(UDiT):
        """A user's variant of a network here."""

    class DiT(nn.Module):
        """Somebody else's network, in whose table of positions nothing is fixed."""

        def __init__(self):
            super().__init__()
            self.pos_embed = nn.Parameter(torch.zeros(1), requires_grad=False)
            self.attn = nn.Linear(2, 2)

    network, state, _ = small_udit(5)
    derived = Derived(**{"hidden_size": network.stem.out_channels, "num_classes": 5, **{
        name: value for name, value in network.overrides.items() if name not in ("hidden_size", "num_classes")
    }})  # fmt: skip
    registry.load_checkpoint(network, state)
    assert unchanged(registry.load_checkpoint(derived, state), network.state_dict())

    other = DiT()
    partial = {
        name: torch.ones_like(tensor) for name, tensor in other.attn.state_dict(prefix="attn.").items()
    }
    assert "1 missing: pos_embed" in refused(other, partial)
    registry.load_checkpoint(other, {**partial, "pos_embed": torch.ones(1)})
    assert other.attn.weight.min() == 1


# ---- diffusers ----


@pytest.mark.parametrize("classes", [0, 10])
def test_diffusers_own_state_dict_and_output(tmp_path, classes):
    sizes = {"block_out_channels": (32, 64), "layers_per_block": 1, "in_channels": 3}
    torch.manual_seed(0)
    theirs = UNet2DModel(
        sample_size=8,
        out_channels=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=classes or None,
        **sizes,
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path)
    x, t, y = torch.randn(2, 3, 8, 16), torch.tensor([3, 700]), torch.tensor([1, 9])
    with torch.no_grad():
        expected = theirs(x, t, class_labels=y if classes else None).sample
    for source in (theirs.state_dict(), tmp_path / "diffusion_pytorch_model.safetensors"):
        network = registry.create(
            "unet2d", **sizes, num_classes=classes, class_dropout_prob=0.0, input_size=(8, 16)
        )
        registry.load_checkpoint(network, source)
        with torch.no_grad():
            assert torch.equal(network.eval()(x, t, y), expected)
    again = registry.create("unet2d", **sizes, num_classes=classes, class_dropout_prob=0.0, input_size=8)
    assert unchanged(registry.load_checkpoint(again, network.state_dict()), network.state_dict())
    message = refused(again, {**network.state_dict(), "more": torch.ones(1)})
    assert message.endswith("does not fit unet2d: 1 left over: more")


def test_names_of_diffusers_uvit_are_known():
    with torch.device("meta"):
        network = registry.create("uvit2d")
        theirs = {name: torch.empty(1) for name in network.net.state_dict()}
    message = refused(network, theirs, compare=False)
    assert "missing" not in message
    assert "left over" not in message


# ---- refusals ----


def refused(network, source, compare=True, **how):
    """The one line in which loading must end; the network must be as before."""
    before = snapshot(network) if compare else {}
    with pytest.raises(registry.UsageError) as raised:
        registry.load_checkpoint(network, source, **how)
    assert not compare or unchanged(network, before)
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 2000
    return message


def test_no_such_file_and_no_such_kind_of_file(tmp_path, state):
    assert refused(tiny(), tmp_path / "none.pt") == f"no such checkpoint file: {tmp_path / 'none.pt'}"
    (tmp_path / "folder.pt").mkdir()
    assert "no such checkpoint file" in refused(tiny(), str(tmp_path / "folder.pt"))
    message = refused(tiny(), write(tmp_path / "model.onnx", state))
    assert "model.onnx" in message
    assert ".pt, .pth, .bin, .ckpt or .safetensors" in message


@pytest.mark.parametrize("kind", ["zip.pt", "zip.pth", "zip.bin", "legacy.pt", "weights.safetensors"])
@pytest.mark.parametrize("share", [0.0, 1e-9, 0.01, 0.5, 0.99])
def test_a_file_cut_short(tmp_path, state, kind, share):
    path = write(tmp_path / kind, state, _use_new_zipfile_serialization=kind != "legacy.pt")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share) + (share > 0)])
    message = refused(tiny(), path)
    assert message.startswith(str(path))
    assert "damaged" in message or "not a readable safetensors file" in message


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_text_in_a_checkpoints_place(tmp_path, suffix):
    path = tmp_path / f"pointer{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\n")
    assert str(path) in refused(tiny(), path)


class Custom:
    """Pickles as a class of this file."""


class Attack:
    """Pickles as a call of os.system."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


PICKLES = {
    **{f"zip{p}": lambda o, path, p=p: torch.save(o, path, pickle_protocol=p) for p in (2, 4)},
    "legacy": lambda o, path: torch.save(o, path, _use_new_zipfile_serialization=False),
    **{f"bare{p}": lambda o, path, p=p: path.write_bytes(pickle.dumps(o, protocol=p)) for p in (0, 2, 4)},
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_pickled_code_is_refused_and_not_run(tmp_path, state, kind, suffix):
    marker, path = tmp_path / "marker", tmp_path / f"evil{suffix}"
    PICKLES[kind]({**state, "x": Attack(marker)}, path)
    assert "pickled code" in (message := refused(tiny(), path))
    assert "never run" in message
    assert ".safetensors" in message
    assert not marker.exists()
    if kind == "zip2":
        assert "(posix.system)" in message or "(nt.system)" in message
    if "bare" in kind:
        pickle.loads(path.read_bytes())  # it is an attack
        assert marker.exists()


def test_a_custom_class_and_a_whole_module_are_refused_by_name(tmp_path, state):
    path = write(tmp_path / "custom.pt", {"model": state, "extra": Custom()})
    assert f"holds pickled code ({__name__}.Custom), which is never run" in refused(tiny(), path)
    path = write(tmp_path / "module.pt", nn.Sequential(nn.Linear(2, 2)))
    message = refused(tiny(), path)
    assert "torch.nn.modules.linear.Linear" in message
    assert "never run" in message


@pytest.mark.parametrize("error", [pickle.UnpicklingError, RuntimeError, EOFError])
def test_refusals_do_not_hang_on_torchs_wording(tmp_path, state, monkeypatch, error):
    good, bad = write(tmp_path / "good.pt", state), write(tmp_path / "bad.pt", {"extra": Custom()})

    def load(*args, **kwargs):
        assert kwargs["weights_only"]
        raise error("Words of tomorrow. Set weights_only=False to go on.\nMore words.")

    monkeypatch.setattr(torch, "load", load)
    assert "damaged" in refused(tiny(), good)
    message = refused(tiny(), bad)
    assert "weights_only=False" not in message
    if error is pickle.UnpicklingError:
        assert f"holds pickled code ({__name__}.Custom)" in message
    else:
        assert message.endswith(f"{error.__name__}: Words of tomorrow")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], "holds list, not a state dict"),
        (torch.ones(2), "holds Tensor, not a state dict"),
        ({}, "holds nothing"),
        ({"model": {}}, "no named tensors: model"),
        ({"opt": {"state": {}, "param_groups": [{"lr": 1.0}]}, "step": 3}, "no named tensors: opt, step"),
        ({"model": {"opt": {}}}, "no named tensors: model"),
        ({0: torch.ones(2), "a": torch.ones(2)}, "2 left over: [0], a"),
        ({f"e{i}": i for i in range(20)}, "no named tensors: e0, e1, e2, e3, e4, e5, e6, e7, …"),
    ],
)
def test_what_is_no_state_dict(tmp_path, content, words):
    path = write(tmp_path / "content.pt", content)
    message = refused(tiny(), path)
    assert message.startswith(str(path))
    assert message.endswith(words)
    if isinstance(content, dict):
        assert refused(tiny(), content).startswith("the state dict")


def test_a_key_that_holds_no_network(state):
    for key in ("emma", "step"):
        message = refused(tiny(), {"ema": state, "step": torch.ones(1)}, key=key)
        assert f"has no state dict '{key}'; it has: ema, step" in message


def test_names_and_shapes_that_do_not_fit_are_listed_in_one_line(tmp_path, state):
    dropped = [name for name in state if name.startswith("blocks.0.")][:9]
    content = {name: tensor for name, tensor in state.items() if name not in dropped}
    content |= {f"head_{i}.weight": torch.ones(1) for i in range(10)} | {"na\nme": torch.ones(1)}
    content["x_embedder.proj.bias"] = torch.ones(3)
    content["t_embedder.mlp.0.weight"] = torch.ones(8, 255)
    message = refused(tiny(), write(tmp_path / "odd.pt", content))
    head, missing, extra = message.split("; ")[0].split(": ")[0], *message.split("; ")[:2]
    assert head == f"{tmp_path / 'odd.pt'} does not fit dit-s-2"
    assert "9 missing: blocks.0." in missing
    assert missing.count("blocks.0.") == 8
    assert missing.endswith(", …")
    assert extra == "11 left over: " + ", ".join(f"head_{i}.weight" for i in range(8)) + ", …"
    shapes = message.split("; ")[2]
    assert shapes.startswith("2 of wrong shape: embed.bias (3,) where (8,) is needed, ")
    assert shapes.endswith("(8, 255) where (8, 256) is needed")


def test_a_checkpoint_of_another_size_or_family(state):
    deeper = registry.create("dit-s-2", **{**TINY, "depth": 2}, num_heads=2, num_classes=3, input_size=4)
    message = refused(deeper, state)
    assert "10 missing: blocks.1." in message
    assert "left over" not in message
    message = refused(small_udit(0)[0], state)
    assert "missing" in message
    assert "left over: " in message
    assert "blocks.0.attn.qkv.weight" in message  # in the file's names: translating did not help
    assert "of wrong shape" in refused(tiny(), weights(dit_shapes(**TINY, classes=4)))


def test_nothing_is_optional_in_a_frozen_network(state):
    part = dict(itertools.islice(state.items(), 5))
    for network in (tiny().requires_grad_(False), tiny().deploy()):
        assert "missing: " in refused(network, part)


def test_positions_that_are_learned_are_needed():
    network, state, _ = small_uvit(0)
    assert isinstance(network, UViT)
    del state["pos_embed"]
    assert "1 missing: pos_embed" in refused(network, state)
    assert "1 missing: pos_embed" in refused(network.requires_grad_(False), state)
