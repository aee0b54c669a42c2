"""Timings that anyone can repeat: `python -m tests.benchmarks.speed`; `--write` renews docs/benchmarks.md.

What is timed against what stands side by side in one run, interleaved, as medians. Nothing here is
a test: a timing never passes or fails.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DModel
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

import registry
from bench.records.environment import environment
from bench.utils.files import write_text
from registry.layers.embeddings import LabelDropout
from tests import plain
from tests.conftest import ROOT, reference_state

PAGE = ROOT / "docs/benchmarks.md"

MARKS = (
    "<!-- benchmarks: written by python -m tests.benchmarks.speed --write -->",
    "<!-- end of benchmarks -->",
)
PLAIN: dict[str, Callable[..., Tensor]] = {
    "dit-s-8": lambda state, x, t, y: plain.dit(state, x, t, y, num_heads=6),
    "dit-s-4": lambda state, x, t, y: plain.dit(state, x, t, y, num_heads=6),
    "dit-unet": lambda state, x, t, y: plain.udit(
        state, x, t, y, num_heads=2, cosine=False, rope=False, factor=1, shortcut=False
    ),
    "udit-t": lambda state, x, t, y: plain.udit(
        state, x, t, y, num_heads=2, cosine=True, rope=True, factor=2, shortcut=True
    ),
    "udit-s": lambda state, x, t, y: plain.udit(
        state, x, t, y, num_heads=4, cosine=True, rope=True, factor=2, shortcut=True
    ),
    "uvit-s-2": lambda state, x, t, y: plain.uvit(state, x, t, y, num_heads=8),
}


def separate_products(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention as matmul, softmax, matmul: what fused attention stands against."""
    assert attn_mask is None and not is_causal
    return (q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)).softmax(-1) @ v


