"""`bench new`: what it writes runs as it says."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

import registry
from tests.conftest import ROOT


@pytest.mark.slow
def test_the_written_files_run_by_the_commands_that_it_names(run_bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code, out, _ = run_bench("new", "my_net.py")
    commands = [line.strip() for line in out.splitlines() if line.startswith("  bench ")]
    assert code == 0 and [command.split()[1] for command in commands] == [
        "check",
        "flops",
        "ablate",
        "report",
    ]
    assert all(command in (tmp_path / "my_net.py").read_text("utf-8") for command in commands)
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "bench.cli", *shlex.split(command)[1:]],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if "check" in command:
            assert "fail" not in done.stdout and "a LabelDropout trains 1000" in done.stdout
    page = (tmp_path / "reports" / "my_net.md").read_text("utf-8")
    assert "my-net" in page and "wider" in page and "TinyUNet" in page
    assert max(map(len, (tmp_path / "my_net.py").read_text("utf-8").splitlines())) <= 110


def test_nothing_is_overwritten_and_no_name_taken_twice(run_bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_bench("new", "Some Net.py")
    assert code == 0 and "bench check --plugin 'Some Net.py' --model some-net" in out
    for name, says in (
        ("Some Net.py", "exists: delete it"),
        ("net", "is not the name of a Python file"),
        ("__.py", "is not the name of a Python file"),
        ("udit_b.py", "a backbone named 'udit-b' already exists"),
        ("ditxl2.py", "a backbone named 'dit-xl-2' already exists"),
        ("nowhere/net.py", "cannot write"),
    ):
        code, _, err = run_bench("new", name)
        assert code == 2 and says in " ".join(err.split())
    assert not (tmp_path / "udit_b.py").exists()


def test_the_written_network_can_be_guided_and_made_wider(run_bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(registry.backbones.__dict__, "_installed", {**registry.backbones._installed})
    monkeypatch.setattr(registry.backbones, "_entries", registry.backbones._installed)
    run_bench("new", "a_net.py")
    from registry.plugins import load_file

    load_file("a_net.py")
    net = registry.create("a-net", num_classes=7, width=16)
    assert net.null_class == 7 and net.net.stem.out_channels == 16
    with pytest.raises(registry.UsageError, match="takes no option 'widht'"):
        registry.create("a-net", widht=16)
