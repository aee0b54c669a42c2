"""Arithmetic that is switched on and restored."""

from typing import Any

import pytest
import torch
from torch import nn

from bench.utils.precision import autocast, cast_weights, check_precision, tf32
from registry.errors import UsageError


@pytest.mark.parametrize("enabled", [True, False])
def test_tf32_is_switched_as_a_whole_and_restored(enabled: bool) -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with pytest.raises(RuntimeError, match="inside"), tf32(enabled, "cuda:0"):
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is enabled
        raise RuntimeError("inside")
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
    with tf32(True, "cpu"):
        assert torch.backends.cuda.matmul.allow_tf32 is before[0]


@pytest.mark.parametrize("of", ["", "cudnn", "cudnn.conv", "cuda.matmul"])
def test_no_setting_of_a_plugin_survives(of: str) -> None:
    """PyTorch's newer switches come in levels, of which the lower take what the upper have."""

    def found() -> list[str]:
        every = torch.backends
        return [each.fp32_precision for each in (every.cuda.matmul, every.cudnn.conv, every.cudnn.rnn)]

    level = torch.backends
    for name in filter(None, of.split(".")):
        level = getattr(level, name)
    try:
        for setting in ("tf32", "ieee"):
            level.fp32_precision = setting
            before = found()
            for enabled in (False, True):
                with tf32(enabled, "cuda:0"):
                    assert found() == ["tf32" if enabled else "ieee"] * 3
                    assert torch.backends.cuda.matmul.allow_tf32 is enabled  # as the compiler asks
                    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # as extractors do
                        assert "tf32" not in found()[1:]
                assert found() == before
    finally:
        torch.backends.fp32_precision = torch.backends.cudnn.fp32_precision = "none"
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
        torch.backends.cuda.matmul.fp32_precision = "none"
        torch.backends.cudnn.conv.fp32_precision = torch.backends.cudnn.rnn.fp32_precision = "tf32"


def test_autocast() -> None:
    weight = torch.ones(2, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(precision, "cpu"):
            assert (weight @ weight).dtype is dtype
    check_precision("fp16", "cuda")
    with pytest.raises(UsageError, match="fp16 needs a CUDA device, not the cpu"):
        check_precision("fp16", "cpu")


def test_weights_that_other_layers_use_are_not_cast() -> None:
    class Wider(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    layers = [nn.Embedding(3, 2), nn.Linear(2, 3), nn.LayerNorm(3), nn.Conv1d(3, 3, 1), Wider(3, 3)]
    network: Any = nn.Sequential(*layers)
    network[1].weight = network[0].weight
    before = {name: value.clone() for name, value in network.state_dict().items()}
    cast_weights(network, "fp16")
    cast = {name for name, value in network.state_dict().items() if value.dtype == torch.float16}
    assert cast == {"1.bias", *(f"{layer}.{name}" for layer in (3, 4) for name in ("weight", "bias"))}
    assert all(torch.equal(value, before[name].to(value)) for name, value in network.state_dict().items())
