"""Ctrl-C and SIGTERM as a list that long operations look at, so that they can end with a checkpoint."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def caught_signals(react: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """A list that Ctrl-C and SIGTERM put themselves into once; the second time they end the process.

    Args:
        react: called when one comes.
    """
    received: list[int] = []
    before: dict[int, Any] = {}

    def receive(number: int, _frame: Any) -> None:
        received.append(number)
        react()
        signal.signal(number, before[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, receive)
    except ValueError:  # not the main thread: whoever runs it there stops it there
        pass
    try:
        yield received
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)
