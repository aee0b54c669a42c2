"""The registry: names and aliases, plugins, overrides and their errors, the contract's attributes."""

import importlib
import json
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import nn

import registry
import registry.networks.udit  # before a test puts another registry in place of the one it registers with
from registry import backbone
from registry.errors import CodeError, user_frame
from registry.plugins import Registry
from tests.conftest import ROOT

# Other test files register names of their own.
NAMES = [name for name in registry.names() if registry.backbones.find(name).module.startswith("registry.")]

PLUGIN_HEAD = """
import registry
from torch import nn

class Net(nn.Module):
    def __init__(self, width: int = 3):
        super().__init__()
        self.width = width
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x, t, y):
        return self.conv(x)
"""


@pytest.fixture
def shelf(monkeypatch):
    """An empty registry in the place of the package's own, with the same entry-point group."""
    fresh = Registry("backbone")
    monkeypatch.setattr(registry, "backbones", fresh)
    for question in ("register", "names", "describe"):
        monkeypatch.setattr(registry, question, getattr(fresh, question))
    return fresh


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put fake distributions on the path: `install("foo", {"foo-net": "foo_mod:Net"}, foo_mod="...")`."""
    modules = []

    def write(distribution, entry_points, **sources):
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"{name} = {target}" for name, target in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[bench.backbones]", *lines]))
        for module, source in sources.items():
            (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
            modules.append(module)
        monkeypatch.syspath_prepend(tmp_path)

    yield write
    for module in modules:
        sys.modules.pop(module, None)


def usage_error(call, *args, **kwargs):
    """The message of the error that a call must end in: one line."""
    with pytest.raises(registry.UsageError) as raised:
        call(*args, **kwargs)
    message = str(raised.value)
    assert message
    assert "\n" not in message
    return message


def python(code, path):
    """What a fresh interpreter prints, as JSON, with `path` before everything else on its path."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={"PYTHONPATH": f"{path}:{ROOT}", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


# ---- names ----


def test_names_and_aliases_are_known_without_importing_torch(tmp_path):
    aliases = {alias: name for name in NAMES for alias in registry.describe(name).aliases}
    assert aliases["uvit-s"] == "uvit-s-2"
    code = f"""
    import json, sys
    import registry
    found = {{alias: registry.backbones.find(alias).name for alias in {list(aliases)}}}
    print(json.dumps([registry.names(), found, [m for m in ("torch", "diffusers") if m in sys.modules]]))
    """
    assert python(code, tmp_path) == [NAMES, aliases, []]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("udit-b", "udit-b"),
        ("U-DiT-B", "udit-b"),
        ("DiT-XL/2", "dit-xl-2"),
        ("dit_xl_2", "dit-xl-2"),
        ("DiT-S/2*", "dit-s-2"),
        ("DiT-UNet", "dit-unet"),
        ("DiT-UNet (Slim)", "dit-unet-slim"),
        ("U-ViT-S/2", "uvit-s-2"),
        ("U-ViT-S/2-deep", "uvit-s-2-deep"),
        ("U-ViT-S/2 (Deep)", "uvit-s-2-deep"),
        ("uvit-s-deep", "uvit-s-2-deep"),
        ("U-ViT-H", "uvit-h-2"),
        ("SiT-B/4", "sit-b-4"),
        ("FlowDCN-XL/2", "flowdcn-xl-2"),
        ("FlowDCN-S", "flowdcn-s-2"),
        ("HDiT-CIFAR10", "hdit-cifar10"),
        ("UNet2D", "unet2d"),
        ("TinyUNet", "tiny-unet"),
        ("UViT2D", "uvit2d"),
    ],
)
def test_names_resolve_as_the_papers_write_them(written, name):
    assert registry.backbones.find(written).name == name


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("udit*", ["udit-t", "udit-s", "udit-b", "udit-l"]),
        ("U-DiT*", ["udit-t", "udit-s", "udit-b", "udit-l"]),
        ("DiT-S/?", ["dit-s-2", "dit-s-4", "dit-s-8"]),
        ("*-xl-8", ["dit-xl-8", "sit-xl-8"]),
        ("udit-[sb]", ["udit-s", "udit-b"]),
        ("nothing*", []),
        ("/", []),
    ],
)
def test_wildcards(pattern, names):
    assert registry.names(pattern) == names


def test_names_come_in_order_of_registration_before_and_after_import(shelf, install):
    install("later", {"z-net": "z_mod:Net"}, z_mod=PLUGIN_HEAD)
    shelf.register("b")(nn.Identity)
    shelf.register("a")(nn.Identity)
    assert shelf.names() == ["b", "a", "z-net"]
    registry.create("z-net")
    assert shelf.names() == ["b", "a", "z-net"]


