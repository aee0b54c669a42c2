"""The one error type for what a user can put right: its message is a single clear line."""

from __future__ import annotations

from typing import Any


class UsageError(ValueError):
    """Something asked for cannot be done; the message says what, where and what to do instead.

    The command line prints the message after `error:` and exits with status 2, without a traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # a value or another library's text may have lines


def reason(error: BaseException) -> str:
    """What another library's error says, for a message: `KeyError: 'x'`, its first line only."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def suggest(word: str, known: list[str]) -> str:
    """` Did you mean 'udit-b' or 'udit-l'?`, or nothing when no known word is close to `word`."""
    import difflib

    spelled = {name.lower(): name for name in known}
    close = [spelled[name] for name in difflib.get_close_matches(word.lower(), spelled, n=3, cutoff=0.6)]
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


class CodeError(Exception):
    """A user's code returned something that cannot be right; the message ends with its file and line.

    Args:
        message: what is wrong, in one line.
        source: the class, function or module whose code it is.
    """

    def __init__(self, message: str, source: object) -> None:
        import inspect

        target: Any = source if inspect.isclass(source) or inspect.isroutine(source) else type(source)
        target = getattr(target, "forward", target)
        try:
            line = inspect.getsourcelines(target)[1]
            message += f" ({inspect.getsourcefile(target)}, line {line})"
        except (OSError, TypeError):  # code without a file, as of a notebook's cell
            pass
        super().__init__(message)
