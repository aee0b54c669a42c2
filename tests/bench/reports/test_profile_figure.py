"""Profiles in words and as pictures."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

import registry
from bench.records.schema import Profile, ProfileRequest, Share
from bench.reports import charts
from bench.reports.profile_figure import conditions, draw, finding


def shares(*parts):
    return tuple(
        Share(name=name, seconds=time, time_share=time, macs=1, macs_share=macs, ratio=None)
        for name, time, macs in parts
    )


def profile(stages, operators, **overrides):
    request = ProfileRequest(
        model="udit-t",
        config=registry.canonical("udit-t", overrides),
        device_name="a processor",
        batch_size=2,
    )
    return Profile(
        request=request,
        input_size=32,
        threads=1,
        seconds=1.0,
        overhead=0.0,
        stages=stages,
        operators=operators,
    )


@pytest.fixture
def small():
    """Two large stages and many small ones, and one operator."""
    many = [(f"stage{i}", 0.01, 0.015) for i in range(20)]
    return profile(shares(("slow", 0.6, 0.2), ("fast", 0.2, 0.5), *many), shares(("linear", 1.0, 1.0)))


@pytest.mark.parametrize(
    ("stages", "operators", "words"),
    [
        (
            shares(("a", 0.7, 0.2), ("b", 0.3, 0.8)),
            shares(("norm", 0.6, 0.0), ("linear", 0.4, 1.0)),
            "a takes 70% of the time for 20% of the multiply-accumulates. Of the operators, norm takes 60% "
            "of the time for 0%.",
        ),
        (
            shares(("all", 0.996, 1.0), ("(between)", 0.004, 0.0)),
            shares(("linear", 1.0, 1.0)),
            "No stage takes more than its share of the time. Of the operators, none does.",
        ),
    ],
)
def test_finding_names_what_is_slow_or_says_that_nothing_is(stages, operators, words):
    assert finding(profile(stages, operators)) == words


def test_a_profile_is_titled_by_what_differs_from_the_defaults():
    made = profile((), (), rope=False)
    assert made.request.label == "udit-t rope=false"
    assert conditions(made) == "a processor, 1 threads, batch 2, fp32"
    assert conditions(made.model_copy(update={"threads": None})) == "a processor, batch 2, fp32"


def test_pictures_are_valid_and_the_same_each_time(small, tmp_path):
    png, svg = draw([small, small], tmp_path / "new" / "folder")
    assert png.stem == svg.stem and png.stem.count("udit-t") == 2
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") and png.stat().st_size > 20_000
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    again = draw([small, small], tmp_path)
    assert [path.read_bytes() for path in again] == [png.read_bytes(), svg.read_bytes()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", png.name, svg.name]


def test_small_parts_are_drawn_as_one(small, tmp_path):
    _, svg = draw([small], tmp_path)
    _, told = charts.described(svg.read_text("utf-8"))
    found = {(part["row"], part["stage"]): part["value"] for part in json.loads(told)[0]}
    bars = "udit-t, time", "udit-t, MACs"
    assert {stage for row, stage in found if row == bars[0]} == {"slow", "fast", "other"}
    for bar in bars:
        assert sum(value for (row, _), value in found.items() if row == bar) == pytest.approx(1)


def test_an_unwritable_folder_is_one_line(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(registry.UsageError, match=r"cannot write .*profile-udit-t.*\.png"):
        draw([small], tmp_path / "file")
