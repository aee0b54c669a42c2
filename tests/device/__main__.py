"""`python -m tests.device`; see the package."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench.records.environment import environment
from bench.utils.device import find_device
from bench.utils.files import write_text
from registry.errors import UsageError
from tests.device import checks, measurements, released, summary
from tests.device.first import first
from tests.device.journal import LOST, Items, Journal, LostDeviceError, passed

STAGES = (
    "first outputs gradients steps samples scores speed training released compilation profile quality".split()
)
FAILED, LEFT = 1, 2  # exit status: an item failed, items are left; see also `LOST`


def items(
    stage: str, device: torch.device, out: Path, tiny: bool, data: Path | None, clones: Path | None
) -> Items:
    """The items of a stage."""
    if stage == "first":
        return first(device, out, tiny)
    if stage == "released":
        return released.released(device, clones, tiny) if clones else {}
    if stage == "quality":
        return measurements.quality(device, out, tiny, data)
    if hasattr(checks, stage):
        check: Callable[[torch.device, bool], Items] = getattr(checks, stage)
        return check(device, tiny)
    measurement: Callable[[torch.device, Path, bool], Items] = getattr(measurements, stage)
    return measurement(device, out, tiny)


def main() -> int:
    """Run stages until the minutes are used up; 0 where all ended well."""
    parser = argparse.ArgumentParser(prog="python -m tests.device", description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="what was found, to go on from"
    )
    parser.add_argument("--stage", action="append", choices=STAGES, help="only this one; repeatable")
    parser.add_argument("--minutes", type=float, default=9, help="begin no item that may not end in them")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", type=Path, metavar="CIFAR", help="folder of CIFAR-10, for `quality`")
    parser.add_argument(
        "--released", type=Path, metavar="DIR", help="folder of the authors' clones, for `released`"
    )
    parser.add_argument("--tiny", action="store_true", help="a little of each stage, in seconds on a CPU")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    device = find_device(args.device)
    told = environment(str(device)).model_dump(mode="json", by_alias=True)
    told |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    journals = {
        stage: Journal(args.out / f"{stage}.json", told, device, lambda line: print(line, flush=True))
        for stage in STAGES
    }
    status = 0
    try:
        for stage in args.stage or STAGES:
            todo = items(stage, device, args.out, args.tiny, args.data, args.released)
            if not journals[stage].run(todo, deadline):
                print(f"{stage}: no time is left; the same command goes on", flush=True)
                status = LEFT
                break
    except LostDeviceError as error:
        print(f"the device is lost ({error}): the same command goes on in a new process", flush=True)
        status = LOST
    entries = {stage: journal.entries for stage, journal in journals.items() if journal.entries}
    text = summary.page(entries, args.out / "records")
    write_text(args.out / "summary.md", text)
    print(text)
    failed = any(not passed(entry) for stage in entries.values() for entry in stage.values())
    return status or (FAILED if failed else 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UsageError as error:
        sys.exit(f"error: {error}")
