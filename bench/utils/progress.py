"""How long work tells how far it is: one kind of callback, everywhere."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # description, done, total (0 where it is not known)


def silent(description: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""
