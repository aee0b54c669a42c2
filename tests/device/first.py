"""The first five minutes on a GPU: what can be wrong, ordered by what each item tells a second.

Nothing is taken for granted: that events measure time, that TF32 is off where it is said to be, which kernels
run, that the commands end. Then how fast the networks run that are asked for most, and at last what takes
long: what is compiled, and features of many images.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

import registry
from bench.cli import app
from bench.data import grid
from bench.data.autoencoder import Autoencoder
from bench.diffusion import objective
from bench.metrics.features import features_of
from bench.metrics.images import open_set
from bench.records.environment import environment
from bench.records.schema import SamplingSettings
from bench.sampling import Plan, sample
from bench.speed import profile, runners, throughput
from bench.speed.device import TORCH_DTYPES, clock_mhz, limits, seconds
from bench.speed.nominal import nominal_flops
from bench.speed.operators import operator_class
from bench.training import protocols
from bench.utils import randomness
from bench.utils.compilation import compile_network
from bench.utils.device import device_name, on_cuda
from bench.utils.precision import autocast, cast_weights, tf32
from tests.conftest import SMALLEST
from tests.device import checks
from tests.device.checks import BF16, CPU, FP32, distance, inception, opened, trainer_on, worst
from tests.device.journal import Found, Items, Limited
from tests.device.measurements import Network, timed

TIMING = 0.03  # by how much two ways of timing the same may differ
TINY: Network = ("tiny-unet", {"input_size": 8})
TRAINED = {True: "tiny-unet", False: "udit-s"}
PROTOCOL = """
title = "A few steps on digits"
data = "digits"

[training]
steps = {steps}
batch_size = 64
learning_rate = 1e-4
ema_decay = 0.9
log_every = 5
checkpoint_every = {steps}
precision = "bf16"

[sampling]
sampler = "ddim"
steps = 4
num = {num}
batch_size = {batch}
"""


def first(device: torch.device, out: Path, tiny: bool) -> Items:
    """All items, each with the seconds after which it is given up."""
    cuda = on_cuda(device)
    of_five = ["tiny-unet"] if tiny else ["udit-t", "dit-s-2", "uvit-s-2", "dic-s", "dico-s"]
    shown = [TINY] if tiny else [("udit-s", {}), ("dit-s-2", {})]
    with_kernels = [("udit-t", SMALLEST["udit-t"])] if tiny else shown
    timed_most = [TINY] if tiny else [("udit-s", {}), ("dit-s-2", {}), ("udit-b", {}), ("dit-xl-2", {})]
    dtypes = ["fp32", "bf16"] + ["fp16"] * cuda
    settings = partial(throughput.Settings, device=str(device), dtype="bf16" if cuda else "fp32")
    rates = {
        f"{batch} images": (120, partial(_rates, timed_most, settings(batch_size=batch), out))
        for batch in ([2] if tiny else [64, 8, 256])
    }
    compiled = {
        f"{registry.label(*network)} compiled": (
            240, partial(_compiled, network, settings(batch_size=2 if tiny else 64, compile=True,
                                                      num_inference_steps=5 if tiny else 50), out)
        )
        for network in shown
    }  # fmt: skip
    items: dict[str, tuple[float, Any]] = {
        "random numbers": (20, partial(_random_numbers, device)),
        "TF32 is off": (20, partial(_tf32, device)),
        "events and the wall clock": (20, partial(_clocks, device)),
        "twice as many calls": (20, partial(_twice, device)),
        "outputs fp32": (60, partial(_outputs, device, of_five, "fp32", tiny)),
        "outputs bf16": (60, partial(_outputs, device, of_five, "bf16", tiny)),
        "gradients fp32": (60, partial(_gradients, device, of_five, "fp32", tiny)),
        "gradients bf16": (60, partial(_gradients, device, of_five, "bf16", tiny)),
        "a scaled step": (30, partial(_scaled_step, device)),
        "CUDA graphs": (60, partial(_graphs, device)),
        "weights cast once": (30, partial(_cast_once, device, of_five, tiny)),
        "the peaks": (40, partial(_peaks, device)),
        **{name: rates[name] for name in list(rates)[:1]},
        "bench train, sample, eval": (90, partial(_commands, device, tiny)),
        **{f"kernels {dtype}": (40, partial(_kernels, device, with_kernels, dtype)) for dtype in dtypes},
        **{name: rates[name] for name in list(rates)[1:]},
        "a network beside itself": (60, partial(_itself, device, shown[0], 2 if tiny else 64)),
        "the VAE": (60, partial(_vae, device, tiny)),
        "one process of many": (40, partial(_one_rank, device)),
        "automatic batch": (90, partial(_automatic, shown[0], settings(batch_size="auto"), out)),
        **compiled,
        "50,000 features": (120, partial(_features, device, 16 if tiny else 2000, 32 if tiny else 256)),
    }
    return {name: Limited(call, limit) for name, (limit, call) in items.items()}


# ---- does it compute what it should ----


def _random_numbers(device: torch.device) -> Found:
    """Integers are the CPU's; normal numbers to what the logarithm and the cosine of both differ by."""
    indices = torch.arange(64)
    words = [
        randomness.philox((indices, indices + 7, indices * 3, indices), (2**32 - 1, 12345))
        for indices in (indices.to(device), indices)
    ]
    drawn = [randomness.uniform(3, "label", indices.to(place), 99, 5).cpu() for place in (device, CPU)]
    grids = partial(randomness.normal, 3, "noise", shape=(4, 32, 32), step=5)
    noise = [grids(indices=indices.to(place)).cpu() for place in (device, CPU)]
    equal = all(torch.equal(a.cpu(), b) for a, b in zip(*words, strict=True)) and torch.equal(*drawn)
    return {"error": distance(*noise) if equal else 1.0, "bound": 1e-6, "integers equal": equal}


