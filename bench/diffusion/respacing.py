"""Which of the training steps a shorter sampling loop visits (Improved DDPM's and DiT's released program)."""

from __future__ import annotations

import itertools
import re

from registry.errors import UsageError
from registry.schedules import NUM_TRAIN_TIMESTEPS


def respaced_timesteps(respacing: str) -> list[int]:
    """The training steps of a shorter process, ascending.

    Args:
        respacing: `"250"`: 250 steps from the first to the last, evenly spaced up to rounding; `"ddim50"`:
            every 20th step from 0, where 20 is the smallest whole stride that gives exactly 50 steps.

    Raises:
        UsageError: there is no such respacing.
    """
    match = re.fullmatch(r"(ddim)?(\d+)", respacing)
    count = int(match[2]) if match else 0
    if not match or not 1 <= count <= NUM_TRAIN_TIMESTEPS:
        raise UsageError(
            f"respacing {respacing!r} is neither a number of steps, 1 … {NUM_TRAIN_TIMESTEPS}, nor ddimN"
        )
    if match[1]:
        for every in range(1, NUM_TRAIN_TIMESTEPS + 1):
            timesteps = range(0, NUM_TRAIN_TIMESTEPS, every)
            if len(timesteps) == count:
                return list(timesteps)
        raise UsageError(f"no integer stride over {NUM_TRAIN_TIMESTEPS} steps gives exactly {count}")
    # The stride is added up, not multiplied: in float64 that moves a step for 283 of the counts, first 21.
    stride = (NUM_TRAIN_TIMESTEPS - 1) / max(count - 1, 1)
    return [round(position) for position in itertools.accumulate([0.0] + [stride] * (count - 1))]
