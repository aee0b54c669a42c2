"""That no number of the harness's own code changes unless its version is raised."""

import json

import pytest

from tests import golden

THEN = json.loads(golden.FILE.read_text())
NOW = golden.versions()


def test_every_version_has_its_numbers():
    assert THEN.keys() == NOW.keys()


@pytest.mark.parametrize("name", THEN)
def test_numbers_change_with_the_version_alone(name):
    assert THEN[name]["version"] == NOW[name], "write the numbers of the new version: python -m tests.golden"
    found = golden.measure(name)
    # Processors round otherwise; what people change moves more.
    assert found == pytest.approx(THEN[name]["numbers"], rel=2e-4, abs=1e-6), (
        f"{name} computes other numbers: raise its version, then python -m tests.golden"
    )
