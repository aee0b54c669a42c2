"""What was measured where, from the committed records: `python -m tests.benchmarks.where`.

`--write` renews its section of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse

from bench import records
from bench.records.schema import Record
from tests.benchmarks.speed import write_section
from tests.conftest import ROOT

MARKS = ("<!-- where -->", "<!-- end of where -->")


def page(found: list[Record]) -> str:
    """A line for each kind of record, or protocol, and machine."""
    groups: dict[tuple[str, str, int | None, int], list[Record]] = {}
    for record in found:
        where, kind = record.environment, record.request.kind
        name = f"{kind}, `{record.context.protocol}`" if record.context.protocol else kind
        groups.setdefault((name, where.device, where.cores, where.threads), []).append(record)
    lines = ["| records | number | on | cores | threads | torch | date |", "|:--|--:|:--|--:|--:|:--|:--|"]
    for (name, device, cores, threads), group in sorted(groups.items(), key=str):
        torches = ", ".join(sorted({record.environment.torch for record in group}))
        dates = sorted({record.environment.date[:10] for record in group})
        span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        lines.append(f"| {name} | {len(group)} | {device} | {cores} | {threads} | {torches} | {span} |")
    return "\n".join(lines)


def main() -> None:
    """Print, and with `--write` renew docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.where", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    args = parser.parse_args()
    text = page(records.read(ROOT / "results"))
    print(text)
    if args.write:
        write_section(MARKS, text)


if __name__ == "__main__":
    main()
