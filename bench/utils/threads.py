"""The threads of one process on the CPU: how they wait for each other, and how many they are.

PyTorch's are those of libgomp. A thread that waits spins 300,000 times before it sleeps; where another
process has the core of the one that is waited for, all of that is lost, at every operator. To spin 10,000
times costs an idle machine little, not to spin half of its speed (`python -m tests.benchmarks.busy`).
Importing this imports no torch.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

SPINS = {"GOMP_SPINCOUNT": "10000"}
DECIDED = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}  # who has set one of these has decided


def wait_briefly() -> None:
    """Have threads of this process and of its children spin for a short time only.

    Nothing, where the environment says how they wait, or torch is loaded already: libgomp has read the
    environment then.
    """
    if "torch" not in sys.modules and not DECIDED & os.environ.keys():
        os.environ.update(SPINS)


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
