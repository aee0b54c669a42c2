"""The networks measured here, ranked within groups of comparable scores: one setting and training each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bench.metrics.scores import MEASURED
from bench.reports.select import Line, Setting, settings
from bench.reports.statistics import compare_rows
from bench.reports.tables import quality_title
from bench.studies import Study
from bench.studies.cells import known_protocols
from bench.training.protocols import Protocol


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


def groups(found: Iterable[tuple[Study, Sequence[Line]]]) -> list[Group]:
    """All groups by protocol, setting, and what rows change about the protocol's training.

    Rows of a shorter training are left out: they are no networks of their own.

    Args:
        found: studies with their lines.
    """
    found = list(found)
    every = settings([line for _, lines in found for line in lines])
    protocols = {study.name: known_protocols(study) for study, _ in found}
    made = []
    for setting in every:
        title = quality_title(setting, every).replace("Quality, protocol", "Measured here:")
        # By record: rows of two studies may be the same network.
        by_training: dict[str, dict[str, Standing]] = {}
        for study, lines in found:
            for line in (line for line in lines if setting in line.quality and line.row.step is None):
                protocol = protocols[study.name][setting.protocol]
                changes = _changes(line, setting, protocol)
                if changes.get("steps", protocol.training.steps) < protocol.training.steps:
                    continue
                words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in changes.items())
                standings = by_training.setdefault(f", trained with {words}" if words else "", {})
                standings.setdefault(line.files(setting)[0], Standing(line, study.name))
        for words, standings in sorted(by_training.items()):
            made.append(Group(title + words, setting, _ranked([*standings.values()], setting)))
    return made


def _changes(line: Line, setting: Setting, protocol: Protocol) -> dict[str, Any]:
    """What a row changes about a protocol's training. The objective is its network's, as in protocols."""
    request = next(iter(line.results(setting).values())).request
    ordinary = protocol.training_of(request.model)
    return {
        name: value
        for name, value in request.training
        if name != "objective" and value != getattr(ordinary, name)
    }


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
