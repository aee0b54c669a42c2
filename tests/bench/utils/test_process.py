"""Freed memory is kept, unless somebody has said otherwise."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from bench.utils.process import keep_memory

torch.set_num_threads(1)
keep_memory()
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2**20) for _ in range(8)]  # of 4 MiB
    del tensors
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(max(faults[3:]))
"""


def faults(**variables: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", FAULTS]
    return int(subprocess.check_output(command, env=environment | variables, text=True))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_kept():
    """Pages of 4 KiB are got anew for each tensor where the user has said so; by default that is chance."""
    assert faults() < 500 < faults(MALLOC_TRIM_THRESHOLD_="131072")
