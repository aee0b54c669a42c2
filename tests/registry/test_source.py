"""What is read from source is what importing gives; a fingerprint follows the code and nothing else."""

import importlib
import itertools
import pkgutil
import subprocess
import sys
import textwrap
import time
from functools import partial

import pytest

import bench.data
import registry
from bench.diffusion import objectives, samplers
from bench.metrics.extractors import extractors
from registry import plugins, source
from registry.plugins import Registry
from tests.conftest import ROOT

SEARCHED = [  # package, the registry of its names, class attributes to compare
    ("registry.networks", registry.backbones, ["objective", "beta_schedule", "guided_channels"]),
    ("bench.data", bench.data.datasets, []),
    ("bench.metrics.extractors", extractors, ["name", "outputs"]),
    ("bench.diffusion", objectives, []),
    ("bench.diffusion", samplers, []),
]


# ---- names and options ----


@pytest.mark.parametrize(
    ("package", "imported", "attributes"), SEARCHED, ids=[found.kind for _, found, _ in SEARCHED]
)
def test_what_is_read_equals_what_importing_gives(package, imported, attributes):
    found = source.registrations(package, imported.kind)
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
    assert [r.name for r in found] == [
        name for name in imported.names() if imported.find(name).module.startswith(package)
    ]
    for read in found:
        factory = imported.factory(read.name)
        entry = imported.find(read.name)
        assert (entry.name, entry.aliases, entry.module) == (read.name, read.aliases, read.source.name)
        assert getattr(factory, "keywords", {}) == read.defaults
        assert plugins._signature(factory) == read.signature
        made = factory.func if isinstance(factory, partial) else factory
        for attribute in attributes:
            assert read.attribute(attribute) == getattr(made, attribute)


def test_questions_about_a_name_import_no_torch_and_are_quick():
    code = """
    import sys, time
    import registry
    start = time.process_time()
    names = registry.names()
    took = time.process_time() - start
    for name in names:
        registry.describe(name), registry.canonical(name, {}), registry.backbones.fingerprint(name)
        registry.label(name, {"input_size": 64}), registry.backbones.attribute(name, "objective")
    heavy = {"torch", "numpy", "diffusers"} & set(sys.modules)
    assert not heavy, heavy
    print(took)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 0.5  # 0.03 s on a machine that does nothing else


def test_class_attributes_without_import():
    attribute = registry.backbones.attribute
    assert [attribute(name, "objective") for name in ("dit-s-2", "sit-s-2", "udit-t")] == [
        "ddpm",
        "flow",
        "ddpm",
    ]
    assert [attribute(name, "beta_schedule") for name in ("dit-s-2", "uvit-s")] == ["linear", "scaled_linear"]
    assert [attribute(name, "guided_channels") for name in ("sit-s-2", "udit-t", "uvit-s", "unet2d")] == [
        3,
        3,
        None,
        None,
    ]
    with pytest.raises(AttributeError):
        attribute("dit-s-2", "no_such_attribute")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package of modules and search it: `package(mod="…")` -> the registry that knows its names."""
    numbers = itertools.count()

    def write(**modules):
        name = f"searched{next(numbers)}_{tmp_path.name.replace('-', '_')}"
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("from registry.plugins import Registry\n"
            'things = Registry("thing")\nothers = Registry("other")\n'
            "register = things.register\n")  # fmt: skip
        for module, text in modules.items():
            head = f"from {name} import things, others, register\n"
            (tmp_path / name / f"{module}.py").write_text(head + textwrap.dedent(text))
        return Registry("thing", name)

    monkeypatch.syspath_prepend(tmp_path)
    return write


def test_statements_decorators_constants_and_other_registries(package):
    found = package(
        b="""
        import math
        from typing import Literal
        from pathlib import Path

        Kind = Literal["x", "y"]
        _SIZE = {"width": 2 * 8, "depth": (1, 2)}
        _MORE = dict(_SIZE, kind="y")

        @things.register("decorated", aliases=("d", "e"), width=3)
        @others.register("elsewhere")
        @things.register("twice")
        def make(width: int = 1, *, kind: Kind = "x", root: "Path | None" = None, **more):
            '''First line.

            Another.
            '''

        class Base:
            colour = "red"

            def __init__(self, width: int, depth: tuple[int, int] = (0, 0), free=math.pi, kind: Kind = "x"):
                raise RuntimeError("must not run")

        class Derived(Base):
            pass

        register("stated", **_MORE)(Derived)
        others.register("another")(Derived)
        """,
        a='raise RuntimeError("must not be imported")\nregister("first")(Unknown)',
    )
    assert found.names() == ["first", "twice", "decorated", "stated"]
    assert found.find("E").name == "decorated"
    described = found.describe("decorated")
    assert described.summary == "First line."
    assert {name: (o.type, o.default, o.required) for name, o in described.options.items()} == {
        "width": ("int", 3, False),
        "kind": ("'x' | 'y'", "x", False),
        "root": ("pathlib.Path | None", None, False),
    }
    assert found.describe("twice").options["width"].default == 1
    assert {name: p.default for name, p in found.options("stated").items()} == {
        "width": 16, "depth": (1, 2), "free": 3.141592653589793, "kind": "y",
    }  # fmt: skip
    assert found.attribute("stated", "colour") == "red"
    assert found.check("decorated", {"width": "5", "new": 1}) == {"width": 5, "new": 1}
    with pytest.raises(registry.UsageError, match=r"kind must be 'x' \| 'y'"):
        found.check("stated", {"kind": "z"})
    with pytest.raises(RuntimeError, match="must not be imported"):
        found.describe("first")  # its class is not in sight


def test_a_computed_name_is_an_error_that_names_its_line(package):
    found = package(a='for i in "ab":\n    pass\nregister(f"name-{i}")(dict)')
    with pytest.raises(ValueError, match=r"a\.py, line 4: names and aliases must be literals"):
        found.names()


def test_the_networks_are_read_within_a_tenth_of_a_second():
    best = min(_seconds() for _ in range(5))
    assert best < 0.1


def _seconds():
    source._read.cache_clear()
    start = time.process_time()
    source.registrations("registry.networks", "backbone")
    return time.process_time() - start
