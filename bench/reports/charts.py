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
from typing import Any, NamedTuple

import altair as alt

from bench.metrics.scores import MEASURED, SCORES
from bench.records.quantities import BANDS, COSTS, HELD_OUT
from bench.records.schema import Cost, Record, Speed, SpeedRequest
from bench.reports.board import Board, heads
from bench.reports.links import record_page
from bench.reports.predictors import AVERAGED, Agreement, choose
from bench.reports.select import Line, Setting, speed_words
from bench.reports.statistics import summary
from bench.studies.published import field
from bench.studies.published.field import Curve

Json = dict[str, Any]

# At least 3.6:1 on white and 4.7:1 on the dark page, and black text is legible on all.
COLOURS = "#4a86c5 #dd5f4b #3a9356 #a5812a #a86bc2 #2a93a0 #d0609b #808080".split()
GREY = "#999999"
MOST = len(COLOURS)  # series of a chart
_BAR = 26  # pixels of a row
_SMALL = 0.03  # stages below this share of every bar are added up
_AXIS = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 260}
_TICKS = [digit * 10.0**power for power in range(-3, 7) for digit in (1, 2, 5)]  # of logarithmic axes
# Of pictures; the site's script has the colours and sizes of its pages.
_CONFIG: Json = {
    "font": "Liberation Sans, Arial, sans-serif",
    "background": "white",
    "view": {"stroke": None},
    "axis": {**_AXIS, "gridOpacity": 0.6, "labelOverlap": "greedy", "labelSeparation": 8},
    "legend": {"labelFontSize": 12, "labelLimit": 300, "symbolSize": 90, "symbolLimit": 0},
    "title": {"fontSize": 13, "fontWeight": "normal", "anchor": "middle"},
    "range": {"category": COLOURS},
    "text": {"fontSize": 11},
}
# Of a figure for a paper: 480 pixels in a column of 3.25 inches, where letters of 14 pixels have 6.8 points.
_LETTER = 14
PAPER = _CONFIG | {
    "axis": {**_CONFIG["axis"], "labelFontSize": _LETTER, "titleFontSize": _LETTER},
    "legend": {
        "labelFontSize": _LETTER,
        "titleFontSize": _LETTER,
        "titleFontWeight": "normal",
        "orient": "bottom",
        "columns": 4,
        "symbolSize": 90,
        "symbolLimit": 0,
    },
    "text": {"fontSize": _LETTER - 1},
}


class Option(NamedTuple):
    """One choice: what the places of a specification are filled with."""

    text: str
    values: Json


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
    return {
        key: value for key, value in chart.to_dict(validate=False).items() if key not in ("$schema", "config")
    }


# ---- pictures ----


def svg(spec: Json, config: Json = _CONFIG) -> str:
    """A picture that holds the numbers it shows."""
    import vl_convert

    drawn = _with_names(vl_convert.vegalite_to_vega(spec, config=config))
    picture = vl_convert.vega_to_svg(drawn, allowed_base_urls=[])
    picture = re.sub('<text [^>]*(/>|opacity="0"[^>]*>[^<]*</text>)', "", picture)  # names without room
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


def _axis(
    channel: Any,
    field: str,
    title: str | None,
    *,
    log: bool = False,
    format: str | None = None,
    **properties: Any,
) -> Any:
    """An axis of numbers that need not begin at 0; with room beside the first and the last."""
    scale = alt.Scale(type="log", nice=False, padding=_PADDING) if log else alt.Scale(zero=False, padding=8)
    axis = alt.Axis(values=_TICKS, format=format or "~r") if log else alt.Axis(tickCount=6)
    return channel(field=field, type="quantitative", title=title, scale=scale, axis=axis, **properties)


