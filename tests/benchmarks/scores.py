"""Our scores beside torch-fidelity's and prdc's, if installed: `python -m tests.benchmarks.scores`.

All score the same feature arrays, one after the other, each in a process of its own whose peak memory
is taken. `--width 1024` measures the scores of DINOv2's features. `--write` commits what is found for
Inception's to docs/benchmarks.md. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
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


INCEPTION = 2048  # features of an image


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

    arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    pools = arrays["samples-pool"], arrays["reference-pool"]
    calls: dict[str, Callable[[], Any]] = {"FID": lambda: fid(*pools)}
    if "samples-logits" in arrays:
        calls["sFID"] = lambda: fid(arrays["samples-spatial"], arrays["reference-spatial"])
        calls["Inception score"] = lambda: inception_score(arrays["samples-logits"])
    calls["precision, recall"] = lambda: precision_recall(*pools)
    calls["KID"] = lambda: kid(*pools, size=min(1000, *map(len, pools)))[0]
    calls["density, coverage"] = lambda: density_coverage(*pools)
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


def score(side: str, folder: Path) -> None:
    """Time each score of one side, in this process, and write what came out into the folder."""
    found = {}
    for name, call in SIDES[side](folder).items():
        start = time.perf_counter()
        value = call()
        found[name] = {"seconds": time.perf_counter() - start, "value": value}
    (folder / f"{side}.json").write_text(json.dumps(found), encoding="utf-8")


def measure(samples: int, reference: int, width: int) -> dict[str, Any]:
    """All sides on new arrays."""
    from bench.records.environment import environment
    from tests.benchmarks.speed import _LAUNCHER

    found: dict[str, Any] = {
        "environment": environment().model_dump(mode="json", by_alias=True),
        "samples": samples,
        "reference": reference,
        "width": width,
    }
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make(folder, samples, reference, width)
        for side in SIDES:
            command = [sys.executable, "-m", "tests.benchmarks.scores", "--side", side, str(folder)]
            launched = subprocess.run(
                [sys.executable, "-c", _LAUNCHER, *command],
                check=True,
                capture_output=True,
                text=True,
                cwd=ROOT,
            )
            scores = json.loads((folder / f"{side}.json").read_text("utf-8"))
            found[side] = {
                "scores": scores,
                "seconds": sum(each["seconds"] for each in scores.values()),
                "peak_mib": float(launched.stdout.split()[1]) / 1024,  # Linux counts in KiB
            }
    return found


def page(found: dict[str, Any]) -> str:
    """The measurement as Markdown."""
    here, there, where = found["bench"], found["torch_fidelity"], found["environment"]
    rows = []
    both = [name for name in here["scores"] if name in there["scores"]]
    times = [sum(side["scores"][name]["seconds"] for name in both) for side in (here, there)]
    for name, side in (("denoiser-bench", here), ("torch-fidelity", there), ("prdc", found.get("prdc"))):
        if side is None:
            continue
        seconds = [side["scores"].get(score) for score in here["scores"]]
        cells = ["" if each is None else f"{each['seconds']:.1f}" for each in seconds]
        rows.append(f"| {' | '.join([name, *cells])} | {side['seconds']:.1f} | {side['peak_mib']:.0f} |")
    fids, shares = (
        [side["scores"][name]["value"] for side in (here, there)] for name in ("FID", "precision, recall")
    )
    difference = abs(fids[0] / fids[1] - 1)
    return "\n".join(
        [
            f"| seconds | {' | '.join(here['scores'])} | together | peak memory (MiB) |",
            f"|:--|{'--:|' * (len(here['scores']) + 2)}",
            *rows,
            "",
            f"{found['samples']:,} samples, {found['reference']:,} references, width {found['width']}: "
            f"{'; '.join(both)} take {times[1] / times[0]:.1f} times less than torch-fidelity's. "
            f"FID {fids[0]:.6f} and {fids[1]:.6f} ({difference:.0e} apart), precision "
            f"{shares[0][0]:.5f} and {shares[1][0]:.5f}, recall {shares[0][1]:.5f} and {shares[1][1]:.5f}.",
            "",
            f"Measured {where['date'][:10]} on {where['cores']} cores of {where['cpu']}, {where['threads']} "
            f"threads, Python {where['python']}, torch {where['torch']}; once, one side after the other.",
        ]
    )


def main() -> None:
    """Measure, print, and with `--write` keep the record and renew docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scores", description=__doc__)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--reference", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=INCEPTION, help="1024 for DINOv2's features")
    parser.add_argument(
        "--write", action="store_true", help="write results/benchmark-scores.json and docs/benchmarks.md"
    )
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.side:
        score(args.side[0], Path(args.side[1]))
        return
    found = measure(args.samples, args.reference, args.width)
    print(page(found))
    if args.write and args.width == INCEPTION:
        write_text(ROOT / "results/benchmark-scores.json", json.dumps(found, indent=2) + "\n")
        write_section(MARKS, page(found))


if __name__ == "__main__":
    main()
