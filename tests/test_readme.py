"""What the README shows is what the code does."""

import re
import runpy
from pathlib import Path

import pytest

import registry
from bench import contract

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def test_the_test_command_is_the_one_ci_runs():
    ci = (Path(__file__).parents[1] / ".ci/run").read_text("utf-8")
    commands = re.findall(r"```bash\n(.*?)\n```", README, re.DOTALL)
    assert len(commands) == 2 and commands[1] in ci.splitlines()


def test_shown_costs_are_measured_ones(capsys, monkeypatch):
    from bench.cli import flops

    monkeypatch.setenv("COLUMNS", "110")
    flops.flops(["udit-b", "dit-b-2"])
    for line in capsys.readouterr().out.strip().splitlines():
        assert line.rstrip() in README


def test_the_example_network_passes_the_contract(tmp_path):
    code = re.search(r"```python\n# my_net\.py\n(.*?)```", README, re.DOTALL)
    (tmp_path / "my_net.py").write_text(code[1])
    try:
        runpy.run_path(str(tmp_path / "my_net.py"), run_name="my_net")
        results = contract.check(registry.create("my-net", input_size=8, width=16))
    finally:
        registry.backbones._entries.pop("mynet", None)
    assert not [result for result in results if result.status == "fail"]


@pytest.mark.parametrize("name", re.findall(r"--model ([\w*'-]+)", README))
def test_names_in_commands_exist(name):
    assert name == "my-net" or registry.names(name.strip("'"))
