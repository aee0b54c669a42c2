"""The page on small protocols: which of them orders networks as full training does, and how sure that is.

The predictor is chosen on the first study and judged on the others, whose rows had no part in choosing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench import studies
from bench.metrics.scores import SCORES
from bench.records.quantities import COSTS, TRAINING_ERROR
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
from bench.reports.tables import page_title
from bench.training import protocols

STUDIES = ("components", "downsampler", "toy", "leaderboard", "dico-components")  # chosen on the first
JUDGE = STUDIES[-1]  # rows of one size, whose cost says little
# What is told of the judge's rows at every checkpoint, beside the predictor that was chosen.
TOLD = ("held_out", AVERAGED.name, STANDARDISED.name, TRAINING_ERROR.name)
FILE = "proxy"
BEST = 5  # candidates that are shown first
WANTED = 0.9, 0.7  # ρ, and the lower end of its interval, of a protocol to rely on


def compare(found: Mapping[str, Sequence[Line]]) -> dict[str, list[Agreement]]:
    """Agreements of each of `STUDIES`, that which is chosen on first, by its page's title.

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
    """One line an agreement; the highest ρ of one study is marked, or the one that is recommended.

    Args:
        studies: whether the first column tells the study, and not the predictor; it does where there are
            several.
        marked: the one that is recommended.
        short: leave out what only a closer look asks for.
    """
    studies = studies or len({each.study for each in found}) > 1
    best = max((each.rho for each in found if math.isfinite(each.rho)), default=math.nan)
    columns = [
        *([Column("Study", number=False)] if studies else []),
        Column("Predictor", number=False),
        Column("Protocol", number=False),
        Column("Step"),
        Column("Rows"),
        Column("Seeds"),
        Column("Core-minutes a row"),
        Column("ρ"),
        Column("95% interval"),
        Column("τ"),
        Column("Pairs right"),
        Column("of those significant"),
        Column("Pairing removes"),
    ]
    entries = [
        [
            *([Entry(each.study)] if studies else []),
            Entry(each.quantity.title),
            Entry(each.protocol),
            Entry("" if each.step is None else f"{each.step:,}"),
            Entry(str(each.rows)),
            Entry(str(len(each.seeds)) if each.protocol else ""),
            Entry(f"{each.seconds / 60:.1f}" if each.seconds else ""),
            Entry(
                _number(each.rho),
                each is marked if marked else each.rho == best and len(found) > 1 and not studies,
            ),
            Entry(_interval(each.interval)),
            Entry(_number(each.tau)),
            Entry(f"{each.right} of {each.pairs}"),
            Entry(f"{each.right_apart} of {each.apart}" if each.interval else ""),
            Entry("" if each.paired is None else f"{each.paired:.0%}".replace("-", "−")),
        ]
        for each in found
    ]
    left_out = {"Rows", "Seeds", "τ", "Pairing removes"} if short else set()
    shown = [i for i, column in enumerate(columns) if column.heading not in left_out]
    entries = [[line[i] for i in shown] for line in entries]
    return Table([columns[i] for i in shown], entries, title, remarks=list(remarks))


REMARKS = (
    "ρ (Spearman) and τ (Kendall) between predictor and published figure: 1 where the order is the same. The "
    "95% interval of ρ covers all orders that agree with the pairs that are significant over seeds (Tukey's "
    "range test); it takes two seeds.",
    "Pairs right: ordered as published, by the means over the seeds. On other studies, pairs of two rows "
    "that the predictor was chosen on do not count. Core-minutes: training until that step and measuring, of "
    "one row with one seed, on one core of the machine that the records name. More GFLOPs and more "
    "parameters count as better.",
    "Pairing removes: the share of the variance between seeds that all rows have in common. Rows share "
    "batches, noise and times, so their differences are free of it.",
    "Mean of standardised bands: in each band the mean of the rows is 0 and their deviation 1. Training "
    "error: mean squared error of the prediction over the steps since the checkpoint before. ln SNR: "
    "logarithm of signal over noise in what the network is given; above 4 there is little noise.",
)


def last_checkpoints(found: Sequence[Agreement]) -> list[Agreement]:
    """Of each study, predictor and protocol the one after the longest training."""
    latest = {
        (each.study, each.protocol, each.predictor): each
        for each in sorted(found, key=lambda each: each.step or 0)
    }
    return [each for each in found if latest[each.study, each.protocol, each.predictor] is each]


def page(
    found: Mapping[str, Sequence[Agreement]], picture: tuple[str, str] | None, target: str = "fid"
) -> Page:
    """The page.

    Args:
        found: agreements by the title of their study, that which is chosen on first.
        picture: file and description of the figure.
    """
    (first, chosen_on), *others = found.items()
    choice = choose([chosen_on, *(each for _, each in others)])
    heading = SCORES[target].heading
    sections = [Section(text=answer(choice, heading))]
    if picture:
        sections.append(Section("Rank correlation against computing", picture=picture))
    remarks = [*REMARKS, *_protocols(chosen_on)]
    sections.append(
        Section(f"Chosen on: {first}", table=agreement_table(last_checkpoints(chosen_on), remarks=remarks))
    )
    rest = [each for _, agreements in others for each in agreements]
    if choice and rest:
        order = list(dict.fromkeys(each.study for each in rest))
        shown = sorted(
            [*choice.held_back, *choice.rivals, *choice.baselines], key=lambda each: order.index(each.study)
        )
        sections.append(
            Section(
                "Held back: studies that had no part in choosing", table=agreement_table(shown, studies=True)
            )
        )
    if judged := judged_at_checkpoints(found, choice):
        sections.append(judged)
    return Page(FILE, f"Small protocols that predict the published {heading}", sections)


