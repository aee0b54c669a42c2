"""Our networks beside the authors' released code: `python -m tests.benchmarks.released CLONES`.

CLONES is a folder as of `tests.device.released`. `--write` renews docs/benchmarks.md. Each pair has the
same weights and is timed in turns, so that what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from rich.progress import track

from bench.records.environment import environment
from bench.records.schema import Speed
from bench.speed import throughput
from registry.errors import UsageError
from tests.benchmarks.speed import table, write_section
from tests.device.checks import distance
from tests.device.released import PAIRS, Pair, both

MARKS = ("<!-- released benchmark -->", "<!-- end of released benchmark -->")
HEADINGS = (
    "network | of | released, images/s | ours, images/s | times as fast | 95% interval | matrix product "
    "alone | copy alone | memory, ours / released"
).split(" | ")
DIFFERENCE = 2e-5  # of outputs, relative: as far as sums in another order differ
TIMES_FORWARD = {"inference": 1, "training": 3}  # multiply-accumulates


def difference(pair: Pair, clones: Path) -> float:
    """How far outputs are apart, in parts of the released network's."""
    theirs, ours = (network.eval() for network in both(clones, pair))
    inputs = ours.example_inputs(2)
    with torch.inference_mode():
        return distance(ours(*inputs), theirs(*inputs))


def row(name: str, theirs: Speed, ours: Speed) -> list[str]:
    """A line of the table."""
    mode = ours.request.mode
    seconds = 1 / ours.images_per_second
    product = 2 * ours.macs * TIMES_FORWARD[mode] / ours.device.peak_flops
    copied = 2 * ours.macs * TIMES_FORWARD[mode] / ours.intensity / ours.device.bandwidth
    assert ours.ratio and ours.interval
    return [
        name,
        mode,
        f"{theirs.images_per_second:.1f}",
        f"{ours.images_per_second:.1f}",
        f"{ours.ratio:.2f}",
        f"{ours.interval[0]:.2f}–{ours.interval[1]:.2f}",
        f"{product / seconds:.0%}",
        f"{copied / seconds:.0%}",
        f"{ours.peak_bytes / theirs.peak_bytes:.2f}",
    ]


def main() -> None:
    """Compare outputs, measure, print, and with `--write` renew docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.released", description=__doc__)
    parser.add_argument("clones", type=Path, metavar="CLONES", help="folder of the authors' clones")
    names = [name for name, *_ in PAIRS]
    parser.add_argument("--model", action="append", choices=names, help="repeatable; default: the S networks")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    args = parser.parse_args()
    wanted = args.model or ["udit-s", "dit-s-2", "dic-s", "dico-s"]
    pairs = [pair for pair in PAIRS if pair[0] in wanted]
    for pair in pairs:
        if (found := difference(pair, args.clones)) > DIFFERENCE:
            parser.error(f"outputs of {pair[0]} and the released network differ by {found:.1e}")
    rows, load = [], 0.0
    cases = [(pair, mode) for mode in ("inference", "training") for pair in pairs]
    for pair, mode in track(cases, "pairs"):
        settings = throughput.Settings(batch_size=args.batch_size, mode=mode)
        theirs, ours = throughput.measure(both(args.clones, pair), settings, repeats=args.repeats)
        rows.append(row(pair[0], theirs, ours))
        load = max(load, ours.device.other_load or 0.0)
    where = environment()
    note = (
        f"Same weights, outputs within {DIFFERENCE:.0e}; batch {args.batch_size}, float32. Inference is "
        "deployed; training is forward, backward, gradient norm, fused AdamW and average for both. A "
        "plain matrix product of as many multiply-accumulates, and a "
        "copy of the bytes that its operators move, would take these shares of our time. "
        f"Measured {where.date[:10]} on {where.cores} cores of "
        f"{where.cpu}, {where.threads} thread{'s' * (where.threads > 1)}, torch {where.torch}; "
        f"in turns, median of {args.repeats} rounds; other processes took at most {load:.2f} cores."
    )
    page = f"{table(HEADINGS, rows, texts=2)}\n\n{note}"
    print(page)
    if args.write:
        write_section(MARKS, page)


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"error: {error}")
