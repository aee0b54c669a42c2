"""The part of a training step after the gradients: their norm, clipping, AdamW, and the average of the
weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def has_average(value: Tensor) -> bool:
    """Whether an entry of a state dict is averaged in training: all except integers."""
    return value.is_floating_point() or value.is_complex()


class Update:
    """The optimizer's part of a training step.

    Args:
        network: in training mode, on its device.
        learning_rate: learning rate of AdamW; `step` may be given another.
        weight_decay, betas: settings of AdamW.
        ema_decay: see the attribute.
        finite_gradients: replace NaN and infinity in the gradients by 0; with a scaler the step is skipped.
        clip: largest gradient norm; None: any.
        scaler: of the loss, for float16; None where the loss is not scaled.

    Attributes:
        ema_decay: decay of the average at the next step.
        optimizer: AdamW, fused where no parameter is complex.
        ema: averaged weights by name; buffers of integers are as they were at the beginning.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        ema_decay: float,
        clip: float | None,
        finite_gradients: bool = False,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=learning_rate,
            weight_decay=weight_decay,
            betas=betas,
            fused=not any(p.is_complex() for p in self.parameters),
        )
        self.clip, self.scaler, self.ema_decay = clip, scaler, ema_decay
        self.finite_gradients = finite_gradients
        # The parameters themselves: what wraps a network for several processes may move their storage.
        weights = network.state_dict(keep_vars=True)
        self.ema = {name: value.detach().clone() for name, value in weights.items()}
        # Pairs of averages and weights.
        moving = [name for name, value in weights.items() if has_average(value)]
        self._averaged = [self.ema[name] for name in moving], [weights[name] for name in moving]

    @torch.no_grad()
    def step(self, learning_rate: float) -> Tensor:
        """Update the weights and their average, and clear the gradients.

        Returns:
            The norm of all gradients before clipping, (); not finite where float16 overflowed, and then the
            weights stay as they are.
        """
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.finite_gradients and self.scaler is None:  # the norm tells that a scaler skips the step
            for gradient in gradients:
                gradient.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        norm = torch.nn.utils.get_total_norm(gradients)
        # On a CPU, clipping a small norm would waste a pass over memory; on a GPU, reading the norm would
        # wait.
        if self.clip is not None and (norm.device.type != "cpu" or norm > self.clip):
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad()
        torch._foreach_lerp_(*self._averaged, 1 - self.ema_decay)
        return norm

    def state(self) -> dict[str, Tensor]:
        """The optimizer's tensors by `<number of the parameter>.<name>`."""
        state: dict[int, dict[str, Any]] = self.optimizer.state_dict()["state"]
        return {f"{i}.{key}": value for i, values in state.items() for key, value in values.items()}

    def load(self, optimizer: dict[str, Tensor], ema: dict[str, Tensor]) -> None:
        """Restore `state()` and `ema`.

        Raises:
            RuntimeError, LookupError, ValueError: they are not of this network.
        """
        for name, value in ema.items():
            self.ema[name].copy_(value)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in optimizer.items():
            i, key = name.split(".")
            parameter = self.parameters[int(i)]
            if value.shape == parameter.shape:  # fused AdamW pairs them by their place in memory
                value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            state.setdefault(int(i), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
