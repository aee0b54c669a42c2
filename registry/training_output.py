"""Further outputs of a network in training mode: a learned variance, and additional losses."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class TrainingOutput(NamedTuple):
    """What `forward` may return in training mode instead of a tensor. In eval mode it returns a tensor.

    Attributes:
        prediction: (N, C_out, H, W).
        log_variance: (N,) learned logarithm u of the variance of each sample's error, or None. With it the
            loss is loss / exp(u) + u (EDM2, arXiv 2312.02696, Eq. 22).
        losses: further terms of the loss by name, (N,) each.
    """

    prediction: Tensor
    log_variance: Tensor | None = None
    losses: dict[str, Tensor] = {}  # noqa: RUF012


def prediction_of(output: Any) -> Any:
    """The prediction in an output of `forward`."""
    return output.prediction if isinstance(output, TrainingOutput) else output


def parts_of(output: Any) -> list[Tensor]:
    """All tensors in an output of `forward`; gradients flow through each."""
    if not isinstance(output, TrainingOutput):
        return [output]
    learned = [] if output.log_variance is None else [output.log_variance]
    return [output.prediction, *learned, *output.losses.values()]
