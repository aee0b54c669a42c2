"""Tables 1 to 6: what the paper prints, what is measured, and that the committed pages are current."""

import csv
from pathlib import Path

import pytest

import registry
from bench import published, tables

ROOT = Path(__file__).parents[1]


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


def test_a_row_that_disagrees_without_a_remark_gets_one(rows):
    import dataclasses

    row = next(row for row in rows if row.published.label == "U-DiT-S")
    wrong = dataclasses.replace(row.published, printed=row.published.printed | {"gflops": "6.05"})
    texts = [text for _, text in tables.notes([tables.TableRow(wrong, row.cost)])]
    assert "Prints 6.05, measured 6.0435." in texts
    assert not any("Prints" in text for _, text in tables.notes([row]))


def test_no_such_table():
    with pytest.raises(registry.UsageError, match="no table 7"):
        tables.build(7)


@pytest.mark.parametrize("number", published.TABLES)
def test_the_committed_page_is_what_the_code_makes(rows, number):
    def figures(page):  # versions of the machine that wrote it may differ
        return [line for line in page.splitlines() if not line.startswith("Published:")]

    group = [row for row in rows if row.published.table == number]
    page = tables.markdown(group, tables.speeds(group, ROOT / "results"))
    committed = (ROOT / f"reports/table-{number}.md").read_text("utf-8")
    assert figures(committed) == figures(page), "run `bench tables --out reports`"
