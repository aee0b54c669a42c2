"""Addresses of the site's pages, from its root."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath


def record_page(file: str) -> str:
    """Page of a record."""
    return f"records/{file.removesuffix('.json')}.html"


def named_page(folder: str, name: str) -> str:
    """Page of a study or a backbone, whatever characters its name has: no two names share one."""
    plain = re.sub(r"[^\w-]+", "-", name)
    if plain != name:
        plain += f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"{folder}/{plain}.html"


def samples_file(file: str) -> str:
    """Samples kept beside a record."""
    return str(PurePosixPath("samples") / file).removesuffix(".json") + ".png"
