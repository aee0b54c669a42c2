"""Nominal peaks of GPUs from their makers, to which papers compare.

Dense products (without sparsity) at the boost clock, from NVIDIA's data sheets; tf32, bf16 and fp16 on tensor
cores with sums in float32. A slice of a GPU (MIG) has another name, and no peak here.
"""

from __future__ import annotations

# TFLOP/s of fp32, tf32, bf16 and fp16; None where there is none.
_TERAFLOPS: dict[str, tuple[float | None, ...]] = {
    "Tesla V100-SXM2-16GB": (15.7, None, None, 125),
    "Tesla V100-SXM2-32GB": (15.7, None, None, 125),
    "NVIDIA A10": (31.2, 62.5, 125, 125),
    "NVIDIA A100-PCIE-40GB": (19.5, 156, 312, 312),
    "NVIDIA A100-SXM4-40GB": (19.5, 156, 312, 312),
    "NVIDIA A100 80GB PCIe": (19.5, 156, 312, 312),
    "NVIDIA A100-SXM4-80GB": (19.5, 156, 312, 312),
    "NVIDIA L4": (30.3, 60, 121, 121),
    "NVIDIA L40S": (91.6, 183, 362, 362),
    "NVIDIA H100 PCIe": (51, 378, 756, 756),
    "NVIDIA H100 80GB HBM3": (67, 494.5, 989, 989),
    "NVIDIA H200": (67, 494.5, 989, 989),
}
_DTYPES = ("fp32", "tf32", "bf16", "fp16")


def nominal_flops(name: str, dtype: str) -> float | None:
    """FLOP/s of a GPU by PyTorch's name for it; None where unknown."""
    teraflops = dict(zip(_DTYPES, _TERAFLOPS.get(name, ()), strict=False)).get(dtype)
    return None if teraflops is None else teraflops * 1e12
