"""Errors: wrong input to this program, and errors in a user's code."""

from __future__ import annotations

import inspect
import sysconfig
import traceback
from pathlib import Path
from typing import Any

plugin_packages: set[str] = set()  # installed packages that registered a plugin: their files are the user's
_OWN = [Path(__file__).parent, Path(__file__).parents[1] / "bench"]
_STDLIB = [Path(sysconfig.get_path(which)) for which in ("stdlib", "platstdlib")]


class UsageError(ValueError):
    """Wrong input to this program. The message says what is wrong, where, and what to do.

    The command prints the message after `error:` and exits with status 2, without a traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # values and other libraries' messages may have lines


class CodeError(Exception):
    """A user's code returned something invalid. The message ends with the file and line of that code.

    Args:
        message: what is wrong, in one line.
        source: the object, class or function whose code it is, or an object whose `code_of` is that. For a
            network, the line is that of its `forward`.
    """

    def __init__(self, message: str, source: object) -> None:
        source = getattr(source, "code_of", source)
        target: Any = source if inspect.isclass(source) or inspect.isroutine(source) else type(source)
        target = inspect.unwrap(getattr(target, "forward", target))
        try:
            line = inspect.getsourcelines(target)[1]
            message += f" ({inspect.getsourcefile(target)}, line {line})"
        except (OSError, TypeError):  # code without a file
            pass
        super().__init__(message)


def reason(error: BaseException) -> str:
    """The first line of an error with its type, for a message: `KeyError: 'x'`."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def suggest(word: str, known: list[str]) -> str:
    """` Did you mean 'udit-b' or 'udit-l'?`, or an empty string if no known word is similar to `word`."""
    import difflib

    spelled = {name.lower(): name for name in known}
    close = [spelled[name] for name in difflib.get_close_matches(word.lower(), spelled, n=3, cutoff=0.6)]
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


def user_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The deepest frame of an error that is in a user's file; None if there is none.

    For a syntax error in a user's file it is the place in that file. For a network that is called with wrong
    arguments it is the line of its `forward`.
    """
    if isinstance(error, SyntaxError) and error.filename and is_user_file(error.filename):
        line = (error.text or "").strip()
        return traceback.FrameSummary(error.filename, error.lineno or 0, "<module>", line=line)
    found = None
    for frame, line_number in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if is_user_file(code.co_filename, frame.f_globals.get("__name__") or ""):
            found = traceback.FrameSummary(code.co_filename, line_number, code.co_name)
        elif code.co_name == "_call_impl":  # PyTorch's function that calls a module's forward
            forward = getattr(type(frame.f_locals.get("self")), "forward", None)
            called = getattr(forward, "__code__", None)
            if called is not None and is_user_file(called.co_filename, getattr(forward, "__module__", "")):
                found = traceback.FrameSummary(called.co_filename, called.co_firstlineno, "forward")
    return found


def is_user_file(filename: str, module: str = "") -> bool:
    """Whether a file belongs neither to this program nor to the standard library or an installed package.

    Args:
        filename: the file of a module or a frame.
        module: the module's name; a package that registered a plugin counts as the user's.
    """
    path = Path(filename)
    if filename.startswith("<") or any(path.is_relative_to(folder) for folder in _OWN):
        return False
    if module.partition(".")[0] in plugin_packages:
        return True
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not installed and not any(path.is_relative_to(folder) for folder in _STDLIB)
