"""Arithmetic that is switched on and restored."""

import pytest
import torch

from bench.utils.precision import autocast, check_precision, tf32
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


def test_autocast() -> None:
    weight = torch.ones(2, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(precision, "cpu"):
            assert (weight @ weight).dtype is dtype
    check_precision("fp16", "cuda")
    with pytest.raises(UsageError, match="fp16 needs a CUDA device, not the cpu"):
        check_precision("fp16", "cpu")