def _tf32(device: torch.device) -> Found:
    """Products and convolutions in float32 beside float64, with TF32 switched off while all else wants it."""
    a, b = (torch.randn(512, 512, device=device) for _ in range(2))
    x, weight = torch.randn(8, 64, 32, 32, device=device), torch.randn(64, 64, 3, 3, device=device)
    pairs = {"product": (torch.matmul, a, b), "convolution": (partial(F.conv2d, padding=1), x, weight)}
    found, every = {}, torch.backends
    before = every.fp32_precision
    try:
        every.fp32_precision = "tf32" if on_cuda(device) else before
        for name, (call, *tensors) in pairs.items():
            exact = call(*(tensor.cpu().double() for tensor in tensors))
            for on in (False, True):
                with tf32(on, device):
                    found[f"{name}{' in TF32' * on}"] = distance(call(*tensors).cpu(), exact)
    finally:
        every.fp32_precision = before
    return {"error": max(found["product"], found["convolution"]), "bound": 1e-5, **found}


def _outputs(device: torch.device, names: list[str], precision: Any, tiny: bool) -> Found:
    """Deployed networks at published size beside the CPU's in float32."""
    errors = {}
    for name in names:
        network = opened(name, SMALLEST[name] if tiny else {}).deploy()
        inputs = network.example_inputs(2)
        with torch.inference_mode(), tf32(False, device):
            expected = network(*inputs)
            network.to(device)
            with autocast(precision, device):
                errors[name] = distance(network(*(value.to(device) for value in inputs)).cpu(), expected)
    return {"error": worst(errors.values()), "bound": FP32 if precision == "fp32" else BF16, **errors}


def _gradients(device: torch.device, names: list[str], precision: Any, tiny: bool) -> Found:
    """Those of the networks in training beside the CPU's in float32."""
    sizes = SMALLEST if tiny else {name: {} for name in names}
    errors = {name: checks.gradient_error(name, sizes[name], precision, device) for name in names}
    bound = checks.gradient_bound(precision, tiny)
    return {"error": worst(errors.values()), "bound": bound, **errors}


def _scaled_step(device: torch.device) -> Found:
    """A step in float16 (in bfloat16 on a CPU) moves the weights, and one that overflows does not."""
    smoke = protocols.load("smoke")
    training = smoke.training.model_copy(update={"precision": "fp16" if on_cuda(device) else "bf16"})
    protocol = smoke.model_copy(update={"training": training})
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_on(device, "udit-t", Path(folder), protocol)
        found = trainer.take_step()
        moved = [checks.weights(trainer.network)]
        scale = None
        if trainer.scaler is not None:
            trainer.scaler.update(2.0**60)
            trainer.take_step()
            moved.append(checks.weights(trainer.network))
            scale = trainer.scaler.get_scale()
    right = bool(found["loss"].isfinite()) and torch.equal(moved[0], moved[-1]) and scale in (None, 2.0**59)
    return {"error": float(not right), "bound": 0.0, "loss": found["loss"].item(), "scale": scale}


