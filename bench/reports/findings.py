"""Findings of a table of scores, as sentences: significant differences, the best row, the published order.

They are about the scores that the protocol ranks by, usually FID and held-out loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from bench.metrics.scores import MEASURED
from bench.records.quantities import HELD_OUT, LOSS, Quantity
from bench.reports.select import Line, Setting, once, published_conditions
from bench.reports.statistics import LEVEL, BySeed, Comparison, compare_rows, rank_correlation, summary
from bench.studies import Study
from bench.studies.cells import cells
from bench.training import protocols

# The built-in protocols whose scores compare with published ones.
PUBLISHED = ("paper", "paper-ddt", "paper-flowdcn", "paper-lightningdit", "edm2-512")
RUNS_ONLY = "smoke"  # the protocol that only tests that everything runs
METHOD = (
    "Significance: Tukey's range test at 5% on the means over the seeds that all rows share. A score is "
    "modelled as row + seed + residual, so an effect of a seed that all rows share cancels. The residual "
    "variance is pooled over rows, with (rows − 1)·(seeds − 1) degrees of freedom. Tables show means over "
    "all seeds. If all rows were equal, 5 of 100 tables would show a significant pair. The interval of "
    "Spearman's ρ covers every order that agrees with the significant pairs. p is the "
    "probability of a ρ at least this high if all orders were equally likely. ρ measures how well this "
    "protocol reproduces the published order; it does not confirm published scores or differences."
)


def findings(rows: Sequence[Line], setting: Setting) -> list[str]:
    """A paragraph for each score that the protocol ranks by and that at least two rows have."""
    return [text for name in setting.judges if (text := _by(MEASURED[name], rows, setting))]


def verdict(rows: Sequence[Line], every: Sequence[Setting]) -> str:
    """A study in a few sentences, by the soundest protocol, or else by what is published; "" of neither.

    Args:
        rows: lines of the study.
        every: its settings, the soundest first. Those of one protocol get a clause each: scores of two
            settings do not compare.
    """
    judged = [(setting, found) for setting in every if (found := _first_compared(rows, setting))]
    judged = [(setting, found) for setting, found in judged if setting.protocol == judged[0][0].protocol]
    if not judged:
        return _published_verdict(rows)
    texts = []
    for setting, found in judged:
        apart, pairs = found.counts()
        counted = f"{apart} of {pairs} pairs of rows differ significantly"
        if best := _best(found):
            text = f"{best}; {counted}" if pairs > 1 else best
        else:
            text = f"{counted} in {phrase(found.quantity)}"
        if (agree := found.agreeing()) and pairs > 1:
            of = "" if len(agree) == apart else f" of the {len(agree)} with comparable published scores"
            text += f", {'all' if all(agree) else sum(agree)}{of} in the published order"
        words = f" ({', '.join(own)})" if (own := setting.distinctions(every)) else ""
        texts.append(f"Under {setting.protocol}{words}, {text}.{_other_best(found)}")
    if judged[0][0].protocol not in PUBLISHED:
        texts.append("Scores of this reduced protocol do not compare with published ones.")
    else:
        texts += filter(None, (caution(rows, setting) for setting, _ in judged))
    return " ".join(texts)


def caution(rows: Sequence[Line], setting: Setting) -> str:
    """What keeps the scores of a setting from being compared with published ones; "" of nothing."""
    if setting.protocol == RUNS_ONLY:
        return "Scores of this protocol do not measure quality: it only tests that everything runs."
    if setting.protocol not in PUBLISHED:
        return "Scores of this reduced protocol are comparable with each other, not with published scores."
    reasons = []
    if setting.extractor and not setting.reference:  # all of these protocols train on latents
        reasons.append("the reference images are decoded latents (`bench ablate --reference` takes others)")
    if changed := [line.row.label for line in rows if setting in line.quality and _changed(line, setting)]:
        reasons.append(
            "training or sampling is not that of the built-in "
            f"protocol {setting.protocol}: {'; '.join(changed)}"
        )
    return (
        f"Not comparable with published scores, because {', and because '.join(reasons)}." if reasons else ""
    )


def _changed(line: Line, setting: Setting) -> bool:
    """Whether a row's records are not those that the built-in protocol of this name asks for."""
    row = line.row
    if not row.built_in:  # what built-in studies change is as published
        row = replace(row, training=None, sampling=None)
    study = Study("", "", "", (), (), (row,))
    protocol, seeds = protocols.load(setting.protocol), [*line.results(setting)]
    asked = cells(study, protocol, seeds, setting.reference)
    return not {cell.file for cell in asked}.issuperset(line.files(setting))


