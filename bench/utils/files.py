"""Writing files so that nothing is ever half-written, and holding a place alone."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
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
    made = path.with_name(f".bench-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with made.open("xb") as out:
                out.write(content)
            made.replace(path)
        finally:
            made.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


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


@contextlib.contextmanager
def locked(lock: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock alone among all processes of this machine; the system frees that of a dead process.

    Args:
        lock: the file that is locked; it stays behind, empty. Beside it, `LOCK.json` says who holds it.
        waiting: told once who holds it, before this call waits; by default nothing is waited for.

    Raises:
        UsageError: another process holds it (named) and `waiting` is not given, or the folder cannot be
            written to.
    """
    from filelock import FileLock, Timeout

    holder = lock.with_name(f"{lock.name}.json")
    file = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            file.acquire(timeout=0)
        except Timeout:
            if waiting is None:
                raise UsageError(
                    f"{lock.parent} is in use by {_holder(holder)}: wait for it, or choose another folder"
                ) from None
            waiting(_holder(holder))
            file.acquire(poll_interval=0.2)
    except OSError as error:
        raise UsageError(f"cannot write {lock}: {error.strerror or error}") from None
    try:
        start = datetime.now(UTC).isoformat(timespec="seconds")
        write_text(holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "start": start}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        file.release()


def is_locked(lock: Path) -> bool:
    """Whether a process holds a lock; nothing is made for asking."""
    from filelock import FileLock, Timeout

    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _holder(path: Path) -> str:
    """Who holds a lock, for a message."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']} since {found['start']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has not written it yet
        return "another process"
