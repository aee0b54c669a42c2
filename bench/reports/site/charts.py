"""Charts as Vega-Lite specifications with the numbers they show, and what a reader can choose in them.

A string "{{name}}" in a specification stands for a value of the chosen options (`site.js`).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import registry
from bench.metrics.scores import MEASURED
from bench.records.quantities import BANDS, COSTS, HELD_OUT
from bench.records.schema import Cost, Quality, Record, Speed, SpeedRequest
from bench.reports.leaderboard import Group, Standing
from bench.reports.predictors import Agreement
from bench.reports.select import Line, Setting, settings, speed_words
from bench.reports.statistics import summary
from bench.reports.tables import quality_title

Json = dict[str, Any]


class Option(NamedTuple):
    """One choice: what the places of a specification are filled with."""

    text: str
    values: Json
    group: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: what it shows.
        spec: a Vega-Lite specification without size and theme.
        choices: label of a selection -> its options, the first of which is shown.
        text: how to read it, a sentence.
    """

    title: str
    spec: Json
    choices: Mapping[str, Sequence[Option]]
    text: str = ""

    def dump(self) -> Json:
        """As the page's script reads it."""
        choices = [
            {"label": label, "options": [option._asdict() for option in options]}
            for label, options in self.choices.items()
        ]
        return {"spec": {"data": {"values": []}, **self.spec}, "choices": choices}


_SCALES = [
    Option("log", {"scale": {"type": "log", "nice": False, "padding": 20}}),
    Option("linear", {"scale": {"type": "linear", "zero": False, "padding": 20}}),
]


def record_page(file: str) -> str:
    """Page of a record, from the site's root."""
    return f"records/{file.removesuffix('.json')}.html"


def named_page(folder: str, name: str) -> str:
    """Page of a study or a backbone, whatever characters its name has: no two names share one."""
    plain = re.sub(r"[^\w-]+", "-", name)
    if plain != name:
        plain += f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"{folder}/{plain}.html"


def samples_file(file: str) -> str:
    """Samples kept beside a record."""
    return str(PurePosixPath("samples") / file).removesuffix(".json") + ".png"


# ---- cost against quality ----


def cost_against_quality(groups: Sequence[Group], pictures: set[str], root: str = "") -> Chart | None:
    """Any cost on one axis, any score on the other, with the Pareto front; None where nothing has both.

    Args:
        groups: see `bench.reports.leaderboard`; scores of one are shown at a time.
        pictures: records that samples are kept of.
        root: path from the page to the site's root.
    """
    axes: dict[str, tuple[str, bool | None]] = {
        name: (COSTS[name].title, False) for name in ("gflops", "params", "memory")
    }
    axes |= {"speed": ("Images/s", True), "hours": ("Training hours of one network", False)}
    values: list[Json] = []
    options: list[Option] = []
    used: set[str] = set()
    for number, group in enumerate(groups):
        points = [_point(group, standing, pictures, root) | {"group": number} for standing in group.standings]
        values += points
        for name, quantity in MEASURED.items():
            known = [point for point in points if name in point and _used(point, axes)]
            if len(known) < 2:
                continue
            for point in known:
                used |= _used(point, axes)
            higher = bool(quantity.higher_is_better)
            scaled = {"y": name, "y_title": quantity.title, "best": "max" if higher else "min"}
            options.append(Option(quantity.title, {**scaled, "group": number}, group.title))
    if not options:
        return None
    costs = [
        Option(title, {"x": name, "x_title": title, "order": "descending" if higher else "ascending"})
        for name, (title, higher) in axes.items()
        if name in used
    ]
    tips = [
        {"field": "label", "title": "network"},
        {"field": "{{x}}", "title": "{{x_title}}", "type": "quantitative"},
        {"field": "{{y}}", "title": "{{y_title}}", "type": "quantitative"},
        {"field": "spread", "title": "all scores"},
        {"field": "source", "title": "from"},
        {"field": "image", "title": "image"},
    ]
    x = {
        "field": "{{x}}",
        "type": "quantitative",
        "title": "{{x_title}}",
        "scale": "{{scale}}",
        "axis": {"tickCount": 6, "format": "~r"},
    }
    y = {"field": "{{y}}", "type": "quantitative", "title": "{{y_title}}", "scale": {"zero": False}}
    spec = {
        "height": 420,
        "params": [{"name": "y_field", "value": "{{y}}"}],
        "data": {"values": values},
        "transform": [
            {"filter": {"field": "group", "equal": "{{group}}"}},
            {"filter": {"field": "{{x}}", "valid": True}},
            {"filter": {"field": "{{y}}", "valid": True}},
            {
                "window": [{"op": "{{best}}", "field": "{{y}}", "as": "front"}],
                "sort": [{"field": "{{x}}", "order": "{{order}}"}],
                "ignorePeers": False,
            },
        ],
        "layer": [
            {
                "mark": {"type": "line", "interpolate": "{{step}}", "color": "#888888", "strokeDash": [5, 4]},
                "encoding": {"x": x, "y": {**y, "field": "front"}},
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 9, "dy": -7, "fontSize": 11, "limit": 150},
                "transform": [{"filter": "datum.front === datum[y_field]"}],
                "encoding": {"x": x, "y": y, "text": {"field": "label"}},
            },
            {
                "mark": {
                    "type": "point",
                    "size": 110,
                    "strokeWidth": 2,
                    "filled": "{{filled}}",
                    "opacity": 1,
                },
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": {"field": "family", "type": "nominal", "title": None},
                    "shape": {"field": "family", "type": "nominal", "title": None},
                    "href": {"field": "page"},
                    "tooltip": tips,
                    "description": {"field": "label"},
                },
            },
        ],
    }
    for option in options:
        option.values["filled"] = groups[option.values["group"]].source != "published"
    for option in costs:
        option.values["step"] = "step-after" if option.values["order"] == "ascending" else "step-before"
    return Chart(
        "Cost against quality",
        spec,
        {"Score": options, "Cost": costs, "Scale of cost": _SCALES},
        "Hollow points are published, filled ones measured here. Cost is that of the network that has the "
        "score: published ones at their published size, measured ones as trained. The dashed line is the "
        "Pareto front: nothing on its cheaper side is better. A point opens its record or its network.",
    )


