"""Studies: ablations as data. A study is a TOML file that names rows; those here are built in.

    study = bench.studies.load("downsampler")            # or the path of a file

    title = "Which feed-forward?"
    columns = ["params", "gflops", "fid"]

    [[rows]]
    label = "plain"
    backbone = "udit-t"
    overrides = { ffn = "mlp" }

    [[rows]]                                           # label, backbone and overrides are the paper's
    published = "6/U-DiT-T (+DWconv FFN)"              # or "leaderboard/DiC-S"

Rows unfold into cells (`bench.studies.cells`), which an executor (`bench.studies.executors`) measures.
Nothing here imports torch, so a report can be drawn from a study and its records alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

import registry
from bench.metrics.scores import MEASURED, select
from bench.records.quantities import COSTS, Quantities, Quantity
from bench.studies import published
from bench.studies.published import PublishedRow
from bench.training import protocols
from bench.utils import toml
from registry.errors import UsageError, suggest

COLUMNS: Quantities[Quantity] = Quantities(lambda: COSTS | dict(MEASURED.items()))


@dataclass(frozen=True)
class StudyRow:
    """One row of a study: a backbone and how it is measured.

    Attributes:
        label: name of the row in tables; unique within the study.
        model: registered name of the network; None for a published row whose network is not in this package,
            which is shown and not measured.
        overrides: options of the network; they take precedence over the protocol's `scale`.
        published: table and row of a published figure that is shown beside this row, as in `6/U-DiT-T
            (+Re-param.)`.
        cfg_scale: guidance scale, in place of the protocol's.
        step: training step of the checkpoint that is measured; None: the last.
        known: scores known from elsewhere, by name; see `bench proxy`.
        extra: whether the row is added to a published table without a figure there.
        protocols: names of the protocols under which the row is measured; empty: all.
        scale: further options of the network by name of the protocol.
        training: changes to the protocol's `[training]`, for this row.
        sampling: changes to the protocol's `[sampling]`, for this row.
        built_in: whether its study is built in.
    """

    label: str
    model: str | None
    overrides: dict[str, Any]
    published: PublishedRow | None = None
    cfg_scale: float | None = None
    step: int | None = None
    known: Mapping[str, float] = field(default_factory=dict)
    extra: bool = False
    protocols: tuple[str, ...] = ()
    scale: dict[str, dict[str, Any]] | None = None
    training: dict[str, Any] | None = None
    sampling: dict[str, Any] | None = None
    built_in: bool = False

    @property
    def table_label(self) -> str:
        """Its label in tables. Table 4 has one label for several rows, which differ in their steps."""
        return self.published.label if self.built_in and self.published else self.label

    def measured_under(self, protocol: str) -> bool:
        """Whether quality is measured under the protocol of that name."""
        return self.model is not None and (not self.protocols or protocol in self.protocols)


@dataclass(frozen=True)
class Study:
    """A study: the rows and columns of a table that is to be measured.

    Attributes:
        name: name of the file, without its ending.
        title: title of the table.
        protocol: default protocol, by name or path.
        seeds: default seeds of training.
        columns: names of the columns; see Scores, costs and losses.
        rows: the rows, at least one.
        folder: folder of the file, in which protocols are looked up; None for a built-in study.
        protocols: further protocols that the file names, by name or path.
    """

    name: str
    title: str
    protocol: str
    seeds: tuple[int, ...]
    columns: tuple[str, ...]
    rows: tuple[StudyRow, ...]
    folder: Path | None = None
    protocols: tuple[str, ...] = ()

    @property
    def argument(self) -> str:
        """What commands take for it: the name of a built-in study, else the path of its file."""
        return self.name if self.folder is None else str(self.folder / f"{self.name}.toml")

    def row(self, label: str) -> StudyRow:
        """The row of that label.

        Raises:
            UsageError: there is none.
        """
        for row in self.rows:
            if row.label == label:
                return row
        labels = [row.label for row in self.rows]
        raise UsageError(
            f"study {self.name} has no row {label!r}.{suggest(label, labels)} It has: {'; '.join(labels)}."
        )


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _WrittenRow(_Table):
    """A row as it is written.

    Attributes:
        backbone: name of the network; not needed with `published`, whose network it is then.
    """

    label: str | None = Field(default=None, min_length=1)
    backbone: str | None = None
    overrides: dict[str, Any] | None = None
    published: str | None = None
    cfg_scale: float | None = Field(default=None, ge=0)
    step: int | None = Field(default=None, ge=1)
    known: dict[str, float] = {}
    extra: bool = False
    protocols: tuple[str, ...] = ()
    scale: dict[str, dict[str, Any]] = {}
    training: dict[str, Any] = {}
    sampling: dict[str, Any] = {}


class _WrittenStudy(_Table):
    """A study as it is written.

    Attributes:
        rows: a table `[[rows]]` for each.
        protocols: names of the protocols under which rows are measured; empty: any.
        training: changes to the protocol's `[training]` for all rows.
        sampling: changes to the protocol's `[sampling]` for all rows.
    """

    title: str
    protocol: str = "micro"
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    protocols: tuple[str, ...] = ()
    training: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    columns: tuple[str, ...] = Field(
        default_factory=lambda: ("params", "gflops", *(score.name for score in select([]))), min_length=1
    )
    rows: tuple[dict[str, Any], ...] = ()


def names() -> list[str]:
    """Built-in studies, in the order of the paper's tables."""
    order = ("toy", "scaling", "guidance", "training-steps", "downsampler", "components")
    return sorted(
        toml.built_in(__name__), key=lambda name: order.index(name) if name in order else len(order)
    )


