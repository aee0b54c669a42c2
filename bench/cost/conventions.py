"""The price of an operator: which multiply and accumulate, which cost by the paper's convention only, and
which nothing. What is in no table here is told as uncounted.

A handler takes what an operator was given and what it returned, tensors as `Spec`s, and returns operations by
kind. Kinds in `MULTIPLY_ACCUMULATES` count one multiplication and one addition each; the others count in the
paper's convention alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

VERSION = 1  # raised when the same network is counted otherwise; part of each record


@dataclass(frozen=True)
class Spec:
    """What a handler sees of a tensor: the tensor itself may be freed by then.

    Attributes:
        shape: of the tensor.
        counts: whether it is floating point or complex.
    """

    shape: tuple[int, ...]
    counts: bool

    @property
    def elements(self) -> int:
        """How many numbers it holds; integers and booleans are no arithmetic of the network."""
        return math.prod(self.shape) if self.counts else 0


MULTIPLY_ACCUMULATES = {"convolution", "linear", "attention"}

Handler = Callable[[list[Any], list[Any]], Counter[str]]


def _each_output(name: str, times: int = 1) -> Handler:
    """One operation (or `times`) for each output element."""
    return lambda inputs, outputs: Counter({name: times * outputs[0].elements})


def _product(first: int) -> Handler:
    """Matrix product whose left factor is argument `first`: output elements × inner dimension."""
    return lambda inputs, outputs: Counter({"linear": outputs[0].elements * inputs[first].shape[-1]})


def _convolution(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    x, weight, transposed = inputs[0], inputs[1], inputs[6]
    # Each output element (each input element, if transposed) meets one filter without its first axis.
    elements = x.elements if transposed else outputs[0].elements
    return Counter({"convolution": elements * math.prod(weight.shape[1:])})


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    q, k, v = (value.shape for value in inputs[:3])
    logits = math.prod(q[:-1]) * k[-2]
    return Counter({"attention": logits * (q[-1] + v[-1]), "attention scale": logits})


def _affine_norm(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """One for each element, if the norm has a weight (it always comes before any other tensor)."""
    affine = any(isinstance(value, Spec) for value in inputs[1:3])
    return Counter({"affine norm": outputs[0].elements if affine else 0})


HANDLERS: dict[str, Handler] = {
    "aten::convolution": _convolution,
    **{f"aten::{op}": _product(0) for op in ("mm", "bmm", "mv", "dot")},
    **{f"aten::{op}": _product(1) for op in ("addmm", "addmv", "baddbmm", "addbmm")},
    **{
        f"aten::_scaled_dot_product_{kind}": _attention
        for kind in (
            "flash_attention",
            "flash_attention_for_cpu",
            "efficient_attention",
            "cudnn_attention",
            "fused_attention_overrideable",
        )
    },
    "torch::einsum": _each_output("einsum"),
    **{f"aten::{op}": _each_output("product") for op in ("mul", "mul_", "addcmul", "addcmul_")},
    **{
        f"aten::{op}": _affine_norm
        for op in (
            "native_layer_norm",
            "native_batch_norm",
            "_native_batch_norm_legit_no_training",
            "_fused_rms_norm",
        )
    },
    "aten::native_group_norm": _affine_norm,
    **{f"aten::{op}": _each_output("leaky relu") for op in ("leaky_relu", "leaky_relu_")},
    "aten::upsample_bilinear2d": _each_output("interpolation", 4),
    **{f"aten::{op}": _each_output("pooling") for op in ("avg_pool2d", "_adaptive_avg_pool2d", "mean")},
}

# Neither multiply nor accumulate in any convention here: additions, divisions, activation functions,
# reductions, comparisons, and what only moves or makes tensors.
COSTLESS = {
    f"aten::{op}"
    for op in """
    _adaptive_avg_pool1d _conj _local_scalar_dense _log_softmax _reshape_alias _safe_softmax _softmax
    _to_copy _unsafe_view _weight_norm_interface abs add add_ alias all amax amin any argmax as_strided
    bernoulli bernoulli_ bitwise_and bitwise_or ceil channel_shuffle clamp_max clamp_max_ clamp_min
    clamp_min_ clone complex cos cumsum diagonal div div_ elu embedding empty_like empty_permuted
    empty_strided erf exp exp_ expm1 fill fill_ flip floor_ fmod gelu glu hardsigmoid hardswish hardtanh
    index_select isinf isnan le lift_fresh lift_fresh_copy linalg_vector_norm log log1p log2 logical_and
    logical_not logical_or lt masked_select max_pool2d_with_indices maximum min minimum mish
    native_channel_shuffle native_dropout ne neg new_empty_strided new_ones normal_ ones_like pixel_shuffle
    pixel_unshuffle polar pow prelu _prelu_kernel rand rand_like randint randn randn_like real reciprocal
    reflection_pad2d repeat replication_pad2d rsqrt rsqrt_ rsub scalar_tensor scatter sgn sigmoid sigmoid_
    sign silu silu_ sin softplus sort sqrt square std sub sub_ sum tan tanh tanh_ threshold topk tril triu
    unfold uniform_ upsample_nearest1d upsample_nearest2d var var_mean view_as_complex view_as_real where
    zero_
    """.split()
}