def _points(base: Any, field: str, tips: Sequence[alt.Tooltip] = ()) -> Any:
    """Points, with a colour and a shape for each value of a field in the order of the data, and a legend."""
    marks = base.mark_point(size=70, filled=True, opacity=1)
    colour, shape = (
        channel(field=field, type="nominal", title=None, sort=None) for channel in (alt.Color, alt.Shape)
    )
    return marks.encode(color=colour, shape=shape, tooltip=[*tips])


def _stroke(field: str) -> alt.Stroke:
    """The colours of `_points` for lines: a legend that both had would have two entries for each value."""
    return alt.Stroke(field=field, type="nominal", sort=None, legend=None)


def _lines(base: Any, field: str, tips: Sequence[alt.Tooltip] = ()) -> Any:
    """A line with its points for each value of a field."""
    line = base.mark_line(strokeWidth=2).encode(stroke=_stroke(field))
    return alt.layer(line, _points(base, field, tips))


def _parts(labels: Sequence[str]) -> tuple[dict[str, str], dict[str, list[Option]]]:
    """Labels in parts of at most `MOST`, for a chart that shows one part at a time.

    Returns:
        label -> its part; and what is to be chosen, nothing where all labels are one part.
    """
    parts: dict[str, str] = {}
    for start in range(0, len(labels), MOST):
        end = min(start + MOST, len(labels))
        parts |= dict.fromkeys(labels[start:end], f"{start + 1} to {end}")
    options = [Option(part, {"part": part}) for part in dict.fromkeys(parts.values())]
    return parts, {"Rows, by loss": options} if len(options) > 1 else {}


def _of_part(base: Any, choices: Mapping[str, Any]) -> Any:
    """The rows of the chosen part."""
    return base.transform_filter("datum.part === '{{part}}'") if choices else base


def _tips(*fields: str, **titled: str) -> list[alt.Tooltip]:
    """What is shown where one points at a mark: texts, then numbers by field with their titles."""
    texts = [alt.Tooltip(field=field, type="nominal") for field in fields]
    return texts + [
        alt.Tooltip(field=field, type="quantitative", title=title) for field, title in titled.items()
    ]


# ---- the board ----


def scatter(rows: Sequence[Json], *, paper: bool = False) -> Chart:
    """Any cost on one axis, any score on the other, with the Pareto front and noise.

    Whoever draws it puts the rows of one group in as the data `board`: each with its `colour` and the ends
    `low` and `high` of its bar.

    Args:
        rows: of the board, whose costs, scores and families it has.
        paper: marks are as large as the cost, and nothing is to be clicked.
    """
    costs = {
        "cost": ("GFLOPs", "GFLOPs (counted here, else as published)", 1),
        "params": ("Parameters", "Params (M)", 1),
        "compute": ("Training compute", "Training compute (EFLOPs)", 1),
        "images": ("Images seen", "Images seen (M)", 1),
        "speed": ("Measured speed", "Images/s, measured here", -1),
    }
    x_options = [
        Option(text, {"x": name, "x_title": title, "x_sign": sign})
        for name, (text, title, sign) in costs.items()
        if any(name in row for row in rows)
    ]
    y_options = [
        Option(head.title, {"y": head.name, "y_title": head.title, "y_sign": -1 if head.higher else 1})
        for head in heads()
        if head.name in MEASURED and any(head.name in row for row in rows)
    ]
    x, y, front, low = (
        _axis(channel, name, title, log=True)
        for channel, name, title in (
            (alt.X, "{{x}}", "{{x_title}}"),
            *((alt.Y, name, "{{y_title}}") for name in ("{{y}}", "front", "low")),
        )
    )
    zoom = alt.selection_interval(bind="scales", name="zoom", zoom="wheel![event.shiftKey]")
    base = (
        alt.Chart(alt.NamedData("board"))
        .transform_calculate(cost_sign="{{x_sign}} * datum['{{x}}']", worse="{{y_sign}} * datum['{{y}}']")
        .transform_window(best="min(worse)", sort=[alt.SortField("cost_sign")], ignorePeers=False)
        .transform_calculate(front="{{y_sign}} * datum.best", named="datum.best === datum.worse ? 0 : 1")
        .transform_window(of_family="rank()", groupby=["colour"], sort=[alt.SortField("worse")])
        .transform_window(importance="row_number()", sort=[*map(alt.SortField, ("named", "of_family"))])
        .encode(x=x)
    )
    numbers = {"{{x}}": "{{x_title}}", "{{y}}": "{{y_title}}"}
    tips = _tips("row", "family", "kind", "group", "from", **numbers)
    family = alt.selection_point(fields=["colour"], bind="legend", name="family")
    faded = alt.when(family).then(alt.value(1)).otherwise(alt.value(0.12))
    bars = base.mark_rule(strokeWidth=1, color=GREY).encode(y=low, y2="high:Q", opacity=faded)
    chart = alt.layer(
        base.mark_line(interpolate="step-after", color=GREY, strokeDash=[5, 4]).encode(
            y=front, order=alt.Order("cost_sign:Q")
        ),
        bars,
        _networks(base, families(rows), _size(None) if paper else None)
        .encode(y=y, opacity=faded, tooltip=tips)
        .add_params(family, *([] if paper else [zoom])),
    ).properties(height=440, usermeta=_names("{{x}}", "{{y}}", len(rows) if paper else 18, paper=paper))
    return Chart(
        "Cost against quality",
        spec(chart),
        {"Score": y_options, "Cost": x_options},
        "The rows of the table that belong to one group of conditions. Both axes are logarithmic. Dashed "
        "line: Pareto front. Bars: one standard deviation between trainings of the same network. Click a "
        "family in the legend to highlight it, drag to pan, Shift and wheel to zoom, double-click to reset, "
        "click a point to open its network or record.",
    )


