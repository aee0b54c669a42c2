"""Layers that several families share. A layer of one family is in that family's file."""

from collections.abc import Callable
from typing import Any

import torch


def _assume_constant_result(function: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch's decorator without the import of Dynamo, which takes as long as importing PyTorch."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


torch.compiler.assume_constant_result = _assume_constant_result
