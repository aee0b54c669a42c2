"""Pictures of a report, as SVG that holds the numbers it shows.

The same numbers give the same file, byte for byte, under one version of matplotlib. Its description is
the numbers as JSON, so that a picture can be checked under any version.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import inspect
import io
import json
import math
import re
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.reports.predictors import Agreement
from bench.reports.select import Line, Setting, settings
from bench.studies import published
from bench.utils.cache import cache_folder
from bench.utils.files import write_text
from registry.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Paul Tol's "light" colours: told apart by colour-blind readers, and black text is legible on all.
COLOURS = ["#77AADD", "#EE8866", "#EEDD88", "#44BB99", "#FFAABB", "#99DDFF", "#BBCC33", "#AAAA00"]
_OTHER = "#DDDDDD"
KEPT = 30 * 86400  # seconds that a picture stays in the cache
_SMALL = 0.03  # stages below this share in every bar are drawn as one
_MARKERS = "os^Dv<>pPX*hdH8"

Data = dict[str, Any]


def svg(draw: Callable[[Figure, Data], None], data: Data, size: tuple[float, float]) -> str:
    """A picture of the data.

    Args:
        draw: draws it.
        data: all that is shown, as JSON can hold it.
        size: inches.
    """
    description = json.dumps(data, ensure_ascii=False)
    drawn = _drawn(draw, description, size)
    if drawn and drawn.is_file():
        return drawn.read_text(encoding="utf-8")
    import matplotlib.style
    from matplotlib.figure import Figure

    # Labels are text, in which a dollar begins no formula.
    ours = {"svg.hashsalt": "bench", "font.size": 10, "hatch.linewidth": 0.4, "text.parse_math": False}
    with matplotlib.style.context(["default", ours]):  # and not what the user's own settings say
        figure = Figure(figsize=size, layout="constrained")
        draw(figure, data)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Description": description})
    picture = out.getvalue().decode()
    if drawn:
        with contextlib.suppress(UsageError, OSError):
            write_text(drawn, picture)
            for old in drawn.parent.glob("*.svg"):
                if old.stat().st_mtime < time.time() - KEPT:
                    old.unlink()
    return picture


def _drawn(draw: Callable[[Figure, Data], None], description: str, size: tuple[float, float]) -> Path | None:
    """Where in the user's cache the picture is, if it was drawn before; None where there is no cache."""
    code = [Path(file).read_bytes() for file in (__file__, inspect.getfile(draw))]
    deciding = [description, str(size), draw.__name__, version("matplotlib")]
    key = hashlib.sha256(b"\0".join([*code, *map(str.encode, deciding)])).hexdigest()[:32]
    folder = cache_folder("pictures")
    return folder / f"{key}.svg" if folder else None


def described(picture: str) -> tuple[str, str]:
    """The program that drew a picture, with its version, and the numbers it shows; `""` where untold."""
    found = [
        re.search(rf"<dc:{tag}>(.*?)</dc:{tag}>", picture, re.DOTALL) for tag in ("creator", "description")
    ]
    creator, description = (re.sub(r"<[^>]*>", "", match[1]).strip() if match else "" for match in found)
    return creator, html.unescape(description)


# ---- FID against cost: the paper's Figure 1 ----


def fid_against_cost(studies: Mapping[str, Sequence[Line]]) -> Data:
    """Published FID against GFLOPs of networks trained alike, and the same of what is measured here."""
    families: dict[str, list[list[Any]]] = {}
    for row in published.rows(2):
        if row.source == "u-dit":
            family = "U-DiT" if row.label.startswith("U-DiT") else "DiT"
            label = row.label.rstrip("*")
            families.setdefault(family, []).append(
                [label, *(float(row.printed[k]) for k in ("gflops", "fid"))]
            )
    panels: dict[str, dict[str, list[Any]]] = {}
    seen: set[tuple[Setting, str]] = set()
    for study, line in ((study, line) for study, rows in sorted(studies.items()) for line in rows):
        variant = line.variant
        plain = not (line.row.cfg_scale or line.row.step or "steps" in (line.row.training or {}))
        for setting in settings([line]) if plain else []:
            fid, cost = line.score(setting, "fid"), line.trained_gflops(setting)
            if fid is not None and cost is not None and (setting, variant) not in seen:
                seen.add((setting, variant))
                # Labels of the paper tell a network; others do within their study.
                label = line.label if line.row.published else f"{line.label} ({study})"
                point = [cost, fid.mean, fid.deviation]
                panels.setdefault(_name(setting), {})[label] = _rounded(point)
    return {"published": families, "measured": panels}


