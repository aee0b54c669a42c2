"""What the numbers of a table show, in sentences: its order beside the published one, what is separable.

By what the protocol judges by: as a rule FID and held-out loss, as far as they were measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bench.metrics.scores import MEASURED
from bench.records.quantities import HELD_OUT, LOSS, Quantity
from bench.reports.select import Line, Setting, published_conditions
from bench.reports.statistics import (
    LEVEL,
    BySeed,
    Comparison,
    compare_rows,
    detectable,
    paired_errors,
    rank_correlation,
)


def findings(rows: Sequence[Line], setting: Setting) -> list[str]:
    """The orders found here beside that by published FID, and which rows cannot be told apart."""
    texts = [text for name in setting.judges for text in _by(MEASURED[name], rows, setting)]
    losses = [name for name in setting.judges if name in HELD_OUT]
    return texts + [text for name in losses for text in _images(HELD_OUT[name], rows, setting)]


def conclusions(rows: Sequence[Line], setting: Setting) -> list[str]:
    """What a reader may quote: which row comes first by each score, and from which it cannot be told."""
    texts = []
    for quantity in (MEASURED[name] for name in setting.judges):
        found = [(line, values) for line in rows if (values := line.better_is_lower(setting, quantity))]
        comparison = compare_rows([values for _, values in found])
        by = f"By {phrase(quantity)}"
        if len(found) < 2:
            continue
        if not comparison.pairs:
            first = min(found, key=lambda each: sum(each[1].values()) / len(each[1]))[0].row.label
            texts.append(f"{by} {first} comes first, with no seeds to tell whether that is chance.")
            continue
        ties, *_ = comparison.groups()
        first, *others = (found[i][0].row.label for i in ties)
        behind = [
            found[i][0].row.label for i in range(len(found)) if i not in ties and i not in comparison.left_out
        ]
        seeds = f"{len(comparison.seeds)} seeds"
        if not behind:
            texts.append(f"{by} no two of {len(ties)} rows can be told apart with {seeds}.")
        elif others:
            texts.append(
                f"{by} {first} comes first and is better than {_listed(behind)}; it cannot be told apart "
                f"from {_listed(others)} with {seeds}."
            )
        else:
            rest = behind[0] if len(behind) == 1 else "every other row"
            texts.append(f"{by} {first} is better than {rest} ({seeds}, Tukey's range test).")
    return texts


def _listed(labels: Sequence[str], most: int = 4) -> str:
    if len(labels) > most:
        return f"{len(labels)} others"
    if any("," in label for label in labels):
        return "; ".join(labels)
    return " and ".join([", ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels)


def _images(quantity: Quantity, rows: Sequence[Line], setting: Setting) -> list[str]:
    """How well the held-out images tell rows apart, whatever other seeds would say."""
    found = [line.results(setting) for line in rows if line.by_seed(setting, quantity.name)]
    seeds = set.intersection(*map(set, found)) if found else set()
    if len(found) < 2 or not seeds:
        return []
    groups = [
        np.mean([results[seed].held_out[-1].groups(quantity.name) for seed in sorted(seeds)], axis=0)
        for results in found
    ]
    errors = paired_errors(groups)
    apart = sum(abs(groups[i].mean() - groups[j].mean()) > 2 * error for (i, j), error in errors.items())
    text = quantity.text
    return [
        f"The difference in {phrase(quantity)} between two rows has a paired standard error over images of "
        f"{text(float(np.median([*errors.values()])))} (median over pairs; the largest is "
        f"{text(max(errors.values()))}), and {apart} of {len(errors)} pairs lie more than two of theirs "
        "apart. That is for these seeds: others differ by more, so that no claim about networks rests on it."
    ]


def _by(quantity: Quantity, rows: Sequence[Line], setting: Setting) -> list[str]:
    """Findings by one score; none where it was not measured."""
    found = [(line, values) for line in rows if (values := line.better_is_lower(setting, quantity))]
    labels = [line.row.label for line, _ in found]
    printed: dict[str, dict[int, float]] = {}  # by conditions, for others do not compare
    for i, conditions in enumerate(published_conditions([line for line, _ in found])):
        if row := found[i][0].row.published:
            printed.setdefault(conditions, {})[i] = float(row.printed["fid"])
    texts: list[str] = []
    for conditions, fids in printed.items():
        if len(fids) > 1:
            texts += _ranking(quantity, [found[i][1] for i in fids], [*fids.values()], conditions)
    texts = [*dict.fromkeys(texts)]  # a caution that all orders share is said once
    comparison = compare_rows([values for _, values in found])
    if comparison.pairs:
        texts += _separable(quantity, comparison, labels, [*printed.values()])
    if comparison.left_out and len(found) > 1:
        names = ", ".join(labels[i] for i in comparison.left_out)
        texts.append(f"Undecided, without two seeds in common with the other rows: {names}.")
    return texts


def _separable(
    quantity: Quantity,
    comparison: Comparison,
    labels: Sequence[str],
    printed: Sequence[Mapping[int, float]],
) -> list[str]:
    """Which rows can be told apart, how far apart that is, and what the claim rests on.

    Args:
        printed: published FIDs by row, those that compare with each other together.
    """
    apart = [pair for pair, separable in comparison.pairs.items() if separable]
    agree = [
        (comparison.means[i] < comparison.means[j]) == (fids[i] < fids[j])
        for fids in printed
        for i, j in apart
        if {i, j} <= fids.keys() and fids[i] != fids[j]
    ]
    text = f"{len(apart)} of {len(comparison.pairs)} pairs of rows are separable in {phrase(quantity)}"
    if agree:
        of = (
            "these"
            if len(agree) == len(apart)
            else f"the {len(agree)} whose published figures compare and differ"
        )
        text += f", {sum(agree)} of {of} as published"
    seeds = len(comparison.seeds)
    visible = detectable(comparison.deviation, len(labels) - len(comparison.left_out), seeds)
    texts = [
        f"{text}: their means over {seeds} common seeds lie more than "
        f"{quantity.text(comparison.critical)} apart (Tukey's range test; residual deviation "
        f"{quantity.text(comparison.deviation)}, degrees of freedom {comparison.degrees}). The error of the "
        "whole table is 5%: were all its rows equal, 95 of 100 such tables would show no separable pair. "
        f"With that deviation a true difference of {quantity.text(visible)} is found with probability 0.8.",
    ]
    if comparison.outlier is not None:
        texts.append(
            f"By {phrase(quantity)} {labels[comparison.outlier]} spreads further between seeds than one "
            "deviation for all rows allows (Cochran's test), so that the error of the table is larger than "
            "5%: in simulation 12% with three times the deviation of the others, 18% with six times."
        )
    groups = [" and ".join(labels[i] for i in group) for group in comparison.groups() if len(group) > 1]
    if groups:
        texts.append(f"Not separable in {phrase(quantity)}, the best first: {'; '.join(groups)}.")
    return texts


def phrase(quantity: Quantity) -> str:
    """What it is called within a sentence."""
    name = quantity.title.rstrip("↓↑")
    if quantity.name in HELD_OUT:
        return "held-out loss" if quantity is HELD_OUT["held_out"] else f"held-out loss at {name}"
    return "training loss" if quantity is LOSS else name


def _ranking(
    quantity: Quantity, found: Sequence[BySeed], printed: Sequence[float], conditions: str
) -> list[str]:
    correlation = rank_correlation(found, printed)
    if correlation is None:
        return ["No rank correlation with the published order: it takes three measured rows that differ."]
    of = f" ({conditions})" if conditions else ""
    count = correlation.rows
    interval = "no interval, for it takes two seeds in common"
    if correlation.interval:
        low, high = map(_signed, correlation.interval)
        interval = f"95% interval {low} to {high} over the orders that keep every pair told apart"
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
        f"Order by mean {phrase(quantity)} here against the published order by FID{of}: Spearman's "
        f"ρ = {_signed(correlation.rho)} over {count} rows; {interval}.{chance}",
        "This shows how far the changes rank small networks under this protocol as they rank the published "
        "ones. It confirms no published score or gap, and the interval knows of seeds only, not of other "
        "protocols, data or sizes.",
    ]


def _signed(rho: float) -> str:
    return f"{rho:.2f}".replace("-", "−")


def _probability(probability: float) -> str:
    return f"{probability:.2f}" if probability >= 0.1 else f"{probability:.4f}"