@contextmanager
def _compiler(device: torch.device) -> Iterator[None]:
    """On a CPU what is compiled is traced alone: that is what is tested there, and takes no compiler."""
    torch._dynamo.reset()
    eager = mock.patch.object(torch, "compile", partial(torch.compile, backend="eager"))
    with nullcontext() if on_cuda(device) else eager:
        yield


def _graphs(device: torch.device) -> Found:
    """Replayed with other inputs, in any order; and images of batches of which the last is short."""
    network = opened("udit-t", SMALLEST["udit-t"])
    deployed, replayed = (network.deploy().to(device) for _ in range(2))
    settings = SamplingSettings(sampler="ddim", steps="4", num=7, batch_size=4, cfg_scale=1.5)
    plan = Plan(objective("ddpm"), settings)
    with _compiler(device), tf32(False, device), torch.inference_mode():
        compile_network(replayed, graphs=on_cuda(device), dynamic=False)
        batches = [deployed.example_inputs(4) for _ in range(3)]
        order = [0, 0, 0, 1, 2, 1]
        made = [replayed(*batches[i]) for i in order]  # all are kept: none may be written over
        errors = [distance(one, deployed(*batches[i])) for one, i in zip(made, order, strict=True)]
    images = []
    for compiled in (False, True):
        with tempfile.TemporaryDirectory() as folder, _compiler(device):
            path = Path(folder) / "made.npz"
            sample(network, grid.to_images, plan, path, identity={}, device=device, compiled=compiled)
            with np.load(path) as stored:
                images.append(stored["arr_0"].astype(int))
    off = float(np.abs(images[0] - images[1]).max())
    return {"error": worst([*errors, 0.0 if off <= 1 else 1.0]), "bound": 10 * FP32, "levels of 256": off}


def _cast_once(device: torch.device, names: list[str], tiny: bool) -> Found:
    """Weights that are cast once give the bits of autocast; where not, sampling does without."""
    differ = []
    for name in names:
        network = opened(name, SMALLEST[name] if tiny else {}).deploy().to(device)
        inputs, outputs = network.example_inputs(2), []
        for cast in (False, True):
            if cast:
                cast_weights(network, "bf16")
            with torch.inference_mode(), autocast("bf16", device):
                outputs.append(network(*inputs))
        differ += [] if torch.equal(*outputs) else [name]
    return {"error": float(len(differ)), "bound": 0.0, "differ": differ}


def _commands(device: torch.device, tiny: bool) -> Found:
    """Twenty steps of `bench train`, images of them, and their scores, by the commands themselves."""
    took, batch = {}, 4 if tiny else 64

    def run(*arguments: str) -> str:
        began = time.monotonic()
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        if done.exit_code:
            raise RuntimeError(f"bench {arguments[0]} ended with {done.exit_code}: {done.output}")
        took[f"bench {arguments[0]} s"] = time.monotonic() - began
        return done.output

    with tempfile.TemporaryDirectory() as name, _compiler(device):
        folder = Path(name)
        run_folder, images, reference = (str(folder / part) for part in ("run", "s.npz", "r.npz"))
        text = PROTOCOL.format(steps=2 if tiny else 20, num=10 if tiny else 1000, batch=batch)
        (folder / "first.toml").write_text(text)
        run("train", "-m", TRAINED[tiny], "--protocol", str(folder / "first.toml"), "--out", run_folder)
        run("sample", "--checkpoint", run_folder, "--out", images, "--device", str(device), "--compile",
            "--precision", "bf16")  # fmt: skip
        run("export", "--data", "digits", "--out", reference)
        options = ("--device", str(device), "--cache", str(folder / "cache"), "--json")
        scores = json.loads(run("eval", "--samples", images, "--reference", reference, *options))["scores"]
        log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    finite = all(np.isfinite([*(entry["loss"] for entry in log), *scores.values()]))
    rates = {"training images/s": log[-1]["images_per_second"]}
    return {"error": float(not finite), "bound": 0.0, **rates, **took, "scores": scores}


