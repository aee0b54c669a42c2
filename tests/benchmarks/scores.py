"""The five scores against torch-fidelity's FID and precision/recall: `python -m tests.benchmarks.scores`.

Both score the same feature arrays, one after the other, each in a process of its own whose peak memory
is taken. `--write` commits what is found to docs/benchmarks.md. Nothing here is a test.
"""

from __future__ import annotations

import argparse
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


def make(folder: Path, samples: int, reference: int) -> None:
    """Write the recipe's features of both sets, as `SET-KIND.npy`."""
    from tests.reference import recipe

    pool = recipe.features(samples, 2, 0.15)
    np.save(folder / "samples-pool.npy", pool)
    np.save(folder / "samples-logits.npy", pool @ recipe.softmax_weight())
    np.save(folder / "samples-spatial.npy", recipe.features(samples, 4, 0.1, dim=2023))
    np.save(folder / "reference-pool.npy", recipe.features(reference, 1, 0.0))
    np.save(folder / "reference-spatial.npy", recipe.features(reference, 3, 0.0, dim=2023))


def bench(folder: Path) -> dict[str, Callable[[], Any]]:
    """The scores of `bench.metrics`, of memory-mapped arrays; `evaluate` calls the same functions."""
    from bench.metrics.neighbours import precision_recall
    from bench.metrics.scores.fid import fid
    from bench.metrics.scores.inception_score import inception_score

    arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    return {
        "FID": lambda: fid(arrays["samples-pool"], arrays["reference-pool"]),
        "sFID": lambda: fid(arrays["samples-spatial"], arrays["reference-spatial"]),
        "Inception score": lambda: inception_score(arrays["samples-logits"]),
        "precision, recall": lambda: precision_recall(arrays["samples-pool"], arrays["reference-pool"]),
    }


def torch_fidelity(folder: Path) -> dict[str, Callable[[], Any]]:
    """torch-fidelity's scores; its precision and recall in the form that saves memory."""
    import torch
    from torch_fidelity import metric_fid, metric_prc

    samples, reference = (
        torch.from_numpy(np.load(folder / f"{name}-pool.npy")) for name in ("samples", "reference")
    )

    def fid() -> float:
        statistics = [metric_fid.fid_features_to_statistics(rows) for rows in (samples, reference)]
        return metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID]

    def precision_recall() -> tuple[float, float]:
        found = metric_prc.prc_features_to_metric(samples, reference, save_cpu_ram=True, verbose=False)
        return found[metric_prc.KEY_METRIC_PRECISION], found[metric_prc.KEY_METRIC_RECALL]

    return {"FID": fid, "precision, recall": precision_recall}


SIDES = {"bench": bench, "torch_fidelity": torch_fidelity}


def score(side: str, folder: Path) -> None:
    """Time each score of one side, in this process, and write what came out into the folder."""
    found = {}
    for name, call in SIDES[side](folder).items():
        start = time.perf_counter()
        value = call()
        found[name] = {"seconds": time.perf_counter() - start, "value": value}
    (folder / f"{side}.json").write_text(json.dumps(found), encoding="utf-8")


def measure(samples: int, reference: int) -> dict[str, Any]:
    """Both sides on new arrays."""
    from bench.records.environment import environment
    from tests.benchmarks.speed import _LAUNCHER

    found: dict[str, Any] = {
        "environment": environment().model_dump(mode="json", by_alias=True),
        "samples": samples,
        "reference": reference,
    }
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make(folder, samples, reference)
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
    for name, side in (("denoiser-bench", here), ("torch-fidelity", there)):
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
            f"{found['samples']:,} samples, {found['reference']:,} references, width 2048: all five scores "
            f"take {there['seconds'] / here['seconds']:.1f} times less than torch-fidelity's FID and "
            f"precision/recall. FID {fids[0]:.6f} and {fids[1]:.6f} ({difference:.0e} apart), precision "
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
    parser.add_argument(
        "--write", action="store_true", help="write results/benchmark-scores.json and docs/benchmarks.md"
    )
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.side:
        score(args.side[0], Path(args.side[1]))
        return
    found = measure(args.samples, args.reference)
    print(page(found))
    if args.write:
        write_text(ROOT / "results/benchmark-scores.json", json.dumps(found, indent=2) + "\n")
        write_section(MARKS, page(found))


if __name__ == "__main__":
    main()
