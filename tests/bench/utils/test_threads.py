"""How threads wait is said before torch is loaded, unless somebody has said it."""

import os
import subprocess
import sys

import pytest

from bench.utils.threads import DECIDED

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


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in DECIDED} | variables
    command = [sys.executable, "-c", code]
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