def _one_rank(device: torch.device) -> Found:
    """A process group of one, by NCCL on a GPU: a sum over all, and gradients through the wrapper."""
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if on_cuda(device) else "gloo"
        torch.distributed.init_process_group(backend, f"file://{folder}/store", rank=0, world_size=1)
        try:
            total = torch.arange(5.0, device=device)
            torch.distributed.all_reduce(total)
            network = opened("udit-t", SMALLEST["udit-t"]).to(device).eval()
            inputs = network.example_inputs(4)
            gradients = []
            for called in (network, nn.parallel.DistributedDataParallel(network)):
                network.zero_grad()
                called(*inputs).square().mean().backward()
                gradients.append(
                    torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
                )
        finally:
            torch.distributed.destroy_process_group()
    return {"error": worst([distance(total.cpu(), torch.arange(5.0)), distance(*gradients)]), "bound": FP32}


def _vae(device: torch.device, tiny: bool) -> Found:
    """The papers' autoencoder, of random weights: decoding beside the CPU's, and images a second."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    widths = (32, 32) if tiny else (128, 256, 512, 512)
    blocks = [f"{way}{{}}Block2D" for way in ("Down", "Up")]
    network = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=[blocks[0].format("Encoder")] * len(widths),
        up_block_types=[blocks[1].format("Decoder")] * len(widths),
        latent_channels=4,
        layers_per_block=1 if tiny else 2,
    )
    z = torch.randn(64, 4, *[8 if tiny else 32] * 2) * 0.18215
    expected = network.eval().decode(z[:1] / 0.18215).sample.detach()
    found: dict[str, Any] = {}
    for precision in ("fp32", "bf16"):
        vae = Autoencoder(network, precision)
        with torch.no_grad(), tf32(False, device):
            one = vae.network.to(device).decode((z[:1] / 0.18215).to(device, vae.dtype)).sample
            found[f"{precision} error"] = distance(one.float().cpu(), expected)
        for on in (False, True) if on_cuda(device) and precision == "fp32" else (False,):
            with tf32(on, device):
                vae.decode(z.to(device))
                spent = seconds(partial(vae.decode, z.to(device)), 1, device)
            found[f"{precision}{' in TF32' * on} images/s"] = len(z) / spent
    error = max(found["fp32 error"] / (10 * FP32), found["bf16 error"] / BF16)
    return {"error": error, "bound": 1.0, **found}


# ---- does it measure what it should ----


def _work(device: torch.device) -> Any:
    a = torch.randn(2048 if on_cuda(device) else 128, 2048, device=device)
    return lambda: a @ a.t()


def _clocks(device: torch.device) -> Found:
    """Seconds by events beside those of the wall clock, of the same calls."""
    call = _work(device)
    seconds(call, 10, device)
    began = time.perf_counter()
    spent = seconds(call, 1000 if on_cuda(device) else 50, device)
    wall = time.perf_counter() - began
    return {"error": abs(wall / spent - 1), "bound": TIMING, "events": spent, "wall": wall}


def _twice(device: torch.device) -> Found:
    """Seconds of twice as many calls, over twice those of the calls; of a CPU that others use, roughly."""
    call, count = _work(device), 500 if on_cuda(device) else 20
    seconds(call, count, device)
    once, twice = (min(seconds(call, times, device) for _ in range(5)) for times in (count, 2 * count))
    error = abs(twice / once / 2 - 1)
    return {"error": error, "bound": TIMING if on_cuda(device) else 1.0, "once": once, "twice": twice}


def _itself(device: torch.device, network: Network, batch: int) -> Found:
    """A network timed beside itself: the ratio is 1, or an interval that says that it may be."""
    dtype: Any = "bf16" if on_cuda(device) else "fp32"
    settings = throughput.Settings(device=str(device), dtype=dtype, batch_size=batch)
    _, again = throughput.measure([network, network], settings, repeats=6)
    assert again.ratio is not None and again.interval is not None
    low, high = again.interval
    found = {"ratio": again.ratio, "interval": [low, high]}
    return {"error": max(low - 1, 1 - high, 0.0), "bound": TIMING if on_cuda(device) else 1.0, **found}


def _peaks(device: torch.device) -> Found:
    """What the GPU is, and what it does at most, burst and for seconds on end."""
    where = environment(str(device))
    found: dict[str, Any] = {"device": where.device, "clock MHz": clock_mhz(device)}
    found |= where.gpu.model_dump(mode="json") if where.gpu else {}
    for dtype in ("fp32", "tf32", "bf16", "fp16") if on_cuda(device) else ("fp32",):
        with tf32(dtype == "tf32", device):
            products, copies = limits(device, dtype)
        nominal = nominal_flops(device_name(device), dtype)
        found[f"{dtype} TFLOP/s"] = [rate / 1e12 for rate in (products.burst, products.sustained)]
        found[f"{dtype} of nominal"] = None if nominal is None else products.sustained / nominal
        found["GB/s"] = [rate / 1e9 for rate in (copies.burst, copies.sustained)]
    return found


# ---- which kernels run, and how fast ----


def _kernels(device: torch.device, networks: list[Network], dtype: str) -> Found:
    """Names of the kernels of attention, depthwise and 1×1 convolutions, by the shape of their input."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    with torch.inference_mode(), tf32(False, device):
        for name, options in networks:
            network = registry.create(name, **options).deploy().to(device, TORCH_DTYPES[dtype])
            inputs = network.example_inputs(8)
            network(*inputs)
            _, profiler = profile.profiled(partial(network, *inputs), device)
            for event in profiler.events():
                if event.device_type != torch.autograd.DeviceType.CPU or "::" not in event.name:
                    continue
                kind = operator_class(event)
                kernels = [kernel.name for kernel in event.kernels] if on_cuda(device) else [event.name]
                shapes = [shape for shape in event.input_shapes or () if shape]
                if kind in ("attention", "depthwise convolution", "1×1 convolution") and kernels and shapes:
                    found[f"{registry.label(name, options)}, {kind} {shapes[0]}"].update(kernels)
    return {key: sorted(names) for key, names in found.items()}


