"""What the notebooks of the book show is what happens; see `tests.notebook`."""

import json
from pathlib import Path

import pytest

from tests import notebook
from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("path", notebook.NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_notebook_shows_what_happens(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("denoising_diffusion_pytorch")
    shown = json.loads(path.read_text("utf-8"))
    assert notebook.compared(notebook.run(path, tmp_path)) == notebook.compared(shown), (
        "renew it: python -m tests.notebook --write"
    )


def test_an_output_that_changed_is_found(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "code", "metadata": {}, "source": ["import random\n", "1 + 1"]},
        {"cell_type": "code", "metadata": {"tags": ["varies"]}, "source": ["random.random()"]},
        {"cell_type": "code", "metadata": {}, "source": ["print('two')"]},
    ]
    path = tmp_path / "one.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    first, second = (notebook.run(path, tmp_path) for _ in range(2))
    assert first["cells"][0]["outputs"][0]["data"] == {"text/plain": ["2"]}
    assert first["cells"][2]["outputs"][0]["text"] == ["two\n"]
    assert first != second and notebook.compared(first) == notebook.compared(second)
    first["cells"][2]["outputs"] = []
    assert notebook.compared(first) != notebook.compared(second)