def _networks(base: Any, known: Sequence[str], size: alt.Size | None = None) -> Any:
    """A mark for each row of the board, in the colour and shape of its family.

    Args:
        known: families, in the order of the legend.
        size: of the marks, where it means something.
    """
    scale = alt.Scale(domain=list(known))
    marks = base.mark_point(size=70, strokeWidth=2, filled=False).encode(
        color=alt.Color("colour:N", title=None, sort=None, scale=scale),
        shape=alt.Shape("colour:N", title=None, sort=None, scale=scale),
        description="row:N",
    )
    marks = marks.encode(href="page:N") if size is None else marks.encode(size=size)
    return marks.properties(name=_NETWORKS)


_NETWORKS = "networks"  # the marks that have names


def _names(x: str, y: str, most: int, *, paper: bool = False) -> Json:
    """What `_with_names` adds to a chart: names beside marks where there is room, important ones first.

    Vega's transform `label` keeps names away from each other and from the points that it is given, which here
    have no text: eight about each mark.
    """
    longest = 20 if paper else 28
    far = ["left", "right", "top-right", "bottom-left"] if paper else []  # of large marks
    radius = f"sqrt({_SIZES[0][1]} + {_GROWTH} * datum.cost) / 2" if paper else "5"
    around = {"dx": (0, -1, 0, 1, -1, 1, -1, 0, 1), "dy": (0, -1, -1, -1, 0, 0, 1, 1, 1)}
    plain = r"replace(datum.row, regexp(' \\(as quoted.*\\)| authors\' run(?=\\))'), '')"
    formulas = {
        **{name: f"datum.{name} * {radius}" for name in around},
        "name": plain,
        "importance": f"datum.dx || datum.dy || length(datum.name) > {longest} ? 1000 : datum.importance",
        "text": f"datum.importance > {most} ? '' : datum.name",
    }
    place = {
        channel: {"scale": channel, "field": field, "offset": {"field": f"d{channel}"}}
        for channel, field in (("x", x), ("y", y))
    }
    label = {
        "type": "label",
        # Names follow a zoom, since the transform runs again when its size is set.
        "size": {"signal": "slice([width, height, domain('x'), domain('y')], 0, 2)"},
        "sort": {"field": "datum.importance"},
        "anchor": ["top-right", "bottom-left", "left", "right", "top-left", "bottom-right", *far],
        "offset": [7] * 6 + [16] * len(far),
    }
    return {
        "data": {
            "name": "names",
            "transform": [
                *({"type": "formula", "as": name, "expr": f"{[*each]}"} for name, each in around.items()),
                {"type": "flatten", "fields": [*around]},
                *({"type": "formula", "as": name, "expr": expr} for name, expr in formulas.items()),
            ],
        },
        "mark": {
            "type": "text",
            "from": {"data": "names"},
            "encode": {
                "update": {
                    **place,
                    "text": {"field": "text"},
                    "font": {"value": _CONFIG["font"] if paper else "system-ui, sans-serif"},
                    "fontSize": {"value": _LETTER - 1 if paper else 11},
                    "fill": {"value": "currentColor"},
                }
            },
            "transform": [label],
        },
    }


