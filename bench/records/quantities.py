"""Quantities: what records hold, how each is headed and printed, and which way is better.

Scores are quantities too; they stand in `bench.metrics.scores`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True)
class Quantity:
    """One number that tables show.

    Attributes:
        name: of the column in a study, and in JSON.
        heading: of its column.
        higher_is_better: None where neither is.
        digits: after the point, as far as they mean something; see `text`.
        unit: in which it is printed, `""` for none.
        scale: what a value is multiplied by for that unit.
        field: of the result that holds it; by default `name`.
    """

    name: str
    heading: str
    higher_is_better: bool | None
    digits: int = 2
    unit: str = ""
    scale: float = 1.0
    field: str = ""

    @property
    def title(self) -> str:
        """The heading with its unit: `Memory (MiB)`."""
        return f"{self.heading} ({self.unit})" if self.unit else self.heading

    def text(self, value: float | None) -> str:
        """A value as printed, without its unit; `""` of None.

        A value so small that `digits` would leave fewer than two significant ones gets two.
        """
        if value is None:
            return ""
        return decimals(value * self.scale, self.digits)


Kind = TypeVar("Kind", bound=Quantity, covariant=True)


class Quantities(Mapping[str, Kind]):
    """Quantities by name, as they are at each call: a plugin may add a score at any time.

    Args:
        collect: makes them.
    """

    def __init__(self, collect: Callable[[], Mapping[str, Kind]]) -> None:
        self._collect = collect

    def __getitem__(self, name: str) -> Kind:
        return self._collect()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._collect())

    def __len__(self) -> int:
        return len(self._collect())

    def items(self) -> ItemsView[str, Kind]:
        """Names and quantities, collected once."""
        return self._collect().items()

    def values(self) -> ValuesView[Kind]:
        """Quantities, collected once."""
        return self._collect().values()


def decimals(value: float, digits: int) -> str:
    """A number with so many digits after the point, or more where two significant ones take more."""
    if math.isfinite(value) and value and abs(value) < 10 ** (1 - digits):
        digits = 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{digits}f}"


def span(low: float | None, high: float | None) -> str:
    """A band of ln SNR in words."""
    if low is None or high is None:
        return f"> {low:g}" if high is None else f"< {high:g}".replace("-", "−")
    return f"{low:g}…{high:g}".replace("-", "−")


COSTS: dict[str, Quantity] = {
    quantity.name: quantity
    for quantity in (
        Quantity("params", "Params", False, unit="M", scale=1e-6, field="parameters"),
        Quantity(
            "params_deployed",
            "Params, merged for inference",
            False,
            unit="M",
            scale=1e-6,
            field="parameters_deployed",
        ),
        Quantity("gflops", "GFLOPs", False, field="paper_gflops"),
        Quantity("macs", "GMACs", False, scale=1e-9, field="macs"),
        Quantity("memory", "Memory", False, unit="MiB", scale=2**-20, field="activation_bytes"),
    )
}
SPEEDS: dict[str, Quantity] = {
    quantity.name: quantity
    for quantity in (
        Quantity("images_per_second", "Images/s", True, digits=1),
        Quantity("peak_bytes", "Peak", False, digits=1, unit="MiB", scale=2**-20),
    )
}
LOSS = Quantity("loss", "Training loss↓", False, digits=4)
# Mean over the training steps since the previous checkpoint.
TRAINING_ERROR = Quantity("training_error", "Training error↓", False, digits=5)
BANDS = (
    (4.0, None),
    (2.0, 4.0),
    (0.0, 2.0),
    (-2.0, 0.0),
    (-4.0, -2.0),
    (None, -4.0),
)  # of ln SNR, (from, to)
HELD_OUT: dict[str, Quantity] = {
    quantity.name: quantity
    for quantity in (
        Quantity("held_out", "Held-out loss↓", False, digits=5),
        *(
            Quantity(f"held_out_{number}", f"ln SNR {span(*band)}↓", False, digits=5)
            for number, band in enumerate(BANDS, 1)
        ),
    )
}
