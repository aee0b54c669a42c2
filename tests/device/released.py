"""Our networks beside the authors' own code, which is taken from a folder of the user's and never kept here.

    DIR/U-DiT/udit_models.py        of github.com/YuchuanTian/U-DiT; needs einops
    DIR/DiT/models.py               of github.com/facebookresearch/DiT; needs timm
    DIR/DiC/dic_models.py           of github.com/YuchuanTian/DiC; needs einops
    DIR/DiCo/dico_models.py         of github.com/shallowdream204/DiCo

Both compute with the authors' weights, randomly initialised: outputs have to agree, then both are timed in
turns as `bench throughput` does, the authors' first, so that ratios say how many times as fast ours is. The
optimizer is the same for both.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import registry
from bench.speed import throughput
from bench.utils.precision import tf32
from registry.errors import UsageError
from tests.device.checks import FP32, distance, open_branches
from tests.device.journal import Found, Items

FILES = ("U-DiT/udit_models.py", "DiT/models.py", "DiC/dic_models.py", "DiCo/dico_models.py")
# Ours, overrides, and the file and the entry of its `…_models` that it stands beside.
Pair = tuple[str, dict[str, Any], str, str]
PAIRS: list[Pair] = [
    ("udit-s", {}, FILES[0], "U-DiT-S"),
    ("dit-s-2", {}, FILES[1], "DiT-S/2"),
    ("dic-s", {}, FILES[2], "DiC-S"),
    ("dico-s", {}, FILES[3], "DiCo-S"),
    ("udit-b", {}, FILES[0], "U-DiT-B"),
    ("dit-b-2", {}, FILES[1], "DiT-B/2"),
]
TINY: list[Pair] = [("tiny-unet", {"input_size": 8}, FILES[0], "tiny")]
ROUNDS = 6


class Released(registry.Backbone):
    """A network of the authors, with what ours is asked for.

    Args:
        net: theirs, called as ours is.
        like: ours.
    """

    def __init__(self, net: nn.Module, like: registry.Backbone) -> None:
        super().__init__(
            input_size=like.input_size,
            in_channels=like.in_channels,
            num_classes=like.num_classes,
            learn_sigma=like.learn_sigma,
        )
        self.net = net

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.net(x, t, y)


def released(device: torch.device, folder: Path, tiny: bool) -> Items:
    """Outputs, then training steps and forward passes, of each pair.

    Args:
        folder: of the clones.
    """

    def outputs(pair: Pair) -> Found:
        theirs, ours = (network.to(device).eval() for network in both(folder, pair))
        inputs = [value.to(device) for value in ours.example_inputs(4)]
        with torch.inference_mode(), tf32(False, device):
            return {"error": distance(ours(*inputs), theirs(*inputs)), "bound": FP32}

    def time(pair: Pair, mode: Any, dtype: Any, batch: int) -> Found:
        settings = throughput.Settings(device=str(device), dtype=dtype, batch_size=batch, mode=mode)
        theirs, ours = throughput.measure(both(folder, pair), settings, repeats=ROUNDS)
        return {
            "released": theirs.images_per_second,
            "ours": ours.images_per_second,
            "ratio": ours.ratio,
            "interval": ours.interval,
            "peak_bytes": [theirs.peak_bytes, ours.peak_bytes],
        }

    pairs = TINY if tiny else PAIRS
    cases: list[tuple[str, str, int]] = [("training", "fp32", 1), ("inference", "fp32", 1)]
    if not tiny:
        cases = [("training", "bf16", 64), ("training", "tf32", 64), ("inference", "tf32", 64)]
    made: dict[str, Any] = {f"{pair[0]} outputs": partial(outputs, pair) for pair in pairs}
    for case in cases:
        made |= {" ".join(map(str, (pair[0], *case))): partial(time, pair, *case) for pair in pairs}
    return made


def both(folder: Path, pair: Pair) -> tuple[Released, Any]:
    """The authors' network and ours with the same weights, none of whose branches is closed.

    Raises:
        UsageError: the folder has no such file, or the file no such network.
    """
    name, overrides, file, entry = pair
    path = folder / file
    if not path.is_file():
        clones = ", ".join(str(Path(each).parent) for each in FILES)
        raise UsageError(f"no {path}: the folder of released networks holds the clones {clones}")
    spec = importlib.util.spec_from_file_location(f"released_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tables = [table for table_name, table in vars(module).items() if table_name.endswith("_models")]
    made = next((table[entry] for table in tables if entry in table), None)
    if made is None:
        raise UsageError(f"{path} has no network {entry}")
    torch.manual_seed(0)
    theirs = made()
    open_branches(theirs)
    ours = registry.load_checkpoint(registry.create(name, **overrides), theirs.state_dict())
    return Released(theirs, ours), ours