def _used(point: Json, axes: Iterable[str]) -> set[str]:
    """The costs that a point has."""
    return {name for name in axes if name in point}


def _point(group: Group, standing: Standing, pictures: set[str], root: str) -> Json:
    line = standing.line
    point: Json = {"label": line.label, "family": standing.family, "source": group.title, "image": ""}
    point["page"] = root + named_page("backbones", line.row.model) if line.row.model else ""
    for name in ("gflops", "params", "memory"):
        if (cost := getattr(standing.network, COSTS[name].field, None)) is not None:
            point[name] = _number(cost * COSTS[name].scale)
    if standing.images_per_second is not None:
        point["speed"] = _number(standing.images_per_second)
    if group.setting is None:
        assert line.row.published is not None
        printed = line.row.published.printed
        point |= {name: float(printed[name]) for name in MEASURED if printed.get(name)}
        point["source"] += f", {line.row.published.source}"
    else:
        files = line.files(group.setting)
        point["page"] = root + record_page(files[0])
        seconds = [result.seconds.train for result in line.results(group.setting).values()]
        point["hours"] = _number(sum(seconds) / len(seconds) / 3600)
        for name, quantity in MEASURED.items():
            if found := line.score(group.setting, name):
                point[name] = _number(found.mean * quantity.scale)
        point["image"] = next((root + samples_file(file) for file in files if file in pictures), "")
    point["spread"] = ", ".join(
        f"{q.heading} {q.text(point[name] / q.scale)}" for name, q in MEASURED.items() if name in point
    )
    return point


# ---- spread over seeds ----


