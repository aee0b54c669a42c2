"""CSV for programs; a spreadsheet that opens it runs no formula."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# What begins like a formula and is none that does anything: a number, or a label such as "- shortcut".
_HARMLESS = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?|[+-] ?[^\W\d][\w .,/&+-]*", re.IGNORECASE)


def frame(table: pd.DataFrame) -> str:
    """A table of numbers and texts; numbers to six significant digits, for machines differ in the last."""
    text = io.StringIO()
    table.rename(columns=_inert).map(_inert, na_action="ignore").to_csv(
        text, index=False, lineterminator="\n"
    )
    return text.getvalue()


def _inert(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and value[:1] in ("=", "@", "+", "-") and not _HARMLESS.fullmatch(value):
        return f"'{value}"
    return value
