"""What EfficientNet's scores make of natural images: `python -m tests.benchmarks.natural --root CIFAR10`.

Real images, the same noised, blurred and mixed, and samples of short training runs are scored beside other
real images. `--runs FOLDER` names training runs on CIFAR-10 with checkpoints; they are read and not changed.
`--write` puts the tables into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter
from scipy.stats import spearmanr

import bench
import registry
from bench.metrics.scores import SCORES, select
from bench.records.environment import environment
from bench.training.run import Run
from tests.benchmarks.speed import write_section

MARKS = ("<!-- natural images benchmark -->", "<!-- end of natural images benchmark -->")
RUN_SCORES = ("fd_efficientnet", "kd_efficientnet")


def changed(images: np.ndarray) -> dict[str, np.ndarray]:
    """The same images, further and further from what they were: uint8 (N, H, W, 3) each."""
    noise = np.random.default_rng(0).standard_normal(images.shape)

    def noised(deviation: float) -> np.ndarray:
        return np.clip(np.rint(images + deviation * noise), 0, 255).astype(np.uint8)

    def blurred(radius: float) -> np.ndarray:
        made = [Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)) for image in images]
        return np.stack([np.asarray(image) for image in made])

    mixed = (images.astype(np.uint16) + np.roll(images, 1, axis=0) + 1) // 2
    return {
        "real images": images,
        "noise, σ = 2 of 255": noised(2),
        "noise, σ = 16 of 255": noised(16),
        "blur, σ = 0.5 pixels": blurred(0.5),
        "blur, σ = 1 pixel": blurred(1.0),
        "each the mean of two images": mixed.astype(np.uint8),
    }


def scored(sets: dict[str, np.ndarray], reference: np.ndarray, **options: Any) -> dict[str, dict[str, float]]:
    """Scores of each set beside the reference, by its name."""
    found = {name: bench.evaluate(images, reference, **options).scores for name, images in sets.items()}
    return {
        name: {key: each for key, each in values.items() if each is not None}
        for name, values in found.items()
    }


class Row(NamedTuple):
    """A trained network: its held-out loss, and scores of its samples."""

    network: str
    loss: float
    scores: dict[str, float]


def trained(folder: Path, reference: np.ndarray, count: int, steps: int) -> list[Row]:
    """The runs of a folder that have ended."""
    rows = []
    for path in sorted(folder.glob("*/run.json")):
        request = Run(path.parent).manifest.request
        step = request.training.steps
        losses = list(path.parent.glob(f"held-out/{step:08}-*.json"))
        if not losses or not (path.parent / "checkpoints" / f"{step:08}").is_dir():
            continue
        bands = json.loads(losses[0].read_text("utf-8"))["bands"]
        with tempfile.TemporaryDirectory() as made:
            out = bench.sample(
                path.parent, Path(made) / "samples.npz", num=count, sampler="ddim", steps=steps, batch_size=32
            )
            found = bench.evaluate(out, reference, scores=RUN_SCORES).scores
        scores = {name: value for name, value in found.items() if value is not None}
        config = {
            key: value
            for key, value in request.config.items()
            if key not in ("input_size", "in_channels", "num_classes")
        }
        label = registry.label(request.model, registry.canonical(request.model, config))
        rows.append(Row(label, sum(band["share"] * band["loss"] for band in bands), scores))
        print(rows[-1], flush=True)
    return sorted(rows, key=lambda row: row.loss)


def table(found: dict[str, dict[str, float]]) -> str:
    """A row for each set, a column for each score."""
    names = list(next(iter(found.values())))
    lines = [f"| beside other real images | {' | '.join(SCORES[name].title for name in names)} |"]
    lines.append("|:--|" + "--:|" * len(names))
    for name, values in found.items():
        lines.append(f"| {name} | {' | '.join(SCORES[key].text(value) for key, value in values.items())} |")
    return "\n".join(lines)


def run_table(rows: list[Row]) -> str:
    """Trained networks by their held-out loss, and how scores order them."""
    lines = [f"| network | held-out loss | {' | '.join(SCORES[name].title for name in RUN_SCORES)} |"]
    lines.append("|:--|--:|" + "--:|" * len(RUN_SCORES))
    for row in rows:
        figures = [SCORES[name].text(row.scores[name]) for name in RUN_SCORES]
        lines.append(f"| {row.network} | {row.loss:.4f} | {' | '.join(figures)} |")
    losses = [row.loss for row in rows]
    agree = [
        f"{SCORES[name].heading} {spearmanr(losses, [row.scores[name] for row in rows]).statistic:.2f}"
        for name in RUN_SCORES
    ]
    lines += [
        "",
        f"Rank correlation (Spearman) with held-out loss over {len(rows)} networks: {', '.join(agree)}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Score, print, and with `--write` renew docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.natural", description=__doc__)
    parser.add_argument("--root", required=True, help="folder of CIFAR-10's binary files")
    parser.add_argument("--images", type=int, default=500, help="in each set")
    parser.add_argument("--runs", type=Path, help="folder of training runs on CIFAR-10")
    parser.add_argument("--samples", type=int, default=96, help="of each run")
    parser.add_argument("--steps", type=int, default=10, help="of DDIM")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    args = parser.parse_args()

    data = bench.data.load("cifar10", root=args.root, split="test", grid="pixels")
    images = data.to_images(data.grids(np.arange(2 * args.images)))
    first, second = images[::2], images[1::2]
    digits = bench.data.load("digits")
    toy = digits.to_images(digits.grids(np.arange(len(digits))))
    parts = [
        f"CIFAR-10, {args.images:,} images a set, features of EfficientNet-Lite0:",
        table(
            scored(
                changed(first),
                second,
                scores=[each.name for each in select((), "efficientnet")] + ["kd_efficientnet"],
            )
        ),
        f"The same with `digits` and its own extractor, {len(toy[::2])} images a set:",
        table(
            scored(
                changed(toy[::2]), toy[1::2], extractor="digits", scores=["fid", "kid", "precision", "recall"]
            )
        ),
    ]
    if args.runs:
        parts += [
            f"Networks after a short training on CIFAR-10, {args.samples} samples each (DDIM, {args.steps} "
            "steps, averaged weights), ordered by held-out loss:",
            run_table(trained(args.runs, second, args.samples, args.steps)),
        ]
    where = environment()
    parts.append(f"Measured {where.date[:10]}, torch {torch.__version__}.")
    text = "\n\n".join(parts)
    print(text)
    if args.write:
        write_section(MARKS, text)


if __name__ == "__main__":
    main()
