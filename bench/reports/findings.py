"""Findings of a table of scores, as sentences: significant differences, the best row, the published order.

They are about the scores that the protocol ranks by, usually FID and held-out loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bench.metrics.scores import MEASURED
from bench.records.quantities import HELD_OUT, LOSS, Quantity
from bench.reports.select import Line, Setting, published_conditions
from bench.reports.statistics import LEVEL, BySeed, Comparison, compare_rows, rank_correlation

METHOD = (
    "Significance: Tukey's range test at 5% on the means over the seeds that all rows share, with the seed "
    "variance pooled over rows. If all rows were equal, 5 of 100 tables would show a significant pair. The "
    "interval of Spearman's ρ covers every order that agrees with the significant pairs. p is the "
    "probability of a ρ at least this high if all orders were equally likely. ρ measures how well this "
    "protocol reproduces the published order; it does not confirm published scores or differences."
)


def findings(rows: Sequence[Line], setting: Setting) -> list[str]:
    """A paragraph for each score that the protocol ranks by and that at least two rows have."""
    return [text for name in setting.judges if (text := _by(MEASURED[name], rows, setting))]


def verdict(rows: Sequence[Line], every: Sequence[Setting]) -> str:
    """The finding of a study in one sentence: of the best protocol, else of published figures, else empty.

    Args:
        rows: lines of the study.
        every: its settings, the best first (`by_soundness`).
    """
    for setting in every:
        for quantity in (MEASURED[name] for name in setting.judges):
            found = _compared(quantity, rows, setting)
            if found and found.comparison.pairs:
                words = ", ".join(setting.distinctions(every))
                name = f"{phrase(quantity)} under {setting.protocol}" + (f" ({words})" if words else "")
                best = _best(name, found.comparison, found.labels)
                apart, pairs, agree = found.counts()
                order = (
                    f", {'all' if agree == apart else agree} in the published order"
                    if found.printed and apart
                    else ""
                )
                text = f"{best}. {apart} of {pairs} pairs of rows differ significantly{order}."
                return text + _other_best(found)
    published = [
        (float(row.printed["gflops"]), float(row.printed["fid"]), line.label)
        for line in rows
        if (row := line.row.published) and row.printed.get("gflops") and row.printed.get("fid")
    ]
    if len(published) < 2:
        return ""
    if any(published_conditions(rows)):
        return _lowest(rows)
    front = [
        label
        for cost, fid, label in sorted(published)
        if not any(other <= cost and better < fid for other, better, _ in published)
    ]
    cost, fid, label = min(published, key=lambda each: each[1])
    return (
        f"{label} has the lowest published FID, {fid:g} at {cost:g} GFLOPs. The Pareto front of FID and "
        f"GFLOPs: {'; '.join(front)}."
    )


def _other_best(found: _Compared) -> str:
    """A sentence if the published best is not the best here; empty if FIDs are not comparable."""
    if len(found.printed) != 1:
        return ""
    ((_, fids),) = found.printed.items()
    best = min(fids, key=fids.__getitem__)
    if best == found.comparison.groups()[0][0]:
        return ""
    return f" In the paper, {_named(found.labels[best])} is best."


def _lowest(rows: Sequence[Line]) -> str:
    """The lowest published FID under each of several conditions."""
    best: dict[str, tuple[float, str]] = {}
    for line, conditions in zip(rows, published_conditions(rows), strict=True):
        if line.row.published and (text := line.row.published.printed.get("fid")):
            best[conditions] = min(best.get(conditions, (float("inf"), "")), (float(text), line.label))
    words = [f"{label} {fid:g} ({conditions})" for conditions, (fid, label) in best.items()]
    return f"Lowest published FID: {'; '.join(words)}. FIDs of different conditions are not comparable."


def by_soundness(rows: Sequence[Line], every: Sequence[Setting]) -> list[Setting]:
    """Settings by the number of pairs that are significant and in the published order, the highest first.

    A significant pair in the opposite order counts −1. If nothing is published, all significant pairs count.
    """

    def decided(setting: Setting) -> int:
        counts = [0]
        for name in setting.judges:
            if found := _compared(MEASURED[name], rows, setting):
                apart, _, agree = found.counts()
                counts.append(2 * agree - apart if found.printed else apart)
        return max(counts)

    return sorted(every, key=decided, reverse=True)


class _Compared(NamedTuple):
    """Rows with a score, and their published FIDs by conditions and row; FIDs compare within conditions."""

    labels: list[str]
    values: Sequence[BySeed]
    printed: dict[str, dict[int, float]]
    comparison: Comparison

    def agreeing(self) -> list[bool]:
        """For each significant pair with comparable published FIDs, whether it is in their order."""
        means = self.comparison.means
        return [
            (means[i] < means[j]) == (fids[i] < fids[j])
            for fids in self.printed.values()
            for (i, j), significant in self.comparison.pairs.items()
            if significant and {i, j} <= fids.keys() and fids[i] != fids[j]
        ]

    def counts(self) -> tuple[int, int, int]:
        """Numbers of significant pairs, of all pairs, and of significant pairs in the published order."""
        return sum(self.comparison.pairs.values()), len(self.comparison.pairs), sum(self.agreeing())


def _compared(quantity: Quantity, rows: Sequence[Line], setting: Setting) -> _Compared | None:
    found = [(line, values) for line in rows if (values := line.better_is_lower(setting, quantity))]
    if len(found) < 2:
        return None
    printed: dict[str, dict[int, float]] = {}
    for i, conditions in enumerate(published_conditions([line for line, _ in found])):
        if row := found[i][0].row.published:
            printed.setdefault(conditions, {})[i] = float(row.printed["fid"])
    scores = [values for _, values in found]
    return _Compared([line.row.label for line, _ in found], scores, printed, compare_rows(scores))


def _by(quantity: Quantity, rows: Sequence[Line], setting: Setting) -> str:
    found = _compared(quantity, rows, setting)
    if found is None:
        return ""
    labels, comparison = found.labels, found.comparison
    name = phrase(quantity)
    if comparison.pairs:
        texts = [_significant(quantity, found), f"{_best(name, comparison, labels)}."]
        if comparison.outlier is not None:
            texts.append(
                f"The seed variance of {labels[comparison.outlier]} is higher than that of the other rows "
                "(Cochran's test), so the error rate of these claims exceeds 5%."
            )
        if comparison.left_out:
            without = ", ".join(labels[i] for i in comparison.left_out)
            texts.append(f"Not compared, with fewer than two seeds in common with the other rows: {without}.")
    else:
        first = labels[min(range(len(labels)), key=comparison.means.__getitem__)]
        texts = [f"By {name}, {_named(first)} is best; significance needs at least two seeds in common."]
    for conditions, fids in found.printed.items():
        texts += _order(name, [found.values[i] for i in fids], [*fids.values()], conditions)
    return " ".join(texts)


def _significant(quantity: Quantity, found: _Compared) -> str:
    """The smallest significant difference, and how many pairs are significant and in the published order."""
    comparison, agree = found.comparison, found.agreeing()
    apart, pairs, _ = found.counts()
    text = (
        f"Differences in {phrase(quantity)} above {quantity.text(comparison.critical)} are significant over "
        f"the {len(comparison.seeds)} seeds that all rows have: {apart} of {pairs} pairs"
    )
    if not agree:
        return f"{text}."
    count = "all" if all(agree) else str(sum(agree))
    if len(agree) == apart:
        return f"{text}, {count} in the published order."
    compared = f"{count.capitalize()} of the {len(agree)} with comparable published scores"
    return f"{text}. {compared} are in the published order."


def _best(name: str, comparison: Comparison, labels: Sequence[str]) -> str:
    """The best row and those not significantly worse, as a sentence without its full stop."""
    best, *equal = comparison.groups()[0]
    first, ties = labels[best], [labels[i] for i in equal]
    others = len(comparison.means) - len(comparison.left_out) - 1
    if len(ties) == others:
        return f"By {name}, no row is significantly better than the others"
    if not ties:
        rest = [labels[i] for i in range(len(labels)) if i not in (*comparison.left_out, best)]
        which = "every other row" if others > 1 else _named(rest[0])
        return f"By {name}, {_named(first)} is significantly better than {which}"
    which = " and ".join(map(_named, ties)) if len(ties) < 3 else f"{len(ties)} of the other {others} rows"
    return f"By {name}, {_named(first)} is best, but not significantly better than {which}"


def _named(label: str) -> str:
    """A label within a sentence; in quotation marks if it contains a comma."""
    return f"“{label}”" if "," in label else label


def _order(name: str, found: Sequence[BySeed], printed: Sequence[float], conditions: str) -> list[str]:
    """A sentence on the correlation with the published order; none for fewer than three different rows."""
    correlation = rank_correlation(found, printed)
    if correlation is None:
        return []
    of = f" ({conditions})" if conditions else ""
    details = [f"{correlation.rows} rows"]
    if correlation.interval:
        details.append("95% interval {} to {}".format(*map(_signed, correlation.interval)))
    if correlation.least > LEVEL:
        details.append("too few for any order to be significant")
    elif correlation.chance is not None:
        details.append(f"p = {correlation.chance:.2g}")
    rho = _signed(correlation.rho)
    return [f"Spearman's ρ between {name} here and published FID{of}: {rho} ({', '.join(details)})."]


def phrase(quantity: Quantity) -> str:
    """The name of a quantity within a sentence."""
    name = quantity.title.rstrip("↓↑")
    if quantity.name in HELD_OUT:
        return "held-out loss" if quantity is HELD_OUT["held_out"] else f"held-out loss at {name}"
    return "training loss" if quantity is LOSS else name


def _signed(rho: float) -> str:
    return f"{rho:.2f}".replace("-", "−")
