"""Whether the device computes what the CPU and the authors' programs do.

Errors are ‖found − expected‖ / ‖expected‖ unless something else is said. Bounds: 1e-4 for float32 without
TF32; 3e-2 for outputs in bfloat16, which rounds to 2^-9, through some tens of layers; 2e-2 for its gradients,
which on a CPU are 8e-3 away.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

import registry
from bench import data
from bench.diffusion import sampler, samplers
from bench.metrics.evaluation import evaluate
from bench.metrics.extractors import create
from bench.metrics.scores import Features
from bench.records.schema import SamplingSettings
from bench.sampling import Plan
from bench.training import loop, protocols
from bench.training.protocols import Protocol
from bench.training.run import Run, RunRequest, objective_with
from bench.utils.compilation import compile_network
from bench.utils.device import on_cuda
from bench.utils.precision import autocast, tf32
from tests.conftest import MANIFEST, REFERENCE, SMALLEST, made_for, reference_network, reference_output
from tests.device.journal import Found, Items
from tests.reference import recipe

CPU = torch.device("cpu")
FP32, BF16, BF16_GRADIENT = 1e-4, 3e-2, 2e-2
# At the size that counts, for kernels are chosen by size.
PUBLISHED: dict[str, dict[str, Any]] = {
    name: {}
    for name in """
        udit-s udit-t dit-unet dit-s-2 sit-s-2 uvit-s-2 unet2d uvit2d-latent tiny-unet dic-s dico-s
    """.split()
}
STEPS = 3  # of training
MODES_OF, TINY_CASES = ("udit-t", "dit-s-4"), [("tiny-unet", "eager")]
MODES = ["default", "reduce-overhead", "max-autotune-no-cudagraphs"]  # of torch.compile


def outputs(device: torch.device, tiny: bool) -> Items:
    """Every network beside its authors' outputs, trained and deployed; float32 by the worst number too."""

    def check(case: str, dtype: torch.dtype) -> Found:
        expected = torch.from_numpy(np.load(REFERENCE / f"{case}.npz")["output"])
        network = reference_network(case).to(device, dtype)
        errors = []
        with torch.no_grad(), tf32(False, device):
            for form in (network, network.deploy()):
                found = reference_output(form, case).float().cpu()
                errors.append(distance(found, expected))
                if dtype == torch.float32:
                    errors.append((found - expected).abs().max().item())
        return {"error": worst(errors), "bound": FP32 if dtype == torch.float32 else BF16}

    cases = ["udit-t", "dit-s-8"] if tiny else list(MANIFEST)
    return {
        f"{case} {dtype}": partial(check, case, getattr(torch, dtype))
        for dtype in ("float32", "bfloat16")
        for case in cases
    }


def gradients(device: torch.device, tiny: bool) -> Items:
    """The gradient of every family, plain and under bfloat16 autocast, beside the CPU's in float32."""

    def check(name: str, options: dict[str, Any], precision: Any) -> Found:
        error = gradient_error(name, options, precision, device)
        return {"error": error, "bound": gradient_bound(precision, tiny)}

    return {
        f"{name} {precision}": partial(check, name, options, precision)
        for precision in ("fp32", "bf16")
        for name, options in (SMALLEST if tiny else PUBLISHED).items()
    }


def gradient_bound(precision: Any, tiny: bool) -> float:
    """What a gradient may be off by; in tiny networks few roundings average out."""
    return FP32 if precision == "fp32" else BF16_GRADIENT * (10 if tiny else 1)


def gradient_error(name: str, options: dict[str, Any], precision: Any, device: torch.device) -> float:
    """How far the gradient of a network is from the CPU's in float32."""
    network = opened(name, options).eval()  # no labels are dropped
    inputs, gradients = network.example_inputs(4), []
    for place, how in ((CPU, "fp32"), (device, precision)):
        network.to(place).zero_grad()
        with tf32(False, place):
            with autocast(how, place):
                output = network(*(value.to(place) for value in inputs))
            output.float().square().mean().backward()
        found = [p.grad.flatten().cpu() for p in network.parameters() if p.grad is not None]
        gradients.append(torch.cat(found))
    expected, made = gradients
    return distance(made, expected)