def seeds(rows: Sequence[Line], setting: Setting, root: str) -> Chart | None:
    """Each seed's score as a dot, the means as strokes; None where no row has two seeds."""
    values: list[Json] = []
    options = []
    for name in dict.fromkeys((*setting.judges, *MEASURED)):  # by which rows are ranked, first
        quantity = MEASURED[name]
        found = [(line, by_seed) for line in rows if (by_seed := line.by_seed(setting, name))]
        if not any(len(by_seed) > 1 for _, by_seed in found):
            continue
        options.append(Option(quantity.title, {"score": name, "title": quantity.title}))
        for line, by_seed in found:
            files = {result.request.seed: file for file, result in _results(line, setting)}
            values += [
                {
                    "row": line.row.label,
                    "score": name,
                    "value": _number(value * quantity.scale),
                    "seed": seed,
                    "page": root + record_page(files[seed]),
                }
                for seed, value in by_seed.items()
            ]
    if not options:
        return None
    y = {"field": "row", "type": "nominal", "title": None, "sort": {"field": "value", "op": "mean"}}
    x = {"field": "value", "type": "quantitative", "title": "{{title}}", "scale": {"zero": False}}
    spec = {
        "height": 40 + 26 * len({value["row"] for value in values}),
        "data": {"values": values},
        "transform": [{"filter": {"field": "score", "equal": "{{score}}"}}],
        "layer": [
            {
                "mark": {"type": "tick", "thickness": 2, "size": 18, "color": "#ee6677"},
                "encoding": {"x": {**x, "aggregate": "mean"}, "y": y},
            },
            {
                "mark": {"type": "circle", "size": 70, "opacity": 0.8, "color": "#4477aa"},
                "encoding": {
                    "x": x,
                    "y": y,
                    "href": {"field": "page"},
                    "tooltip": [
                        {"field": "row"},
                        {"field": "seed"},
                        {"field": "value", "title": "{{title}}", "type": "quantitative"},
                    ],
                },
            },
        ],
    }
    return Chart("Every seed", spec, {"Score": options}, "A dot is one training; the stroke is their mean.")


def _results(line: Line, setting: Setting) -> list[tuple[str, Quality]]:
    return [(r.file, r.result) for r in line.quality.get(setting, []) if isinstance(r.result, Quality)]


# ---- held-out loss: over training, and by noise level ----


def held_out_curves(rows: Sequence[Line], setting: Setting) -> Chart | None:
    """Held-out loss at each checkpoint, whole or in a band; None where no training has two."""
    values: list[Json] = []
    for line in rows:
        by_step: dict[tuple[str, int], list[float]] = {}
        for _, result in _results(line, setting):
            for loss, name in product(result.held_out, HELD_OUT):
                if (value := loss.value(name)) is not None:
                    by_step.setdefault((name, loss.step), []).append(value)
        values += [
            {
                "row": line.row.label,
                "band": name,
                "step": step,
                "value": _number(sum(found) / len(found)),
                "seeds": len(found),
            }
            for (name, step), found in by_step.items()
        ]
    if len({value["step"] for value in values}) < 2:
        return None
    options = [
        Option(quantity.title, {"band": name, "title": quantity.title}) for name, quantity in HELD_OUT.items()
    ]
    spec = {
        "data": {"values": values},
        "transform": [{"filter": {"field": "band", "equal": "{{band}}"}}],
        "mark": {"type": "line", "point": {"size": 50}, "strokeWidth": 2},
        "encoding": {
            "x": {
                "field": "step",
                "type": "quantitative",
                "title": "Training step",
                "scale": {"zero": False},
            },
            "y": {
                "field": "value",
                "type": "quantitative",
                "title": "{{title}}",
                "scale": "{{scale}}",
            },
            "color": {"field": "row", "type": "nominal", "title": None, "sort": None},
            "shape": {"field": "row", "type": "nominal", "sort": None, "legend": None},
            "tooltip": [
                {"field": "row"},
                {"field": "step"},
                {"field": "value", "title": "{{title}}", "type": "quantitative"},
                {"field": "seeds"},
            ],
        },
    }
    return Chart(
        "Held-out loss during training",
        spec,
        {"Noise": options, "Scale": [*reversed(_SCALES)]},
        "Means over seeds, of averaged weights, on images that were not trained on.",
    )


def held_out_by_noise(rows: Sequence[Line], setting: Setting) -> Chart | None:
    """Held-out loss by band of noise beside the mean of the rows; None of fewer than two rows."""
    names = [name for name in HELD_OUT if name != "held_out"]
    means = {
        line.row.label: [summary([*line.by_seed(setting, name).values()]) for name in names] for line in rows
    }
    known = {label: [one.mean for one in found if one] for label, found in means.items() if all(found)}
    if len(known) < 2:
        return None
    middle = [sum(column) / len(column) for column in zip(*known.values(), strict=True)]
    order = [HELD_OUT[name].heading.rstrip("↓") for name in names]
    values = [
        {"row": label, "band": band, "value": _number(100 * (value / mean - 1)), "loss": _number(value)}
        for label, found in known.items()
        for band, value, mean in zip(order, found, middle, strict=True)
    ]
    spec = {
        "data": {"values": values},
        "mark": {"type": "line", "point": {"size": 50}, "strokeWidth": 2},
        "encoding": {
            "x": {
                "field": "band",
                "type": "ordinal",
                "sort": order,
                "title": "Band of noise, from the least to the most",
                "axis": {"labelAngle": -30},
            },
            "y": {"field": "value", "type": "quantitative", "title": "Loss above the rows' mean, %"},
            "color": {"field": "row", "type": "nominal", "title": None, "sort": None},
            "shape": {"field": "row", "type": "nominal", "sort": None, "legend": None},
            "tooltip": [
                {"field": "row"},
                {"field": "band"},
                {"field": "loss", "type": "quantitative"},
                {"field": "value", "title": "% above the mean", "type": "quantitative"},
            ],
        },
    }
    text = f"{len(BANDS)} bands of the signal-to-noise ratio; below 0 is better than the rows' mean."
    return Chart("Held-out loss by noise level", spec, {}, text)


