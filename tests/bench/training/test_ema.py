"""Averages of any width after training, against closed forms and against averages that were kept."""

from pathlib import Path

import numpy as np
import pytest
import torch

import registry
from bench.training import protocols
from bench.training.ema import PosthocAverages, combination, exponent
from bench.training.loop import train
from bench.training.run import Run, open_run


def numeric_width(gamma: float) -> float:
    """Standard deviation of the density (γ + 1) τ^γ on [0, 1], by sums."""
    tau = (np.arange(200_000) + 0.5) / 200_000
    density = (gamma + 1) * tau**gamma / len(tau)
    mean = (density * tau).sum()
    return float(np.sqrt((density * (tau - mean) ** 2).sum()))


@pytest.mark.parametrize("width", [0.02, 0.05, 0.1, 0.25])
def test_the_exponent_has_the_width(width: float) -> None:
    assert numeric_width(exponent(width)) == pytest.approx(width, rel=1e-4)


def test_published_exponents() -> None:
    """EDM2: σ_rel 0.05 and 0.10 are γ = 16.97 and 6.94."""
    assert (exponent(0.05), exponent(0.1)) == (pytest.approx(16.97, abs=0.01), pytest.approx(6.94, abs=0.01))


def followed(widths: list[float], steps: int) -> tuple[PosthocAverages, list[dict[float, float]]]:
    """Averages of one weight that is its step's number, after every step."""
    network = torch.nn.Linear(1, 1, bias=False).double()
    averages, history = PosthocAverages(network, widths), []
    for step in range(1, steps + 1):
        with torch.no_grad():
            network.weight.fill_(step)
        averages.update(step)
        history.append({w: float(averages.averages[str(w)]["weight"]) for w in widths})
    return averages, history


def test_the_average_of_a_ramp_is_its_closed_form() -> None:
    """∫ τ·(γ + 1) τ^γ / t^(γ + 1) = t·(γ + 1)/(γ + 2)."""
    _, history = followed([0.1], 2000)
    gamma = exponent(0.1)
    assert history[-1][0.1] == pytest.approx(2000 * (gamma + 1) / (gamma + 2), rel=1e-3)


def test_another_width_is_reconstructed_from_two() -> None:
    wanted = [0.06, 0.08, 0.15]
    _, history = followed([0.05, 0.1, *wanted], 2000)
    times = np.arange(100, 2001, 100)
    stored = [(t, w) for t in times for w in (0.05, 0.1)]
    for width in wanted:
        factors = combination(
            np.array([t for t, _ in stored], float), np.array([w for _, w in stored]), 2000, width
        )
        made = sum(f * history[t - 1][w] for f, (t, w) in zip(factors, stored, strict=True))
        assert factors.sum() == pytest.approx(1, abs=1e-3)
        assert made == pytest.approx(history[-1][width], rel=1e-3)


def test_a_run_stores_them_and_gives_them_back(tmp_path: Path) -> None:
    smoke = protocols.load("smoke")
    settings = smoke.training.model_copy(
        update={"posthoc_ema": (0.05, 0.1), "keep": 1, "checkpoint_every": 2}
    )
    protocol = smoke.model_copy(update={"training": settings})
    train("tiny-unet", protocol, tmp_path / "a", until=4)
    train("tiny-unet", protocol, tmp_path / "a", resume=True)
    assert [path.name for path in Run(tmp_path / "a").snapshots()] == [f"{i:08d}" for i in (2, 4, 6, 8)]
    train("tiny-unet", protocol, tmp_path / "b")
    from bench.training.run import read

    for width in ("0.05", "0.1"):
        ours, theirs = (
            read(tmp_path / run / "posthoc" / "00000008", [width])[0][width] for run in ("a", "b")
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        # A width that is stored comes back as it is.
        network = open_run(tmp_path / "a", width).network
        state = network.state_dict()
        assert all(torch.allclose(state[name], value, atol=1e-5) for name, value in ours.items())
    with pytest.raises(registry.UsageError, match=r"0\.001 to 0\.28"):
        open_run(tmp_path / "a", "0.5")