@pytest.mark.parametrize("written", ["U-DiT-X", "uditb2", "udit_bb", "UDIT"])
def test_an_unknown_name_is_one_line_with_suggestions(written):
    message = usage_error(registry.create, written)
    assert repr(written) in message
    assert "Did you mean 'udit-" in message
    assert "bench list" in message and "--plugin" not in message


@pytest.mark.parametrize("written", ["zzzzzzzz", "", "*", "udit\n-b9999999999999"])
def test_a_name_like_no_other_is_one_line_too(written):
    message = usage_error(registry.describe, written)
    assert message.startswith("unknown backbone")
    assert "Did you mean" not in message
    assert message.endswith("--plugin FILE loads one of your own.")


def test_public_names_are_there_and_no_others():
    for name in registry.__all__:
        assert getattr(registry, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'creat'"):
        _ = registry.creat


# ---- registering ----


def test_a_backbone_subclass(shelf):
    @registry.register("My-Net", aliases=["mine"], width=5)
    class MyNet(registry.Backbone):
        def __init__(self, width: int = 3, input_size: int = 8):
            super().__init__(input_size=input_size, in_channels=2, num_classes=0)
            self.width = width

        def forward(self, x, t, y=None):
            return x

    assert MyNet().width == 3
    network = registry.create("mynet", input_size="16")
    assert isinstance(network, MyNet)
    assert (network.name, network.overrides, network.width) == ("My-Net", {"input_size": 16}, 5)
    assert registry.create("mine").width == 5
    assert shelf.names() == ["My-Net"]
    assert network(*network.example_inputs(3)).shape == (3, 2, 16, 16)

    described = registry.describe("MINE")
    assert (described.name, described.aliases, described.origin) == ("My-Net", ("mine",), __name__)
    assert described.summary == ""  # not the base class's
    assert described.options["width"].default == 5
    assert described.options["width"].type == "int"


def test_a_function_that_returns_a_module(shelf):
    @registry.register("made")
    def make(scale: float = 1.0, *, kind: Literal["A", "B"] = "A"):
        """Makes a network.

        And more.
        """
        return nn.Conv2d(4, 4, 1).requires_grad_(kind == "B")

    assert registry.create("made", kind="B", scale="2").overrides == {"kind": "B", "scale": 2.0}
    described = registry.describe("made")
    assert described.summary == "Makes a network."
    assert {name: (o.type, o.default) for name, o in described.options.items()} == {
        "scale": ("float", 1.0),
        "kind": ("'A' | 'B'", "A"),
    }


class Plain(nn.Module):
    """Knows nothing of the contract."""

    def __init__(self, in_channels: int = 4, **options):
        super().__init__()
        self.first = nn.Conv2d(in_channels, 8, 1)
        self.second = nn.Conv2d(8, 2 * in_channels, 1)

    def forward(self, x, t, y):
        return self.second(self.first(x) + y.view(-1, 1, 1, 1))


def test_a_plain_module_gets_what_the_contract_asks(shelf):
    shelf.register("plain")(Plain)
    network = registry.create("plain", learn_sigma=True)
    assert (network.input_size, network.in_channels, network.out_channels) == (32, 4, 8)
    assert (network.num_classes, network.learn_sigma, network.name) == (1000, True, "plain")
    x, t, y = network.example_inputs(2)
    assert (x.shape, t.shape, y.shape) == ((2, 4, 32, 32), (2,), (2,))
    assert list(network.stages()) == ["first", "second"]
    assert network.long_skips() == {}

    deployed = network.deploy()
    assert network.training
    assert not deployed.training
    assert all(p.requires_grad for p in network.parameters())
    assert not any(p.requires_grad for p in deployed.parameters())
    assert deployed.first.weight is not network.first.weight
    assert torch.equal(deployed(x, t, y), network(x, t, y))
    assert deployed.stages()["first"] is deployed.first  # its own, not the original's
    declared = (network.objective, network.beta_schedule, network.guided_channels, network.null_class)
    assert declared == ("ddpm", "linear", None, None)


def test_a_plain_modules_own_attributes_and_the_overrides_count(shelf):
    @registry.register("own")
    class Own(Plain):
        num_classes = 7

        def __init__(self, **options):
            super().__init__()
            self.input_size = (4, 8)

    network = registry.create("own", learn_sigma=False, in_channels=3)
    assert (network.input_size, network.num_classes) == ((4, 8), 7)
    assert (network.in_channels, network.out_channels) == (3, 3)
    assert network.example_inputs(2)[0].shape == (2, 3, 4, 8)
    assert not hasattr(Own(), "in_channels")  # the instance is filled, not the class


def test_what_is_no_module_is_refused(shelf):
    shelf.register("odd")(lambda: 3)
    with pytest.raises(CodeError, match=r"must make an nn\.Module, not int .*test_plugins"):
        registry.create("odd")


def test_parameters_without_a_shape_are_refused(shelf):
    shelf.register("lazy")(lambda: nn.Sequential(nn.Conv2d(4, 8, 1), nn.LazyConv2d(8, 1)))
    with pytest.raises(CodeError, match=r"1\.weight has no shape yet.*test_plugins"):
        registry.create("lazy")


def small(module):
    module.in_channels, module.num_classes = 4, 0
    return module


def with_lock():
    module = nn.Conv2d(4, 4, 1)
    module.lock = threading.Lock()
    return module


def unconditional():
    module = nn.Conv2d(4, 4, 1)
    module.num_classes = None
    return module


NORMED = r"cannot be copied, for 0 has torch\.nn\.utils\.{0}: use torch\.nn\.utils\.parametrizations\.{0}"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: torch.compile(nn.Conv2d(4, 4, 1)),
            "is what torch.compile made of a network: return it as it was",
        ),
        (
            lambda: torch.jit.script(nn.Conv2d(4, 4, 1)),
            "is what TorchScript made of a network: return it as it was",
        ),
        (lambda: nn.Sequential(nn.utils.weight_norm(nn.Conv2d(4, 4, 1))), NORMED.format("weight_norm")),
        (lambda: nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(4, 4, 1))), NORMED.format("spectral_norm")),
        (with_lock, "cannot be copied by copy.deepcopy: TypeError: cannot pickle '_thread.lock' object"),
        (unconditional, "num_classes must be the number of classes, 0 for none, not None"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_network_that_cannot_be_measured_is_one_line(shelf, make, says):
    shelf.register("made")(make)
    with pytest.raises(CodeError, match=f"^backbone 'made':? {says}") as error:
        registry.create("made")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("attribute", "value", "says"),
    [
        ("num_classes", -1, "the number of classes, 0 for none, not -1"),
        ("num_classes", 10.0, "the number of classes, 0 for none, not 10.0"),
        ("input_size", "32", "a side or (H, W), not '32'"),
        ("input_size", (8, 8, 8), "a side or (H, W), not (8, 8, 8)"),
        ("in_channels", True, "a number of channels, not True"),
        ("out_channels", None, "a number of channels, not None"),
    ],
)
def test_sizes_that_are_no_numbers(shelf, attribute, value, says):
    @registry.register("odd")
    def make():
        module = Plain()
        setattr(module, attribute, value)
        return module

    with pytest.raises(CodeError) as error:
        registry.create("odd")
    assert str(error.value).startswith(f"backbone 'odd': {attribute} must be {says}")


