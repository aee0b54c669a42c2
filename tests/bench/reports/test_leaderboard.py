"""The leaderboard: groups whose scores compare, and ranks that say no more than seeds do."""

import csv
import importlib.resources
import json
import re
from collections import Counter
from pathlib import Path

import pytest

import bench.studies
from bench.reports import board, leaderboard
from bench.reports.findings import findings
from bench.reports.links import record_page
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
    return leaderboard.groups([(study, lines(study, Selection(folder)))])


def test_rows_that_seeds_cannot_tell_apart_share_a_rank(tmp_path):
    (tmp_path / "three.toml").write_text(STUDY)
    study = bench.studies.load(str(tmp_path / "three.toml"))
    fids = {"near": (10, 12, 11), "nearer": (11, 10, 12), "far": (90, 91, 92)}
    for cell in cells(study, protocols.load("smoke"), (0, 1, 2)):
        fid = float(fids[cell.row.label][cell.seed])
        made.put(tmp_path / "results", made.quality(cell.request, fid=fid), "smoke")
    (group,) = groups_of(study, tmp_path / "results")
    ranks = {standing.line.row.label: standing.rank for standing in group.standings}
    assert ranks == {"near": 1, "nearer": 1, "far": 3}
    assert (group.setting.protocol, group.setting.cfg_scale) == ("smoke", 1)


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
    (group,) = leaderboard.groups([(study, rows)])
    assert [(each.line.row.label, each.rank) for each in group.standings] == [
        ("far", 1), ("near", 2), ("nearer", 2),
    ]  # fmt: skip
    (text,) = findings(rows, group.setting)
    assert text.endswith(
        "are significant over the 3 seeds that all rows have: 2 of 3 pairs. "
        "far (91.00) has the highest IS, significantly better than all other rows."
    )


def test_one_seed_gives_no_rank(tmp_path):
    (tmp_path / "three.toml").write_text(STUDY)
    study = bench.studies.load(str(tmp_path / "three.toml"))
    for i, cell in enumerate(cells(study, protocols.load("smoke"), (0,))):
        made.put(tmp_path / "results", made.quality(cell.request, fid=10.0 + i), "smoke")
    (group,) = groups_of(study, tmp_path / "results")
    assert [standing.rank for standing in group.standings] == [None, None, None]
    assert [standing.line.row.label for standing in group.standings] == ["near", "nearer", "far"]


def test_networks_of_another_training_are_ranked_among_themselves(tmp_path):
    """Steps of `smoke`: 8. Fewer are left out; more, or another rate, make a group."""
    trainings = {"first": "steps = 12", "second": "learning_rate = 1e-2, steps = 8", "third": "steps = 4"}
    found = []
    for name, training in trainings.items():
        (tmp_path / f"{name}.toml").write_text(f"training = {{ {training} }}\n{STUDY}")
        found.append(bench.studies.load(tmp_path / f"{name}.toml"))
    (tmp_path / "plain.toml").write_text(STUDY)
    found.append(bench.studies.load(tmp_path / "plain.toml"))
    for study in found:
        for cell in cells(study, protocols.load("smoke"), (0, 1)):
            made.put(tmp_path / "results", made.quality(cell.request), "smoke")
    selection = Selection(tmp_path / "results")
    groups = leaderboard.groups((study, lines(study, selection)) for study in found)
    start = "Measured here: smoke, extractor digits"
    assert {group.title: {each.study for each in group.standings} for group in groups} == {
        start: {"plain"},
        f"{start}, trained with steps 12": {"first"},
        f"{start}, trained with learning rate 0.01": {"second"},
    }
    assert [len(group.standings) for group in groups] == [3, 3, 3]


def test_a_network_of_another_objective_than_ddpm_is_trained_as_the_protocol_says():
    groups = groups_of(bench.studies.load("backbones"), ROOT / "results")
    shown = {standing.line.row.label for group in groups for standing in group.standings}
    assert shown >= {row.label for row in bench.studies.load("backbones").rows if row.training}
    assert not any("trained with" in group.title for group in groups)


def test_the_board_holds_each_figure_of_the_tables_once_under_its_conditions():
    rows = board.board(Selection(ROOT / "results")).rows
    shown = Counter((row["group"], row["fid"]) for row in rows)
    scales = {(row["group"], row["fid"]): row["cfg_scale"] for row in rows}
    printed = 0
    for file in ("published.csv", "leaderboard.csv", "dico.csv"):
        with importlib.resources.files("bench.studies.published").joinpath(file).open() as text:
            for row in csv.DictReader(text):
                flow, scale = row.get("objective") == "flow", float(row["cfg_scale"])
                images = int(row["training_steps"]) * int(row.get("batch_size") or 256) / 1e6
                group = f"256² SD latents, {images:.0f}M images, {'flow' if flow else 'noise prediction'}, "
                group += f"{'no guidance' if scale == 1 else 'guided'}, "
                place = f"{group}{'SDE' if flow else 'ancestral'} sampler", float(row["fid"])
                assert shown[place] == 1 and float(scales[place]) == scale, place
                printed += 1
    assert printed == 41 + 22 + 15