def interleaved(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, one after the other in every round, after a round of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return seconds


@torch.inference_mode()
def forward(name: str, batch_size: int, repeats: int) -> dict[str, Any]:
    """Our deployed forward pass against a straightforward one with the same weights."""
    torch.manual_seed(0)
    network: Any = registry.create(name)
    if name in PLAIN:
        state = reference_state(name)
        registry.load_checkpoint(network, state)
        if name.startswith("dit-s"):
            state["pos_embed"] = network.pos_embed.detach()
    ours = network.deploy()
    inputs = ours.example_inputs(batch_size)
    fused = F.scaled_dot_product_attention

    def straightforward() -> Tensor:
        if name in PLAIN:
            return PLAIN[name](state, *inputs)
        F.scaled_dot_product_attention = separate_products
        try:
            return ours(*inputs)
        finally:
            F.scaled_dot_product_attention = fused

    difference = (ours(*inputs) - straightforward()).abs().max().item()
    seconds = interleaved({"ours": lambda: ours(*inputs), "other": straightforward}, repeats)
    against = "plain implementation" if name in PLAIN else "same network, separate products"
    return _compared(name, against, seconds) | {"largest_difference": difference}


@torch.inference_mode()
def wrapped(batch_size: int, repeats: int) -> dict[str, Any]:
    """Our deployed `unet2d` against diffusers' own network, called directly, with the same weights."""
    torch.manual_seed(0)
    ours: Any = registry.create("unet2d").deploy()
    direct = UNet2DModel.from_config(ours.net.config).eval()
    direct.load_state_dict(ours.net.state_dict())
    x, t, y = ours.example_inputs(batch_size)

    def diffusers() -> Tensor:
        return direct(x, t, class_labels=y).sample

    difference = (ours(x, t, y) - diffusers()).abs().max().item()
    seconds = interleaved({"ours": lambda: ours(x, t, y), "other": diffusers}, repeats)
    return _compared("unet2d", "diffusers itself", seconds) | {"largest_difference": difference}


def training(name: str, batch_size: int, repeats: int) -> dict[str, Any]:
    """Our training step (forward, backward, AdamW) against that of the plain transcription."""
    torch.manual_seed(0)
    network: Any = registry.create(name, class_dropout_prob=0.1).train()
    state = reference_state(name)
    registry.load_checkpoint(network, state)
    for part in network.modules():
        if isinstance(part, LabelDropout):
            part.dropout = 0.0  # the transcription has none
    if name.startswith("dit-s"):
        state["pos_embed"] = network.pos_embed.detach().clone()
    trained = [
        tensor.requires_grad_() for key, tensor in state.items() if key != "pos_embed" or "uvit" in name
    ]
    inputs = network.example_inputs(batch_size)

    def step(forward: Callable[..., Tensor], parameters: Any) -> Callable[[], float]:
        optimizer = torch.optim.AdamW(parameters, lr=1e-6)

        def run() -> float:
            optimizer.zero_grad()
            loss = forward(*inputs).square().mean()
            loss.backward()
            optimizer.step()
            return loss.item()

        return run

    ours = step(network, [p for p in network.parameters() if p.requires_grad])
    other = step(lambda *args: PLAIN[name](state, *args), trained)
    seconds = interleaved({"ours": ours, "other": other}, repeats)
    return _compared(name, "plain implementation", seconds)


def _compared(name: str, against: str, seconds: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "model": name,
        "against": against,
        "milliseconds": statistics.median(seconds["ours"]) * 1e3,
        "milliseconds_other": statistics.median(seconds["other"]) * 1e3,
        "ratio": statistics.median(b / a for a, b in zip(seconds["ours"], seconds["other"], strict=True)),
    }


# A small process in between: a child's peak would otherwise begin at that of this one, torch and all.
_LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def command(*args: str, repeats: int) -> dict[str, Any]:
    """Wall time, CPU time and peak memory of a command of Python in a process of its own."""
    runs = []
    for _ in range(repeats):
        launcher = [sys.executable, "-c", _LAUNCHER, sys.executable, *args]
        launched = subprocess.run(launcher, check=True, capture_output=True, text=True, cwd=ROOT)
        runs.append([float(value) for value in launched.stdout.split()])
    return {
        "command": " ".join(["python", *args]).replace("python -m bench.cli", "bench"),
        "seconds": statistics.median(seconds for seconds, _, _ in runs),
        "cpu_seconds": statistics.median(seconds for _, seconds, _ in runs),
        "runs": repeats,
        "peak_mib": max(kib for _, _, kib in runs) / 1024,  # Linux counts in KiB
    }


def commands(repeats: int) -> list[dict[str, Any]]:
    """Commands up to their first number, beside the import of PyTorch without which there is none."""
    few = min(repeats, 3)
    bench = ("-m", "bench.cli")
    return [
        command("-c", "import torch", repeats=repeats),
        command(*bench, "--help", repeats=repeats),
        *(command(*bench, "flops", "--model", name, repeats=few) for name in ("udit-b", "udit-l", "*")),
        command(*bench, "tables", repeats=few),
    ]


def _rows(compared: list[dict[str, Any]]) -> list[str]:
    return [
        "| network | ms | other, ms | times as fast | compared with |",
        "|:--|--:|--:|--:|:--|",
        *(
            f"| {f['model']} | {f['milliseconds']:.0f} | {f['milliseconds_other']:.0f} | {f['ratio']:.2f} | "
            f"{f['against']} |"
            for f in compared
        ),
    ]


def page(found: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    where = found["environment"]
    lines = [
        "| command | seconds (median) | CPU seconds | peak memory (MiB) |",
        "|:--|--:|--:|--:|",
        *(
            f"| `{c['command']}` | {c['seconds']:.2f} | {c['cpu_seconds']:.2f} | {c['peak_mib']:.0f} |"
            for c in found["commands"]
        ),
        "",
        f"One forward pass, batch {found['batch_size']}, float32, against the plain "
        "implementation of the tests (`tests/plain.py`), the same network with separate attention products, "
        "or the library that the network comes from:",
        "",
        *_rows(found["forward"]),
        "",
        f"One training step (forward, backward, AdamW), batch {found['batch_size']}, float32, against the "
        "plain implementation of the tests (`tests/plain.py`):",
        "",
        *_rows(found["training"]),
        "",
        f"Measured {where['date'][:10]} on {where['cores']} cores of {where['cpu']}, "
        f"{where['threads']} threads, Python {where['python']}, torch {where['torch']}, diffusers "
        f"{where['diffusers']}; interleaved, median of {found['repeats']} rounds.",
    ]
    return "\n".join(lines)


def table(headings: list[str], rows: list[list[str]], texts: int = 1) -> str:
    """A Markdown table whose first columns, so many, are text."""
    rule = [":--"] * texts + ["--:"] * (len(headings) - texts)
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, rule, *rows])


def write_section(marks: tuple[str, str], text: str) -> None:
    """Put a text between two marks of docs/benchmarks.md."""
    before, _, rest = PAGE.read_text("utf-8").partition(marks[0])
    after = rest.partition(marks[1])[2]
    write_text(PAGE, f"{before}{marks[0]}\n{text}\n{marks[1]}{after}")


def main() -> None:
    """Measure, print, and with `--write` keep the record and renew docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.speed", description=__doc__)
    parser.add_argument("--model", action="append", help="name or wildcard; default: the smaller networks")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--write", action="store_true", help="write results/benchmarks.json and docs/benchmarks.md"
    )
    args = parser.parse_args()

    small = ["dit-s-4", "dit-b-4", "dit-unet", "udit-t", "udit-s", "uvit-s-2", "unet2d", "uvit2d-latent"]
    names = [name for pattern in args.model or [*small, "tiny-unet"] for name in registry.names(pattern)]
    found: dict[str, Any] = {
        "environment": environment().model_dump(mode="json", by_alias=True),
        "batch_size": args.batch_size,
        "repeats": args.repeats,
        "commands": commands(args.repeats),
        "forward": [forward(name, args.batch_size, args.repeats) for name in track(names, "forward passes")],
    }
    if "unet2d" in names:
        found["forward"].append(wrapped(args.batch_size, args.repeats))
    found["training"] = [
        training(name, args.batch_size, args.repeats)
        for name in track([name for name in names if name in PLAIN], "training steps")
    ]
    print(page(found))
    if args.write:
        write_text(ROOT / "results/benchmarks.json", json.dumps(found, indent=2) + "\n")
        write_section(MARKS, page(found))


if __name__ == "__main__":
    main()
