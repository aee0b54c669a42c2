"""The page on small protocols: which of them reproduces the order of full training, and how reliably.

The predictor is chosen on the first study and evaluated on the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from bench import studies
from bench.metrics.scores import SCORES
from bench.records.quantities import TRAINING_ERROR
from bench.reports.findings import phrase
from bench.reports.page import Column, Entry, Page, Section, Table
from bench.reports.predictors import (
    AVERAGED,
    BASELINES,
    STANDARDISED,
    Agreement,
    Choice,
    Interval,
    agreements,
    choose,
)
from bench.reports.select import Line
from bench.reports.tables import NUMBERS, page_title
from bench.training import protocols

STUDIES = ("components", "downsampler", "toy", "leaderboard", "dico-components")  # selection is on the first
JUDGE = STUDIES[-1]  # rows of one size, so that cost predicts little
# Predictors that are shown at every checkpoint of the judge's rows, beside the selected one.
TOLD = ("held_out", AVERAGED.name, STANDARDISED.name, TRAINING_ERROR.name)
FILE = "proxy"
BEST = 5  # number of candidates in the first table
WANTED = 0.9, 0.7  # a reliable protocol has at least this ρ and this lower end of its interval


def compare(found: Mapping[str, Sequence[Line]]) -> dict[str, list[Agreement]]:
    """Agreements of each of `STUDIES` by page title; the study used for selection is first.

    Args:
        found: lines by the name of their study.
    """
    first, *others = STUDIES
    compared = {first: agreements(first, found[first])}
    compared |= {name: agreements(name, found[name], chosen_on=found[first]) for name in others}
    return {page_title(studies.load(name)): each for name, each in compared.items()}


def agreement_table(
    found: Sequence[Agreement],
    title: str = "",
    remarks: Sequence[str] = (),
    *,
    studies: bool = False,
    marked: Agreement | None = None,
    short: bool = False,
) -> Table:
    """A table with a row for each agreement.

    Args:
        studies: whether the first column names the study; it always does if there are several.
        marked: the recommended one, in bold.
        short: leave out rows, seeds, τ and shared seed variance.
    """
    studies = studies or len({each.study for each in found}) > 1
    columns = [
        *([Column("Study", number=False)] if studies else []),
        Column("Predictor", number=False),
        Column("Protocol", number=False),
        Column("Step"),
        *([] if short else [Column("Rows"), Column("Seeds")]),
        Column("Core-minutes per row and seed"),
        Column("ρ"),
        Column("95% interval"),
        *([] if short else [Column("τ")]),
        Column("Pairs correct"),
        Column("Significant pairs correct"),
        *([] if short else [Column("Shared seed variance")]),
    ]
    entries = [
        [
            *([Entry(_study(each.study))] if studies else []),
            Entry(_title(each), each is marked),
            Entry(each.protocol or "no training", each is marked),
            Entry("" if each.step is None else f"{each.step:,}"),
            *([] if short else [Entry(str(each.rows)), Entry(str(len(each.seeds)) if each.protocol else "")]),
            Entry(f"{each.seconds / 60:.1f}" if each.seconds else ""),
            Entry(_number(each.rho), each is marked),
            Entry(_interval(each.interval)),
            *([] if short else [Entry(_number(each.tau))]),
            Entry(f"{each.correct} of {each.pairs}"),
            Entry(f"{each.significant_correct} of {each.significant}" if each.interval else ""),
            *([] if short else [Entry(_percent(each.shared_seed_variance))]),
        ]
        for each in found
    ]
    return Table(columns, entries, title, remarks=list(remarks))


REMARKS = (
    "ρ (Spearman) and τ (Kendall) between predictor and published figure: 1 for the same order. The 95% "
    "interval of ρ covers every order that agrees with the significant pairs (Tukey's range test over "
    "seeds); it needs two seeds.",
    "Pairs correct: pairs of rows in the published order, by the means over seeds. On other studies, pairs "
    "of two rows that were also in the first study are not counted. Significant pairs correct: of the pairs "
    "that differ significantly, those in the published order.",
    "Core-minutes: training until that step and measuring, for one row and one seed, on one core of the "
    "machine that the records name. Machines and their load differ, so times of two protocols compare only "
    "roughly. No training: more GFLOPs, or more parameters, predict a better score.",
    "Shared seed variance: share of the variance between seeds that all rows have in common. Rows of one "
    "seed share batches, noise and noise levels, so this share cancels in their differences.",
    "Mean of standardised bands: each band is scaled to mean 0 and deviation 1 over the rows. Training "
    "error: mean squared error of the prediction over the steps since the last checkpoint. ln SNR: logarithm "
    "of the signal-to-noise ratio of the network's input; above 4 there is little noise.",
)


def last_checkpoints(found: Sequence[Agreement]) -> list[Agreement]:
    """For each study, predictor and protocol, the agreement at the last checkpoint."""
    latest = {
        (each.study, each.protocol, each.predictor): each
        for each in sorted(found, key=lambda each: each.step or 0)
    }
    return [each for each in found if latest[each.study, each.protocol, each.predictor] is each]


def page(found: Mapping[str, Sequence[Agreement]], picture: tuple[str, str] | None) -> Page:
    """The page on small protocols.

    Args:
        found: agreements by the title of their study; the study used for selection is first.
        picture: file and description of the figure.
    """
    (first, chosen_on), *others = found.items()
    choice = choose([chosen_on, *(each for _, each in others)])
    heading = SCORES["fid"].heading
    sections = [Section(text=answer(choice, heading), picture=picture)]
    if choice:
        shown = agreement_table([*choice.candidates[:BEST], *choice.free], marked=choice.best, short=True)
        sections = [replace(sections[0], table=shown, remarks=[*REMARKS, *_protocols(chosen_on)])]
    every = agreement_table(last_checkpoints(chosen_on), marked=choice and choice.best)
    sections.append(Section(f"All predictors at the last checkpoint: {first}", table=every, folded=True))
    rest = [each for _, agreements in others for each in agreements]
    if choice and rest:
        order = list(dict.fromkeys(each.study for each in rest))
        told = sorted(
            [*choice.held_back, *choice.rivals, *choice.baselines], key=lambda each: order.index(each.study)
        )
        table = agreement_table(told, studies=True)
        sections.append(Section("Studies that were not used for choosing", table=table, folded=True))
    if judged := judged_at_checkpoints(found, choice):
        sections.append(judged)
    return Page(FILE, f"Small protocols that predict the published {heading}", sections)


def judged_at_checkpoints(found: Mapping[str, Sequence[Agreement]], choice: Choice | None) -> Section | None:
    """`TOLD` and the selected predictor on the judge's rows; None if nothing is measured there."""
    title = page_title(studies.load(JUDGE))
    names = {*TOLD, *([choice.best.predictor] if choice else [])}
    told = [each for each in found.get(title, []) if each.predictor in names]
    if not told:
        return None
    told += [each for each in found[title] if each.predictor in BASELINES]
    return Section(f"Every checkpoint: {title}", table=agreement_table(told), folded=True)