def _published_verdict(rows: Sequence[Line]) -> str:
    """The lowest published FID of each of the conditions, and the Pareto front where all compare."""
    by_conditions: dict[str, list[tuple[float, float, str]]] = {}
    for line, conditions in zip(rows, published_conditions(rows), strict=True):
        if (row := line.row.published) and row.printed.get("gflops") and row.printed.get("fid"):
            figures = float(row.printed["gflops"]), float(row.printed["fid"]), line.row.table_label
            by_conditions.setdefault(conditions, []).append(figures)
    if sum(map(len, by_conditions.values())) < 2:
        return ""
    best = {words: min(found, key=lambda each: each[1]) for words, found in by_conditions.items()}
    if len(best) > 1:
        each = "; ".join(f"{words}: {label}, {fid:g}" for words, (_, fid, label) in best.items())
        return f"Lowest published FID, by conditions that do not compare with each other: {each}."
    ((found, (cost, fid, label)),) = zip(by_conditions.values(), best.values(), strict=True)
    front = [
        name
        for own, value, name in sorted(found)
        if not any(other <= own and better < value for other, better, _ in found)
    ]
    return (
        f"{label} has the lowest published FID, {fid:g} at {cost:g} GFLOPs. On the Pareto front of FID and "
        f"GFLOPs: {'; '.join(front)}."
    )


def _other_best(found: _Compared) -> str:
    """A sentence if the published best is not the best here; empty if FIDs are not comparable or equal."""
    if len(found.printed) != 1:
        return ""
    (fids,) = found.printed.values()
    best, *others = sorted(fids, key=fids.__getitem__)
    if not others or fids[best] == fids[others[0]] or best == found.comparison.best[0]:
        return ""
    return f" In the paper, {found.labels[best]} is best."


def by_soundness(rows: Sequence[Line], every: Sequence[Setting]) -> list[Setting]:
    """Settings by the number of pairs that are significant and in the published order, the highest first.

    A significant pair in the opposite order counts −1. If no significant pair has comparable published
    scores, the setting with more of them is first. Of equal settings it is the one with more rows.
    """

    def decided(setting: Setting) -> tuple[int, int, int]:
        counts = [(0, 0)]
        for name in setting.judges:
            if found := _compared(MEASURED[name], rows, setting):
                apart, _ = found.counts()
                agree = found.agreeing()
                counts.append((2 * sum(agree) - len(agree), 0 if agree else apart))
        return *max(counts), sum(setting in line.quality for line in rows)

    return sorted(every, key=decided, reverse=True)


class _Compared(NamedTuple):
    """Rows with a score, and their published FIDs by conditions and row; FIDs compare within conditions."""

    quantity: Quantity
    labels: list[str]
    shown: list[str]  # the means over all seeds of a row, as its table prints them
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

    def counts(self) -> tuple[int, int]:
        """Numbers of significant pairs and of all pairs."""
        return sum(self.comparison.pairs.values()), len(self.comparison.pairs)


