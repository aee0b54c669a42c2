"""The field's board: published figures of every backbone beside those measured here, as rows of one table.

Rows of one group compare, and are ranked among themselves. `bench.studies.published.field` has what is
published of the field; Tables 1 to 6 of the U-DiT paper join it here.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.metrics.scores import MEASURED
from bench.records.quantities import COSTS
from bench.reports.leaderboard import Group, Standing, objective
from bench.reports.links import named_page, record_page, samples_file
from bench.reports.render import csv
from bench.reports.tables import spread
from bench.studies import published
from bench.studies.published import PublishedRow, field
from bench.studies.published.field import FieldRow
from bench.version import __version__

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
        number: whether it holds numbers.
        higher: whether more is better.
    """

    name: str
    title: str
    hint: str
    shown: bool = False
    number: bool = True
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
    family = Head("family", "Family", "Networks of one design.", True, False)
    kind = Head("kind", "Kind", "Who reports it. " + _listed(field.KINDS), True, False)
    return [
        Head("row", "Model", "Network. In brackets: who trained it, if not its authors.", True, False),
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
            False,
        ),
        Head(
            "gflops",
            "GFLOPs",
            "10⁹ multiply-accumulates of one forward pass, as papers count FLOPs. Counted here.",
            True,
        ),
        Head("printed_gflops", "(printed)", "GFLOPs as printed in the source.", True),
        Head("params", "Params (M)", "Parameters in millions, counted here.", True),
        Head("printed_params", "(printed)", "Parameters as printed in the source.", False, False),
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
        Head(
            "extra",
            "Also differs",
            "What differs besides the architecture. " + _listed(field.EXTRAS),
            False,
            False,
        ),
        Head(
            "other",
            "Other figures",
            "Other published FIDs of the same network under the same conditions.",
            False,
            False,
        ),
        Head("training_steps", "Steps", "Training length as printed.", False, False),
        Head("batch_size", "Batch", "Images a training step."),
        Head("guidance", "Guidance", "Classifier-free guidance unless said otherwise.", False, False),
        Head("cfg_scale", "Scale", "Guidance scale as printed.", False, False),
        Head("sampler", "Sampler", "Sampler and number of steps as printed.", False, False),
        Head("throughput", "Printed speed", "Speed as printed, with its device.", False, False),
        Head("seeds", "Seeds", "Number of trainings here."),
        Head(
            "checked",
            "Checked",
            "Whether the figure was compared with its source, and what could not be.",
            False,
            False,
        ),
        Head("remarks", "Remarks", "Other remarks.", False, False),
    ]


