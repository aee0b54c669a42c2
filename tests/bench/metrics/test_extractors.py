"""Extractors: Inception equals the reference in one pass, digits recognises digits, weights are checked."""

import json
import os
import pickle
import sys
import urllib.error
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bench.metrics.extractors import create, extractors, file_digest
from bench.metrics.extractors import inception as inception_module
from bench.metrics.extractors import weights as weights_module
from bench.metrics.extractors.digits import enlarge
from registry.errors import UsageError
from tests import train_digits
from tests.conftest import REFERENCE
from tests.reference import recipe


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    shapes = json.loads((REFERENCE / "inception.keys.json").read_text())
    return {
        name: torch.from_numpy(recipe.weight(name, tuple(shape)))
        for name, shape in shapes.items()
        if "num_batches" not in name  # torch-fidelity's own file lacks them too
    }


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def inception(weights):
    return create("inception", weights)


# ---- Inception ----


def test_inception_equals_the_reference_in_one_pass(inception) -> None:
    passes = []
    hook = inception.network.Mixed_7c.register_forward_hook(lambda *_: passes.append(1))
    with torch.inference_mode():
        made = inception(torch.from_numpy(recipe.images(4, 64)))
    hook.remove()
    assert len(passes) == 1
    expected = np.load(REFERENCE / "inception.npz")
    for ours, theirs in (("pool", "pool3"), ("spatial", "spatial"), ("logits", "logits")):
        np.testing.assert_allclose(made[ours], expected[theirs], rtol=1e-3, atol=1e-5)
        assert made[ours].dtype == torch.float32 and made[ours].shape[1] == inception.outputs[ours]


def test_weights_in_safetensors_are_the_same_network(inception, state, tmp_path: Path) -> None:
    counters = {n: v for n, v in inception.network.state_dict().items() if "num_batches" in n}
    save_file(state | counters, tmp_path / "w.safetensors")
    other = create("inception", tmp_path / "w.safetensors")
    assert all(torch.equal(other.network.state_dict()[name], state[name]) for name in state)
    assert other.digest == file_digest(tmp_path / "w.safetensors") != inception.digest
    assert not any(p.requires_grad for p in other.parameters()) and not other.network.training


def test_weights_are_downloaded_once_and_checked(weights, monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = replace(weights_module.INCEPTION, url=weights.as_uri())
    monkeypatch.setattr(inception_module, "INCEPTION", file)
    with pytest.raises(UsageError, match="invalid hash value"):
        create("inception")
    kept = tmp_path / "hub" / "checkpoints"
    assert not list(kept.iterdir())

    import hashlib

    sha = hashlib.sha256(weights.read_bytes()).hexdigest()
    monkeypatch.setattr(inception_module, "INCEPTION", replace(file, sha256=sha))
    assert create("inception").digest == sha[:12]
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # it is there now
    assert create("inception").digest == sha[:12]
    (kept / weights.name).write_bytes(b"cut off")
    with pytest.raises(UsageError, match=r"6726825d\.pth is damaged: delete it"):
        create("inception")
    assert "downloading" in capsys.readouterr().err


def test_offline_the_error_says_which_file_to_put_where(monkeypatch, tmp_path: Path) -> None:
    def offline(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UsageError) as error:
        create("inception")
    message = str(error.value)
    assert (
        f"put weights-inception-2015-12-05-6726825d.pth there, from {weights_module.INCEPTION.url}" in message
    )
    assert str(tmp_path / "hub" / "checkpoints") in message and "\n" not in message


class Trap:
    def __reduce__(self):
        return sys.exit, (3,)


def test_weights_that_do_not_serve_are_named(weights, state, tmp_path: Path) -> None:
    bad = tmp_path / "w.pth"
    with pytest.raises(UsageError, match=r"cannot read .*w\.pth: No such file"):
        create("inception", bad)
    os.mkfifo(bad)
    with pytest.raises(UsageError, match=r"w\.pth is not a regular file"):
        create("inception", bad)
    bad.unlink()
    bad.write_bytes(weights.read_bytes()[:10_000])
    with pytest.raises(UsageError, match=r"w\.pth holds no readable weights"):
        create("inception", bad)
    bad.write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(UsageError, match=r"w\.pth holds no readable weights"):
        create("inception", bad)
    torch.save({name: value for name, value in state.items() if "fc" not in name}, bad)
    with pytest.raises(UsageError, match=r"does not hold the weights .* 2 are missing .*, fc\.weight first"):
        create("inception", bad)
    torch.save([1], bad)
    with pytest.raises(UsageError, match="does not hold the weights"):
        create("inception", bad)


# ---- digits ----


def test_digits_are_recognised_as_promised() -> None:
    report = json.loads(files("bench.metrics.extractors").joinpath("digits.json").read_text())
    learned, _, x, y = train_digits.split()
    assert len(learned) == 360 and len(x) == len(y) == report["unseen"] == 1437
    digits = create("digits")
    with torch.inference_mode():
        made = digits(x.expand(-1, 3, -1, -1))
    accuracy = float((made["logits"].argmax(1) == y).float().mean())
    assert accuracy == pytest.approx(report["accuracy"], abs=1e-4) and accuracy >= 0.98
    for kind, width in digits.outputs.items():
        assert made[kind].shape == (1437, width) and made[kind].dtype == torch.float32
    assert (made["pool"] >= 0).all() and made["pool"].std(0).count_nonzero() >= 60


def test_digits_come_grey_and_enlarged_as_pil_enlarges() -> None:
    for size in (8, 64):
        images = torch.from_numpy(recipe.images(3, size))
        ours = enlarge(images)
        for image, made in zip(images, ours, strict=True):
            grey = Image.fromarray(image.float().mean(0).numpy(), mode="F")
            expected = np.asarray(grey.resize((16, 16), Image.Resampling.BILINEAR)) / 255
            np.testing.assert_allclose(made[0], expected, atol=1e-5)
    again = (ours * 255).round().to(torch.uint8)  # 16×16 stays as it is
    assert torch.equal(enlarge(again), again.float() / 255)


def test_an_image_has_its_features_in_any_company() -> None:
    digits, images = create("digits"), torch.from_numpy(recipe.images(5, 16))
    with torch.inference_mode():
        together, alone = digits(images), digits(images[3:4])
    for kind in together:
        torch.testing.assert_close(together[kind][3:4], alone[kind], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_training_script_trains(monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(train_digits, "EPOCHS", 8)
    monkeypatch.setattr(train_digits, "FOLDER", tmp_path)
    train_digits.main()
    report = json.loads((tmp_path / "digits.json").read_text())
    assert report["accuracy"] > 0.3 and "of 1437 unseen digits" in capsys.readouterr().out
    size = len(files("bench.metrics.extractors").joinpath("digits.safetensors").read_bytes())
    assert (tmp_path / "digits.safetensors").stat().st_size == size < 300_000


# ---- by name ----


def test_names_and_what_is_refused(tmp_path: Path) -> None:
    assert extractors.names() == ["clip", "digits", "dinov2", "efficientnet", "inception"]
    with pytest.raises(UsageError, match=r"unknown extractor 'incepton'. Did you mean 'inception'"):
        create("incepton")
    with pytest.raises(UsageError, match="'digits' takes no weights"):
        create("Digits", tmp_path / "w.pth")
