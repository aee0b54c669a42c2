"""The leaderboard: every backbone and variant with its figures, ranked within groups of comparable scores.

A group is one set of published conditions (objective, guidance, training steps), or one setting of a protocol
measured here. Scores of different groups are not comparable, so each group has its own ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import registry
from bench.metrics.scores import MEASURED
from bench.records.schema import Cost, Network, Quality
from bench.reports.select import Line, Setting, SpeedColumn, settings
from bench.reports.statistics import compare_rows
from bench.reports.tables import quality_title
from bench.studies import published
from bench.studies.published import PublishedRow


@dataclass(frozen=True)
class Standing:
    """A network in a group.

    Attributes:
        line: its row of a study, with its records.
        study: name of that study.
        network: its cost, at the published size or at the size that the group's protocol trained; None if it
            was not counted.
        rank: 1 + number of significantly better rows; None if seeds are missing.
        images_per_second: at its published size, in the setting in which most networks were measured.
        speed_record: file of the record of this speed.
    """

    line: Line
    study: str
    network: Cost | Network | None
    rank: int | None = None
    images_per_second: float | None = None
    speed_record: str | None = None

    @property
    def family(self) -> str:
        """The module that defines the network; without one, the first word of the label."""
        if self.line.row.model is None:
            return self.line.label.split("-")[0].lower()
        module = registry.backbones.find(self.line.row.model).origin
        return module.removesuffix(".py").rpartition(".")[2].replace("_", "-")


@dataclass(frozen=True)
class Group:
    """Networks whose scores are comparable.

    Attributes:
        title: the conditions in words.
        source: `published`, or the name of the protocol.
        guided: whether samples were guided; None without samples.
        standings: the networks, the best first.
        setting: how scores were measured; None for published ones.
    """

    title: str
    source: str
    guided: bool | None
    standings: tuple[Standing, ...]
    setting: Setting | None = None


def groups(found: Mapping[str, Sequence[Line]], speed: SpeedColumn | None = None) -> list[Group]:
    """All groups: published ones, the largest first, then measured ones by protocol.

    Args:
        found: lines by the name of their study.
        speed: the speeds to show; None: none.
    """
    timed = [
        replace(group, standings=tuple(_timed(each, speed) for each in group.standings))
        for group in _published(found)
    ]
    return timed + _measured(found)  # without speeds, as protocols may train other sizes


def _timed(standing: Standing, speed: SpeedColumn | None) -> Standing:
    variant = standing.line.variant
    if speed is None or variant not in speed.figures:
        return standing
    return replace(
        standing, images_per_second=speed.figures[variant], speed_record=speed.records[variant].file
    )


def objective(line: Line) -> str:
    """The training objective in words; empty if unknown."""
    if line.row.published:
        return line.row.published.conditions[0]
    for records in line.quality.values():
        for record in records:
            if isinstance(record.result, Quality) and record.result.request.training.objective:
                return published.OBJECTIVES.get(record.result.request.training.objective, "")
    return ""


def _published(found: Mapping[str, Sequence[Line]]) -> list[Group]:
    by_conditions: dict[tuple[str, str, int], dict[tuple[str, float], Standing]] = {}
    for study, lines in found.items():
        for line in lines:
            if (row := line.row.published) and row.printed.get("fid"):
                place = by_conditions.setdefault((*row.conditions, _steps(row)), {})
                # A figure that several tables print is shown once; two figures of one network are both shown.
                cost = line.cost.cost if line.cost else None
                standing = Standing(line, study, cost)
                place.setdefault((line.variant or line.label, _printed_fid(standing)), standing)
    groups = []
    for (words, guidance, steps), standings in by_conditions.items():
        ordered = sorted(standings.values(), key=_printed_fid)
        title = f"Published: {words}, {guidance}, {steps // 1000:,}K steps"
        better = [sum(_printed_fid(other) < _printed_fid(each) for other in ordered) for each in ordered]
        ranked = tuple(replace(each, rank=1 + n) for each, n in zip(ordered, better, strict=True))
        groups.append(Group(title, "published", guidance != "no guidance", ranked))
    return sorted(groups, key=lambda group: -len(group.standings))


def _measured(found: Mapping[str, Sequence[Line]]) -> list[Group]:
    every = settings([line for lines in found.values() for line in lines])
    groups = []
    for setting in every:
        standings: dict[str, Standing] = {}  # by record: rows of two studies may be the same network
        for study, lines in found.items():
            for line in lines:
                # Rows of a shorter training are not a different network.
                shorter = line.row.step is not None or "steps" in (line.row.training or {})
                if setting in line.quality and not shorter:
                    first, *_ = line.results(setting).values()
                    standings.setdefault(line.files(setting)[0], Standing(line, study, first.network))
        title = quality_title(setting, every).replace("Quality, protocol", "Measured:")
        guided = None if setting.cfg_scale is None else setting.cfg_scale != 1
        ranked = _ranked([*standings.values()], setting)
        groups.append(Group(title, setting.protocol, guided, ranked, setting))
    return [group for group in groups if group.standings]


def _ranked(standings: Sequence[Standing], setting: Setting) -> tuple[Standing, ...]:
    """Standings by mean score, with their ranks."""
    for name in setting.judges:
        values = [each.line.better_is_lower(setting, MEASURED[name]) for each in standings]
        if any(values):
            break
    compared = compare_rows(values)
    order = sorted(range(len(standings)), key=lambda i: (not values[i], compared.means[i]))
    ranks: list[int | None] = []
    for i in order:
        apart = [
            j
            for pair, separable in compared.pairs.items()
            if separable and i in pair
            for j in pair
            if compared.means[j] < compared.means[i]
        ]
        ranks.append(None if i in compared.left_out or not compared.pairs else 1 + len(apart))
    return tuple(replace(standings[i], rank=rank) for i, rank in zip(order, ranks, strict=True))


def _printed_fid(standing: Standing) -> float:
    assert standing.line.row.published is not None
    return float(standing.line.row.published.printed["fid"])


def _steps(row: PublishedRow) -> int:
    return int(row.printed["training_steps"])
