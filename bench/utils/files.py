"""Writing files so that nothing is ever half-written."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry.errors import UsageError


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all; folders are made.

    Raises:
        UsageError: the folder cannot be made or written to.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all; folders are made.

    Raises:
        UsageError: the folder cannot be made or written to.
    """
    write_whole(path, lambda made: made.write_bytes(content))


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make the file beside its place, then move it there: whole or not at all.

    Args:
        path: where the file is wanted; folders are made.
        write: is given the path to write to, which has the same name and ending.

    Raises:
        UsageError: the folder cannot be made or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".bench-") as beside:
            made = Path(beside) / path.name
            write(made)
            made.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def make_folders(*folders: Path) -> None:
    """Make folders that work is done in.

    Raises:
        UsageError: one cannot be made or written to.
    """
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UsageError(f"cannot work in {folder}: {error.strerror or error}") from None


def delete_folder(folder: Path) -> None:
    """Remove a folder so that it is whole or gone whenever this is killed."""
    gone = folder.with_name(f".{folder.name}.deleted")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.exists():
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
