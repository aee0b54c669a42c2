"""The one error type for what a user can put right: its message is a single clear line."""


class UsageError(ValueError):
    """Something asked for cannot be done; the message says what, where and what to do instead.

    The command line prints the message after `error:` and exits with status 2, without a traceback.
    """


def suggest(word: str, known: list[str]) -> str:
    """` Did you mean 'udit-b' or 'udit-l'?`, or nothing when no known word is close to `word`."""
    import difflib

    close = difflib.get_close_matches(word.lower(), known, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
