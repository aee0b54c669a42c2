"""The wheel outside of a clone: what it brings, and what it says of what it does not bring."""

import os
import re
import subprocess
import sys
import zipfile
from email.parser import HeaderParser

import pytest

from bench.records import NOT_IN_THE_PACKAGE
from bench.version import __version__
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tracked():
    """The files of both packages that git knows, so that what is left over in a folder is not packed."""
    names = subprocess.check_output(["git", "ls-files", "-z", "bench", "registry"], cwd=ROOT)
    return names.decode().strip("\0").split("\0")


@pytest.fixture(scope="module")
def wheel(tracked, tmp_path_factory):
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*tracked, "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    build = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=source, check=True, capture_output=True)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def outside(wheel, tmp_path_factory):
    """`bench` of the wheel in an empty folder: its arguments to what it returns."""
    site, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(site)
    environment = os.environ | {"PYTHONPATH": str(site), "COLUMNS": "110", "OMP_NUM_THREADS": "1"}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "bench.cli", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    where = [sys.executable, "-c", "import bench; print(bench.__file__)"]
    assert subprocess.check_output(where, cwd=folder, env=environment, text=True).startswith(str(site))
    return run


def test_everything_of_the_packages_is_in_it(wheel, tracked):
    with zipfile.ZipFile(wheel) as opened:
        packed = {name for name in opened.namelist() if ".dist-info/" not in name}
    assert packed == set(tracked)


def test_what_its_metadata_says(wheel):
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        said = HeaderParser().parsestr(opened.read(name).decode())
    assert (said["Name"], said["Version"]) == ("denoiser-bench", __version__)
    assert (said["License-Expression"], said["License-File"]) == ("Apache-2.0", "LICENSE")
    assert said["Requires-Python"] == ">=3.11"
    assert "Programming Language :: Python :: 3.11" in said.get_all("Classifier")


def test_it_works_in_an_empty_folder(outside):
    assert outside("--version").stdout.strip() == f"denoiser-bench {__version__}"
    assert re.search(r"udit-b .* 22\.22 ", outside("flops", "--model", "udit-b").stdout)
    assert "96.15" in outside("tables", "--table", "5").stdout  # published
    assert "udit-t" in outside("list", "udit*").stdout
    written = outside("new", "my_net.py")
    assert written.returncode == 0, written.stderr
    described = outside("describe", "my-net", "--plugin", "my_net.py")
    assert described.stdout.startswith("my-net, defined by"), described.stderr


def test_what_it_does_not_bring_is_said_in_one_line(outside):
    plan = outside("ablate", "downsampler", "--dry-run")
    assert "9 of 9 cells are to be measured" in plan.stdout
    assert "this project's own records are in its repository" in " ".join(plan.stdout.split())
    report = outside("report", "--site", "site")
    assert report.returncode == 2
    assert report.stderr == f"error: no folder of records at results; {NOT_IN_THE_PACKAGE}\n"
