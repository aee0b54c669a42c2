"""A published row beside scores that were computed here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Beside:
    """One published row.

    Attributes:
        row: its name, as printed.
        conditions: how it was trained and sampled, in words.
        source: where it is printed.
        url: address of that.
        scores: name -> (published, computed here or None, difference or None where the two do not compare).
        notes: why they do not compare, or how they differ, a sentence each.
    """

    row: str
    conditions: str
    source: str
    url: str
    scores: dict[str, tuple[float, float | None, float | None]]
    notes: tuple[str, ...]