@pytest.mark.filterwarnings("ignore")
def test_parametrizations_can_be_copied(shelf):
    for norm in (nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm):
        shelf.register(norm.__name__)(lambda norm=norm: small(norm(nn.Conv2d(4, 4, 1))))
        assert registry.create(norm.__name__).deploy()(torch.ones(1, 4, 2, 2)).shape == (1, 4, 2, 2)


CELL = """
class Net(nn.Module):
    version = {version}
register("cell", aliases={aliases})(Net)
"""


def run_cell(register, version, aliases=(), module="__main__"):
    """Execute a notebook cell that defines and registers a class."""
    exec(CELL.format(version=version, aliases=aliases), {"nn": nn, "register": register, "__name__": module})


def test_a_cell_run_again_replaces_its_definition(shelf):
    run_cell(shelf.register, 1, aliases=["old"])
    assert registry.create("old").version == 1
    run_cell(shelf.register, 2)
    assert registry.create("cell").version == 2
    assert shelf.names() == ["cell"]
    assert "unknown backbone 'old'" in usage_error(shelf.find, "old")  # an alias it no longer has
    usage_error(run_cell, shelf.register, 3, module="elsewhere")
    assert registry.create("cell").version == 2


def test_a_reloaded_module_replaces_its_definition(shelf, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    source = tmp_path / "reloaded_mod.py"
    head = PLUGIN_HEAD + "registry.register('again')(Net)\n"
    tail = "from registry.networks.udit import UDiT\nregistry.register('variant', hidden_size=16)(UDiT)\n"
    source.write_text(head + tail)
    module = importlib.import_module("reloaded_mod")
    try:
        source.write_text(head.replace("width: int = 3", "width: int = 99") + tail)
        module = importlib.reload(module)
        assert registry.create("again").width == 99
        assert shelf.factory("again") is module.Net
        assert shelf.names() == ["again", "variant"]
    finally:
        del sys.modules["reloaded_mod"]


def test_another_definition_of_a_name_is_an_error(shelf):
    class First(nn.Module):
        pass

    class Second(nn.Module):
        pass

    shelf.register("net")(First)
    shelf.register("net")(First)  # the same again
    message = usage_error(shelf.register("N.E.T"), Second)
    assert "'N.E.T'" in message
    assert "already taken: 'net' of" in message
    assert __name__ in message
    usage_error(shelf.register("net"), Second)
    usage_error(shelf.register("net", depth=3), First)  # other defaults are another network
    assert shelf.factory("net") is First


@pytest.mark.parametrize(
    ("name", "aliases"), [("other", ["N-et"]), ("other", ["fine", "ali_as"]), ("alias", [])]
)
def test_a_taken_alias_is_an_error_and_registers_nothing(shelf, name, aliases):
    shelf.register("net", aliases=["alias"])(nn.Identity)
    usage_error(shelf.register(name, aliases=aliases), nn.Conv2d)
    assert shelf.names() == ["net"]
    for text in ("other", "fine"):
        assert "unknown" in usage_error(shelf.find, text)
    assert shelf.factory("alias") is nn.Identity


def test_built_in_names_are_taken():
    before = registry.names()
    message = usage_error(registry.register("U_DiT-B"), nn.Identity)
    assert "registry.networks.udit" in message
    assert registry.names() == before


def test_a_name_needs_letters_or_digits(shelf):
    assert "letters and digits, not '--'" in usage_error(shelf.register("--"), nn.Identity)


# ---- plugins ----


def test_plugins_in_a_fresh_interpreter(install, tmp_path):
    install(
        "foo",
        {"foo-net": "foo_mod:Net", "Foo-UDiT": "foo_mod", "udit-s": "foo_mod:Net", "foo-bad": "foo_bad"},
        foo_mod=PLUGIN_HEAD
        + """
from registry.networks.udit import UDiT
registry.register("foo-udit", aliases=["fu"], hidden_size=16, num_heads=2)(UDiT)
""",
        foo_bad="raise ImportError('no libfoo\\n  on this machine')",
    )
    code = """
    import json, sys
    import registry
    names = registry.names("*foo*")
    origin = registry.backbones.find("FooNet").origin
    early = [m for m in ("torch", "foo_mod", "foo_bad") if m in sys.modules]
    kinds = [type(registry.create(n)).__name__ for n in ("FOO_NET", "foo-udit", "fu", "udit-t", "U-DiT-T")]
    width = registry.describe("foo-udit").options["hidden_size"].default
    errors = []
    for call in (registry.create, registry.describe):
        for name in ("U-DiT-S", "foo-bad"):
            try:
                call(name)
            except (registry.UsageError, ImportError) as error:
                errors.append(str(error))
    print(json.dumps([names, origin, early, kinds, width, "udit-s" in registry.names(), errors]))
    """
    names, origin, early, kinds, width, listed, errors = python(code, tmp_path)
    assert names == ["foo-net", "Foo-UDiT", "foo-bad"]
    assert origin == "package foo"
    assert early == []
    assert kinds == ["Net", "UDiT", "UDiT", "UDiT", "UDiT"]
    assert width == 16
    assert listed
    clash, bad = errors[:2]
    assert errors[2:] == [clash, bad]
    assert "'udit-s'" in clash and "registry.networks.udit" in clash and "package foo" in clash
    assert bad.startswith("no libfoo\n")


DECORATED = PLUGIN_HEAD + "Net = registry.register('foo', aliases=['foo2'], width=8)(Net)\n"
MAKER = PLUGIN_HEAD + "def make(width: int = 4):\n    return Net(width)\n"


@pytest.mark.parametrize(
    ("target", "source", "width"),
    [
        ("foo_mod:Net", PLUGIN_HEAD, 3),
        ("foo_mod:make", MAKER, 4),
        ("foo_mod", DECORATED, 8),
        ("foo_mod:Net", DECORATED, 8),
    ],
)
@pytest.mark.parametrize("by_hand", ["", "before", "after"])
def test_a_plugins_target(shelf, install, target, source, width, by_hand):
    install("foo", {"foo": target}, foo_mod=source)
    if by_hand == "before":
        importlib.import_module("foo_mod")
    assert shelf.names() == ["foo"]
    if by_hand == "after":
        importlib.import_module("foo_mod")
    if not by_hand:
        assert "foo_mod" not in sys.modules
        assert shelf.find("FOO").origin == "package foo"
    network = registry.create("Foo")
    assert (network.width, network.name, network.out_channels) == (width, "foo", 4)
    assert registry.create("foo", width=1).width == 1
    assert shelf.names() == ["foo"]


def test_a_plugin_may_name_a_variant_of_a_built_in_network(shelf, install):
    source = """
    import registry
    from registry.networks.udit import UDiT
    registry.register("foo-udit", hidden_size=16, num_heads=2)(UDiT)
    """
    install("foo", {"foo-udit": "foo_mod"}, foo_mod=source)
    assert shelf.names() == ["foo-udit"]
    with torch.device("meta"):
        assert registry.create("foo-udit").stem.out_channels == 16
    assert shelf.find("foo-udit").origin == "package foo"


def test_clashes_are_errors_when_their_name_is_used_and_only_then(shelf, install):
    shelf.register("taken", aliases=["also"])(nn.Identity)
    install(
        "foo", {"Taken": "foo_mod:Net", "shared": "foo_mod:Net", "free": "foo_mod:Net"}, foo_mod=PLUGIN_HEAD
    )
    install(
        "bar", {"shared": "bar_mod:Net", "al-so": "bar_mod:Net", "bar": "bar_mod:Net"}, bar_mod=PLUGIN_HEAD
    )
    install("twice", {"same-1": "twice_mod:Net", "same1": "twice_mod:make"}, twice_mod=MAKER)
    assert shelf.names()[0] == "taken"
    for call in (shelf.find, registry.create, registry.describe):
        assert "package foo" in usage_error(call, "taken")
        message = usage_error(call, "SHARED")
        assert "package foo" in message and "package bar" in message
        assert "package bar" in usage_error(call, "also")
        assert "package twice" in usage_error(call, "same-1")
    assert [registry.create(name).width for name in ("free", "bar")] == [3, 3]


def test_a_name_that_a_plugin_announces_is_taken(shelf, install):
    install("foo", {"foo": "foo_mod:Net"}, foo_mod=PLUGIN_HEAD)
    assert shelf.names() == ["foo"]
    assert "package foo" in usage_error(shelf.register("F-oo"), nn.Identity)
    assert registry.create("foo").width == 3


@pytest.mark.parametrize(
    ("target", "source", "words"),
    [
        ("foo_nowhere", "", "package foo announces 'foo_nowhere', but there is no module 'foo_nowhere'"),
        (
            "foo_mod:Missing",
            "x = 1",
            "package foo announces 'foo_mod:Missing', but 'foo_mod' has no 'Missing'",
        ),
        ("foo_mod", "x = 1", "package foo was imported but registers no backbone 'foo'"),
        ("foo_mod:x", "x = 1", "package foo was imported but registers no backbone 'foo'"),
        ("foo_mod", PLUGIN_HEAD + "registry.register('fine')(Net)", "'fine' of foo_mod is already taken"),
    ],
)
def test_a_wrong_entry_point_is_one_line_and_leaves_the_others(shelf, install, target, source, words):
    shelf.register("fine")(nn.Identity)
    install("foo", {"foo": target}, foo_mod=source)
    assert shelf.names() == ["fine", "foo"]
    assert words in usage_error(registry.create, "foo")
    assert shelf.factory("fine") is nn.Identity


@pytest.mark.parametrize(
    ("source", "error", "line"),
    [
        ("x = 1\nraise RuntimeError('first line\\nsecond line')", RuntimeError, 2),
        ("import no_such_package", ModuleNotFoundError, 1),
        ("\n\ndef broken(:", SyntaxError, 3),
        ("raise ValueError", ValueError, 1),
    ],
)
def test_an_error_in_a_plugin_is_the_users_own(shelf, install, tmp_path, source, error, line):
    shelf.register("fine")(nn.Identity)
    install("foo", {"foo": "foo_mod"}, foo_mod=source)
    with pytest.raises(error) as caught:
        registry.create("foo")
    frame = user_frame(caught.value)
    assert (frame.filename, frame.lineno) == (str(tmp_path / "foo_mod.py"), line)
    assert shelf.factory("fine") is nn.Identity


# ---- overrides ----


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("udit-t", {"downsampeler": "conv"}, ["Did you mean 'downsampler'", "It takes: input_size"]),
        ("udit-t", {"Hidden_Size": 9}, ["Did you mean 'hidden_size'", "mlp_ratio"]),
        ("dit-s-2", {"zzzz": 1}, ["'dit-s-2' takes no option 'zzzz'", "patch_size"]),
        ("udit-t", {"downsampler": "depthwse"}, ["'pixel-shuffle'", "'conv'", "Did you mean 'depthwise'"]),
        ("udit-t", {"downsampler": "Pixel_Shuffle"}, ["not 'Pixel_Shuffle'", "Did you mean 'pixel-shuffle'"]),
        ("udit-t", {"ffn": 3}, ["'mlp' | 'dwconv' | 'reparam', not 3"]),
        ("udit-t", {"depth": (1, 1, 2)}, ["depth", "tuple[int, int, int, int, int]", "(1, 1, 2)"]),
        ("udit-t", {"depth": (1, 1, 2, 1, "x")}, ["depth", "'x'"]),
        ("udit-t", {"cosine": "maybe"}, ["cosine must be bool, not 'maybe'"]),
        ("udit-t", {"hidden_size": 2.5}, ["hidden_size must be int, not 2.5"]),
        ("uvit-s-2", {"depth": True}, ["depth must be int, not True"]),
        ("udit-t", {"depth": (1, 1, True, 1, 1)}, ["depth must be", "not (1, 1, True, 1, 1)"]),
        ("udit-t", {"input_size": True}, ["input_size must be int | tuple[int, int], not True"]),
        ("udit-t", {"mlp_ratio": False}, ["mlp_ratio must be float, not False"]),
        ("dit-s-2", {"depth": 100_000_000_000}, ["depth must be at most 1,000,000, not 100000000000"]),
        ("tiny-unet", {"widths": (16, 32, int("9" * 24))}, ["widths must be at most 1,000,000, not 9999"]),
        ("dit-s-2", {"depth": "9" * 5000}, ["depth must be int, not '9999", "…"]),
        ("udit-t", {"hidden_size": None}, ["hidden_size must be int, not None"]),
        ("udit-t", {"mlp_ratio": "big"}, ["mlp_ratio must be float"]),
        ("udit-t", {"input_size": (16,)}, ["input_size must be int | tuple[int, int]", "(16,)"]),
        ("udit-t", {"input_size": "a\nb"}, ["input_size"]),
        ("udit-t", {"depth": torch.ones(2, 2)}, ["depth"]),
        ("udit-t", {"input_size": 30}, ["30×30", "multiples of 8"]),
        ("udit-t", {"num_heads": 5}, ["48 is not a multiple of num_heads 5"]),
        ("udit-t", {"in_channels": 0}, ["in_channels >= 1"]),
        ("udit-t", {"hidden_size": -48}, ["hidden_size", "-48"]),
        ("dit-s-2", {"patch_size": 0}, ["dit-s-2", "patch_size"]),
        ("uvit-s-2", {"depth": 3}, ["depth 3 is odd"]),
        ("unet2d", {"block_out_channels": (30, 60)}, ["(30, 60) are not all multiples of"]),
        ("uvit2d-latent", {"hidden_size": 100}, ["100 is not a multiple of num_heads 8"]),
        ("tiny-unet", {"widths": (1, 2)}, ["widths must be tuple[int, int, int], not (1, 2)"]),
    ],
)  # fmt: skip
def test_a_wrong_override_is_one_clear_line(name, overrides, words):
    with torch.device("meta"):
        message = usage_error(registry.create, name, **overrides)
    assert name in message
    for word in words:
        assert word in message


