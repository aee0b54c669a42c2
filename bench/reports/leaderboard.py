"""The networks measured here, ranked within groups of comparable scores: one setting of a protocol each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench.metrics.scores import MEASURED
from bench.reports.select import Line, Setting, settings
from bench.reports.statistics import compare_rows
from bench.reports.tables import quality_title


class Standing(NamedTuple):
    """A network in a group.

    Attributes:
        line: its row of a study, with its records.
        study: name of that study.
        rank: 1 + number of significantly better rows; None if seeds are missing.
    """

    line: Line
    study: str
    rank: int | None = None


class Group(NamedTuple):
    """Networks whose scores are comparable.

    Attributes:
        title: the conditions in words.
        setting: how scores were measured.
        standings: the networks, the best first.
    """

    title: str
    setting: Setting
    standings: list[Standing]


def groups(found: Mapping[str, Sequence[Line]]) -> list[Group]:
    """All groups by protocol.

    Args:
        found: lines by the name of their study.
    """
    every = settings([line for lines in found.values() for line in lines])
    made = []
    for setting in every:
        standings: dict[str, Standing] = {}  # by record: rows of two studies may be the same network
        for study, lines in found.items():
            for line in lines:
                # Rows of a shorter training are not a different network.
                shorter = line.row.step is not None or "steps" in (line.row.training or {})
                if setting in line.quality and not shorter:
                    standings.setdefault(line.files(setting)[0], Standing(line, study))
        title = quality_title(setting, every).replace("Quality, protocol", "Measured here:")
        if standings:
            made.append(Group(title, setting, _ranked([*standings.values()], setting)))
    return made


def _ranked(standings: Sequence[Standing], setting: Setting) -> list[Standing]:
    """Standings by mean score, with their ranks."""
    for name in setting.judges:
        values = [each.line.better_is_lower(setting, MEASURED[name]) for each in standings]
        if any(values):
            break
    compared = compare_rows(values)
    means = compared.means

    def rank(i: int) -> int | None:
        if i in compared.left_out or not compared.pairs:
            return None
        return 1 + sum(
            apart and i in pair and min(means[j] for j in pair) < means[i]
            for pair, apart in compared.pairs.items()
        )

    order = sorted(range(len(standings)), key=lambda i: (not values[i], means[i]))
    return [standings[i]._replace(rank=rank(i)) for i in order]
