"""What a process that computes on the CPU is told at first: how its threads wait, and to keep its memory.

Neither changes a number. PyTorch's threads are those of libgomp. A thread that waits spins 300,000 times
before it sleeps; where another process has the core of the one that is waited for, all of that is lost, at
every operator. To spin 10,000 times costs an idle machine little, not to spin half of its speed
(`python -m tests.benchmarks.busy`).

glibc gives the memory of large tensors back to the system when they are freed, and the pages of every new one
are got and cleared one by one: a tenth of the time of a training step of a small network
(`python -m tests.benchmarks.study`). Importing this imports no torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

SPINS = {"GOMP_SPINCOUNT": "10000"}
WAITING = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}  # who has set one of these has decided
# Parameters of mallopt (malloc.h): blocks up to the one are reused, and the other may lie unused.
MMAP_THRESHOLD, TRIM_THRESHOLD = (-3, 2**25), (-1, 2**30)  # 32 MiB is the most that every glibc takes


def prepare() -> None:
    """Have threads of this process and of its children spin briefly, and this process keep freed memory.

    What the environment says of either is left. A process that has loaded torch waits as it did, for libgomp
    has read the environment by then.
    """
    if "torch" not in sys.modules and not WAITING & os.environ.keys():
        os.environ.update(SPINS)
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    mallopt = None if told else getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc's; others have their own ways
        for parameter, value in (MMAP_THRESHOLD, TRIM_THRESHOLD):
            mallopt(parameter, value)


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many threads in an operator, then as many as before; None leaves them.

    Each adds up a part, so with another number of them the last bits are others.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
