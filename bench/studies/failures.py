"""Why a cell failed, in one line."""

from __future__ import annotations

import traceback

from registry.errors import CodeError, UsageError, reason, user_frame


def failure(error: Exception) -> str:
    """Why something failed; what is no wrong input is printed whole, into the log."""
    if isinstance(error, UsageError | CodeError):
        return str(error)
    traceback.print_exception(error)
    frame = user_frame(error)
    place = f" ({frame.filename}, line {frame.lineno}, in {frame.name})" if frame else ""
    return reason(error) + place