@pytest.mark.slow
def test_a_measured_network_stands_once_beside_its_own_cost_as_trained():
    """Under `micro` a network is a hundred times smaller than the published one of its row."""
    studies = map(bench.studies.load, bench.studies.names())
    found = [(study, lines(study, Selection(ROOT / "results"))) for study in studies]
    groups = leaderboard.groups(found)
    made_board = board.board(Selection(ROOT / "results"), groups)
    rows = {row["from"].removeprefix("record "): row for row in made_board.rows}
    assert groups
    for group in groups:
        files = [standing.line.files(group.setting)[0] for standing in group.standings]
        assert len(set(files)) == len(files)
        for file in files:
            point = rows[file]
            network = json.loads((ROOT / "results" / file).read_text())["result"]["network"]
            assert point["page"] == record_page(file)
            assert "speed" not in point  # of the published size alone
            assert point["gflops"] == pytest.approx(network["paper_gflops"], rel=1e-5)
            assert point["params"] == pytest.approx(network["parameters"] / 1e6, rel=1e-5)


def test_guided_and_plain_samples_never_share_a_group():
    study, selection = bench.studies.load("guidance"), Selection(ROOT / "results")
    measured = groups_of(study, ROOT / "results")
    assert {group.setting.cfg_scale for group in measured} == {1.0, 1.5, 3.0}
    rows = [row for row in board.board(selection, measured).rows if row["kind"] == board.HERE]
    assert {(row["group"], row["cfg_scale"]) for row in rows} == {
        (group.title, f"{group.setting.cfg_scale:g}") for group in measured
    }
    assert {(row["cfg_scale"], row["guidance"]) for row in rows} == {
        ("1", "no guidance"), ("1.5", "guided"), ("3", "guided"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ("backbone = 'sit-s-2'", "flow"),
        ("backbone = 'edm2-xs'", "EDM"),
        ("backbone = 'hdit-mnist'", "EDM"),
        ("backbone = 'dit-s-4'\ntraining = { objective = 'flow times=logit-normal' }", "flow"),
        ("backbone = 'dit-s-4'\ntraining = { prediction_type = 'v_prediction' }", "v-prediction"),
        ("published = 'leaderboard/SiT-S/2'\ntraining = { objective = 'ddpm' }", "noise prediction"),
    ],
)
def test_the_board_tells_what_a_network_was_trained_for_here(tmp_path, network, told):
    (tmp_path / "one.toml").write_text(f'title = "t"\n[[rows]]\nlabel = "one"\n{network}\n')
    study, results = bench.studies.load(str(tmp_path / "one.toml")), tmp_path / "results"
    (cell,) = cells(study, protocols.load("smoke"), (0,))
    made.put(results, made.quality(cell.request), "smoke")
    rows = board.board(Selection(results), groups_of(study, results)).rows
    assert [row["objective"] for row in rows if row["kind"] == board.HERE] == [told]


def test_a_score_has_one_unit_under_its_name_and_another_under_its_heading(tmp_path):
    (tmp_path / "three.toml").write_text(STUDY)
    study = bench.studies.load(str(tmp_path / "three.toml"))
    for cell in cells(study, protocols.load("smoke"), (0, 1)):
        found = made.quality(cell.request, kid=(1 + cell.seed) * 1e-3, kd_dinov2=2.5)
        made.put(tmp_path / "results", found, "smoke")
    shown = board.board(Selection(tmp_path / "results"), groups_of(study, tmp_path / "results"))
    (row, *_) = [row for row in shown.rows if row["kind"] == board.HERE]
    assert (row["kid"], row["texts"]["kid"], row["kd_dinov2"]) == (1.5, "1.50 ± 0.71", 2500)
    heads = {head.name: head.title for head in board.heads()}
    assert heads["kid"] == "KID·10³↓" and heads["kd_dinov2"] == "KD-DINOv2·10³↓"
    (told, *_) = [each for each in csv.DictReader(shown.csv().splitlines()) if each["kind"] == board.HERE]
    assert (told["kid"], told["kd_dinov2"], told["fid"]) == ("0.0015", "2.5", "20")


def test_sources_are_valid_bibtex():
    texts = ["issue a/b#5: {50% of} x_1", "c & d"]
    (note,) = re.findall("note = {(.*)}\n", board.Board([], [], {"https://a.example/b": texts}).bibtex())
    assert note == r"issue a/b\#5: 50\% of x\_1; c \& d"