def draw_fid_against_cost(figure: Figure, data: Data) -> None:
    """One panel of published points, and one for each setting in which quality was measured."""
    panels = [figure.add_subplot(1, 1 + len(data["measured"]), 1)]
    axes = panels[0]
    for (family, points), colour, marker in zip(data["published"].items(), COLOURS, "os", strict=False):
        points = sorted(points, key=lambda point: point[1])
        axes.plot(
            [p[1] for p in points], [p[2] for p in points], marker=marker, color=colour, label=family, ls="--"
        )
        for label, gflops, fid in points:
            axes.annotate(label, (gflops, fid), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.set_title("Published: ImageNet 256×256, 400K steps, no guidance", fontsize=10)
    axes.margins(x=0.14, y=0.1)
    axes.legend(frameon=False)
    for i, (setting, points) in enumerate(data["measured"].items(), 2):
        axes = figure.add_subplot(1, 1 + len(data["measured"]), i)
        panels.append(axes)
        for k, (name, (gflops, mean, deviation)) in enumerate(
            sorted(points.items(), key=lambda item: item[1])
        ):
            style: Any = {"color": COLOURS[k % len(COLOURS)], "marker": _MARKERS[k % len(_MARKERS)]}
            axes.errorbar(
                gflops, mean, deviation, label=name, capsize=3, markeredgecolor="0.3", ls="", **style
            )
        axes.set_title(f"Here: {setting}; cost as trained", fontsize=10)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    for axes in panels:
        _gflops_axis(axes)


def _gflops_axis(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 4 * low else MaxNLocator(6))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("GFLOPs, log scale")
    axes.set_ylabel("FID (lower is better)")
    axes.grid(alpha=0.3, which="both")


# ---- FID against training steps: Figure 2 ----


def fid_against_steps(rows: Sequence[Line]) -> Data:
    """Published FID after so many steps (Table 4), and measured after those of each row."""
    curves: dict[str, list[list[Any]]] = {}
    for row in published.rows(4):
        curves.setdefault(row.label, []).append(
            [int(row.printed["training_steps"]), float(row.printed["fid"])]
        )
    panels: dict[str, dict[str, list[Any]]] = {}
    for line in rows:
        for setting in settings([line]):
            fid = line.score(setting, "fid")
            if fid is not None:
                request = next(iter(line.results(setting).values())).request
                point = _rounded([request.step, fid.mean, fid.deviation])
                panels.setdefault(_name(setting), {}).setdefault(request.model, []).append(point)
    return {"published": curves, "measured": panels}


def draw_fid_against_steps(figure: Figure, data: Data) -> None:
    """One panel of published curves, and one for each setting in which quality was measured."""
    panels = [figure.add_subplot(1, 1 + len(data["measured"]), 1)]
    for (label, points), colour in zip(data["published"].items(), COLOURS[1:], strict=False):
        if len(points) == 1:
            ((steps, fid),) = points
            panels[0].axhline(fid, color="0.5", ls=":", label=f"{label} after {steps // 1_000_000}M steps")
        else:
            panels[0].plot(
                [p[0] / 1000 for p in points], [p[1] for p in points], marker="o", color=colour, label=label
            )
    panels[0].set_title("Published: ImageNet 256×256, no guidance", fontsize=10)
    panels[0].set_xlabel("Training steps, thousands")
    for i, (setting, curves) in enumerate(data["measured"].items(), 2):
        axes = figure.add_subplot(1, 1 + len(data["measured"]), i)
        panels.append(axes)
        for (model, points), colour in zip(sorted(curves.items()), COLOURS, strict=False):
            steps, means, deviations = zip(*sorted(points, key=lambda point: point[0]), strict=True)
            spread = [deviation or 0 for deviation in deviations]
            axes.errorbar(steps, means, spread, marker="o", capsize=3, color=colour, label=model)
        axes.set_title(f"Here: {setting}", fontsize=10)
        axes.set_xlabel("Training steps")
    for axes in panels:
        axes.set_ylabel("FID (lower is better)")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)


# ---- rank correlation against computing ----


def correlation_against_computing(found: Sequence[Agreement]) -> Data:
    """Spearman's ρ of each predictor at each checkpoint, by protocol; costs, which take none, apart."""
    panels: dict[str, dict[str, list[list[float | None]]]] = {}
    baselines = {}
    for each in found:
        if not math.isfinite(each.rho):
            continue
        title = each.quantity.title.rstrip("↓↑")
        if each.protocol:
            point = _rounded([each.seconds / 60, each.rho])
            panels.setdefault(each.protocol, {}).setdefault(title, []).append(point)
        else:
            baselines[title] = float(f"{each.rho:.6g}")
    return {"measured": panels, "baselines": baselines}


def draw_correlation_against_computing(figure: Figure, data: Data) -> None:
    """A panel for each protocol, two a line: curves over checkpoints, points for scores of samples."""
    first: Axes | None = None
    lines, columns = correlation_panels(data)
    for i, (protocol, curves) in enumerate(data["measured"].items(), 1):
        axes = figure.add_subplot(lines, columns, i, sharey=first)
        first = first or axes
        for k, (title, points) in enumerate(curves.items()):
            style: Any = {"color": COLOURS[k % len(COLOURS)], "marker": _MARKERS[k % len(_MARKERS)]}
            minutes, rho = zip(*sorted(points), strict=True)
            axes.plot(minutes, rho, label=title, markeredgecolor="0.3", linewidth=1.5, **style)
        for (title, value), dash in zip(data["baselines"].items(), ("--", ":"), strict=False):
            axes.axhline(value, color="0.4", ls=dash, label=f"{title} alone")
        axes.set_title(f"protocol {protocol}", fontsize=10)
        axes.set_xlabel("Minutes of one core a row and seed")
        axes.set_xlim(left=0)
        axes.set_ylim(-1.05, 1.05)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
        if i % columns == 1 or columns == 1:
            axes.set_ylabel("Spearman's ρ with the published FID")


