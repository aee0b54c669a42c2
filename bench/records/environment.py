"""Where and with what something is measured."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.records.schema import Environment, Gpu
from bench.utils.device import cpu_name, device_name, usable_cores
from bench.version import __version__

ROOT = Path(__file__).resolve().parents[2]


def environment(device: str = "cpu") -> Environment:
    """The environment now.

    Args:
        device: whose name is recorded, such as `cpu` or `cuda:0`.
    """
    import torch

    commit, clean = _checkout()
    return Environment(
        device=device_name(device),
        cpu=cpu_name(),
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        diffusers=version("diffusers"),
        version=__version__,  # the field's name beside its alias
        commit=commit,
        clean=clean,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        gpu=_gpu(device) if device.startswith("cuda") else None,
    )


def _gpu(device: str) -> Gpu:
    """What PyTorch tells of a GPU, and NVIDIA's management library where it is there."""
    import torch

    has: Any = torch.cuda.get_device_properties(device)
    known: dict[str, Any] = {"memory_bytes": has.total_memory, "slice": " MIG " in has.name}
    try:
        import pynvml

        pynvml.nvmlInit()
        place = f"{has.pci_domain_id:08x}:{has.pci_bus_id:02x}:{has.pci_device_id:02x}.0"
        handle = pynvml.nvmlDeviceGetHandleByPciBusId(place)
    except Exception:  # no extra `gpu`, no library of the driver, or none that tells of this GPU
        return Gpu(**known)

    def told(question: Callable[..., Any], *of: Any) -> Any:
        try:
            return question(*of)
        except pynvml.NVMLError:  # not every GPU answers everything
            return None

    watts = told(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    return Gpu(
        driver=told(pynvml.nvmlSystemGetDriverVersion),
        power_limit_watts=None if watts is None else watts / 1000,
        max_clock_mhz=told(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_SM),
        **known,
    )


def _checkout() -> tuple[str | None, bool | None]:
    """Commit of this code and whether its files are as committed; None where it is no git checkout."""

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT:  # installed inside another checkout
            return None, None
        # Untracked files do not count: the records themselves are such.
        return git("rev-parse", "HEAD"), not git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None, None