def judged_at_checkpoints(found: Mapping[str, Sequence[Agreement]], choice: Choice | None) -> Section | None:
    """What was decided on before, and what was chosen, on the judge's rows; None if none is measured."""
    title = page_title(studies.load(JUDGE))
    names = {*TOLD, *([choice.best.predictor] if choice else [])}
    told = [each for each in found.get(title, []) if each.predictor in names]
    if not told:
        return None
    told += [each for each in found[title] if each.predictor in BASELINES]
    return Section(f"The judge at every checkpoint: {title}", table=agreement_table(told))


def answer(choice: Choice | None, heading: str) -> list[str]:
    """Which protocol to use and how reliable it is, how to use it, and how it fares on rows held back."""
    if choice is None:
        return [
            "Nothing is measured yet that could predict: run `bench ablate components --protocol "
            "proxy-fashion`."
        ]
    best, (rho, low) = choice.best, WANTED
    interval = f"95% interval {_interval(best.interval)}" if best.interval else "one seed, no interval"
    reliable = best.rho >= rho and best.interval is not None and best.interval[0] >= low
    words = "Use" if reliable else "No protocol measured here is reliable for a whole order; the best is"
    texts = [
        f"{words} {_name(best)}: ρ = {_number(best.rho)} with the published {heading} over {best.rows} rows "
        f"({interval}), {best.right} of {best.pairs} pairs in the published order, at "
        f"{best.seconds / 60:.0f} core-minutes a row and seed. Reliable means ρ of at least {rho} and an "
        f"interval above {low}.{_baseline(choice)}",
        f"It is the best of {len(choice.candidates)} candidates (protocol, predictor, checkpoint) by the "
        f"lower end of the interval, so that these figures flatter it. {_judged(choice)}",
    ]
    if best.told_apart:
        column = best.predictor in studies.COLUMNS and best.predictor not in _judges(best.protocol)
        columns = f' columns = ["{best.predictor}"],' if column else ""
        texts.append(
            f"With {len(best.seeds)} seeds, differences in {best.quantity.title.rstrip('↓↑')} above "
            f"{best.told_apart:.2%} are significant: {best.apart} of {best.pairs} pairs, {best.right_apart} "
            f"of them in the published order. For a network of yours, write a study file with{columns} your "
            f"rows and those to compare them with, and run: bench ablate my_study.toml --plugin my_net.py "
            f"--protocol {best.protocol}"
        )
    return texts


def _baseline(choice: Choice) -> str:
    """How costs alone do, which take no training."""
    if not choice.free:
        return ""
    cheap = choice.free[0]
    return (
        f" To compare: {cheap.quantity.heading} alone, without any training, orders these rows at ρ = "
        f"{_number(cheap.rho)}."
    )


def _judged(choice: Choice) -> str:
    held_back = [each for each in choice.held_back if each.pairs]
    if not held_back:
        return "No study that had no part in choosing is measured yet."

    def pairs(found: Iterable[Agreement]) -> str:
        return " of ".join(str(sum(getattr(each, key) for each in found)) for key in ("right", "pairs"))

    names = [each.study for each in held_back]
    baselines = [
        f"{COSTS[name].heading} alone {pairs(cheap)}"
        for name in BASELINES
        if (cheap := [e for e in choice.baselines if e.predictor == name and e.study in names])
    ]
    beside = f" ({', '.join(baselines)})" if baselines else ""
    return (
        f"On studies that had no part in choosing ({', '.join(names)}) it puts {pairs(held_back)} pairs in "
        f"the published order{beside}."
    )


def _name(each: Agreement) -> str:
    return f"{each.quantity.title.rstrip('↓↑')} after {each.step:,} steps of {each.protocol}"


def _judges(protocol: str) -> tuple[str, ...]:
    """What a protocol judges by, as far as it is built in."""
    return protocols.load(protocol).evaluation.judges if protocol in protocols.names() else ()


def _protocols(found: Sequence[Agreement]) -> list[str]:
    """The built-in protocols that predictors were measured by, in words."""
    names = dict.fromkeys(each.protocol for each in found)
    return [f"{name}: {protocols.load(name).title}." for name in names if name in protocols.names()]


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−") if math.isfinite(value) else ""


def _interval(interval: Interval | None) -> str:
    return f"{_number(interval[0])} to {_number(interval[1])}" if interval else ""


def values(found: Iterable[Agreement]) -> list[dict[str, Any]]:
    """Every agreement as plain values; an interval is two of them."""
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
