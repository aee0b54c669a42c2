"""Records: one measurement, one JSON file that holds what was asked, what came out, and where.

A file is named by its measure, its model and a hash of all that was asked, so the same question has the
same file. Reading needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import warnings
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import __version__
from bench.utils.files import write_text
from registry.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd


def write(
    asked: dict[str, Any],
    values: dict[str, Any],
    folder: str | Path = "results",
    *,
    device: str | None = None,
) -> Path:
    """Write `<measure>-<model>-<hash>.json` into the folder, which is made; an older answer is replaced.

    Args:
        asked: everything that tells this measurement from others, `measure` and `model` among it, as
            JSON can hold it. A measurement on one `device` is recorded with that device's name.
        values: what was measured.
        folder: of records.
        device: where it was measured, if the question does not say; by default the CPU.

    Returns:
        The file, written whole or not at all.

    Raises:
        UsageError: the folder cannot be written to.
    """
    record = {
        "asked": asked,
        "values": values,
        "environment": environment(device or asked.get("device", "cpu")),
    }
    path = Path(folder) / name(asked)
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return path


def name(asked: dict[str, Any]) -> str:
    """File name of the record that answers a question."""
    canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:12]
    readable = re.sub(r"[^\w.-]+", "-", f"{asked['measure']}-{asked['model']}")
    return f"{readable}-{digest}.json"


def load(folder: str | Path = "results") -> pd.DataFrame:
    """All records of a folder (see `read`), one row each.

    Returns:
        Columns `file`, and `asked.model`, `values.…`, `environment.…`, with a dot for each level.
    """
    import pandas as pd

    return pd.json_normalize(read(folder))


def read(folder: str | Path = "results") -> list[dict[str, Any]]:
    """All records of a folder, sorted by file.

    Returns:
        For each `file` (its name), `asked`, `values` and `environment`.

    Raises:
        UsageError: there is no such folder.

    Warns:
        UserWarning: names each file that is no whole record; it is left out. Other JSON files, whose
            names do not end in a hash, are passed over.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"no folder of records at {folder}")
    rows = []
    for path in sorted(folder.glob("*-" + "[0-9a-f]" * 12 + ".json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if not all(isinstance(record[part], dict) for part in ("asked", "values", "environment")):
                raise ValueError("a part is missing")
            if name(record["asked"]) != path.name:
                raise ValueError("what was asked does not fit the name")
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"skipped the damaged record {path}: {error}", stacklevel=2)
        else:
            rows.append({"file": path.name, **record})
    return rows


def environment(device: str = "cpu") -> dict[str, Any]:
    """Where and with what something is measured, now.

    Args:
        device: whose name is recorded, such as `cpu` or `cuda:0`.
    """
    import torch

    on_cuda = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if on_cuda else cpu_name(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": _version("diffusers"),
        "denoiser-bench": __version__,
        **_checkout(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    """Name of the processor, as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _checkout() -> dict[str, Any]:
    """Commit of this code and whether its files are as committed; None where it is no git checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:  # installed inside another checkout
            return {"commit": None, "clean": None}
        # Untracked files do not count: the records themselves are such.
        return {
            "commit": git("rev-parse", "HEAD"),
            "clean": not git("status", "--porcelain", "--untracked-files=no"),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "clean": None}
