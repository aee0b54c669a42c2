"""Records: one measurement, one JSON file that holds its request, its result, and where it came from.

    bench.records.write(bench.flops("udit-b"), "results")
    bench.records.load("results")                       # a DataFrame with a row for each record

A file is named by the kind, the model and a hash of the request, so the same request has the same file; it
ends with a digest of its content, so that a digit that was changed since does not pass for a measurement.
The shape of a record is `bench.records.schema`. Reading needs no torch.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError

from bench.records.schema import Context, Fingerprints, Record, Result, short_digest
from bench.utils.files import write_text
from bench.utils.text import hidden_character
from bench.version import __version__
from registry.errors import UsageError, suggest

if TYPE_CHECKING:
    import pandas as pd

DIGEST = "digest"  # key of a record for that of all its other content
LARGEST = 2**22  # bytes of a record's file; ours have some thousand
NOT_IN_THE_PACKAGE = "this project's own records are in its repository, not in the package"


class NewerRecordError(UsageError):
    """A record is whole and has fields that this version does not know."""


def write(
    result: Result,
    folder: str | Path = "results",
    *,
    context: Context | None = None,
    fingerprints: Fingerprints | None = None,
    device: str = "cpu",
) -> Path:
    """Write the record of a result into a folder, which is made; an older answer is replaced.

    Args:
        result: knows its request.
        folder: of records.
        context: what it was run beside.
        fingerprints: of the code and data that made it.
        device: where it was measured, such as `cpu` or `cuda:0`.

    Returns:
        The file, written whole or not at all.

    Raises:
        UsageError: the folder cannot be written to.
        NewerRecordError: the older answer is of a newer version of this program.
    """
    from bench.records.environment import environment

    request = getattr(result, "request")  # noqa: B009, every kind of result has one, of its own type
    record = Record(
        request=request,
        result=result,
        context=context or Context(),
        fingerprints=fingerprints or Fingerprints(),
        environment=environment(device),
    )
    path = Path(folder) / record.file
    try:
        read_file(path)
    except NewerRecordError:
        raise
    except UsageError:  # there is none, or a damaged one
        pass
    write_text(path, dumps(record))
    return path


def dumps(record: Record) -> str:
    """A record as its file holds it."""
    table = record.dump()
    return json.dumps({**table, DIGEST: short_digest(table)}, indent=2, ensure_ascii=False) + "\n"


@contextmanager
def collection_later() -> Iterator[None]:
    """No garbage collection: it would look through all records again and again, for cycles they have not."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # both together count all records as old without a look
        gc.unfreeze()
        if was:
            gc.enable()


@collection_later()
def read(folder: str | Path = "results") -> list[Record]:
    """All records of a folder, sorted by file.

    Of held-out losses the means over groups of images, which are nine tenths of all numbers and which nothing
    here reads, are left out; `read_file` has them.

    Raises:
        UsageError: there is no such folder.

    Warns:
        UserWarning: names each file that is no whole record, with the reason; it is left out. Other JSON
            files, whose names do not end in a hash, are passed over.
    """
    return [record for record, _ in _all(folder)]


def _all(folder: str | Path) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Each record of a folder, and the table that its file holds; see `read`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"no folder of records at {folder}; {NOT_IN_THE_PACKAGE}")
    for path in _files(folder):
        try:
            yield _parsed(path, light=True)
        except UsageError as error:
            warnings.warn(f"skipped {error}", stacklevel=5)


def find(name: str, folder: str | Path = "results") -> Path:
    """The file of a record.

    Args:
        name: its path, or a part of the name of one alone in the folder.
        folder: of records.

    Raises:
        UsageError: there is none, or there are several.
    """
    if Path(name).is_file():
        return Path(name)
    files = _files(Path(folder))
    found = [path for path in files if name in path.name]
    if not found:
        raise UsageError(
            f"no record {name!r} in {folder}.{suggest(name, [path.name for path in files])} Give its file, "
            "or a part of its name that no other has."
        )
    if len(found) > 1:
        first = ", ".join(path.name for path in found[:3])
        raise UsageError(f"{len(found)} records in {folder} have {name!r} in their names: {first}, …")
    return found[0]


