"""The part of a training step after the gradients: their norm, clipping, AdamW, and the average of the
weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Places = dict[str, tuple[dict[str, Any], str]]


def places(network: nn.Module) -> Places:
    """Where a network holds the entries of its state dict: a table of one of its modules, and the key there.

    Entries that a hook makes are left out: they are no parameter or buffer.
    """
    held = {
        id(value): (table, key)
        for module in network.modules()
        for table in (module._parameters, module._buffers)
        for key, value in table.items()
    }
    entries = network.state_dict(keep_vars=True)
    return {name: held[id(value)] for name, value in entries.items() if id(value) in held}


def current(places: Places) -> dict[str, Tensor]:
    """The tensors that are there now. A forward pass may assign a buffer anew."""
    return {name: table[key] for name, (table, key) in places.items()}


def averaged(network: nn.Module) -> Places:
    """The places of what is averaged in training.

    Not averaged are integers, and what holds an infinity, as a mask of attention does.
    """
    found = places(network)
    numbers = {name: v for name, v in current(found).items() if v.is_floating_point() or v.is_complex()}
    return {name: found[name] for name, v in numbers.items() if v.requires_grad or v.isfinite().all()}


def start(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Averages that begin at the weights, in float32 or wider: in half precision small moves are lost."""
    return {
        name: value.detach().to(torch.promote_types(value.dtype, torch.float32), copy=True)
        for name, value in weights.items()
    }


def move(averages: dict[str, Tensor], weights: dict[str, Tensor], share: float) -> None:
    """Move averages to the weights by a share of the distance, in place."""
    kept = list(averages.values())
    torch._foreach_lerp_(
        kept, [value.to(average.dtype) for average, value in zip(kept, weights.values(), strict=True)], share
    )


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
        averages: averaged weights by name; see `averaged`.
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
        self._network, self._places = network, averaged(network)
        self.averages = start(current(self._places))

    @property
    def ema(self) -> dict[str, Tensor]:
        """A state dict of the network with the averaged weights; what is not averaged is as it is now."""
        return {k: self.averages.get(k, v.detach()) for k, v in self._network.state_dict().items()}

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
        move(self.averages, current(self._places), 1 - self.ema_decay)
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
        for name, value in self.averages.items():
            value.copy_(ema[name])
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in optimizer.items():
            i, key = name.split(".")
            parameter = self.parameters[int(i)]
            if value.shape == parameter.shape:  # fused AdamW pairs them by their place in memory
                value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            state.setdefault(int(i), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
