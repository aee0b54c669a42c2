"""How commands show their help, and how a mistake in their options becomes one line."""

from __future__ import annotations

import inspect
from typing import Any

from rich.markup import escape
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.exceptions import TyperException

_EXAMPLES = "\n\nExamples:\n"
_VALUES = {"int": "N", "float": "X", "str": "TEXT", "Path": "PATH"}


class _Named:
    """Shows what an option takes as `N`, `PATH` or `one|other`, and nothing for a flag or an argument."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Every argument and option, `--help` among them."""
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in found:
            if isinstance(parameter, TyperArgument):  # its name says it
                setattr(parameter, "display_type_rich", lambda ctx: None)  # noqa: B010
            else:
                parameter.metavar = _value(parameter)
        return found


class Command(_Named, TyperCommand):
    """A command whose docstring is its help: a line for each paragraph, and its `Examples:` at the end."""

    def __init__(self, name: str, **settings: Any) -> None:
        prose, shown = parted(settings.pop("help"))
        epilog = "\n".join(["[bold]Examples[/bold]", *(f"$ {escape(line)}" for line in shown)])
        super().__init__(name, help=escape(prose), **settings | {"epilog": epilog})


class Group(_Named, TyperGroup):
    """`bench` itself."""


def misused(error: TyperException) -> str:
    """What is wrong with the words of a command, in one line, and where its help is."""
    context = getattr(error, "ctx", None)
    message = " ".join(error.format_message().split()).replace("Value error, ", "")
    if possible := getattr(error, "possibilities", None):
        message = f"{error.message}. Did you mean {' or '.join(sorted(possible))}?"
    end = "" if message.endswith((".", "?")) else "."
    return f"{message}{end} See `{context.command_path} --help`." if context else message


def parted(text: str) -> tuple[str, list[str]]:
    """The prose of a docstring, each paragraph on one line, and its examples."""
    prose, _, shown = inspect.cleandoc(text).partition(_EXAMPLES)
    paragraphs = [" ".join(paragraph.split()) for paragraph in prose.split("\n\n")]
    return "\n\n".join(paragraphs), [line.strip() for line in shown.splitlines()]


def _value(option: TyperOption) -> str | None:
    if option.is_flag:
        return ""
    if option.metavar is not None:
        return option.metavar
    kind = option.type_descriptor
    if kind.choices:
        return "|".join(map(str, kind.choices))
    return _VALUES.get(getattr(kind.annotation, "__name__", ""))
