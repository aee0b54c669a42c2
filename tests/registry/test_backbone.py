"""What a backbone declares of itself."""

import pytest
import torch
from torch import nn

import registry
from registry import backbone
from registry.layers.embeddings import LabelDropout

SMALL = {
    "dit-s-2": {"depth": 1, "hidden_size": 16, "num_heads": 2},
    "udit-t": {"depth": (1, 1, 1, 1, 1), "hidden_size": 16},
    "uvit-s-2": {"depth": 2, "hidden_size": 16, "num_heads": 2},
    "unet2d": {"block_out_channels": (32, 64), "layers_per_block": 1},
    "uvit2d-latent": {"block_out_channels": 16, "hidden_size": 16, "depth": 1, "num_heads": 2},
    "tiny-unet": {},
}


@pytest.mark.parametrize("name", SMALL)
def test_the_null_class_is_the_label_behind_the_last(name):
    def null_class(**overrides):
        with torch.device("meta"):
            return registry.create(name, **SMALL[name], **overrides).null_class

    assert null_class(num_classes=7) == 7
    assert null_class(num_classes=7, class_dropout_prob=0.0) is None
    assert null_class(num_classes=0) is None


def test_deployed_networks_have_it_too():
    network = registry.create("udit-t", **SMALL["udit-t"], num_classes=5)
    assert network.deploy().null_class == 5
    with torch.device("meta"):
        assert registry.create("uvit-m-4").null_class is None  # ImageNet 64, without label dropout
        assert registry.create("uvit2d").null_class is None


class Plain(nn.Module):
    def __init__(self, num_classes: int = 4, dropout: float = 0.1):
        super().__init__()
        self.labels = LabelDropout(num_classes, dropout)


class Own(registry.Backbone):
    """Drops labels in its own way."""

    null_class = 0
    objective = "flow"


def test_plain_modules_and_networks_that_say_so():
    assert backbone.adopt("plain", Plain, {}).null_class == 4
    assert backbone.adopt("plain", Plain, {"num_classes": 2}).null_class == 2
    assert backbone.adopt("plain", Plain, {"dropout": 0.0}).null_class is None
    assert backbone.adopt("plain", nn.Identity, {}).null_class is None
    made = backbone.adopt("own", Own, {})
    assert (made.null_class, made.objective, made.beta_schedule) == (0, "flow", "linear")


@pytest.mark.parametrize(
    ("name", "declared"),
    [
        ("dit-s-2", ("ddpm", "linear", 3)),
        ("sit-xl-2", ("flow", "linear", 3)),
        ("flowdcn-xl-2", ("flow", "linear", None)),
        ("hdit-mnist", ("edm", "linear", None)),
        ("dit-unet", ("ddpm", "linear", 3)),
        ("udit-t", ("ddpm", "linear", 3)),
        ("uvit-s-2", ("ddpm", "scaled_linear", None)),
        ("unet2d", ("ddpm", "linear", None)),
        ("tiny-unet", ("ddpm", "linear", None)),
    ],
)
def test_what_networks_declare(name, declared):
    with torch.device("meta"):
        network = registry.create(name)
    attributes = ("objective", "beta_schedule", "guided_channels")
    assert tuple(getattr(network, attribute) for attribute in attributes) == declared
    assert tuple(registry.backbones.attribute(name, attribute) for attribute in attributes) == declared


def test_no_two_classes_of_one_name():
    import ast

    from tests.conftest import ROOT

    found = {}
    for path in sorted((ROOT / "registry").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                assert node.name not in found, f"{node.name} in {path} and {found[node.name]}"
                found[node.name] = path
    assert "DiTBlock" in found
