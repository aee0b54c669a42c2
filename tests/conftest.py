"""What several test files share: the reference cases and how ours is built for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import registry
from tests.reference import recipe

REFERENCE = Path(__file__).parent / "reference"
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
