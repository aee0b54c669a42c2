"""Tables 1 to 6: what the paper prints, what is measured, and that the committed pages are current."""

import csv
import json

import pytest

import bench.studies
import registry
from bench import records
from bench.reports import paper as tables
from bench.reports.page import markdown
from bench.studies import published
from bench.studies.cells import cost_asked
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def rows():
    return tables.build()


def test_the_25_rows_the_authors_measured_agree_to_the_last_digit_but_one(rows):
    measured = [row for row in rows if row.published.source == "u-dit" and row.published.printed["gflops"]]
    assert len(measured) == 25
    disagree = [(row.published.table, row.published.label) for row in measured if not row.agrees]
    assert disagree == [(1, "+ Token Downsampling")]
    assert any("+ Token Downsampling" in labels for labels, _ in published.footnotes(1))


def test_rows_quoted_from_the_dit_paper_are_footnoted_where_they_disagree(rows):
    quoted = [row for row in rows if row.published.source == "dit" and row.agrees is False]
    explained = {label for labels, _ in published.footnotes(2) for label in labels}
    assert quoted and {row.published.label for row in quoted} <= explained


def test_labels_and_figures_are_those_of_the_csv(rows):
    with (ROOT / "bench/published/published.csv").open(encoding="utf-8") as lines:
        records = list(csv.DictReader(lines))
    assert len(records) == len(rows) == 41
    for record, row in zip(records, map(tables.TableRow.to_dict, rows), strict=True):
        assert (row["table"], row["row"]) == (int(record["table"]), record["row"])
        for figure in ("gflops", "fid", "sfid", "inception_score", "precision", "recall", "cfg_scale"):
            assert row["published"][figure] == (float(record[figure]) if record[figure] else None)
        assert row["published"]["training_steps"] == int(record["training_steps"])


def test_starred_and_plain_rows_are_one_network(rows):
    models = {row.published.label: row.published.model for row in rows}
    assert models["DiT-XL/2"] == models["DiT-XL/2*"] == "dit-xl-2"
    assert models["DiT-UNet (Slim)"] == "dit-unet-slim" and models["U-DiT-B"] == "udit-b"


def test_every_ablation_row_of_table_6_costs_no_less_than_the_row_before(rows):
    # From DiT-UNet+Downsampling on, each row adds a switch; the last two cost the same when merged.
    steps = [row.cost for row in rows if row.published.table == 6][2:]
    assert [c.macs for c in steps] == sorted(c.macs for c in steps)
    assert steps[-1].paper_gflops == steps[-2].paper_gflops
    assert steps[-1].parameters > steps[-2].parameters == steps[-1].parameters_deployed


def test_no_such_table():
    with pytest.raises(registry.UsageError, match="no table 7"):
        tables.build(7)


def test_the_committed_costs_are_those_measured_now(rows):
    found = {record["file"]: record["values"] for record in records.read(ROOT / "results")}
    for row in rows:
        values = found[records.name(cost_asked(row.published.model, row.published.overrides))]
        for value in ("parameters", "parameters_deployed", "macs", "paper_gflops", "activation_bytes"):
            assert values[value] == getattr(row.cost, value), (
                row.published.label,
                "run `bench report --costs`",
            )


def test_a_page_of_costs_measured_now_is_the_committed_one():
    def figures(page):  # where it was measured may differ
        return [line for line in page.split("\n## ")[0].splitlines() if not line.startswith("- Counted on")]

    (page,) = tables.pages(ROOT / "results", 5)
    committed = (ROOT / "reports/table-5.md").read_text("utf-8")
    assert page.file == "table-5" and figures(committed) == figures(markdown(page))


def test_a_narrow_terminal_gets_published_and_measured_one_below_the_other(capsys, monkeypatch):
    from bench.cli.tables import _print

    page = tables.pages(ROOT / "results", 5)[0]
    for width, headings in ((60, 2), (200, 1)):
        monkeypatch.setenv("COLUMNS", str(width))
        _print(page)
        out = capsys.readouterr().out
        assert all(len(line.rstrip()) <= width for line in out.splitlines()) and "…" not in out
        assert out.count("Model") == headings
        for row in page.sections[0].grid.rows:
            assert all(f" {entry.text}" in out for entry in row[1:])


def test_without_records_there_are_costs_and_no_speed(tmp_path):
    (page,) = tables.pages(tmp_path / "nowhere", 5)
    columns = page.sections[0].grid.columns
    assert "GFLOPs, measured" in columns and not any("Images/s" in column for column in columns)


def test_recorded_costs_are_the_measured_ones(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.studies, "names", lambda: ["downsampler"])
    tables.record_costs(tmp_path)
    found = {json.dumps(r["asked"]["overrides"]): r["values"] for r in records.read(tmp_path)}
    assert len(found) == 3
    for row in (row for row in rows if row.published.table == 5):
        values = found[json.dumps(row.published.overrides)]
        assert values["parameters"] == row.cost.parameters and values["macs"] == row.cost.macs
        assert [stage["name"] for stage in values["stages"]] == [part.name for part in row.cost.stages]
