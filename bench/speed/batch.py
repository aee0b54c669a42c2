"""How many images fit in a call: tried on a GPU, and predicted on a CPU, where running out of memory would
kill the process."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.speed.device import no_room, of_memory
from bench.speed.runners import Runner
from bench.utils.device import available_memory, on_cuda
from registry.errors import UsageError, reason

LARGEST_BATCH = {"cpu": 256, "cuda": 8192}  # more gains nothing
INDEXED = 2**31  # numbers of a tensor, from which on kernels that count in 32 bits fail, or go wrong
NO_ROOM = "does not fit in memory"


def choose_batch(runner: Runner) -> tuple[int, str]:
    """The requested batch size, or the largest that fits, and the reason.

    Raises:
        UsageError: it does not fit, or not even one image does.
        Exception: any error of the network that is not caused by the size of the batch.
    """
    requested, cuda = runner.request.batch_size, on_cuda(runner.device)
    widest = 0.0  # numbers of the largest tensor for each image

    def failure(n: int) -> str:
        nonlocal widest
        if not cuda:
            return NO_ROOM if runner.bytes_needed(n) > available_memory() else ""
        if n * widest >= INDEXED:
            return "makes tensors of 2³¹ numbers or more, which not all kernels can index"
        failed = tried(runner, n, 1 if requested == "auto" else n)
        if requested == "auto" and not failed:
            widest = runner.widest(n) / n
        return failed

    if requested == "auto":
        batch, why = largest_batch(failure, LARGEST_BATCH[runner.device.type])
    else:
        batch, why = 0 if failure(requested) else requested, "as requested"
    if not batch:
        raise UsageError(no_room(runner.name, 1 if requested == "auto" else requested, runner.device))
    return batch, why


def largest_batch(failure: Callable[[int], str], cap: int) -> tuple[int, str]:
    """The largest of 1, 2, 3, 4, 6, 8, 12, … up to `cap` that goes well, 0 if none, and why no larger one.

    Args:
        failure: why a batch does not go well; empty where it does.
        cap: a power of two.
    """
    batch, larger = 0, 1
    while larger <= cap:
        if why := failure(larger):
            middle = batch + batch // 2
            return middle if batch > 1 and not failure(middle) else batch, f"{larger} {why}"
        batch, larger = larger, 2 * larger
    return batch, f"the search ends at {cap}"


def tried(runner: Runner, n: int, least: int) -> str:
    """Why a call of n images does not go well on a GPU; empty where it does.

    Memory is not all that large batches lack: kernels refuse them, each in its own words.

    Args:
        least: the batch from which on another error than of memory is the network's own, which is raised.
    """
    try:
        runner.make_inputs(n)
        runner.call(n)
        torch.cuda.synchronize(runner.device)
        failure = ""
    except RuntimeError as error:
        if not of_memory(error) and (n <= least or "illegal" in str(error)):  # after which no call goes well
            raise
        failure = NO_ROOM if of_memory(error) else f"fails: {reason(error)}"
    # Outside the handler, whose traceback would keep the tensors of the failed call.
    runner.release()
    return failure
