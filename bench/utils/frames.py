"""Results as tables in a notebook. Importing this module imports no pandas."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

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
        """For notebooks; text is escaped."""
        return html(self.rows())


class HasRows(Protocol):
    """A result of its own, such as the speed of one network."""

    def rows(self) -> list[Row]:
        """See `Framed`."""


Each = TypeVar("Each", bound=HasRows)


class Results(list[Each], Framed):
    """Several results of one kind: a list of them, and one table."""

    def rows(self) -> list[Row]:
        """The rows of all of them, in order."""
        return [row for result in self for row in result.rows()]


def html(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of HTML, with four significant figures and without what no row has."""
    import pandas as pd

    frame = pd.DataFrame([dict(row) for row in rows]).dropna(axis="columns", how="all")
    text: str = frame.to_html(index=False, border=0, na_rep="", float_format=_figures, escape=True)
    return text


def _figures(value: float) -> str:
    """Four significant figures, without an exponent where that is short."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
