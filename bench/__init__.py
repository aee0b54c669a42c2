"""What diffusion backbones cost, how fast they run, and how good their images are.

    import bench

    bench.flops("udit-b").paper_gflops                       # 22.22…
    bench.throughput(["udit-s", "dit-s-2"])                  # two results, side by side
    bench.train("udit-t", out="run", protocol="smoke")
    bench.sample("run", out="samples.npz")
    bench.evaluate("samples.npz", "digits.npz").scores["fid"]
    bench.ablate("toy", protocol="smoke")                    # a study's table as a DataFrame
    bench.records.load()                                     # every record as a DataFrame

In a notebook results show themselves as tables. `to_frame()` makes one a DataFrame.

Networks are named, or given as modules. Importing this package imports nothing heavy; what is measured
lives in `registry`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.utils.progress import silent
from bench.version import __version__

if TYPE_CHECKING:
    from bench.api import ablate, evaluate, flops, profile, sample, throughput, train

# Reached as attributes, such as `bench.records`.
_ROOMS = "cost data diffusion metrics records reports sampling speed studies training".split()

__all__ = [
    "__version__",
    "ablate",
    "evaluate",
    "flops",
    "profile",
    "sample",
    "silent",
    "throughput",
    "train",
]


def __dir__() -> list[str]:
    """What `dir(bench)` and completion show."""
    return sorted([*__all__, *_ROOMS])


def __getattr__(name: str) -> Any:
    import importlib

    if name in __all__:
        return getattr(importlib.import_module("bench.api"), name)
    if name in _ROOMS:
        return importlib.import_module(f"bench.{name}")
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
