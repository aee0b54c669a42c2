"""Settings of a process: memory that it keeps, threads of an operator, end together with its parent.

glibc gives the memory of large tensors back to the system when they are freed, and the pages of every new one
are got and cleared one by one. How much that costs depends on the network and on what was freed before
(`python -m tests.benchmarks.study`). Importing this imports no torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

# Parameters of mallopt (malloc.h): blocks up to the one are reused, and the other may lie unused.
MMAP_THRESHOLD, TRIM_THRESHOLD = (-3, 2**25), (-1, 2**30)  # 32 MiB is the most that every glibc takes


def keep_memory() -> None:
    """Have this process keep freed memory, unless the environment tells malloc. It changes no number."""
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


def end_with_input() -> None:
    """From now on, end this process with status 1 when its input ends, at once.

    Whoever began it holds that pipe open, so that it never works on when the other was killed.
    """

    def wait() -> None:
        while os.read(0, 4096):  # and not by sys.stdin, which Python could not close beside this thread
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def answering() -> Callable[..., None]:
    """A function that writes its keywords as a line of JSON to the standard output.

    What libraries print from now on goes to the error output.
    """
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(**what: Any) -> None:
        out.write(json.dumps(what) + "\n")

    return tell


def ending(status: int) -> str:
    """How a process ended, in words; the status is that of `subprocess`."""
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
