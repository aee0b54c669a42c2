"""GPU-hours that Table 2 takes under `paper`: `python -m tests.benchmarks.hours`.

From the multiply-accumulates in the records of cost: a training step takes three forward passes' worth for
each image, and each multiply-accumulate two operations, at an assumed share of a GPU's peak. Where a record
of `bench throughput --train` on a GPU tells how fast a network trains in the protocol's arithmetic, that
figure stands beside. `--write` renews its section of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse

from bench import records, studies
from bench.records.schema import Cost, Record, Speed
from bench.studies.cells import cost_request
from bench.training import protocols
from bench.training.protocols import Protocol
from tests.benchmarks.speed import table, write_section
from tests.conftest import ROOT

MARKS = ("<!-- hours benchmark -->", "<!-- end of hours benchmark -->")
# Dense products, as NVIDIA's data sheet of the A100 prints it: of TF32, in which the protocol trains.
GPU, PEAK = "NVIDIA A100", 156e12
SHARES = (0.2, 0.4)  # of the peak; an assumption
FORWARDS = 3  # of a training step: the backward pass takes two products for each of the forward pass


def passes(protocol: Protocol) -> float:
    """Forward passes of one image that a cell takes, or what takes as long."""
    training, sampling = protocol.training, protocol.sampling
    return FORWARDS * training.steps * training.batch_size + sampling.num * int(sampling.steps)


def measured(known: list[Record], cost: Cost, protocol: Protocol) -> str:
    """GPU-hours of training by a measured speed, with the GPU; empty where there is none."""
    dtype = "tf32" if protocol.training.tf32 else protocol.training.precision
    for record in known:
        request, result = record.request, record.result
        if not isinstance(result, Speed) or record.environment.device == record.environment.cpu:
            continue
        asked = (request.model, request.config, result.request.mode, result.request.dtype)
        if asked == (cost.request.model, cost.request.config, "training", dtype):
            images = protocol.training.steps * protocol.training.batch_size
            hours = images / result.images_per_second / 3600
            return f"{hours:,.0f} ({record.environment.device})"
    return ""


def main() -> None:
    """Compute, print, and with `--write` renew docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.hours", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    args = parser.parse_args()
    protocol, known = protocols.load("paper"), records.read(ROOT / "results")
    costs = {record.file: record.result for record in known if isinstance(record.result, Cost)}
    found: dict[str, tuple[str, Cost]] = {}  # one cell of rows that differ in who measured them
    for row in studies.load("scaling").rows:
        if request := cost_request(row):
            found.setdefault(request.file, (row.label, costs[request.file]))
    speeds = [measured(known, cost, protocol) for _, cost in found.values()]
    rows, total = [], [0.0, 0.0]
    for (label, cost), speed in zip(found.values(), speeds, strict=True):
        operations = 2 * cost.macs * passes(protocol)
        hours = [operations / (share * PEAK) / 3600 for share in SHARES]
        total = [a + b for a, b in zip(total, hours, strict=True)]
        cells = [label, f"{cost.macs / 1e9:.2f}", f"{operations:.1e}", *(f"{each:,.0f}" for each in hours)]
        rows.append(cells + [speed] * any(speeds))
    headings = ["row", "GMACs", "operations", *(f"GPU-hours at {share:.0%} of peak" for share in SHARES)]
    headings += ["training as measured, GPU-hours"] * any(speeds)
    rows.append(["all", "", "", *(f"{each:,.0f}" for each in total)] + [""] * any(speeds))
    note = (
        f"An estimate for one seed: {protocol.training.steps:,} steps of batch "
        f"{protocol.training.batch_size}, {FORWARDS} forward passes' worth each (the backward pass takes "
        "twice the forward pass), and "
        f"{protocol.sampling.num:,} images in {protocol.sampling.steps} steps, two operations for a "
        f"multiply-accumulate, on an {GPU} whose dense TF32 peak is {PEAK / 1e12:.0f} TFLOP/s. The share of "
        "it is an assumption, and not the same for every network. "
        + ("" if any(speeds) else "No record here tells how fast any of them trains on a GPU.")
    )
    page = f"{table(headings, rows)}\n\n{note.strip()}"
    print(page)
    if args.write:
        write_section(MARKS, page)


if __name__ == "__main__":
    main()