def answer(choice: Choice | None, heading: str) -> list[str]:
    """The paragraphs of the page: what costs predict, the best protocol, other studies, and how to use it."""
    if choice is None:
        return [
            "No predictor is measured yet. Run `bench ablate components --protocol proxy-fashion` to measure "
            "one."
        ]
    best, (rho, low) = choice.best, WANTED
    reliable = best.rho >= rho and best.interval is not None and best.interval[0] >= low
    words = (
        "Use"
        if reliable
        else f"No protocol measured here is reliable for a whole order (ρ of at least {rho}, interval "
        f"above {low}). The best is"
    )
    advice = (
        f"{words} {_name(best)}: ρ = {_number(best.rho)} with the published {heading} over {best.rows} rows "
        f"({_certainty(best)}), {best.correct} of {best.pairs} pairs in the published order, at "
        f"{best.seconds / 60:.0f} core-minutes per row and seed."
    )
    if choice.free:
        cheap = choice.free[0]
        advice = (
            f"Without any training, {_alone(cheap.predictor)} order {_study(cheap.study)} at "
            f"ρ = {_number(cheap.rho)}. {advice}"
        )
    equal = [each for each in choice.candidates if (each.rho, each.interval) == (best.rho, best.interval)]
    place = "the best" if len(equal) == 1 else f"the first of {len(equal)} equally good ones"
    texts = [
        advice,
        f"It is {place} of {len(choice.candidates)} candidates (protocol, predictor, checkpoint) by the "
        "lower end of the interval. Its figures are optimistically biased, because it was selected on this "
        f"study. {_judged(choice)}",
    ]
    if best.critical_difference:
        column = best.predictor in studies.COLUMNS and best.predictor not in _judges(best.protocol)
        columns = f' columns = ["{best.predictor}"],' if column else ""
        order = "all" if best.significant_correct == best.significant else str(best.significant_correct)
        order = f", {order} of them in the published order" if best.significant else ""
        texts.append(
            f"With {len(best.seeds)} seeds, differences in {phrase(best.quantity)} above "
            f"{best.critical_difference:.2%} of the mean are significant: {best.significant} of {best.pairs} "
            f"pairs{order}. To rank your own network, write a "
            f"study file with{columns} your rows and the rows to compare with, and run: bench ablate "
            f"my_study.toml --plugin my_net.py --protocol {best.protocol}"
        )
    return texts + _across(choice)


