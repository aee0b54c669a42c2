"""The arrows between rooms: who may import whom, and what imports no torch."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# What each room may import of the others.
ALLOWED = {
    name: set(others.split())
    for name, others in {
        "registry": "",
        "bench.version": "",
        "bench.utils": "registry",
        "bench.records": "bench.version bench.utils registry",
        "bench.diffusion": "bench.utils registry",
        "bench.data": "bench.utils registry",
        "bench.cost": "bench.records bench.utils registry",
        "bench.sampling": "bench.diffusion bench.data bench.records bench.utils registry",
        "bench.training": "bench.metrics bench.sampling bench.diffusion bench.data bench.records bench.utils "
        "registry",
        "bench.speed": "bench.cost bench.training bench.sampling bench.diffusion bench.records bench.utils "
        "registry",
        "bench.metrics": "bench.diffusion bench.data bench.records bench.utils registry",
        "bench.studies": "bench.cost bench.sampling bench.training bench.metrics bench.diffusion bench.data "
        "bench.records bench.utils registry",
        "bench.reports": "bench.studies bench.training bench.metrics bench.records bench.version bench.utils "
        "registry",
    }.items()
}
LIGHT = """
    bench bench.cli bench.cost bench.data bench.diffusion bench.metrics bench.metrics.scores bench.records
    bench.reports bench.reports.profile_figure bench.studies bench.studies.cells bench.training
    bench.training.protocols registry
""".split()


def room(module: str) -> str:
    """`bench.studies.cells` -> `bench.studies`; the API and the command may import everything."""
    parts = module.split(".")
    return parts[0] if parts[0] == "registry" else ".".join(parts[:2])


def imports(path: Path, *, types: bool = True) -> set[str]:
    """Modules of this project that a file imports, anywhere in it.

    Args:
        types: whether those count that only a type checker sees.
    """
    found = set()
    nodes = [ast.parse(path.read_text("utf-8"))]
    while nodes:
        node = nodes.pop()
        if types or not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = (ROOT / node.module.replace(".", "/")).is_dir()
            found |= {f"{node.module}.{alias.name}" if inner else node.module for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("bench", "registry")}


def module(path: Path) -> str:
    """`…/bench/cost/__init__.py` -> `bench.cost`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = sorted(p for package in ("bench", "registry") for p in (ROOT / package).rglob("*.py"))
MODULES = {module(path): path for path in FILES}


@pytest.mark.parametrize("name", ALLOWED)
def test_imports_point_one_way(name):
    assert not [
        f"{own} imports {imported}"
        for own, path in MODULES.items()
        if room(own) == name
        for imported in imports(path)
        if room(imported) not in {name, *ALLOWED[name]}
    ]


def test_every_room_is_told_of():
    assert set(map(room, MODULES)) - {"bench", "bench.api", "bench.cli"} == set(ALLOWED)


def test_no_files_of_a_room_import_each_other_in_a_circle():
    """What a function imports counts too; types alone import nothing when the program runs."""
    graph = {
        own: {
            found
            for imported in imports(path, types=False)
            # A name of a package stands in its `__init__`.
            if (found := imported if imported in MODULES else imported.rpartition(".")[0]) in MODULES
            and room(found) == room(own) != "bench"
            and found != own
        }
        for own, path in MODULES.items()
    }
    assert list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the files


def test_no_room_is_in_a_circle():
    order: list[str] = []
    while len(order) < len(ALLOWED):
        ready = [name for name in ALLOWED if name not in order and ALLOWED[name] <= set(order)]
        assert ready, f"a circle among {set(ALLOWED) - set(order)}"
        order += ready


@pytest.mark.parametrize("name", LIGHT)
def test_light_rooms_import_no_torch(name):
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
