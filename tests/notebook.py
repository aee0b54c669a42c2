"""The notebooks of the book are run: `python -m tests.notebook --write` renews the outputs that they show.

Code cells are executed in order, in an empty folder, as a notebook does: the last expression of a cell comes
out as text, and as a table or picture where it has one. Outputs of cells with the tag `varies`, such as
times, differ each time and are not compared.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests import docs
from tests.conftest import ROOT

NOTEBOOKS = sorted(ROOT.glob("docs/**/*.ipynb"))


def run(path: Path, folder: Path) -> dict[str, Any]:
    """A notebook with the outputs that its cells have now.

    Args:
        path: of the notebook.
        folder: an empty one, in which it is run.

    Raises:
        Exception: whatever a cell raises.
    """
    notebook: dict[str, Any] = json.loads(path.read_text("utf-8"))
    names: dict[str, Any] = {"__name__": path.stem}
    before = Path.cwd()
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for number, cell in enumerate(cells, 1):
            cell["execution_count"] = number
            cell["outputs"] = _execute("".join(cell["source"]), f"{path.name}:{number}", number, names)
    finally:
        os.chdir(before)
        sys.path.remove(str(folder))
        docs.forget(folder, path.stem)
    return notebook


def compared(notebook: dict[str, Any]) -> list[Any]:
    """What must be the same each time: sources, and outputs of cells without the tag `varies`."""
    return [
        (cell["source"], None if "varies" in cell["metadata"].get("tags", ()) else cell.get("outputs"))
        for cell in notebook["cells"]
    ]


def _execute(source: str, name: str, number: int, names: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a cell; its outputs as a notebook holds them."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), names)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    if value is not None and not source.rstrip().endswith(";"):  # as in IPython
        result = {"output_type": "execute_result", "execution_count": number, "metadata": {}}
        outputs.append(result | {"data": _bundle(value)})
    return outputs


def _bundle(value: Any) -> dict[str, Any]:
    """What a notebook shows of a value, by its types."""
    found: dict[str, Any] = {"text/plain": re.sub(r" at 0x[0-9a-f]+", "", repr(value))}
    if hasattr(value, "_repr_mimebundle_"):
        found |= value._repr_mimebundle_(None, None)
    elif hasattr(value, "_repr_html_"):
        found["text/html"] = value._repr_html_()
    shown = {}
    for kind, content in found.items():
        if isinstance(content, bytes):
            content = base64.b64encode(content).decode()
        shown[kind] = content.splitlines(keepends=True) if isinstance(content, str) else content
    return shown


def main() -> None:
    """Run the notebooks, and with `--write` renew what they show."""
    parser = argparse.ArgumentParser(prog="python -m tests.notebook", description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="Notebooks; by default all.")
    parser.add_argument("--write", action="store_true", help="Write the new outputs into the notebooks.")
    args = parser.parse_args()
    for path in args.notebooks or NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            notebook = run(path.resolve(), Path(folder))
        same = compared(notebook) == compared(json.loads(path.read_text("utf-8")))
        print(f"{path}: {'as shown' if same else 'outputs differ'}")
        if args.write:
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
