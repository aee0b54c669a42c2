"""How threads wait and that memory is kept is said at first, unless somebody has said otherwise."""

import os
import platform
import subprocess
import sys

import pytest

from bench.utils.process import WAITING

TOLD = "import os; print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"
COMMAND = """
import sys
from bench import cli

sys.argv[1:] = ["--version"]
try:
    cli.main()
except SystemExit:
    pass
"""


def run(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    decided = [name for name in os.environ if name in WAITING or name.startswith("MALLOC_")]
    environment = {key: value for key, value in os.environ.items() if key not in decided} | variables
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


@pytest.mark.parametrize(
    ("code", "given", "expected"),
    [
        (COMMAND, {}, "10000 None"),
        (COMMAND, {"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE"),
        (COMMAND, {"GOMP_SPINCOUNT": "7"}, "7 None"),
        (f"import torch\n{COMMAND}", {}, "None None"),
        ("import bench, bench.cli", {}, "None None"),
    ],
)
def test_how_threads_wait(code, given, expected):
    assert run(f"{code}\n{TOLD}", **given).stdout.splitlines()[-1] == expected


def test_the_runtime_reads_it():
    """libgomp prints what it has read; where torch has another runtime there is nothing to test."""
    ran = run(f"{COMMAND}\nimport torch; torch.ones(9).sum()", OMP_DISPLAY_ENV="VERBOSE")
    if "GOMP_SPINCOUNT" not in ran.stderr:
        pytest.skip("torch's threads are not those of libgomp")
    assert "GOMP_SPINCOUNT = '10000'" in ran.stderr


FAULTS = """
import resource, sys
import torch
from bench.utils.process import prepare

torch.set_num_threads(1)
if sys.argv[1] == "prepared":
    prepare()
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2**20) for _ in range(8)]  # of 4 MiB
    del tensors
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(max(faults[3:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_kept():
    """Pages of 4 KiB are got anew for each tensor by default, and where the user has said so."""
    plain, kept = (int(run(FAULTS, how).stdout) for how in ("plain", "prepared"))
    told = int(run(FAULTS, "prepared", MALLOC_TRIM_THRESHOLD_="131072").stdout)
    assert kept < 500 < min(plain, told)
