"""Options in one form, and as text: canonical, label, and back again."""

import random

import pytest

import registry
from bench.cli.options import parse_models
from registry.errors import UsageError
from registry.values import format_value, join_options, parse_value, plain, split_options

# Values that each option may take, in forms that mean the same.
SAME = {
    "udit-t": {
        "depth": [(1, 2, 1, 1, 1), [1, 2, 1, 1, 1], ["1", 2.0, 1, 1, 1]],
        "mlp_ratio": [4, 4.0, "4"],
        "rope": [False, "false", 0],
        "ffn": ["mlp"],
        "input_size": [16, "16", (16, 16), [16, 16.0]],
        "hidden_size": [96, 96.0, "96"],
        "class_dropout_prob": [0, 0.0, "0"],
    },
    "dit-s-2": {
        "input_size": [(16, 32), [16, 32]],
        "num_classes": [0, "0"],
        "learn_sigma": [True, "true", 1],
    },
    "tiny-unet": {"widths": [(8, 16, 24), [8.0, "16", 24]], "num_classes": [10]},
    "unet2d": {"block_out_channels": [(32, 64), ["32", 64]], "norm_num_groups": [8]},
}


def draws(seed):
    """A name with some of its options, each in two forms."""
    draw = random.Random(seed)
    name = draw.choice(list(SAME))
    chosen = [option for option in SAME[name] if draw.random() < 0.5]
    draw.shuffle(chosen)
    return name, *({option: draw.choice(SAME[name][option]) for option in chosen} for _ in range(2))


@pytest.mark.parametrize("seed", range(40))
def test_forms_that_mean_the_same_are_one(seed):
    name, overrides, others = draws(seed)
    config = registry.canonical(name, overrides)
    assert list(config) == list(registry.backbones.options(name))
    assert repr(registry.canonical(name, others)) == repr(config)
    assert repr(registry.canonical(name, config)) == repr(config)  # types too
    assert registry.label(name, others) == registry.label(name, config) == registry.label(name, overrides)
    defaults = registry.canonical(name, {})
    given = {option: defaults[option] for option in list(defaults)[:: 1 + seed % 3]}
    assert registry.canonical(name, given | overrides) == config


@pytest.mark.parametrize("seed", range(40))
def test_a_label_is_what_the_command_takes(seed):
    name, overrides, _ = draws(seed)
    ((parsed, own),) = parse_models([registry.label(name, overrides)], {})
    assert parsed == name
    assert repr(registry.canonical(name, own)) == repr(registry.canonical(name, overrides))


def test_every_name_alone_is_its_label():
    for name in registry.names():
        config = registry.canonical(name, {})
        assert registry.label(name, config) == registry.label(name, {}) == name


@pytest.mark.parametrize(
    ("name", "overrides", "label"),
    [
        ("udit-t", {"rope": "true"}, "udit-t"),
        ("udit-t", {"ffn": "mlp", "depth": (1, 1, 1, 1, 1)}, "udit-t depth=1,1,1,1,1 ffn=mlp"),
        ("udit-t", {"cosine": False, "mlp_ratio": 2.5}, "udit-t mlp_ratio=2.5 cosine=false"),
        ("udit-t", {"no_such": 1, "rope": True}, "udit-t no_such=1 rope=true"),  # as it is given
        ("not-there", {"a": 1.0, "b": (1, 2), "c": None}, "not-there a=1 b=1,2 c=null"),
    ],
)
def test_labels(name, overrides, label):
    assert registry.label(name, overrides) == label


def test_canonical_is_of_plain_values():
    assert registry.canonical("uvit-s", {"input_size": [16, 8]}) == {
        "input_size": [16, 8], "num_classes": 1000, "in_channels": 4, "patch_size": 2, "hidden_size": 512,
        "depth": 12, "num_heads": 8, "mlp_ratio": 4, "class_dropout_prob": 0.1,
    }  # fmt: skip
    assert plain({1: (1.5, 2.0, True), "x": plain}) == {"1": [1.5, 2, True], "x": "plain"}
    with pytest.raises(registry.UsageError, match="takes no option"):
        registry.canonical("udit-t", {"patch_size": 2})


@pytest.mark.parametrize("seed", range(300))
def test_the_text_of_a_value_stands_for_it(seed):
    draw = random.Random(seed)

    def value(depth):
        if depth and draw.random() < 0.4:
            return [value(depth - 1) for _ in range(draw.randrange(4))]
        text = "".join(draw.choice('ab1,. ="[]{}-\n\u00a0é') for _ in range(draw.randrange(5)))
        number = draw.choice([0, -3, 2.5, 1e-30, 10**20])
        return draw.choice([text, number, None, True, False, "true", "1", "null", "a,b", "x"])

    made = value(2)
    text = format_value(made)
    assert not set(text) & set(" \n\u00a0")
    assert repr(parse_value(text)) == repr(plain(made))


def test_a_number_of_thousands_of_digits_is_text():
    assert parse_value("9" * 5000) == "9" * 5000
    assert parse_value(f"1,{'9' * 5000}") == [1, "9" * 5000]


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("ddim", "ddim", {}),
        ("ddim eta=0.5", "ddim", {"eta": 0.5}),
        (
            "  DiT XL/2  depth=1,2 ffn=mlp rope=false",
            "DiT XL/2",
            {"depth": [1, 2], "ffn": "mlp", "rope": False},
        ),
        ("", "", {}),
    ],
)
def test_a_name_and_options_behind_it(text, name, options):
    assert split_options(text) == (name, options)
    assert split_options(join_options(name, options)) == (name, options)


@pytest.mark.parametrize("text", ["ddim eta=1 more", "ddim =1"])
def test_what_stands_behind_an_option_is_an_option(text):
    with pytest.raises(UsageError, match="is not NAME KEY=VALUE"):
        split_options(text)
