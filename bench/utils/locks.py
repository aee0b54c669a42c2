"""Locks of folders: one process at a time works in a folder, on all machines with access to it.

    with locks.held(runs / "NAME"):                    # InUseError where another process holds it
        ...
    locks.holder(runs / "NAME")                        # "process 123 on HOST", None of a folder that is free

The lock is the system's (`flock`), on a file beside the folder, `.NAME.lock`: it is free once its process has
ended, however that ended. The file itself stays.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from registry.errors import UsageError

# Seconds to wait for a holder that may be about to end: workers of a killed process's data loader inherit its
# lock, and look every five seconds whether it is there.
PATIENCE = 6.0


class InUseError(UsageError):
    """Another process holds the lock."""


@contextmanager
def held(place: Path, seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder or file.

    Args:
        place: the folder, which need not be there yet.
        seconds: how long to wait for another process; -1 waits until it is done.

    Raises:
        InUseError: another process still holds it.
        UsageError: its file cannot be written.
    """
    file = _file(place)
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds)
    except Timeout:
        raise InUseError(
            f"{place} is in use by {_named(file)}: wait for it, or choose another folder"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot lock {place}: {error.strerror or error}") from None
    try:
        with suppress(OSError):  # the disk is full
            file.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        lock.release()


def holder(place: Path) -> str | None:
    """Who holds the lock of a folder or file, in words; None where nobody does."""
    file = _file(place)
    if not file.exists():
        return None
    try:
        with FileLock(file).acquire(timeout=0):
            return None
    except Timeout:
        return _named(file)
    except OSError:  # another user's: it tells nothing
        return None


def _file(place: Path) -> Path:
    """Beside the folder, which may be deleted and made anew under the lock."""
    place = place.resolve()
    return place.with_name(f".{place.name}.lock")


def _named(file: Path) -> str:
    with suppress(OSError):
        if named := file.read_text():
            return named
    return "another process"
