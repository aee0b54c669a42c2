"""A training step and a step of a sampling loop never make a GPU wait for the host.

The meta device stands for the GPU: it has no values, so whatever looks at one fails, and what is copied to
it from main memory is seen by the dispatcher.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import registry
from bench.diffusion import sampler, samplers
from bench.records.schema import SamplingSettings
from bench.sampling import Plan
from bench.training import loop, protocols
from bench.training.run import objective_with
from tests.conftest import SMALLEST, made_for
from tests.device.checks import trainer_on

META = torch.device("meta")
SMOKE = protocols.load("smoke")


class Copies(TorchDispatchMode):
    """Notes what is made of Python's numbers or copied from main memory to the device.

    Attributes:
        found: shape, and whether the copy lets the host go on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[tuple[int, ...], bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func._schema.name
        if name == "aten::copy_":
            given, free = args[1], len(args) > 2 and args[2]
        else:
            given, free = args[0] if args else None, kwargs.get("non_blocking", False)
        made = name == "aten::lift_fresh"
        copied = name in ("aten::_to_copy", "aten::copy_") and given.device.type == "cpu"
        if (made or copied) and out.device == META:
            self.found.append((tuple(out.shape), free))
        return out


@pytest.fixture
def unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused AdamW is for real devices."""

    def make(parameters: Any, *, fused: bool, **options: Any) -> torch.optim.AdamW:
        return plain(parameters, **options)

    plain = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", make)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options"),
    [*((model, {}) for model in SMALLEST), ("udit-t", {"min_snr_gamma": 5.0, "posthoc_ema": (0.1,)})],
)
@pytest.mark.usefixtures("unfused")
def test_a_training_step_copies_its_images_alone(tmp_path: Any, model: str, options: dict[str, Any]) -> None:
    settings = SMOKE.training.model_copy(update={"clip": 1.0, **options})
    # accelerate has no device of this kind.
    accelerator = SimpleNamespace(
        device=META, prepare=lambda network: network, no_sync=lambda _: nullcontext()
    )
    with (
        mock.patch.object(loop, "_accelerator", lambda *_: accelerator),
        mock.patch.object(torch.Tensor, "isfinite", lambda _: torch.ones(())),  # looked at before all steps
    ):
        training = trainer_on(META, model, tmp_path, SMOKE.model_copy(update={"training": settings}), 2)
    for _ in range(2):  # tables are brought to the device once
        training.take_step()
        training.step += 1
    with Copies() as copies:
        training.take_step()
    assert copies.found == 2 * [((4, 4, 8, 8), True), ((4,), True)]  # images and labels of two parts


@pytest.mark.slow
@pytest.mark.parametrize("cfg_scale", [1.0, 1.5])
@pytest.mark.parametrize("name", sorted(set(samplers.names()) - {"dopri5", "dpm++"}))
def test_more_sampling_steps_are_no_more_copies(name: str, cfg_scale: float) -> None:
    """Two are left out: dopri5 looks at its error, diffusers' scheduler copies numbers at some steps."""
    model = made_for(sampler(name).objectives[0])
    if cfg_scale != 1 and model == "edm2-xxs":
        pytest.skip("it has no null class")
    network = registry.create(model, **SMALLEST[model]).deploy().to(META)
    found = []
    for steps in ("4", "4", "8"):  # tables are brought to the device once
        settings = SamplingSettings(sampler=name, steps=steps, num=2, cfg_scale=cfg_scale)
        plan = Plan(objective_with(SMOKE.training_of(model)), settings)
        with Copies() as copies, torch.inference_mode():
            plan.grids(network, torch.arange(2, device=META))
        found.append(len(copies.found))
    assert found[1] == found[2]
