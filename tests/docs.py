"""What README and the book show is run: `python -m tests.docs --write` renews the outputs that they show.

The blocks of a page are taken in order, in a folder with a copy of the committed records:

- `python` and `toml` blocks whose first line is a comment with a file's name are written to that file; other
  `python` blocks are executed, and share their names.
- `console` blocks hold commands after `$ ` and what they print. A line `…` stands for any lines, `…` within a
  line for any text; a block with one is compared and never rewritten.
- `bash` blocks are not run, because they take hours, a cluster or files of one's own: their `bench` commands
  are parsed, so that options and names of commands exist.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import typer.main
from markdown_it import MarkdownIt

from bench.data import datasets
from bench.diffusion import objectives, samplers
from bench.metrics.extractors import extractors
from bench.metrics.scores import scores
from registry import backbones
from tests.conftest import ROOT

WIDTH = 110  # columns of the terminal


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text, and the lines that it takes, the fences included."""

    language: str
    text: str
    lines: tuple[int, int]


def pages() -> list[Path]:
    """README and every page of the book that is written by hand."""
    book = sorted(ROOT.glob("docs/**/*.md"))
    return [ROOT / "README.md", *(page for page in book if "generated" not in page.parts)]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page with a language, in order."""
    fences = [token for token in MarkdownIt().parse(text) if token.type == "fence" and token.info]
    return [Block(token.info.split()[0], token.content, (token.map[0], token.map[1])) for token in fences]


def run(page: Path, folder: Path) -> dict[tuple[int, int], str]:
    """Do what a page shows, in an empty folder that gets a copy of the committed records.

    Returns:
        The new text of `console` blocks that print something else than shown, by their lines.

    Raises:
        AssertionError: a block with `…` that does not fit, a command that fails or does not exist.
    """
    names: dict[str, Any] = {"__name__": page.stem}
    changed = {}
    shutil.copytree(ROOT / "results", folder / "results", dirs_exist_ok=True)
    sys.path.insert(0, str(folder))
    try:
        for block in blocks(page.read_text("utf-8")):
            file = re.match(r"# ([\w.-]+\.(?:py|toml))\n", block.text)
            if block.language in ("python", "toml") and file:
                (folder / file[1]).write_text(block.text, "utf-8")
            elif block.language == "python":
                before = Path.cwd()
                os.chdir(folder)
                try:
                    exec(compile(block.text, f"{page.name}:{block.lines[0] + 1}", "exec"), names)
                finally:
                    os.chdir(before)
            elif block.language == "console":
                printed = _console(block.text, folder)
                if "…" in block.text:
                    assert _fits(block.text, printed), f"{page.name}: shown\n{block.text}\nprinted\n{printed}"
                elif printed != block.text:
                    changed[block.lines] = printed
            elif block.language == "bash":
                for command in commands(block.text):
                    parse(command)
    finally:
        sys.path.remove(str(folder))
        forget(folder, page.stem)
    return changed


def forget(folder: Path, page: str) -> None:
    """Remove the modules that a page wrote, and the names that they and the page itself registered."""
    written = {
        name
        for name, module in sys.modules.items()
        if folder in Path(getattr(module, "__file__", None) or "/").parents
    }
    for name in written:
        del sys.modules[name]
    for known in (backbones, datasets, extractors, scores, objectives, samplers):
        for name, entry in list(known._entries.items()):
            if entry.module in written | {page}:
                del known._entries[name]
                known.version += 1  # tables made from the names are made again


def commands(text: str) -> list[list[str]]:
    """The `bench` commands of a shell script, as arguments."""
    lines = text.replace("\\\n", " ").splitlines()
    lines = [re.sub(r"--plugin \S+", "", line) for line in lines]  # which would be imported
    parts = [shlex.split(part, comments=True) for line in lines for part in re.split(r"&&|\||>", line)]
    return [part[1:] for part in parts if part and Path(part[0]).name == "bench"]


def parse(arguments: list[str]) -> None:
    """See that a command and its options exist.

    Raises:
        AssertionError: they do not.
    """
    from bench.cli import app

    group: Any = typer.main.get_command(app)
    try:
        context = group.make_context("bench", list(arguments))
        name, command, rest = group.resolve_command(context, arguments)
        command.make_context(name, rest, parent=context)
    except typer.Exit:
        pass  # --help
    except Exception as error:  # of Typer's own copy of click, which has no public names
        raise AssertionError(f"bench {shlex.join(arguments)}: {error}") from None


def _console(text: str, folder: Path) -> str:
    """The block as it would read now: each command with what it prints, both streams."""
    shown = []
    for command in re.findall(r"^\$ (.*)$", text, re.MULTILINE):
        environment = os.environ | {
            "COLUMNS": str(WIDTH),
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        ended = subprocess.run(
            command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"$ {command}\n{ended.stderr}{ended.stdout}"
        printed = "\n".join(line.rstrip() for line in (ended.stderr + ended.stdout).strip("\n").splitlines())
        shown.append(f"$ {command}\n{printed}\n" if printed else f"$ {command}\n")
    return "".join(shown)


def _fits(shown: str, printed: str) -> bool:
    """Whether a text with `…` stands for another."""
    lines = [
        r"(?:.*\n)*?" if line == "…" else ".*?".join(map(re.escape, line.split("…"))) + r"\n"
        for line in shown.splitlines()
    ]
    return re.fullmatch("".join(lines), printed) is not None


def main() -> None:
    """Run the pages, and with `--write` renew what they show."""
    parser = argparse.ArgumentParser(prog="python -m tests.docs", description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, help="Pages; by default all.")
    parser.add_argument("--write", action="store_true", help="Write the new outputs into the pages.")
    args = parser.parse_args()
    for page in args.pages or pages():
        with tempfile.TemporaryDirectory() as folder:
            changed = run(page, Path(folder))
        print(f"{page}: {len(changed)} outputs differ")
        if args.write and changed:
            lines = page.read_text("utf-8").splitlines(keepends=True)
            for (first, last), text in sorted(changed.items(), reverse=True):
                lines[first + 1 : last - 1] = [text]
            page.write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()
