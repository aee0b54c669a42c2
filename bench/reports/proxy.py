"""The page on small protocols: which of them orders networks as full training does, and how sure that is.

The predictor is chosen on the first study and judged on the others, whose rows had no part in choosing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    import pandas as pd

STUDIES = ("components", "downsampler", "toy", "leaderboard", "dico-components")  # chosen on the first
JUDGE = STUDIES[-1]  # rows of one size, whose cost says little
# What is told of the judge's rows at every checkpoint, beside the predictor that was chosen.
TOLD = ("held_out", AVERAGED.name, STANDARDISED.name, TRAINING_ERROR.name)
FILE = "proxy"
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
    found: Sequence[Agreement], title: str = "", remarks: Sequence[str] = (), *, studies: bool = False
) -> Table:
    """One line an agreement; the highest ρ of one study is marked.

    Args:
        studies: whether the first column tells the study, and not the predictor; it does where there are
            several.
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
        Column("95% by seeds"),
        Column("95% by images"),
        Column("τ"),
        Column("Pairs right"),
        Column("of those apart"),
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
            Entry(_number(each.rho), each.rho == best and len(found) > 1 and not studies),
            Entry(_interval(each.rho_by_seeds)),
            Entry(_interval(each.rho_by_images)),
            Entry(_number(each.tau)),
            Entry(f"{each.right} of {each.pairs}"),
            Entry(f"{each.right_apart} of {each.apart}" if each.rho_by_seeds else ""),
            Entry("" if each.paired is None else f"{each.paired:.0%}".replace("-", "−")),
        ]
        for each in found
    ]
    return Table(columns, entries, title, remarks=list(remarks))


