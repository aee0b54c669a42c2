"""Profiles in words and as a picture: time beside multiply-accumulates. Nothing here imports torch."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from bench.records.schema import IDLE, Profile, Share
from bench.utils.files import write_bytes, write_text

VISIBLE = 0.02  # a smaller excess of time over work is none


# ---- in words ----


def conditions(profile: Profile) -> str:
    """Device, threads on a CPU, batch and dtype."""
    request = profile.request
    threads = "" if profile.threads is None else f", {profile.threads} threads"
    return f"{request.device_name}{threads}, batch {request.batch_size}, {request.dtype}"


def finding(profile: Profile) -> str:
    """A sentence on the stage and the operator whose shares of time most exceed their shares of work."""
    first, second = "No stage takes more than its share of the time", "none does"
    if stage := slowest(profile.stages):
        first = (
            f"{stage.name} takes {stage.time_share:.0%} of the time for {stage.macs_share:.0%} of the "
            "multiply-accumulates"
        )
    if operator := slowest(profile.operators):
        second = f"{operator.name} takes {operator.time_share:.0%} of the time for {operator.macs_share:.0%}"
    text = f"{first}. Of the operators, {second}."
    if profile.idle >= VISIBLE:
        text += f" The GPU is idle for {profile.idle:.0%} of the time, until the next operator is launched."
    return text


def slowest(rows: Sequence[Share]) -> Share | None:
    """The part whose share of time most exceeds its share of work; None below `VISIBLE`."""
    row = max((row for row in rows if row.name != IDLE), key=lambda row: row.excess)
    return row if row.excess >= VISIBLE else None


# ---- the picture ----


def draw(profiles: Sequence[Profile], folder: str | Path) -> list[Path]:
    """Draw for each profile a bar of time above one of MACs, into `profile-<names>.png` and `.svg`.

    The same profiles give the same files, byte for byte.

    Raises:
        UsageError: the folder cannot be made or written to.
    """
    from bench.reports import charts

    panels = [
        charts.shares(
            {
                f"{profile.request.label}, {words}": {
                    row.name: getattr(row, share) for row in getattr(profile, parts)
                }
                for profile in profiles
                for words, share in (("time", "time_share"), ("MACs", "macs_share"))
            },
            f"By {parts.removesuffix('s')}",
        )
        for parts in ("stages", "operators")
    ]
    told = [f"{p.request.label} ({p.seconds * 1e3:,.1f} ms): {finding(p)}" for p in profiles]
    heading = {
        "text": f"Share of time beside share of multiply-accumulates: {conditions(profiles[0])}",
        "subtitle": [line for text in told for line in textwrap.wrap(text, 140)],
        "anchor": "start",
        "offset": 12,
    }
    spec = charts.side_by_side(panels, columns=1) | {"title": heading}
    name = "profile-" + "-".join(re.sub(r"[^\w.-]+", "-", p.request.label) for p in profiles)
    png, svg = Path(folder) / f"{name}.png", Path(folder) / f"{name}.svg"
    write_bytes(png, charts.png(spec))
    write_text(svg, charts.svg(spec))
    return [png, svg]
