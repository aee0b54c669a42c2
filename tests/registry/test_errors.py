"""Where a mistake is the user's, and plugins that are files."""

import random
import runpy
import sys
import traceback

import pytest
import torch
from torch import nn

import registry
from registry import backbone, errors
from registry.errors import CodeError, UsageError, user_frame
from registry.plugins import Registry, load_file


def caught(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


# ---- the frame in a user's file ----

MINE = """
import torch

def deep():
    return shallow()

def shallow():
    torch.zeros(2) + torch.zeros(3)

def refused():
    import registry
    return registry.create("udit-t", depth=(-1, 0, 0, 0, 0))

class Other(torch.nn.Module):
    def forward(self, x):
        return x
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path, runpy.run_path(str(path))


def test_the_deepest_frame_of_the_users(mine):
    path, functions = mine
    frame = user_frame(caught(functions["deep"]))
    assert (frame.filename, frame.lineno, frame.name) == (str(path), 8, "shallow")
    assert frame.line == "torch.zeros(2) + torch.zeros(3)"
    frame = user_frame(caught(functions["refused"]))  # below it, files of this program and of torch
    assert (frame.lineno, frame.name) == (12, "refused")


def test_a_forward_with_another_signature_is_where_it_begins(mine):
    path, functions = mine
    error = caught(functions["Other"](), 1, 2, 3)
    while error.__traceback__.tb_frame.f_code.co_filename == __file__:  # without this test's own frames
        error.__traceback__ = error.__traceback__.tb_next
    frame = user_frame(error)
    assert (frame.filename, frame.lineno, frame.name) == (str(path), 15, "forward")


def test_no_frame_of_the_users():
    error = caught(random.sample, [1], 2)
    error.__traceback__ = error.__traceback__.tb_next  # without this test's own frame
    assert user_frame(error) is None
    assert user_frame(ValueError("never raised")) is None


def test_a_syntax_error_is_where_the_parser_stopped(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("x = 1\ndef f(:\n    pass\n")
    frame = user_frame(caught(load_file, str(path)))
    assert (frame.filename, frame.lineno, frame.line) == (str(path), 2, "def f(:")


@pytest.mark.parametrize(
    ("file", "module", "users"),
    [
        (registry.__file__, "registry", False),
        (errors.__file__, "__main__", False),
        (traceback.__file__, "traceback", False),
        (torch.__file__, "torch", False),
        ("<frozen importlib._bootstrap>", "importlib._bootstrap", False),
        ("/home/me/site-packages/other/nets.py", "other.nets", False),
        ("/home/me/site-packages/announced/nets.py", "announced.nets", True),
        ("/home/me/net.py", "bench_plugin_net", True),
        (__file__, __name__, True),
    ],
)
def test_whose_file_it_is(monkeypatch, file, module, users):
    monkeypatch.setattr(errors, "plugin_packages", {"announced"})
    assert errors.is_user_file(file, module) is users


# ---- CodeError ----


class Net(nn.Module):
    in_channels, out_channels, input_size, num_classes, name = 2, 2, 4, 3, "net"

    def forward(self, x, t, y):
        return x


LINE = 1 + open(__file__).read().split("    def forward(self, x, t, y):")[0].count("\n")  # noqa: PTH123, SIM115
X = torch.zeros(3, 2, 4, 4)
INPUTS = X, torch.zeros(3), torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (None, "net: forward returns NoneType, not a tensor"),
        ((X, X), "net: forward returns tuple, not a tensor"),
        (X[:, :1], "net: the output is (3, 1, 4, 4), not (N, out_channels, H, W) = (3, 2, 4, 4)"),
        (X[:2], "net: the output is (2, 2, 4, 4)"),
        (X.where(torch.arange(4) > 0, torch.nan), "net: 24 of 96 output values are not finite"),
        (X.where(torch.arange(4) > 2, -torch.inf), "net: 72 of 96 output values are not finite"),
    ],
)
def test_an_output_that_cannot_be_one(output, says):
    with pytest.raises(CodeError) as error:
        backbone.check_output(Net(), INPUTS, output)
    assert str(error.value).startswith(says)
    assert str(error.value).endswith(f" ({__file__}, line {LINE})")


def test_outputs_that_pass():
    backbone.check_output(Net(), INPUTS, X)
    backbone.check_output(Net(), INPUTS, X.to("meta"))  # has no values to look at
    backbone.check_output(Net(), (X.long(), *INPUTS[1:]), X[:1])  # of another signature
    backbone.check_output(Net(), INPUTS[:2], X[:1])
    backbone.check_output(Net(), (X, torch.zeros(3, 5, 8), INPUTS[1]), X[:1])  # x, text, t


def test_a_training_output_is_for_training_mode():
    whole = registry.TrainingOutput(X, torch.zeros(3), {"far": torch.ones(3)})
    backbone.check_output(Net(), INPUTS, whole)
    with pytest.raises(CodeError, match="forward returns TrainingOutput, not a tensor"):
        backbone.check_output(Net().eval(), INPUTS, whole)
    for wrong in (torch.zeros(3, 1), torch.tensor([0.0, torch.nan, 0.0])):
        for output in (registry.TrainingOutput(X, wrong), registry.TrainingOutput(X, losses={"far": wrong})):
            with pytest.raises(CodeError, match=r"of a TrainingOutput are finite and \(N,\) = \(3,\)"):
                backbone.check_output(Net(), INPUTS, output)
    with pytest.raises(CodeError, match="net: the output is"):
        backbone.check_output(Net(), INPUTS, registry.TrainingOutput(X[:2]))


def test_code_without_a_file_is_an_error_without_place():
    made = type("Made", (nn.Module,), {})
    assert str(CodeError("wrong", made())) == "wrong" or "torch" in str(CodeError("wrong", made()))
    assert str(CodeError("wrong", len)) == "wrong"


# ---- plugin files ----

PLUGIN = """
import helper_of_it

loaded = helper_of_it.count()
"""
HELPER = "n = 0\ndef count():\n    global n\n    n += 1\n    return n\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of plugins; what is loaded from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "helper_of_it.py").write_text(HELPER)
    yield tmp_path
    for module in set(sys.modules) - before:
        del sys.modules[module]


def test_a_plugin_file_has_a_private_name(folder):
    path = folder / "random.py"
    path.write_text(PLUGIN)
    module = load_file(str(path))
    assert module.__name__ == "bench_plugin_random" and module.loaded == 1
    assert sys.modules["random"] is random
    assert sys.path[-1] == str(folder)
    assert load_file(f"{folder}/../{folder.name}/random.py") is module  # once
    assert sys.path.count(str(folder)) == 1


def test_files_of_one_name_in_two_folders(folder):
    for number in "12":
        (folder / number).mkdir()
        (folder / number / "my-net.py").write_text(f"value = {number}")
    modules = [load_file(str(folder / number / "my-net.py")) for number in "12"]
    assert [module.value for module in modules] == [1, 2]
    assert modules == [load_file(str(folder / number / "my-net.py")) for number in "12"]


def test_a_plugin_that_failed_can_be_loaded_again(folder):
    path = folder / "net.py"
    path.write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        load_file(str(path))
    path.write_text("value = 5 + 5")
    assert load_file(str(path)).value == 10


def test_a_module_by_name(folder):
    sys.path.append(str(folder))
    (folder / "some_plugin.py").write_text("import absent_library")
    with pytest.raises(ModuleNotFoundError, match="absent_library"):
        load_file("some_plugin")
    assert load_file("helper_of_it").n == 0


@pytest.mark.parametrize("plugin", ["not/there.py", "not_there", "registry.not_there", "."])
def test_no_such_plugin(plugin):
    with pytest.raises(UsageError, match="no such plugin"):
        load_file(plugin)


def test_an_origin_is_the_file(folder, monkeypatch):
    shelf = Registry("thing")
    monkeypatch.setattr(registry, "register", shelf.register)
    (folder / "nets.py").write_text("import registry\nregistry.register('mine')(dict)")
    load_file(str(folder / "nets.py"))
    assert shelf.find("mine").origin == "nets.py"
