"""Progress callbacks of long operations, and the exception when one was stopped."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # description, done, total (0 where it is not known)


class Stopped(Exception):  # noqa: N818 (no error: somebody asked for it)
    """A signal has ended training; a checkpoint is written."""


def silent(description: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""
