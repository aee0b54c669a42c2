"""Classes of operators by which a profile reports time, matched to those that `bench.cost` counts."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from bench.cost.conventions import HANDLERS
from bench.records.schema import Cost

CLASSES = {
    "convolution": """conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
        _convolution""",
    "linear": "linear matmul mm bmm addmm baddbmm addbmm mv addmv dot",
    "norm": """layer_norm group_norm batch_norm rms_norm instance_norm native_layer_norm native_group_norm
        native_batch_norm _fused_rms_norm linalg_vector_norm norm""",
    "elementwise": """add addcmul addcdiv sub rsub mul multiply div neg pow square sqrt rsqrt reciprocal exp
        log sin cos clamp clamp_min clamp_max maximum minimum where lerp mean sum""",
    "activation": """silu gelu relu leaky_relu elu mish sigmoid tanh softplus hardswish softmax _softmax
        prelu glu""",
    "copy and layout": """copy clone contiguous to _to_copy cat stack reshape view permute transpose chunk
        split unbind select slice expand squeeze unsqueeze flatten unflatten pixel_shuffle pixel_unshuffle
        pad constant_pad_nd repeat roll upsample_nearest2d upsample_bilinear2d zeros ones empty
        zeros_like ones_like""",
}
_CLASS_OF = {f"aten::{op}": name for name, ops in CLASSES.items() for op in ops.split()}
# Where PyTorch does not fuse it, attention is matrix products, here as there.
_CLASS_OF |= {op: "attention" for op in HANDLERS if "scaled_dot_product" in op}


def operator_class(event: Any) -> str:
    """Class of an event: that of the outermost operator it is part of that has one."""
    name, shapes = "other", []
    while event is not None:
        if kind := _CLASS_OF.get(event.name.rstrip("_")):
            name, shapes = kind, event.input_shapes
        event = event.cpu_parent
    if name != "convolution" or len(shapes) < 2 or not shapes[1]:
        return name
    return convolution_class(shapes[0][1 - len(shapes[1])], shapes[1])


def convolution_class(channels: int, weight: list[int]) -> str:
    """Kind of a convolution, from its input channels and the weight's shape (out, in / groups, …)."""
    if weight[1] == 1 and channels > 1:
        return "depthwise convolution"
    return "1×1 convolution" if all(side == 1 for side in weight[2:]) else "other convolution"


def operator_macs(
    cost: Cost, deployed: nn.Module, seconds: dict[str, float]
) -> tuple[dict[str, int], dict[str, float]]:
    """Multiply-accumulates and seconds by operator; kinds of convolutions are separated where both are
    known."""
    macs = Counter({part.name: part.macs for part in cost.operators if part.macs})
    kinds: Counter[str] = Counter()
    for part in cost.modules:
        module = deployed.get_submodule(part.name)
        if isinstance(module, nn.modules.conv._ConvNd):
            kinds[convolution_class(module.in_channels, [*module.weight.shape])] += part.macs
    if kinds.total() == macs["convolution"]:
        del macs["convolution"]
        return dict(macs + kinds), seconds
    # Some are in no convolution module, so their kind is not cost.
    apart = {name: took for name, took in seconds.items() if name.endswith("convolution")}
    together = {name: took for name, took in seconds.items() if name not in apart}
    return dict(macs), together | {"convolution": sum(apart.values())}
