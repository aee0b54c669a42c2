"""How many images fit in a call: tried on a GPU, predicted on a CPU, where trying would end the process."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.speed.device import no_room
from bench.speed.runners import Runner
from bench.utils.device import available_memory, on_cuda
from registry.errors import UsageError

LARGEST_BATCH = {"cpu": 256, "cuda": 8192}  # more gains nothing, and some kernels index with 32 bits


def choose_batch(runner: Runner) -> tuple[int, str]:
    """The batch that was requested, or the largest that fits, and why it is that.

    Raises:
        UsageError: it does not fit, or not even one image does.
    """

    def fits(n: int) -> bool:
        return tried(runner, n) if on_cuda(runner.device) else runner.bytes_needed(n) <= available_memory()

    requested = runner.request.batch_size
    if requested == "auto":
        batch, reason = largest_batch(fits, LARGEST_BATCH[runner.device.type])
    else:
        batch, reason = requested if fits(requested) else 0, "as requested"
    if not batch:
        raise UsageError(no_room(runner.name, 1 if requested == "auto" else requested, runner.device))
    return batch, reason


def largest_batch(fits: Callable[[int], bool], cap: int) -> tuple[int, str]:
    """The largest power of two up to `cap` that fits, 0 if none does, and why the search stopped there."""
    batch = 0
    while (larger := max(2 * batch, 1)) <= cap and fits(larger):
        batch = larger
    return batch, f"{larger} does not fit in memory" if larger <= cap else f"the search ends at {cap}"


def tried(runner: Runner, n: int) -> bool:
    """Whether a call of n images fits in a GPU's memory."""
    try:
        runner.make_inputs(n)
        runner.call(n)
        torch.cuda.synchronize(runner.device)
        fits = True
    except torch.OutOfMemoryError:
        fits = False
    # Outside the handler, whose traceback would keep the tensors of the failed call.
    runner.release()
    return fits
