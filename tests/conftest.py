"""What several test files share: the command, threads, and the reference cases with how ours is built."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_limits

import registry
from bench import cli
from tests.reference import recipe

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "tests/reference"
MANIFEST: dict[str, dict[str, Any]] = json.loads((REFERENCE / "manifest.json").read_text())

_DOT = {"cosine": False, "rope": False}
# Cases of the manifest that are not themselves registered names.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "udit-t-ps": ("udit-t", {**_DOT, "ffn": "mlp", "downsampler": "pixel-shuffle"}),
    "udit-t-dw": ("udit-t", {**_DOT, "ffn": "mlp", "downsampler": "depthwise"}),
    "udit-t-dw-shortcut": ("udit-t", {**_DOT, "ffn": "mlp"}),
    "udit-t-cos": ("udit-t", {"rope": False, "ffn": "mlp"}),
    "udit-t-rope": ("udit-t", {"ffn": "mlp"}),
    "udit-t-dwffn": ("udit-t", {"ffn": "dwconv"}),
    "udit-s-cfg": ("udit-s", {}),
}

# The smallest network of every family that goes by x, t, y.
SMALLEST: dict[str, dict[str, Any]] = {
    name: {"input_size": 8, "num_classes": 10, **overrides}
    for name, overrides in {
        "ddt-b-2": {"hidden_size": 48, "depth": 2, "encoder_depth": 1, "num_heads": 2},
        "adm-256": {"hidden_size": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "head_width": 8,
                    "norm_num_groups": 4},
        "dic-s": {"hidden_size": 8, "depth": (1, 1, 1, 1, 1)},
        "dico-s": {"hidden_size": 8, "depth": (1, 1, 1, 1, 1)},
        "dico-ablation": {"hidden_size": 8, "depth": (1, 1, 1, 1, 1)},
        "dit-s-4": {"hidden_size": 48, "depth": 1, "num_heads": 2},
        "dit-skip": {"hidden_size": 48, "depth": 3, "num_heads": 2},
        "lightningdit-b-2": {"hidden_size": 48, "depth": 1, "num_heads": 2},
        "flowdcn-s-2": {"hidden_size": 16, "depth": 1, "num_groups": 2},
        "sit-s-2": {"hidden_size": 48, "depth": 1, "num_heads": 2},
        "edm2-xxs": {"model_channels": 8, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": (4,),
                     "channels_per_head": 8},
        "hdit-cifar10": {"widths": (16, 32, 32), "depths": (2, 1, 1), "head_width": 16, "kernel_size": 3,
                         "attention": ("shifted-window", "neighbourhood", "global"), "window_size": 4,
                         "mapping_width": 16, "mapping_depth": 1, "in_channels": 4, "patch_size": 1},
        "tiny-unet": {"widths": (8, 16, 16)},
        "udit-t": {"hidden_size": 8, "depth": (1, 0, 0, 0, 0), "num_heads": 2},
        "unet2d": {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4},
        "uvit-s-2": {"hidden_size": 48, "depth": 2, "num_heads": 2},
        "uvit2d-latent": {"block_out_channels": 16, "num_res_blocks": 1, "hidden_size": 48, "depth": 1,
                          "num_heads": 2},
    }.items()
}  # fmt: skip


def made_for(objective: str) -> str:
    """A network of `SMALLEST` whose objective it is."""
    return {"ddpm": "udit-t", "flow": "sit-s-2", "edm": "edm2-xxs"}[objective]


def reference_state(case: str) -> dict[str, torch.Tensor]:
    """The deterministic weights of a case, in the authors' layout; DiT's fixed table left out."""
    shapes = json.loads((REFERENCE / f"{case}.keys.json").read_text())
    return {
        name: torch.from_numpy(recipe.weight(name, tuple(shape)))
        for name, shape in shapes.items()
        if not (case.startswith("dit-s") and name == "pos_embed")
    }


def reference_network(case: str) -> Any:
    """Our network with the weights of a case."""
    name, overrides = VARIANTS.get(case, (case, {}))
    return registry.load_checkpoint(registry.create(name, **overrides), reference_state(case)).eval()


@torch.no_grad()
def reference_output(network: Any, case: str) -> torch.Tensor:
    """A network's output for the inputs of a case, in its dtype and on its device."""
    like = next(network.parameters())
    x, t, y = (
        torch.from_numpy(a).to(like.device) for a in recipe.inputs(*MANIFEST[case]["input"][1:3], 1000)
    )
    x = x.to(like.dtype)
    if not (scale := MANIFEST[case]["cfg_scale"]):
        return network(x, t, y)
    labels = torch.tensor([5, 999, 1000, 1000], device=like.device)
    output = network(x.repeat(2, 1, 1, 1), t.repeat(2), labels)
    cond, uncond = output[:2, :3], output[2:, :3]
    output[:, :3] = (uncond + scale * (cond - uncond)).repeat(2, 1, 1, 1)  # guided on the first three
    return output


def pytest_configure() -> None:
    """One thread here and in processes that tests start, unless the environment says how many.

    Small work gains little from threads, and on a busy machine they wait for each other most of the time.
    """
    for size in ("COLUMNS", "LINES"):  # of a terminal, which pytest-xdist's processes claim to have
        os.environ.pop(size, None)
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
        threadpool_limits(1)


@pytest.fixture
def run_bench(capsys: Any, monkeypatch: Any) -> Callable[..., tuple[int, str, str]]:
    """Run `bench ARGS` in a terminal of some width; returns exit status, stdout, stderr."""

    def run(*args: Any, width: int | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, args)])
        if width:
            monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, *capsys.readouterr()

    return run
