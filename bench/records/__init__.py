"""Records: one measurement, one JSON file that holds its request, its result, and where it came from.

    bench.records.write(bench.flops("udit-b"), "results")
    bench.records.load("results")                       # a DataFrame, one row a record

A file is named by the kind, the model and a hash of the request, so the same request has the same file; it
ends with a digest of its content, so that a digit that was changed since does not pass for a measurement.
The shape of a record is `bench.records.schema`. Reading needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from bench.records.index import DIGEST, Index, ReadFile
from bench.records.schema import Context, Fingerprints, Record, Result
from bench.utils.files import write_text
from bench.utils.text import hidden_character
from registry.errors import UsageError, suggest

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
DEPTH = 32  # of nested lists and tables that a record may have; ours have 4
LARGEST = 2**22  # bytes of a record's file; ours have some thousand
GREATEST = 1e30  # number of a record; ours reach 10¹⁵, and much more would overflow in means


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
    write_text(path, dumps(record))
    return path


def dumps(record: Record) -> str:
    """A record as its file holds it."""
    table = record.dump()
    return json.dumps({**table, DIGEST: _digest(table)}, indent=2, ensure_ascii=False) + "\n"


def read(folder: str | Path = "results") -> list[Record]:
    """All records of a folder, sorted by file; see `bench.records.index` for how so many are read.

    Raises:
        UsageError: there is no such folder.

    Warns:
        UserWarning: names each file that is no whole record, with the reason; it is left out. Other JSON
            files, whose names do not end in a hash, are passed over.
    """
    return [record for _, record in _all(folder, Index.record)]


def _all(folder: str | Path, take: Callable[[Index, Path, ReadFile], T]) -> list[tuple[str, T]]:
    """What is taken of each record of a folder, by file; see `read`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"no folder of records at {folder}")
    found, files = [], _files(folder)
    with Index(folder, len(files)) as index:
        for path in files:
            try:
                found.append((path.name, take(index, path, read_file)))
            except UsageError as error:
                warnings.warn(f"skipped {error}", stacklevel=3)
    return found


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
    return sorted(folder.glob("*-" + "[0-9a-f]" * 12 + ".json"))


def read_file(path: Path) -> Record:
    """One record.

    Raises:
        UsageError: it cannot be read, is no record, its name is not that of its request, or it was changed.
    """
    damaged = f"the damaged record {path}"
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"{damaged}: it is larger than a record can be")
        table = json.loads(path.read_text(encoding="utf-8"))
        if _depth(table) > DEPTH:
            raise UsageError(f"{damaged}: it is nested too deeply")
        if _excessive(table):
            raise UsageError(f"{damaged}: a number above {GREATEST:g} is no measurement")
        if character := hidden_character(table):
            raise UsageError(f"{damaged}: it holds the control character {character} in a text")
        digest = table.pop(DIGEST, None) if isinstance(table, dict) else None
        record = Record.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{damaged}: {place}: {first['msg']}") from None
    except OSError as error:
        raise UsageError(f"{damaged}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{damaged}: {str(error) or type(error).__name__}") from None
    if record.file != path.name:
        raise UsageError(f"{damaged}: its request does not fit its name")
    if digest != _digest(table):
        raise UsageError(f"{damaged}: its content is not what was written, by its {DIGEST}")
    return record


def file_digest(path: Path) -> str | None:
    """SHA-256 of a record's file, as hexadecimal text; None where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def load(folder: str | Path = "results") -> pd.DataFrame:
    """All records of a folder (see `read`), one row each.

    Returns:
        Columns `file`, and `request.model`, `result.scores.fid`, …, with a dot for each level.
    """
    import pandas as pd

    return pd.DataFrame([{"file": file, **_flat(table)} for file, table in _all(folder, Index.table)])


def _flat(table: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Nested tables as one, with a dot for each level."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{path}{key}.")
        else:
            found[sys.intern(path + key)] = value
    return found


def _digest(table: object) -> str:
    """12 hexadecimal digits of a JSON value, in whatever form it is written."""
    canonical = json.dumps(table, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _depth(value: object) -> int:
    """How deeply lists and tables are nested, counted level by level."""
    depth, level = 0, [value]
    while level and depth <= DEPTH:
        depth += 1
        inner = [v for v in level if isinstance(v, dict | list)]
        level = [x for v in inner for x in (v.values() if isinstance(v, dict) else v)]
    return depth


def _excessive(value: object) -> bool:
    """Whether there is a finite number beyond what a measurement can be."""
    if isinstance(value, dict | list):
        return any(map(_excessive, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int | float) and GREATEST < abs(value) < math.inf
