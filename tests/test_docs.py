"""What README and the book show is what happens; see `tests.docs`."""

import re
from pathlib import Path

import pytest

import registry
from tests import docs
from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("page", docs.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_shows_what_happens(page, tmp_path):
    assert docs.run(page, tmp_path) == {}, "renew it: python -m tests.docs --write"


@pytest.mark.parametrize("page", docs.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        there = (page.parent / target).resolve()
        assert there.exists() or "generated" in there.parts, f"{page.name}: {target}"


def test_an_option_that_does_not_exist_is_found():
    docs.parse(["flops", "--model", "udit-b"])
    with pytest.raises(AssertionError, match="--modle"):
        docs.parse(["flops", "--modle", "udit-b"])


def test_output_that_changed_is_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo one\ntwo\n```\n\n```console\n$ echo 1.5 s\n… s\n```\n", "utf-8")
    assert list(docs.run(page, tmp_path).values()) == ["$ echo one\none\n"]
    page.write_text("```console\n$ echo 1.5 s\n… ms\n```\n", "utf-8")
    with pytest.raises(AssertionError, match=r"1\.5 s"):
        docs.run(page, tmp_path)


def test_what_a_page_registers_is_gone_after_it(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\n# a_net.py\nimport registry\n\n\n@registry.register('a-net')\ndef make(): ...\n```\n\n"
        "```python\nimport a_net\n```\n",
        "utf-8",
    )
    for _ in range(2):
        assert docs.run(page, tmp_path) == {}
        assert "a-net" not in registry.backbones.names()
