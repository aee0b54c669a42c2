"""Packages that only some installations have."""

from __future__ import annotations

import importlib
from typing import Any

from registry.errors import UsageError


def extra(package: str, name: str, what: str) -> Any:
    """A package that an extra of this one brings.

    Args:
        package: to import.
        name: of the extra.
        what: needs it, for the message.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UsageError(f"{what} needs {package}: pip install 'denoiser-bench[{name}]'") from None
