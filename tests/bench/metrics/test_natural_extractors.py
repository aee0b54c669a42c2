"""DINOv2, CLIP and EfficientNet beside the authors' outputs, torch-fidelity and plain transcriptions."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_fidelity.feature_extractor_clip as fidelity_clip
import torch_fidelity.feature_extractor_dinov2 as fidelity_dinov2
from PIL import Image
from safetensors.torch import save_file

from bench.metrics.extractors import clip, create, dinov2, efficientnet
from bench.metrics.extractors.weights import DINOV2
from registry.errors import UsageError
from tests.conftest import REFERENCE
from tests.reference import recipe

DINO = {"WIDTH": 64, "DEPTH": 3, "HEADS": 4}  # of tests/reference/dinov2.npz
CLIP = {"SIDE": 56, "WIDTH": 128, "DEPTH": 3, "OUTPUT": 32}


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Relative, over all features."""
    return float((ours - theirs).norm() / theirs.norm())


# ---- DINOv2 ----


@pytest.fixture(scope="module")
def dino_state() -> dict[str, torch.Tensor]:
    shapes = json.loads((REFERENCE / "dinov2.keys.json").read_text())
    return {name: torch.from_numpy(recipe.weight(name, tuple(shape))) for name, shape in shapes.items()}


@pytest.fixture
def dino(dino_state, tmp_path: Path, monkeypatch) -> torch.nn.Module:
    for name, value in DINO.items():
        monkeypatch.setattr(dinov2, name, value)
    torch.save(dino_state, tmp_path / "dinov2_vitl14_pretrain.pth")
    return create("dinov2", tmp_path / "dinov2_vitl14_pretrain.pth")


@pytest.mark.parametrize("size", [32, 224, 256])
def test_dinov2_equals_the_authors_network_behind_edm2s_preprocessing(dino, size: int) -> None:
    with torch.inference_mode():
        made = dino(torch.from_numpy(recipe.images(2, size)))["pool"]
    expected = torch.from_numpy(np.load(REFERENCE / "dinov2.npz")[f"size{size}"])
    assert distance(made, expected) < 1e-5 and made.dtype == torch.float32


