"""What is done with a denoiser, whichever network it is: noising, losses, and loops from noise to samples.

`objective(name)` gives one of

- `ddpm`: noise prediction of the DiT and U-DiT papers, with or without a learned variance (`gaussian.py`),
- `flow`: the straight flow of SiT, velocity prediction (`flow.py`).

No network lives here, and no data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import UsageError, suggest

if TYPE_CHECKING:
    from bench.diffusion.interface import Objective

OBJECTIVES = ("ddpm", "flow")


def objective(name: str) -> Objective:
    """The objective of that name.

    Raises:
        UsageError: there is none.
    """
    if name == "ddpm":
        from bench.diffusion.gaussian import DDPM

        return DDPM()
    if name == "flow":
        from bench.diffusion.flow import Flow

        return Flow()
    raise UsageError(f"unknown objective {name!r}.{suggest(name, list(OBJECTIVES))} It is ddpm or flow.")
