"""Networks that turn images into features, by name: the plugins behind the scores.

    from bench.metrics.extractors import create, extractors

    extractors.names()                     # ['digits', 'inception']
    digits = create("digits")
    digits(images)["pool"]                 # uint8 (N, 3, H, W) -> float32 (N, 64)

    @extractors.register("my-features")
    class MyFeatures(torch.nn.Module): ...

An installed package adds names through the entry-point group `bench.extractors`. Importing this
package does not import torch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from registry.errors import CodeError, UsageError
from registry.plugins import Registry

if TYPE_CHECKING:
    from torch import Tensor

extractors = Registry("extractor", "bench.metrics.extractors")


class Extractor(Protocol):
    """What an extractor is: usually a `torch.nn.Module` in evaluation mode.

    Features of extractors that differ in name or digest are never compared.
    """

    name: str
    digest: str  # the first 12 hexadecimal digits of the SHA-256 of its weights' file
    outputs: dict[str, int]  # widths of "pool" (FID, precision, recall), "spatial" (sFID), "logits" (IS)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Features of uint8 (N, 3, H, W) images, each (N, width) float32, by the names of `outputs`."""
        ...

    def to(self, device: Any) -> Extractor:
        """The extractor on another device."""
        ...


def create(name: str, weights: str | Path | None = None) -> Extractor:
    """The extractor `name`, with the weights of a file or those it knows how to find.

    Raises:
        UsageError: unknown name, an extractor that takes no weights, or weights that are not there, are
            damaged or belong to another network.
        CodeError: an extractor that lacks what `Extractor` has.
    """
    if weights is not None and "weights" not in extractors.options(name):
        raise UsageError(f"the extractor {extractors.find(name).name!r} takes no weights: it has its own")
    factory = extractors.factory(name)
    made: Extractor = factory() if weights is None else factory(weights=Path(weights))
    lacking = [attribute for attribute in ("name", "digest", "outputs", "to") if not hasattr(made, attribute)]
    if lacking:
        raise CodeError(
            f"the extractor {name!r} lacks {', '.join(lacking)}: see bench.metrics.extractors", factory
        )
    return made


def file_digest(path: Path) -> str:
    """The first 12 hexadecimal digits of a file's SHA-256, as `sha256sum` prints it.

    Raises:
        UsageError: the file cannot be read.
    """
    if path.exists() and not path.is_file():  # reading a FIFO or a device would never end
        raise UsageError(f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None


def shipped_weights(name: str) -> str | None:
    """Digest of the weights that an extractor of this package brings with it; None of any other."""
    shipped = {path.stem: path for path in Path(__file__).parent.glob("*.safetensors")}
    return file_digest(shipped[name]) if name in shipped else None
