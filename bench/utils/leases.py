"""Leases: holding a place alone among the processes of all machines that see a folder, while one is alive.

    with leases.held(runs / ".NAME.lease"):                # refused where it is held; `waiting=` waits
        ...
    if lease := leases.claim(results / ".leases" / name):  # None where another process holds it
        with lease:
            lease.tell(description="training", done=3, total=9)

A lease is a folder with one file in it, whose name is the holder's token:

- claimed: the folder is made beside its place, file and all, and renamed to it, which fails while the one
  that is there has a file;
- kept: a thread writes the file anew every `BEAT` seconds, with what the holder tells of its work;
- taken over: the file is renamed to the taker's token. The name stands for one holder, so of two takers one
  wins, and nobody takes what a third has just claimed;
- released: the file is deleted, then the folder.

Each of these is one operation that file systems do whole or not at all, NFS (RFC 1813) among them, where
flock may not be had. No clock is compared with that of another machine: a holder is dead when whoever watches
has seen nothing change for `EXPIRY` seconds of its own, or at once where it was a process of the same machine
that is there no more. A holder that was only stopped for so long finds its file gone: `Lost`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from registry.errors import UsageError

BEAT = 2.0  # seconds from one sign of life to the next
EXPIRY = 60.0  # seconds without one after which a holder is dead: clients of NFS may look away for as long
SIZE = 1024  # bytes of a file, so that one that is read while it is written is whole
POLL = 0.2  # seconds between two looks of one who waits
LENT = "BENCH_LEASES_OF"  # variable of processes that work under the leases of the one it names


class Lost(Exception):  # noqa: N818 (no error of this process: it was away for too long)
    """Another process has taken the lease over."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as its file says.

    Attributes:
        token: name of the file, for this holder alone.
        content: of the file; another one at each beat.
    """

    token: str
    content: bytes

    @property
    def told(self) -> dict[str, Any]:
        """What it tells: `host`, `pid`, `since`, and of its work; empty while it is written."""
        try:
            found = json.loads(self.content)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def here(self) -> bool | None:
        """Whether its process runs on this machine; None where it is that of another machine."""
        machine, pid, start, _ = self.token.split(".")
        return _start(pid) == start if machine == _machine() else None

    @property
    def ours(self) -> bool:
        """Whether it is this process, or the one under whose leases this one works."""
        return self.token.startswith((process(), os.environ.get(LENT) or process()))

    def __str__(self) -> str:
        told = self.told
        if {"pid", "host", "since"} <= told.keys():
            return f"process {told['pid']} on {told['host']} since {told['since']}"
        return "another process"


@dataclass
class Lease:
    """A lease that this process holds; made by `claim` and `Watch.take_over`, released at the end of `with`.

    Attributes:
        place: its folder.
        token: name of its file.
        note: what it tells of the work, besides who holds it.
        lost: whether another process has taken it over.
    """

    place: Path
    token: str
    note: dict[str, Any] = field(default_factory=dict)
    lost: bool = False

    def __post_init__(self) -> None:
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._beats = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def tell(self, **note: Any) -> None:
        """Tell of the work, from the next beat on.

        Raises:
            Lost: another process is at the work now.
        """
        if self.lost:
            raise Lost
        self.note = self.note | note

    def beat(self) -> None:
        """Give a sign of life."""
        self._beats += 1
        try:
            # Written where it is and never made anew: it must not come back once it was taken over.
            file = os.open(self.place / self.token, os.O_WRONLY)
        except FileNotFoundError:
            self.lost = True
            return
        except OSError:  # the file system is away: it may be back at the next beat
            return
        with contextlib.suppress(OSError), os.fdopen(file, "wb") as opened:
            opened.write(self.content())
            opened.truncate()

    def content(self) -> bytes:
        """What the file holds."""
        who = {"host": socket.gethostname(), "pid": os.getpid(), "since": self._since, "beat": self._beats}
        return json.dumps(who | self.note).encode().ljust(SIZE)

    def release(self) -> None:
        """Let others have it."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(OSError):  # it was taken over
            (self.place / self.token).unlink()
            self.place.rmdir()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _keep(self) -> None:
        while not self.lost and not self._ended.wait(BEAT):
            self.beat()


