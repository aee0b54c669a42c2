"""The table of scores. Every file of this package is a score, or a family computed together.

    from bench.metrics.scores import SCORES

    SCORES["fid"].title, SCORES["fid"].higher_is_better        # "FID↓", False

A new score is a new file with a `Score` at its top level; `density_coverage.py` is an example. Commands,
studies, reports and comparisons read it from here. Importing this package imports no torch.
"""

from __future__ import annotations

import importlib
import pkgutil

from bench.metrics.scores.base import Features, Inputs, Need, Score
from bench.records.quantities import HELD_OUT, LOSS, Quantity
from registry.errors import UsageError, suggest

__all__ = ["MEASURED", "SCORES", "Features", "Inputs", "Need", "Score", "select"]


def _collect() -> dict[str, Score]:
    """Entries of all modules in their order, then by file and place in it."""
    entries: dict[str, Score] = {}
    for module in pkgutil.iter_modules(__path__):
        content = importlib.import_module(f"{__name__}.{module.name}")
        entries |= {entry.name: entry for entry in vars(content).values() if isinstance(entry, Score)}
    return dict(sorted(entries.items(), key=lambda item: item[1].order))


SCORES: dict[str, Score] = _collect()
# What records of quality hold.
MEASURED: dict[str, Quantity] = {
    **{name: score for name, score in SCORES.items() if score.recorded},
    LOSS.name: LOSS,
    **HELD_OUT,
}


def select(names: list[str]) -> list[Score]:
    """Entries by name, the default ones where none are named.

    Raises:
        UsageError: no such score.
    """
    for name in names:
        if name not in SCORES:
            known = list(SCORES)
            raise UsageError(
                f"unknown score {name!r}.{suggest(name, known)} It is one of {', '.join(known)}."
            )
    return [score for score in SCORES.values() if (score.name in names if names else score.default)]
