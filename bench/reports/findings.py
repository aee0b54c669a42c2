"""What the numbers of a table show, in sentences: its order beside the published one, what is separable."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from bench.reports.select import Line, Setting
from bench.reports.statistics import BySeed, rank_correlation, separable

LEVEL = 0.05  # of significance


def findings(rows: Sequence[Line], setting: Setting) -> list[str]:
    """The order by FID found here beside the published one, and which rows cannot be told apart."""
    found = [(line, fids) for line in rows if (fids := line.by_seed(setting, "fid"))]
    pairs = [(a, b, separable(of_a, of_b)) for (a, of_a), (b, of_b) in combinations(found, 2)]
    apart = [(a.row.label, b.row.label) for a, b, answer in pairs if answer]
    alike = [(a.row.label, b.row.label) for a, b, answer in pairs if answer is False]
    printed = {
        line.row.label: float(line.row.published.printed["fid"]) for line, _ in found if line.row.published
    }
    texts = []
    if len(printed) > 1:
        comparable = [fids for line, fids in found if line.row.label in printed]
        texts = _ranking(comparable, [*printed.values()])
    if apart or alike:
        text = f"{len(apart)} of {len(apart) + len(alike)} pairs of rows are separable in FID"
        mean = {line.row.label: np.mean([*fids.values()]) for line, fids in found}
        agree = [
            (mean[a] < mean[b]) == (printed[a] < printed[b]) for a, b in apart if {a, b} <= printed.keys()
        ]
        if agree:
            text += f", {sum(agree)} of these as published"
        texts.append(
            f"{text}: the 95% interval of the difference, seed by seed, leaves out 0; each pair by itself."
        )
    if alike:
        others = {first: [b for a, b in alike if a == first] for first, _ in alike}
        texts.append(
            "Not separable: " + "; ".join(f"{a} from {', '.join(b)}" for a, b in others.items()) + "."
        )
    if len(apart) + len(alike) < len(pairs):
        texts.append("Of rows without two seeds in common nothing is said of how far they are apart.")
    return texts


def _ranking(found: Sequence[BySeed], printed: Sequence[float]) -> list[str]:
    correlation = rank_correlation(found, printed)
    if correlation is None:
        return ["No rank correlation with the published order: it takes three measured rows that differ."]
    count = correlation.rows
    interval = "no interval, for it takes two seeds that all rows have"
    if correlation.interval:
        low, high = map(_signed, correlation.interval)
        interval = f"95% interval {low} to {high} over what the spread between seeds leaves open"
    chance = ""
    if correlation.chance is not None:
        chance = " If all orders were equally likely, ρ would be as high or higher with probability "
        chance += _probability(correlation.chance)
        if correlation.least > LEVEL:
            least = _probability(correlation.least)
            chance += f": {count} rows can go no lower than {least}, so no order of them is significant."
        else:
            negated = "" if correlation.chance <= LEVEL else "not "
            chance += f", which is {negated}significant at {LEVEL}."
    return [
        f"Order by mean FID here against the published order: Spearman's ρ = {_signed(correlation.rho)} over "
        f"{count} rows; {interval}.{chance}",
        "This shows how far the changes rank small networks under this protocol as they rank the published "
        "ones. It confirms no published score or gap, and the interval knows of seeds only, not of other "
        "protocols, data or sizes.",
    ]


def _signed(rho: float) -> str:
    return f"{rho:.2f}".replace("-", "−")


def _probability(probability: float) -> str:
    return f"{probability:.2f}" if probability >= 0.1 else f"{probability:.4f}"
