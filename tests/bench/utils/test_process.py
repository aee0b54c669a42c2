"""Freed memory is kept, unless somebody has said otherwise."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
import torch
from bench.utils.process import keep_memory

torch.set_num_threads(1)
for parameter in (-1, -3):  # fixed at their first value: where glibc moves them, what it keeps is chance
    ctypes.CDLL(None).mallopt(parameter, 2**17)
if sys.argv[1] == "kept":
    keep_memory()
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2**20) for _ in range(8)]  # of 4 MiB
    del tensors
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(max(faults[3:]))
"""


def faults(how: str, **variables: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.check_output(command, env=environment | variables, text=True))


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_kept():
    """Pages of 4 KiB are got anew for each tensor at first, and where the user has told malloc."""
    plain, kept = (faults(how) for how in ("plain", "kept"))
    told = faults("kept", MALLOC_TRIM_THRESHOLD_="131072")
    assert kept < 500 < min(plain, told)