def _compared(quantity: Quantity, rows: Sequence[Line], setting: Setting) -> _Compared | None:
    lines = once(rows, setting)
    found = [(line, values) for line in lines if (values := line.better_is_lower(setting, quantity))]
    if len(found) < 2:
        return None
    printed: dict[str, dict[int, float]] = {}
    for i, conditions in enumerate(published_conditions([line for line, _ in found])):
        if row := found[i][0].row.published:
            printed.setdefault(conditions, {})[i] = float(row.printed["fid"])
    scores = [values for _, values in found]
    labels = [line.row.label for line, _ in found]
    means = [summary([*line.by_seed(setting, quantity.name).values()]) for line, _ in found]
    shown = [quantity.text(mean.mean) if mean else "" for mean in means]
    return _Compared(quantity, labels, shown, scores, printed, compare_rows(scores))


def _first_compared(rows: Sequence[Line], setting: Setting) -> _Compared | None:
    """By the first quantity that the protocol judges by in which two rows have two seeds or more."""
    every = (_compared(MEASURED[name], rows, setting) for name in setting.judges)
    return next((found for found in every if found and found.comparison.pairs), None)


def _by(quantity: Quantity, rows: Sequence[Line], setting: Setting) -> str:
    found = _compared(quantity, rows, setting)
    if found is None:
        return ""
    labels, comparison = found.labels, found.comparison
    name = phrase(quantity)
    if comparison.pairs:
        texts = [_significant(quantity, found), *([f"{best}."] if (best := _best(found)) else [])]
        if comparison.outlier is not None:
            texts.append(
                f"The residual variance of {labels[comparison.outlier]} is higher than that of the other "
                "rows (Cochran's test), so the error rate of these claims exceeds 5%."
            )
        if comparison.left_out:
            without = ", ".join(labels[i] for i in comparison.left_out)
            texts.append(f"Not compared, with fewer than two seeds in common with the other rows: {without}.")
    else:
        first = labels[min(range(len(labels)), key=comparison.means.__getitem__)]
        texts = [
            f"{first} has the {_extreme(quantity)} {name}; significance needs at least two seeds in common."
        ]
    for conditions, fids in found.printed.items():
        texts += _order(name, [found.values[i] for i in fids], [*fids.values()], conditions)
    return " ".join(texts)


def _significant(quantity: Quantity, found: _Compared) -> str:
    """The smallest significant difference, and how many pairs are significant and in the published order."""
    comparison, agree = found.comparison, found.agreeing()
    apart, pairs = found.counts()
    which = "compared rows" if comparison.left_out else "rows"
    text = (
        f"Differences in {phrase(quantity)} above {quantity.text(comparison.critical)} are significant over "
        f"the {len(comparison.seeds)} seeds that all {which} have: {apart} of {pairs} pairs"
    )
    if not agree:
        return f"{text}."
    count = "all" if all(agree) else str(sum(agree))
    if len(agree) == apart:
        return f"{text}, {count} in the published order."
    compared = f"{count.capitalize()} of the {len(agree)} with comparable published scores"
    return f"{text}. {compared} are in the published order."


def _best(found: _Compared) -> str:
    """The best row and those not significantly worse, without a full stop; "" where no two differ."""
    comparison, name = found.comparison, phrase(found.quantity)
    named = [f"{label} ({shown})" for label, shown in zip(found.labels, found.shown, strict=True)]
    first, *ties = comparison.best
    others = [i for i in range(len(named)) if i != first and i not in comparison.left_out]
    if len(ties) == len(others):
        return ""
    best = f"{named[first]} has the {_extreme(found.quantity)} {name}"
    if not ties:
        return (
            f"{best}, significantly better than {named[others[0]] if len(others) == 1 else 'all other rows'}"
        )
    which = (
        " and ".join(named[i] for i in ties)
        if len(ties) < 3
        else f"{len(ties)} of the other {len(others)} rows"
    )
    return f"{best}, not significantly better than {which}"


def _extreme(quantity: Quantity) -> str:
    return "highest" if quantity.higher_is_better else "lowest"


def _order(name: str, found: Sequence[BySeed], printed: Sequence[float], conditions: str) -> list[str]:
    """How well the order agrees with the published one; nothing of fewer than three rows that differ."""
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