def correlation_panels(data: Data) -> tuple[int, int]:
    """Lines and columns of that picture."""
    columns = min(len(data["measured"]), 2)
    return math.ceil(len(data["measured"]) / columns), columns


# ---- cost by stage ----


def cost_by_stage(rows: Sequence[Line]) -> Data:
    """GFLOPs in the paper's convention of each stage of each row, in order of execution."""
    return {
        line.label: {stage.name: round(stage.paper / 1e9, 6) for stage in line.cost.cost.stages}
        for line in rows
        if line.cost
    }


def draw_cost_by_stage(figure: Figure, data: Data) -> None:
    """A bar for each network, stacked from the first stage to the last; equal stages have one colour."""
    axes = figure.add_subplot()
    longest = max(sum(stages.values()) for stages in data.values())
    names: list[str] = []
    for stages in data.values():
        total = sum(stages.values())
        names += [name for name, cost in stages.items() if cost >= _SMALL * total and name not in names]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    hatches = {name: ("", "///", "\\\\\\")[min(i // len(COLOURS), 2)] for i, name in enumerate(names)}
    for i, stages in enumerate(data.values()):
        left = 0.0
        parts = {name: cost for name, cost in stages.items() if name in names}
        parts["other"] = sum(stages.values()) - sum(parts.values())
        for name, cost in parts.items():
            style: Any = {
                "color": colours.get(name, _OTHER),
                "hatch": hatches.get(name),
                "edgecolor": "white",
            }
            axes.barh(i, cost, left=left, height=0.72, linewidth=1, **style)
            if cost > 0.011 * (len(name) + 1) * longest:
                axes.text(left + cost / 2, i, name, ha="center", va="center", fontsize=8)
            left += cost
        axes.text(left + 0.008 * longest, i, f"{left:.2f}", va="center", fontsize=9)
    for name in (*names, "other"):
        axes.barh(
            0, 0, color=colours.get(name, _OTHER), hatch=hatches.get(name), edgecolor="white", label=name
        )
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.45 / len(data) - 0.08), ncols=9, frameon=False, fontsize=8
    )
    axes.set_yticks(range(len(data)), list(data))
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.08)
    axes.set_xlabel("GFLOPs of one forward pass by stage, first to last; other: stages below 3%")
    axes.spines[["top", "right"]].set_visible(False)


# ---- samples ----


def kept_samples(rows: Sequence[Line], protocol: str, results: Path) -> dict[str, str]:
    """Records with a picture beside them, by label: of the lowest seed that all measured rows have."""
    measured: dict[str, dict[int, str]] = {line.label: {} for line in rows}
    for line in rows:
        for setting in (setting for setting in settings([line]) if setting.protocol == protocol):
            for seed, result in line.results(setting).items():
                measured[line.label].setdefault(seed, result.request.file)
    seeds = [set(files) for files in measured.values() if files]
    common = set.intersection(*seeds) if seeds else set()
    if not common:
        return {}
    kept = {label: files[min(common)] for label, files in measured.items() if files}
    return {label: file for label, file in kept.items() if _picture(results, file).exists()}


def _picture(results: Path, file: str) -> Path:
    return (results / file).with_suffix(".png")


def samples(rows: Sequence[Line], protocol: str, results: Path) -> str | None:
    """The pictures kept beside records, line by line; see `kept_samples`.

    The same place in a line has the same class and noise, whatever the guidance. None where no picture is
    kept.
    """
    kept = {
        label: _picture(results, file).read_bytes()
        for label, file in kept_samples(rows, protocol, results).items()
    }
    if not kept:
        return None
    left, gap, drawn, below = 250, 8, [], 0
    for label, picture in kept.items():
        width, height = struct.unpack(">II", picture[16:24])  # of the PNG's header
        image = base64.b64encode(picture).decode()
        drawn.append(
            f'<text x="{left - 10}" y="{below + height // 2 + 5}" text-anchor="end">'
            f"{html.escape(label)}</text>"
            f'<image x="{left}" y="{below}" width="{width}" height="{height}" '
            f'href="data:image/png;base64,{image}"/>'
        )
        below += height + gap
    size = f'width="{left + width}" height="{below - gap}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="14">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _name(setting: Setting) -> str:
    return f"protocol {setting.protocol}, extractor {setting.extractor}"


def _rounded(numbers: Sequence[float | None]) -> list[float | None]:
    """Six significant digits: the last ones of a mean may differ between machines."""
    return [None if number is None else float(f"{number:.6g}") for number in numbers]
