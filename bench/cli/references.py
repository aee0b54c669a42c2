"""`bench references`: the files of references that papers compare with."""

from __future__ import annotations

from dataclasses import asdict

from bench.cli.options import Json
from bench.cli.output import print_json, print_table


def references(as_json: Json = False) -> None:
    """List the reference files that papers compare with, and the scores that each is suitable for.

    Examples:
        bench references
    """
    from bench.metrics.references import REFERENCES

    if as_json:
        print_json([asdict(each) for each in REFERENCES])
        return
    sources = {name: url for each in REFERENCES for name, url in each.used_by.items()}
    print_table(
        "References",
        ["File", "Data", "Used by", "Holds", "Suitable for"],
        [
            [each.file, each.data, ", ".join(each.used_by), each.holds, ", ".join(each.scores)]
            for each in REFERENCES
        ],
        numbers=False,
        notes=[
            *(f"{each.file}: {each.note} {each.url}".replace("  ", " ") for each in REFERENCES),
            *(f"Source for {name}: {url}" for name, url in sources.items()),
        ],
    )
