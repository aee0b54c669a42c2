"""`bench references`: the files of references that papers compare with."""

from __future__ import annotations

from dataclasses import asdict

from bench.cli.options import Json
from bench.cli.output import print_json, print_table


def references(as_json: Json = False) -> None:
    """List the reference files that papers compare with, and which scores each is right for.

    Examples:
        bench references
    """
    from bench.metrics.references import REFERENCES

    if as_json:
        print_json([asdict(each) for each in REFERENCES])
        return
    print_table(
        "References",
        ["File", "Of", "Used by", "Holds", "Right for"],
        [[each.file, each.data, each.used_by, each.holds, ", ".join(each.scores)] for each in REFERENCES],
        numbers=False,
        notes=[f"{each.file}: {each.url}. {each.note}".strip() for each in REFERENCES],
    )
