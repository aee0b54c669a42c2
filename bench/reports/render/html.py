"""HTML from templates that escape all values."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("bench.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False}
    made.filters["linked"] = _linked
    return made


def _linked(text: str) -> Markup:
    """Text, escaped, whose arXiv ids are links."""
    from markupsafe import Markup, escape

    link = r'<a href="https://arxiv.org/abs/\1">\g<0></a>'
    return Markup(re.sub(r"arXiv (\d{4}\.\d{4,5})", link, str(escape(text))))


def render(template: str, **values: Any) -> str:
    """A template of `bench/reports/templates`, filled with escaped values."""
    return _templates().get_template(template).render(values)
