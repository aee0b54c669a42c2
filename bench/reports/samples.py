"""Samples kept beside records."""

from __future__ import annotations

import base64
import html
import struct
from collections.abc import Sequence
from pathlib import Path

from bench.reports.select import Line, settings


def kept_samples(rows: Sequence[Line], protocol: str, results: Path) -> dict[str, str]:
    """Files of records with a picture, by label, for the lowest seed that all measured rows have."""
    measured: dict[str, dict[int, str]] = {line.row.label: {} for line in rows}
    for line in rows:
        for setting in (setting for setting in settings([line]) if setting.protocol == protocol):
            for seed, result in line.results(setting).items():
                measured[line.row.label].setdefault(seed, result.request.file)
    seeds = [set(files) for files in measured.values() if files]
    common = set.intersection(*seeds) if seeds else set()
    if not common:
        return {}
    kept = {label: files[min(common)] for label, files in measured.items() if files}
    return {label: file for label, file in kept.items() if _picture(results, file).exists()}


def _picture(results: Path, file: str) -> Path:
    return (results / file).with_suffix(".png")


def sheet(rows: Sequence[Line], protocol: str, results: Path) -> str | None:
    """The pictures kept beside records, a line for each row, as SVG; see `kept_samples`.

    A column has the same class and noise in every line. None if no pictures are kept.
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
