"""Image files: which ones are read, and what they hold as 8-bit RGB."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFile

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP")


def to_rgb(image: ImageFile.ImageFile) -> Image.Image:
    """An image as Pillow converts it to RGB, but 16-bit PNGs by v / 257, rounded.

    Pillow cuts 16-bit grey off at 255, which makes it white, and drops the low bytes of 16-bit colours. (So
    it does with 16-bit grey with alpha, which is left at that: it is off by one level at most.)

    Args:
        image: as `Image.open` gives it, not loaded yet.

    Raises:
        OSError: a damaged file.
    """
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
    return Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))
