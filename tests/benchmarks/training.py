"""What `micro` takes, and what the loop costs beyond the step: `python -m tests.benchmarks.training`.

`udit-t` is trained and sampled by the two commands. A step of `bench train`, with its data, noise, gradient
norm, clipping and averaged weights, is timed beside forward, loss, backward and AdamW alone, interleaved.
`--write` renews its section of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import registry
from bench import data
from bench.records.environment import environment
from bench.training import protocols
from bench.training.loop import Trainer
from bench.training.run import Run, RunRequest, fitted
from tests.benchmarks.speed import interleaved, write_section

MARKS = ("<!-- training benchmark -->", "<!-- end of training benchmark -->")


def trainer(model: str, folder: str) -> Trainer:
    """A run of a network under `micro`, of which single steps can be taken."""
    micro, digits = protocols.load("micro"), data.load("digits")
    request = RunRequest(
        model=model,
        config=registry.canonical(
            model, fitted(model, micro.overrides(model), digits.shape, digits.num_classes)
        ),
        fingerprint=registry.backbones.fingerprint(model),
        data="digits",
        data_digest=digits.digest,
        shape=digits.shape,
        num_classes=digits.num_classes,
        training=micro.training_of(model),
        seed=0,
    )
    return Trainer(Run(folder), request.build(), digits, request, micro)


def overhead(model: str, repeats: int) -> tuple[float, float, float]:
    """Milliseconds of our step and of the bare one, and the median ratio."""
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(model, folder)

        def ours() -> None:
            made.take_step()
            made.step += 1

        network: Any = copy.deepcopy(made.network)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
        x, t, y = network.example_inputs(made.settings.batch_size)

        def bare() -> None:
            made.objective.losses(network(x, t, y), x, x, x, t)["loss"].mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        seconds = interleaved({"ours": ours, "bare": bare}, repeats)
    ratio = statistics.median(a / b for a, b in zip(seconds["ours"], seconds["bare"], strict=True))
    return *(statistics.median(seconds[side]) * 1e3 for side in ("ours", "bare")), ratio


def whole(model: str) -> tuple[float, float, float]:
    """Seconds of training and of sampling under `micro`, and the mean squared error of the last 100 steps."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        seconds = []
        for command in (
            ["train", "--model", model, "--protocol", "micro", "--out", run],
            ["sample", "--checkpoint", run, "--out", Path(folder) / "samples.npz"],
        ):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "bench.cli", *map(str, command)], check=True)
            seconds.append(time.perf_counter() - start)
        log = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    last = [entry["mse"] for entry in log if entry["step"] > log[-1]["step"] - 100]
    return seconds[0], seconds[1], statistics.mean(last)


def main() -> None:
    """Measure, print, and with `--write` renew docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.training", description=__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    args = parser.parse_args()
    where, micro = environment(), protocols.load("micro")
    training, sampling, error = whole("udit-t")
    page = (
        f"`bench train --model udit-t --protocol micro` took {training:.0f} s and `bench sample` of its "
        f"{micro.sampling.num:,} images {sampling:.0f} s. The mean squared error of the predicted noise came "
        f"to {error:.3f} over the last 100 steps; a network that ignores its input reaches 1 at best.\n\n"
    )
    lines = ["| network | step of `bench train`, ms | forward, loss, backward, AdamW, ms | ratio |",
             "|:--|--:|--:|--:|"]  # fmt: skip
    for model in track(["udit-t", "dit-s-4", "tiny-unet"], "networks"):
        lines.append("| {} | {:.1f} | {:.1f} | {:.3f} |".format(model, *overhead(model, args.repeats)))
    page += "\n".join(lines) + (
        f"\n\nMeasured {where.date[:10]} on {where.cores} cores of {where.cpu}, {where.threads} "
        f"threads, torch {where.torch}; `micro`, batch {micro.training.batch_size}, interleaved, median "
        f"of {args.repeats} rounds."
    )
    print(page)
    if args.write:
        write_section(MARKS, page)


if __name__ == "__main__":
    main()