def _with_names(vega: Json) -> Json:
    """A compiled chart with the names of `_names`, if it has any; the page's script does likewise."""
    if names := vega.get("usermeta"):
        (marks,) = (mark for mark in vega["marks"] if mark["name"] == f"{_NETWORKS}_marks")
        vega["data"].append(names["data"] | {"source": marks["from"]["data"]})
        vega["marks"].append(names["mark"])
    return vega


def families(rows: Sequence[Json]) -> list[str]:
    """The families that have a colour of their own, those with the most rows; then the others, if any."""
    counted = Counter(row["family"] for row in rows if row["extra"] == "none")
    named = [name for name, _ in counted.most_common(MOST - 1 if len(counted) > MOST else MOST)]
    return named if len(counted) == len(named) else [*named, "other families"]


# ---- figures for a paper ----

_SIZES = ((0, 120), (20, 220))  # GFLOPs, and the pixels² of their marks
_GROWTH = (_SIZES[1][1] - _SIZES[0][1]) / _SIZES[1][0]
_WIDE, _HIGH = 400, 320  # pixels of a figure's plot
_PADDING = 20  # of logarithmic axes


def _conditions(row: Json) -> str:
    """A row's group, but for the length of the training."""
    return re.sub(r" [\d.]+M images,", "", row["group"])


def conditions(rows: Sequence[Json]) -> tuple[list[str], list[list[str]]]:
    """The conditions that all rows share, and those of each that differ; without the length of training."""
    every = [_conditions(row).split(", ") for row in rows]
    common = [word for word in (every or [[]])[0] if all(word in words for words in every)]
    return common, [[word for word in words if word not in common] for words in every]


def fid_against_cost(board: Board) -> Json:
    """Figure 1 of the U-DiT paper with all published networks: FID against GFLOPs under its conditions."""
    rows = [row for row in board.rows if row["group"] == board.groups[0] and "cost" in row]
    rows = [row for row in rows if row["extra"] == "none"]
    shown = _coloured(rows, families(rows))
    return scatter(rows, paper=True).panel(_WIDE, height=_HIGH, data={"name": "board", "values": shown})


