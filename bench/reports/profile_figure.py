"""Profiles in words and as a picture: time beside multiply-accumulates. Nothing here imports torch."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import registry
from bench.records.schema import DEPTHWISE, Profile, Share
from bench.reports.figures import COLOURS
from bench.utils.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VISIBLE = 0.02  # a smaller excess of time over work is none
_OTHER = "#DDDDDD"
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
    return f"{first}; of the operators, {second}."


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
    row = max(rows, key=lambda row: row.excess)
    return row if row.excess >= VISIBLE else None


# ---- the picture ----


def draw(profiles: Sequence[Profile], folder: str | Path) -> list[Path]:
    """Draw profiles side by side, two stacked bars each, into `profile-<names>.png` and `.svg`.

    The same profiles give the same files, byte for byte.

    Raises:
        UsageError: the folder cannot be made or written to.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    ours = {"svg.hashsalt": "bench", "font.size": 10, "hatch.linewidth": 0.4}
    with matplotlib.style.context(["default", ours]):  # and not what the user's own settings say
        width = 4.6 + 5.6 * len(profiles)
        figure = Figure(figsize=(width, 8.6), layout="constrained")
        both = figure.subplots(1, 2)
        _bars(both[0], "By stage", [(title(p), p.stages) for p in profiles])
        _bars(both[1], "By operator", [(title(p), p.operators) for p in profiles])
        figure.suptitle(
            f"Share of time beside share of multiply-accumulates\n{conditions(profiles[0])}", fontsize=14
        )
        findings = [f"{title(p)} ({p.seconds * 1e3:,.1f} ms): {finding(p)}" for p in profiles]
        wrapped = "\n".join(textwrap.fill(text, int(width * 11)) for text in findings)
        figure.supxlabel(wrapped, fontsize=11)
        name = "profile-" + "-".join(re.sub(r"[^\w.-]+", "-", title(p)) for p in profiles)
        png, svg = Path(folder) / f"{name}.png", Path(folder) / f"{name}.svg"
        write_whole(png, lambda path: figure.savefig(path, dpi=150, metadata={"Software": None}))
        write_whole(svg, lambda path: figure.savefig(path, metadata={"Date": None}))
    return [png, svg]


def _bars(axes: Axes, title: str, networks: list[tuple[str, Sequence[Share]]]) -> None:
    """For each network a bar of time and one of multiply-accumulates, equal parts joined by lines."""
    from matplotlib.patches import Patch

    names = _drawn([rows for _, rows in networks])
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)} | {"other parts": _OTHER}
    hatches = {name: "///" if i >= len(COLOURS) else "" for i, name in enumerate(names)}
    for i, (_, rows) in enumerate(networks):
        worst = slowest(rows)
        left, right, edge = 2.6 * i, 2.6 * i + 1.2, 0.42
        low_left = low_right = 0.0
        for name, (took, work) in reversed(_shares(rows, names).items()):
            style: Any = {"color": colours[name], "hatch": hatches.get(name), "edgecolor": "white"}
            axes.bar([left, right], [took, work], 2 * edge, [low_left, low_right], linewidth=1, **style)
            for x, low, share in ((left, low_left, took), (right, low_right, work)):
                if share >= 0.018:
                    weight = "bold" if worst and name == worst.name else "normal"
                    text = f"{name.replace('convolution', 'conv')} {share:.0%}"
                    axes.text(x, low + share / 2, text, ha="center", va="center", weight=weight, fontsize=9)
            low_left, low_right = low_left + took, low_right + work
            axes.plot([left + edge, right - edge], [low_left, low_right], color="0.6", linewidth=0.8)
    ticks = [(2.6 * i + x, text) for i in range(len(networks)) for x, text in ((0, "time"), (1.2, "MACs"))]
    axes.set_xticks([x for x, _ in ticks], [text for _, text in ticks], fontsize=11)
    for i, (network, _) in enumerate(networks):
        axes.text(2.6 * i + 0.6, 1.012, network, ha="center", fontsize=11, weight="bold")
    axes.legend(
        handles=[
            Patch(facecolor=colours[name], hatch=hatches.get(name), edgecolor="white", label=name)
            for name in colours
        ],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.05),
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    axes.set_title(title, pad=24, fontsize=13)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


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
    return found | {"other parts": (max(1 - sum(times), 0.0), max(1 - sum(works), 0.0))}
