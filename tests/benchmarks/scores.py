"""Our scores beside torch-fidelity's and prdc's, if installed: `python -m tests.benchmarks.scores`.

All score the same feature arrays, of the widths of Inception's and DINOv2's features. Each score of each
program runs in a process of its own, whose peak memory is taken, and programs take turns score by score.
`--write` commits what is found to docs/benchmarks.md. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.utils.files import write_text
from tests.benchmarks.speed import ROOT, write_section

MARKS = ("<!-- scores benchmark -->", "<!-- end of scores benchmark -->")


INCEPTION, DINOV2 = 2048, 1024  # features of an image
MEMORY_GIB = 20  # of one process: prdc keeps all distances at once


def make(folder: Path, samples: int, reference: int, width: int) -> None:
    """Write the recipe's features of both sets, as `SET-KIND.npy`; of Inception's width all kinds."""
    from tests.reference import recipe

    pool = recipe.features(samples, 2, 0.15, dim=width)
    np.save(folder / "samples-pool.npy", pool)
    np.save(folder / "reference-pool.npy", recipe.features(reference, 1, 0.0, dim=width))
    if width == INCEPTION:
        np.save(folder / "samples-logits.npy", pool @ recipe.softmax_weight())
        np.save(folder / "samples-spatial.npy", recipe.features(samples, 4, 0.1, dim=2023))
        np.save(folder / "reference-spatial.npy", recipe.features(reference, 3, 0.0, dim=2023))


def bench(folder: Path) -> dict[str, Callable[[], Any]]:
    """The scores of `bench.metrics`, of memory-mapped arrays; `evaluate` calls the same functions."""
    from bench.metrics.neighbours import precision_recall
    from bench.metrics.scores.density_coverage import density_coverage
    from bench.metrics.scores.fid import fid
    from bench.metrics.scores.inception_score import inception_score
    from bench.metrics.scores.kid import kid
    from bench.metrics.scores.mind import mind

    arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    pools = arrays["samples-pool"], arrays["reference-pool"]
    calls: dict[str, Callable[[], Any]] = {"FID": lambda: fid(*pools)}
    if "samples-logits" in arrays:
        calls["sFID"] = lambda: fid(arrays["samples-spatial"], arrays["reference-spatial"])
        calls["Inception score"] = lambda: inception_score(arrays["samples-logits"])
    calls["precision, recall"] = lambda: precision_recall(*pools)
    calls["KID"] = lambda: kid(*pools, size=min(1000, *map(len, pools)))[0]
    calls["density, coverage"] = lambda: density_coverage(*pools)
    calls["MIND"] = lambda: mind(*pools)
    return calls


def torch_fidelity(folder: Path) -> dict[str, Callable[[], Any]]:
    """torch-fidelity's scores; its precision and recall in the form that saves memory."""
    import torch
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    samples, reference = (
        torch.from_numpy(np.load(folder / f"{name}-pool.npy")) for name in ("samples", "reference")
    )

    def fid() -> float:
        statistics = [metric_fid.fid_features_to_statistics(rows) for rows in (samples, reference)]
        return metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID]

    def precision_recall() -> tuple[float, float]:
        found = metric_prc.prc_features_to_metric(samples, reference, save_cpu_ram=True, verbose=False)
        return found[metric_prc.KEY_METRIC_PRECISION], found[metric_prc.KEY_METRIC_RECALL]

    def kid() -> float:
        size = min(1000, len(samples), len(reference))
        options = {"kid_subsets": 100, "kid_subset_size": size, "verbose": False}
        return metric_kid.kid_features_to_metric(samples, reference, **options)[
            metric_kid.KEY_METRIC_KID_MEAN
        ]

    return {"FID": fid, "precision, recall": precision_recall, "KID": kid}


def prdc(folder: Path) -> dict[str, Callable[[], Any]]:
    """The authors' density and coverage, whose call computes precision and recall too."""
    from prdc import compute_prdc

    samples, reference = (np.load(folder / f"{name}-pool.npy") for name in ("samples", "reference"))

    def density_coverage() -> tuple[float, float]:
        found = compute_prdc(reference, samples, 5)
        return found["density"], found["coverage"]

    return {"density, coverage": density_coverage}


SIDES = {"bench": bench, "torch_fidelity": torch_fidelity}
if importlib.util.find_spec("prdc"):
    SIDES["prdc"] = prdc


def score(side: str, name: str, folder: Path) -> None:
    """Time a score of one side in this process, and print what came out."""
    call = SIDES[side](folder)[name]
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_GIB << 30, MEMORY_GIB << 30))
    start, cpu = time.perf_counter(), time.process_time()
    try:
        value = call()
    except MemoryError:
        print(json.dumps({"out_of_memory": True}))
        return
    found = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu, "value": value}
    found["peak_mib"] = _peak_kib() / 1024
    if (side, name) == ("bench", "precision, recall"):
        found["share"] = _product_seconds(folder) / found["cpu_seconds"]
    print(json.dumps(found))