# ---- cost by stage ----


def cost_by_stage(costs: Mapping[str, Cost]) -> Chart | None:
    """Operations, parameters or memory of each stage, in order of execution.

    Args:
        costs: by the label of their row.
    """
    values = [
        {
            "row": label,
            "stage": stage.name,
            "order": i,
            "gflops": _number(stage.paper / 1e9),
            "params": _number((stage.parameters or 0) / 1e6),
            "memory": _number((stage.activation_bytes or 0) / 2**20),
        }
        for label, cost in costs.items()
        for i, stage in enumerate(cost.stages)
    ]
    if not values:
        return None
    one = len(costs) == 1
    options = [
        Option(COSTS[name].title, {"part": name, "title": COSTS[name].title})
        for name in ("gflops", "params", *(["memory"] if one else []))
    ]
    tips = [
        {"field": "row", "title": "network"},
        {"field": "stage"},
        {"field": "{{part}}", "title": "{{title}}", "type": "quantitative"},
    ]
    amount = {"field": "{{part}}", "type": "quantitative", "title": "{{title}}"}
    if one:
        encoding: Json = {
            "x": {"field": "stage", "type": "nominal", "sort": None, "title": "Stage, in order of execution"},
            "y": amount,
            "tooltip": tips,
        }
        spec: Json = {"mark": {"type": "bar", "color": "#4477aa"}, "encoding": encoding}
    else:
        encoding = {
            "y": {"field": "row", "type": "nominal", "sort": None, "title": None},
            "x": amount,
            "order": {"field": "order"},
            "color": {
                "field": "order",
                "type": "quantitative",
                "scale": {"scheme": "viridis"},
                "legend": None,
            },
            "tooltip": tips,
        }
        spec = {
            "height": 40 + 26 * len(costs),
            "mark": {"type": "bar", "stroke": "#888888", "strokeWidth": 0.4},
            "encoding": encoding,
        }
    text = "From the first stage (dark) to the last." if not one else "Memory: peak while the stage runs."
    return Chart("Cost by stage", {"data": {"values": values}, **spec}, {"Cost": options}, text)


# ---- what small protocols predict ----


def correlation_against_computing(found: Sequence[Agreement]) -> Chart | None:
    """Spearman's ρ of each predictor at each checkpoint against its computing; None where none is known."""
    values = [
        {
            "protocol": each.protocol,
            "predictor": each.quantity.title.rstrip("↓↑"),
            "step": each.step,
            "minutes": _number(each.seconds / 60),
            "rho": _number(each.rho),
        }
        for each in found
        if each.protocol and math.isfinite(each.rho)
    ]
    if not values:
        return None
    tips = [{"field": name} for name in ("predictor", "protocol", "step")]
    tips += [
        {"field": "minutes", "title": "core-minutes a row", "type": "quantitative"},
        {"field": "rho", "title": "ρ", "type": "quantitative"},
    ]
    spec = {
        "data": {"values": values},
        "transform": [{"filter": {"field": "protocol", "equal": "{{protocol}}"}}],
        "mark": {"type": "line", "point": {"size": 60}, "strokeWidth": 2},
        "encoding": {
            "x": {
                "field": "minutes",
                "type": "quantitative",
                "title": "Minutes of one core a row and seed",
            },
            "y": {
                "field": "rho",
                "type": "quantitative",
                "title": "Spearman's ρ with the published FID",
                "scale": {"domain": [-1, 1]},
            },
            "color": {"field": "predictor", "type": "nominal", "title": None, "sort": None},
            "shape": {"field": "predictor", "type": "nominal", "sort": None, "legend": None},
            "tooltip": tips,
        },
    }
    names = dict.fromkeys(value["protocol"] for value in values)
    options = [Option(str(name), {"protocol": name}) for name in names]
    return Chart("Rank correlation against computing", spec, {"Protocol": options}, "1: the same order.")


