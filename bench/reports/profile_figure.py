"""Profiles in words and as a picture: time beside multiply-accumulates. Nothing here imports torch."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import registry
from bench.records.schema import DEPTHWISE, IDLE, Profile, Share
from bench.utils.files import write_bytes, write_text

if TYPE_CHECKING:
    import altair as alt

VISIBLE = 0.02  # a smaller excess of time over work is none
OTHER_PARTS = "other parts"
_SMALL = 0.03  # parts below this share in every bar are drawn as one


# ---- in words ----


def title(profile: Profile) -> str:
    """The network with what differs from its defaults."""
    return registry.label(profile.request.model, profile.request.config)


def conditions(profile: Profile) -> str:
    """Device, threads on a CPU, batch and dtype."""
    request = profile.request
    threads = "" if profile.threads is None else f", {profile.threads} threads"
    return f"{request.device_name}{threads}, batch {request.batch_size}, {request.dtype}"


def finding(profile: Profile) -> str:
    """The stage, and the operator, whose share of time is farthest above that of its work."""
    first, second = "No stage takes more than its share of the time", "none does"
    if stage := slowest(profile.stages):
        first = (
            f"{stage.name} takes {stage.time_share:.0%} of the time for {stage.macs_share:.0%} of the "
            "multiply-accumulates"
        )
    if operator := slowest(profile.operators):
        second = f"{operator.name} takes {operator.time_share:.0%} for {operator.macs_share:.0%}"
    text = f"{first}; of the operators, {second}."
    if profile.idle >= VISIBLE:
        text += f" The GPU is idle for {profile.idle:.0%} of the time, until the next operator is launched."
    return text


def floor(profile: Profile) -> str:
    """What the depthwise convolutions take in the network, and how little they could; `""` without any."""
    alone = profile.depthwise
    if alone is None:
        return ""
    text = f"Depthwise convolutions ({alone.count}): "
    for row in profile.operators:
        if row.name == DEPTHWISE:
            text += f"{row.time_share:.1%} of the time for {row.macs_share:.1%} of the multiply-accumulates; "
    return text + (
        f"alone, in {alone.memory_format} memory, they take {alone.seconds * 1e3:.2f} ms "
        f"({alone.seconds / profile.operator_seconds:.1%}); a copy moves their bytes in "
        f"{alone.copy_seconds * 1e3:.2f} ms."
    )


def slowest(rows: Sequence[Share]) -> Share | None:
    """The part whose share of time is farthest above that of its work, if that can be seen at all."""
    row = max((row for row in rows if row.name != IDLE), key=lambda row: row.excess)
    return row if row.excess >= VISIBLE else None


# ---- the picture ----


def draw(profiles: Sequence[Profile], folder: str | Path) -> list[Path]:
    """Draw profiles side by side, two stacked bars each, into `profile-<names>.png` and `.svg`.

    The same profiles give the same files, byte for byte.

    Raises:
        UsageError: the folder cannot be made or written to.
    """
    from bench.reports import charts

    panels = [
        _bars("By stage", [(title(p), p.stages) for p in profiles]),
        _bars("By operator", [(title(p), p.operators) for p in profiles]),
    ]
    told = [f"{title(p)} ({p.seconds * 1e3:,.1f} ms): {finding(p)}" for p in profiles]
    heading = {
        "text": f"Share of time beside share of multiply-accumulates: {conditions(profiles[0])}",
        "subtitle": [line for text in told for line in textwrap.wrap(text, 80 + 60 * len(profiles))],
        "anchor": "start",
        "offset": 12,
    }
    spec = charts.side_by_side(panels) | {"title": heading}
    name = "profile-" + "-".join(re.sub(r"[^\w.-]+", "-", title(p)) for p in profiles)
    png, svg = Path(folder) / f"{name}.png", Path(folder) / f"{name}.svg"
    write_bytes(png, charts.png(spec))
    write_text(svg, charts.svg(spec))
    return [png, svg]


def _bars(heading: str, networks: list[tuple[str, Sequence[Share]]]) -> dict[str, Any]:
    """For each network a bar of time and one of multiply-accumulates, equal parts joined by lines."""
    import altair as alt

    from bench.reports.charts import COLOURS, GREY, spec

    names = _drawn([rows for _, rows in networks])
    parts: list[dict[str, Any]] = []
    joins: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    for i, (network, rows) in enumerate(networks):
        left, worst = 2.6 * i, slowest(rows)
        time = work = 0.0
        for name, (took, done) in _shares(rows, names).items():
            for x, start, share in ((left, time, took), (left + 1.2, work, done)):
                parts.append({"part": name, "x": x, "x2": x + 0.84, "y": start, "y2": start + share})
                if share >= 0.022:
                    text = f"{name.replace('convolution', 'conv')} {share:.0%}"
                    bold = worst is not None and name == worst.name
                    texts.append({"x": x + 0.42, "y": start + share / 2, "text": text, "bold": bold})
            time, work = time + took, work + done
            joins.append({"x": left + 0.84, "x2": left + 1.2, "y": time, "y2": work})
        for x, y, text in ((0.42, 1.03, "time"), (1.62, 1.03, "MACs"), (1.02, -0.03, network)):
            texts.append({"x": left + x, "y": y, "text": text, "bold": text == network})

    def over(values: list[dict[str, Any]]) -> alt.Chart:
        x = alt.X("x:Q", scale=alt.Scale(domain=[0, 2.6 * len(networks) - 0.5], nice=False), axis=None)
        y = alt.Y("y:Q", scale=alt.Scale(domain=[1.05, -0.05], nice=False), axis=None)
        return alt.Chart(alt.Data(values=values)).encode(x=x, y=y)

    colours = [*(COLOURS[i % len(COLOURS)] for i in range(len(names))), GREY]
    legend = alt.Legend(orient="bottom", columns=3, title=None)
    scale = alt.Scale(domain=[*names, OTHER_PARTS], range=colours)
    rectangles = over(parts).mark_rect(stroke="white", strokeWidth=1)
    chart = alt.layer(
        rectangles.encode(x2="x2", y2="y2", color=alt.Color("part:N", scale=scale, legend=legend)),
        over(joins).mark_rule(color=GREY, strokeWidth=0.8).encode(x2="x2", y2="y2"),
        *(
            over([text for text in texts if text["bold"] == bold])
            .mark_text(fontSize=11, fontWeight="bold" if bold else "normal")
            .encode(text="text:N")
            for bold in (False, True)
        ),
    )
    return spec(chart) | {"title": heading, "width": 300 * len(networks), "height": 560}


def _drawn(networks: list[Sequence[Share]]) -> list[str]:
    """Names of the rows that are large enough to be drawn by themselves, in the order of the rows."""
    return [
        name
        for name in dict.fromkeys(row.name for rows in networks for row in rows)
        if any(max(r.time_share, r.macs_share) >= _SMALL for rows in networks for r in rows if r.name == name)
    ]


def _shares(rows: Sequence[Share], names: list[str]) -> dict[str, tuple[float, float]]:
    """Shares of time and of multiply-accumulates of the named rows, and of the others together."""
    shares = {row.name: (row.time_share, row.macs_share) for row in rows}
    found = {name: shares.get(name, (0.0, 0.0)) for name in names}
    times, works = zip((0.0, 0.0), *found.values(), strict=True)
    return found | {OTHER_PARTS: (max(1 - sum(times), 0.0), max(1 - sum(works), 0.0))}
