"""Reading `.npz` files that strangers made: looked at before they are believed, streamed, never unpickled.

An `.npz` is a zip of `.npy` members. What a member's header promises is checked against the bytes that
are there before anything is allocated.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from registry.errors import UsageError, reason

DEFLATE_RATIO = 1032  # deflate makes at most 1032 bytes of one
LARGE, USUAL_RATIO = 2**30, 100  # bytes and their like in a file, beyond which an array is a bomb
_FAULTS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, NotImplementedError)


class Npz:
    """The arrays of an `.npz`, by name; their data stay in the file until asked for.

    Raises:
        UsageError: no such file, or no zip, as a truncated one is not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _faults(path):
            self.size = path.stat().st_size
            with zipfile.ZipFile(path) as archive:
                self._infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

    @property
    def names(self) -> list[str]:
        """The arrays' names, in the order of the file."""
        return list(self._infos)

    def member(self, name: str) -> Member:
        """The array `name`, its header read and checked.

        Raises:
            UsageError: no such array, an array of objects, or a header that the data belie.
        """
        if name not in self._infos:
            raise UsageError(f"{self.path} has no array {name!r}; it has: {', '.join(self.names) or 'none'}")
        info = self._infos[name]
        packed = DEFLATE_RATIO if info.compress_type == zipfile.ZIP_DEFLATED else 1
        if info.compress_size > self.size or info.file_size > packed * info.compress_size:
            raise UsageError(f"{self.path} is damaged: {name} claims more bytes than the file can hold")
        return Member(self.path, name, info)


class Member:
    """One array of an `.npz`: `shape` and `dtype` are known, its data are read when asked for.

    Attributes:
        stored: whether it is not compressed, so that `part` can read it.
    """

    def __init__(self, path: Path, name: str, info: zipfile.ZipInfo) -> None:
        self.path, self.name, self._info = path, name, info
        self.stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1  # nor encrypted
        headers: dict[Any, Callable[..., Any]] = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        with self._open() as file:
            version = np.lib.format.read_magic(file)
            if version not in headers:
                raise ValueError(f"{name} is in version {version} of the .npy format")
            self.shape, self.column_major, self.dtype = headers[version](file)
            self._offset = file.tell()
        if self.dtype.hasobject:
            raise UsageError(f"{path}: {name} holds Python objects, which are never unpickled")
        if self._offset + math.prod(self.shape) * self.dtype.itemsize != info.file_size:
            raise UsageError(
                f"{path} is damaged: the header of {name} promises {_shape(self)}, its data are "
                f"{info.file_size - self._offset} bytes"
            )

    def blocks(self, parts: Iterable[range]) -> Iterator[np.ndarray]:
        """Rows of each part, in rising order, read as they are asked for: (len(part), …)."""
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        with self._open() as file:
            for part in parts:
                file.seek(self._offset + part.start * row)
                yield self._array(file, (len(part), *self.shape[1:]))

    def part(self, rows: range) -> np.ndarray:
        """Some rows, without a look at those before, nor at the checksum, which `blocks` sees at the end."""
        shape = (len(rows), *self.shape[1:])
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        with _faults(self.path), self.path.open("rb") as file:
            # The lengths of the name, and of what else is between a member's header and its data.
            file.seek(self._info.header_offset + 26)
            begin = self._info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
            file.seek(begin + self._offset + rows.start * row)
            return self._array(file, shape)

    def array(self) -> np.ndarray:
        """The whole array, in memory.

        Raises:
            UsageError: damage, or a decompression bomb.
        """
        if self._info.file_size > max(LARGE, USUAL_RATIO * self._info.compress_size):
            raise UsageError(
                f"{self.path}: {self.name} unpacks to {self._info.file_size:,} bytes, as a decompression "
                "bomb does"
            )
        with self._open() as file:
            file.seek(self._offset)
            if self.column_major:
                return self._array(file, self.shape[::-1]).T
            return self._array(file, self.shape)

    def _array(self, file: IO[bytes], shape: tuple[int, ...]) -> np.ndarray:
        data = file.read(math.prod(shape) * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype).reshape(shape)  # ValueError where data end too soon

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        with _faults(self.path), zipfile.ZipFile(self.path) as archive, archive.open(self._info) as file:
            yield file


def _shape(member: Member) -> str:
    return f"{' × '.join(map(str, member.shape)) or 'one'} {member.dtype}"


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """What a reader makes of a damaged file, as one line."""
    try:
        yield
    except UsageError:
        raise
    except _FAULTS as error:
        raise UsageError(f"{path} is no readable .npz (damaged or truncated): {reason(error)}") from None
