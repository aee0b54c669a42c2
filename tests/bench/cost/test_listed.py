"""What `bench list` knows of backbones without torch."""

import json

import pytest

import registry
from bench import cost, records
from bench.cost.listed import listed
from registry.fingerprints import equivalent
from tests.conftest import ROOT

NAMES = [name for name in registry.names() if registry.backbones.find(name).module.startswith("registry.")]


def test_every_backbone_is_listed_as_its_code_is():
    assert list(listed()) == NAMES, "python -m tests.listed counts them"
    changed = [
        name
        for name, row in listed().items()
        if not equivalent(row.fingerprint, registry.backbones.fingerprint(name))
    ]
    assert not changed, f"python -m tests.listed counts {changed} again"


@pytest.mark.parametrize("name", ["dit-s-8", "tiny-unet", "uvit-s-2-cifar10"])
def test_it_is_what_is_measured(name):
    found, row = cost.measure(name), listed()[name]
    assert (row.parameters, row.paper_gflops) == (found.parameters, found.paper_gflops)


def test_it_is_what_is_recorded():
    compared = 0
    for record in records.read(ROOT / "results"):
        request = record.request
        if request.kind == "cost" and request.config == registry.canonical(request.model, {}):
            row = listed()[request.model]
            assert (row.parameters, row.paper_gflops) == (
                record.result.parameters,
                record.result.paper_gflops,
            )
            compared += 1
    assert compared > 20


def test_a_reader_sees_paper_parameters_and_gflops(run_bench, tmp_path):
    table = {row["name"]: row for row in json.loads(run_bench("list", "--json")[1])}
    assert table["udit-b"] == {
        "name": "udit-b", "origin": "registry.networks.udit", "paper": "arXiv 2405.02730",
        "parameters": 231251304, "paper_gflops": 22.224769408,
        "summary": "U-shaped diffusion transformer of widths C, 2C, 4C that attends to downsampled tokens.",
    }  # fmt: skip
    papers = {
        name: table[name]["paper"] for name in ("dit-xl-2", "sit-xl-2", "uvit-h-2", "dico-s", "tiny-unet")
    }
    assert list(papers.values()) == [
        "arXiv 2212.09748", "arXiv 2401.08740", "arXiv 2209.12152", "arXiv 2505.11196", ""
    ]  # fmt: skip
    (line,) = (line for line in run_bench("list", "udit-b")[1].splitlines() if line.startswith("udit-b"))
    assert line.split() == ["udit-b", "arXiv", "2405.02730", "231.25", "22.22", "registry.networks.udit"]

    plugin = tmp_path / "listed_net.py"
    plugin.write_text(
        "import registry\nfrom torch import nn\n"
        "@registry.register('listed-net')\nclass Net(nn.Identity):\n    'As in arXiv:2401.12345.'\n"
    )
    mine = json.loads(run_bench("list", "listed-net", "--plugin", str(plugin), "--json")[1])
    expected = {"name": "listed-net", "origin": "listed_net.py", "paper": "arXiv 2401.12345"}
    expected["summary"] = "As in arXiv:2401.12345."
    assert mine == [expected | {"parameters": None, "paper_gflops": None}]
    registry.backbones._entries.pop("listednet")
