"""Averages of any width after training, against closed forms and against averages that were kept."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.integrate import quad
from scipy.optimize import brentq

import registry
from bench.training import protocols
from bench.training.ema import PosthocAverages, combination, exponent
from bench.training.loop import train
from bench.training.run import Run
from bench.training.trained import open_run


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


def test_a_width_in_place_of_the_decay_is_the_power_function_average(tmp_path: Path) -> None:
    table = protocols.load("smoke").training.model_dump()
    changed = {"ema_decay": None, "ema_width": 0.1, "posthoc_ema": (0.1,)}
    protocol = protocols.load("smoke").model_copy(
        update={"training": protocols.Training.model_validate(table | changed)}
    )
    train("tiny-unet", protocol, tmp_path / "run", until=4)
    train("tiny-unet", protocol, tmp_path / "run", resume=True)
    ema = load_file(tmp_path / "run/checkpoints/00000008/ema.safetensors")
    expected = load_file(tmp_path / "run/posthoc/00000008/0.1.safetensors")
    assert all(torch.equal(ema[name], value) for name, value in expected.items())
    assert not torch.equal(
        *(open_run(tmp_path / "run", part).network.output.bias for part in ("ema", "model"))
    )


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


def weighting(tau: float, time: float, width: float) -> float:
    """How much of step tau an average has, (γ + 1) τ^γ / t^(γ + 1) until its time, and 0 after it."""
    gamma = brentq(lambda gamma: (gamma + 1) ** 0.5 / (gamma + 2) / (gamma + 3) ** 0.5 - width, 0, 1e7)
    return (gamma + 1) * (tau / time) ** gamma / time if tau <= time else 0.0


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    """∫ of the product of two weightings of (time, width), by adaptive quadrature."""
    end = min(one[0], other[0])
    return quad(lambda tau: weighting(tau, *one) * weighting(tau, *other), 0, end, points=[0.9 * end])[0]


@pytest.mark.parametrize("width", [0.01, 0.03, 0.07, 0.28])
def test_factors_are_those_of_the_formula_with_a_sum_of_one(width: float) -> None:
    """EDM2, Eq. 11 and Algorithm 3: solve A·x = b of the inner products, then divide by the sum of x."""
    stored = [(time, each) for time in (2.0, 4.0, 6.0, 8.0) for each in (0.05, 0.1)]
    matrix = np.array([[overlap(one, other) for other in stored] for one in stored])
    expected = np.linalg.solve(matrix, [overlap(one, (8.0, width)) for one in stored])
    assert abs(expected.sum() - 1) > 0.01  # of the nearest combination alone
    times, widths = np.array(stored).T
    found = combination(times, widths, 8, width)
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert found == pytest.approx(expected / expected.sum(), rel=1e-5, abs=1e-7)


def test_weights_that_stay_as_they_are_come_back_as_they_are(tmp_path: Path) -> None:
    smoke = protocols.load("smoke")
    settings = smoke.training.model_copy(
        update={"posthoc_ema": (0.05, 0.1), "learning_rate": 1e-30, "checkpoint_every": 2}
    )
    train("tiny-unet", smoke.model_copy(update={"training": settings}), tmp_path)
    first = open_run(tmp_path, "model").network.state_dict()
    for width in ("0.01", "0.1", "0.28"):
        made = open_run(tmp_path, width).network.state_dict()
        assert all(torch.allclose(made[name], value, rtol=1e-5) for name, value in first.items())


@pytest.mark.slow
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
