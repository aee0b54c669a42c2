"""The numbers of the site's charts are those of the records."""

import re
import statistics
from pathlib import Path

import pytest

from bench.records import read
from bench.records.schema import Speed
from bench.reports import charts
from bench.reports import site as site_module
from bench.reports.select import settings
from bench.reports.site import Site
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def site():
    return Site.load(ROOT / "results", ["components"])


@pytest.fixture(scope="module")
def rows(site):
    return site.lines["components"]


@pytest.fixture(scope="module")
def micro(rows):
    (setting,) = [each for each in settings(rows) if each.protocol == "micro"]
    return setting


def values(chart, **wanted):
    return [v for v in chart.spec["data"]["values"] if all(v.get(k) == w for k, w in wanted.items())]


def test_every_seed_is_a_dot_that_opens_its_record(rows, micro):
    shown = values(charts.seeds(rows, micro, "../"), score="fid")
    records = {record.file: record for record in read(ROOT / "results")}
    assert len(shown) == sum(len(line.by_seed(micro, "fid")) for line in rows) == 7 * 5
    for dot in shown:
        result = records[dot["page"].removeprefix("../records/").replace(".html", ".json")].result
        assert result.request.seed == dot["seed"]
        assert result.scores["fid"] == pytest.approx(dot["value"], rel=1e-5)


def test_curves_end_in_the_means_of_the_table(rows, micro):
    shown = values(charts.held_out_curves(rows, micro), band="held_out")
    assert {value["step"] for value in shown} == {400, 800, 1200}
    for line in rows:
        (last,) = [v for v in shown if v["row"] == line.row.label and v["step"] == 1200]
        assert last["value"] == pytest.approx(line.score(micro, "held_out").mean, rel=1e-5)


def test_losses_by_noise_lie_about_the_mean_of_the_rows(rows, micro):
    shown = charts.held_out_by_noise(rows, micro)
    for band in {value["band"] for value in values(shown)}:
        found = values(shown, band=band)
        assert len(found) == 7 and abs(sum(value["value"] for value in found)) < 1e-2
        mean = statistics.fmean(value["loss"] for value in found)
        assert all(v["value"] == pytest.approx(100 * (v["loss"] / mean - 1), abs=1e-2) for v in found)


def test_stages_add_up_to_the_network(rows):
    shown = charts.cost_by_stage({line.row.label: line.cost.cost for line in rows})
    for line in rows:
        parts = [value["value"] for value in values(shown, row=line.row.label, measure="gflops")]
        assert sum(parts) == pytest.approx(line.cost.cost.paper_gflops, rel=1e-4)


def test_the_roof_is_the_devices_bandwidth_and_peak():
    records = [record for record in read(ROOT / "results") if isinstance(record.result, Speed)]
    chart = charts.roofline(records, "")
    for way in {value["way"] for value in values(chart)}:
        first, ridge, last = (v for v in values(chart, way=way) if "roof" in v)
        device = next(r.result.device for r in records if charts.speed_words(r) == way)
        assert first["roof"] * 1e9 == pytest.approx(first["intensity"] * device.bandwidth, rel=1e-4)
        assert ridge["roof"] * 1e9 == last["roof"] * 1e9 == pytest.approx(device.peak_flops, rel=1e-4)
    assert len([v for v in values(chart) if "network" in v]) == len(records)


def test_what_is_chosen_fills_a_chart_but_not_its_labels():
    label = {"row": "{{title}} of {{x}}"}
    spec = {"title": "by {{title}}", "layer": [{"data": {"values": [label]}}]}
    options = [charts.Option("first", {"title": "FID"}), charts.Option("second", {"title": "IS"})]
    panel = charts.Chart("", spec, {"Score": options}).panel(100)
    assert panel == {"title": "by FID", "layer": [{"data": {"values": [label]}}], "width": 100}


def test_colours_stand_out_on_the_page_in_both_themes_and_under_black_text():
    def light(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(*colours):  # WCAG
        low, high = sorted(map(light, colours))
        return (high + 0.05) / (low + 0.05)

    backs = set(
        re.findall("--back: (#[0-9a-f]{6})", (Path(site_module.__file__).parent / "style.css").read_text())
    )
    assert len(backs) == 2 and len(set(charts.COLOURS)) == 8
    for colour in charts.COLOURS:
        assert all(contrast(colour, back) >= 3 for back in backs) and contrast(colour, "#000000") >= 4.5