def claim(place: Path) -> Lease | None:
    """Take a lease that nobody holds; None where somebody does, dead or alive.

    Args:
        place: of the lease; the folder that it lies in is made.

    Raises:
        UsageError: it cannot be written there.
    """
    lease = Lease(place, _token())
    beside = place.with_name(f".bench-{lease.token}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
        try:
            (beside / lease.token).write_bytes(lease.content())
            beside.rename(place)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT):
                raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        # Asked of the file system: an answer over the network may have been lost on its way.
        return lease if (place / lease.token).exists() else None
    except OSError as error:
        raise UsageError(f"cannot write {place}: {error.strerror or error}") from None


def look(place: Path) -> Holder | None:
    """Who holds a lease, dead or alive; None where nobody does."""
    with contextlib.suppress(OSError):
        for token in os.listdir(place):  # noqa: PTH208 (names are enough)
            if not token.startswith("."):  # NFS keeps a deleted file under such a name while it is open
                return Holder(token, (place / token).read_bytes())
    return None


def in_use(place: Path) -> bool:
    """Whether a process may hold a lease; one of another machine is taken to be alive."""
    holder = look(place)
    return holder is not None and holder.here is not False


@dataclass
class Watch:
    """What this process has seen of the holders of leases.

    Attributes:
        expiry: seconds without a change after which a holder is dead.
        clock: seconds of this machine, from any beginning.
    """

    expiry: float = EXPIRY
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._seen: dict[Path, tuple[Holder, float]] = {}
        self._alive: set[str] = set()  # tokens of which a change was seen

    def silence(self, place: Path, holder: Holder) -> float:
        """Seconds since a holder, as it was just found, was first found so."""
        before, since = self._seen.get(place, (None, 0.0))
        if before == holder:
            return self.clock() - since
        if before is not None and before.token == holder.token:
            self._alive.add(holder.token)
        self._seen[place] = holder, self.clock()
        return 0.0

    def dead(self, place: Path, holder: Holder) -> bool:
        """Whether a holder, as it was just found, is dead."""
        return self.silence(place, holder) > self.expiry or holder.here is False

    def alive(self, holder: Holder) -> bool:
        """Whether a holder is known to live: a process of this machine, or one that has given a sign."""
        return bool(holder.here) or holder.token in self._alive

    def take_over(self, place: Path) -> Lease | None:
        """The lease of a holder that is dead; None where nobody holds it, where the holder may live, or where
        another process was faster.
        """
        holder = look(place)
        if holder is None or not self.dead(place, holder):
            return None
        lease = Lease(place, _token())
        with contextlib.suppress(OSError):
            (place / holder.token).rename(place / lease.token)
        lease.beat()
        return None if lease.lost else lease

    def is_free(self, place: Path) -> bool:
        """Whether nobody holds a lease, after that of a dead holder is removed."""
        if look(place) is None:
            return True
        if lease := self.take_over(place):
            lease.release()
        return lease is not None


@contextlib.contextmanager
def held(place: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lease, or go on under the one that this process holds.

    Args:
        place: of the lease; that of a folder or file is `.NAME.lease` beside it.
        waiting: told once who holds it, before this call waits for the holder's end. Not given, it waits
            only until the holder shows whether it lives.

    Raises:
        UsageError: another process holds it (named) and `waiting` is not given, or the folder cannot be
            written to.
    """
    watch, told = Watch(), False
    while (lease := claim(place) or watch.take_over(place)) is None:
        if holder := look(place):
            if holder.ours:
                yield
                return
            if waiting is None and watch.alive(holder):
                named = place.with_name(place.name.removeprefix(".").removesuffix(".lease"))
                raise UsageError(f"{named} is in use by {holder}: wait for it, or choose another folder")
            if waiting is not None and not told:
                waiting(str(holder))
                told = True
        time.sleep(POLL)
    with lease:
        yield


def _token() -> str:
    """A name for one holder: its process, and eight random bytes."""
    return process() + secrets.token_hex(8)


def process() -> str:
    """What tells this process from others: its machine, its number, when it began."""
    return f"{_machine()}.{os.getpid()}.{_start(str(os.getpid()))}."


@functools.cache
def _machine() -> str:
    """What tells this machine, since its last start, from others; a container counts as one."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 (it names no path)
    except OSError:  # no Linux: every holder is watched
        return secrets.token_hex(6)
    return hashlib.sha256(f"{boot}{space}".encode()).hexdigest()[:12]


def _start(pid: str) -> str:
    """When a process of this machine began, in ticks; `0` of one that is there no more."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "0"
    return "0" if state in "ZX" else rest[18]