def plain_dino(x: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """The class token of (N, 3, 224, 224), written down from the paper: one head at a time, in float64."""
    w = {name: value.double() for name, value in state.items()}
    patches = x.double().unfold(2, 14, 14).unfold(3, 14, 14).permute(0, 2, 3, 1, 4, 5).flatten(3)
    kernel = w["patch_embed.proj.weight"].flatten(1)
    tokens = patches.flatten(1, 2) @ kernel.T + w["patch_embed.proj.bias"]
    table = w["pos_embed"][0, 1:].reshape(37, 37, -1).permute(2, 0, 1)[None]
    table = F.interpolate(table, scale_factor=16.1 / 37, mode="bicubic")[0].flatten(1).T
    first = (w["cls_token"][0] + w["pos_embed"][0, :1]).expand(len(x), 1, -1)
    t = torch.cat([first, tokens + table], 1)

    def norm(t: torch.Tensor, name: str) -> torch.Tensor:
        t = (t - t.mean(-1, keepdim=True)) / (t.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
        return t * w[f"{name}.weight"] + w[f"{name}.bias"]

    for i in range(DINO["DEPTH"]):
        b = f"blocks.{i}"
        q, k, v = (norm(t, f"{b}.norm1") @ w[f"{b}.attn.qkv.weight"].T + w[f"{b}.attn.qkv.bias"]).chunk(3, -1)
        heads = []
        for part in torch.arange(DINO["WIDTH"]).chunk(DINO["HEADS"]):
            scores = q[..., part] @ k[..., part].mT / math.sqrt(len(part))
            heads.append(scores.softmax(-1) @ v[..., part])
        a = torch.cat(heads, -1) @ w[f"{b}.attn.proj.weight"].T + w[f"{b}.attn.proj.bias"]
        t = t + a * w[f"{b}.ls1.gamma"]
        h = norm(t, f"{b}.norm2") @ w[f"{b}.mlp.fc1.weight"].T + w[f"{b}.mlp.fc1.bias"]
        h = h * (1 + torch.erf(h / math.sqrt(2))) / 2
        h = h @ w[f"{b}.mlp.fc2.weight"].T + w[f"{b}.mlp.fc2.bias"]
        t = t + h * w[f"{b}.ls2.gamma"]
    return norm(t, "norm")[:, 0]


def test_dinov2_equals_a_transcription_and_torch_fidelitys_pipeline(dino, dino_state, monkeypatch) -> None:
    images = torch.from_numpy(recipe.images(2, 224))  # which nobody resizes
    with torch.inference_mode():
        made = dino(images)["pool"]
        plain = plain_dino(dinov2.prepare(images), dino_state)
    assert distance(made.double(), plain) < 1e-5

    class Plain(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return plain_dino(x, dino_state)

    monkeypatch.setattr(torch.hub, "load", lambda *_: Plain())
    theirs = fidelity_dinov2.FeatureExtractorDinoV2("dinov2-vit-l-14", ["dinov2"])
    assert distance(made, theirs(images)[0]) < 1e-5


def test_dinov2_resizes_as_edm2_does_and_others_differ() -> None:
    images = torch.from_numpy(recipe.images(4, 32))
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (dinov2.MEAN, dinov2.DEVIATION))
    ours = (dinov2.prepare(images) * deviation + mean) * 255
    for image, made in zip(images, ours, strict=True):
        for channel, values in zip(
            image, made, strict=True
        ):  # Pillow's filter in float32, neither rounded nor cut
            exact = Image.fromarray(channel.float().numpy(), mode="F").resize(
                (224, 224), Image.Resampling.BICUBIC
            )
            np.testing.assert_allclose(values, np.asarray(exact), atol=2e-3)
        rounded = np.asarray(
            Image.fromarray(image.permute(1, 2, 0).numpy()).resize((224, 224), Image.BICUBIC)
        )
        assert 0.1 < np.abs(made.permute(1, 2, 0).numpy().clip(0, 255) - rounded).mean() < 0.5  # dgm-eval's
    assert ours.min() < 0 and ours.max() > 255


def test_the_published_sizes() -> None:
    with torch.device("meta"):
        network = dinov2.DINOv2Net()
        vision = clip.VisionTransformer(clip.SIDE, clip.PATCH, clip.WIDTH, clip.DEPTH, 16, clip.OUTPUT)
    # 304,368,640 with the mask token; DINOv2's model card says 300M, CLIP's vision half 304M.
    assert sum(p.numel() for p in network.parameters()) + 1024 == 304_368_640
    assert sum(p.numel() for p in vision.parameters()) == 304_293_888


# ---- CLIP ----


@pytest.fixture(scope="module")
def clip_state() -> dict[str, torch.Tensor]:
    """Under OpenAI's names, with numbers that float16 can hold, as torch-fidelity rounds them."""
    vision = fidelity_clip.VisionTransformer(
        CLIP["SIDE"], 14, CLIP["WIDTH"], CLIP["DEPTH"], 2, CLIP["OUTPUT"]
    )
    return {
        f"visual.{name}": torch.from_numpy(recipe.weight(name, tuple(value.shape))).half().float()
        for name, value in vision.state_dict().items()
    }


@pytest.fixture
def small_clip(monkeypatch) -> None:
    for name, value in CLIP.items():
        monkeypatch.setattr(clip, name, value)


def hugging_face(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights under Hugging Face's names."""
    found = {}
    for name, value in state.items():
        name = name.removeprefix("visual.")
        for old, new in {
            "class_embedding": "vision_model.embeddings.class_embedding",
            "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
            "positional_embedding": "vision_model.embeddings.position_embedding.weight",
            "ln_pre.": "vision_model.pre_layrnorm.",
            "ln_post.": "vision_model.post_layernorm.",
            "transformer.resblocks.": "vision_model.encoder.layers.",
            ".ln_1.": ".layer_norm1.",
            ".ln_2.": ".layer_norm2.",
            ".mlp.c_fc.": ".mlp.fc1.",
            ".mlp.c_proj.": ".mlp.fc2.",
            ".attn.out_proj.": ".self_attn.out_proj.",
        }.items():
            name = name.replace(old, new)
        if ".attn.in_proj_" in name:
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                found[name.replace(".attn.in_proj_", f".self_attn.{part}_proj.")] = rows.clone()
        elif name == "proj":
            found["visual_projection.weight"] = value.T.contiguous()
        else:
            found[name] = value
    return found | {"text_projection.weight": torch.zeros(4, 4)}  # of the half that is not used


def test_clip_equals_torch_fidelitys_pipeline(small_clip, clip_state, tmp_path: Path) -> None:
    class Whole(torch.nn.Module):
        def state_dict(self) -> dict[str, torch.Tensor]:
            return {**clip_state, "text_projection": torch.zeros(8, CLIP["OUTPUT"])}

    save_file(clip_state, tmp_path / "openai.safetensors")
    torch.save(hugging_face(clip_state), tmp_path / "pytorch_model.bin")
    images = torch.from_numpy(recipe.images(3, 56))  # which nobody resizes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.jit, "load", lambda *_, **__: Whole())
        theirs = fidelity_clip.FeatureExtractorCLIP("clip-vit-l-14-336px", ["clip"], "model.pt")
    with torch.inference_mode():
        (expected,) = theirs(images)
        for file in ("openai.safetensors", "pytorch_model.bin"):
            made = create("clip", tmp_path / file)(images)["pool"]
            assert distance(made, expected) < 1e-5, file


def test_clip_prepares_as_the_cmmd_program(small_clip) -> None:
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (clip.MEAN, clip.DEVIATION))
    for height, width in ((32, 32), (64, 64), (80, 56)):
        images = torch.from_numpy(recipe.images(2, 80))[:, :, :height, :width]
        for image, made in zip(images, clip.prepare(images), strict=True):
            picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
            side = min(picture.size)  # the CMMD program's lines
            top, left = (picture.size[1] - side) // 2, (picture.size[0] - side) // 2
            picture = picture.crop((left, top, left + side, top + side)).resize(
                (56, 56), resample=Image.BICUBIC
            )
            expected = torch.from_numpy(np.asarray(picture).astype(np.float32) / 255).permute(2, 0, 1)
            torch.testing.assert_close(made * deviation + mean, expected, rtol=0, atol=1e-6)


# ---- EfficientNet ----


def test_efficientnet_is_the_packages_network() -> None:
    network = create("efficientnet")
    assert network.digest.startswith("57934424")  # in which the file's name ends
    assert (
        sum(p.numel() for p in network.network.parameters()) == 4_652_008
    )  # the package's, and TensorFlow's


def test_efficientnet_pads_as_tensorflow_does() -> None:
    conv = efficientnet.Conv(1, 1, 3, stride=2)
    torch.nn.init.ones_(conv.weight)
    # `SAME` of an even size: nothing before, one after.
    np.testing.assert_array_equal(conv(torch.ones(1, 1, 4, 4))[0, 0].detach(), [[9, 6], [6, 4]])
    np.testing.assert_array_equal(conv(torch.ones(1, 1, 3, 3))[0, 0].detach(), [[4, 4], [4, 4]])


# ---- weights ----


def test_weights_that_are_not_here_are_named_in_one_line(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("dinov2", "clip"):
        with pytest.raises(UsageError, match=rf"`bench weights fetch {name}` downloads them .*--weights$"):
            create(name)
    DINOV2.path.parent.mkdir(parents=True)
    DINOV2.path.write_bytes(b"cut off")
    with pytest.raises(UsageError, match=r"dinov2_vitl14_pretrain\.pth is damaged: delete it"):
        create("dinov2")


def test_weights_in_the_cache_are_read_through_once(
    small_clip, dino, dino_state, clip_state, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    calls, file_digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: calls.append(1) or file_digest(*args))
    for module, name, state in ((dinov2, "DINOV2", dino_state), (clip, "FILE", clip_state)):
        file = getattr(module, name)
        file.path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, file.path)
        sha = hashlib.sha256(file.path.read_bytes()).hexdigest()
        monkeypatch.setattr(module, name, replace(file, sha256=sha))
        calls.clear()
        assert create(file.extractor).digest == sha[:12] and len(calls) == 1


def test_weights_of_another_network_are_refused(small_clip, dino, dino_state, tmp_path: Path) -> None:
    torch.save(dino_state, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="does not hold the weights of CLIP ViT-L/14 at 336 pixels: of its"):
        create("clip", tmp_path / "w.pth")
