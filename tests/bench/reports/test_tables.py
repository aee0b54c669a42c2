"""Tables 1 to 6: what the paper prints, what is measured, and that the committed pages are current."""

import csv
import importlib.resources
import re

import pytest

import bench.studies
import registry
from bench import records
from bench.records.environment import environment
from bench.reports import tables
from bench.reports.page import Column, Entry, Table
from bench.reports.render import markdown, terminal
from bench.reports.select import Measured, Selection, lines
from bench.studies import published
from bench.studies.cells import cost_request
from bench.studies.measuring import count_costs, record_costs
from bench.studies.published import field
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def rows():
    """Rows of the studies that stand for published ones, in printed order."""
    studies = map(bench.studies.load, tables.NUMBERS)
    return [row for study in studies for row in study.rows if row.published]


@pytest.fixture(scope="module")
def costs(rows):
    """By file of the request."""
    return {cost_request(row).file: cost for row in rows for cost in [count_costs([row])[row.label]]}


@pytest.fixture
def cost(costs):
    return lambda row: costs[cost_request(row).file]


def page_of(name, costs, folder):
    study, selection = bench.studies.load(name), Selection(folder) if folder.is_dir() else None
    here = environment()
    measured = {row.label: Measured(costs[cost_request(row).file], here) for row in study.rows}
    return tables.page(study, lines(study, selection, measured), selection)


def test_the_25_rows_the_authors_measured_agree_to_the_last_digit_but_one(rows, cost):
    measured = [row for row in rows if row.published.source == "u-dit" and row.published.printed["gflops"]]
    assert len(measured) == 25
    disagree = [row for row in measured if f"{cost(row).paper_gflops:.2f}" != row.published.printed["gflops"]]
    assert [(row.published.table, row.published.label) for row in disagree] == [(1, "+ Token Downsampling")]
    assert any("+ Token Downsampling" in labels for labels, _ in published.footnotes(1))


def test_rows_quoted_from_the_dit_paper_are_footnoted_where_they_disagree(rows, cost):
    quoted = [row for row in rows if row.published.source == "dit" and row.published.printed["gflops"]]
    differ = [row for row in quoted if f"{cost(row).paper_gflops:.2f}" != row.published.printed["gflops"]]
    explained = {label for labels, _ in published.footnotes(2) for label in labels}
    assert differ and {row.published.label for row in differ} <= explained


def test_labels_and_figures_are_those_of_the_csv(rows):
    file = importlib.resources.files("bench.studies.published") / "published.csv"
    printed = list(csv.DictReader(file.read_text("utf-8").splitlines()))
    assert len(printed) == len(rows) == 41
    for record, row in zip(printed, rows, strict=True):
        found = row.published
        assert (found.table, found.label) == (int(record["table"]), record["row"])
        for figure in ("gflops", "fid", "sfid", "inception_score", "precision", "recall", "cfg_scale"):
            assert found.values[figure] == (float(record[figure]) if record[figure] else None)
        assert found.values["training_steps"] == int(record["training_steps"])


def test_starred_and_plain_rows_are_one_network(rows):
    models = {row.published.label: row.model for row in rows}
    assert models["DiT-XL/2"] == models["DiT-XL/2*"] == "dit-xl-2"
    assert models["DiT-UNet (Slim)"] == "dit-unet-slim" and models["U-DiT-B"] == "udit-b"


def test_every_ablation_row_of_table_6_costs_no_less_than_the_row_before(rows, cost):
    # From DiT-UNet+Downsampling on, each row adds a switch; the last two cost the same when merged.
    steps = [cost(row) for row in rows if row.published.table == 6][2:]
    assert [c.macs for c in steps] == sorted(c.macs for c in steps)
    assert steps[-1].paper_gflops == steps[-2].paper_gflops
    assert steps[-1].parameters > steps[-2].parameters == steps[-1].parameters_deployed


def test_no_such_table():
    with pytest.raises(registry.UsageError, match="no table 7"):
        published.rows(7)


def test_the_committed_costs_are_those_measured_now(rows, cost):
    found = {record.file: record.result for record in records.read(ROOT / "results")}
    for row in rows:
        committed, counted = found[cost_request(row).file], cost(row)
        for value in ("parameters", "parameters_deployed", "macs", "paper_gflops", "activation_bytes"):
            assert getattr(committed, value) == getattr(counted, value), (
                row.label,
                "run `bench report --costs`",
            )


def test_networks_of_the_leaderboard_cost_what_is_printed():
    found = {record.file: record.result for record in records.read(ROOT / "results")}
    compared = 0
    for row in bench.studies.load("leaderboard").rows:
        if row.model is None:
            continue
        cost, printed = found[cost_request(row).file], row.published.printed["gflops"]
        digits = len(printed.partition(".")[2])
        if row.label.startswith(("DiT", "SiT")):  # as the footnote says
            assert round(cost.macs / 1e9, digits) <= float(printed) < cost.paper_gflops, row.label
        else:
            assert f"{cost.paper_gflops:.{digits}f}" == printed, row.label
            compared += 1
    assert compared == 10
    (explained,) = (labels for labels, _ in published.footnotes("leaderboard"))
    assert set(explained) == {r.label for r in published.rows("leaderboard") if r.label[:3] in ("DiT", "SiT")}