def load(name: str | Path) -> Study:
    """A study by its built-in name or by the path of a TOML file.

    What needs a backbone's code (its overrides) or a dataset is looked at by `bench.studies.checking`.

    Raises:
        UsageError: no such study, no valid TOML, or a key or value that is not right, named.
    """
    table = toml.read("study", __name__, name)
    try:
        folder = Path(name).parent if Path(name).suffix == ".toml" else None
        return _study(Path(name).stem, folder, toml.validated(_WrittenStudy, table))
    except UsageError as error:
        raise UsageError(f"study {name}: {error}") from None


def _study(name: str, folder: Path | None, written: _WrittenStudy) -> Study:
    if not written.rows:
        raise UsageError("it has no rows: add [[rows]] with a label and a backbone")
    for column in written.columns:
        if column not in COLUMNS:
            raise UsageError(
                f"columns: there is no column {column!r}.{suggest(column, list(COLUMNS))} "
                f"It is one of {', '.join(COLUMNS)}."
            )
    check_seeds(written.seeds)
    usual, named = _protocols(written.protocols, folder), [*written.protocols]
    rows = []
    for number, table in enumerate(written.rows, 1):
        try:
            row = toml.validated(_WrittenRow, table)
            rows.append(_row(row, written, usual, folder))
            named += [*row.protocols, *row.scale]
        except UsageError as error:
            label = f" ({table['label']})" if table.get("label") else ""
            raise UsageError(f"[[rows]] {number}{label}: {error}") from None
    for label, times in Counter(row.label for row in rows).items():
        if times > 1:
            raise UsageError(f"{times} rows have the label {label!r}: give each its own")
    return Study(
        name,
        written.title,
        written.protocol,
        tuple(written.seeds),
        tuple(written.columns),
        tuple(rows),
        folder,
        tuple(dict.fromkeys(named)),
    )


def check_seeds(seeds: Sequence[int]) -> None:
    """See that each is what seeds can be, and there once.

    Raises:
        UsageError: it is not.
    """
    if not seeds or any(not 0 <= seed < 2**63 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds = {list(seeds)}: each is 0 or more, below 2⁶³, and there once")


def _row(written: _WrittenRow, study: _WrittenStudy, usual: tuple[str, ...], folder: Path | None) -> StudyRow:
    """A row of a study; `usual`: names of the study's protocols."""
    stands_for = None
    if written.published is not None:
        if written.extra:
            raise UsageError("extra = true is for rows without a published row: leave one of the two out")
        stands_for = _published(written.published, written.step)
    label = written.label or (stands_for.label if stands_for else None)
    backbone = written.backbone or (stands_for.model if stands_for else None)
    for key, value in (("label", label), ("backbone", backbone)):
        if value is None and stands_for is None:
            raise UsageError(f"it needs the key {key!r}, or a published row to take it from")
    assert label is not None
    if backbone is None and (written.overrides or written.scale):
        raise UsageError(f"no network of {label!r} is in this package: overrides need the key 'backbone'")
    # A backbone of one's own does not take on the published one's overrides.
    taken = stands_for.overrides if stands_for and written.backbone is None else {}
    for place, table in (("overrides", written.overrides or {}), *written.scale.items()):
        for option, value in table.items():
            if not toml.is_plain(value):
                raise UsageError(f"{place}: {option} = {value} is no number, text, true, false or list")
    for score in written.known:
        if score not in published.QUALITY:
            told = list(published.QUALITY)
            raise UsageError(
                f"known: there is no score {score!r}.{suggest(score, told)} It is one of {', '.join(told)}."
            )
    scaled = _protocols(written.scale, folder)
    return StudyRow(
        label=label,
        model=registry.backbones.find(backbone).name if backbone else None,
        overrides=taken if written.overrides is None else written.overrides,
        published=stands_for,
        cfg_scale=written.cfg_scale,
        step=written.step,
        known=written.known,
        extra=written.extra,
        protocols=_protocols(written.protocols, folder) or usual,
        scale=dict(zip(scaled, written.scale.values(), strict=True)),
        training=study.training | written.training,
        sampling=study.sampling | written.sampling,
        built_in=folder is None,
    )


def _protocols(names: Iterable[str], folder: Path | None) -> tuple[str, ...]:
    """Names of protocols as they call themselves, without the folder and ending of a file.

    Raises:
        UsageError: one is neither built in, nor beside the study, nor the path of a TOML file.
    """
    known = protocols.names()
    for name in names:
        beside = folder is not None and (folder / f"{name}.toml").is_file()
        if not (name.endswith(".toml") or name in known or beside):
            raise UsageError(
                f"unknown protocol {name!r}.{suggest(name, known)} It is one of {', '.join(known)}, or a "
                ".toml file."
            )
    return tuple(Path(name).stem if name.endswith(".toml") else name for name in names)


def _published(text: str, step: int | None) -> PublishedRow:
    """The published row "TABLE/LABEL"; of several of that label, the one after so many steps."""
    name, slash, label = text.partition("/")
    if not (slash and (name.isdecimal() or name in published.OTHERS)):
        raise UsageError(
            f'published = {text!r}: it is written "TABLE/LABEL", such as "5/Pixel Shuffle (PS)" or '
            '"leaderboard/DiC-S"'
        )
    rows = published.rows(int(name) if name.isdecimal() else name)
    found = [row for row in rows if row.label == label]
    if not found:
        known = list(dict.fromkeys(row.label for row in rows))
        raise UsageError(
            f"Table {name} has no row {label!r}.{suggest(label, known)} It has: {'; '.join(known)}."
        )
    if len(found) > 1:
        steps = [int(row.printed["training_steps"]) for row in found]
        if step not in steps:
            raise UsageError(
                f"Table {name} has {len(found)} rows {label!r}: give step, one of "
                f"{', '.join(map(str, steps))}"
            )
        return found[steps.index(step)]
    return found[0]
