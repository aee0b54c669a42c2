"""The folder of this user for what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(part: str) -> Path | None:
    """The folder `denoiser-bench/PART` in `$XDG_CACHE_HOME` or `~/.cache`, made where it is not there yet.

    Returns:
        None where there is no home, or none that can be written to: callers go on without a cache.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    if base.startswith("~"):  # Path.expanduser would raise
        return None
    folder = Path(base) / "denoiser-bench" / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
