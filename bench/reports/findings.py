"""What the scores of a table show, in sentences: what is significant, what is best, the published order.

By what the protocol judges by: as a rule FID and held-out loss, as far as they were measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bench.metrics.scores import MEASURED
from bench.records.quantities import HELD_OUT, LOSS, Quantity
from bench.reports.select import Line, Setting, published_conditions
from bench.reports.statistics import LEVEL, BySeed, Comparison, compare_rows, rank_correlation

METHOD = (
    "Significant: two means over the seeds that rows have in common differ by more than Tukey's range test "
    "allows, with the spread between seeds pooled over all rows; a table of equal rows shows such a pair in "
    "5 of 100 cases. The interval of Spearman's ρ covers all orders that agree with the significant pairs; p "
    "is the probability of a ρ at least as high if all orders are equally likely. ρ says how far the changes "
    "rank networks under this protocol as the published ones; it confirms no published score or gap."
)


def findings(rows: Sequence[Line], setting: Setting) -> list[str]:
    """A paragraph for each score that the protocol judges by and two rows or more have."""
    return [text for name in setting.judges if (text := _by(MEASURED[name], rows, setting))]


def verdict(rows: Sequence[Line], every: Sequence[Setting]) -> str:
    """A study in a sentence or two, by the soundest protocol, or else by what is published; "" of neither."""
    for setting in every:
        for quantity in (MEASURED[name] for name in setting.judges):
            found = _compared(quantity, rows, setting)
            if found and found.comparison.pairs:
                best = _best(phrase(quantity), found.comparison, found.labels)
                apart, pairs, agree = found.counts()
                order = (
                    f", {'all' if agree == apart else agree} in the published order" if found.printed else ""
                )
                return (
                    f"{best} Under {setting.protocol} {apart} of {pairs} pairs differ significantly{order}."
                )
    published = [
        (float(row.printed["gflops"]), float(row.printed["fid"]), line.label)
        for line in rows
        if (row := line.row.published) and row.printed.get("gflops") and row.printed.get("fid")
    ]
    if len(published) < 2 or any(published_conditions(rows)):
        return ""
    front = [
        label
        for cost, fid, label in sorted(published)
        if not any(other <= cost and better < fid for other, better, _ in published)
    ]
    cost, fid, label = min(published, key=lambda each: each[1])
    best = f"Published: FID is lowest with {label}, {fid:g} at {cost:g} GFLOPs."
    return f"{best} Nothing cheaper is better than {'; '.join(front)}."


def by_soundness(rows: Sequence[Line], every: Sequence[Setting]) -> list[Setting]:
    """Settings, first those that show the most pairs of rows to differ as published.

    A pair that they show the other way round counts against them; where nothing is published every
    significant pair counts.
    """

    def share(setting: Setting) -> float:
        shares = [0.0]
        for name in setting.judges:
            if found := _compared(MEASURED[name], rows, setting):
                apart, pairs, agree = found.counts()
                if pairs:
                    shares.append((2 * agree - apart if found.printed else apart) / pairs)
        return max(shares)

    return sorted(every, key=share, reverse=True)


class _Compared(NamedTuple):
    """Rows that have a score; published FIDs by row, those that compare together, by their conditions."""

    labels: list[str]
    values: Sequence[BySeed]
    printed: dict[str, dict[int, float]]
    comparison: Comparison

    def agreeing(self) -> list[bool]:
        """Whether each significant pair with published figures that compare is in their order."""
        means = self.comparison.means
        return [
            (means[i] < means[j]) == (fids[i] < fids[j])
            for fids in self.printed.values()
            for (i, j), significant in self.comparison.pairs.items()
            if significant and {i, j} <= fids.keys() and fids[i] != fids[j]
        ]

    def counts(self) -> tuple[int, int, int]:
        """Significant pairs, all pairs, and significant ones in the published order."""
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
        texts = [_significant(quantity, found), _best(name, comparison, labels)]
        if comparison.outlier is not None:
            texts.append(
                f"{labels[comparison.outlier]} varies more between seeds than the other rows (Cochran's "
                "test), so that false claims are more frequent than 5%."
            )
        if comparison.left_out:
            without = ", ".join(labels[i] for i in comparison.left_out)
            texts.append(f"Not compared, without two seeds in common with the others: {without}.")
    else:
        first = labels[min(range(len(labels)), key=comparison.means.__getitem__)]
        texts = [f"By {name} {first} comes first; it takes two seeds to tell whether that is chance."]
    for conditions, fids in found.printed.items():
        texts += _order([found.values[i] for i in fids], [*fids.values()], conditions)
    return " ".join(texts)


def _significant(quantity: Quantity, found: _Compared) -> str:
    """From which difference on pairs are significant, how many are, and how many of them as published."""
    comparison, agree = found.comparison, found.agreeing()
    apart, pairs, _ = found.counts()
    text = (
        f"Differences in {phrase(quantity)} above {quantity.text(comparison.critical)} are significant with "
        f"{len(comparison.seeds)} seeds: {apart} of {pairs} pairs"
    )
    if not agree:
        return f"{text}."
    which = "" if len(agree) == apart else f" of the {len(agree)} with published figures that compare"
    return f"{text}, {'all' if all(agree) else sum(agree)}{which} in the published order."


def _best(name: str, comparison: Comparison, labels: Sequence[str]) -> str:
    ties = [labels[i] for i in comparison.groups()[0]]
    if len(ties) == len(comparison.means) - len(comparison.left_out):
        return f"By {name} no row is significantly better than the others."
    if len(ties) == 1:
        return f"By {name} {ties[0]} is significantly better than every other row."
    return f"By {name} the best, without a significant difference, are {'; '.join(ties)}."


def _order(found: Sequence[BySeed], printed: Sequence[float], conditions: str) -> list[str]:
    """The order here beside the published one; nothing of fewer than three rows that differ."""
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
    return [f"Spearman's ρ with the published order by FID{of}: {rho} ({', '.join(details)})."]


def phrase(quantity: Quantity) -> str:
    """What it is called within a sentence."""
    name = quantity.title.rstrip("↓↑")
    if quantity.name in HELD_OUT:
        return "held-out loss" if quantity is HELD_OUT["held_out"] else f"held-out loss at {name}"
    return "training loss" if quantity is LOSS else name


def _signed(rho: float) -> str:
    return f"{rho:.2f}".replace("-", "−")
