"""A Ray cluster as executor: a task for each group, on any cluster whose nodes see the same folders.

Ray finds the place and starts a task again whose process or node has died; the driver looks for groups that
another call has begun. See docs.ray.io on `num_cpus`, `num_gpus`, `memory` and `max_retries`.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.studies import worker
from bench.studies.executors import PATIENCE, Backlog, Ended, Executor, executors
from bench.studies.jobs import Group
from bench.utils.extras import extra
from bench.utils.files import make_folders
from bench.utils.progress import Stopped
from registry.errors import UsageError, reason

CONNECT = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False)"
CONNECT_PATIENCE = 20  # seconds
STOP_PATIENCE = 60  # seconds that tasks get to write a checkpoint when they are stopped


@executors.register("ray")
class Ray(Executor):
    """Tasks of a Ray cluster.

    Args:
        address: of the cluster, such as `auto` or `HOST:6379`; without one Ray uses the cluster that runs
            here, or begins one on this machine.
        jobs: how many groups are handed to Ray at once; by default all.
        cpus: cores that each process of a task takes, which are its threads.
        gpus: GPUs that each takes; fractions share one.
        memory: GiB that a task takes of a node's memory, for placing it; by default it is not looked at.
        retries: how often a task is begun again whose process or node died.
    """

    def __init__(
        self,
        address: str | None = None,
        jobs: int | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        memory: float | None = None,
        retries: int = 3,
    ) -> None:
        self.address, self.jobs = address, jobs
        self.cpus, self.gpus, self.memory, self.retries = cpus, gpus, memory, retries

    def run(
        self,
        groups: Sequence[Group],
        *,
        work: Path,
        plugins: Sequence[str] = (),
        ended: Ended = lambda title, failure: None,
    ) -> dict[str, str]:
        """As of the base class; what tasks print is in the logs of Ray."""
        processes = max((group.processes for group in groups), default=1)
        if processes > 1 and self.gpus % 1:
            raise UsageError(
                f"a cell of {processes} processes needs whole GPUs, not gpus = {self.gpus} for each"
            )
        ray = extra("ray", "ray", "executor ray")
        make_folders(work)
        handler, address = signal.getsignal(signal.SIGTERM), self.address or os.environ.get("RAY_ADDRESS")
        try:
            if address not in (None, "local"):  # Ray itself tries without end where nothing answers
                subprocess.run(
                    [sys.executable, "-c", CONNECT, address], check=True, timeout=CONNECT_PATIENCE,
                    capture_output=True, text=True,
                )  # fmt: skip
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except subprocess.TimeoutExpired:
            raise UsageError(
                f"no Ray cluster at {address}: no answer in {CONNECT_PATIENCE} seconds"
            ) from None
        except subprocess.CalledProcessError as error:
            last = error.stderr.strip().rpartition("\n")[2]
            raise UsageError(f"no Ray cluster at {address}: {last}") from None
        except Exception as error:  # of many kinds, by what is wrong with the address
            raise UsageError(f"no Ray cluster at {address or 'this machine'}: {reason(error)}") from None
        signal.signal(signal.SIGTERM, handler)  # Ray has put its own in the place
        task = ray.remote(worker.work_remotely)
        backlog, under_way = Backlog(groups, ended), dict[Any, Group]()
        try:
            while backlog or under_way:
                while self.jobs is None or len(under_way) < self.jobs:
                    if (group := backlog.take()) is None:
                        break
                    placed = task.options(**self.resources(group))
                    under_way[placed.remote(group.model_dump_json(), str(Path.cwd()), list(plugins))] = group
                if not under_way:
                    time.sleep(PATIENCE)
                    continue
                for reference in ray.wait(list(under_way), timeout=PATIENCE)[0]:
                    _end(ray, reference, under_way.pop(reference), backlog)
        finally:
            for reference in under_way:
                ray.cancel(reference)
            if under_way:
                ray.wait(list(under_way), num_returns=len(under_way), timeout=STOP_PATIENCE)
            ray.shutdown()
        return backlog.failed

    def resources(self, group: Group) -> dict[str, Any]:
        """What the task of a group takes of a node."""
        return {
            "num_cpus": self.cpus * group.processes,
            "num_gpus": self.gpus * group.processes,
            "memory": round(self.memory * 2**30) if self.memory else None,
            "max_retries": self.retries,
        }


def _end(ray: Any, reference: Any, group: Group, backlog: Backlog) -> None:
    """Tell how a task ended."""
    try:
        backlog.finish(group, *ray.get(reference))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, Stopped):
            backlog.put_back(group)
        else:
            backlog.crash(group, str(cause) if isinstance(cause, UsageError) else reason(error))