def test_text_from_a_command_line_is_converted_by_annotation():
    overrides = {"cosine": "false", "rope": "true", "hidden_size": "32", "mlp_ratio": "2", "num_heads": "4"}
    with torch.device("meta"):
        network = registry.create("udit-t", **overrides, depth=["1", 1, 1, 1, 1], input_size=["16", 24])
    assert network.overrides == {
        "cosine": False, "rope": True, "hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 4,
        "depth": (1, 1, 1, 1, 1), "input_size": (16, 24),
    }  # fmt: skip
    assert network.stem.out_channels == 32
    assert not any("logit_scale" in name for name in network.state_dict())
    assert network.input_size == (16, 24)


def test_a_factory_says_what_it_cannot_do_without(shelf):
    @registry.register("needs")
    def make(width: int, depth: int, *, kind: str = "a"):
        return nn.Identity()

    assert "'needs' needs a value for width, depth" in usage_error(registry.create, "needs")
    assert usage_error(registry.create, "needs", width=1).endswith("needs a value for depth")
    assert registry.create("needs", width=1, depth="2").overrides == {"width": 1, "depth": 2}


@dataclass
class Setting:
    """A type of a user's own, of which pydantic would make a model."""

    depth: int = 3


def test_annotations_that_cannot_be_checked_check_nothing(shelf):
    setting = Setting()

    @registry.register("loose")
    def make(setting: Setting | None = None, table: "NoSuchType" = 1, free=2, **rest):  # noqa: F821
        return nn.Identity()

    @registry.register("typed")
    def make_typed(setting: Setting, dtype: torch.dtype = torch.float32):
        return nn.Identity()

    assert registry.create("loose", free="x", other=1).overrides == {"free": "x", "other": 1}
    assert registry.create("typed", setting=setting).overrides["setting"] is setting
    message = usage_error(registry.create, "typed", setting=setting, dtype=3)
    assert message == "typed: option dtype must be dtype, not 3."


