"""The README's commands are those that CI runs; `test_docs.py` runs what it shows."""

import re

from tests.conftest import ROOT


def test_the_test_command_is_the_one_ci_runs():
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = re.findall(r"```bash\n(python3 .*?)\n```", readme, re.DOTALL)
    for file in (".ci/run", ".github/workflows/ci.yml"):
        assert len(commands) == 2 and commands[1] in (ROOT / file).read_text("utf-8")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 200