def fid_against_steps(board: Board) -> Json:
    """Figure 2 of the U-DiT paper with all published networks: FID against training steps of batch 256.

    The conditions but for the steps are those of `fid_against_cost`; marks are as large as the cost.
    """
    rows = [
        row | {"step": int(row["training_steps"])}
        for row in board.rows
        if _conditions(row) == _conditions({"group": board.groups[0]})
        if row["extra"] == "none" and "cost" in row
        if row.get("batch_size") == 256 and row["training_steps"].isdigit()
    ]
    lengths: dict[str, set[int]] = {}
    for row in rows:
        lengths.setdefault(row["row"], set()).add(row["step"])
    curves = {name: max(steps) for name, steps in lengths.items() if len(steps) > 1}
    known = families([row for row in rows if row["group"] == board.groups[0]])  # as in Figure 1
    # A curve has its name at its end.
    shown = [
        row | {"named": int(row["step"] != curves.get(row["row"], row["step"]))}
        for row in _coloured(rows, known)
    ]
    ordered = [*map(alt.SortField, ("named", "fid"))]
    base = (
        _over(shown)
        .transform_window(importance="row_number()", sort=ordered)
        .encode(
            x=_axis(alt.X, "step", "Training steps", log=True, format="~s"),
            y=_axis(alt.Y, "fid", "FID↓", log=True),
        )
    )
    line = base.transform_filter(alt.FieldOneOfPredicate(field="row", oneOf=list(curves)))
    chart = alt.layer(
        line.mark_line(strokeWidth=1.5).encode(
            detail="row:N", color=alt.Color("colour:N", sort=None, scale=alt.Scale(domain=known))
        ),
        _networks(base, known, _size(alt.Legend(title="GFLOPs", values=[5, 20, 80]))),
    )
    names = _names("step", "fid", sum(not row["named"] for row in shown), paper=True)
    return spec(chart) | {"width": _WIDE, "height": _HIGH, "usermeta": names}


def _size(legend: alt.Legend | None) -> alt.Size:
    """Marks whose area grows with the cost."""
    domain, range_ = map(list, _SIZES)
    return alt.Size("cost:Q", scale=alt.Scale(type="linear", domain=domain, range=range_), legend=legend)


def _coloured(rows: Sequence[Json], known: Sequence[str]) -> list[Json]:
    """Rows as the page's script makes them, with what the figures show of each.

    Args:
        known: families that have a colour of their own.
    """
    share = math.exp(field.noise())
    kept = ("row", "family", "fid", "cost", "step", "kind", "from")
    return [
        {name: row[name] for name in kept if name in row}
        | {
            "colour": row["family"] if row["family"] in known else known[-1],
            "low": _number(row["fid"] / share),
            "high": _number(row["fid"] * share),
        }
        for row in rows
    ]


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
        .encode(x=_axis(alt.X, "step", "Training step", log=True, format="~s"))
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
        "Mean of the logged training loss at each step. Band: one standard deviation of the logged lines, "
        "each a mean over 100 steps. The two kinds of loss are not comparable."
    )
    return Chart("Training loss", spec(alt.layer(band, lines).properties(height=420)), {"Loss": kinds}, text)


# ---- spread over seeds ----


def seeds(rows: Sequence[Line], setting: Setting, root: str | None) -> Chart | None:
    """Each seed's score as a dot, the means as strokes; None where no row has two seeds.

    Args:
        root: path from the page to the site's root, whose records dots open; None: they open nothing.
    """
    values: list[Json] = []
    options = []
    for name in dict.fromkeys((*setting.judges, *MEASURED)):  # by which rows are ranked, first
        quantity = MEASURED[name]
        found = [(line, by_seed) for line in rows if (by_seed := line.by_seed(setting, name))]
        if not any(len(by_seed) > 1 for _, by_seed in found):
            continue
        band = name in HELD_OUT and name != "held_out"
        title = f"Held-out loss at {quantity.title}" if band else quantity.title
        options.append(Option(title, {"score": name, "title": title}))
        for line, by_seed in found:
            results = line.results(setting)
            values += [
                {
                    "row": line.row.label,
                    "score": name,
                    "value": _number(value * quantity.scale),
                    "seed": seed,
                    **({} if root is None else {"page": root + record_page(results[seed].request.file)}),
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
            **({} if root is None else {"href": "page:N"}),
            tooltip=_tips("row", "seed", value="{{title}}"),
        ),
    ).properties(height=_BAR * len({value["row"] for value in values}))
    text = "Dots: one training each. Strokes: means."
    return Chart("Scores by seed", spec(chart), {"Score": options}, text)


# ---- held-out loss: over training, and by noise level ----


