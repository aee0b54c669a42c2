"""The leaderboard: every backbone and variant with its figures, ranked within groups of comparable scores.

A group is one set of published conditions (objective, guidance, training steps), or one setting of a protocol
measured here. Scores of different groups are not comparable, so each group has its own ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import registry
from bench.metrics.scores import MEASURED, SCORES
from bench.records.quantities import COSTS
from bench.records.schema import Cost, Network, Quality
from bench.reports.page import Column, Entry, Table
from bench.reports.select import Line, Setting, SpeedColumn, settings
from bench.reports.statistics import compare_rows
from bench.reports.tables import quality_title, significant, spread
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
        counted: files of the records of this cost.
        rank: 1 + number of significantly better rows; None if seeds are missing.
        images_per_second: at its published size, in the setting in which most networks were measured.
        speed_record: file of the record of this speed.
    """

    line: Line
    study: str
    network: Cost | Network | None
    counted: tuple[str, ...] = ()
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


_SOURCES = {"u-dit": "U-DiT paper", "dit": "DiT paper"}  # sources of Tables 1 to 6


def shown(groups: Sequence[Group]) -> set[str]:
    """Titles of the columns that are visible by default, among them the scores that rank."""
    judges = (name for group in groups if group.setting for name in group.setting.judges)
    return {
        *("Model", "Family", "Rank", "Params (M)", "GFLOPs", "Images/s", "Seeds", "Source"),
        *(MEASURED[name].title for name in (*published.QUALITY, "held_out", *judges)),
    }


def tables(groups: Sequence[Group]) -> list[Table]:
    """A table for each group, all with the same columns."""
    names = _columns(groups)
    columns = [
        Column("Model", number=False),
        Column("Rank"),
        Column("Family", number=False),
        Column("Objective", number=False),
        *(Column(quantity.title) for quantity in COSTS.values()),
        Column("Images/s"),
        *(Column(MEASURED[name].title) for name in names),
        Column("Seeds"),
        Column("Source", number=False),
    ]
    return [
        Table(columns, [_entries(each, group.setting, names) for each in group.standings], group.title)
        for group in groups
    ]


def _columns(groups: Sequence[Group]) -> list[str]:
    """Names of the quantities that get a column: those of every record, and others that some record has."""
    always = {name for name in MEASURED if name not in SCORES or SCORES[name].recorded}
    found = {
        name
        for group in groups
        if group.setting
        for standing in group.standings
        for name in MEASURED
        if name not in always and standing.line.score(group.setting, name)
    }
    return [name for name in MEASURED if name in always | found]


def _entries(standing: Standing, setting: Setting | None, names: Sequence[str]) -> list[Entry]:
    line, row = standing.line, standing.line.row.published
    if setting is None:
        assert row is not None
        scores = [Entry(row.printed.get(name, "")) for name in names]
        last = [Entry(""), Entry(_SOURCES.get(row.source, row.source))]
    else:
        found = {name: line.score(setting, name) for name in names}
        files = line.files(setting)
        scores = [
            Entry(spread(MEASURED[name], found[name]), False, files if found[name] else ()) for name in names
        ]
        last = [Entry(str(len(files))), Entry("measured here")]
    speed = standing.images_per_second
    return [
        Entry(line.label, model=line.row.model or ""),
        Entry("" if standing.rank is None else str(standing.rank)),
        Entry(standing.family),
        Entry(objective(line)),
        *(
            Entry(q.text(getattr(standing.network, q.field, None)), False, standing.counted)
            for q in COSTS.values()
        ),
        Entry("") if speed is None else Entry(significant(speed), False, (standing.speed_record or "",)),
        *scores,
        *last,
    ]


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
                standing = Standing(line, study, cost, (cost.request.file,) if cost else ())
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
                    files, (first, *_) = line.files(setting), line.results(setting).values()
                    standings.setdefault(files[0], Standing(line, study, first.network, files))
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
