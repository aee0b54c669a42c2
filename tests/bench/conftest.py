"""Fixtures of several rooms' tests."""

import pytest

import bench.data
import bench.diffusion
from bench.metrics.scores import scores

REGISTRIES = (bench.data.datasets, bench.diffusion.objectives, bench.diffusion.samplers, scores)


@pytest.fixture
def plugins(monkeypatch):
    """Names registered in a test are gone after it."""
    for known in REGISTRIES:
        for name in known.names():
            known.factory(name)  # before the copy: a module that is imported registers its names once
        monkeypatch.setattr(known, "_entries", entries := dict(known._entries))
        monkeypatch.setitem(known.__dict__, "_installed", entries)
    yield
    for known in REGISTRIES:
        known.version += 1  # tables made from the names are made again
