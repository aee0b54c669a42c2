"""Costs of operators: multiply-accumulates, operations that count in the paper's convention only, and none.

An operator in none of these tables is reported as uncounted. An in-place operator (`mul_`) costs the same as
the other form (`mul`).

A handler is given the inputs and outputs of an operator, with tensors as `Spec`s, and returns operations by
kind. Kinds in `MULTIPLY_ACCUMULATES` count one multiply-accumulate each, four for complex numbers (PyTorch
makes three real convolutions of a complex one, which count as such). All other kinds count only in the
paper's convention, one for each output element, complex or not.

Fused attention counts every key, masked or not. A module that computes more keys than a query attends to,
such as local attention in tiles, has an attribute `attended_keys`, the number of keys that are counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

VERSION = 3  # raise it when the counts of a network change; part of each record


@dataclass(frozen=True)
class Spec:
    """What a handler needs to know of a tensor, which may be freed by then.

    Attributes:
        shape: shape of the tensor.
        counts: whether it is floating point or complex.
        complex: whether it is complex.
        layout: how it is stored, such as "strided" or "sparse_coo".
    """

    shape: tuple[int, ...]
    counts: bool
    complex: bool = False
    layout: str = "strided"

    @property
    def elements(self) -> int:
        """Number of elements; 0 for integers and booleans, which are not the network's arithmetic."""
        return math.prod(self.shape) if self.counts else 0


MULTIPLY_ACCUMULATES = {"convolution", "linear", "attention"}

Handler = Callable[[list[Any], list[Any]], Counter[str]]


def _real_products(*factors: Spec) -> int:
    """Products of real numbers in one product of these factors: four if both are complex."""
    return math.prod(2 if factor.complex else 1 for factor in factors)


def _each_output(name: str, times: int = 1) -> Handler:
    """One operation (or `times`) for each output element."""
    return lambda inputs, outputs: Counter({name: times * outputs[0].elements})


def _product(first: int) -> Handler:
    """Matrix product, of integers too, whose left factor is argument `first`: output × inner dimension."""

    def handler(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        left, right = inputs[first : first + 2]
        return Counter({"linear": math.prod(outputs[0].shape) * left.shape[-1] * _real_products(left, right)})

    return handler


def _outer_product(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    return Counter({"linear": outputs[0].elements * _real_products(*inputs[1:3])})


def _summed_products(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """`addbmm`, which adds up the products of a batch."""
    batch, _, inner = inputs[1].shape
    return Counter({"linear": outputs[0].elements * batch * inner * _real_products(*inputs[1:3])})


def _grouped_product(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A matrix product for each group; of two matrices, the inner dimension is what falls into groups."""
    left, right = inputs[:2]
    groups = outputs[0].shape[0] if len(left.shape) == len(right.shape) == 2 else 1
    return Counter({"linear": outputs[0].elements * left.shape[-1] // groups})


def _bilinear(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """x·W·y for each output: a matrix product, then a product of vectors."""
    x, _, y = (value.shape[-1] for value in inputs[:3])
    return Counter({"linear": outputs[0].elements * (x + 1) * y})


def _recurrent(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A layer of an LSTM: at each step the matrices of the input and of the state."""
    steps = math.prod(inputs[0].shape[:-1])
    return Counter({"linear": steps * sum(weight.elements for weight in inputs[1:3])})


def _convolution(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    x, weight, transposed = inputs[0], inputs[1], inputs[6]
    # Each output element (each input element, if transposed) meets one filter without its first axis.
    elements = x.elements if transposed else outputs[0].elements
    return Counter({"convolution": elements * math.prod(weight.shape[1:])})


def _convolution_tbc(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """The weight is (width, channels, output channels)."""
    return Counter({"convolution": outputs[0].elements * math.prod(inputs[1].shape[:2])})


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    q, k, v = (value.shape for value in inputs[:3])
    logits = math.prod(q[:-1]) * k[-2]
    return Counter({"attention": logits * (q[-1] + v[-1]), "attention scale": logits})


def _affine_norm(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """One for each element, if the norm has a weight (it always comes before any other tensor)."""
    affine = any(isinstance(value, Spec) for value in inputs[1:3])
    return Counter({"affine norm": outputs[0].elements if affine else 0})


def _weighted_bags(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Sums of rows that are looked up: with weights, one product for each number of each row."""
    rows, looked_up, weights = inputs[0], inputs[1], inputs[6] if len(inputs) > 6 else None
    weighted = isinstance(weights, Spec)
    return Counter({"weighted sum": math.prod(looked_up.shape) * rows.shape[-1] if weighted else 0})


HANDLERS: dict[str, Handler] = {
    **{f"aten::{op}": _convolution for op in ("convolution", "_convolution")},
    "aten::conv_tbc": _convolution_tbc,
    **{
        f"aten::{op}": _product(0)
        for op in ("mm", "bmm", "mv", "dot", "vdot", "_int_mm", "_scaled_mm", "_scaled_mm_v2")
    },
    **{f"aten::{op}": _product(1) for op in ("addmm", "_addmm_activation", "addmv", "baddbmm")},
    "aten::addbmm": _summed_products,
    "aten::addr": _outer_product,
    **{
        f"aten::{op}": _grouped_product
        for op in ("_grouped_mm", "_scaled_grouped_mm", "_scaled_grouped_mm_v2")
    },
    "aten::_trilinear": _bilinear,
    "aten::mkldnn_rnn_layer": _recurrent,
    "higher_order::flex_attention": _attention,
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
    **{f"aten::{op}": _weighted_bags for op in ("_embedding_bag", "_embedding_bag_forward_only")},
    "torch::einsum": _each_output("einsum"),
    **{f"aten::{op}": _each_output("product") for op in ("mul", "addcmul")},
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
    "aten::leaky_relu": _each_output("leaky relu"),
    "aten::upsample_bilinear2d": _each_output("interpolation", 4),
    **{f"aten::{op}": _each_output("pooling") for op in ("avg_pool2d", "_adaptive_avg_pool2d", "mean")},
}

# Neither multiply nor accumulate in any convention here: additions, divisions, activation functions,
# reductions, comparisons, and what only moves or makes tensors.
COSTLESS = {
    f"aten::{op}"
    for op in """
    _adaptive_avg_pool1d _conj _local_scalar_dense _log_softmax _reshape_alias _safe_softmax _softmax
    _to_copy _unsafe_view _weight_norm_interface abs add alias all amax amin any argmax as_strided bernoulli
    bitwise_and bitwise_or ceil channel_shuffle clamp_max clamp_min clone complex cos cumsum diagonal div
    elu embedding empty_like empty_permuted empty_strided erf exp expm1 eye fill flip fmod gelu glu
    hardsigmoid hardswish hardtanh index_select isinf isnan le lift_fresh lift_fresh_copy linalg_vector_norm
    log log1p log2 logical_and logical_not logical_or lt masked_select max_pool2d_with_indices maximum min
    minimum mish native_channel_shuffle native_dropout ne neg new_empty_strided new_ones normal_ ones_like
    pixel_shuffle pixel_unshuffle polar pow prelu _prelu_kernel rand rand_like randint randn randn_like real
    reciprocal reflection_pad2d repeat replication_pad2d rsqrt rsub scalar_tensor scatter sgn sigmoid sign
    silu sin softplus sort sqrt square std sub sum tan tanh threshold topk tril triu trunc unfold uniform_
    unsafe_split upsample_nearest1d upsample_nearest2d var var_mean view_as_complex view_as_real where zero_
    """.split()
}
