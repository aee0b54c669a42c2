"""Image files: which files of a folder are read, and what they hold as 8-bit RGB."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from bench.data.digests import check_regular
from registry.errors import UsageError

# Pillow recognises these, but decodes them by other programs or not at all.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_READ = {
    ending: name
    for ending, name in Image.registered_extensions().items()
    if name in Image.OPEN and name not in _NOT_DECODED
}
ENDINGS, FORMATS = tuple(sorted(_READ)), tuple(sorted(set(_READ.values())))


def image_files(folder: Path) -> tuple[dict[str, int], Counter[str]]:
    """Image files of a folder at any depth, by the endings that Pillow knows; links are followed.

    Returns:
        The size in bytes of each file by its path from the folder, `CLASS/IMAGE`, and how many of what was
        left out: `hidden files`, `hidden folders` (each counted once), `folders that contain themselves` by
        a link, and other files by their ending, such as `.txt`.

    Raises:
        UsageError: the folder or something in it cannot be read, or an image is no regular file.
    """
    found: dict[str, int] = {}
    left_out: Counter[str] = Counter()

    def search(inside: str, around: list[os.stat_result]) -> None:
        state = (folder / inside).stat()
        if any(os.path.samestat(state, other) for other in around):
            left_out["folders that contain themselves"] += 1
            return
        for entry in os.scandir(folder / inside):
            path = inside + entry.name
            if entry.name.startswith("."):
                left_out["hidden folders" if entry.is_dir() else "hidden files"] += 1
            elif entry.is_dir():
                search(f"{path}/", [*around, state])
            elif entry.name.lower().endswith(ENDINGS):
                check_regular(folder / path, entry.stat())
                found[path] = entry.stat().st_size
            else:
                left_out[Path(entry.name).suffix.lower() or "files without an ending"] += 1

    try:
        search("", [])
    except OSError as error:
        raise UsageError(f"cannot read {error.filename or folder}: {error.strerror}") from None
    return found, left_out


def left_out_note(folder: Path, left_out: Counter[str]) -> str:
    """What `image_files` left out, in a sentence."""
    return f"{folder}: left out: {', '.join(f'{count} {what}' for what, count in left_out.most_common())}."


def orientation(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation that `to_rgb` applies, 1 to 8; 1 is upright.

    Args:
        image: as `Image.open` gives it, not loaded yet. TIFF files are turned by Pillow itself.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1  # a PNG would be decoded whole, in search of EXIF behind its pixels
    found = image.getexif().get(ExifTags.Base.Orientation)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def to_rgb(image: ImageFile.ImageFile) -> Image.Image:
    """An image as Pillow converts it to RGB, turned as its EXIF orientation says.

    Grey of 16 bits and PNGs of 16 bits become v / 257, rounded: Pillow cuts such grey off at 255, which makes
    it white, and drops the low bytes of such colours. (So it does with grey with alpha, and with TIFFs, which
    is left at that: it is off by one level at most.) Of several frames the first is taken.

    Args:
        image: as `Image.open` gives it, not loaded yet.

    Raises:
        OSError: a damaged file.
        ValueError: levels that are no 8 or 16 bits.
    """
    turn, found = orientation(image), _eight_bits(image)
    if turn == 1:
        return found
    found.getexif()[ExifTags.Base.Orientation] = turn
    return ImageOps.exif_transpose(found)


def _eight_bits(image: ImageFile.ImageFile) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its levels are real numbers: convert it to 8 bits")
    if image.mode.startswith("I"):
        return _rounded(np.asarray(image)).convert("RGB")
    if image.format == "PNG" and image.tile and image.tile[0].args in ("RGB;16B", "RGBA;16B"):
        assert image.fp is not None
        image.fp.seek(0)
        file = io.BytesIO(image.fp.read())
        with Image.open(file) as low:
            # Read as little-endian numbers, the low bytes come first and are the ones that stay.
            low.tile = [low.tile[0]._replace(args=image.tile[0].args.replace("16B", "16L"))]
            low_bytes = np.asarray(low).astype(np.uint32)
        with Image.open(file) as high:
            return _rounded(256 * np.asarray(high).astype(np.uint32) + low_bytes).convert("RGB")
    return image.convert("RGB")


def _rounded(levels: np.ndarray) -> Image.Image:
    """(H, W) or (H, W, channels) of 0 … 65535 -> the image of 8 bits."""
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError("its levels take more than 16 bits: convert it to 8 bits")
    return Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))
