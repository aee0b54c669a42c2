"""The leaderboard: groups whose scores compare, and ranks that say no more than seeds do."""

import csv
import importlib.resources
import json
from pathlib import Path

import pytest

import bench.studies
from bench.records.schema import QualityRequest, TrainingSettings
from bench.reports import board, leaderboard
from bench.reports.findings import findings
from bench.reports.select import Selection, lines
from bench.studies.cells import cells
from bench.training import protocols
from tests.bench import made
from tests.conftest import ROOT

STUDY = """
title = "Three networks"
[[rows]]
label = "near"
backbone = "udit-t"
[[rows]]
label = "nearer"
backbone = "udit-t"
overrides = { ffn = "mlp" }
[[rows]]
label = "far"
backbone = "dit-s-4"
"""


def groups_of(study, folder):
    return leaderboard.groups({study.name: lines(study, Selection(folder))})


def test_rows_that_seeds_cannot_tell_apart_share_a_rank(tmp_path):
    (tmp_path / "three.toml").write_text(STUDY)
    study = bench.studies.load(str(tmp_path / "three.toml"))
    fids = {"near": (10, 12, 11), "nearer": (11, 10, 12), "far": (90, 91, 92)}
    for cell in cells(study, protocols.load("smoke"), (0, 1, 2)):
        fid = float(fids[cell.row.label][cell.seed])
        made.put(tmp_path / "results", made.quality(cell.request, fid=fid), "smoke")
    (group,) = groups_of(study, tmp_path / "results")
    ranks = {standing.line.label: standing.rank for standing in group.standings}
    assert ranks == {"near": 1, "nearer": 1, "far": 3}
    assert (group.source, group.guided) == ("smoke", False)


def test_a_score_of_which_more_is_better_ranks_where_the_protocol_says_so(tmp_path):
    smoke = (Path(protocols.__file__).parent / "smoke.toml").read_text()
    (tmp_path / "by-is.toml").write_text(f'{smoke}\n[evaluation]\njudged_by = ["inception_score"]\n')
    (tmp_path / "three.toml").write_text(f'protocol = "by-is"{STUDY}')
    study = bench.studies.load(str(tmp_path / "three.toml"))
    found = {"near": (10, 12, 11), "nearer": (11, 10, 12), "far": (90, 91, 92)}
    for cell in cells(study, protocols.load("by-is", tmp_path), (0, 1, 2)):
        score = float(found[cell.row.label][cell.seed])
        made.put(tmp_path / "results", made.quality(cell.request, inception_score=score), "by-is")
    rows = lines(study, Selection(tmp_path / "results"))
    (group,) = leaderboard.groups({study.name: rows})
    assert [(each.line.label, each.rank) for each in group.standings] == [
        ("far", 1), ("near", 2), ("nearer", 2),
    ]  # fmt: skip
    (text,) = findings(rows, group.setting)
    assert text.endswith(
        "are significant with 3 seeds: 2 of 3 pairs. "
        "far (91.00) has the highest IS, significantly better than all other rows."
    )


def test_one_seed_gives_no_rank(tmp_path):
    (tmp_path / "three.toml").write_text(STUDY)
    study = bench.studies.load(str(tmp_path / "three.toml"))
    for i, cell in enumerate(cells(study, protocols.load("smoke"), (0,))):
        made.put(tmp_path / "results", made.quality(cell.request, fid=10.0 + i), "smoke")
    (group,) = groups_of(study, tmp_path / "results")
    assert [standing.rank for standing in group.standings] == [None, None, None]
    assert [standing.line.label for standing in group.standings] == ["near", "nearer", "far"]


def test_published_groups_hold_each_figure_of_the_tables_once_in_the_order_of_its_fid():
    found = {
        name: lines(bench.studies.load(name), Selection(ROOT / "results")) for name in bench.studies.names()
    }
    groups = [group for group in leaderboard.groups(found) if group.source == "published"]
    printed = set()
    for file in ("published.csv", "leaderboard.csv", "dico.csv"):
        with importlib.resources.files("bench.studies.published").joinpath(file).open() as text:
            for row in csv.DictReader(text):
                if row["fid"]:
                    flow = row.get("objective") == "flow"
                    conditions = (flow, float(row["cfg_scale"]), int(row["training_steps"]))
                    printed.add((conditions, float(row["fid"])))
    shown = {}
    for group in groups:
        rows = [standing.line.row.published for standing in group.standings]
        (conditions,) = {
            (row.objective == "flow", float(row.printed["cfg_scale"]), int(row.printed["training_steps"]))
            for row in rows
        }
        fids = [float(row.printed["fid"]) for row in rows]
        assert conditions not in shown and fids == sorted(fids)
        assert [standing.rank for standing in group.standings] == [1 + fids.index(fid) for fid in fids]
        shown[conditions] = fids
    assert {(conditions, fid) for conditions, fids in shown.items() for fid in fids} == printed


def test_a_measured_network_stands_once_beside_its_own_cost_as_trained():
    """Under `micro` a network is a hundred times smaller than the published one of its row."""
    found = {
        name: lines(bench.studies.load(name), Selection(ROOT / "results")) for name in bench.studies.names()
    }
    groups = leaderboard.groups(found)
    rows = {row["from"].removeprefix("record "): row for row in board.board(groups, set()).rows}
    for group, table in zip(groups, leaderboard.tables(groups), strict=True):
        if group.setting is None:
            continue
        titles = [column.title for column in table.columns]
        files = [standing.line.files(group.setting)[0] for standing in group.standings]
        assert len(set(files)) == len(files)
        for file, row in zip(files, table.rows, strict=True):
            point = rows[file]
            network = json.loads((ROOT / "results" / file).read_text())["result"]["network"]
            cells = dict(zip(titles, row, strict=True))
            assert float(cells["GFLOPs"].text) == pytest.approx(network["paper_gflops"], rel=0.05)
            assert float(cells["Params (M)"].text) == pytest.approx(network["parameters"] / 1e6, abs=0.005)
            assert cells["GFLOPs"].records[0] == file
            assert cells["Memory (MiB)"].text == cells["Images/s"].text == ""  # of the published size alone
            assert point["gflops"] == pytest.approx(network["paper_gflops"], rel=1e-5)
            assert point["params"] == pytest.approx(network["parameters"] / 1e6, rel=1e-5)


def test_guided_and_plain_samples_never_share_a_group():
    study = bench.studies.load("guidance")
    measured = [group for group in groups_of(study, ROOT / "results") if group.setting]
    assert {group.setting.cfg_scale for group in measured} == {1.0, 1.5, 3.0}
    assert all(group.guided == (group.setting.cfg_scale != 1) for group in measured)


def test_objective_is_told_in_words(tmp_path):
    (tmp_path / "one.toml").write_text('title = "t"\n[[rows]]\nlabel = "sit"\nbackbone = "sit-s-2"\n')
    study = bench.studies.load(str(tmp_path / "one.toml"))
    (cell,) = cells(study, protocols.load("smoke"), (0,))
    assert isinstance(cell.request, QualityRequest) and isinstance(cell.request.training, TrainingSettings)
    made.put(tmp_path / "results", made.quality(cell.request), "smoke")
    (line,) = lines(study, Selection(tmp_path / "results"))
    assert leaderboard.objective(line) == "flow"
