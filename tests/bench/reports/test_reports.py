"""Reports: what pages say of records made up here, that a wrong digit is found, and that torch stays out."""

import base64
import csv
import io
import itertools
import json
import math
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from html import unescape
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

import bench.studies
from bench.reports import board, charts, leaderboard, report, site, tables
from bench.reports.findings import METHOD, by_soundness, verdict
from bench.reports.page import Column, Entry, Page, Section, Table
from bench.reports.render import csv as csv_form
from bench.reports.render import latex, markdown, terminal
from bench.reports.samples import sheet
from bench.reports.select import Selection, lines, settings
from bench.reports.tables import page
from bench.studies.cells import cells, cost_request
from bench.training import protocols
from registry.errors import UsageError
from tests.bench import made
from tests.conftest import ROOT

# FID of the three rows of Table 5 for three seeds: the first two cannot be told apart.
FIDS = [[20.1, 20.9, 20.4], [20.2, 20.8, 20.6], [15.0, 15.2, 15.1]]


def keep_quality(folder, name, fids, seeds=(0, 1, 2)):
    study, files = bench.studies.load(name), []
    labels = [row.label for row in study.rows]
    for cell in cells(study, protocols.load("micro"), seeds):
        place = labels.index(cell.row.label)
        if place < len(fids) and cell.seed < len(fids[place]):
            fid = fids[place][seeds.index(cell.seed)]
            found = made.quality(cell.request, 0.01 * (1 + place), fid=fid, inception_score=9 - fid / 10)
            files.append(made.put(folder, found, "micro"))
    return files


def keep_costs(folder, name):
    for i, row in enumerate((row for row in bench.studies.load(name).rows if row.model), 1):
        stages = [{"name": f"stage{k}", "paper": i * 10**8, "macs": 1} for k in range(3)]
        values = {"parameters": i * 10**6, "parameters_deployed": i * 10**6, "stages": stages}
        made.put(folder, made.cost(cost_request(row), paper_gflops=0.3 * i, **values))


def own_rows(folder, rows, scores, *, protocol="smoke", seeds=(0, 1, 2), head="", reference=None):
    """A study of one's own and its lines.

    Args:
        rows: label -> what its table holds besides.
        scores: of a cell, by name; None: it has no record.
        reference: digest of the file that samples are compared with.
    """
    tables = (f"[[rows]]\nlabel = '{label}'\n{more}\n" for label, more in rows.items())
    (folder / "own.toml").write_text(f"title = 't'\nprotocol = '{protocol}'\n{head}\n{''.join(tables)}")
    study = bench.studies.load(folder / "own.toml")
    for cell in cells(study, protocols.load(protocol, folder), seeds, reference):
        if (found := scores(cell)) is not None:
            made.put(folder / "results", made.quality(cell.request, **found), protocol)
    return study, lines(study, Selection(folder / "results"))


def by_label(**fids):
    """FIDs around the mean of a row, which differ between seeds a little and by row."""
    return lambda cell: {"fid": fids[cell.row.label] + 0.1 * cell.seed * (-1) ** ord(cell.row.label[-1])}


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    keep_costs(folder, "downsampler")
    keep_quality(folder, "downsampler", FIDS)
    return folder


def page_of(name, results):
    study, selection = bench.studies.load(name), Selection(results)
    return page(study, lines(study, selection), selection)


def cells_of(section):
    """Rows by label: title of a column -> entry."""
    titles = [column.title for column in section.table.columns]
    return {row[0].text: dict(zip(titles, row, strict=True)) for row in section.table.rows}