REMARKS = (
    "ρ (Spearman) and τ (Kendall) between predictor and published figure, 1 where the order is the same. By "
    "seeds: over all orders that keep every pair of rows told apart by Tukey's range test; it takes two "
    "seeds. By images: resampled groups of held-out images with the seeds as they are, which says nothing of "
    "other seeds.",
    "Pairs right: decided as published, by the means over the seeds; pairs of two rows that were chosen on "
    "do not count on other studies. Of those apart: of the pairs that seeds tell apart. Core-minutes: "
    "training until that step and measuring, of one row with one seed, on one core of the machine that the "
    "records name. More GFLOPs and more parameters count as better.",
    "Pairing removes: the share of the variance between seeds that all rows have in common, for cells of one "
    "seed share batches, noise and times. A difference of two rows with the same seeds is free of it.",
    "Mean of standardised bands: in each band the mean of the rows is 0 and their deviation 1. Training "
    "error: mean squared error of the prediction over the steps since the checkpoint before.",
    "ln SNR: logarithm of signal over noise in what the network is given: above 4 little noise, below −4 "
    "little else.",
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
    """Which protocol to use, how sure one can be, and what an hour buys."""
    if choice is None:
        return [
            "Nothing is measured yet that could predict: run `bench ablate components --protocol "
            "proxy-fashion`."
        ]
    best, (rho, low) = choice.best, WANTED
    interval = best.rho_by_seeds
    reliable = best.rho >= rho and interval is not None and interval[0] >= low
    sure = (
        f"95% interval {_interval(interval)} by seeds" if interval else "one seed, hence no interval by seeds"
    )
    words = "Use" if reliable else "No protocol measured here can be relied on for a whole order; the best is"
    texts = [
        f"{words} {_name(best)}: ρ = {_number(best.rho)} with the published {heading} over {best.rows} rows "
        f"({sure}), {best.right} of {best.pairs} pairs decided rightly, at {best.seconds / 60:.0f} minutes "
        f"of one core a row and seed: an hour of one core measures {_times(3600 / best.seconds)}. It is the "
        f"best of {choice.candidates} candidates (protocol, predictor, checkpoint), so that its own figure "
        "flatters it; the rows held back are the judge. Chosen is what is surest, by the lower end of its "
        "interval by seeds; what was measured with one seed has none."
    ]
    if best.told_apart:
        ranks = best.predictor in _judges(best.protocol)
        if ranks:
            columns, shown = "", "is ordered by that"
        elif best.predictor in studies.COLUMNS:
            columns, shown = f' columns = ["{best.predictor}"],', "shows that"
        else:
            columns, shown = "", "does not show that, but its records hold what that is computed from"
        texts.append(
            f"With {len(best.seeds)} seeds it tells two rows apart whose {best.quantity.title.rstrip('↓↑')} "
            f"differ by {best.told_apart:.2%}: {best.apart} of the {best.pairs} pairs, {best.right_apart} of "
            f"them as published. For a network of yours, write a study file with{columns} your "
            f"rows and those that they are to be compared with, and run (its table {shown}): bench ablate "
            f"my_study.toml --plugin my_net.py --protocol {best.protocol}"
        )
    texts += _judged(choice)
    if choice.promising:
        texts.append(_promise(choice.promising, choice.rivals))
    if not reliable:
        texts.append(
            f"To rely on a protocol takes ρ of at least {rho} whose interval by seeds stays above {low}. "
            f"{_obstacle(choice)}"
        )
    return texts


def _obstacle(choice: Choice) -> str:
    """What stands in the way of relying on it."""
    best = choice.best
    if best.rho_by_seeds is None:
        return "One seed tells no rows apart: take two or more."
    wrong = best.apart - best.right_apart
    beyond = sum(each.apart - each.right_apart for each in choice.held_back)
    texts = []
    if best.apart < best.pairs:
        texts.append(
            f"{best.pairs - best.apart} of its {best.pairs} pairs lie closer than its seeds tell apart, "
            "which takes more of them or longer training."
        )
    if wrong or beyond:
        texts.append(
            f"Decided wrongly, of the pairs that seeds do tell apart: {wrong}, and {beyond} on rows held "
            "back. There the task is another one than the published, which no number of seeds mends."
        )
    return " ".join(texts)


def _judged(choice: Choice) -> list[str]:
    held_back = [each for each in choice.held_back if each.pairs]
    if not held_back:
        return ["Of the rows held back none is measured yet."]
    right, pairs = (sum(getattr(each, key) for each in held_back) for key in ("right", "pairs"))
    studies = [each.study for each in held_back]
    words = f"On rows held back ({', '.join(studies)}) it decides {right} of {pairs} pairs"
    for name in BASELINES:
        cheap = [each for each in choice.baselines if each.predictor == name and each.study in studies]
        right, pairs = (sum(getattr(each, key) for each in cheap) for key in ("right", "pairs"))
        words += f", {COSTS[name].heading} alone {right} of {pairs}" if cheap else ""
    return [f"{words}."]


def _promise(best: Agreement, others: Sequence[Agreement]) -> str:
    """What one seed promises, and no interval backs."""
    text = (
        f"Better so far, but measured with one seed: {_name(best)}, ρ = {_number(best.rho)}, {best.right} of "
        f"{best.pairs} pairs"
    )
    if held_back := [each for each in others if _name(each) == _name(best) and each.pairs]:
        right, pairs = (sum(getattr(each, key) for each in held_back) for key in ("right", "pairs"))
        text += f", and {right} of {pairs} on rows held back"
    return f"{text}. More seeds tell whether that holds."


def _name(each: Agreement) -> str:
    return f"{each.quantity.title.rstrip('↓↑')} after {each.step:,} steps of {each.protocol}"


def _judges(protocol: str) -> tuple[str, ...]:
    """What a protocol judges by, as far as it is built in."""
    return protocols.load(protocol).evaluation.judges if protocol in protocols.names() else ()


def _protocols(found: Sequence[Agreement]) -> list[str]:
    """The built-in protocols that predictors were measured by, in words."""
    names = dict.fromkeys(each.protocol for each in found)
    return [f"{name}: {protocols.load(name).title}." for name in names if name in protocols.names()]


def _times(rows: float) -> str:
    return f"{rows:.0f} rows once" if rows >= 2 else "one row once" if rows >= 1 else "less than a row"


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−") if math.isfinite(value) else ""


def _interval(interval: Interval | None) -> str:
    return f"{_number(interval[0])} to {_number(interval[1])}" if interval else ""


def frame(found: Iterable[Agreement]) -> pd.DataFrame:
    """Every agreement as numbers, one row each."""
    import pandas as pd

    return pd.DataFrame(values(found), dtype=object)


def values(found: Iterable[Agreement]) -> list[dict[str, Any]]:
    """The rows of `frame` as plain values for JSON; an interval is two of them."""
    rows = []
    for each in found:
        row: dict[str, Any] = {}
        for key, value in asdict(each).items():
            if key.startswith(("rho_by", "tau_by")):
                row |= dict(zip((f"{key} low", f"{key} high"), value or (None, None), strict=True))
            elif key == "seeds":
                row[key] = " ".join(map(str, value))
            else:
                row[key] = None if isinstance(value, float) and not math.isfinite(value) else value
        rows.append(row)
    return rows
