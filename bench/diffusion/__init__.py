"""What is done with a denoiser, whichever it is: objectives to train it by, samplers to sample from it.

    import bench.diffusion

    ddpm = bench.diffusion.objective("ddpm", beta_schedule="cosine", prediction_type="v_prediction")
    x_t = ddpm.add_noise(x0, noise, t)
    losses = ddpm.losses(network(x_t, t, y), x0, noise, x_t, t)["loss"]

    ddim = bench.diffusion.sampler("ddim")
    denoiser = guided(network, labels, cfg_scale=1.5)  # of bench.diffusion.guidance
    samples = ddim.sample(ddpm, denoiser, x, noise=lambda step: torch.randn_like(x), steps="ddim50")

    @bench.diffusion.samplers.register("my-euler")
    class MyEuler(bench.diffusion.Sampler): ...

Both are plugins: `objectives` and `samplers` list names without importing torch. No network lives here, and
no data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.errors import UsageError
from registry.plugins import Registry

if TYPE_CHECKING:
    from bench.diffusion.base import Denoiser, Noise, Objective, Sampler
    from bench.diffusion.ddpm import PredictionType
    from bench.diffusion.schedules import BetaSchedule

__all__ = [
    "Denoiser",
    "Noise",
    "Objective",
    "Sampler",
    "check_sampler",
    "objective",
    "objectives",
    "sampler",
    "samplers",
    "samplers_for",
]

objectives = Registry("objective", group="bench.objectives", base="bench.diffusion.base.Objective")
objectives.discover("bench.diffusion")

samplers = Registry("sampler", group="bench.samplers", base="bench.diffusion.base.Sampler")
samplers.discover("bench.diffusion")


def objective(
    name: str,
    *,
    beta_schedule: BetaSchedule = "linear",
    prediction_type: PredictionType = "epsilon",
    min_snr_gamma: float | None = None,
    zero_terminal_snr: bool = False,
) -> Objective:
    """The objective of that name.

    Args:
        name: any registered name, case and separators forgiven; `objectives.names()` lists them.
        beta_schedule, prediction_type, min_snr_gamma, zero_terminal_snr: see `bench.diffusion.ddpm.DDPM`.
            An objective without such an option takes its default alone.

    Raises:
        UsageError: unknown name, an option that the objective does not have, or a value that it cannot take.
    """
    from bench.diffusion.base import Objective

    defaults = {
        "beta_schedule": "linear",
        "prediction_type": "epsilon",
        "min_snr_gamma": None,
        "zero_terminal_snr": False,
    }
    options = {
        "beta_schedule": beta_schedule,
        "prediction_type": prediction_type,
        "min_snr_gamma": min_snr_gamma,
        "zero_terminal_snr": zero_terminal_snr,
    }
    title, known = objectives.find(name).name, objectives.options(name)
    for option in options.keys() - known.keys():
        if options.pop(option) != defaults[option]:
            raise UsageError(f"objective {title} has no {option}: leave it out")
    made: Objective = _make(objectives, Objective, name, options)
    return made


def sampler(name: str) -> Sampler:
    """The sampler of that name; `samplers.names()` lists them.

    Raises:
        UsageError: there is none.
    """
    from bench.diffusion.base import Sampler

    made: Sampler = _make(samplers, Sampler, name, {})
    return made


def check_sampler(objective_name: str, sampler_name: str, steps: str) -> int:
    """Network evaluations of a sampling loop; see `Sampler.check`.

    Raises:
        UsageError: unknown names, a sampler for other objectives, or steps that it cannot take.
    """
    return sampler(sampler_name).check(objectives.find(objective_name).name, steps)


def samplers_for(objective_name: str) -> list[str]:
    """Names of the samplers that work for an objective."""
    title = objectives.find(objective_name).name
    return [name for name in samplers.names() if title in samplers.attribute(name, "objectives")]


def _make(plugins: Registry, base: type, name: str, options: dict[str, Any]) -> Any:
    made = plugins.factory(name)(**plugins.check(name, options))
    entry = plugins.find(name)
    if not isinstance(made, base):
        raise UsageError(
            f"{plugins.kind} {entry.name!r} of {entry.origin} is a {type(made).__name__}, "
            f"not a bench.diffusion.{base.__name__}"
        )
    made.name = entry.name  # type: ignore[attr-defined]
    return made


def __getattr__(attribute: str) -> Any:
    """Public names that need torch, imported on first use."""
    if attribute in ("Denoiser", "Noise", "Objective", "Sampler"):
        from bench.diffusion import base

        return getattr(base, attribute)
    raise AttributeError(f"module 'bench.diffusion' has no attribute {attribute!r}")
