"""Charts in Altair, for the site and as SVG: the numbers they show, and what a reader can choose in them.

A string "{{name}}" in a chart stands for a value of the chosen options: the site's script fills them in, a
picture has the first of each. The same numbers give the same picture, byte for byte, under one version of
vl-convert; it holds the numbers as JSON, so that it can be checked under any version.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from typing import Any, Literal, NamedTuple

import altair as alt

from bench.metrics.scores import MEASURED
from bench.records.quantities import BANDS, COSTS, HELD_OUT
from bench.records.schema import Cost, Quality, Record, Speed, SpeedRequest
from bench.reports.board import Board, heads
from bench.reports.leaderboard import Group
from bench.reports.links import record_page
from bench.reports.predictors import Agreement
from bench.reports.select import Line, Setting, published_conditions, settings, speed_words
from bench.reports.statistics import Summary, summary
from bench.reports.tables import quality_title
from bench.studies import published
from bench.studies.published.field import Curve

Json = dict[str, Any]

# At least 3.6:1 on white and 4.7:1 on the dark page, and black text is legible on all.
COLOURS = "#4a86c5 #dd5f4b #3a9356 #a5812a #a86bc2 #2a93a0 #d0609b #c2703a #6c8f2f #808080".split()
GREY = "#999999"
_BAR = 26  # pixels of a row
_SMALL = 0.03  # stages below this share in every bar are drawn as one
_AXIS = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 260}
# Of pictures; the site's script has the colours and sizes of its pages.
_CONFIG = {
    "font": "Liberation Sans, Arial, sans-serif",
    "background": "white",
    "view": {"stroke": None},
    "axis": {**_AXIS, "gridOpacity": 0.6, "labelOverlap": "greedy", "labelSeparation": 8},
    "legend": {"labelFontSize": 12, "labelLimit": 300, "symbolSize": 90, "symbolLimit": 0},
    "title": {"fontSize": 13, "fontWeight": "normal", "anchor": "middle"},
    "range": {"category": COLOURS},
}


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
        spec: a Vega-Lite specification without theme.
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
        return {"spec": self.spec, "choices": choices, "colours": COLOURS}

    def panel(self, width: int, **properties: Any) -> Json:
        """The specification as a picture has it.

        Args:
            width: of the plot, pixels.
            properties: besides it, such as `title`.
        """
        chosen = {key: value for options in self.choices.values() for key, value in options[0].values.items()}
        return _filled(self.spec, chosen) | {"width": width} | properties


def _filled(value: Any, chosen: Mapping[str, Any]) -> Any:
    """A specification with its places filled, but for the numbers it shows."""
    if isinstance(value, str):
        return re.sub(r"\{\{(\w+)\}\}", lambda place: str(chosen[place[1]]), value)
    if isinstance(value, list):
        return [_filled(each, chosen) for each in value]
    if isinstance(value, dict):
        return {key: each if key == "values" else _filled(each, chosen) for key, each in value.items()}
    return value


def _over(values: Sequence[Json]) -> Any:
    """An Altair chart of these numbers, without marks."""
    return alt.Chart(alt.Data(values=list(values)))


def spec(chart: Any) -> Json:
    """The specification of an Altair chart, whose theme is another matter."""
    return {key: value for key, value in chart.to_dict().items() if key not in ("$schema", "config")}


# ---- pictures ----


def svg(spec: Json) -> str:
    """A picture that holds the numbers it shows."""
    import vl_convert

    picture = vl_convert.vegalite_to_svg(spec, config=_CONFIG, allowed_base_urls=[])
    numbers = json.dumps([values for values in _numbers(spec) if values], ensure_ascii=False)
    made_by = f"vl-convert {version('vl-convert-python')}"
    told = html.escape(f"{made_by}: {numbers}", quote=False)
    return picture.replace(">", f"><metadata>{told}</metadata>", 1) + "\n"


def png(spec: Json) -> bytes:
    """A picture of twice as many pixels as the specification has."""
    import vl_convert

    return vl_convert.vegalite_to_png(spec, scale=2, config=_CONFIG, allowed_base_urls=[])


def described(picture: str) -> tuple[str, str]:
    """The program that drew a picture, with its version, and the numbers it shows; `""` where untold."""
    found = re.search("<metadata>(.*?): (.*?)</metadata>", picture, re.DOTALL)
    return (html.unescape(found[1]), html.unescape(found[2])) if found else ("", "")


def _numbers(spec: Any) -> Iterator[list[Json]]:
    """The data of a specification and of its parts."""
    if isinstance(spec, dict):
        for key, value in spec.items():
            if key == "values":
                yield value
            else:
                yield from _numbers(value)
    elif isinstance(spec, list):
        for each in spec:
            yield from _numbers(each)


def side_by_side(panels: Sequence[Json], columns: int = 2) -> Json:
    """Panels in lines, each with scales and a legend of its own."""
    apart = dict.fromkeys(("color", "shape", "stroke"), "independent")
    return {"concat": list(panels), "columns": columns, "resolve": {"scale": apart}, "spacing": 30}


# ---- what charts share ----


def _axis(channel: Any, field: str, title: str | None, *, log: bool = False, **properties: Any) -> Any:
    """An axis of numbers that need not begin at 0; with room beside the first and the last."""
    scale = alt.Scale(type="log", nice=False, padding=20) if log else alt.Scale(zero=False, padding=8)
    return channel(field=field, type="quantitative", title=title, scale=scale, **properties)


def _points(base: Any, field: str, tips: Sequence[alt.Tooltip] = (), **properties: Any) -> Any:
    """Points, with a colour and a shape for each value of a field in the order of the data, and a legend."""
    marks = base.mark_point(**{"size": 70, "filled": True, "opacity": 1} | properties)
    colour, shape = (
        channel(field=field, type="nominal", title=None, sort=None) for channel in (alt.Color, alt.Shape)
    )
    return marks.encode(color=colour, shape=shape, tooltip=[*tips])


def _stroke(field: str) -> alt.Stroke:
    """The colours of `_points` for lines: a legend that both had would have two entries for each value."""
    return alt.Stroke(field=field, type="nominal", sort=None, legend=None)


def _lines(base: Any, field: str, tips: Sequence[alt.Tooltip] = (), **properties: Any) -> Any:
    """A line with its points for each value of a field."""
    line = base.mark_line(strokeWidth=2, **properties).encode(stroke=_stroke(field))
    return alt.layer(line, _points(base, field, tips))


def _tips(*fields: str, **titled: str) -> list[alt.Tooltip]:
    """What is shown where one points at a mark: texts, then numbers by field with their titles."""
    texts = [alt.Tooltip(field=field, type="nominal") for field in fields]
    return texts + [
        alt.Tooltip(field=field, type="quantitative", title=title) for field, title in titled.items()
    ]


# ---- the board ----


# Of a label: the field that holds it, how it is aligned, how far it is from its point.
_SIDES: tuple[tuple[str, Literal["left", "right"], int], ...] = (("right", "left", 8), ("left", "right", -8))


def scatter(board: Board) -> Chart:
    """Any cost on one axis, any score on the other, with the Pareto front and noise; for the board's page.

    The page's script puts the rows in that the table shows, of one group, as the data `board`: each with its
    `colour`, the ends `low` and `high` of its bar, and its name as `right` or `left` where there is room.
    """
    costs = {
        "cost": ("GFLOPs", "GFLOPs (counted here, else printed)", 1),
        "params": ("Parameters", "Params (M)", 1),
        "compute": ("Training compute", "Training compute (EFLOPs)", 1),
        "images": ("Images seen", "Images seen (M)", 1),
        "speed": ("Measured speed", "Images/s, measured here", -1),
    }
    x_options = [
        Option(text, {"x": name, "x_title": title, "x_sign": sign})
        for name, (text, title, sign) in costs.items()
        if any(name in row for row in board.rows)
    ]
    y_options = [
        Option(head.title, {"y": head.name, "y_title": head.title, "y_sign": -1 if head.higher else 1})
        for head in heads()
        if head.name in MEASURED and any(head.name in row for row in board.rows)
    ]
    x, y, front, low = (
        _axis(channel, name, title, log=True, axis=alt.Axis(tickCount=6, format="~r"))
        for channel, name, title in (
            (alt.X, "{{x}}", "{{x_title}}"),
            *((alt.Y, name, "{{y_title}}") for name in ("{{y}}", "front", "low")),
        )
    )
    family = alt.selection_point(fields=["colour"], bind="legend", name="family")
    zoom = alt.selection_interval(bind="scales", name="zoom", zoom="wheel![event.shiftKey]")
    base = (
        alt.Chart(alt.NamedData("board"))
        .transform_calculate(cost_sign="{{x_sign}} * datum['{{x}}']", worse="{{y_sign}} * datum['{{y}}']")
        .transform_window(best="min(worse)", sort=[alt.SortField("cost_sign")], ignorePeers=False)
        .transform_calculate(front="{{y_sign}} * datum.best")
        .encode(x=x)
    )
    faded = alt.when(family).then(alt.value(1)).otherwise(alt.value(0.12))
    numbers = {"{{x}}": "{{x_title}}", "{{y}}": "{{y_title}}"}
    points = base.mark_point(size=70, strokeWidth=2, filled=False).encode(
        y=y,
        color=alt.Color("colour:N", title=None, sort=None, scale=alt.Scale(domain=families(board.rows))),
        shape=alt.Shape("colour:N", title=None, sort=None, scale=alt.Scale(domain=families(board.rows))),
        opacity=faded,
        href="page:N",
        description="row:N",
        tooltip=_tips("row", "family", "kind", "group", "from", **numbers),
    )
    bars = base.mark_rule(strokeWidth=1, color=GREY)
    texts = [
        base.mark_text(align=align, dx=dx, dy=-7, fontSize=11).encode(y=y, text=f"{side}:N", opacity=faded)
        for side, align, dx in _SIDES
    ]
    chart = alt.layer(
        base.mark_line(interpolate="step-after", color=GREY, strokeDash=[5, 4]).encode(
            y=front, order=alt.Order("cost_sign:Q")
        ),
        bars.encode(y=low, y2="high:Q", opacity=faded),
        points.add_params(family, zoom),
        *texts,
    ).properties(height=440)
    return Chart(
        "Cost against quality",
        spec(chart),
        {"Score": y_options, "Cost": x_options},
        "Rows that the table shows, of one group of conditions. Both axes are logarithmic. The dashed line "
        "is the Pareto front: nothing cheaper is better. Bars: one standard deviation between trainings of "
        "one network. Click a family in the legend to highlight it; drag to pan, Shift and wheel to zoom, "
        "double click to go back. A point opens its network or record.",
    )


def families(rows: Sequence[Json]) -> list[str]:
    """The families that have a colour of their own, those with the most rows; then the others."""
    counted = Counter(row["family"] for row in rows if row["extra"] == "none")
    return [*(name for name, _ in counted.most_common(len(COLOURS) - 1)), "other families"]


# ---- published training curves ----


def losses(curves: Sequence[Curve]) -> Chart:
    """Training loss over steps with its spread, for one kind of loss at a time."""
    values = [
        {
            "network": curve.name,
            "kind": curve.loss,
            "step": step,
            "loss": loss,
            "low": _number(loss - deviation),
            "high": _number(loss + deviation),
        }
        for curve in curves
        for step, loss, deviation in curve.points
    ]
    base = (
        _over(values)
        .transform_filter("datum.kind === '{{kind}}' && datum.step >= 1000")
        .encode(x=_axis(alt.X, "step", "Training step", log=True, axis=alt.Axis(tickCount=6, format="~s")))
    )
    band = base.mark_area(opacity=0.2).encode(
        y=_axis(alt.Y, "low", "Training loss"),
        y2="high:Q",
        fill=alt.Fill("network:N", sort=None, legend=None),
    )
    lines = _lines(base, "network", _tips("network", "step", loss="Loss")).encode(
        y=_axis(alt.Y, "loss", "Training loss")
    )
    kinds = [Option(kind, {"kind": kind}) for kind in dict.fromkeys(curve.loss for curve in curves)]
    text = (
        "Means of what was logged up to a step; the band is one standard deviation of the logged lines, each "
        "a mean over 100 steps. Losses of two kinds do not compare."
    )
    return Chart("Training loss", spec(alt.layer(band, lines).properties(height=420)), {"Loss": kinds}, text)


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
    base = _over(values).transform_filter("datum.score === '{{score}}'")
    base = base.encode(y=alt.Y("row:N", title=None, sort=alt.EncodingSortField("value", op="mean")))
    chart = alt.layer(
        base.mark_tick(thickness=2, size=18, color=COLOURS[1]).encode(
            x=_axis(alt.X, "value", "{{title}}", aggregate="mean")
        ),
        base.mark_circle(size=70, opacity=0.8, color=COLOURS[0]).encode(
            x=_axis(alt.X, "value", "{{title}}"),
            href="page:N",
            tooltip=_tips("row", "seed", value="{{title}}"),
        ),
    ).properties(height=_BAR * len({value["row"] for value in values}))
    text = "A dot is one training; the stroke is their mean."
    return Chart("Every seed", spec(chart), {"Score": options}, text)


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
    x, y = _axis(alt.X, "step", "Training step"), _axis(alt.Y, "value", "{{title}}")
    base = _over(values).transform_filter("datum.band === '{{band}}'").encode(x=x, y=y)
    return Chart(
        "Held-out loss during training",
        spec(_lines(base, "row", _tips("row", "step", "seeds", value="{{title}}"))),
        {"Noise": options},
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
    title = "Band of noise, from the least to the most"
    x = alt.X(field="band", type="ordinal", sort=order, title=title, axis=alt.Axis(labelAngle=-30))
    y = _axis(alt.Y, "value", "Loss above the rows' mean, %")
    tips = _tips("row", "band", loss="loss", value="% above the mean")
    chart = _lines(_over(values).encode(x=x, y=y), "row", tips)
    text = f"{len(BANDS)} bands of the signal-to-noise ratio; below 0 is better than the rows' mean."
    return Chart("Held-out loss by noise level", spec(chart), {}, text)


# ---- cost by stage ----


def cost_by_stage(costs: Mapping[str, Cost], shown: Sequence[str] = ("gflops", "params")) -> Chart | None:
    """Operations, parameters or memory of each stage, in order of execution; None without stages.

    Args:
        costs: by the label of their row.
        shown: that can be chosen; of a single network also the memory.
    """
    one = len(costs) == 1
    measures = {
        "gflops": lambda stage: stage.paper / 1e9,
        "params": lambda stage: (stage.parameters or 0) / 1e6,
        "memory": lambda stage: (stage.activation_bytes or 0) / 2**20,
    }
    values: list[Json] = []
    for name in (*shown, *(["memory"] if one else [])):
        found = {
            label: {stage.name: measures[name](stage) for stage in cost.stages}
            for label, cost in costs.items()
        }
        values += [{"measure": name, **each} for each in _stages(found, 0 if one else _SMALL)]
    if not values:
        return None
    options = [
        Option(COSTS[name].title, {"measure": name, "title": COSTS[name].title})
        for name in dict.fromkeys(value["measure"] for value in values)
    ]
    tips = _tips("row", "stage", value="{{title}}")
    base = _over(values).transform_filter("datum.measure === '{{measure}}'")
    if one:
        x = alt.X("stage:N", sort=None, title="Stage, in order of execution")
        y = alt.Y("value:Q", title="{{title}}")
        chart: Any = base.mark_bar(color=COLOURS[0]).encode(x=x, y=y, tooltip=tips)
        return Chart("Cost by stage", spec(chart), {"Cost": options}, "Memory: peak while the stage runs.")
    x = alt.X("sum(value):Q")
    total = base.mark_text(align="left", dx=5, fontSize=11).encode(
        x=x, y=_ROW, text=alt.Text("sum(value):Q", format=",.2f"), order=alt.value(0)
    )
    bars = _stacked(base, values, "{{title}} by stage, first to last", tips)
    chart = alt.layer(*bars, total).properties(height=_BAR * len(costs))
    text = f"From the first stage to the last; stages below {_SMALL:.0%} of every bar are drawn as one."
    return Chart("Cost by stage", spec(chart), {"Cost": options}, text)


def shares(found: Mapping[str, Mapping[str, float]], title: str) -> Json:
    """A panel with a bar for each label, of parts that sum to 1; small ones are drawn as one."""
    values = _stages(found, _SMALL)
    chart = alt.layer(*_stacked(_over(values), values, "Share")).properties(height=_BAR * len(found))
    return spec(chart) | {"title": title, "width": 760}


_OTHER = "other"
_ROW = alt.Y("row:N", sort=None, title=None)


def _stacked(base: Any, values: Sequence[Json], title: str, tips: Sequence[alt.Tooltip] = ()) -> list[Any]:
    """Bars of `_stages`, and the labels in them."""
    names = [name for name in dict.fromkeys(value["stage"] for value in values) if name != _OTHER]
    colours = [*(COLOURS[i % len(COLOURS)] for i in range(len(names))), GREY]
    base = base.encode(y=_ROW, order=alt.Order("order:Q"))
    x = alt.X("value:Q", title=title, stack="zero", axis=alt.Axis(tickCount=8))
    colour = alt.Color("stage:N", title=None, scale=alt.Scale(domain=[*names, _OTHER], range=colours))
    return [
        base.mark_bar(stroke="white", strokeWidth=0.8).encode(x=x, color=colour, tooltip=[*tips]),
        base.mark_text(fontSize=11, color="black").encode(x=x.copy().bandPosition(0.5), text="label:N"),
    ]


def _stages(found: Mapping[str, Mapping[str, float]], small: float) -> list[Json]:
    """The parts of each bar in order, small ones together at its end; with a label where there is room."""
    totals = {label: sum(parts.values()) for label, parts in found.items()}
    large = {
        name for label, parts in found.items() for name, part in parts.items() if part > small * totals[label]
    }
    values = []
    for label, parts in found.items():
        shown = {name: part for name, part in parts.items() if name in large}
        if rest := totals[label] - sum(shown.values()):
            shown[_OTHER] = rest
        for i, (name, part) in enumerate(shown.items()):
            fits = part > 0.013 * (len(name) + 1) * max(totals.values())
            told = {"label": name if fits else "", "value": _number(part)}
            values.append({"row": label, "stage": name, "order": i, **told})
    return values


# ---- what small protocols predict ----


def correlation_against_computing(found: Sequence[Agreement]) -> Chart | None:
    """Spearman's ρ of each predictor at each checkpoint against its computing; None where none is known.

    Costs, which take no computing, are horizontal lines.
    """
    finite = [each for each in found if math.isfinite(each.rho)]
    values = [
        {
            "protocol": each.protocol,
            "predictor": each.quantity.title.rstrip("↓↑"),
            "step": each.step,
            "minutes": _number(each.seconds / 60),
            "rho": _number(each.rho),
        }
        for each in finite
        if each.protocol
    ]
    if not values:
        return None
    baselines = [
        {"rho": _number(each.rho), "predictor": f"{each.quantity.title} alone"}
        for each in finite
        if not each.protocol
    ]
    x = alt.X("minutes:Q", title="Minutes of one core a row and seed", scale=alt.Scale(zero=True))
    y = alt.Y("rho:Q", title="Spearman's ρ with the published FID", scale=alt.Scale(domain=[-1, 1]))
    tips = _tips("predictor", "protocol", "step", minutes="core-minutes a row", rho="ρ")
    chosen = alt.FieldEqualPredicate(field="protocol", equal="{{protocol}}")
    alone = _over(baselines).encode(y=y)
    chart = alt.layer(
        alone.mark_rule(strokeDash=[5, 4], color=GREY),
        alone.mark_text(align="left", dx=4, dy=-6, fontSize=11).encode(x=alt.value(0), text="predictor:N"),
        _lines(_over(values).transform_filter(chosen).encode(x=x, y=y), "predictor", tips),
    )
    names = dict.fromkeys(value["protocol"] for value in values)
    options = [Option(str(name), {"protocol": name}) for name in names]
    title = "Rank correlation against computing"
    return Chart(title, spec(chart), {"Protocol": options}, "ρ = 1: the same order as published.")


def correlation_picture(chart: Chart) -> Json:
    """A panel for each protocol."""
    (options,) = chart.choices.values()
    return side_by_side(
        [
            Chart("", chart.spec, {"": [option]}).panel(400, height=330, title=f"protocol {option.text}")
            for option in options
        ]
    )


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
                "network": record.request.label,
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
    axis = alt.Axis(format="~r", tickCount=5)
    x = _axis(alt.X, "intensity", "FLOPs for each byte moved, log scale", log=True, axis=axis)
    roof, reached = (_axis(alt.Y, field, "GFLOP/s, log scale", log=True) for field in ("roof", "gflops"))
    base = _over(values).transform_filter(alt.FieldEqualPredicate(field="way", equal="{{way}}")).encode(x=x)
    tips = _tips("network", speed="images/s", gmacs="GMACs an image", gflops="GFLOP/s")
    chart = alt.layer(
        base.transform_filter("isValid(datum.roof)")
        .mark_line(color=COLOURS[1], strokeWidth=2)
        .encode(y=roof),
        base.transform_filter("isValid(datum.gflops)")
        .mark_point(filled=True, size=90, color=COLOURS[0], opacity=1)
        .encode(y=reached, href="page:N", tooltip=[*tips, alt.Tooltip("bound:N", title="bound by")]),
    )
    return Chart(
        "Speed under the roofline",
        spec(chart),
        {"Measured": options},
        "The line is what the device allows, by its memory on the left and its arithmetic on the right.",
    )


# ---- the paper's Figures 1 and 2, beside what is measured here ----


def fid_against_cost(groups: Sequence[Group]) -> Json:
    """Published FID against GFLOPs of networks trained alike, and a panel for each group measured here."""
    printed = [
        {
            "family": "U-DiT" if row.label.startswith("U-DiT") else "DiT",
            "label": row.label.rstrip("*"),
            **{key: float(row.printed[key]) for key in ("gflops", "fid")},
        }
        for row in published.rows(2)
        if row.source == "u-dit"
    ]
    x = _axis(alt.X, "gflops", "GFLOPs, log scale", log=True, axis=alt.Axis(format="~r"))
    y = _axis(alt.Y, "fid", _FID)
    base = _over(printed).encode(x=x, y=y)
    paper = alt.layer(
        _lines(base, "family", strokeDash=[5, 4]),
        base.mark_text(align="left", dx=7, dy=-7, fontSize=11).encode(text="label:N"),
    )
    panels = [spec(paper) | {"title": "Published: ImageNet 256×256, 400K steps, no guidance"}]
    for group in groups:
        points = [
            {"label": each.line.label, "gflops": _number(each.network.paper_gflops), **_spread(fid)}
            for each in group.standings
            if group.setting and each.network and (fid := each.line.score(group.setting, "fid"))
        ]
        if len(points) > 1 and not group.guided:
            here = _over(sorted(points, key=lambda point: point["gflops"])).encode(x=x)
            chart = alt.layer(_bars(here), _points(here.encode(y=y), "label"))
            panels.append(spec(chart) | {"title": f"{group.title}; cost as trained"})
    return _figure(panels)


def fid_against_steps(rows: Sequence[Line]) -> Json:
    """Published FID after so many steps (Table 4), and a panel for each setting measured here."""
    curves: dict[str, list[Json]] = {}
    for row in published.rows(4):
        point = {"label": row.label, "step": int(row.printed["training_steps"])}
        curves.setdefault(row.label, []).append(point | {"fid": float(row.printed["fid"])})
    ends = [points[0] for points in curves.values() if len(points) == 1]
    measured: dict[Setting, list[Json]] = {}
    for line in rows:
        for setting in settings([line]):
            if fid := line.score(setting, "fid"):
                request = next(iter(line.results(setting).values())).request
                point = {"label": request.model, "step": request.step, **_spread(fid)}
                measured.setdefault(setting, []).append(point)
    x = _axis(alt.X, "step", "Training steps", axis=alt.Axis(format="~s", tickCount=6))
    y = _axis(alt.Y, "fid", _FID)
    words = "datum.label + ' after ' + format(datum.step, '~s') + ' steps'"
    end = _over(ends).transform_calculate(text=words).encode(y=y)
    lines = _over([point for points in curves.values() if len(points) > 1 for point in points])
    paper = alt.layer(
        end.mark_rule(strokeDash=[2, 3], color=GREY),
        end.mark_text(align="right", dx=-4, dy=-7, fontSize=11).encode(x=alt.value("width"), text="text:N"),
        _lines(lines.encode(x=x, y=y), "label"),
    )
    panels = [spec(paper) | {"title": "Published: ImageNet 256×256, no guidance"}]
    for setting, points in measured.items():
        here = _over(points).encode(x=x)
        chart = alt.layer(_bars(here), _lines(here.encode(y=y), "label"))
        panels.append(spec(chart) | {"title": f"Here: {_name(setting, [*measured])}"})
    return _figure(panels)


_FID = "FID (lower is better)"


def _figure(panels: Sequence[Json]) -> Json:
    return side_by_side([panel | {"width": 440, "height": 340} for panel in panels])


def _spread(score: Summary) -> Json:
    """A mean, and the ends of its bar: one standard deviation to each side."""
    apart = score.deviation or 0
    ends = {"fid": score.mean, "low": score.mean - apart, "high": score.mean + apart}
    return {key: _number(value) for key, value in ends.items()}


def _bars(base: Any) -> Any:
    """A bar from `low` to `high` for each label."""
    return base.mark_rule(strokeWidth=1.5).encode(
        y=_axis(alt.Y, "low", _FID), y2="high", stroke=_stroke("label")
    )


def _name(setting: Setting, others: Sequence[Setting]) -> str:
    return quality_title(setting, others).removeprefix("Quality, ")


# ---- pages ----


def of_setting(rows: Sequence[Line], setting: Setting, root: str) -> list[Chart]:
    """Charts of what a study measured under one protocol, the one that says most first."""
    made = (held_out_curves(rows, setting), seeds(rows, setting, root), held_out_by_noise(rows, setting))
    return [chart for chart in made if chart]


def as_published(rows: Sequence[Line]) -> Chart | None:
    """Published FID against published cost, with the Pareto front; None of fewer than three rows."""
    values = [
        {
            "row": line.label,
            "family": "U-DiT" if "U-DiT" in line.label or "UNet" in line.label else line.label.split("-")[0],
            "gflops": float(row.printed["gflops"]),
            "fid": float(row.printed["fid"]),
        }
        for line in rows
        if (row := line.row.published) and row.printed.get("gflops") and row.printed.get("fid")
    ]
    if len(values) < 3 or any(published_conditions(rows)):
        return None
    base = (
        _over(values)
        .transform_window(best="min(fid)", sort=[alt.SortField("gflops")], ignorePeers=False)
        .encode(x=_axis(alt.X, "gflops", "GFLOPs, as published", log=True))
    )
    y = _axis(alt.Y, "fid", _FID, log=True)
    chart = alt.layer(
        base.mark_line(interpolate="step-after", color=GREY, strokeDash=[5, 4]).encode(
            y=_axis(alt.Y, "best", _FID, log=True), order=alt.Order("gflops:Q")
        ),
        _points(base, "family", _tips("row", gflops="GFLOPs", fid="FID")).encode(y=y),
        base.transform_filter("datum.best === datum.fid")
        .mark_text(align="left", dx=8, dy=-7, fontSize=11)
        .encode(y=y, text="row:N"),
    ).properties(height=340)
    text = "The dashed line is the Pareto front: nothing cheaper is better. Both axes are logarithmic."
    return Chart("Published FID against cost", spec(chart), {}, text)


def _number(value: float) -> float:
    """Six significant digits: the last ones of a mean may differ between machines."""
    return float(f"{value:.6g}")
