"""Diffusion processes, independent of the network: objectives to train it by, samplers to sample from it.

    import bench.diffusion

    ddpm = bench.diffusion.objective("ddpm", beta_schedule="cosine", prediction_type="v_prediction")
    x_t = ddpm.add_noise(x0, noise, t)
    losses = ddpm.losses(network(x_t, t, y), x0, noise, x_t, t)["loss"]

    ddim = bench.diffusion.sampler("ddim", eta=0.5)  # or sampler("ddim eta=0.5")
    denoiser = guided(network, labels, cfg_scale=1.5)  # of bench.diffusion.guidance
    samples = ddim.sample(ddpm, denoiser, x, noise=lambda step: torch.randn_like(x), steps="ddim50")

    @bench.diffusion.samplers.register("my-euler")
    class MyEuler(bench.diffusion.Sampler): ...

Both are plugins: `objectives` and `samplers` list names without importing torch. This package contains no
networks and no data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.diffusion.plugins import canonical, objectives, samplers, samplers_for
from registry.errors import UsageError
from registry.plugins import Registry
from registry.values import split_options

if TYPE_CHECKING:
    from bench.diffusion.base import Denoiser, Noise, Objective, Sampler

__all__ = [
    "Denoiser",
    "Noise",
    "Objective",
    "Sampler",
    "canonical",
    "check_sampler",
    "objective",
    "objectives",
    "sampler",
    "samplers",
    "samplers_for",
]


def objective(name: str, /, **options: Any) -> Objective:
    """The objective of that name.

    Args:
        name: any registered name, case-insensitive, with or without options:
            `"ddpm beta_schedule=cosine"`; `objectives.names()` lists the names.
        **options: options of the objective, such as those of `bench.diffusion.ddpm.DDPM`.

    Raises:
        UsageError: unknown name, an option that the objective does not have, or a value that it cannot take.
    """
    from bench.diffusion.base import Objective

    made: Objective = _make(objectives, Objective, name, options)
    return made


def sampler(name: str, /, **options: Any) -> Sampler:
    """The sampler of that name.

    Args:
        name: any registered name, with or without options: `"ddim eta=0.5"`; `samplers.names()` lists the
            names.
        **options: options of the sampler, such as the tolerances of `bench.diffusion.ode.Dopri5`.

    Raises:
        UsageError: unknown name, an option that the sampler does not have, or a value that it cannot take.
    """
    from bench.diffusion.base import Sampler

    made: Sampler = _make(samplers, Sampler, name, options)
    return made


def check_sampler(objective_name: str, sampler_name: str, steps: str) -> int:
    """Network evaluations of a sampling loop; see `Sampler.check`. Names may be followed by options.

    Raises:
        UsageError: unknown names, a sampler for other objectives, or steps that it cannot take.
    """
    title = objectives.find(split_options(objective_name)[0]).name
    return sampler(sampler_name).check(title, steps)


def _make(plugins: Registry, base: type, text: str, options: dict[str, Any]) -> Any:
    name, behind = split_options(text)
    options = behind | options
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
