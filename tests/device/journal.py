"""What the items of a stage have found: one JSON file, written anew after each."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.utils.files import write_text

Found = dict[str, Any]  # figures; a check has `error` and `bound` among them
Items = Mapping[str, Callable[[], Found]]


LOST = 3  # exit status: the device does not answer


@dataclass(frozen=True)
class Limited:
    """An item that is given up after some seconds.

    Attributes:
        call: the item.
        limit: seconds.
    """

    call: Callable[[], Found]
    limit: float

    def __call__(self) -> Found:
        with _given_up(self.limit):
            return self.call()


@contextmanager
def _given_up(limit: float, grace: float = 20) -> Iterator[None]:
    """Raise `TimeoutError` after so many seconds; where that does not get through, end the process later.

    A call that waits for a GPU does not return to Python. What the process was at is known from the journal,
    and the same command goes on with the next item.
    """

    def give_up(*_: Any) -> None:
        raise TimeoutError(f"it took more than {limit:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    last = threading.Timer(limit + grace, os._exit, (LOST,))
    last.daemon = True
    last.start()
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        last.cancel()


LEAST_SECONDS = 5  # that a limited item is given


class LostDeviceError(Exception):
    """No call on the device works any more; another process may go on."""


class Journal:
    """The items of one stage.

    Args:
        path: of the file.
        environment: of this call, which each item tells.
        device: where items run.
        say: is told of each item, a line.

    Attributes:
        entries: by item: `seconds`, `environment`, and `found` or, where it raised, `failure`.
    """

    def __init__(
        self, path: Path, environment: dict[str, Any], device: torch.device, say: Callable[[str], None]
    ) -> None:
        self.path, self.environment, self.device, self.say = path, environment, device, say
        self.entries: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def run(self, items: Items, deadline: float) -> bool:
        """Run what has found nothing yet, until so late that another might not end; whether all is done.

        What raised, or ended the process, is tried again after all others.

        Args:
            deadline: by `time.monotonic`.

        Raises:
            LostDeviceError: see there.
        """
        todo = [name for name in items if "found" not in self.entries.get(name, {})]
        todo.sort(key=lambda name: name in self.entries)
        for name in todo:
            item, longest = items[name], max((e["seconds"] for e in self.entries.values()), default=0.0)
            if isinstance(item, Limited):  # those of one stage are too unlike
                left = deadline - time.monotonic()
                item, longest = Limited(item.call, min(item.limit, left)), LEAST_SECONDS
            if time.monotonic() + longest > deadline:
                return False
            self._note(name, {"seconds": 0.0, "failure": "it ended the process"})
            began = time.monotonic()
            try:
                entry: dict[str, Any] = {"found": item()}
            except Exception as error:
                entry = {"failure": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
            entry |= {"seconds": time.monotonic() - began, "environment": self.environment}
            self._note(name, entry)
            self.say(f"{self.path.stem}: {name}: {verdict(entry)} ({entry['seconds']:.1f} s)")
            self._tidy()
        return True

    def _note(self, name: str, entry: dict[str, Any]) -> None:
        self.entries[name] = entry
        write_text(self.path, json.dumps(self.entries, indent=1) + "\n")

    def _tidy(self) -> None:
        """Free what the last item held of a GPU's memory."""
        if self.device.type != "cuda":
            return
        gc.collect()
        try:
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise LostDeviceError(str(error).splitlines()[0]) from None


def passed(entry: Mapping[str, Any]) -> bool:
    """Whether an item ended, and within its bound if it has one."""
    found = entry.get("found")
    return found is not None and (
        "bound" not in found or found["error"] <= found["bound"]
    )  # not if it is NaN


def verdict(entry: Mapping[str, Any]) -> str:
    """How an item ended, in a few words."""
    found = entry.get("found")
    if found is None:
        return f"FAILED, {entry['failure'].splitlines()[0][:200]}"
    if "bound" not in found:
        return "done"
    return f"{'ok' if passed(entry) else 'FAILED'}, error {found['error']:.2g} of {found['bound']:.2g}"
