"""Training and sampling of one cell by several processes, one for each GPU where there are any.

    call("train", arguments, processes=8, plugins=[], progress=progress)

The process that measures the cell keeps its leases and does the rest. It begins the others by
`torch.distributed.run`, as `accelerate launch` does, which ends all of them when one ends; the first tells by
its output how far they are, a line of JSON each time. Their input is a pipe that ends with the process that
began them, and so do they: none of them ever works in a folder whose lease is another's.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from bench import sampling
from bench.records.schema import QualityRequest
from bench.studies.worker import failure
from bench.training.loop import train
from bench.training.protocols import Protocol
from bench.training.run import Run, open_run
from bench.utils import distributed, leases
from bench.utils.progress import Progress, Stopped
from bench.utils.signals import caught_signals
from registry.errors import UsageError
from registry.plugins import load_file

MARK = "bench: "  # before each line that is told; others are what libraries print


def train_until(
    run: str,
    step: int,
    request: dict[str, Any],
    protocol: dict[str, Any],
    overrides: dict[str, Any],
    data_options: dict[str, Any],
    *,
    progress: Progress,
) -> None:
    """Train a run to a step, from its newest checkpoint on.

    Args:
        run: its folder.
        step: the last one, which gets a checkpoint.
        request, protocol: of the cell, as JSON holds them.
        overrides: of the network.
        data_options: of the dataset.

    Raises:
        UsageError: see `bench.training.loop.train`.
        Stopped: a signal came; a checkpoint is written.
    """
    trained = train(
        request["model"],
        Protocol.model_validate(protocol),
        run,
        until=step,
        overrides=overrides,
        data_options=data_options,
        seed=request["seed"],
        resume=True,
        progress=progress,
    )
    if trained.signal:  # even at the last step, for others follow
        raise Stopped


def make_images(run: str, images: str, request: dict[str, Any], *, progress: Progress) -> None:
    """Sample the images of a cell into a file.

    Args:
        run: folder of its training run.
        images: the file.
        request: of the cell, as JSON holds it.

    Raises:
        UsageError: see `bench.sampling.sample`.
    """
    wanted = QualityRequest.model_validate(request)
    assert wanted.sampling is not None
    source = open_run(Run(run).checkpoint(wanted.step))
    plan = sampling.Plan(
        source.objective, wanted.sampling, seed=wanted.seed, precision=wanted.training.precision
    )
    sampling.sample(
        source.network,
        source.to_images,
        plan,
        images,
        identity=request,
        device=distributed.device(),
        progress=progress,
    )


FUNCTIONS: dict[str, Callable[..., None]] = {"train": train_until, "sample": make_images}


def call(
    function: str, arguments: dict[str, Any], *, processes: int, plugins: Sequence[str], progress: Progress
) -> None:
    """Call one of the functions above, by so many processes; by this one where that is 1.

    Args:
        function: its key.
        arguments: as JSON can hold them.
        plugins: files and modules that each process imports.

    Raises:
        UsageError: as the function; or a process ended otherwise.
        Stopped: as the function.
    """
    if processes == 1:
        FUNCTIONS[function](**arguments, progress=progress)
        return
    torch.cuda.empty_cache()  # the first of them works on this process's GPU
    launch = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}")
    threads = str(max(1, torch.get_num_threads() // processes))
    message = json.dumps({"function": function, "arguments": arguments, "plugins": list(plugins)})
    command = [sys.executable, *launch, "-m", __name__, message]
    environment = os.environ | {"OMP_NUM_THREADS": threads, leases.LENT: leases.process()}
    # In a session of their own, Ctrl-C comes to them from here alone.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    ) as launched, _killed_with_this(launched), caught_signals(launched.terminate) as received:  # fmt: skip
        why = None
        assert launched.stdout
        for line in launched.stdout:
            if not line.startswith(MARK):
                print(line, end="", file=sys.stderr)
                continue
            told = json.loads(line.removeprefix(MARK))
            if "failure" in told:
                why = why or told["failure"]
            else:
                progress(*told["progress"])
    if received:
        raise Stopped
    if why or launched.returncode:
        raise UsageError(why or f"its {processes} processes ended with status {launched.returncode}")


@contextlib.contextmanager
def _killed_with_this(launched: subprocess.Popen[str]) -> Iterator[None]:
    """End processes at once where this one ends by an error."""
    try:
        yield
    except BaseException:
        launched.kill()
        raise


def main(message: str) -> None:
    """Do one process's part of a call; ends with status 1 where it fails."""
    parent = threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True)
    parent.start()
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(**what: Any) -> None:
        out.write(f"{MARK}{json.dumps(what)}\n")

    def progress(*told: Any) -> None:
        if distributed.is_main():
            tell(progress=told)

    job = json.loads(message)
    try:
        for plugin in job["plugins"]:
            load_file(plugin)
        FUNCTIONS[job["function"]](**job["arguments"], progress=progress)
    except Stopped:
        return
    except Exception as error:
        tell(failure=failure(error))
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