def _rates(networks: list[Network], settings: throughput.Settings, out: Path) -> Found:
    """Images a second, what bounds them, and the share of launches; records are kept."""
    return {
        registry.label(one.request.model, one.request.config): {
            "images/s": one.images_per_second,
            "bound": one.bound,
            "launch share": one.launch_share,
            "of peak": one.peak_share,
            "MiB": one.peak_bytes / 2**20,
            "batch": f"{one.batch_size}: {one.batch_reason}",
        }
        for one in timed(networks, settings, out)
    }


def _automatic(network: Network, settings: throughput.Settings, out: Path) -> Found:
    return _rates([network], settings, out)


def _compiled(network: Network, settings: throughput.Settings, out: Path) -> Found:
    """Compiled calls and loops; no graph is compiled while one is timed."""
    made = []
    graphs = torch._dynamo.utils.counters["stats"]

    def watched(call: Any, times: int, device: torch.device) -> float:
        before = graphs["unique_graphs"]
        spent = seconds(call, times, device)
        made.append(graphs["unique_graphs"] - before)
        return spent

    device = torch.device(settings.device)
    with _compiler(device), mock.patch.object(runners, "seconds", watched):
        (found,) = timed([network], settings, out)
    loops = found.sampling
    return {
        # The first of what is timed tells how long it takes to compile.
        "error": float(sum(made[1:]) if found.compiled == "yes" else 1),
        "bound": 0.0,
        "compiled": found.compiled,
        "seconds to compile": found.compile_seconds,
        "images/s": found.images_per_second,
        "bound by": found.bound,
        "launch share": found.launch_share,
        "MiB": found.peak_bytes / 2**20,
        "loops, images/s": loops and [loops.images_per_second, loops.guided_images_per_second],
    }


def _features(device: torch.device, count: int, side: int) -> Found:
    """Seconds that Inception's features of 50,000 images take, by those of fewer."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
        np.savez(folder / "images.npz", arr_0=images)
        extractor, made = inception(folder).to(device), open_set(folder / "images.npz")
        extractor(torch.zeros(2, 3, side, side, dtype=torch.uint8, device=device))
        began = time.perf_counter()
        features_of(made, [extractor], folder / "cache", device=str(device))  # type: ignore[arg-type]
        spent = time.perf_counter() - began
    return {"seconds for 50,000": 50_000 / count * spent, "images/s": count / spent}