def table(text):
    """The cells of the first Markdown table of a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[cell.strip() for cell in row] for row in rows]


# ---- what a page says ----


def test_quality_is_mean_and_deviation_over_seeds_and_the_best_is_bold(results):
    section = page_of("downsampler", results).sections[1]
    rows = cells_of(section)
    cell = rows["DW Conv. Shortcut + PS"]["FID↓"]
    assert cell.text == "15.10 ± 0.10" and cell.best
    first = rows["Pixel Shuffle (PS)"]
    assert first["FID↓"].text == f"{np.mean(FIDS[0]):.2f} ± {np.std(FIDS[0], ddof=1):.2f}"
    assert not first["FID↓"].best and first["Seeds"].text == "3"
    assert first["FID↓, published"].text == "96.15"
    assert rows["DW Conv. Shortcut + PS"]["IS↑"].best  # higher is better there
    assert "sFID↓" not in first  # nobody has a value


def test_remarks_tell_protocol_extractor_number_and_environment(results):
    section = page_of("downsampler", results).sections[1]
    said = " ".join(section.table.remarks)
    assert protocols.load("micro").title in said
    assert "Extractor digits, weights d63e10104591" in said
    assert "2,000 samples, ancestral, 50 steps, guidance 1, against 1,797 reference images" in said
    assert "on Some CPU with torch 2.15.0, denoiser-bench 0.1.0, commit 0123456" in said


@pytest.mark.parametrize("form", [markdown, latex])
def test_published_scores_stand_beside_those_of_a_reduced_protocol_only_below_a_caution(results, form):
    paper, measured, _ = page_of("downsampler", results).sections
    text = form.page(Page("x", "x", [measured]))
    caution = "Scores of this reduced protocol are comparable with each other, not with published scores."
    assert text.count(caution) == 1 and text.index(caution) < min(text.index("96.15"), text.index("15.10"))
    assert caution not in form.page(Page("x", "x", [paper]))  # no score is measured there


CHANGED = "training or sampling is not that of the built-in protocol"


@pytest.mark.parametrize(
    ("protocol", "own", "b", "told"),
    [
        ("paper", None, "", None),
        ("paper", None, "cfg_scale = 1.5", None),  # has a column of its own
        ("paper", None, "training = { batch_size = 4 }", f"{CHANGED} paper: b."),
        ("paper", None, "sampling = { num = 64 }", f"{CHANGED} paper: b."),
        ("paper", ("num = 50_000", "num = 64"), "", f"{CHANGED} paper: a; b."),
        ("paper-ddt", None, "", None),
        ("paper-lightningdit", None, "training = { steps = 9 }", f"{CHANGED} paper-lightningdit: b."),
        ("proxy-cifar", None, "", "reduced protocol"),
    ],
)
def test_scores_compare_with_published_ones_where_nothing_of_the_protocol_is_changed(
    tmp_path, protocol, own, b, told
):
    if own:
        text = (ROOT / f"bench/training/protocols/{protocol}.toml").read_text("utf-8")
        (tmp_path / f"{protocol}.toml").write_text(text.replace(*own))
    rows = {"a": "published = 'leaderboard/DiT-S/2'", "b": f"published = 'leaderboard/DiT-B/2'\n{b}"}
    options = {"protocol": protocol, "reference": "0" * 12}
    study, found = own_rows(tmp_path, rows, by_label(a=20.0, b=10.0), **options)
    every = settings(found)
    said = [text for each in every for text in tables.summary_table(study, found, each, []).text]
    said += [text for each in every for text in tables.quality(study, found, each).text]
    judged = verdict(found, every)
    if told is None:
        assert "ompar" not in " ".join(said) + judged
    else:
        assert [told in text for text in said].count(True) == 2
        assert told in judged or "significantly" not in judged


def test_scores_against_decoded_latents_do_not_compare_with_published_ones(tmp_path):
    rows = {"a": "published = 'leaderboard/DiT-S/2'", "b": "published = 'leaderboard/DiT-B/2'"}
    study, found = own_rows(tmp_path, rows, by_label(a=20.0, b=10.0), protocol="paper")
    (setting,) = settings(found)
    said = [*tables.summary_table(study, found, setting, []).text, verdict(found, [setting])]
    assert sum("because the reference images are decoded latents" in text for text in said) == 2


def test_a_row_of_a_built_in_study_is_measured_as_it_was_published(tmp_path):
    study = bench.studies.load("leaderboard")
    (cell,) = (
        cell for cell in cells(study, protocols.load("paper"), [0], "0" * 12) if cell.row.label == "SiT-S/2"
    )
    made.put(tmp_path, made.quality(cell.request), "paper")  # by its own sampler
    (section,) = [s for s in page_of("leaderboard", tmp_path).sections if s.title.startswith("Quality")]
    assert "omparable" not in " ".join(section.text)


def test_beside_scores_in_a_terminal_stands_the_cost_of_their_networks(results, capsys):
    from bench.cli.output import console

    study, selection = bench.studies.load("downsampler"), Selection(results)
    rows = lines(study, selection)
    (setting,) = settings(rows)
    made_of = [0.01, 0.02, 0.03]  # GFLOPs as trained; as published they cost 0.3, 0.6 and 0.9
    shown = tables.summary_table(study, rows, setting, [])
    titles = [column.title for column in shown.columns]
    costs = [row[titles.index("GFLOPs, as trained")].text for row in shown.rows]
    assert list(map(float, costs)) == made_of and "GFLOPs, measured" not in titles
    assert {row[titles.index("Params (M), as trained")].text for row in shown.rows} == {"0.000010"}
    terminal.table(shown, console())
    out = capsys.readouterr().out
    assert out.index("not with published scores") < min(out.index("96.15"), out.index("15.10"))
    alone = tables.summary_table(study, rows, None, [])
    titles = [column.title for column in alone.columns]
    assert [row[titles.index("GFLOPs, measured")].text for row in alone.rows] == ["0.30", "0.60", "0.90"]
    assert not alone.text
    frame = tables.frame(rows, selection)
    (column,) = (name for name in frame if name.startswith("paper_gflops as trained"))
    assert list(frame[column]) == made_of and list(frame["paper_gflops"]) == pytest.approx([0.3, 0.6, 0.9])


@pytest.mark.parametrize("asked", ["memory", "macs"])
def test_a_column_that_is_asked_for_is_shown_or_named(tmp_path, asked):
    head = f"columns = ['params', '{asked}', 'fid']"
    study, rows = own_rows(tmp_path, {"a": "backbone = 'dit-s-4'"}, by_label(a=20.0), head=head)
    (setting,) = settings(rows)
    shown = tables.summary_table(study, rows, setting, [])
    words = {"memory": "Memory", "macs": "GMACs"}[asked]
    column = any(column.title.startswith(words) for column in shown.columns)
    named = any(f"Not recorded of networks as trained: {words}." in remark for remark in shown.remarks)
    assert (column, named) == (asked == "macs", asked == "memory")


def test_what_rows_change_about_the_protocol_is_told_in_a_terminal_too(tmp_path):
    rows = {"a": "backbone = 'dit-s-4'", "b": "backbone = 'dit-s-4'\nsampling = { labels = 'uniform' }"}
    head = "training = { steps = 12 }"
    study, found = own_rows(tmp_path, rows, by_label(a=20.0, b=10.0), head=head)
    told = {}
    for setting in settings(found):
        shown = tables.summary_table(study, found, setting, [])
        told |= {row[0].text: shown.footnotes for row in shown.rows if row[-1].text}
    b = "Here: trained with steps 12; sampled with labels uniform."
    assert told == {"a [1]": ["Here: trained with steps 12."], "b [1]": [b]}


def test_bold_are_the_scores_that_are_not_significantly_worse_than_the_best(results):
    def bold(name, fids):
        for file in results.glob("quality-*"):
            file.unlink()
        keep_quality(results, name, fids)
        rows = cells_of(page_of(name, results).sections[1])
        return [[row[title].best for row in rows.values()] for title in ("FID↓", "IS↑")]

    same, worse = [15.0, 15.2, 15.1], [20.1, 20.9, 20.4]
    assert bold("downsampler", [worse, same, [15.1, 15.1, 15.1]]) == 2 * [[False, True, True]]
    # Tukey's test of all three rows finds no pair, whatever the best mean is.
    noise = [[15.0, 20.9, 17.0], [20.2, 15.0, 18.0], [19.0, 15.2, 15.1]]
    assert stats.tukey_hsd(*noise).pvalue.min() > 0.05
    assert bold("downsampler", noise) == 2 * [[False] * 3]
    assert bold("downsampler", [[fid] for fid in (1.0, 2.0, 3.0)]) == 2 * [
        [False] * 3
    ]  # one seed tells nothing


def test_what_is_significant_is_told(results):
    page = page_of("downsampler", results)
    said = page.sections[1].text[1]
    assert "over the 3 seeds that all rows have: 2 of 3 pairs, all in the published order." in said
    best = r"DW Conv. Shortcut \+ PS \([\d.]+\) has the lowest FID, significantly better than all other rows"
    assert re.search(best, said)
    assert "3 rows, 95% interval 0.50 to 1.00, too few for any order to be significant" in said
    every = [text for section in page.sections for text in section.text]
    assert [text for text in every if "5 of 100 tables" in text] == [METHOD]


def test_a_network_in_two_rows_is_tested_once(run_bench, tmp_path):
    """With twins, or without them, the same pairs differ by the same bound."""
    chance = np.random.default_rng(0)
    scores = {(label, seed): chance.normal(20, 1) for label in "abc" for seed in (0, 1, 2)}
    networks = {label: f"backbone = 'dit-s-4'\noverrides = {{ depth = {ord(label)} }}" for label in "abc"}
    told = []
    for twins in ({}, {"twin of b": networks["b"], "second twin of b": networks["b"]}):
        folder = tmp_path / str(len(twins))
        folder.mkdir()

        def fids(cell):
            label = cell.row.label[-1]
            return {"fid": scores[label, cell.seed] + 9 * (label == "c")}

        study, rows = own_rows(folder, networks | twins, fids)
        (setting,) = settings(rows)
        section = tables.quality(study, rows, setting)
        shown = cells_of(section)
        best = {label: row["FID↓"].best for label, row in shown.items()}
        assert all(best[label] == best["b"] for label in twins) and not best["c"]
        ablate = ("ablate", study.argument, "--dry-run", "--results", folder / "results", "--work", folder)
        power = re.search(r"With 3 seeds .* detected", " ".join(run_bench(*ablate)[1].split()))
        told.append((section.text, verdict(rows, [setting]), {each: best[each] for each in "abc"}, power[0]))
    assert told[0] == told[1]
    assert "of 3 pairs" in told[0][1]


@pytest.mark.parametrize("judge", ["kid", "fid"])
def test_a_detectable_difference_has_the_unit_of_its_score(run_bench, tmp_path, judge):
    smoke = (ROOT / "bench/training/protocols/smoke.toml").read_text("utf-8")
    (tmp_path / "judged.toml").write_text(f'{smoke}[evaluation]\njudged_by = ["{judge}"]\n')
    values = {"a": [1.0, 2.0, 4.0], "b": [5.0, 3.0, 2.0]}  # as tables print them
    scale = tables.MEASURED[judge].scale

    def scores(cell):
        return {judge: values[cell.row.label][cell.seed] / scale}

    rows = {label: f"backbone = 'dit-s-4'\noverrides = {{ depth = {ord(label)} }}" for label in values}
    study, _ = own_rows(tmp_path, rows, scores, protocol="judged")
    code, out, _ = run_bench(
        "ablate", study.argument, "--dry-run", "--results", tmp_path / "results", "--work", tmp_path
    )
    (least,) = re.findall(r"a true difference in \S+ of (\S+) between", " ".join(out.split()))
    # By the noncentral t distribution: two rows are Student's test of the differences by seed.
    error = np.std(np.subtract(*values.values()), ddof=1) / math.sqrt(3)
    found = stats.nct.sf(stats.t.ppf(0.975, 2), 2, float(least) / error)
    assert code == 0 and found == pytest.approx(0.8, abs=0.01)


def test_of_two_rows_of_one_network_the_one_with_a_published_figure_is_compared(tmp_path):
    rows = {"own": "backbone = 'dit-s-2'", "a": "published = 'leaderboard/DiT-S/2'"}
    rows["b"] = "published = 'leaderboard/DiT-B/2'"
    _, found = own_rows(tmp_path, rows, by_label(own=20.0, a=20.0, b=10.0))
    (setting,) = settings(found)
    assert "b (10.10) has the lowest FID, significantly better than a (19.90)" in verdict(found, [setting])


def test_a_verdict_names_both_rows_of_a_pair_and_compares_no_two_samplers(tmp_path):
    """As under `micro`, where networks of other objectives take other samplers."""
    (tmp_path / "two.toml").write_text(
        'title = "Samplers"\nprotocol = "smoke"\nseeds = [0, 1, 2]\ncolumns = ["fid"]\n'
        + "".join(
            f'[[rows]]\nlabel = "{label}"\nbackbone = "dit-s-4"\n'
            f"overrides = {{ depth = {depth} }}\nsampling = {{ steps = {steps} }}\n"
            for label, depth, steps in (("a", 1, 2), ("b", 2, 2), ("c", 1, 3), ("d", 2, 3), ("e", 3, 3))
        )
    )
    study = bench.studies.load(str(tmp_path / "two.toml"))
    means = {"a": 10.0, "b": 20.0, "c": 5.0, "d": 5.1, "e": 9.0}
    for cell in cells(study, protocols.load("smoke"), (0, 1, 2)):
        fid = means[cell.row.label] + 0.1 * (cell.seed - 1) * (1 if cell.row.label in "ad" else -1)
        made.put(tmp_path / "results", made.quality(cell.request, fid=fid), "smoke")
    rows = lines(study, Selection(tmp_path / "results"))
    first, second = verdict(rows, settings(rows)).partition(". Scores of this reduced")[0].split(". Under ")
    assert first.endswith("a (10.00) has the lowest FID, significantly better than b (20.00)")
    assert second.endswith(
        "c (5.00) has the lowest FID, not significantly better than d (5.10); 2 of 3 pairs of rows differ "
        "significantly"
    )
    assert ", 2 steps)" in first and ", 3 steps)" in second


@pytest.mark.parametrize(
    ("published", "told"),
    [
        ({"a": "SiT-S/2"}, ""),  # nothing to compare with
        ({"a": "SiT-S/2", "b": "SiT-S/2"}, ""),  # one figure
        ({"a": "SiT-B/2", "b": "SiT-S/2"}, "0 of the 1 with comparable published scores"),
        ({"a": "SiT-S/2", "b": "SiT-B/2", "c": "SiT-L/2"}, "all"),
    ],
)
def test_a_verdict_compares_with_published_figures_where_there_are_two(tmp_path, published, told):
    """FIDs here: a 30, b 20, c 10; published: SiT-S/2 57.6, SiT-B/2 33.0, SiT-L/2 18.8."""
    rows = "".join(
        f"[[rows]]\nlabel = '{label}'\nbackbone = 'dit-s-4'\noverrides = {{ depth = {depth} }}\n"
        + (f"published = 'leaderboard/{published[label]}'\n" if label in published else "")
        for label, depth in (("a", 1), ("b", 2), ("c", 3))
    )
    (tmp_path / "own.toml").write_text(f"title = 't'\nprotocol = 'smoke'\n{rows}")
    study = bench.studies.load(tmp_path / "own.toml")
    for cell in cells(study, protocols.load("smoke"), (0, 1)):
        fid = {"a": 30.0, "b": 20.0, "c": 10.0}[cell.row.label] + 0.1 * cell.seed
        made.put(tmp_path / "results", made.quality(cell.request, fid=fid), "smoke")
    found = lines(study, Selection(tmp_path / "results"))
    text = verdict(found, settings(found))
    told = told and f", {told} in the published order"
    assert f"; 3 of 3 pairs of rows differ significantly{told}." in text
    assert ("In the paper, a is best." in text) == (published.get("a") == "SiT-B/2")


def test_the_setting_with_most_pairs_in_the_published_order_is_first(tmp_path):
    """Pairs without two published figures count neither for a setting nor against it."""
    rows = "".join(
        f"[[rows]]\nlabel = '{label}'\nbackbone = 'dit-s-4'\noverrides = {{ depth = {depth} }}\n{more}\n"
        for label, depth, more in (
            ("a", 1, "published = 'leaderboard/SiT-S/2'"),
            ("b", 2, "published = 'leaderboard/SiT-B/2'"),
            ("c", 3, ""),
            ("d", 4, ""),
        )
    )
    (tmp_path / "own.toml").write_text(f"title = 't'\n{rows}")
    study = bench.studies.load(tmp_path / "own.toml")
    means = {"micro": (10, 10, 10, 10), "smoke": (20, 10, 30, 40)}  # no pair; one in the order, five without
    for name, fids in means.items():
        for cell in cells(study, protocols.load(name), (0, 1)):
            place = "abcd".index(cell.row.label)
            fid = fids[place] + 0.1 * (cell.seed * (-1) ** place)
            made.put(tmp_path / "results", made.quality(cell.request, fid=fid), name)
    found = lines(study, Selection(tmp_path / "results"))
    assert [each.protocol for each in by_soundness(found, settings(found))] == ["smoke", "micro"]
    bare = [replace(line, row=replace(line.row, published=None)) for line in found]
    assert [each.protocol for each in by_soundness(bare, settings(bare))] == ["smoke", "micro"]


def test_scores_by_other_weights_get_a_table_of_their_own(results):
    study = bench.studies.load("downsampler")
    other = made.FINGERPRINTS.model_copy(update={"extractor": "fedcba543210"})
    for cell in cells(study, protocols.load("micro"), [2]):
        made.put(results, made.quality(cell.request, fid=999.0), "micro", other)
    _, first, second, _ = page_of("downsampler", results).sections
    assert "weights d63e10104591" in " ".join(first.table.remarks)
    assert "weights fedcba543210" in " ".join(second.table.remarks)
    assert "999" not in markdown.page(Page("x", "x", [first]))
    assert all(row[-1].text == "2" for row in first.table.rows)
    assert "significance needs at least two seeds in common" in second.text[1]
    assert all(row["FID↓"].text == "999.00" for row in cells_of(second).values())  # and no ±


def test_a_row_without_records_is_empty_and_a_table_without_says_so_once(tmp_path):
    results = tmp_path / "results"
    keep_quality(results, "downsampler", FIDS[:2])
    first, quality, _ = page_of("downsampler", results).sections
    assert [entry.text for entry in quality.table.rows[2]][2:] == [""] * (len(quality.table.columns) - 2)
    assert "Empty cells: not measured." in " ".join(quality.table.remarks)
    assert "Empty cells: not measured." in " ".join(first.table.remarks)  # no cost either
    assert "Spearman's ρ" not in " ".join(quality.text)  # of two rows
    text = markdown.page(page_of("components", results))
    assert text.count("no row has a record of quality") == 1


def test_a_score_that_seeds_lack_says_over_how_many_it_is(tmp_path):
    rows = {label: f"backbone = 'dit-s-4'\noverrides = {{ depth = {ord(label)} }}" for label in "abcd"}
    density = {"a": [0.5, 0.6, 0.7], "b": [0.7, 0.8, 0.9], "c": [0.125, None, None], "d": [None] * 3}

    def scores(cell):
        label = cell.row.label
        return {"density": density[label][cell.seed], "fid": None if (label, cell.seed) == ("d", 0) else 9.0}

    smoke = (ROOT / "bench/training/protocols/smoke.toml").read_text("utf-8")
    (tmp_path / "dense.toml").write_text(smoke + '[evaluation]\nscores = ["*"]\njudged_by = ["density"]\n')
    study, found = own_rows(tmp_path, rows, scores, protocol="dense", head="columns = ['density', 'fid']")
    (setting,) = settings(found)
    section = tables.quality(study, found, setting)
    shown = cells_of(section)
    assert {row["Seeds"].text for row in shown.values()} == {"3"}
    heading = tables.MEASURED["density"].title
    texts = [shown[label][heading].text for label in "abcd"]
    counts = [len(re.findall(r"^[\d.]+ \(n = 1\)$", text)) for text in texts]
    assert counts == [0, 0, 1, 0] and not texts[3]
    assert [shown[label]["FID↓"].text for label in "ad"] == ["9.00 ± 0.00", "9.00 ± 0.00 (n = 2)"]
    assert "Empty cells: not measured." in " ".join(section.table.remarks)
    assert "over the 3 seeds that all compared rows have" in " ".join(section.text)
    printed = tables.summary_table(study, found, setting, [])
    assert [row[-1].text for row in printed.rows] == ["3"] * 4
    place = [column.title for column in printed.columns].index(f"{heading}, measured")
    assert [row[place].text for row in printed.rows] == texts
    frame = tables.frame(found, None)
    (column,) = (name for name in frame if name.startswith("density seeds"))
    assert list(frame[column]) == [3, 3, 1, None]
    texts_of = {
        row["row"]: row["texts"]
        for row in board.board(Selection(tmp_path / "results"), leaderboard.groups([(study, found)])).rows
        if row["kind"] == board.HERE
    }
    assert texts_of["c"]["density"] == texts[2]


def test_rows_of_which_nothing_is_known_are_named_below_the_table(tmp_path):
    study, protocol = bench.studies.load("backbones"), protocols.load("micro")
    first, *others = [row.label for row in study.rows if row.measured_under("micro")]
    for cell in cells(study, protocol, [0, 1]):
        if cell.row.label == first:
            made.put(tmp_path, made.quality(cell.request, fid=1.0 + cell.seed), "micro")
    quality = page_of("backbones", tmp_path).sections[1]
    assert [row[0].text for row in quality.table.rows] == [first]
    assert f"Not measured: {', '.join(others)}." in quality.table.remarks
    said = " ".join(quality.table.remarks)
    assert "Empty cells" not in said and "Undecided" not in said  # there is nothing to decide


def test_of_several_speeds_of_a_network_the_newest_is_shown(tmp_path):
    def written(days):
        """Records that differ in what no heading names, measured on these days."""
        folder = tmp_path / "-".join(days)
        for i, day in enumerate(days):
            request = made.SPEED_REQUEST.model_copy(update={"num_inference_steps": 10 + i})
            when = made.ENVIRONMENT.model_copy(update={"date": f"2026-11-{day}T00:00:00+00:00"})
            made.put(folder, made.speed(request, images_per_second=float(day)), environment=when)
        return folder

    for days in itertools.permutations(["02", "10", "21"]):
        (column,) = Selection(written(days)).speeds
        (record,) = column.records.values()
        assert (*column.figures.values(), record.environment.date[8:10]) == (21.0, "21")


def test_every_page_names_its_table_and_footnotes(results):
    made = report.files(results, ["md"])
    others = {"backbones.md", "leaderboard.md", "records.csv"}
    assert {f"table-{n}.md" for n in range(1, 7)} | others <= made.keys()
    assert made["table-5.md"].startswith("# Table 5: Choice of downsampler\n")
    assert "+ Token Downsampling [1]" in made["table-1.md"]
    assert "1. Tables 5 and 6 print 0.91 for this same network" in made["table-1.md"]
    assert "Added here; not in the paper." in made["table-3.md"]


def test_a_cost_that_disagrees_with_the_published_one_gets_a_footnote(results):
    text = markdown.page(page_of("downsampler", results))
    assert "Published as 0.91 GFLOPs, counted 0.6000." in text


def test_a_footnote_of_the_paper_stands_at_the_network_that_it_is_about(tmp_path):
    own, results = tmp_path / "own.toml", tmp_path / "results"
    rows = {
        "published": "",
        "smaller": "overrides = { depth = 3 }",
        "other": "backbone = 'udit-t'",
    }
    own.write_text(
        "title = 't'\n"
        + "".join(
            f"[[rows]]\nlabel = '{label}'\npublished = 'leaderboard/SiT-S/2'\n{more}\n"
            for label, more in rows.items()
        )
    )
    keep_costs(results, own)  # 0.3, 0.6 and 0.9 GFLOPs

    def noted(study):
        table = page_of(study, results).sections[0].table
        notes = dict(enumerate(table.footnotes, 1))
        return table, {
            label.partition(" [")[0]: " ".join(notes[int(n)] for n in re.findall(r"\[(\d+)\]", label))
            for label in (row[0].text for row in table.rows)
        }

    _, found = noted(own)
    assert ["The DiT paper prints a little less" in found[label] for label in rows] == [True, False, False]
    counted = ["Published as 6.06 GFLOPs, counted" in found[label] for label in rows]
    assert counted == [False, True, True]
    own.write_text("title = 't'\n[[rows]]\npublished = 'leaderboard/DiC-S'\n")
    table, _ = noted(own)  # which has no row of that footnote
    assert "The DiT paper" not in " ".join([*table.footnotes, *table.remarks])


def test_published_scores_of_two_objectives_never_share_a_column(tmp_path):
    keep_costs(tmp_path, "leaderboard")
    section = page_of("leaderboard", tmp_path).sections[0]
    rows = {label.partition(" [")[0]: row for label, row in cells_of(section).items()}
    noise, flow = "FID↓ (noise prediction), published", "FID↓ (flow), published"
    assert (rows["DiC-S"][noise].text, rows["DiC-S"][flow].text) == ("58.68", "")
    assert (rows["SiT-S/2"][noise].text, rows["SiT-S/2"][flow].text) == ("", "57.6")
    assert rows["U-DiT-S"]["IS↑ (noise prediction), published"].text == "51.62"
    assert not {"FID↓, published", "IS↑, published", "IS↑ (flow), published"} & rows["DiC-S"].keys()
    said = " ".join(section.table.remarks)
    assert "noise prediction, no guidance, DDPM's ancestral sampler in 250 steps" in said
    assert "flow, no guidance, the SDE sampler of SiT" in said
    text = report.files(tmp_path, ["csv"], ["leaderboard"])["leaderboard.csv"]
    found = {row["label"]: row for row in csv.DictReader(io.StringIO(text))}
    assert found["DiC-S"]["published fid (noise prediction)"] == "58.68"
    assert found["SiT-S/2"]["published fid (flow)"] == "57.6"
    assert (
        found["DiC-S"]["published fid (flow)"] == found["SiT-S/2"]["published fid (noise prediction)"] == ""
    )
    assert "ancestral" in found["DiC-S"]["published sampler"] and "published fid" not in found["DiC-S"]


def test_guided_published_scores_never_share_a_column_with_others(tmp_path):
    own = tmp_path / "own.toml"
    names = ["2/U-DiT-B", "3/U-DiT-L", "leaderboard/SiT-B/2"]
    own.write_text("title = 't'\n" + "".join(f"[[rows]]\npublished = '{name}'\n" for name in names))
    results = tmp_path / "results"
    results.mkdir()
    rows = cells_of(page_of(own, results).sections[0])
    titles = ["noise prediction, no guidance", "noise prediction, guidance 1.5", "flow, no guidance"]
    found = [[row[f"FID↓ ({title}), published"].text for title in titles] for row in rows.values()]
    assert found == [["16.64", "", ""], ["", "3.37", ""], ["", "", "33.0"]]


def test_each_published_row_names_its_source_and_whether_its_network_is_here(tmp_path):
    keep_costs(tmp_path, "leaderboard")
    section = page_of("leaderboard", tmp_path).sections[0]
    notes = dict(enumerate(section.table.footnotes, 1))
    told = {
        row[0].text.partition(" [")[0]: [notes[int(n)] for n in re.findall(r"\[(\d+)\]", row[0].text)]
        for row in section.table.rows
    }
    for row in bench.studies.load("leaderboard").rows:
        assert f"Published in {row.published.source}." in told[row.label]
        assert any("not implemented here" in note for note in told[row.label]) == (row.model is None)
    row = next(row for label, row in cells_of(section).items() if label.startswith("DiG-S/2"))
    assert {entry.text for title, entry in row.items() if title.endswith("measured")} == {""}
    # Nothing of a row without a network is missing.
    assert "Empty cells" not in " ".join(section.table.remarks)


def test_every_form_shows_rows_without_a_network(run_bench, tmp_path):
    keep_costs(tmp_path, "leaderboard")
    where = ("ablate", "leaderboard", "--protocol", "micro", "--results", tmp_path, "--work", tmp_path)
    code, out, err = run_bench(*where)
    assert code == 0 and re.search(r"DiG-S/2 .* 62\.06 ", out) and "nothing is measured" in err
    left_out = out.partition("Not measured under micro: ")[2]
    assert "SiT-XL/2" in left_out and "DiG" not in left_out
    code, out, _ = run_bench(*where, "--json")
    row = next(row for row in json.loads(out) if row["label"] == "DiG-S/2")
    assert code == 0 and row["model"] is None and row["macs"] is None
    assert row["published fid (noise prediction)"] == 62.06


def test_scores_stand_beside_rows_of_their_protocol_alone(tmp_path):
    study, protocol = bench.studies.load("leaderboard"), protocols.load("proxy-fashion")
    planned = cells(study, protocol, [0])
    made.put(tmp_path, made.quality(planned[0].request), protocol.name)
    (section,) = [s for s in page_of("leaderboard", tmp_path).sections if s.title.startswith("Quality")]
    labels = [cell.row.label for cell in planned]
    assert list(cells_of(section)) == labels and 1 < len(labels) < len(study.rows)
    assert "Empty cells: not measured." in " ".join(section.table.remarks)


@pytest.mark.parametrize(("gflops", "differs"), [(5.873889, False), (5.949, False), (5.951, True)])
def test_a_cost_is_compared_at_the_digits_that_are_printed(tmp_path, gflops, differs):
    row = bench.studies.load("leaderboard").row("DiC-S")
    made.put(tmp_path, made.cost(cost_request(row), paper_gflops=gflops))
    text = markdown.page(page_of("leaderboard", tmp_path))
    assert (f"Published as 5.9 GFLOPs, counted {gflops:.4f}." in text) == differs


def test_orders_are_compared_with_published_ones_of_the_same_objective(tmp_path):
    own = tmp_path / "own.toml"
    names = ["DiT-S/2", "DiT-B/2", "DiT-L/2", "SiT-S/2", "SiT-B/2", "SiT-L/2"]
    rows = (f"[[rows]]\npublished = 'leaderboard/{name}'\n" for name in names)
    own.write_text("title = 't'\n" + "".join(rows))
    study = bench.studies.load(own)
    # By FID here as published within each family, but not across them; one setting, for the sampler is one.
    fids = dict(zip(names, (30.0, 20.0, 10.0, 60.0, 50.0, 40.0), strict=True))
    for cell in cells(study, protocols.load("smoke"), [0, 1]):
        request = cell.request
        made.put(tmp_path, made.quality(request, fid=fids[cell.row.label] + 0.1 * cell.seed), "smoke")
    (section,) = [s for s in page_of(own, tmp_path).sections if s.title.startswith("Quality")]
    (_, said) = section.text
    for objective in ("noise prediction", "flow"):
        assert f"published FID ({objective}): 1.00 (3 rows" in said
    assert "15 of 15 pairs. All of the 6 with comparable published scores are in the published order." in said


def test_rows_of_other_code_carry_a_footnote(results):
    study = bench.studies.load("downsampler")
    other = made.FINGERPRINTS.model_copy(update={"code": "0" * 12})
    for cell in cells(study, protocols.load("micro"), [0, 1, 2])[::3]:
        made.put(results, made.quality(cell.request), "micro", other)
    section = page_of("downsampler", results).sections[1]
    (note,) = section.table.footnotes
    assert "Stale: the backbone's code has changed since." in note
    assert [row[0].text.endswith(" [1]") for row in section.table.rows] == [True, False, False]


def test_csv_holds_the_numbers(results):
    made = report.files(results, ["csv"])
    rows = list(csv.DictReader(io.StringIO(made["table-5.csv"])))
    how = "(micro, digits, d63e10104591)"
    assert float(rows[0][f"fid mean {how}"]) == pytest.approx(np.mean(FIDS[0]), rel=1e-5)
    assert float(rows[0][f"fid deviation {how}"]) == pytest.approx(np.std(FIDS[0], ddof=1), rel=1e-5)
    assert rows[1]["parameters"] == "2000000" and rows[0]["published fid"] == "96.15"
    assert json.loads(rows[0]["overrides"])["downsampler"] == "pixel-shuffle"


def test_guidances_have_tables_and_columns_of_their_own_and_one_picture(tmp_path):
    scales, study = {1.0: 30.0, 1.5: 20.0, 3.0: 10.0}, bench.studies.load("guidance")
    for cell in cells(study, protocols.load("micro"), [0, 1]):
        fid = scales[cell.row.cfg_scale] + cell.seed
        file = made.put(tmp_path, made.quality(cell.request, fid=fid), "micro")
        Image.fromarray(np.zeros((8, 40), np.uint8)).save(file.with_suffix(".png"))
    tables = page_of("guidance", tmp_path).sections[1:4]
    titles = ["no guidance", "guidance 1.5", "guidance 3"]
    assert [section.title for section in tables] == [
        f"Quality, protocol micro, extractor digits, {title}" for title in titles
    ]
    files = report.files(tmp_path, ["csv"], ["guidance"])
    rows = [row for row in csv.DictReader(io.StringIO(files["table-3.csv"])) if row["extra"] == "True"]
    for (scale, fid), title in zip(scales.items(), titles, strict=True):
        column = f"fid mean (micro, digits, d63e10104591, {title})"
        found = {row["label"]: row[column] for row in rows}
        assert found == {label: str(fid + 0.5) if label.endswith(f"cfg {scale}") else "" for label in found}
    assert files["samples-guidance-micro.svg"].count("<image") == 6


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        ("guided_channels = 3", ["guidance 1.5, 3 channels guided", "guidance 1.5, all channels guided"]),
        ("guidance_interval = [0.3, 1]", ["guidance 1.5", "guidance 1.5, guided from 0.3 to 1"]),
        ("labels = 'uniform'", ["guidance 1.5, balanced labels", "guidance 1.5, uniform labels"]),
        ("encoder_every = 4", ["guidance 1.5", "guidance 1.5, encoder every 4 evaluations"]),
        ("encoder_every = 1", ["guidance 1.5"]),  # as without
    ],
)
def test_scores_of_other_guidance_or_labels_never_share_a_column(tmp_path, sampling, words):
    guided = "sampling = { cfg_scale = 1.5 }"
    rows = {
        "plain": "backbone = 'dit-s-4'",
        "a": f"backbone = 'ddt-b-2'\n{guided}",
        "b": f"backbone = 'ddt-b-2'\noverrides = {{ depth = 9 }}\n{guided[:-2]}, {sampling} }}",
    }
    fids = by_label(plain=30.0, a=20.0, b=10.0)
    study, found = own_rows(tmp_path, rows, fids, protocol="micro")
    titles = [tables.quality_title(each, settings(found)) for each in settings(found)]
    titles = [title.removeprefix("Quality, protocol micro, extractor digits, ") for title in titles]
    assert sorted(title for title in titles if title.startswith("guidance")) == words
    for setting in settings(found):
        section = tables.quality(study, found, setting)
        shown = {label.partition(" ")[0] for label in cells_of(section)}
        assert ({"a", "b"} <= shown) == (len(words) == 1 and "a" in shown)
    columns = [name for name in tables.frame(found, None) if name.startswith("fid mean")]
    assert len(columns) == len(titles) == 1 + len(words)


# ---- the formats ----

ODD = Page(
    "odd",
    "A & B <c>",
    [
        Section(
            table=Table(
                [Column("Model", number=False), Column("x_1 ↓")],
                [[Entry("a|b* [1]"), Entry("1 ± 2", True)], [Entry("50% of {x}"), Entry("")]],
                footnotes=["under_score"],
                remarks=["more <than> & less"],
            ),
            picture=("p.svg", "A picture"),
        )
    ],
)


def test_markdown_has_whole_rows_of_one_width():
    text = markdown.page(ODD)
    rows = table(text)
    assert {len(row) for row in rows} == {2}
    assert rows[2] == [r"a\|b\* [1]", "**1 ± 2**"] and rows[3] == ["50% of {x}", ""]
    widths = {len(line) for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    assert r"- more \<than\> & less" in text and "![A picture](p.svg)" in text


def rendered(text):
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)


def test_markdown_renders_to_the_same_cells():
    found = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", rendered(markdown.page(ODD)))
    assert found == ["Model", "x_1 ↓", "a|b* [1]", "<strong>1 ± 2</strong>", "50% of {x}", ""]


def test_latex_escapes():
    text = latex.page(ODD)
    assert r"\caption{A \& B $<$c$>$.}" in text and r"\textbf{1 $\pm$ 2}" in text
    assert r"{}50\% of \{x\} &  \\" in text and r"x\_1 $\downarrow$" in text
    assert r"\par [1] under\_score" in text
    assert text.isascii()


def test_latex_has_greek_letters_by_the_names_of_html():
    capitals = "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split()
    for name in [*capitals, *map(str.lower, capitals), "alpha", "beta", "rho", "tau", "chi"]:
        assert latex.escape(unescape(f"the &{name}; schedule")) == rf"the $\{name}$ schedule"


def test_latex_joins_no_two_characters():
    for text in ("as --model takes it", "a---b", "''", "f''(x)", "a - b--"):
        shown = latex.escape(text)
        assert shown.replace("{}", "") == text and not re.search("--|''", shown)
    assert latex.escape("it's a-b") == "it's a-b"


HOSTILE = [
    "[a](http://x.example/)",
    "![a](http://x.example/i.png)",
    "[a][b]",
    "[b]: http://x.example/",
    "# heading",
    "- item",
    "- - -",
    "+ item",
    "1) item",
    "1. item",
    "> quote",
    "~~gone~~",
    "<script>alert(1)</script>",
    "`code` | cell | *bold* _it_",
    "=1+1",
    "@SUM(A1)",
    "+cmd|' /C calc'!A0",
    "-2+3",
    r"\input{x} $x^2$ %{~}",
    "&lt; &amp;",
    'a"b, c',
    "$\\frac{x$",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_label_says_it_is_shown_and_does_nothing(text):
    columns = [Column("Model", number=False), Column(text)]
    one = Table(columns, [[Entry(text), Entry(text)]], footnotes=[text], remarks=[text])
    odd = Page("odd", text, [Section(text, [text], one, picture=("p.svg", text))])
    shown = rendered(markdown.page(odd))
    # No list or heading comes of the paragraph.
    assert len(re.findall("<(?:h[1-6]|li|ol|ul|tr|td|th|img)[ >]", shown)) == 2 + 2 + 2 + 2 + 2 + 2 + 1
    for tag in ("<a ", "<script", "<code", "<blockquote", "<em", "<strong", "<s>", "<h3", "<pre"):
        assert tag not in shown
    (alt,) = re.findall('<img src="p.svg" alt="(.*?)"', shown)
    found = re.findall(r"<(?:h1|h2|p|td|th|li)[^>]*>([^<]*?)</(?:h1|h2|p|td|th|li)>", shown)
    assert len(found) == 9
    assert {unescape(x) for x in (alt, *found)} == {"Model", text}

    row = next(csv.reader(io.StringIO(csv_form.frame([{"label": text}])).readlines()[1:]))
    assert row[0].removeprefix("'") == text
    harmless = text in ("- item", "+ item")  # no function is called and no other program started
    assert row[0] == text if harmless else not row[0].startswith(("=", "@", "+", "-"))

    codes = {code: character for character, code in latex._CHARACTERS.items()}
    pattern = "|".join(re.escape(code) for code in sorted(codes, key=len, reverse=True))
    escaped = latex.escape(text)
    assert latex.page(odd).count(escaped) == 9
    assert re.sub(pattern, lambda code: codes[code[0]], escaped) == text
    assert not set(re.sub(pattern, "", escaped)) & set("\\{}$&#^_~%")


def test_numbers_stay_numbers_in_csv():
    rows = [{"x": "-2.5e-3", "y": -1.0, "z": "+7", "n": -3, "t": "-x()"}]
    assert csv_form.frame(rows).splitlines()[1] == "-2.5e-3,-1,+7,-3,'-x()"


@pytest.mark.parametrize("label", ["- shortcut", "-shortcut, -FFN", "+ Token Downsampling", "− RoPE"])
def test_a_label_with_a_sign_comes_back_from_csv_as_it_is(label):
    text = csv_form.frame([{"label": label}])
    assert pd.read_csv(io.StringIO(text)).label[0] == label


@pytest.mark.parametrize("text", HOSTILE)
def test_pictures_are_well_formed_whatever_a_label_says(results, tmp_path, text):
    own = tmp_path / "own.toml"
    rows = [f"[[rows]]\nlabel = {json.dumps(text)}\nbackbone = 'udit-t'\n"]
    rows.append("[[rows]]\nlabel = 'b'\nbackbone = 'udit-t'\noverrides = { ffn = 'mlp' }\n")
    own.write_text("title = 't'\n" + "".join(rows), "utf-8")
    study = bench.studies.load(own)
    for row in study.rows:
        made.put(results, made.cost(cost_request(row)))
    for cell in cells(study, protocols.load("micro"), [0]):
        file = made.put(results, made.quality(cell.request), "micro")
        Image.fromarray(np.zeros((8, 40), np.uint8)).save(file.with_suffix(".png"))
    files = report.files(results, ["md"], [str(own)])
    pictures = {name: ElementTree.fromstring(text) for name, text in files.items() if name.endswith(".svg")}
    assert set(pictures) == {"cost-own.svg", "samples-own-micro.svg"}
    space = "{http://www.w3.org/2000/svg}"
    assert [t.text for t in pictures["samples-own-micro.svg"].iter(f"{space}text")] == [text, "b"]
    (bars,) = json.loads(charts.described(files["cost-own.svg"])[1])
    assert list(dict.fromkeys(bar["row"] for bar in bars)) == [text, "b"]
    shown = {t.text for t in pictures["cost-own.svg"].iter(f"{space}text")}
    assert "b" in shown and (text in shown or len(text) > 20)


def test_no_character_of_the_real_pages_is_foreign_to_latex(results):
    made = report.files(results, ["latex"])
    for name, text in made.items():
        assert not name.endswith(".tex") or text.isascii(), set(re.findall(r"[^\x00-\x7f]", text))


# ---- pictures ----


@pytest.mark.slow
def test_pictures_hold_their_numbers_and_come_out_the_same(results):
    keep_quality(results, "training-steps", [[1.0] * 3] * 40)
    keep_costs(results, "components")
    made, again = (report.files(results, ["md"]) for _ in range(2))
    assert made == again
    creator, told = charts.described(made["fid-gflops.svg"])
    assert creator.startswith("vl-convert ")
    points = [point for each in json.loads(told) for point in each if isinstance(point, dict)]
    (large,) = [point for point in points if point["row"] == "U-DiT-L"]
    assert (large["family"], large["fid"]) == ("U-DiT", 10.08) and round(large["cost"], 2) == 85.0
    assert large["low"] < 10.08 < large["high"]  # the noise between trainings
    told = json.loads(charts.described(made["fid-steps.svg"])[1])
    points = [point for each in told for point in each if isinstance(point, dict)]
    assert 7.54 in [point["fid"] for point in points if (point["row"], point["step"]) == ("U-DiT-L", 1000000)]
    for study, file in (("scaling", "fid-gflops.svg"), ("training-steps", "fid-steps.svg")):
        assert report.files(results, ["md"], study)[file] == made[file]  # whichever studies are asked for
    (stages,) = json.loads(charts.described(made["cost-components.svg"])[1])
    assert [s["stage"] for s in stages if s["row"] == "DiT-UNet"] == ["stage0", "stage1", "stage2"]
    assert "![Cost by stage](cost-components.svg)" in made["table-6.md"]


# ---- the command ----


def test_samples_are_the_pictures_beside_the_records_of_one_seed(results):
    rows = lines(bench.studies.load("downsampler"), Selection(results))
    (setting,) = settings(rows)
    assert sheet(rows, "micro", results) is None  # no picture is kept
    pictures = []
    for line in (rows[0], rows[2]):
        file = line.results(setting)[0].request.file
        pixels = np.random.default_rng(len(pictures)).integers(0, 255, (8, 40), np.uint8)
        Image.fromarray(pixels).save((results / file).with_suffix(".png"))
        pictures.append(pixels)
    drawn = ElementTree.fromstring(sheet(rows, "micro", results))
    space = "{http://www.w3.org/2000/svg}"
    assert [text.text for text in drawn.iter(f"{space}text")] == [rows[0].row.label, rows[2].row.label]
    for image, pixels in zip(drawn.iter(f"{space}image"), pictures, strict=True):
        held = base64.b64decode(image.get("href").partition(",")[2])
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(held))), pixels)
        assert (image.get("width"), image.get("height")) == ("40", "8")
    made = report.files(results, ["md"])
    assert "samples-downsampler-micro.svg" in made and "samples-downsampler-micro.svg" in made["table-5.md"]


def test_rows_keep_their_own_labels_beside_one_published_row(tmp_path):
    own, results = tmp_path / "own.toml", tmp_path / "results"
    labels = ["as published", "SiT-like"]
    own.write_text(
        "title = 't'\n"
        f"[[rows]]\nlabel = '{labels[0]}'\npublished = '5/Pixel Shuffle (PS)'\n"
        f"[[rows]]\nlabel = '{labels[1]}'\npublished = '5/Pixel Shuffle (PS)'\noverrides = {{}}\n"
    )
    keep_costs(results, own)
    for file in keep_quality(results, own, FIDS[:2]):
        Image.fromarray(np.zeros((8, 40), np.uint8)).save(file.with_suffix(".png"))
    for section in page_of(own, results).sections[:2]:
        assert [row[0].text.partition(" [")[0] for row in section.table.rows] == labels
    found = report.files(results, ["csv"], [own])
    assert [row["label"] for row in csv.DictReader(io.StringIO(found["own.csv"]))] == labels
    for label in labels:
        assert label in found["samples-own-micro.svg"] and label in found["cost-own.svg"]
    rows = site.Site.load(results, [own]).board.rows
    assert {row["row"]: row["family"] for row in rows if row["kind"] == "measured here"} == dict.fromkeys(
        labels, "U-DiT"
    )


@pytest.mark.parametrize("name", ["mine", "scaling"])  # Table 2 is a study of that name
def test_a_study_of_ones_own_has_a_page(run_bench, results, tmp_path, name):
    own = tmp_path / f"{name}.toml"
    own.write_text('title = "Mine?"\n[[rows]]\npublished = "5/Pixel Shuffle (PS)"\n')
    code, _, err = run_bench(
        "report", own, "--results", results, "--out", tmp_path / "out", "--format", "md,latex"
    )
    assert code == 0, err
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        f"{name}.md",
        f"{name}.tex",
        f"cost-{name}.svg",
        f"scores-{name}.svg",
    }
    page = (tmp_path / "out" / f"{name}.md").read_text()
    assert page.startswith("# Mine?\n") and "20.47 ± 0.40" in page
    assert r"\caption{Mine? Quality" in (tmp_path / "out" / f"{name}.tex").read_text()
    assert run_bench("report", own, "--results", results, "--out", tmp_path / "out", "--check")[0] == 1  # csv
    assert run_bench("report", "no", "--results", results)[2].startswith("error: unknown study 'no'")


@pytest.mark.slow
def test_a_report_shows_the_protocols_that_are_named_and_tells_of_others(run_bench, tmp_path):
    own, results, out = tmp_path / "own.toml", tmp_path / "results", tmp_path / "out"
    smoke = (ROOT / "bench/training/protocols/smoke.toml").read_text("utf-8")
    of_rows = {"first": "'first'", "second": "'second', 'second.toml'", "third": ""}
    own.write_text(
        "title = 't'\n"
        + "".join(
            f"[[rows]]\nlabel = '{name}'\nbackbone = 'dit-s-4'\noverrides = {{ depth = {depth} }}\n"
            f"protocols = [{names}]\n"
            for depth, (name, names) in enumerate(of_rows.items(), 1)
        )
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other/first.toml").write_text(smoke.replace("steps = 8\n", "steps = 9\n"))
    for steps, name in enumerate(of_rows, 8):  # files of one content would be one protocol
        (tmp_path / f"{name}.toml").write_text(smoke.replace("steps = 8\n", f"steps = {steps}\n"))
    study = bench.studies.load(own)
    for fid, name in enumerate(of_rows, 11):
        cell = next(c for c in cells(study, protocols.load(name, tmp_path), [fid]) if c.row.label == name)
        made.put(results, made.quality(cell.request, fid=fid), name)

    def shown(*more):
        for where in (["--out", out, "--format", "md"], ["--site", out]):
            code, _, err = run_bench("report", own, "--results", results, *where, *more)
            assert code == 0, err
        for text in ((out / "own.md").read_text(), unescape((out / "studies/own.html").read_text())):
            assert "no row has a record" not in text
            told = re.search("under (.*) are not shown: bench report --protocol FILE shows them.", text)
            yield set(re.findall("(first|second|third), extractor", text)), told and told[1]

    for names, told in shown():
        assert names == {"first", "second"} and told == "third"
    found = [records for line in lines(study, Selection(results)) for records in line.quality.values()]
    assert [len(records) for records in found] == [1, 1]
    for names, told in shown("--protocol", tmp_path / "third.toml"):
        assert names == {"first", "second", "third"} and told is None
    code, _, err = run_bench("report", own, "--results", results, "--protocol", tmp_path / "other/first.toml")
    assert code == 2 and err == "error: own names two protocols 'first': rename the file of one\n"


def test_records_from_before_a_protocol_was_changed_are_told_of(run_bench, tmp_path):
    own, protocol, results = tmp_path / "own.toml", tmp_path / "first.toml", tmp_path / "results"
    own.write_text(
        "title = 't'\nprotocol = 'first.toml'\n"
        "[[rows]]\nlabel = 'a'\nbackbone = 'dit-s-4'\n[[rows]]\nlabel = 'b'\nbackbone = 'udit-t'\n"
    )
    smoke = (ROOT / "bench/training/protocols/smoke.toml").read_text("utf-8")

    def measure(text, seeds):
        protocol.write_text(text)
        for cell in cells(bench.studies.load(own), protocols.load("first", tmp_path), seeds):
            made.put(results, made.quality(cell.request, fid=20 + cell.seed), "first")

    def told():
        assert run_bench("report", own, "--results", results, "--out", tmp_path, "--format", "md")[0] == 0
        return re.findall(r".* under other settings .*", (tmp_path / "own.md").read_text())

    measure(smoke, [0, 1])
    assert told() == []
    measure(smoke.replace("steps = 8\n", "steps = 9\n"), [0])
    assert told() == [
        "2 records under other settings of first are not shown: the protocol may have changed since."
    ]
    measure(protocol.read_text(), [1])
    assert told() == []


@pytest.mark.slow
def test_check_is_clean_after_report_and_finds_any_digit(run_bench, results, tmp_path):
    out = tmp_path / "reports"
    where = ("--out", out, "--results", results, "--format", "md,latex,csv")
    assert run_bench("report", *where)[0] == 0
    assert run_bench("report", *where, "--check")[0] == 0

    def complaint():
        code, _, err = run_bench("report", *where, "--check")
        assert code == 1 and "Traceback" not in err
        return err

    whole, expected = {}, []
    for file in ("table-5.md", "table-2.md", "table-6.tex", "table-3.csv", "records.csv", "fid-gflops.svg"):
        text = whole[out / file] = (out / file).read_text("utf-8")
        places = [match.start() for match in re.finditer(r"\d", text)]
        place = places[len(places) * 2 // 3]
        wrong = text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :]
        (out / file).write_text(wrong, "utf-8")
        expected.append(f"{out / file}, line {wrong[:place].count(chr(10)) + 1}: is ")
    told = complaint()
    assert all(line in told for line in expected) and told.count("\n") == len(expected) + 1
    for path, text in whole.items():
        path.write_text(text, "utf-8")

    for path in sorted(results.iterdir())[::5]:
        text = path.read_text()
        place = text.index("2026")  # not even a number of the tables
        path.write_text(text[:place] + "3" + text[place + 1 :])
        told = complaint()
        assert "records.csv" in told and path.name in told
        path.write_text(text)
    assert run_bench("report", *where, "--check")[0] == 0
    (out / "table-1.md").unlink()
    assert "table-1.md is missing" in complaint()


@pytest.mark.parametrize("place", [("--format", "md", "--out"), ("--site",)])
@pytest.mark.slow
def test_the_command_that_check_tells_brings_all_up_to_date(run_bench, results, tmp_path, place):
    own, out = tmp_path / "my own.toml", tmp_path / "the report"
    own.write_text("title = 't'\n[[rows]]\nlabel = 'a'\nbackbone = 'udit-t'\n")
    args = ("report", own, "--results", results, *place, out)
    code, _, err = run_bench(*args, "--check")
    (told,) = re.findall("run `bench (.*)` to bring it up to date", err)
    assert code == 1 and not out.exists()
    assert run_bench(*shlex.split(told))[0] == 0 and out.is_dir()
    assert run_bench(*args, "--check")[0] == 0


@pytest.mark.slow
def test_a_picture_of_another_vl_convert_is_checked_by_its_numbers(results, tmp_path):
    out = tmp_path / "reports"
    made = report.files(results, ["md"]).items()
    report.write(out, made)
    path = out / "fid-steps.svg"
    drawn = re.sub(r"vl-convert [\w.]+", "vl-convert 1.0.0", path.read_text("utf-8"))
    path.write_text(drawn.replace("<path ", "<path  "), "utf-8")
    assert report.check(out, made) == []
    path.write_text(drawn.replace("7.54", "7.55"), "utf-8")
    assert len(report.check(out, made)) == 1


def test_a_users_mistake_is_one_line(run_bench, results, tmp_path):
    for args, says in (
        (("--results", tmp_path / "nowhere"), "no folder of records"),
        (("--results", tmp_path / "nowhere", "downsampeler"), "'downsampeler'"),
        (("--results", results, "--format", "md,pdf"), "unknown format 'pdf'"),
        (("--results", results, "--out", results / next(results.iterdir()).name), "cannot write"),
    ):
        code, _, err = run_bench("report", "--out", tmp_path / "out", *args)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and says in err
    with pytest.raises(UsageError):
        report.files(tmp_path / "nowhere", ["md"])


@pytest.mark.slow
def test_a_report_is_drawn_without_torch(results, tmp_path):
    code = (
        "import sys; from bench import cli\n"
        f"sys.argv = ['bench', 'report', '--results', {str(results)!r}, '--out', {str(tmp_path / 'out')!r}]\n"
        "try: cli.main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_report_beside_triton_prints_nothing_else(results, tmp_path):
    pytest.importorskip("triton")
    (tmp_path / "loads.py").write_text("import triton.compiler\n")
    words = ["bench.cli", "report", "toy", "--results", results, "--out", tmp_path / "out"]
    words += ["--plugin", tmp_path / "loads.py"]
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_protocol_to_use_judges_by_what_was_found_to_predict():
    text = (ROOT / "reports/proxy.md").read_text("utf-8").replace("\\_", "_")
    name = re.search(r"after [\d,]+ steps of ([\w-]+)", text)[1]
    assert protocols.load(name).evaluation.judged_by
    assert f"--protocol {name}\n" in text


@pytest.mark.slow
def test_the_committed_report_is_current():
    made = report.files(ROOT / "results", ["md", "csv"])
    assert report.check(ROOT / "reports", made.items()) == []
