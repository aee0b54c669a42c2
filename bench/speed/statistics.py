"""Fair comparison of timings: turns that alternate, and a paired ratio with its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from scipy.stats import binom

from bench.utils.progress import Progress, silent

T = TypeVar("T")

LEAST_ROUNDS = 6  # with fewer rounds no interval of a median reaches 95%


def interleave(turns: Sequence[Callable[[], T]], rounds: int, progress: Progress = silent) -> list[list[T]]:
    """The results of every turn in every round. Each round starts with the next turn."""
    results: list[list[T]] = [[] for _ in turns]
    for round_ in range(rounds):
        progress("timing", round_, rounds)
        for i in range(len(turns)):
            place = (round_ + i) % len(turns)
            results[place].append(turns[place]())
    return results


def paired_ratio(
    first: Sequence[float], other: Sequence[float], turn: int
) -> tuple[float, tuple[float, float]]:
    """How many times as fast `other` is as `first`, with a 95% confidence interval.

    Rounds are paired, and the geometric mean is taken over blocks of `turn` rounds, in which each network had
    each position. The ratio is the median over the blocks. Its interval contains those of the bootstrap and
    of the sign test, which makes no assumption on the distribution. On a busy machine, neighbouring rounds
    are correlated, so it also contains the sign test's intervals over blocks of 2, 4, 8, … times the length.

    Args:
        first, other: seconds of the same number of rounds, at least 6.
        turn: number of rounds until the order repeats; blocks are shorter if there would be too few.
    """
    logs = np.log(np.asarray(first, float) / np.asarray(other, float))
    length = max(1, min(turn, len(logs) // LEAST_ROUNDS))
    blocks = _means(logs, length)
    resampled = np.random.default_rng(0).choice(blocks, (4000, len(blocks)))
    bounds = [tuple(np.quantile(np.median(resampled, axis=1), (0.025, 0.975)))]
    while len(logs) // length >= LEAST_ROUNDS:
        bounds.append(sign_interval(_means(logs, length)))
        length *= 2
    low, high = min(b[0] for b in bounds), max(b[1] for b in bounds)
    return float(np.exp(np.median(blocks))), (float(np.exp(low)), float(np.exp(high)))


def _means(values: Any, length: int) -> Any:
    """Means of consecutive blocks; the rounds that fill no block are left out at the start."""
    return values[len(values) % length :].reshape(-1, length).mean(axis=1)


def sign_interval(values: Any) -> tuple[float, float]:
    """The k-th smallest and k-th largest value, with the largest k for which they contain the median with 95%
    confidence.

    Args:
        values: at least 6.
    """
    # With probability P(B < k), B ~ Binomial(n, 1/2), the median is below the k-th smallest.
    k = int(binom.ppf(0.025, len(values), 0.5))
    ordered = np.sort(values)
    return float(ordered[k - 1]), float(ordered[-k])
