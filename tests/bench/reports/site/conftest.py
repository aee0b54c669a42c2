"""A site of records in which every text is hostile."""

import json

import pytest

import bench.studies
from bench import records
from bench.records import read_file
from bench.records.schema import Record
from bench.reports import report, site
from bench.studies.cells import cells
from bench.training import protocols
from tests.bench import made

NAME = "a b; touch 'c'"  # of a study's file
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"quoted\" 'too'"


def poisoned(record, *kept):
    """A record with `HOSTILE` as every text in it, and as every name of an option, that a record may hold.

    Args:
        record: any.
        kept: paths of parts that stay as they are, such as `request`.
    """
    table = record.dump()

    def valid():
        try:
            return Record.model_validate(table)
        except ValueError:
            return None

    def visit(inner, path):
        for key, value in [*(inner.items() if isinstance(inner, dict) else enumerate(inner))]:
            place = (*path, key)
            if ".".join(map(str, place)) in kept:
                continue
            if isinstance(value, dict | list | tuple):
                visit(value, place)
            elif isinstance(value, str) or value is None:
                inner[key] = HOSTILE
                if valid() is None:
                    inner[key] = value
        if isinstance(inner, dict):
            inner[HOSTILE] = next(iter(inner.values()), 1)
            if valid() is None:
                del inner[HOSTILE]

    table = json.loads(json.dumps(table))
    visit(table, ())
    return valid()


def put(folder, record):
    path = folder / record.file
    path.write_text(records.dumps(record), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """A site of a study, and of records of each kind, in which every text is markup."""
    folder = tmp_path_factory.mktemp("hostile")
    results = folder / "results"
    written = f"title = {json.dumps(HOSTILE)}\nprotocol = 'smoke'\n"
    for label, backbone in ((HOSTILE, "udit-t"), ("plain", "dit-s-4")):
        written += f"[[rows]]\nlabel = {json.dumps(label)}\nbackbone = '{backbone}'\n"
    (folder / f"{NAME}.toml").write_text(written)
    study = bench.studies.load(str(folder / f"{NAME}.toml"))
    for cell in cells(study, protocols.load("smoke"), (0, 1)):
        path = made.put(results, made.quality(cell.request, fid=20.0 + cell.seed), "smoke")
        put(results, poisoned(read_file(path), "request", "context.protocol"))
        path.with_suffix(".png").write_bytes(b"no picture")
    for result in (made.cost(), made.speed(), made.profile(), made.quality()):
        path = made.put(results, result, "smoke")
        put(results, poisoned(read_file(path)))
        path.unlink()
    report.write(folder / "site", site.files(results, [str(folder / f"{NAME}.toml")]))
    return folder