def _judged(choice: Choice) -> str:
    held_back = [each for each in choice.held_back if each.pairs]
    if not held_back:
        return "It is not yet measured on any other study."
    names = [each.study for each in held_back]
    beside = ", ".join(_baselines(choice, names))
    return (
        f"On the other studies ({', '.join(map(_study, names))}) it puts {_pairs(held_back)} pairs in the "
        f"published order{f' ({beside})' if beside else ''}."
    )


def _across(choice: Choice) -> list[str]:
    """For each protocol that was measured on the judge's rows, whether it orders other families."""
    return [
        f"The best predictor of {each.protocol} on {_study(choice.best.study)} is {phrase(each.quantity)} "
        f"after {each.step:,} steps. On {each.rows} rows of {_study(each.study)}, which have one size and "
        f"were not used to choose it, it puts {_pairs([each])} pairs in the published order "
        f"(ρ = {_number(each.rho)}, {_certainty(each)}; {', '.join(_baselines(choice, [each.study]))}). This "
        f"is {'' if each.interval and each.interval[0] > 0 else 'no '}evidence that it orders networks of "
        "other families."
        for each in (*choice.held_back, *choice.rivals)
        if each.study == JUDGE
    ]


def _baselines(choice: Choice, names: Sequence[str]) -> list[str]:
    """Pairs that costs put in the published order on some studies."""
    return [
        f"{_alone(name)} {_pairs(cheap)}"
        for name in BASELINES
        if (cheap := [each for each in choice.baselines if each.predictor == name and each.study in names])
    ]


def _pairs(found: Iterable[Agreement]) -> str:
    correct, pairs = (sum(column) for column in zip(*((e.correct, e.pairs) for e in found), strict=True))
    return f"{correct} of {pairs}"


def _certainty(each: Agreement) -> str:
    return f"95% interval {_interval(each.interval)}" if each.interval else "one seed, no interval"


def _title(each: Agreement) -> str:
    """The predictor, as a table shows it."""
    if each.predictor in BASELINES:
        return _capital(_alone(each.predictor)).removesuffix(" alone")
    text = phrase(each.quantity)
    return text if each.predictor in SCORES else _capital(text)  # sFID stays


def _alone(cost: str) -> str:
    return {"params": "parameters alone", "gflops": "GFLOPs alone"}[cost]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _study(name: str) -> str:
    """The short name of a study: `Table 6`, or its name."""
    return f"Table {NUMBERS[name]}" if name in NUMBERS else name


def _name(each: Agreement) -> str:
    return f"{phrase(each.quantity)} after {each.step:,} steps of {each.protocol}"


def _judges(protocol: str) -> tuple[str, ...]:
    """The quantities that a built-in protocol ranks by; empty for others."""
    return protocols.load(protocol).evaluation.judges if protocol in protocols.names() else ()


def _protocols(found: Sequence[Agreement]) -> list[str]:
    """A sentence for each built-in protocol that was used."""
    names = dict.fromkeys(each.protocol for each in found)
    return [f"{name}: {protocols.load(name).title}." for name in names if name in protocols.names()]


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−") if math.isfinite(value) else ""


def _percent(share: float | None) -> str:
    return "" if share is None else f"{round(share, 2) + 0.0:.0%}".replace("-", "−")  # no "−0%"


def _interval(interval: Interval | None) -> str:
    return f"{_number(interval[0])} to {_number(interval[1])}" if interval else ""


def values(found: Iterable[Agreement]) -> list[dict[str, Any]]:
    """Every agreement as plain values; the interval becomes two columns."""
    rows = []
    for each in found:
        row: dict[str, Any] = {}
        for key, value in asdict(each).items():
            if key == "interval":
                row |= dict(zip(("rho low", "rho high"), value or (None, None), strict=True))
            elif key == "seeds":
                row[key] = " ".join(map(str, value))
            else:
                row[key] = None if isinstance(value, float) and not math.isfinite(value) else value
        rows.append(row)
    return rows