def steps(device: torch.device, tiny: bool) -> Items:
    """Steps of `bench train` under `smoke`: loss and gradient norm of each beside the CPU's.

    The weights after them are told and not judged: AdamW moves a weight by the sign of a gradient near 0.
    """

    def taken(name: str, place: torch.device) -> tuple[Tensor, Tensor]:
        with tempfile.TemporaryDirectory() as folder, tf32(False, place):
            trainer = trainer_on(place, name, Path(folder), protocols.load("smoke"))
            before = weights(trainer.network)
            terms = []
            for _ in range(STEPS):
                found = trainer.take_step()
                terms.append(torch.stack([found["loss"], found["gradient_norm"]]).cpu())
                trainer.step += 1
            return torch.stack(terms), weights(trainer.network) - before

    def check(name: str) -> Found:
        (terms, moved), (expected, moved_there) = taken(name, device), taken(name, CPU)
        error = ((terms - expected) / expected).abs().max().item()
        return {"error": error, "bound": 10 * FP32, "weights": distance(moved, moved_there)}

    names = ["tiny-unet"] if tiny else list(SMALLEST)
    return {name: partial(check, name) for name in names}


def samples(device: torch.device, tiny: bool) -> Items:
    """Images of every sampler, plain and guided, beside the CPU's; as CUDA graphs beside without."""

    def grids(name: str, cfg_scale: float, place: torch.device, graphs: bool = False) -> Tensor:
        model = made_for(sampler(name).objectives[0])
        network = opened(model, SMALLEST[model]).deploy().to(place)
        if graphs:
            torch._dynamo.reset()
            compile_network(network, graphs=True)
        steps = "400" if name == "dopri5" else "10"
        settings = SamplingSettings(sampler=name, steps=steps, num=4, cfg_scale=cfg_scale)
        training = protocols.load("smoke").training_of(model)
        plan = Plan(objective_with(training), settings)
        with torch.inference_mode():
            return plan.grids(network, torch.arange(4, device=place)).cpu()

    def check(name: str, cfg_scale: float) -> Found:
        error = distance(grids(name, cfg_scale, device), grids(name, cfg_scale, CPU))
        # An adaptive method may accept another step: its own tolerance.
        return {"error": error, "bound": 1e-2 if name == "dopri5" else 10 * FP32}

    def of_graphs(name: str) -> Found:
        found, expected = (grids(name, 1.5, device, graphs) for graphs in (True, False))
        return {"error": distance(found, expected), "bound": 10 * FP32}

    names = ["ddim", "heun"] if tiny else samplers.names()
    made = {f"{name} cfg {scale:g}": partial(check, name, scale) for name in names for scale in (1.0, 1.5)}
    made.pop("edm-heun cfg 1.5", None)  # its networks have no null class
    # Of methods that take one evaluation a step, that take two, and that look at those before.
    graphs = ["ddim", "heun", "dpm++"] if on_cuda(device) else []
    return made | {f"{name} as CUDA graphs": partial(of_graphs, name) for name in graphs}


def scores(device: torch.device, tiny: bool) -> Items:
    """Scores and features beside the CPU's; precision, recall, density and coverage have to be equal."""
    count = 200 if tiny else 5000
    exact = ("precision", "recall", "density", "coverage")

    def of_features() -> Found:
        pool = recipe.features(count, 2, 0.15)
        ours = Features(pool, recipe.features(count, 4, 0.1, dim=2023), pool @ recipe.softmax_weight())
        others = Features(recipe.features(count, 1, 0.0), recipe.features(count, 3, 0.0, dim=2023))
        names = ["fid", "sfid", "inception_score", *exact]
        found, expected = (
            evaluate(ours, others, scores=names, device=str(place)).values for place in (device, CPU)
        )
        errors = [abs(found[name] / expected[name] - 1) for name in names if name not in exact]
        errors += [0.0 if found[name] == expected[name] else 1.0 for name in exact]
        return {"error": worst(errors), "bound": 1e-6, "found": found, "expected": expected}

    def digits() -> Found:
        images = torch.from_numpy(recipe.images(64, 16))
        with torch.inference_mode(), tf32(False, device):
            found, expected = (create("digits").to(place)(images.to(place)) for place in (device, CPU))
        return {"error": worst(distance(found[k].cpu(), expected[k]) for k in expected), "bound": FP32}

    def of_inception() -> Found:
        expected = np.load(REFERENCE / "inception.npz")
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode(), tf32(False, device):
            images = torch.from_numpy(recipe.images(4, 64)).to(device)
            made = inception(Path(folder)).to(device)(images)
        pairs = (("pool", "pool3"), ("spatial", "spatial"), ("logits", "logits"))
        errors = (distance(made[a].cpu(), torch.from_numpy(expected[b])) for a, b in pairs)
        return {"error": worst(errors), "bound": FP32}

    return {"five scores": of_features, "digits": digits} | ({} if tiny else {"inception": of_inception})