def _peak_kib() -> int:
    """Peak memory of this process. `getrusage` also counts what its parent held when it was forked."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def _product_seconds(folder: Path) -> float:
    """CPU seconds of plain matrix products as large as all distances of precision and recall."""
    import torch

    counts = [len(np.load(folder / f"{name}-pool.npy", mmap_mode="r")) for name in ("samples", "reference")]
    width = np.load(folder / "samples-pool.npy", mmap_mode="r").shape[1]
    pairs = sum(count**2 / 2 for count in counts) + counts[0] * counts[1]
    rows = torch.randn(4096, width)
    rows @ rows.T
    start, repeats = time.process_time(), 5
    for _ in range(repeats):
        rows @ rows.T
    return (time.process_time() - start) / repeats * pairs / 4096**2


def measure(samples: int, reference: int, width: int) -> dict[str, Any]:
    """All sides on new arrays, in turns score by score."""
    found: dict[str, Any] = {side: {} for side in SIDES}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make(folder, samples, reference, width)
        for name in bench(folder):
            for side in SIDES:
                if name not in SIDES[side](folder):
                    continue
                command = [sys.executable, "-m", "tests.benchmarks.scores", "--side", side, name, made]
                ended = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
                found[side][name] = json.loads(ended.stdout.splitlines()[-1])
    return found


def page(found: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    parts, where = [], found["environment"]
    names = {"bench": "denoiser-bench", "torch_fidelity": "torch-fidelity", "prdc": "prdc"}
    for width, sides in found["widths"].items():
        here = sides["bench"]
        rows = []
        for side, scores in sides.items():
            ended = {name: each for name, each in scores.items() if "value" in each}
            cells = [
                f"{ended[name]['cpu_seconds']:.1f}"
                if name in ended
                else "out of memory"
                if name in scores
                else ""
                for name in here
            ]
            peaks = [each["peak_mib"] for each in ended.values()]
            peak = f"{max(peaks):.0f}" if peaks else f"more than {MEMORY_GIB * 1024}"
            rows.append(f"| {' | '.join([names[side], *cells, peak])} |")
        told = []
        for side, scores in sides.items():
            both = [name for name, each in scores.items() if side != "bench" and "value" in each]
            if both:
                times = [sum(each[name]["cpu_seconds"] for name in both) for each in (here, scores)]
                told.append(
                    f"{', '.join(both)} together: {times[1] / times[0]:.1f} times as fast as {names[side]}"
                )
        told += [
            f"{name}: {here[name]['value']} and {scores[name]['value']}"
            for scores in [sides["torch_fidelity"]]
            for name in scores
        ]
        told.append(
            "a plain matrix product of as many multiply-accumulates would take "
            f"{here['precision, recall']['share']:.0%} of the time of precision and recall"
        )
        parts += [
            f"{found['samples']:,} samples, {found['reference']:,} references, {int(width):,} features each:",
            "\n".join(
                [
                    f"| CPU seconds | {' | '.join(here)} | peak memory (MiB) |",
                    f"|:--|{'--:|' * (len(here) + 1)}",
                    *rows,
                ]
            ),
            f"{'; '.join(told)}.",
        ]
    parts.append(
        f"Measured {where['date'][:10]} on {where['cores']} cores of {where['cpu']}, {where['threads']} "
        f"threads, Python {where['python']}, torch {where['torch']}; each score in a process of its own, "
        "programs in turns."
    )
    return "\n\n".join(parts)


def main() -> None:
    """Measure, print, and with `--write` keep the record and renew docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scores", description=__doc__)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--reference", type=int, default=10_000)
    parser.add_argument("--width", type=int, nargs="+", default=[INCEPTION, DINOV2])
    parser.add_argument(
        "--write", action="store_true", help="write results/benchmark-scores.json and docs/benchmarks.md"
    )
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "SCORE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.side:
        score(args.side[0], args.side[1], Path(args.side[2]))
        return
    from bench.records.environment import environment

    found: dict[str, Any] = {
        "environment": environment().model_dump(mode="json", by_alias=True),
        "samples": args.samples,
        "reference": args.reference,
        "widths": {str(width): measure(args.samples, args.reference, width) for width in args.width},
    }
    print(page(found))
    if args.write:
        write_text(ROOT / "results/benchmark-scores.json", json.dumps(found, indent=2) + "\n")
        write_section(MARKS, page(found))


if __name__ == "__main__":
    main()
