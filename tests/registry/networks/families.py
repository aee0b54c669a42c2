"""The reference cases of tests/reference/families: weights and inputs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

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
    _, channels, _, width = about["input"]
    x, _, y = recipe.inputs(channels, width, about["num_classes"] or 6)
    return torch.from_numpy(x), torch.tensor(about[times], dtype=torch.float32), torch.from_numpy(y)


def arrays(case: str) -> dict[str, torch.Tensor]:
    """The outputs of the authors' program."""
    with np.load(FOLDER / f"{case}.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}
