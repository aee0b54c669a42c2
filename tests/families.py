"""The reference cases of tests/reference/families: networks with their weights, inputs, and processes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

import registry
from tests.conftest import REFERENCE
from tests.reference import recipe
from tests.reference.families import recipe2

FOLDER = REFERENCE / "families"
CASES: dict[str, dict[str, Any]] = json.loads((FOLDER / "manifest.json").read_text())


def arrays(case: str) -> dict[str, Tensor]:
    """What the authors' program computed."""
    with np.load(FOLDER / f"{case}.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


def state(case: str) -> dict[str, Tensor]:
    """The deterministic weights of a case, in the authors' layout; what the network computes left out."""
    shapes = json.loads((FOLDER / f"{case}.keys.json").read_text())
    fixed = CASES[case]["fixed"]
    return {
        name: torch.from_numpy(recipe2.weight(name, tuple(shape)))
        for name, shape in shapes.items()
        if name not in fixed
    }


def network(case: str, model: str, **overrides: Any) -> Any:
    """Our network with the weights of a case."""
    return registry.load_checkpoint(registry.create(model, **overrides), state(case)).eval()


def inputs(case: str) -> tuple[Tensor, Tensor, Tensor]:
    """x, t and y of a case."""
    about = CASES[case]
    _, channels, height, width = about["input"]
    x, _, y = recipe.inputs(channels, max(height, width), about["num_classes"])
    return torch.from_numpy(x)[..., :height, :width], torch.tensor(about["t"]), torch.from_numpy(y)


def draws(seed: int, n: int, shape: tuple[int, ...]) -> Tensor:
    """n standard normal draws."""
    return torch.from_numpy(recipe2.draws(seed, n, shape))


def stand_in(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The velocity that the flows' process cases integrate."""
    t, y = t.view(-1, 1, 1, 1), y.view(-1, 1, 1, 1)
    return 0.6 * torch.sin(2 * x + t + 0.1 * y) - 0.4 * x * t + 0.2 * t


class StandIn(torch.nn.Module):
    """The stand-in as a backbone of ten classes."""

    name, in_channels, out_channels, num_classes, null_class = "stand-in", 4, 4, 10, 10
    guided_channels: int | None = None

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return stand_in(x, t, y)
