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
from bench.utils.process import keep_memory
from bench.utils.progress import Progress, Stopped
from registry.errors import CodeError, UsageError, reason, user_frame
from registry.plugins import load_file

# What is counted in images, of the descriptions that a cell gives of its progress.
IN_IMAGES = ("sampling", "held-out loss")


def serve(plugins: Sequence[str]) -> None:
    """Do groups one after the other; whatever libraries print goes to the error output.

    Args:
        plugins: files and modules that this process has imported.
    """
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
            held = work(json.loads(line), plugins, ended, check)
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
    keep_memory()
    try:
        os.chdir(folder)
        for plugin in plugins:
            load_file(plugin)
    except OSError as error:
        raise UsageError(f"cannot work in {folder} on {os.uname().nodename}: {error.strerror}") from None
    ended: list[tuple[str, str | None]] = []
    held = work(group, plugins, lambda title, failure: ended.append((title, failure)))
    return ended, held


def work(
    group: dict[str, Any],
    plugins: Sequence[str],
    ended: Callable[[str, str | None], None],
    check: Callable[[], None] = lambda: None,
) -> str | None:
    """Do the jobs of a group.

    Args:
        group: the message of a `bench.studies.executors.Group`.
        plugins: files and modules that this process has imported.
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
                ended(title, _do(job, plugins, _telling(held, title, job, check)))
        except leases.Lost:
            return "another process"
    return None


def _telling(
    held: Sequence[leases.Lease], title: str, job: dict[str, Any], check: Callable[[], None]
) -> Progress:
    """A callback that tells by the leases how far a job is, at what rate, and what it has taken."""
    at_first = time.monotonic()
    images = {"training": job["protocol"]["training"]["batch_size"]} if "protocol" in job else {}
    images |= dict.fromkeys(IN_IMAGES, 1)
    processes = job["protocol"]["training"]["processes"] if "protocol" in job else 1
    under_way, began, before = "", 0.0, 0  # what, since when, and how much was done then

    def progress(description: str, done: int, total: int) -> None:
        nonlocal under_way, began, before
        check()
        if description != under_way:  # training and held-out loss take turns
            under_way, began, before = description, time.monotonic(), done
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
            **_taken(time.monotonic() - at_first, processes),
        }
        for lease in held:
            lease.tell(**note)

    return progress


def _taken(seconds: float, processes: int) -> dict[str, float]:
    """What so many processes of a cell have taken; see `bench.studies.watching.Usage`."""
    import torch

    if torch.cuda.is_available():
        return {"gpus": round(seconds * processes, 1)}
    return {"cores": round(seconds * max(torch.get_num_threads(), processes), 1)}


def _do(job: dict[str, Any], plugins: Sequence[str], progress: Progress) -> str | None:
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
            measure_quality(
                request,
                protocol=protocol,
                run=run,
                results=results,
                plugins=plugins,
                progress=progress,
                **job,
            )
    except (Stopped, leases.Lost):
        raise
    except Exception as error:
        return failure(error)
    return None


def failure(error: Exception) -> str:
    """Why something failed, in one line; what is no wrong input is printed whole, into the log."""
    if isinstance(error, UsageError | CodeError):
        return str(error)
    traceback.print_exception(error)
    frame = user_frame(error)
    place = f" ({frame.filename}, line {frame.lineno}, in {frame.name})" if frame else ""
    return reason(error) + place