def test_choices_keep_their_spelling_in_messages(shelf):
    @registry.register("cased")
    def make(kind: Literal["RGB", "None"] = "None"):
        return nn.Identity()

    message = usage_error(registry.create, "cased", kind="rgb")
    assert message.endswith("kind must be 'RGB' | 'None', not 'rgb'. Did you mean 'RGB'?")


def test_a_users_own_mistake_keeps_its_traceback(shelf):
    @registry.register("mistaken")
    def make(width: int = 0):
        raise RuntimeError(f"width {width}\nis wrong")

    with pytest.raises(RuntimeError, match="width 0"):
        registry.create("mistaken")
    with pytest.raises(RuntimeError, match="width 2"):
        registry.create("mistaken", width=2)


# ---- every network ----


def expected(name):
    """(input_size, in_channels, out_channels, num_classes, learn_sigma) of a built-in name."""
    if name.startswith(("dic", "dit", "flowdcn", "sit", "udit")):
        return 32, 4, 8, 1000, True
    if name.startswith("edm2-"):
        return 64, 4, 4, 1000, False
    if name.startswith("lightningdit-") and name.endswith("-1"):
        return 16, 32, 32, 1000, False
    special = {
        "adm-64": (64, 3, 6, 1000, True),
        "adm-128": (128, 3, 6, 1000, True),
        "adm-256": (256, 3, 6, 1000, True),
        "adm-512": (512, 3, 6, 1000, True),
        "adm-u-64-256": (256, 3, 6, 1000, True),
        "adm-u-128-512": (512, 3, 6, 1000, True),
        "uvit-m-4": (64, 3, 3, 1000, False),
        "uvit-l-4": (64, 3, 3, 1000, False),
        "uvit-s-2-cifar10": (32, 3, 3, 0, False),
        "unet2d-64": (64, 3, 3, 0, False),
        "uvit2d": (16, 1, 8192, 0, False),
        "tiny-unet": (28, 1, 1, 0, False),
        "hdit-mnist": (28, 1, 1, 10, False),
        "hdit-cifar10": (32, 3, 3, 10, False),
        "hdit-flowers": (256, 3, 3, 0, False),
        "hdit-flowers-windows": (256, 3, 3, 0, False),
        "hdit-imagenet-256": (256, 3, 3, 1000, False),
        "hdit-ffhq-1024": (1024, 3, 3, 0, False),
    }
    return special.get(name, (32, 4, 4, 1000, False))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_makes_what_it_describes(name):
    with torch.device("meta"):
        network = registry.create(name)
        inputs = network.example_inputs(2)
        output = network.eval()(*inputs)
    attributes = ("input_size", "in_channels", "out_channels", "num_classes", "learn_sigma")
    assert tuple(getattr(network, attribute) for attribute in attributes) == expected(name)
    assert (network.name, network.overrides) == (name, {})
    side = network.input_size
    assert output.shape == (2, network.out_channels, side, side)
    assert output.dtype == torch.float32
    assert all(tensor.device.type == "meta" and len(tensor) == 2 for tensor in inputs)
    if name == "uvit2d":
        assert [tuple(i.shape) for i in inputs] == [(2, 16, 16), (2, 77, 768), (2, 768), (2, 5)]
    else:
        small = [(2, 3, side // 4, side // 4)] if name.startswith("adm-u-") else []
        assert [tuple(i.shape) for i in inputs] == [(2, network.in_channels, side, side), (2,), (2,), *small]

    described = registry.describe(name)
    assert described.name == name
    assert described.summary
    assert described.origin.startswith("registry.")
    assert all(option.type and option.default is not None for option in described.options.values())
    for attribute in attributes:
        if attribute in described.options:
            assert described.options[attribute].default == getattr(network, attribute)


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("udit-b", {"hidden_size": 192, "depth": (2, 5, 8, 5, 2), "downsampler": "depthwise+shortcut"}),
        ("dit-unet", {"hidden_size": 48, "attention": "full", "ffn": "mlp", "cosine": False}),
        ("dit-xl-2", {"hidden_size": 1152, "depth": 28, "patch_size": 2}),
        ("uvit-h-2", {"hidden_size": 1152, "depth": 28, "num_heads": 16}),
    ],
)  # fmt: skip
def test_describe_tells_the_defaults_of_that_name(name, defaults):
    options = registry.describe(name).options
    assert {option: options[option].default for option in defaults} == defaults
    assert options["input_size"].type == "int | tuple[int, int]"
    if "ffn" in options:
        assert options["ffn"].type == "'mlp' | 'dwconv' | 'reparam'"