def _listed(known: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {text}" for name, text in known.items()) + "."


@dataclass(frozen=True)
class Board:
    """The rows, and what they are from.

    Attributes:
        rows: values by name of the column, without empty ones, and besides: `id`; `page` of the network or
            the record; `group`, its place `order`; `from` and `url`, the source; `texts` and `deviations`
            (over seeds) by score; `cost`, GFLOPs counted here or else printed; `speed_page`; `samples`.
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
        """Every row, with the names of the columns and of its group, and the source in full."""
        columns = ["group", *(head.name for head in heads()), "url"]
        rows = [{name: row.get(name, "") for name in columns} | {"source": row["from"]} for row in self.rows]
        return csv.frame(rows) if rows else ",".join(columns) + "\n"

    def bibtex(self) -> str:
        """An entry for each source."""
        return "\n".join(_entry(url, texts) for url, texts in self.sources.items())


def board(groups: Sequence[Group], pictures: set[str]) -> Board:
    """The board.

    Args:
        groups: see `bench.reports.leaderboard`; the published ones join the rows of the field.
        pictures: records that samples are kept of.
    """
    known: list[tuple[FieldRow, Standing | None]] = [(row, None) for row in field.rows()]
    places = {(row.group, row.fid): i for i, (row, _) in reversed([*enumerate(known)])}
    here = [group for group in groups if group.setting]
    for group in groups:
        for each in () if group.setting else group.standings:
            row = _of_the_paper(each)
            place = places.get((row.group, row.fid))
            if place is None:
                known.append((row, each))
            else:
                known[place] = (known[place][0], each)
    by_group: dict[str, list[tuple[FieldRow, Standing | None]]] = {}
    for row, standing in known:
        by_group.setdefault(row.title, []).append((row, standing))
    ordered = sorted(by_group.items(), key=lambda item: (-len(item[1]), item[0]))
    sources: dict[str, list[str]] = {}
    rows = [each for order, (_, found) in enumerate(ordered) for each in _published(found, order, sources)]
    rows += [each for i, group in enumerate(here) for each in _measured(group, len(ordered) + i, pictures)]
    return Board(rows, [title for title, _ in ordered] + [_words(group) for group in here], sources)


def _of_the_paper(standing: Standing) -> FieldRow:
    """A row of the published tables that this project began with, as a row of the field."""
    row = standing.line.row.published
    assert row is not None
    printed = {name: row.printed.get(name, "") for name in (*published.QUALITY, "gflops")}
    steps, batch = int(row.printed["training_steps"]), int(row.printed.get("batch_size") or 256)
    scale = float(row.printed["cfg_scale"])
    guidance = "unguided" if scale == 1 else "guided"
    return FieldRow.model_validate(
        dict.fromkeys(FieldRow.model_fields, "")
        | printed
        | {
            "row": row.label,
            "family": _family(standing),
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


_SAMPLERS = {"ddpm": "ddpm", "flow": "sde"}  # of the tables that this project began with


def _published(
    found: Sequence[tuple[FieldRow, Standing | None]], order: int, sources: dict[str, list[str]]
) -> Iterator[Json]:
    rows = [row for row, _ in found]
    ranks, others = field.ranks(rows), _conflicts()
    for (row, standing), rank in zip(found, ranks, strict=True):
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
        for name in ("sfid", "inception_score", "precision", "recall", "family", "kind", "extra", "row"):
            made[name] = getattr(row, name)
        for name in ("training_steps", "batch_size", "cfg_scale", "sampler", "throughput", "checked"):
            made[name] = getattr(row, name)
        made["remarks"] = "; ".join(
            filter(None, (row.duplicate and f"same run as {row.duplicate}", row.remarks))
        )
        cost = standing.network if standing else None
        if cost is not None:
            made |= {"gflops": cost.paper_gflops, "params": cost.parameters / 1e6}
        elif counted := row.counted:
            made |= {"gflops": counted.paper_gflops, "params": counted.parameters / 1e6}
        backbone = row.backbone or (standing.line.row.model if standing else None)
        if backbone:
            made |= {"backbone": backbone, "page": named_page("backbones", backbone)}
        if standing and standing.images_per_second is not None:
            made["speed"] = standing.images_per_second
            made["speed_page"] = record_page(standing.speed_record or "")
        yield _finished(made)


def _measured(group: Group, order: int, pictures: set[str]) -> Iterator[Json]:
    setting = group.setting
    assert setting is not None
    for standing in group.standings:
        line, files = standing.line, standing.line.files(setting)
        results = line.results(setting).values()
        protocol = next(iter(results)).request.training
        made: Json = {
            "row": line.label,
            "rank": standing.rank,
            "family": _family(standing),
            "kind": HERE,
            "extra": "none",
            "objective": objective(line),
            "guidance": "no guidance" if not group.guided else "guided",
            "cfg_scale": "" if setting.cfg_scale is None else f"{setting.cfg_scale:g}",
            "training_steps": str(protocol.steps),
            "batch_size": protocol.batch_size,
            "images": protocol.steps * protocol.batch_size / 1e6,
            "budget": _budget(protocol.steps * protocol.batch_size / 1e6),
            "seeds": len(files),
            "group": _words(group),
            "order": order,
            "page": record_page(files[0]),
            "from": f"record {files[0]}",
            "url": record_page(files[0]),
            "texts": {},
            "deviations": {},
            "study": standing.study,
            "samples": next((samples_file(file) for file in files if file in pictures), ""),
        }
        if standing.network:
            made |= {name: getattr(standing.network, COSTS[name].field) for name in ("gflops", "params")}
            made["params"] *= COSTS["params"].scale
        for name, quantity in MEASURED.items():
            if (found := line.score(setting, name)) is not None:
                made[name] = found.mean * quantity.scale
                made["texts"][name] = spread(quantity, found)
                if found.deviation:
                    made["deviations"][name] = found.deviation * quantity.scale
        yield _finished(made)


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


def _words(group: Group) -> str:
    return group.title.replace("Measured:", "Measured here:")


def _family(standing: Standing) -> str:
    """As the field names it, which tells SiT from DiT."""
    label = standing.line.label
    if label.startswith("SiT"):
        return "SiT"
    names = {row.backbone.partition("-")[0]: row.family for row in field.rows() if row.backbone}
    return names.get(
        standing.family.partition("-")[0], {"udit": "U-DiT"}.get(standing.family, standing.family)
    )


def _budget(images: float | None) -> str:
    if images is None:
        return BUDGETS[-1]
    return next((name for border, name in _BORDERS.items() if images < border), BUDGETS[-2])


@functools.cache
def _conflicts() -> Mapping[FieldRow, tuple[FieldRow, ...]]:
    rows = field.rows()
    return {rows[i]: others for i, others in field.conflicts(rows).items()}


def _entry(url: str, texts: Sequence[str]) -> str:
    """A source in BibTeX; only what is known of it."""
    plain = "; ".join(texts).replace("{", "").replace("}", "").replace("&", r"\&").replace("_", r"\_")
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
