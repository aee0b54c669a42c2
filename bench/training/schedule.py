"""The learning rate of each step."""

from __future__ import annotations

import math

from bench.records.schema import TrainingSettings


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """The rate of a step, counted from 0; see `TrainingSettings.learning_rate_schedule`."""
    rate = settings.learning_rate * min(1.0, (step + 1) / (settings.warmup + 1))
    match settings.learning_rate_schedule:
        case "cosine":
            return rate * (1 + math.cos(math.pi * step / settings.steps)) / 2
        case "linear":
            return rate * (1 - step / settings.steps)
        case "inverse-sqrt":
            return rate / math.sqrt(max(step / (settings.decay_steps or 1), 1))
    return rate
