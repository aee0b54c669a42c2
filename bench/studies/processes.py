"""Training and sampling of one cell by several processes, one for each GPU where there are any.

    call("train", task, step=1200)

The process that measures the cell holds the lock of its run and does the rest. It begins the others, which
find each other by a file and talk on the loopback interface alone: nothing listens to other hosts. The output
of each is lines of JSON, which tell how far it is or why it failed. Their input is a pipe that ends with the
process that began them, and so do they: none of them ever works in a folder that another process has locked.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from bench import sampling
from bench.studies.failures import failure
from bench.studies.jobs import Task
from bench.training.loop import train
from bench.training.run import Run
from bench.training.trained import open_run
from bench.utils import distributed
from bench.utils.process import answering, end_with_input, ending
from bench.utils.progress import Progress, Stopped, silent
from bench.utils.signals import caught_signals
from registry.errors import UsageError
from registry.plugins import load_file

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


def train_until(task: Task, step: int, progress: Progress) -> None:
    """Train the run of a cell to a step, which gets a checkpoint, from its newest checkpoint on.

    Raises:
        UsageError: see `bench.training.loop.train`.
        Stopped: a signal came; a checkpoint is written.
    """
    trained = train(
        task.request.model,
        task.protocol,
        task.run,
        until=step,
        overrides=task.overrides,
        data_options=task.data_options,
        seed=task.request.seed,
        resume=True,
        locked=True,
        progress=progress,
    )
    if trained.signal:  # even at the last step, for others follow
        raise Stopped


def make_images(task: Task, images: str, progress: Progress) -> None:
    """Sample the images of a cell into a file.

    Raises:
        UsageError: see `bench.sampling.sample`.
    """
    wanted = task.request
    assert wanted.sampling is not None
    source = open_run(Run(task.run).checkpoint(wanted.step))
    plan = sampling.Plan(
        source.objective, wanted.sampling, seed=wanted.seed, precision=wanted.training.precision
    )
    sampling.sample(
        source.network,
        source.to_images,
        plan,
        images,
        identity=wanted.model_dump(mode="json"),
        device=distributed.device(),
        progress=progress,
    )


FUNCTIONS: dict[str, Callable[..., None]] = {"train": train_until, "sample": make_images}


def call(
    function: str, task: Task, *, plugins: Sequence[str] = (), progress: Progress = silent, **arguments: Any
) -> None:
    """Call one of the functions above, by as many processes as the protocol asks for.

    Args:
        function: its key.
        task: the cell.
        plugins: files and modules that each process imports.
        progress: see `bench.utils.progress`.
        **arguments: of the function, as JSON can hold them.

    Raises:
        UsageError: as the function; or a process ended otherwise, which ends all of them.
        Stopped: as the function.
    """
    processes = task.protocol.training.processes
    if processes == 1:
        FUNCTIONS[function](task, **arguments, progress=progress)
        return
    torch.cuda.empty_cache()  # the first of them works on this process's GPU
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        job = {
            "function": function,
            "task": task.model_dump(mode="json"),
            "arguments": arguments,
            "plugins": list(plugins),
            "meeting": f"file://{folder}/store",
        }
        begun = [stack.enter_context(_begin(job, rank, processes)) for rank in range(processes)]
        stack.callback(_each, begun, "kill")  # before they are waited for
        received = stack.enter_context(caught_signals(lambda: _each(begun, "terminate")))
        why = _follow(begun, progress)
    if received:
        raise Stopped
    if why:
        raise UsageError(why)


def _begin(job: dict[str, Any], rank: int, processes: int) -> subprocess.Popen[bytes]:
    environment = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "OMP_NUM_THREADS": max(1, torch.get_num_threads() // processes),
        "GLOO_SOCKET_IFNAME": LOOPBACK,
        "NCCL_SOCKET_IFNAME": LOOPBACK,
    }
    return subprocess.Popen(
        [sys.executable, "-m", __name__, json.dumps(job)], bufsize=0,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {name: str(value) for name, value in environment.items()},
        start_new_session=True,  # Ctrl-C comes to it from here alone
    )  # fmt: skip


def _follow(begun: Sequence[subprocess.Popen[bytes]], progress: Progress) -> str | None:
    """Wait for the end of all processes; why one failed, which ends the others, or None."""
    why = None
    with selectors.DefaultSelector() as waiting:
        for process in begun:
            assert process.stdout
            waiting.register(process.stdout, selectors.EVENT_READ, process)
        while waiting.get_map():
            for key, _ in waiting.select():
                if line := key.data.stdout.readline():
                    told = json.loads(line)
                    why = why or told.get("failure")
                    if "progress" in told:
                        progress(*told["progress"])
                    continue
                waiting.unregister(key.fileobj)
                if status := key.data.wait():
                    why = why or f"one of its {len(begun)} processes ended with {ending(status)}"
                    _each(begun, "kill")
    return why


def _each(processes: Sequence[subprocess.Popen[bytes]], action: str) -> None:
    """Terminate or kill processes, as far as they run."""
    for process in processes:
        getattr(process, action)()


def main(message: str) -> None:
    """Do one process's part of a call; ends with status 1 where it fails."""
    end_with_input()
    tell = answering()

    def progress(*told: Any) -> None:
        if distributed.is_main():
            tell(progress=told)

    job = json.loads(message)
    try:
        for plugin in job["plugins"]:
            load_file(plugin)
        torch.distributed.init_process_group(
            "nccl" if torch.cuda.is_available() else "gloo",
            init_method=job["meeting"],
            rank=distributed.index(),
            world_size=distributed.count(),
        )
        FUNCTIONS[job["function"]](Task.model_validate(job["task"]), **job["arguments"], progress=progress)
        torch.distributed.destroy_process_group()
    except Stopped:
        return
    except Exception as error:
        tell(failure=failure(error))
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
