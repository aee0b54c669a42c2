"""The version of this package; `pyproject.toml` and records take it from here."""

__version__ = "0.3.0"
