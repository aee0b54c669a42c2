"""The user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(part: str) -> Path | None:
    """The folder `denoiser-bench/PART` in `$XDG_CACHE_HOME` or `~/.cache`, made where it is not there yet.

    Returns:
        None if there is no home that can be written to: callers work without a cache.
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
