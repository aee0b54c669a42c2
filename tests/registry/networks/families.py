"""The reference cases of tests/reference/families: weights, inputs and draws."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

import registry
from tests.conftest import REFERENCE
from tests.reference import recipe
from tests.reference.families import recipe2

FOLDER = REFERENCE / "families"
MANIFEST: dict[str, dict[str, Any]] = json.loads((FOLDER / "manifest.json").read_text())


def state(case: str) -> dict[str, torch.Tensor]:
    """The deterministic weights of a case in the authors' layout, without those that a network computes."""
    shapes = json.loads((FOLDER / f"{case}.keys.json").read_text())
    return {
        name: torch.from_numpy(recipe2.weight(name, tuple(shape)))
        for name, shape in shapes.items()
        if name not in MANIFEST[case]["fixed"]
    }


def inputs(case: str, times: str = "t") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, t (or σ, the manifest's entry `times`), y."""
    about = MANIFEST[case]
    _, channels, height, width = about["input"]
    x, _, y = recipe.inputs(channels, width, about["num_classes"] or 6)
    return (
        torch.from_numpy(x)[:, :, :height],
        torch.tensor(about[times], dtype=torch.float32),
        torch.from_numpy(y),
    )


def arrays(case: str) -> dict[str, torch.Tensor]:
    """The outputs of the authors' program."""
    with np.load(FOLDER / f"{case}.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def network(case: str, model: str, **overrides: Any) -> Any:
    """Our network with the weights of a case."""
    return registry.load_checkpoint(registry.create(model, **overrides), state(case)).eval()


def draws(seed: int, n: int, shape: tuple[int, ...]) -> torch.Tensor:
    """n standard normal draws of a shape, in order."""
    return torch.from_numpy(recipe2.draws(seed, n, shape))
