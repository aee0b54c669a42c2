"""The field's board: published figures of every backbone beside those measured here, as rows of one table.

Rows of one group compare, and are ranked among themselves. `bench.studies.published.field` has what is
published of the field; Tables 1 to 6 of the U-DiT paper join it here.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import registry
from bench.metrics.scores import MEASURED
from bench.records.schema import TrainingSettings
from bench.reports.leaderboard import Group
from bench.reports.links import named_page, record_page, samples_file
from bench.reports.render import csv
from bench.reports.render.latex import escape
from bench.reports.select import Line, Selection, SpeedColumn
from bench.reports.tables import scored
from bench.studies import StudyRow, published
from bench.studies.published import PublishedRow, field
from bench.studies.published.field import FieldRow
from bench.version import __version__
from registry.values import split_options

Json = dict[str, Any]
U_DIT = "2405.02730"
HERE = "measured here"
# Images seen in training, in millions, as one filters by them; 102M are 400K steps of 256.
_BORDERS = {102: "under 102M", 103: "102M (400K × 256)", 501: "103M to 500M"}
BUDGETS = (*_BORDERS.values(), "over 500M", "not stated")


CITATION = f"""@software{{denoiser-bench,
  title = {{denoiser-bench: cost, speed and image quality of diffusion backbones}},
  author = {{{{The denoiser-bench developers}}}},
  version = {{{__version__}}},
}}
"""


class Head(NamedTuple):
    """A column of the board.

    Attributes:
        name: of the value in a row.
        title: with its unit.
        hint: what it means.
        shown: before anyone chooses.
        higher: whether more is better.
    """

    name: str
    title: str
    hint: str
    shown: bool = False
    higher: bool = False


def heads() -> list[Head]:
    """The columns, in order."""
    noise = f"{field.limit() - 1:.0%}"
    hints = {
        "fid": "Fréchet Inception distance of 50,000 samples; lower is better.",
        "sfid": "FID on spatial features of the Inception network; lower is better.",
        "inception_score": "Inception Score; higher is better.",
        "precision": "Share of samples that look like training images; higher is better.",
        "recall": "Share of training images that samples cover; higher is better.",
        "held_out": "Loss on images that were not trained on; lower is better. Only for runs here.",
    }
    scores = [
        Head(
            name,
            quantity.title,
            hints.get(name, f"{quantity.title} of runs here."),
            name in (*published.QUALITY, "held_out"),
            higher=bool(quantity.higher_is_better),
        )
        for name, quantity in MEASURED.items()
    ]
    family = Head("family", "Family", "Networks of one design.", True)
    kind = Head("kind", "Kind", "Who reports it. " + _listed(field.KINDS), True)
    return [
        Head("row", "Model", "Network. In brackets: who trained it, if not its authors.", True),
        Head(
            "rank",
            "Rank",
            "1 + the number of rows of its group shown to be better. Published rows: FID lower by more than "
            f"{noise}, the noise between trainings of one network, which is ranked by its authors' lowest "
            "figure. Rows measured here: a significant difference over seeds. Empty if more than the "
            "architecture differs, with too few seeds, and for other figures of a ranked network.",
            True,
        ),
        *scores[:1],
        Head(
            "source",
            "Source",
            "Publication that prints the figure. All sources are listed below the table.",
            True,
        ),
        Head(
            "gflops",
            "GFLOPs",
            "10⁹ multiply-accumulates of one forward pass, as papers count FLOPs. Counted here.",
            True,
        ),
        Head("printed_gflops", "(printed)", "GFLOPs as printed in the source.", True),
        Head("params", "Params (M)", "Parameters in millions, counted here.", True),
        Head("printed_params", "(printed)", "Parameters as printed in the source."),
        family,
        kind,
        *scores[1:],
        Head(
            "speed",
            "Images/s",
            "Images per second of one forward pass, measured here; branches merged.",
            higher=True,
        ),
        Head("images", "Images seen (M)", "Steps times batch size, in millions."),
        Head("compute", "Training (EFLOPs)", "3 × GFLOPs × images seen, forward and backward, in 10¹⁸."),
        Head("extra", "Also differs", "What differs besides the architecture. " + _listed(field.EXTRAS)),
        Head("other", "Other figures", "Other published FIDs of the same network under the same conditions."),
        Head("training_steps", "Steps", "Training length as printed."),
        Head("batch_size", "Batch", "Images a training step."),
        Head("guidance", "Guidance", "Classifier-free guidance unless said otherwise."),
        Head("cfg_scale", "Scale", "Guidance scale as printed."),
        Head("sampler", "Sampler", "Sampler and number of steps as printed."),
        Head("throughput", "Printed speed", "Speed as printed, with its device."),
        Head("seeds", "Seeds", "Number of trainings here."),
        Head("checked", "Checked", "Whether the figure was compared with its source, and what could not be."),
        Head("remarks", "Remarks", "Other remarks."),
    ]


def _listed(known: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {text}" for name, text in known.items()) + "."


@dataclass(frozen=True)
class Board:
    """The rows, and what they are from.

    Attributes:
        rows: values by name of the column, in its unit, without empty ones, and besides: `id`; `page` of the
            network or the record; `group`, its place `order`; `from` and `url`, the source; `texts` and
            `deviations` (over seeds) by score; `cost`, GFLOPs counted here or else printed; `speed_page`;
            `samples`.
        groups: their titles: the largest published one first, those measured here last.
        sources: addresses with the texts that name them, in the order of their numbers.
    """

    rows: list[Json]
    groups: list[str]
    sources: dict[str, list[str]]

    @property
    def filters(self) -> dict[str, tuple[str, list[str]]]:
        """Name -> label and values, of columns that the board is filtered by."""

        def values(name: str) -> list[str]:
            return sorted({row[name] for row in self.rows if row.get(name)}, key=str.lower)

        several = Counter(row["group"] for row in self.rows)
        return {
            "group": ("Conditions", [g for g in self.groups if g.startswith("Measured") or several[g] > 2]),
            "family": ("Family", values("family")),
            "budget": ("Images seen", [name for name in BUDGETS if name in values("budget")]),
            "objective": ("Objective", values("objective")),
            "guidance": ("Guidance", values("guidance")),
            "kind": ("Kind", values("kind")),
        }

    def csv(self) -> str:
        """Every row, with the names of the columns and of its group, and the source in full.

        Scores are as in records, without the factor of their headings.
        """
        columns = ["group", *(head.name for head in heads()), "url"]
        rows = [
            {name: row.get(name, "") for name in columns}
            | {"source": row["from"]}
            | {name: _rounded(row[name] / score.scale) for name, score in MEASURED.items() if name in row}
            for row in self.rows
        ]
        return csv.frame(rows) if rows else ",".join(columns) + "\n"

    def bibtex(self) -> str:
        """An entry for each source."""
        return "\n".join(_entry(url, texts) for url, texts in self.sources.items())


def board(
    selection: Selection,
    groups: Sequence[Group] = (),
    pictures: Collection[str] = (),
    speed: SpeedColumn | None = None,
) -> Board:
    """The board.

    Args:
        selection: the records, for the cost of published networks.
        groups: what was measured here; see `bench.reports.leaderboard`.
        pictures: records that samples are kept of.
        speed: the speeds to show; None: none.
    """
    known, here = list(field.rows()), dict[FieldRow, Line]()
    places = {(row.group, row.fid): row for row in reversed(known)}
    judged = [row for row in published.rows() if row.printed["fid"]]
    for printed in sorted(judged, key=lambda row: float(row.printed["fid"])):
        network = StudyRow(printed.label, printed.model, printed.overrides, printed)
        line = Line(network, selection.cost(network), {})
        row = _of_the_paper(line, printed)
        if (row.group, row.fid) not in places:
            places[row.group, row.fid] = row
            known.append(row)
        here.setdefault(places[row.group, row.fid], line)
    by_group: dict[str, list[FieldRow]] = {}
    for row in known:
        by_group.setdefault(row.title, []).append(row)
    ordered = sorted(by_group.items(), key=lambda item: (-len(item[1]), item[0]))
    sources: dict[str, list[str]] = {}
    rows = [
        each
        for order, (_, found) in enumerate(ordered)
        for each in _published(found, order, sources, here, speed)
    ]
    rows += [each for i, group in enumerate(groups) for each in _measured(group, len(ordered) + i, pictures)]
    return Board(rows, [title for title, _ in ordered] + [group.title for group in groups], sources)


def _of_the_paper(line: Line, row: PublishedRow) -> FieldRow:
    """A row of the published tables that this project began with, as a row of the field."""
    printed = {name: row.printed.get(name, "") for name in (*published.QUALITY, "gflops")}
    steps, batch = int(row.printed["training_steps"]), int(row.printed.get("batch_size") or 256)
    scale = float(row.printed["cfg_scale"])
    guidance = "unguided" if scale == 1 else "guided"
    return FieldRow.model_validate(
        dict.fromkeys(FieldRow.model_fields, "")
        | printed
        | {
            "row": row.label,
            "family": _family(line),
            "backbone": "" if row.overrides else row.model or "",
            "objective": row.objective,
            "resolution": 256,
            "training_steps": str(steps),
            "batch_size": str(batch),
            "cfg_scale": f"{scale:g}",
            "sampler": row.sampler,
            "kind": _kind(row),
            "extra": "none",
            "group": f"256|{steps * batch / 1e6:.0f}M|{row.objective}|{guidance}|{_SAMPLERS[row.objective]}",
            "source": f"Table {row.table} of arXiv {U_DIT} (U-DiT)" if row.of_the_paper else row.source,
            "checked": "yes",
        }
    )


def _kind(row: PublishedRow) -> str:
    if row.label.endswith("*"):  # the paper's mark of networks that it trained with the official program
        return "rerun by others"
    return "quoted" if row.of_the_paper and row.source != "u-dit" else "paper"


_AS_PRINTED = (
    "sfid inception_score precision recall family kind extra row training_steps batch_size cfg_scale sampler "
    "throughput checked"
).split()
_SAMPLERS = {"ddpm": "ddpm", "flow": "sde"}  # of the tables that this project began with


def _published(
    found: Sequence[FieldRow],
    order: int,
    sources: dict[str, list[str]],
    here: Mapping[FieldRow, Line],
    speed: SpeedColumn | None,
) -> Iterator[Json]:
    others = field.conflicts()
    for row, rank in zip(found, field.ranks(found), strict=True):
        line = here.get(row)
        texts = sources.setdefault(row.source_url, [])
        if row.source not in texts:
            texts.append(row.source)
        made: Json = {
            "rank": rank,
            "fid": row.fid,
            "images": row.images,
            "printed_gflops": row.gflops,
            "printed_params": row.params,
            "guidance": field.GUIDANCE[row.group.split("|")[3]],
            "objective": field.OBJECTIVES[row.group.split("|")[2]],
            "budget": _budget(row.images),
            "group": row.title,
            "order": order,
            "source": [*sources].index(row.source_url) + 1,
            "url": row.source_url,
            "from": row.source,
            "other": ", ".join(f"{other.fid:g} ({other.source})" for other in others.get(row, ())),
        }
        made |= {name: getattr(row, name) for name in _AS_PRINTED}
        made["remarks"] = "; ".join(
            filter(None, (row.duplicate and f"same run as {row.duplicate}", row.remarks))
        )
        if cost := line.cost.cost if line and line.cost else row.counted:
            made |= {"gflops": cost.paper_gflops, "params": cost.parameters / 1e6}
        if backbone := row.backbone or (line.row.model if line else None):
            made |= {"backbone": backbone, "page": named_page("backbones", backbone)}
        if line and speed and line.variant in speed.figures:
            made["speed"] = speed.figures[line.variant]
            made["speed_page"] = record_page(speed.records[line.variant].file)
        yield _finished(made)


def _measured(group: Group, order: int, pictures: Collection[str]) -> Iterator[Json]:
    setting = group.setting
    for line, study, rank in group.standings:
        files, (result, *_) = line.files(setting), line.results(setting).values()
        protocol = result.request.training
        made: Json = {
            "row": line.row.label,
            "rank": rank,
            "family": _family(line),
            "kind": HERE,
            "extra": "none",
            "objective": _objective(protocol),
            "guidance": "no guidance" if setting.cfg_scale in (None, 1) else "guided",
            "cfg_scale": "" if setting.cfg_scale is None else f"{setting.cfg_scale:g}",
            "training_steps": str(protocol.steps),
            "batch_size": protocol.batch_size,
            "images": protocol.steps * protocol.batch_size / 1e6,
            "budget": _budget(protocol.steps * protocol.batch_size / 1e6),
            "seeds": len(files),
            "group": group.title,
            "order": order,
            "page": record_page(files[0]),
            "from": f"record {files[0]}",
            "url": record_page(files[0]),
            "texts": {},
            "deviations": {},
            "study": study,
            "samples": next((samples_file(file) for file in files if file in pictures), ""),
        }
        made |= {"gflops": result.network.paper_gflops, "params": result.network.parameters / 1e6}
        for name, quantity in MEASURED.items():
            if (found := line.score(setting, name)) is not None:
                made[name] = found.mean * quantity.scale
                made["texts"][name] = scored(line, setting, quantity)
                if found.deviation:
                    made["deviations"][name] = found.deviation * quantity.scale
        yield _finished(made)


def _objective(training: TrainingSettings) -> str:
    """What a network was trained for here, in words."""
    name, _ = split_options(training.objective or "")
    if name == "ddpm" and training.prediction_type == "v_prediction":
        return "v-prediction"
    return field.OBJECTIVES.get(name, name)


def _finished(row: Json) -> Json:
    """With what follows from other values, numbers rounded, and without what is empty."""
    row["cost"] = row.get("gflops") or row.get("printed_gflops")
    if row["cost"] and row.get("images"):
        row["compute"] = 3e-3 * row["cost"] * row["images"]  # 3 · 10⁹ · 10⁶ in 10¹⁸
    # An address that compares rows names the same ones when others have come.
    name = "\n".join(str(row.get(part, "")) for part in ("group", "row", "from", "study", "fid", "cfg_scale"))
    row["id"] = hashlib.sha256(name.encode()).hexdigest()[:8]
    return {key: _rounded(value) for key, value in row.items() if value not in (None, "", {}, [])}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return {key: _rounded(each) for key, each in value.items()} if isinstance(value, dict) else value


def _family(line: Line) -> str:
    """As the field names it, which tells SiT from DiT; else the module that defines the network."""
    if line.row.model and line.row.model.startswith("sit-"):
        return "SiT"
    family = line.row.label.split("-")[0].lower()
    if line.row.model:
        module = registry.backbones.find(line.row.model).origin
        family = module.removesuffix(".py").rpartition(".")[2].replace("_", "-")
    names = {row.backbone.partition("-")[0]: row.family for row in field.rows() if row.backbone}
    return names.get(family.partition("-")[0], {"udit": "U-DiT"}.get(family, family))


def _budget(images: float | None) -> str:
    if images is None:
        return BUDGETS[-1]
    return next((name for border, name in _BORDERS.items() if images < border), BUDGETS[-2])


def _entry(url: str, texts: Sequence[str]) -> str:
    """A source in BibTeX; only what is known of it."""
    plain = escape("; ".join(texts).replace("{", "").replace("}", ""))  # BibTeX counts braces, escaped or not
    key = re.sub(r"\W+", "-", url.removeprefix("https://").removeprefix("arxiv.org/abs/"))
    arxiv = re.search(r"arxiv\.org/abs/(.+)", url)
    kept = [
        f"title = {{{'arXiv:' + arxiv[1] if arxiv else url.removeprefix('https://')}}}",
        f"url = {{{url}}}",
    ]
    if arxiv:
        kept += [f"eprint = {{{arxiv[1]}}}", "archivePrefix = {arXiv}"]
    kept.append(f"note = {{{plain}}}")
    return f"@misc{{{key},\n  " + ",\n  ".join(kept) + "\n}\n"
