"""An index of a folder of records, so that 20,000 of them are known in seconds; the files stay the truth.

It holds what was read from each file that was found to be a whole record, beside the file's size and the time
of its last change, and is believed as long as these fit. The result, which is large and seldom wanted, is
read from the file when it is asked for. The index is a SQLite file in the user's cache (`bench.utils.cache`),
since SQLite's locks may not be had on a shared file system. Small folders have none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import PrivateAttr

from bench.records.schema import REQUESTS, Context, Environment, Fingerprints, Record
from bench.utils.cache import cache_folder
from registry.errors import UsageError, reason

SETTLED = 2 * 10**9  # nanoseconds after which a change of a file shows in its time, however coarse the clock
LEAST = 500  # files that a folder has for an index to be worth it
DIGEST = "digest"  # key of a record for that of all its other content
TABLE = "records_1"  # another number where its columns mean something else

ReadFile = Callable[[Path], Record]  # reads and checks a file, or raises UsageError


class IndexedRecord(Record):
    """A record whose result is read from its file, and checked, when it is asked for."""

    _path: Path = PrivateAttr()
    _read_file: ReadFile = PrivateAttr()
    _as_written: bool = PrivateAttr()

    def __getattr__(self, name: str) -> Any:
        if name != "result":
            return super().__getattr__(name)  # type: ignore[misc]
        self.__dict__["result"] = self._read_file(self._path).result
        return self.__dict__["result"]

    def dump(self) -> dict[str, Any]:
        """As of the base class; of a file that holds just that, without making models of it."""
        if not self._as_written or "result" in self.__dict__:
            return super().dump()
        return _table(self._path)


class Index:
    """The index of a folder, while it is entered.

    Args:
        folder: of records.
        count: of its files.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._file = None
        if count >= LEAST and (cache := cache_folder("records")):
            name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
            self._file = cache / f"{name}.sqlite"
        self._known: dict[str, tuple[int, int, bool, str]] = {}
        self._new: list[tuple[str, int, int, bool, str]] = []
        self._seen: set[str] = set()

    def __enter__(self) -> Self:
        with contextlib.suppress(sqlite3.Error), self._connection() as connection:
            rows = connection.execute(f"SELECT file, size, changed, as_written, head FROM {TABLE}")
            self._known = {file: tuple(rest) for file, *rest in rows}
        return self

    def record(self, path: Path, read_file: ReadFile) -> Record:
        """The record of a file of the folder, from the index if it fits.

        Args:
            path: of the file.
            read_file: of files that are not known; what it raises is passed on.
        """
        found = self._row(path, read_file)
        return found if isinstance(found, Record) else _record(path, read_file, *found)

    def table(self, path: Path, read_file: ReadFile) -> dict[str, Any]:
        """What the record of a file dumps; arguments as of `record`."""
        found = self._row(path, read_file)
        if isinstance(found, Record):
            return found.dump()
        head, as_written = found
        return _table(path) if as_written else _record(path, read_file, head, as_written).dump()

    def _row(self, path: Path, read_file: ReadFile) -> Record | tuple[str, bool]:
        """The row of a file without its size and time; the record itself of a file that has none."""
        self._seen.add(path.name)
        try:
            state = path.stat()
        except OSError:
            return read_file(path)
        size, changed, as_written, head = self._known.get(path.name, (-1, -1, False, ""))
        if (size, changed) == (state.st_size, state.st_mtime_ns):
            return head, bool(as_written)
        looked = time.time_ns()
        record = read_file(path)
        if self._file is None or state.st_mtime_ns >= looked - SETTLED:
            return record
        table = record.dump()
        as_written = _table(path) == table
        del table["result"]
        row = json.dumps(table), as_written
        self._new.append((path.name, state.st_size, state.st_mtime_ns, as_written, row[0]))
        return row  # and not the record, of which many take much memory

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gone = self._known.keys() - self._seen
        if kind is not None or not (self._new or gone):
            return
        with contextlib.suppress(sqlite3.Error), self._connection() as connection, connection:
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {TABLE} "
                "(file TEXT PRIMARY KEY, size INTEGER, changed INTEGER, as_written INTEGER, head TEXT)"
            )
            connection.executemany(f"INSERT OR REPLACE INTO {TABLE} VALUES (?, ?, ?, ?, ?)", self._new)
            connection.executemany(f"DELETE FROM {TABLE} WHERE file = ?", [(name,) for name in gone])

    def _connection(self) -> contextlib.closing[sqlite3.Connection]:
        """The opened index.

        Raises:
            sqlite3.Error: there is no cache, or the index is damaged or in use for long.
        """
        if self._file is None:
            raise sqlite3.OperationalError("no cache")
        return contextlib.closing(sqlite3.connect(self._file, timeout=5))


def _record(path: Path, read_file: ReadFile, head: str, as_written: bool) -> Record:
    """A record of which all but the result is known."""
    table = json.loads(head)
    request = REQUESTS[table["request"]["kind"]].model_validate(table["request"])
    request.__dict__["file"] = path.name  # which was compared with it when it was read
    known: dict[str, Any] = {
        "request": request,
        "context": Context.model_validate(table["context"]),
        "fingerprints": Fingerprints.model_validate(table["fingerprints"]),
        "environment": Environment.model_validate(table["environment"]),
    }
    record = IndexedRecord.model_construct(**known)
    record._path, record._read_file, record._as_written = path, read_file, as_written
    return record


def _table(path: Path) -> dict[str, Any]:
    """What a file holds that was checked before, without its digest."""
    try:
        table: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} was changed while it was read ({reason(error)})") from None
    del table[DIGEST]
    return table
