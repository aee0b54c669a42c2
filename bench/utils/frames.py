"""Results as tables in a notebook. Importing this module imports no pandas."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]  # a value for each column, named with its unit


class Framed:
    """What has rows, and shows them as a table in a notebook."""

    @abstractmethod
    def rows(self) -> list[Row]:
        """The lines of the table, each with the same columns."""

    def to_frame(self) -> pd.DataFrame:
        """The table as a DataFrame, with units in the names of its columns."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def _repr_html_(self) -> str:
        """A table for notebooks: text escaped, four significant figures, without what no row has."""
        frame = self.to_frame().dropna(axis="columns", how="all")
        text: str = frame.to_html(index=False, border=0, na_rep="", float_format=_figures, escape=True)
        return text


Each = TypeVar("Each", bound=Framed)


class Results(list[Each], Framed):
    """Several results of one kind: a list of them, and one table."""

    def rows(self) -> list[Row]:
        """The rows of all of them, in order."""
        return [row for result in self for row in result.rows()]


def _figures(value: float) -> str:
    """Four significant figures, without an exponent where that is short."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
