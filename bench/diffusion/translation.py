"""Training a network under an objective other than its natural one: a change of variables at equal SNR.

Networks differ in what they are given and in what they predict (`registry.Backbone.objective`). Under another
objective the network is still called in its own variables, and its prediction is converted to what the
objective needs. So the held-out loss does not depend on the parametrisation.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bench.diffusion.base import Objective
from registry.errors import UsageError
from registry.training_output import TrainingOutput
from registry.variables import Variables, natural, through
from registry.wrapping import Wrapped


class Translated:
    """A network as an objective calls it; all other attributes are those of the network.

    Args:
        network: the network.
        called: the module to call if it is not the network, such as its wrapper for several processes.
        given: the parametrisation of the objective.
        own: the parametrisation of the network.
    """

    def __init__(self, network: Any, called: Any, given: Variables, own: Variables) -> None:
        self.network, self.called, self.given, self.own = network, called, given, own
        self.code_of = getattr(network, "code_of", network)
        self.out_channels = network.in_channels  # a variance range is of the network's own process

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor | TrainingOutput:
        """x (N, C, H, W), t (N,), y (N,) -> the objective's prediction (N, C, H, W)."""
        more = None

        def predict(x: Tensor, t: Tensor) -> Tensor:
            nonlocal more
            output = self.called(x, t, y)
            if isinstance(output, TrainingOutput):
                more, output = output, output.prediction
            return output[:, : self.out_channels]

        prediction = through(predict, x, t, given=self.given, own=self.own)
        return prediction if more is None else more._replace(prediction=prediction)


def translated(network: Any, objective: Objective, called: Any = None) -> Any:
    """A network as an objective calls it: `Translated` if its natural objective is another one, else itself.

    A network of this package can be trained for any prediction at its own kind of time, such as v-prediction
    or another β schedule. A network of `registry.wrap` keeps the prediction that it declares. A user's own
    objective calls every network unchanged, unless its class sets `variables`.

    Args:
        network: with the contract's attributes; anything else is returned as it is.
        called: what is called in its place.

    Raises:
        UsageError: the network's natural objective is a user's own, which is not the one given.
    """
    called = network if called is None else called
    given = objective.variables if "variables" in vars(type(objective)) else None
    declared = getattr(network, "objective", objective.name)
    if given is None or (declared == objective.name and not isinstance(network, Wrapped)):
        return called
    own = natural(declared, network.beta_schedule)
    if own is None:
        raise UsageError(
            f"{network.name} is made for objective {declared!r}, which does not state its variables: it "
            f"cannot be used under {objective.name!r}"
        )
    return called if given == own else Translated(network, called, given, own)
