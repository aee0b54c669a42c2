"""What the README shows is what the code does."""

import re
import runpy
import subprocess
import sys

import pytest
import torch

import registry
from registry import contract
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text("utf-8")


def test_the_test_command_is_the_one_ci_runs():
    ci = (ROOT / ".ci/run").read_text("utf-8")
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


def test_the_example_study_of_the_example_network_can_be_measured(tmp_path):
    """It is run with the command shown, as far as the plan."""
    for language, name in (("python", "my_net.py"), ("toml", "my_study.toml")):
        code = re.search(rf"```{language}\n# {re.escape(name)}\n(.*?)```", README, re.DOTALL)
        (tmp_path / name).write_text(code[1])
    (command,) = re.findall(r"^bench (ablate my_study\.toml .*--dry-run)", README, re.MULTILINE)
    shown = subprocess.run(
        [sys.executable, "-m", "bench.cli", *command.split()], cwd=tmp_path, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "9 of 9 cells are to be measured" in shown.stdout


def test_the_example_sampler_samples(tmp_path):
    from bench.diffusion import objective, sampler, samplers

    code = re.search(r"```python\n# my_sampler\.py\n(.*?)```", README, re.DOTALL)
    (tmp_path / "my_sampler.py").write_text(code[1])
    try:
        runpy.run_path(str(tmp_path / "my_sampler.py"), run_name="my_sampler")
        noise = torch.ones(2, 4, 8, 8)
        # A velocity of −1 everywhere leads from 1 to 0.
        made = sampler("my-euler").sample(
            objective("flow"), lambda x, t: -torch.ones_like(x), noise, lambda _: noise, "5"
        )
    finally:
        samplers._entries.pop("myeuler", None)
    torch.testing.assert_close(made, torch.zeros_like(noise))


def test_the_python_example_names_what_there_is():
    import bench

    (code,) = re.findall(r"```python\nimport bench\n\n(.*?)```", README, re.DOTALL)
    for line in code.strip().splitlines():
        name = re.match(r"bench\.([\w.]+)\(", line)[1]
        found = bench
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found)


@pytest.mark.parametrize("name", re.findall(r"--model ([\w*'-]+)", README))
def test_names_in_commands_exist(name):
    assert name == "my-net" or registry.names(name.strip("'"))