def held_out_curves(rows: Sequence[Line], setting: Setting) -> Chart | None:
    """Held-out loss at each checkpoint, whole or in a band; None where no training has two."""
    values: list[Json] = [
        {"row": line.row.label, **each} for line in rows for each in _held_out(line, setting)
    ]
    if len({value["step"] for value in values}) < 2:
        return None
    last = {value["row"]: value["value"] for value in values if value["band"] == "held_out"}
    parts, rest = _parts(sorted(last, key=last.__getitem__))
    values = [{**value, "part": parts[value["row"]]} for value in values] if rest else values
    options = [
        Option(quantity.title, {"band": name, "title": quantity.title}) for name, quantity in HELD_OUT.items()
    ]
    x, y = _axis(alt.X, "step", "Training step"), _axis(alt.Y, "value", "{{title}}")
    base = _of_part(_over(values).transform_filter("datum.band === '{{band}}'"), rest).encode(x=x, y=y)
    return Chart(
        "Held-out loss during training",
        spec(_lines(base, "row", _tips("row", "step", "seeds", value="{{title}}"))),
        {"Noise level": options, **rest},
        "Means over seeds, with averaged weights, on images that were not trained on.",
    )


def _held_out(line: Line, setting: Setting) -> list[Json]:
    """A row's losses at each checkpoint, whole and by band, as means over seeds."""
    by_step: dict[tuple[str, int], list[float]] = {}
    for result in line.results(setting).values():
        for loss, name in product(result.held_out, HELD_OUT):
            if (value := loss.value(name)) is not None:
                by_step.setdefault((name, loss.step), []).append(value)
    return [
        {"band": name, "step": step, "value": _number(sum(found) / len(found)), "seeds": len(found)}
        for (name, step), found in by_step.items()
    ]


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
    values: list[Json] = [
        {"row": label, "band": band, "value": _number(100 * (value / mean - 1)), "loss": _number(value)}
        for label, found in known.items()
        for band, value, mean in zip(order, found, middle, strict=True)
    ]
    whole = {label: sum(found) for label, found in known.items()}
    parts, rest = _parts(sorted(whole, key=whole.__getitem__))
    values = [{**value, "part": parts[value["row"]]} for value in values] if rest else values
    title = "Noise level, from low to high"
    x = alt.X(field="band", type="ordinal", sort=order, title=title, axis=alt.Axis(labelAngle=-30))
    y = _axis(alt.Y, "value", "Difference from the rows' mean (%)")
    tips = _tips("row", "band", loss="loss", value="% above the mean")
    chart = _lines(_of_part(_over(values), rest).encode(x=x, y=y), "row", tips)
    text = f"{len(BANDS)} bands of the signal-to-noise ratio. Below 0: better than the mean of all rows."
    return Chart("Held-out loss by noise level", spec(chart), rest, text)


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
        values += [
            {"measure": name, **each} for each in _stages(found, *((None, 0) if one else (MOST - 1, _SMALL)))
        ]
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
    bars = _stacked(base, values, "{{title}} by stage, in order of execution", tips)
    chart = alt.layer(*bars, total).properties(height=_BAR * len(costs))
    text = "Stages in order of execution; the smaller ones are added up as “other”."
    return Chart("Cost by stage", spec(chart), {"Cost": options}, text)


def shares(found: Mapping[str, Mapping[str, float]], title: str) -> Json:
    """A panel with a bar for each label, of parts that sum to 1; small ones are added up."""
    values = _stages(found, MOST - 1, _SMALL)
    chart = alt.layer(*_stacked(_over(values), values, "Share")).properties(height=_BAR * len(found))
    return spec(chart) | {"title": title, "width": 760}


_OTHER = "other"
_ROW = alt.Y("row:N", sort=None, title=None)