def test_a_page_of_costs_measured_now_is_the_committed_one(costs):
    def figures(page):  # where it was measured may differ, and pictures are made beside
        lines = page.split("\n## ")[0].splitlines()
        return [line for line in lines if line and not line.startswith(("- Counted on", "!["))]

    page = page_of("downsampler", costs, ROOT / "results")
    committed = (ROOT / "reports/table-5.md").read_text("utf-8")
    assert page.file == "table-5" and figures(committed) == figures(markdown.page(page))


def test_without_records_there_are_costs_and_no_speed(costs, tmp_path):
    page = page_of("downsampler", costs, tmp_path / "nowhere")
    titles = [column.title for column in page.sections[0].table.columns]
    assert "GFLOPs, measured" in titles and not any("Images/s" in title for title in titles)


@pytest.mark.slow
def test_recorded_costs_are_those_of_every_row_of_every_study_and_of_the_field(costs, tmp_path, monkeypatch):
    # Two networks of one label: that of components, and that of backbones, which has another width.
    names = ["components", "backbones"]
    monkeypatch.setattr(bench.studies, "names", lambda: names)
    published = [next(row for row in field.rows() if row.backbone == "dit-b-8")]
    monkeypatch.setattr(field, "rows", lambda: published)
    record_costs(tmp_path)
    found = {record.file: record.result for record in records.read(tmp_path)}
    rows = [row for name in names for row in bench.studies.load(name).rows]
    (of_the_field,) = found.keys() - {cost_request(row).file for row in rows}
    assert len(found) == 1 + len({cost_request(row).file for row in rows})
    assert found[of_the_field].request.model == "dit-b-8"
    for row in bench.studies.load("components").rows:
        recorded, counted = found[cost_request(row).file], costs[cost_request(row).file]
        assert recorded.parameters == counted.parameters and recorded.macs == counted.macs
        assert recorded.stages == counted.stages


def test_a_report_shows_findings_then_the_table_then_the_picture_then_notes():
    kinds = {"|": 1, "![": 2, "<details>": 3}
    for path in sorted((ROOT / "reports").glob("*.md")):
        text = re.sub("<details>.*?</details>", "<details>", path.read_text("utf-8"), flags=re.DOTALL)
        for part in re.split("^#+ .*$", text, flags=re.MULTILINE):
            blocks = filter(None, part.split("\n\n"))
            found = [next((n for start, n in kinds.items() if b.startswith(start)), 0) for b in blocks]
            assert found == sorted(found), path


# ---- in a terminal ----


def printed(table, width, monkeypatch, capsys):
    from bench.cli.output import console

    monkeypatch.setenv("COLUMNS", str(width))
    terminal.table(table, console())
    return capsys.readouterr().out


@pytest.mark.parametrize(("width", "parts"), [(60, 2), (200, 1)])
def test_a_narrow_terminal_gets_columns_one_below_the_other(costs, width, parts, monkeypatch, capsys):
    table = page_of("downsampler", costs, ROOT / "results").sections[0].table
    out = printed(table, width, monkeypatch, capsys)
    assert all(len(line.rstrip()) <= width for line in out.splitlines()) and "…" not in out
    assert out.count("Model") == parts
    for row in table.rows:
        assert all(f" {entry.text}" in out for entry in row[1:])


@pytest.mark.parametrize("width", range(40, 130, 5))
def test_published_and_measured_of_a_figure_stay_together(width, monkeypatch, capsys):
    names = ["FID↓", "sFID↓", "IS↑", "Prec.↑"]
    columns = [Column("Model", number=False)]
    columns += [Column(name, group) for name in names for group in ("published", "measured")]
    numbers = [Entry(f"{100 + i}.{i}") for i in range(8)]
    out = printed(Table(columns, [[Entry("a network"), *numbers]]), width, monkeypatch, capsys)
    lines = [line.split() for line in out.splitlines() if line.startswith("a network")]
    found = [word for line in lines for word in line[2:]]
    assert found == [entry.text for entry in numbers] and all(len(line) % 2 == 0 for line in lines)


def test_a_study_without_a_single_figure_shows_its_rows(monkeypatch, capsys):
    out = printed(Table([Column("Model", number=False)], [[Entry("alone")]]), 80, monkeypatch, capsys)
    assert "alone" in out


# ---- numbers ----


def test_small_numbers_keep_digits_that_mean_something():
    from bench.records.quantities import COSTS
    from bench.reports.statistics import Summary

    assert COSTS["gflops"].text(0.0047) == "0.0047" and COSTS["gflops"].text(22.2248) == "22.22"
    assert COSTS["params"].text(1700) == "0.0017" and COSTS["gflops"].text(0.0) == "0.00"
    fid, kid = tables.MEASURED["fid"], tables.MEASURED["kid"]
    assert tables.spread(fid, Summary(15.1, 0.1)) == "15.10 ± 0.10"
    assert tables.spread(fid, Summary(0.0123, 0.0004)) == "0.012 ± 0.000"
    assert tables.spread(kid, Summary(2.34e-3, 1e-4)) == "2.34 ± 0.10"  # it is shown times 1000
    assert tables.spread(fid, Summary(15.1, None)) == "15.10" and tables.spread(fid, None) == ""
    assert [tables.significant(x) for x in (123.4, 12.34, 1.234, 0.01234)] == ["123", "12.3", "1.23", "0.012"]
