"""The cache of downloaded datasets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.utils.cache import cache_folder
from bench.utils.files import write_whole
from registry.errors import UsageError, reason


def downloaded(name: str, download: Callable[[Path], None], instead: str) -> Path:
    """The folder `name` of the cache, downloaded if it is not there: whole or not at all.

    Args:
        name: of the dataset.
        download: fills the folder that it is given.
        instead: what to do without a network, for the message.

    Raises:
        UsageError: it cannot be downloaded or written.
    """
    cache = cache_folder("data")
    if cache is None:
        raise UsageError(f"no folder to download {name} to (set XDG_CACHE_HOME): {instead}")
    folder = cache / name

    def fill(made: Path) -> None:
        try:
            download(made)
        except (OSError, RuntimeError) as error:
            raise UsageError(f"cannot download {name} ({reason(error).rstrip(':')}): {instead}") from None

    if not folder.exists():
        try:
            write_whole(folder, fill)
        except UsageError:
            if not folder.exists():  # else another process was first
                raise
    return folder
