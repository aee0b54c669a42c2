"""The book: `sphinx-build -W docs site/docs`. The pages of reference come from the code at each build."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.version import __version__  # noqa: E402
from docs import generated  # noqa: E402

project = "denoiser-bench"
author = "the denoiser-bench developers"
copyright = author
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.typer",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
default_role = "code"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_use_rtype = False
napoleon_use_ivar = True
html_theme = "furo"
html_title = f"denoiser-bench {__version__}"
html_theme_options = {"top_of_page_buttons": []}
exclude_patterns = ["reference/generated"]
suppress_warnings = ["myst.header"]  # a page of reference begins with an included table


# Pages link to committed reports, as people read them in the repository; the book is published in the folder
# `book` of the site, whose pages say the same.
PAGES_OF_THE_SITE = {"table-1": "studies/toy.html", "proxy": "predictors.html"}


def _link_to_the_site(_app: Any, page: str, source: list[str]) -> None:
    up = "../" * (page.count("/") + 1)
    source[0] = re.sub(
        r"\[([^\]]+)\]\((?:\.\./)+reports/([\w-]+)\.md\)",
        lambda link: f'<a href="{up}{PAGES_OF_THE_SITE[link[2]]}">{link[1]}</a>',
        source[0],
    )


def setup(app: Any) -> None:
    """Write the pages that come from the code before Sphinx reads the others."""
    app.connect("source-read", _link_to_the_site)
    app.connect("builder-inited", lambda _app: generated.write(Path(__file__).parent / "reference/generated"))
