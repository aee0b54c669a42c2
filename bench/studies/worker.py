"""What a process that measures does, whichever executor began it: the jobs of a group, under its leases.

`serve` is a process of the local executor, which takes groups from its input until that ends. A group is a
line of JSON, an answer too: `{"title", "failure"}` at the end of each job, `{"held": null}` at that of the
group, or who held a lease in the place of null.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.utils import leases
from bench.utils.process import prepare
from bench.utils.progress import Progress, Stopped
from registry.errors import CodeError, UsageError, reason, user_frame
from registry.plugins import load_file

# What is counted in images, of the descriptions that a cell gives of its progress.
IN_IMAGES = ("sampling", "held-out loss")


def serve() -> None:
    """Do groups one after the other; whatever libraries print goes to the error output."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    parent = os.getppid()

    def ended(title: str, failure: str | None) -> None:
        out.write(json.dumps({"title": title, "failure": failure}) + "\n")

    def check() -> None:
        if os.getppid() != parent:  # nobody listens any more
            sys.exit(1)

    for line in sys.stdin:
        try:
            held = work(json.loads(line), ended, check)
        except Stopped:
            sys.exit(0)
        out.write(json.dumps({"held": held}) + "\n")


def work_remotely(
    group: dict[str, Any], folder: str, plugins: Sequence[str]
) -> tuple[list[tuple[str, str | None]], str | None]:
    """Do a group in a process of a cluster.

    Args:
        group: see `work`.
        folder: in which the command was given.
        plugins: files and modules to import.

    Returns:
        The jobs that ended, each with the reason of its failure or None; who held a lease, or None.

    Raises:
        UsageError: this machine does not see the folder.
        Stopped: see `work`.
    """
    prepare()
    try:
        os.chdir(folder)
        for plugin in plugins:
            load_file(plugin)
    except OSError as error:
        raise UsageError(f"cannot work in {folder} on {os.uname().nodename}: {error.strerror}") from None
    ended: list[tuple[str, str | None]] = []
    held = work(group, lambda title, failure: ended.append((title, failure)))
    return ended, held


def work(
    group: dict[str, Any],
    ended: Callable[[str, str | None], None],
    check: Callable[[], None] = lambda: None,
) -> str | None:
    """Do the jobs of a group.

    Args:
        group: the message of a `bench.studies.executors.Group`.
        ended: called at the end of each job with its title, and why it failed or None.
        check: called now and then; what it raises ends the work.

    Returns:
        Who holds a lease, where it is another process; jobs may be left then. None where all were done.

    Raises:
        Stopped: a signal has ended it.
    """
    places = [Path(place) for place in group["leases"]]
    with contextlib.ExitStack() as stack:
        held = []
        for place in places:
            if (lease := leases.claim(place)) is None:
                return str(leases.look(place) or "another process")
            held.append(stack.enter_context(lease))
        try:
            for job in map(dict, group["jobs"]):
                title = job.pop("title")
                ended(title, _do(job, _telling(held, title, job, check)))
        except leases.Lost:
            return "another process"
    return None


def _telling(
    held: Sequence[leases.Lease], title: str, job: dict[str, Any], check: Callable[[], None]
) -> Progress:
    """A callback that tells by the leases how far a job is, and at what rate."""
    images = {"training": job["protocol"]["training"]["batch_size"]} if "protocol" in job else {}
    images |= dict.fromkeys(IN_IMAGES, 1)
    first: dict[str, tuple[float, int]] = {}  # by description: when, and how much was done then

    def progress(description: str, done: int, total: int) -> None:
        check()
        began, before = first.setdefault(description, (time.monotonic(), done))
        spent = time.monotonic() - began
        rate = (done - before) / spent if spent > 0 and done > before else None
        per_second = rate * images[description] if rate and description in images else None
        note = {
            "title": title,
            "description": description,
            "done": done,
            "total": total,
            "seconds_left": round((total - done) / rate, 1) if rate else None,
            "images_per_second": round(per_second, 2) if per_second else None,
        }
        for lease in held:
            lease.tell(**note)

    return progress


def _do(job: dict[str, Any], progress: Progress) -> str | None:
    """Do a job; why it failed, None where it did not."""
    from bench import records
    from bench.records.schema import CostRequest, QualityRequest
    from bench.studies.measuring import measure_cost, measure_quality
    from bench.training.protocols import Protocol

    results = Path(job.pop("results"))
    try:
        if "cost" in job:
            progress("counting", 0, 0)
            counted = CostRequest.model_validate(job["cost"])
            if records.file_digest(results / counted.file) == job["replaces"]:
                measure_cost(counted, results)
        else:
            request = QualityRequest.model_validate(job.pop("quality"))
            protocol, run = Protocol.model_validate(job.pop("protocol")), Path(job.pop("run"))
            measure_quality(request, protocol=protocol, run=run, results=results, progress=progress, **job)
    except (Stopped, leases.Lost):
        raise
    except (UsageError, CodeError) as error:
        return str(error)
    except Exception as error:
        traceback.print_exc()  # into the log, whole
        frame = user_frame(error)
        place = f" ({frame.filename}, line {frame.lineno}, in {frame.name})" if frame else ""
        return reason(error) + place
    return None