def compilation(device: torch.device, tiny: bool) -> Items:
    """What torch.compile makes of every family, forward and backward, beside eager on the same device."""

    def gradient(network: Any, call: Any, inputs: Iterable[Tensor]) -> Tensor:
        network.zero_grad()
        call(*inputs).square().mean().backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    def check(name: str, mode: str) -> Found:
        torch._dynamo.reset()
        options: dict[str, Any] = {"mode": mode} if mode in MODES else {"backend": mode}
        network = opened(name, SMALLEST[name]).to(device)
        deployed, inputs = network.deploy(), [value.to(device) for value in network.example_inputs(4)]
        compiled = torch.compile(deployed, fullgraph=True, **options)
        with tf32(False, device):
            with torch.inference_mode():
                # The second call replays a CUDA graph where there are any.
                error = worst(distance(compiled(*inputs).clone(), deployed(*inputs)) for _ in range(2))
            network.eval()
            whole = torch.compile(network, fullgraph=True, **options)
            found, expected = (gradient(network, call, inputs) for call in (whole, network))
        return {"error": worst([error, distance(found, expected)]), "bound": FP32}

    # The slower modes of those alone that are measured most.
    cases = [(name, mode) for mode in MODES for name in SMALLEST if mode == "default" or name in MODES_OF]
    return {f"{name} {mode}": partial(check, name, mode) for name, mode in (TINY_CASES if tiny else cases)}


# ---- what they share ----


def distance(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖."""
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def worst(errors: Iterable[float]) -> float:
    """The largest, NaN if one is."""
    return float(np.max(list(errors)))


def opened(name: str, options: dict[str, Any]) -> Any:
    """A network of fixed random weights, none of whose branches is closed."""
    torch.manual_seed(0)
    network = registry.create(name, **options)
    open_branches(network)
    return network


@torch.no_grad()
def open_branches(network: nn.Module) -> None:
    """Put random numbers in the place of weights that are all zero."""
    for parameter in network.parameters():
        if not parameter.any():
            parameter.normal_(std=0.02)


def inception(folder: Path) -> Any:
    """The extractor with the reference's made-up weights, which are put into a folder."""
    shapes = json.loads((REFERENCE / "inception.keys.json").read_text())
    state = {
        name: torch.from_numpy(recipe.weight(name, tuple(shape)))
        for name, shape in shapes.items()
        if "num_batches" not in name
    }
    path = folder / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(state, path)
    return create("inception", path)


def weights(network: Any) -> Tensor:
    """All of them in a row, on the CPU."""
    return torch.cat([p.detach().flatten().cpu() for p in network.parameters()])


def trainer_on(
    place: torch.device, name: str, folder: Path, protocol: Protocol, accumulation: int = 1
) -> loop.Trainer:
    """A training run on the digits, on a device of one's choice: accelerate keeps one for a process."""
    digits = data.load("digits")
    request = RunRequest(
        model=name,
        config=registry.canonical(name, SMALLEST[name] | {"in_channels": digits.shape[0]}),
        fingerprint="",
        data="digits",
        data_digest="",
        shape=digits.shape,
        num_classes=10,
        training=protocol.training_of(name),
        seed=0,
    )
    torch.manual_seed(0)
    AcceleratorState._reset_state(reset_partial_state=True)
    with mock.patch.object(torch.cuda, "is_available", lambda: on_cuda(place)):
        return loop.Trainer(Run(folder), request.build(), digits, request, protocol, accumulation)