def _files(folder: Path) -> list[Path]:
    """Files with the names of records, sorted."""
    return sorted(folder.glob("*-" + "[0-9a-f]" * 12 + ".json"), key=attrgetter("name"))


def read_file(path: Path) -> Record:
    """One record.

    Raises:
        UsageError: it cannot be read, is no record, its name is not that of its request, or it was changed.
        NewerRecordError: it is of a newer version of this program.
    """
    record, _ = _parsed(path)
    return record


def _parsed(path: Path, *, light: bool = False) -> tuple[Record, dict[str, Any]]:
    """One record and the table that its file holds, checked; see `read_file`.

    Args:
        light: leave the means over groups of held-out images out of both.

    orjson refuses integers beyond 64 bits, what is not finite, half characters and lists nested a thousand
    deep; the models refuse other numbers too large, what they do not know, and options nested deeply.
    """
    damaged = f"the damaged record {path}"
    try:
        with path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size > LARGEST:
                raise UsageError(f"{damaged}: it is larger than a record can be")
            text = file.read()
        table = orjson.loads(text)
        # A control character is escaped or beyond ASCII, but for the last of ASCII.
        may_hide = not text.isascii() or b"\\" in text or b"\x7f" in text
        if may_hide and (character := hidden_character(table)):
            raise UsageError(f"{damaged}: it holds the control character {character} in a text")
        digest = table.pop(DIGEST, None) if isinstance(table, dict) else None
        as_written = _has_digest(table, digest)
        if light and as_written:
            _lighten(table)
        record = Record.model_validate(table)
        name = record.file
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        if as_written and first["type"] == "extra_forbidden":
            raise NewerRecordError(
                f"{path}, a record of a newer version than {__version__}: it has the field {place}"
            ) from None
        raise UsageError(f"{damaged}: {place}: {first['msg']}") from None
    except OSError as error:
        raise UsageError(f"{damaged}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{damaged}: {str(error) or type(error).__name__}") from None
    if name != path.name:
        raise UsageError(f"{damaged}: its request does not fit its name")
    if not as_written:
        raise UsageError(f"{damaged}: its content does not match its {DIGEST}")
    vars(record)["digest"] = digest
    return record, table


def _has_digest(table: Any, digest: Any) -> bool:
    """Whether a table is what was written, by its digest."""
    try:
        # orjson writes its text ten times as fast, but for tiny numbers and what is not ASCII.
        often = hashlib.sha256(orjson.dumps(table, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]
    except orjson.JSONEncodeError:  # nested too deeply, as the model tells
        return False
    return digest == often or digest == short_digest(table)


def _lighten(table: dict[str, Any]) -> None:
    """Take the means over groups of held-out images out of the table of a record."""
    with suppress(KeyError, TypeError, AttributeError):  # of another shape: the model refuses it
        for loss in table["result"].get("held_out", ()):
            for band in loss["bands"]:
                band.pop("groups", None)


def file_digest(path: Path) -> str | None:
    """SHA-256 of a record's file, as hexadecimal text; None where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


@collection_later()
def load(folder: str | Path = "results", *, full: bool = False) -> pd.DataFrame:
    """All records of a folder (see `read`), one row each.

    Args:
        folder: of records.
        full: all that records hold, in columns `request.model`, `result.scores.fid`, …, with a dot for each
            level.

    Returns:
        What was measured, the numbers that people look for first, with units in the names of their columns
        (scores by the names that `--score` takes), and the file; columns that no record has are left out.
    """
    import pandas as pd

    if not full:
        rows = pd.DataFrame([record.row() for record, _ in _all(folder)])
        last = [name for name in ("Device", "Date", "File") if name in rows]
        rows = rows[[name for name in rows if name not in last] + last]
        whole = {name: "Int64" for name in ("Step", "Seed", "Batch") if name in rows}
        return rows.astype(whole).dropna(axis="columns", how="all")
    return pd.json_normalize([{"file": record.file, **table} for record, table in _all(folder)])