# ---- speed under the roofline ----


def roofline(records: Sequence[Record], root: str) -> Chart | None:
    """FLOP/s reached against FLOPs for each byte moved, under what the device allows; None without records.

    Args:
        records: of speed; those measured in one way are shown together.
        root: path from the page to the site's root.
    """
    ways: dict[str, list[Record]] = {}
    for record in records:
        if isinstance(record.request, SpeedRequest):
            ways.setdefault(speed_words(record), []).append(record)
    values: list[Json] = []
    options = []
    for words, found in sorted(ways.items(), key=lambda way: -len(way[1])):
        options.append(Option(words, {"way": words}))
        results = [record.result for record in found if isinstance(record.result, Speed)]
        device = results[0].device
        intensities = [result.intensity for result in results]
        peak, bandwidth = device.peak_flops, device.bandwidth
        ridge = peak / bandwidth
        low, high = min(*intensities, ridge) / 2, max(*intensities, ridge) * 2
        values += [
            {
                "way": words,
                "intensity": _number(x),
                "roof": _number(min(x * device.bandwidth, device.peak_flops) / 1e9),
            }
            for x in (low, ridge, high)
        ]
        values += [
            {
                "way": words,
                "network": record_label(record),
                "intensity": _number(result.intensity),
                "gflops": _number(result.flops_per_second / 1e9),
                "gmacs": _number(result.macs / 1e9),
                "speed": _number(result.images_per_second),
                "bound": result.bound,
                "page": root + record_page(record.file),
            }
            for record, result in zip(found, results, strict=True)
        ]
    if not options:
        return None
    x = {
        "field": "intensity",
        "type": "quantitative",
        "title": "FLOPs for each byte moved, log scale",
        "scale": {"type": "log", "nice": False, "padding": 10},
        "axis": {"format": "~r", "tickCount": 5},
    }
    y = {
        "type": "quantitative",
        "title": "GFLOP/s, log scale",
        "scale": {"type": "log", "nice": False, "padding": 20},
    }
    spec = {
        "data": {"values": values},
        "transform": [{"filter": {"field": "way", "equal": "{{way}}"}}],
        "layer": [
            {
                "transform": [{"filter": {"field": "roof", "valid": True}}],
                "mark": {"type": "line", "color": "#ee6677", "strokeWidth": 2},
                "encoding": {"x": x, "y": {**y, "field": "roof"}},
            },
            {
                "transform": [{"filter": {"field": "gflops", "valid": True}}],
                "mark": {"type": "point", "filled": True, "size": 90, "color": "#4477aa", "opacity": 1},
                "encoding": {
                    "x": x,
                    "y": {**y, "field": "gflops"},
                    "href": {"field": "page"},
                    "tooltip": [
                        {"field": "network"},
                        {"field": "speed", "title": "images/s", "type": "quantitative"},
                        {"field": "gmacs", "title": "GMACs an image", "type": "quantitative"},
                        {"field": "gflops", "title": "GFLOP/s", "type": "quantitative"},
                        {"field": "bound", "title": "bound by"},
                    ],
                },
            },
        ],
    }
    return Chart(
        "Speed under the roofline",
        spec,
        {"Measured": options},
        "The line is what the device allows, by its memory on the left and its arithmetic on the right.",
    )


def record_label(record: Record) -> str:
    """A record's network, with what differs from its defaults."""
    return registry.label(record.request.model, record.request.config)


# ---- pages ----


def of_study(rows: Sequence[Line], root: str) -> list[Chart]:
    """Charts of a study's page, those of each setting told apart by its title."""
    made: list[Chart] = []
    every = settings(rows)
    for setting in every:
        for chart in (
            seeds(rows, setting, root),
            held_out_curves(rows, setting),
            held_out_by_noise(rows, setting),
        ):
            if chart:
                words = quality_title(setting, every).removeprefix("Quality, ")
                made.append(Chart(f"{chart.title} ({words})", chart.spec, chart.choices, chart.text))
    if costs := cost_by_stage({line.label: line.cost.cost for line in rows if line.cost}):
        made.append(costs)
    return made


def _number(value: float) -> float:
    """Six significant digits: the last ones of a mean may differ between machines."""
    return float(f"{value:.6g}")
