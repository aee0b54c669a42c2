"""Digests of contents, by which datasets are identified; cached.

Files are read once. The digest is put into the user's cache under a key of their places, sizes and times, so
that a second look asks the file system for those alone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bench.utils.arrays import batches
from bench.utils.cache import cache_folder
from bench.utils.files import write_text
from registry.errors import UsageError

AT_ONCE = 1024  # files that a thread looks through before it takes the next
SETTLED = 2.0  # seconds after which a change of a file shows in its time, however coarse a clock wrote it


def digest(*parts: str | bytes | np.ndarray) -> str:
    """12 hexadecimal digits of contents in order (SHA-256)."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(f"{len(data)}:".encode())  # so that neighbours cannot trade bytes
        total.update(np.ascontiguousarray(data).data if isinstance(data, np.ndarray) else data)
    return total.hexdigest()[:12]


def files_digest(root: Path, names: Sequence[bytes]) -> str:
    """SHA-256 of some files, names and contents, as hexadecimal text; where they lie is no part of it.

    Args:
        root: the folder.
        names: paths from there, as the file system has them, in the order that counts.

    Raises:
        UsageError: a file that cannot be read or is none, named.
    """
    blocks = [names[part.start : part.stop] for part in batches(len(names), AT_ONCE)]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        states = np.concatenate(list(pool.map(functools.partial(_states, root), blocks)))
        listing = hashlib.sha256(os.fsencode(root.resolve()))
        for part in (b"\0".join(names), states.tobytes()):
            listing.update(b"\0\0" + part)
        folder = cache_folder("digests")
        cached = folder / f"{listing.hexdigest()[:32]}.txt" if folder else None
        if cached:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                found = cached.read_text(encoding="ascii")
                if re.fullmatch("[0-9a-f]{64}", found):
                    return found
        looked = time.time_ns()
        total = hashlib.sha256(b"\0".join(names))
        for contents in pool.map(functools.partial(_contents, root), blocks):
            total.update(contents)
    # A file written a moment ago can be written again within the same tick of the clock.
    if cached and states[:, 1:].max(initial=0) < looked - SETTLED * 1e9:
        with contextlib.suppress(UsageError):
            write_text(cached, total.hexdigest())
    return total.hexdigest()


def _states(root: Path, names: Sequence[bytes]) -> np.ndarray:
    """(n, 3) int64: size in bytes, times of the last change of content and of anything, in nanoseconds."""
    rows = []
    for name in names:
        path = root / os.fsdecode(name)
        try:
            state = path.stat()
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
        check_regular(path, state)
        rows.append((state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    return np.array(rows, np.int64).reshape(-1, 3)


def _contents(root: Path, names: Sequence[bytes]) -> bytes:
    """32 bytes for each file."""
    digests = []
    for name in names:
        path = root / os.fsdecode(name)
        try:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
    return b"".join(digests)


def check_regular(path: Path, state: os.stat_result) -> None:
    """Nothing, if the path is that of a regular file: to open a FIFO or a device may never end.

    Raises:
        UsageError: it is something else.
    """
    if not stat.S_ISREG(state.st_mode):
        raise UsageError(f"{path} is no regular file: take it out of the folder")
