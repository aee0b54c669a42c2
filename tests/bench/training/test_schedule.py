"""The rate at chosen steps, by its formula."""

from typing import Any

import pytest

from bench.records.schema import TrainingSettings
from bench.training.schedule import learning_rate


def rates(steps: list[int], **settings: Any) -> list[float]:
    known = {"steps": 100, "batch_size": 1, "learning_rate": 2.0, "ema_decay": 0.9}
    return [learning_rate(TrainingSettings(**known | settings), step) for step in steps]


def test_schedules() -> None:
    assert rates([0, 99]) == [2.0, 2.0]
    assert rates([0, 1, 3, 4], warmup=3) == [0.5, 1.0, 2.0, 2.0]
    assert rates([0, 50, 75, 100], learning_rate_schedule="linear") == [2.0, 1.0, 0.5, 0.0]
    cosine = rates([0, 50, 75, 100], learning_rate_schedule="cosine")
    assert cosine == pytest.approx([2.0, 1.0, 1 - 2**-0.5, 0.0], abs=1e-12)
    slow = rates([0, 10, 40, 90], learning_rate_schedule="inverse-sqrt", decay_steps=10)
    assert slow == pytest.approx([2.0, 2.0, 1.0, 2 / 3])


def test_the_steps_count_where_the_rate_depends_on_them() -> None:
    known = {"batch_size": 1, "learning_rate": 1.0, "ema_decay": 0.9}
    for schedule, same in [("constant", True), ("cosine", False), ("linear", False)]:
        one, other = (
            TrainingSettings(steps=steps, learning_rate_schedule=schedule, **known) for steps in (10, 20)
        )
        assert (one.trajectory() == other.trajectory()) is same