def _stacked(base: Any, values: Sequence[Json], title: str, tips: Sequence[alt.Tooltip] = ()) -> list[Any]:
    """Bars of `_stages`, and the labels in them."""
    names = [name for name in dict.fromkeys(value["stage"] for value in values) if name != _OTHER]
    colours = [*COLOURS[: len(names)], GREY]
    base = base.encode(y=_ROW, order=alt.Order("order:Q"))
    x = alt.X("value:Q", title=title, stack="zero", axis=alt.Axis(tickCount=8))
    colour = alt.Color("stage:N", title=None, scale=alt.Scale(domain=[*names, _OTHER], range=colours))
    return [
        base.mark_bar(stroke="white", strokeWidth=0.8).encode(x=x, color=colour, tooltip=[*tips]),
        base.mark_text(fontSize=11, color="black").encode(x=x.copy().bandPosition(0.5), text="label:N"),
    ]


def _stages(found: Mapping[str, Mapping[str, float]], most: int | None, small: float) -> list[Json]:
    """The parts of each bar in order, with a label where there is room.

    Args:
        most: parts that are shown, those with the largest share of a bar; the others are added up at its end.
        small: share of a bar that a part must exceed.
    """
    totals = {label: sum(parts.values()) for label, parts in found.items()}
    share: dict[str, float] = {}
    for label, parts in found.items():
        for name, part in parts.items():
            share[name] = max(share.get(name, 0.0), part / (totals[label] or 1.0))
    large = {name for name in sorted(share, key=lambda name: -share[name])[:most] if share[name] > small}
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
            "part": _kind(each.predictor),
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
    x = alt.X("minutes:Q", title="Core-minutes per row and seed", scale=alt.Scale(zero=True))
    y = alt.Y("rho:Q", title="Spearman's ρ with the published FID", scale=alt.Scale(domain=[-1, 1]))
    tips = _tips("predictor", "protocol", "step", minutes="core-minutes per row", rho="ρ")
    chosen = alt.FieldEqualPredicate(field="protocol", equal="{{protocol}}")
    part = alt.FieldEqualPredicate(field="part", equal="{{part}}")
    alone = _over(baselines).encode(y=y)
    chart = alt.layer(
        alone.mark_rule(strokeDash=[5, 4], color=GREY),
        alone.mark_text(align="left", dx=4, dy=-6, fontSize=11).encode(x=alt.value(0), text="predictor:N"),
        _lines(
            _over(values).transform_filter(chosen).transform_filter(part).encode(x=x, y=y), "predictor", tips
        ),
    )
    choice = choose([finite])
    best = choice and choice.best.protocol
    pairs = dict.fromkeys((value["protocol"], value["part"]) for value in values)
    options = [
        Option(f"{name}: {kind}", {"protocol": name, "part": kind})
        for name, kind in sorted(pairs, key=lambda pair: pair[0] != best)
    ]
    title = "Rank correlation against computing"
    return Chart(title, spec(chart), {"Protocol": options}, "ρ = 1: the same order as published.")


def _kind(predictor: str) -> str:
    """Predictors that are shown together."""
    if predictor in HELD_OUT or predictor == AVERAGED.name:
        return "held-out loss"
    return "scores of samples" if predictor in SCORES else "training loss and standardised bands"


def correlation_picture(chart: Chart) -> Json:
    """A panel for each protocol, of the predictors that its first choice has."""
    (options,) = chart.choices.values()
    first = {option.values["protocol"]: option for option in reversed(options)}
    return side_by_side(
        [
            Chart("", chart.spec, {"": [option]}).panel(400, height=330, title=option.text)
            for option in reversed(first.values())
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
    x = _axis(alt.X, "intensity", "FLOPs for each byte moved, log scale", log=True)
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
        "Line: upper bound of the device, set by its memory bandwidth on the left and by its arithmetic on "
        "the right.",
    )


def _number(value: float) -> float:
    """Six significant digits: the last ones of a mean may differ between machines."""
    return float(f"{value:.6g}")
