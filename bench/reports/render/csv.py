"""CSV for programs. No cell is a formula to a spreadsheet."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Cells that begin like a formula but are harmless: a number, or a label such as "- shortcut".
_HARMLESS = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?|[+-] ?[^\W\d][\w .,/&+-]*", re.IGNORECASE)


def frame(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; numbers have six significant digits, because machines differ in the last ones."""
    import pandas as pd

    text, table = io.StringIO(), pd.DataFrame(rows, dtype=object)
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