SMALL = {
    "adm-256": {
        "hidden_size": 32,
        "channel_mult": (1, 2),
        "num_res_blocks": 1,
        "head_width": 16,
        "class_dropout_prob": 0.1,
    },
    "dit-s-2": {"hidden_size": 16, "depth": 1, "num_heads": 2},
    "flowdcn-s-2": {"hidden_size": 16, "depth": 1, "num_groups": 2},
    "udit-t": {"hidden_size": 8, "depth": (1, 1, 1, 1, 1), "num_heads": 1},
    "uvit-s-2": {"hidden_size": 16, "depth": 2, "num_heads": 2},
    "unet2d": {"block_out_channels": (32, 32), "layers_per_block": 1},
    "uvit2d-latent": {"block_out_channels": 8, "hidden_size": 8, "depth": 1, "num_heads": 2},
    "tiny-unet": {"widths": (8, 8, 8), "time_width": 8},
}


def awake(network):
    """Random weights everywhere: a fresh network's output is zero in some families."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return network


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_without_classes_the_label_is_ignored(name):
    network = awake(
        registry.create(name, num_classes=0, input_size=8, **SMALL[name])
    )  # in training: nothing to drop
    assert network.num_classes == 0
    x, t, _ = network.example_inputs(2)
    output = network(x, t, None)
    assert output.abs().max() > 0.01
    assert torch.equal(output, network(x, t, torch.tensor([3, 10_000])))
    assert not torch.equal(output, network(x, t + 50, None))


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_with_classes_labels_matter_and_sizes_need_not_be_square(name):
    network = awake(registry.create(name, num_classes=3, input_size=(8, 16), **SMALL[name])).eval()
    assert (network.input_size, network.num_classes) == ((8, 16), 3)
    x, t, y = network.example_inputs(400)
    assert x.shape == (400, network.in_channels, 8, 16)
    assert set(y.tolist()) == {0, 1, 2}
    if network.objective != "edm":  # whose σ has no end
        last = 1 if network.objective == "flow" else 1000
        assert 0 <= t.min() < 0.1 * last and 0.9 * last < t.max() < last
        assert abs(x.std() - 1) < 0.05
    output = network(x[:2], t[:2], torch.tensor([0, 1]))
    assert output.shape == (2, network.out_channels, 8, 16)
    other = network(x[:2], t[:2], torch.tensor([0, 2]))
    assert torch.equal(output[0], other[0])
    assert not torch.equal(output[1], other[1])
    assert torch.isfinite(network(x[:1], t[:1], torch.tensor([3]))).all()  # the null class


@pytest.mark.parametrize("name", SMALL)
def test_a_square_pair_is_one_side(name):
    with torch.device("meta"):
        network = registry.create(name, input_size=(16, 16), **SMALL[name])
    assert network.input_size == 16


def test_example_inputs_follow_dtype():
    network = registry.create("dit-s-2", input_size=(4, 8), **SMALL["dit-s-2"]).to(torch.bfloat16)
    x, t, y = network.example_inputs()
    assert (x.dtype, t.dtype, y.dtype) == (torch.bfloat16, torch.int64, torch.int64)
    assert x.shape == (1, 4, 4, 8)


@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("dit-s-2", {"depth": -1}, "depth must be positive"),
        ("dit-s-2", {"mlp_ratio": 0}, "mlp_ratio must be positive"),
        ("dit-s-2", {"class_dropout_prob": 1.5}, "class_dropout_prob must be at least 0 and below 1"),
        ("udit-t", {"depth": (1, 1, -2, 1, 1)}, "negative number of stage units"),
        ("udit-t", {"hidden_size": 15, "num_heads": 1, "rope": False}, "hidden_size 15 is odd"),
        ("uvit-s-2", {"hidden_size": 33, "num_heads": 3}, "hidden_size 33 is odd"),
        ("uvit-s-2", {"depth": 3}, "depth 3 is odd"),
        ("unet2d", {"layers_per_block": 0}, "layers_per_block must be positive"),
        ("unet2d", {"class_dropout_prob": -0.1}, "class_dropout_prob"),
        ("uvit2d-latent", {"depth": -1}, "depth must be positive"),
        ("tiny-unet", {"widths": (0, 8, 8)}, "must be positive"),
        ("tiny-unet", {"time_width": 63}, "time_width 63 is odd"),
    ],
)
def test_values_that_make_no_sense_are_refused_when_built(name, overrides, says):
    with torch.device("meta"), pytest.raises(registry.UsageError, match=says):
        registry.create(name, **overrides)


@pytest.mark.parametrize("name", ["dit-s-8", "udit-t", "uvit-s-2", "unet2d", "uvit2d-latent"])
def test_a_conditional_network_without_labels_says_so(name):
    with torch.device("meta"):
        network = registry.create(name)
        x, t, _ = network.example_inputs(2)
    with pytest.raises(registry.UsageError, match="1000 classes needs labels"):
        network(x, t, None)


class Defaults(nn.Module):
    """A plain module whose arguments' defaults are not the contract's."""

    def __init__(self, input_size: int = 16, num_classes: int = 7):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x, t, y):
        return self.conv(x)


def test_a_plain_module_keeps_its_factorys_defaults():
    network = backbone.adopt("plain", Defaults, {})
    assert (network.input_size, network.num_classes) == (16, 7)
    assert network(*network.example_inputs(2)).shape == (2, 4, 16, 16)
    assert backbone.adopt("plain", Defaults, {"input_size": 8}).input_size == 8


def test_an_attribute_in_the_way_of_the_contract_is_named():
    class InTheWay(Defaults):
        deploy = False

    with pytest.raises(CodeError, match=r"InTheWay\.deploy is no method"):
        backbone.adopt("plain", InTheWay, {})
