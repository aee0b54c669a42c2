"""The one error type for what a user can put right: its message is a single clear line."""


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
