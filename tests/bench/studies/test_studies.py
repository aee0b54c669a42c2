"""Studies: what a file says, what follows from it, and mistakes told in one line; nothing is trained here."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import bench.data
import bench.diffusion
import registry
from bench import records, studies
from bench.cli import app
from bench.data import digits
from bench.diffusion.ddpm import DDPM
from bench.diffusion.ddpm_samplers import DDIM
from bench.metrics.scores import SCORES
from bench.records.schema import HeldOutSettings, Quality, QualityRequest, Seconds, short_digest
from bench.reports.select import Selection, lines
from bench.reports.tables import not_shown
from bench.sampling import plan
from bench.studies import plan as planning
from bench.studies import published
from bench.studies.cells import (
    FROM_DATA,
    Cell,
    by_run,
    cells,
    cost_request,
    expected_seconds,
    known,
    missing,
    missing_costs,
    shard,
)
from bench.studies.staleness import fingerprints, outdated, stale, stale_records
from bench.training import loop, protocols
from registry.errors import CodeError, UsageError
from tests.bench import made
from tests.bench.place import PROTOCOL
from tests.conftest import ROOT

ROW = '[[rows]]\nlabel = "a"\nbackbone = "udit-t"\n'
# Two networks, each at three checkpoints of its run.
STEPS = "".join(
    f'[[rows]]\nlabel = "{model} {step}"\nbackbone = "{model}"\nstep = {step}\n'
    for model in ("dit-s-4", "udit-t")
    for step in (400, 800, 1200)
)
TABLES = {"toy": 1, "scaling": 2, "guidance": 3, "training-steps": 4, "downsampler": 5, "components": 6}
MICRO = protocols.load("micro")


def written(folder: Path, text: str) -> Path:
    path = folder / "own.toml"
    path.write_text(f'title = "t"\n{text}')
    return path


# ---- what is built in ----


@pytest.mark.parametrize(("name", "table"), TABLES.items())
def test_a_study_of_a_table_has_all_its_rows_in_order(name: str, table: int) -> None:
    rows = [row for row in studies.load(name).rows if not row.extra]
    assert [row.published for row in rows] == published.rows(table)
    assert [(row.model, row.overrides) for row in rows] == [
        (row.model, row.overrides) for row in published.rows(table)
    ]
    for row in rows:
        assert row.published is not None
        assert str(row.cfg_scale or 1.0) == row.published.printed["cfg_scale"]
        if table == 4:
            assert str(row.step) == row.published.printed["training_steps"]


def test_small_protocols_leave_out_what_does_not_fit_a_cpu() -> None:
    assert not cells(studies.load("scaling"), MICRO, [0])
    for name in ("guidance", "training-steps"):
        found = cells(studies.load(name), MICRO, [0])
        assert len(found) == 6 and all(cell.row.extra for cell in found)
        assert {cell.row.model for cell in found} == {"dit-s-4", "udit-t"}
    steps = [cell.step for cell in cells(studies.load("training-steps"), MICRO, [0])]
    assert steps[:3] == steps[3:] == sorted(set(steps)) and steps[2] == MICRO.training.steps


@pytest.mark.parametrize(("scaled", "grid"), [(False, None), (True, 8)])
@pytest.mark.slow
def test_the_families_cost_about_alike(scaled: bool, grid: int | None) -> None:
    from bench.cost import measure

    costs = []
    for cell in cells(studies.load("backbones"), MICRO, [0]):
        options = registry.backbones.options(cell.row.model)
        fit = {"input_size": grid, "in_channels": 4, "num_classes": 10} if grid else {}
        overrides = cell.overrides if scaled else cell.row.overrides
        fit = {k: v for k, v in fit.items() if k in options}
        costs.append(measure(cell.row.model, **fit | overrides).macs)
    assert max(costs) < 1.35 * min(costs)


def test_names_are_in_the_order_of_the_tables() -> None:
    assert studies.names() == [*TABLES, "backbones", "dico-components", "leaderboard"]


def test_the_leaderboard_has_its_figures_as_printed() -> None:
    rows = published.rows("leaderboard")
    assert len(rows) == 22 and {row.printed["cfg_scale"] for row in rows} == {"1.0"}
    # What the title says of all of them.
    assert {(row.printed["training_steps"], row.printed["batch_size"]) for row in rows} == {("400000", "256")}
    found = {row.label: row for row in rows}
    printed = {
        "DiC-S": ("dic-s", "ddpm", "5.9", "58.68", "25.82"),
        "DiCo-XL": ("dico-xl", "ddpm", "87.30", "11.67", "100.42"),
        "DiG-B/2": (None, "ddpm", "17.07", "39.50", "37.21"),
        "SiT-L/2": ("sit-l-2", "flow", "80.71", "18.8", ""),
    }
    for label, figures in printed.items():
        row = found[label]
        texts = [row.printed[name] for name in ("gflops", "fid", "inception_score")]
        assert (row.model, row.objective, *texts) == figures
    for row in published.rows(2):
        if row.label in found:  # also printed there
            assert all(found[row.label].printed[name] == row.printed[name] for name in ("gflops", "fid"))
    trained_for = {row.label: protocols.objective_of(row.model) for row in rows if row.model}
    assert trained_for == {row.label: row.objective for row in rows if row.model}
    assert "ancestral" in found["DiC-S"].sampler and "SDE" in found["SiT-L/2"].sampler


def test_the_leaderboard_measures_four_networks_under_small_protocols_and_none_that_is_not_here() -> None:
    study = studies.load("leaderboard")
    assert [row.published for row in study.rows] == published.rows("leaderboard")
    bare = {row.label for row in study.rows if row.model is None}
    assert bare == {f"DiG-{size}/2" for size in ("S", "B", "L", "XL")}
    for name in ("proxy-fashion", "proxy-cifar", "proxy-cifar-32"):
        found = cells(study, protocols.load(name), [0])
        assert [cell.row.label for cell in found] == ["DiT-S/2", "U-DiT-S", "DiC-S", "DiCo-S"]
    assert not cells(study, MICRO, [0])
    whole = cells(study, protocols.load("paper"), [0])
    assert {cell.row.label for cell in whole} == {row.label for row in study.rows} - bare
    samplers = {cell.request.training.objective: cell.request.sampling.sampler for cell in whole}
    assert samplers == {"ddpm": "ancestral", "flow": "euler-maruyama"}
    assert missing_costs(study, {}).keys() == {row.label for row in study.rows} - bare


def test_the_components_of_dico_have_their_figures_as_printed() -> None:
    study = studies.load("dico-components")
    assert [row.published for row in study.rows] == published.rows("dico")
    found = {row.label: row.published.printed for row in study.rows if row.published}
    names = ("params", "gflops", "fid", "inception_score", "precision", "recall")
    printed = {
        "DiT (iso.)": ("32.9", "6.06", "67.16", "20.41", "0.37", "0.57"),
        "3×3→7×7 DWC": ("33.4", "4.34", "47.49", "32.93", "0.49", "0.59"),
        "CM→Agent Attn": ("33.3", "4.24", "52.07", "28.82", "0.43", "0.60"),
    }
    for label, figures in printed.items():
        assert tuple(found[label][name] for name in names) == figures
    leaders = {row.label: row.printed for row in published.rows("leaderboard")}
    for name in ("gflops", "fid", "inception_score"):  # also printed there
        assert found["DiCo-S"][name] == leaders["DiCo-S"][name]
    bare = {row.label for row in study.rows if row.model is None}
    assert bare == {"DiCo (iso.)", "DiCo (iso.&skip)"}
    measured = [cell.row.label for cell in cells(study, protocols.load(study.protocol), [0])]
    assert measured == [row.label for row in study.rows if row.label not in bare]


# ---- what follows from a file ----


def test_cells_go_seed_by_seed_and_share_training_where_nothing_trains_otherwise(tmp_path: Path) -> None:
    more = ROW.replace('"a"', '"b"') + "step = 500\ncfg_scale = 2.0\n"
    other = ROW.replace('"a"', '"c"') + "training = { ema_decay = 0.5 }\nsampling = { sampler = 'ddim' }\n"
    made_of = studies.load(written(tmp_path, ROW + more + other))
    found = cells(made_of, MICRO, [3, 4])
    assert [cell.title for cell in found] == [f"{row}, seed {seed}" for seed in (3, 4) for row in "abc"]
    a, b, c = found[:3]
    assert a.run == b.run != c.run and a.run != found[3].run
    assert len({cell.file for cell in found}) == 6
    assert b.request.sampling.cfg_scale == 2.0 and b.request.step == 500
    assert a.request.step == MICRO.training.steps and a.request.training.objective == "ddpm"
    assert c.request.training.ema_decay == 0.5 and c.request.sampling.sampler == "ddim"
    config = registry.canonical("udit-t", MICRO.overrides("udit-t"))
    assert a.request.config == {key: value for key, value in config.items() if key not in FROM_DATA}
    assert by_run(found) == [[b, a], [c], [found[4], found[3]], [found[5]]]


def test_a_row_says_what_it_is_for_or_else_the_study_does(tmp_path: Path) -> None:
    own = ROW.replace('"a"', '"b"') + 'protocols = ["paper"]\n'
    study = studies.load(written(tmp_path, 'protocols = ["micro", "mini"]\n' + ROW + own))
    rows = {
        name: [cell.row.label for cell in cells(study, protocols.load(name), [0])]
        for name in ("micro", "mini", "paper", "smoke")
    }
    assert rows == {"micro": ["a"], "mini": ["a"], "paper": ["b"], "smoke": []}


def test_a_network_is_trained_as_it_declares() -> None:
    objectives = {
        c.row.model: c.request.training.objective for c in cells(studies.load("backbones"), MICRO, [0])
    }
    assert objectives == {model: registry.declared(model, "objective") for model in objectives}
    assert objectives["sit-s-2"] == "flow" and set(objectives.values()) == {"edm", "flow", "ddpm"}


def test_a_request_knows_neither_the_study_nor_how_it_is_written(tmp_path: Path) -> None:
    row = (
        ROW.replace("udit-t", "U-DiT-T")
        + """overrides = { cosine = false, rope = false, ffn = "mlp",
    class_dropout_prob = 0.1, mlp_ratio = 4 }"""
    )
    mine = cells(studies.load(written(tmp_path, row.replace("\n    ", " "))), MICRO, [0])[0]
    theirs = cells(studies.load("downsampler"), MICRO, [0])[2]
    assert mine.file == theirs.file and mine.run == theirs.run
    assert QualityRequest.model_validate_json(mine.request.model_dump_json()).file == mine.file
    assert cost_request(mine.row).file == cost_request(theirs.row).file


def test_logging_and_checkpoints_change_no_request() -> None:
    row = studies.load("toy").rows[0]

    def cell(**training: object) -> Cell:
        return Cell(row, MICRO.model_copy(update={"training": MICRO.training.model_copy(update=training)}), 0)

    assert cell(log_every=1, keep=9).file == cell().file
    # A longer run of a constant rate goes on from a shorter one, not so where the rate falls to the end.
    for schedule, shared in (("constant", True), ("linear", False)):
        short, longer = (cell(learning_rate_schedule=schedule, steps=steps) for steps in (1200, 3000))
        assert longer.file != short.file and (longer.run == short.run) is shared


def test_time_is_expected_from_the_same_network_first(tmp_path: Path) -> None:
    found = cells(studies.load(written(tmp_path, STEPS)), MICRO, [0, 1])
    assert set(expected_seconds(found, {}).values()) == {None}

    def put(cell: Cell, train: float) -> None:
        seconds = Seconds(train=train, sample=3.0, eval=2.0)
        made.put(tmp_path, made.quality(cell.request).model_copy(update={"seconds": seconds}), "micro")

    put(found[2], 1.0 * found[2].step)  # 1 second a step of DiT
    first, second = found[3].step, found[4].step
    other = expected_seconds(found[3:5], known(tmp_path))
    # Of another network; the second goes on from the first.
    assert list(other.values()) == [first + 5, second - first + 5]
    asked = []

    def macs(cell: Cell) -> int:
        """Three times those of the network that is known."""
        asked.append(cell.row.label)
        return 30

    larger = expected_seconds(found[2:5], known(tmp_path), macs)
    assert list(larger.values()) == [found[2].step + 5, 3 * (first + 3) + 2, 3 * (second - first + 3) + 2]
    assert asked == [found[3].row.label]  # once, and not for the network that is known
    put(found[5], 2.0 * found[5].step)  # and 2 of U-DiT
    both = expected_seconds(found[:1] + found[3:4], known(tmp_path))
    assert list(both.values()) == [first + 5, 2 * first + 5]
    # Grids of another size take another time.
    other = MICRO.data_options | {"grid": "pixels"}
    larger = replace(found[3], protocol=MICRO.model_copy(update={"data_options": other}))
    assert list(expected_seconds([larger], known(tmp_path)).values()) == [None]


def test_a_cell_s_size_is_that_which_its_record_tells() -> None:
    from bench.studies.checking import Checker

    cell = cells(studies.load("components"), MICRO, [0])[0]
    result = known(ROOT / "results")[cell.file].result
    assert isinstance(result, Quality) and Checker({}).macs(cell) == result.network.macs > 0


@pytest.mark.parametrize("parts", [1, 2, 3, 100])
def test_machines_share_the_cells_evenly_and_no_training_run(parts: int) -> None:
    found = cells(studies.load("guidance"), MICRO, [0, 1, 2])
    dealt = [shard(found, part, parts) for part in range(1, parts + 1)]
    assert sorted(cell.file for each in dealt for cell in each) == sorted(cell.file for cell in found)
    runs = [{cell.run for cell in each} for each in dealt]
    assert len(set.union(*runs)) == sum(map(len, runs)) == 6  # rows of other guidance share one
    assert max(map(len, runs)) - min(map(len, runs)) <= 1
    assert dealt[0] == shard(list(reversed(found)), 1, parts)[::-1]


# ---- what is missing ----


@pytest.mark.parametrize("name", [*TABLES, "backbones"])
def test_committed_records_leave_nothing_of_a_built_in_study_to_measure(name: str) -> None:
    study, records = studies.load(name), known(ROOT / "results")
    found = cells(study, protocols.load(study.protocol), study.seeds)
    assert not missing(found, records) and not missing_costs(study, records)
    assert not stale_records(records, found, study, {})


def test_committed_records_have_the_cost_of_every_network_of_the_leaderboard() -> None:
    study, records = studies.load("leaderboard"), known(ROOT / "results")
    assert not missing_costs(study, records)
    assert not stale_records(records, [], study, {})


def test_records_are_found_and_damaged_ones_named(tmp_path: Path) -> None:
    study = studies.load("downsampler")
    found = cells(study, MICRO, [0])
    assert missing(found + found, known(tmp_path / "none")) == found
    made.put(tmp_path, made.quality(found[1].request), "micro")
    damaged = made.put(tmp_path, made.quality(found[2].request), "micro")
    damaged.write_text(damaged.read_text()[:-30])
    with pytest.warns(UserWarning, match=damaged.name):
        assert missing(found, known(tmp_path)) == [found[0], found[2]]
    damaged.unlink()
    made.put(tmp_path, made.cost(cost_request(study.rows[0])))
    assert list(missing_costs(study, known(tmp_path))) == [row.label for row in study.rows[1:]]


def test_no_two_groups_of_jobs_share_a_training_run(tmp_path: Path) -> None:
    study = studies.load(written(tmp_path, STEPS))
    found = cells(study, MICRO, [0, 1])
    costs = missing_costs(study, {})
    groups = made.groups(found, costs, results=tmp_path, work=tmp_path)
    assert len({group.run for group in groups}) == len(groups)
    first, *lists = [[job.model_dump() for job in group.jobs] for group in groups]
    assert len(first) == len(costs) and all(job["request"]["kind"] == "cost" for job in first)
    runs = [{task["run"] for task in tasks} for tasks in lists]
    assert all(len(one) == 1 for one in runs) and len(set.union(*runs)) == len(runs) == 4
    assert [[task["last"] for task in tasks] for tasks in lists] == [[False, False, True]] * 4
    assert not any(task["fresh"] for tasks in lists for task in tasks)


def test_a_plan_says_what_is_known_and_what_is_missing(tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(ROOT / "results", results)

    def counts(**options: Any) -> tuple[int, int, int]:
        made = planning.plan("downsampler", results=results, work=tmp_path, **options)
        return len(made.reused), len(made.todo), len(made.costs)

    row = studies.load("downsampler").rows[0].label
    assert counts() == (9, 0, 0) and counts(seeds=[0, 7]) == (3, 3, 0)
    assert counts(force=True) == (0, 9, 3) and counts(force=True, only=[row]) == (0, 3, 1)
    parts = [counts(force=True, shard=f"{part}/2") for part in (1, 2)]
    assert [sum(each) for each in zip(*parts, strict=True)] == [0, 9, 3] and parts[1][2] == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "stale_records", lambda there, *_: dict.fromkeys(there, "another"))
        assert counts() == (0, 9, 3) and counts(stale="accept") == (9, 0, 0)
    made = planning.plan("downsampler", results=results, work=tmp_path)
    kept = {cell.file for cell in made.cells} | {cost_request(row).file for row in made.study.rows}
    assert made.records.keys() == kept  # and no other record was read
    assert made.groups() == [] and made.seconds == {}
    with pytest.raises(UsageError, match=r"seeds = \[-1\]: each is 0 or more"):
        counts(seeds=[-1])
    with pytest.raises(UsageError, match="such as 3/16, not '3/2'"):
        counts(shard="3/2")
    with pytest.raises(UsageError, match="leave out either --add-score or --force"):
        counts(force=True, add_scores="kid")
    newer = results / made.cells[0].file
    table = json.loads(newer.read_text("utf-8")) | {"weather": "rain"}
    del table["digest"]
    newer.write_text(json.dumps(table | {"digest": short_digest(table)}))
    with pytest.raises(records.NewerRecordError, match="weather"):  # and is not measured again
        counts()


def test_a_record_has_the_scores_of_its_protocol_and_keeps_those_of_another(tmp_path: Path) -> None:
    """A column that no protocol computes asks for nothing; scores of another protocol are computed again."""
    few = PROTOCOL.replace("[evaluation]", '[evaluation]\nscores = ["fid", "kid"]')
    (tmp_path / "few.toml").write_text(few)
    (tmp_path / "other.toml").write_text(few.replace('"fid", "kid"', '"fid", "density"'))
    study = written(tmp_path, 'columns = ["fid", "sfid", "coverage"]\n' + ROW)
    (cell,) = cells(studies.load(study), protocols.load(tmp_path / "few.toml"), [0])
    measured = made.quality(cell.request, fid=1.0, kid=2.0)
    made.put(tmp_path / "r", measured, "few")

    def todo(protocol: str) -> list[Cell]:
        return planning.plan(
            study, protocol=tmp_path / protocol, seeds=[0], results=tmp_path / "r", stale="accept"
        ).todo

    assert todo("few.toml") == []
    (again,) = todo("other.toml")
    assert again.file == cell.file and set(again.protocol.evaluation.scores) == {"density", *measured.scores}


def test_records_are_found_under_the_new_name_of_their_protocol(tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_text(PROTOCOL)
    study = studies.load(written(tmp_path, 'protocol = "new.toml"\n' + ROW))
    (cell,) = cells(study, protocols.load(tmp_path / "old.toml"), [3])
    (tmp_path / "old.toml").rename(tmp_path / "new.toml")
    made.put(tmp_path / "r", made.quality(cell.request, fid=1.0), "old")
    selection = Selection(tmp_path / "r")
    assert [row.quality.keys() for row in lines(study, selection)] != [set()]
    assert not_shown(study, selection) == ""


def test_scores_that_are_added_take_no_time_for_training(tmp_path: Path) -> None:
    (cell,) = cells(studies.load("toy"), MICRO, [0])[:1]
    made.put(tmp_path, made.quality(cell.request), "micro")
    (tmp_path / "runs" / cell.run / "checkpoints" / f"{cell.step:08d}").mkdir(parents=True)
    added = planning.plan(
        "toy", seeds=[0], only=cell.row.label, add_scores="fd_efficientnet", results=tmp_path,
        work=tmp_path / "runs", stale="accept",
    )  # fmt: skip
    assert added.seconds == {cell.file: 5.0}  # 3 for sampling, 2 for scores


# ---- whether it is of this code and data ----


def test_a_record_of_other_code_or_data_is_stale(tmp_path: Path) -> None:
    study = studies.load("downsampler")
    cell = cells(study, MICRO, [0])[0]
    present = fingerprints(cell.request, {})
    assert present.code == registry.backbones.fingerprint("udit-t")

    def reason(**changed: Any) -> dict[str, str]:
        fingerprint = present.model_copy(update=changed)
        made.put(tmp_path, made.quality(cell.request), "micro", fingerprint)
        return stale_records(known(tmp_path), [cell], study, {})

    assert reason() == {}
    assert "backbone" in reason(code="0" * 12)[cell.file]
    assert "dataset" in reason(reader="0" * 12)[cell.file]
    assert "extractor" in reason(scorer="0" * 12)[cell.file]
    assert "score fid" in reason(versions=present.versions | {"score fid": 0})[cell.file]
    assert "objective ddpm" in reason(versions=present.versions | {"objective ddpm": "0" * 12})[cell.file]
    assert reason(versions={}) == {}  # a record from before there were versions
    assert reason(code=None) == {}  # a record from before there were fingerprints


def test_what_is_not_known_on_both_sides_makes_no_record_stale(tmp_path: Path) -> None:
    made.put(tmp_path, made.quality())
    (record,) = known(tmp_path).values()
    assert stale(record, record.fingerprints.model_copy(update={"code": "1" * 12})) is None
    assert stale(record, record.fingerprints.model_copy(update={"data": None})) is None
    assert stale(record, record.fingerprints.model_copy(update={"data": "d2"})) is not None


def test_each_piece_of_code_that_makes_a_number_has_its_version(plugins: None) -> None:
    @bench.diffusion.samplers.register("my-ddim")
    class MyDDIM(DDIM):
        """DDIM by another name."""

    request = made.QUALITY_REQUEST
    versions = fingerprints(request).versions
    scores = {f"score {score.name}": score.version for score in SCORES.values() if score.recorded}
    assert versions == {
        "trainer": loop.VERSION,
        "dataset digits": digits.VERSION,
        "objective ddpm": DDPM.version,
        "sampling": plan.VERSION,
        "sampler ddim": DDIM.version,
        **scores,
    }
    sampling = request.sampling.model_copy(update={"sampler": "my-ddim"})
    own = fingerprints(request.model_copy(update={"sampling": sampling})).versions
    assert own["sampler my-ddim"] == bench.diffusion.samplers.fingerprint("my-ddim")
    held_out = request.model_copy(update={"sampling": None, "held_out": HeldOutSettings(images=64)})
    assert fingerprints(held_out).versions.keys() == {
        "trainer",
        "dataset digits",
        "objective ddpm",
        "held_out",
    }

    @bench.data.register("my-digits")
    def my_digits() -> bench.data.MemoryDataset:
        """Digits by another name."""
        return digits.digits()

    own = fingerprints(request.model_copy(update={"data": "my-digits"})).versions
    assert own["dataset my-digits"] == bench.data.datasets.fingerprint("my-digits")


def test_a_record_is_stale_by_any_of_its_scores(tmp_path: Path) -> None:
    older = made.FINGERPRINTS.model_copy(update={"versions": {"score fd_efficientnet": 99}})
    record = records.read_file(made.put(tmp_path, made.quality(), fingerprints=older))
    assert outdated(record) == "the harness's own code of score fd_efficientnet has changed"


def test_a_record_is_stale_where_the_held_out_images_are_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(40):
        place = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(place)
    own = {"size": 8, "holdout": 0.5, "split": "train"}
    request = QualityRequest.model_validate(
        made.QUALITY_REQUEST.model_dump()
        | {"data": "folder", "data_options": own, "sampling": None, "held_out": {"images": 64}}
    )
    where = {"root": tmp_path / "photos"}
    before = fingerprints(request, where)
    held_out = bench.data.load("folder", **own | {"split": "test"}, **where)
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / os.fsdecode(held_out._files[0]))
    after = fingerprints(request, where)
    assert after.data == before.data
    record = records.read_file(made.put(tmp_path, made.quality(request), fingerprints=before))
    assert stale(record, before) is None
    assert stale(record, after) == "the held-out images have changed"


def test_a_cost_is_stale_where_its_network_is_another(tmp_path: Path) -> None:
    study = studies.load("downsampler")
    request = cost_request(study.rows[0])
    fingerprint = fingerprints(request).model_copy(update={"code": "0" * 12})
    made.put(tmp_path, made.cost(request), fingerprints=fingerprint)
    assert list(stale_records(known(tmp_path), [], study, {})) == [request.file]


# ---- mistakes ----


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"own.toml: it has no rows"),
        ("rows = 3", r"rows = 3"),
        ("= 3", r"no valid TOML: .*line 2"),
        ("colums = []\n" + ROW, r"own.toml: has no key 'colums'\. Did you mean 'columns'\?"),
        ('columns = ["fids"]\n' + ROW, r"columns: there is no column 'fids'\. Did you mean .*'fid'"),
        ("seeds = [0, 0]\n" + ROW, r"seeds = \[0, 0\]: each"),
        ("seeds = []\n" + ROW, r"seeds = \[\]"),
        ("seeds = [12345678901234567890123]\n" + ROW, r"seeds = \[12345678901234567890123\]: each"),
        ("seeds = [1979-05-27]\n" + ROW, r"seeds"),
        (ROW + "overrides = { depth = 1979-05-27 }", r"1 \(a\): overrides: depth = 1979-05-27 is no number"),
        (ROW + "overrides = { mlp_ratio = inf }", r"1 \(a\): overrides: mlp_ratio = inf is no number"),
        (ROW + f"overrides = {{ depth = {10**400} }}", r"1 \(a\): overrides: depth = 10+ is no number"),
        (ROW + "cfg_scale = inf", r"\[\[rows\]\] 1 \(a\): cfg_scale = inf"),
        (ROW.replace('"a"', '"\\u001b[2J"'), r"holds the control character U\+001B"),
        (ROW + ROW, r"2 rows have the label 'a'"),
        (ROW.replace("udit-t", "udit-tt"), r"1 \(a\): unknown backbone 'udit-tt'\. Did you mean 'udit-t'"),
        (ROW + "overides = {}", r"1 \(a\): has no key 'overides'\. Did you mean 'overrides'"),
        ('[[rows]]\nlabel = "x"', r"\[\[rows\]\] 1 \(x\): it needs the key 'backbone'"),
        ('[[rows]]\nbackbone = "udit-t"', r"\[\[rows\]\] 1: it needs the key 'label'"),
        ('[[rows]]\npublished = "5/Pixel Shufle (PS)"', r"no row .* Did you mean 'Pixel Shuffle \(PS\)'"),
        ('[[rows]]\npublished = "9/x"', r"there is no table 9"),
        ('[[rows]]\npublished = "leaderboard/DiC-M"', r"no row 'DiC-M'\. Did you mean 'DiC-S'"),
        ('[[rows]]\npublished = "DiT-S/2"', r'it is written "TABLE/LABEL"'),
        (
            '[[rows]]\npublished = "leaderboard/DiG-S/2"\noverrides = { depth = 3 }',
            r"\[\[rows\]\] 1: no network of 'DiG-S/2' is in this package: overrides need the key 'backbone'",
        ),
        ('[[rows]]\npublished = "Pixel Shuffle (PS)"', r'it is written "TABLE/LABEL"'),
        ('[[rows]]\npublished = "4/U-DiT-B"', r"Table 4 has 5 rows 'U-DiT-B': give step, one of 200000, "),
        ('[[rows]]\npublished = "1/DiT-UNet"\nextra = true', r"extra = true is for rows without a published"),
        (ROW + "step = 0", r"\[\[rows\]\] 1 \(a\): step = 0"),
        (ROW + 'protocols = ["mikro"]', r"1 \(a\): unknown protocol 'mikro'\. Did you mean 'micro'"),
        ('protocols = ["mikro"]\n' + ROW, r"own.toml: unknown protocol 'mikro'\. Did you mean 'micro'"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as raised:
        studies.load(written(tmp_path, text))
    assert "\n" not in str(raised.value) and "own.toml" in str(raised.value)


def test_a_wrong_name_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown study 'downsamplr'\. Did you mean 'downsampler'\?"):
        studies.load("downsamplr")
    with pytest.raises(UsageError, match=r"cannot read the study .*none.toml: No such file"):
        studies.load(tmp_path / "none.toml")
    with pytest.raises(UsageError, match=r"has no row 'Pixel Shufle'\. Did you mean 'Pixel Shuffle \(PS\)'"):
        studies.load("downsampler").row("Pixel Shufle")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("training = { stepz = 3 }", r"row 'a': \[training\] has no key 'stepz'\. Did you mean 'steps'"),
        ("training = { steps = 0 }", r"row 'a': \[training\] steps = 0"),
        ("sampling = { num = 0 }", r"row 'a': \[sampling\] num = 0"),
        ("training = { steps = 1979-05-27 }", r"row 'a': \[training\] steps = 1979-05-27"),
        (
            "training = { objective = 'flwo' }",
            r"row 'a': unknown objective 'flwo'. Did you mean 'flow'",
        ),
    ],
)
def test_a_row_cannot_make_a_protocol_that_is_none(tmp_path: Path, more: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        cells(studies.load(written(tmp_path, ROW + more)), MICRO, [0])


def test_a_protocol_is_found_beside_the_study_that_names_it(tmp_path: Path) -> None:
    text = Path(protocols.__file__).with_name("smoke.toml").read_text("utf-8")
    (tmp_path / "mine.toml").write_text(text)
    study = studies.load(written(tmp_path, 'protocol = "mine"\n' + ROW))
    assert protocols.load(study.protocol, study.folder).training == protocols.load("smoke").training
    assert protocols.load(study.protocol, study.folder).name == "mine"


@pytest.mark.parametrize("name", ["mine", "mine.toml"])
def test_a_row_is_for_a_protocol_of_the_users_and_has_a_scale_under_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.toml").write_text(
        Path(protocols.__file__).with_name("smoke.toml").read_text("utf-8"), "utf-8"
    )
    row = ROW + f'protocols = ["{name}"]\nscale."{name}" = {{ ffn = "mlp" }}\n'
    study = studies.load(written(tmp_path, row))
    (cell,) = cells(study, protocols.load("mine", tmp_path), [0])
    assert cell.overrides["ffn"] == "mlp"
    assert cells(study, protocols.load("smoke"), [0]) == []


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("overrides = { fnn = 1 }", r"row 'a': .*takes no option 'fnn'\. Did you mean 'ffn'"),
        ("overrides = { hidden_size = 'x' }", r"row 'a': .*hidden_size must be int"),
        ("training = { batch_size = 2000 }", r"row 'a': .*batches of 2000, but digits has 1437 images"),
        ("sampling = { sampler = 'euler' }", r"row 'a': sampler euler is for objective flow, not ddpm"),
        ("sampling = { cfg_scale = 2, guided_channels = 9 }", r"row 'a': guided_channels must be 0 .* to 4"),
        ("sampling = { cfg_scale = 2, guidance_interval = [9, 1] }", r"row 'a': the guidance interval must"),
        ("cfg_scale = 2\noverrides = { class_dropout_prob = 0 }", r"row 'a': udit-t has no null class"),
        ("step = 1300", r"row 'a': step = 1300, but micro trains 1200 steps"),
        ("sampling = { num = 3 }", r"samples 3, but precision needs 4: raise num in \[sampling\]"),
        ("overrides = { input_size = 16 }", r"row 'a': .*takes grids of \(4, 16, 16\)"),
        ("overrides = { num_heads = 5 }", r"row 'a': .*5"),
    ],
)
def test_what_cannot_run_is_told_before_anything_runs(tmp_path: Path, row: str, told: str) -> None:
    from bench.studies.checking import Checker

    made = studies.load(written(tmp_path, ROW + row))
    with pytest.raises(UsageError, match=told) as raised:
        Checker({}).check(made, cells(made, MICRO, [0]))
    assert "\n" not in str(raised.value)


def weightless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights of Inception, nor a network to fetch them by."""
    from bench.metrics.extractors import inception

    def offline(*_: object, **__: object) -> None:
        raise OSError("offline")

    monkeypatch.setattr(inception.torch.hub, "get_dir", lambda: "/nowhere")
    monkeypatch.setattr(inception.Path, "mkdir", lambda *_, **__: None)
    monkeypatch.setattr(inception.torch.hub, "download_url_to_file", offline)


@pytest.mark.parametrize("option", [(), ("--dry-run",)])
def test_what_scoring_lacks_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...]
) -> None:
    """Weights of the extractor and a reference that fits, in a dry run too."""
    (tmp_path / "few.toml").write_text(PROTOCOL.replace("[evaluation]", '[evaluation]\nextractor = "digits"'))
    arguments = [
        "ablate", str(written(tmp_path, ROW)), "--results", str(tmp_path / "r"), "--work", str(tmp_path / "w")
    ]  # fmt: skip

    def told(*more: str, protocol: str = "few.toml") -> str:
        done = CliRunner().invoke(app, [*arguments, "--protocol", str(tmp_path / protocol), *option, *more])
        assert isinstance(done.exception, UsageError), done.output
        assert not (tmp_path / "w").exists()
        return str(done.exception)

    np.savez(tmp_path / "small.npz", arr_0=np.zeros((8, 4, 4, 3), np.uint8))
    assert "holds images of 4×4, but samples of digits are of 16×16" in told(
        "--reference", str(tmp_path / "small.npz")
    )
    np.savez(tmp_path / "others.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    assert "holds statistics of inception, not of digits" in told("--reference", str(tmp_path / "others.npz"))
    (tmp_path / "text.npz").write_text("no archive")
    assert "text.npz" in told("--reference", str(tmp_path / "text.npz"))
    weightless(monkeypatch)
    (tmp_path / "large.toml").write_text(
        PROTOCOL.replace("[evaluation]", '[evaluation]\nextractor = "inception"')
    )
    assert "the inception weights are not in" in told(protocol="large.toml")


def test_a_network_that_cannot_be_trained_is_told_before_anything_runs(tmp_path: Path) -> None:
    from bench.studies.checking import Checker

    registry.register("no-parameters")(
        lambda num_classes=10: registry.Backbone(input_size=8, num_classes=num_classes)
    )
    study = studies.load(
        written(tmp_path, ROW + ROW.replace("udit-t", "no-parameters").replace('"a"', '"b"'))
    )
    with pytest.raises(CodeError, match="no trainable parameter"):
        Checker({}).check(study, cells(study, MICRO, [0]))


def test_a_published_row_without_a_network_is_no_mistake_and_takes_one_of_the_users(tmp_path: Path) -> None:
    from bench.studies.checking import Checker
    from bench.studies.measuring import count_costs

    bare = '[[rows]]\npublished = "leaderboard/DiG-S/2"\n'
    study = studies.load(written(tmp_path, ROW + bare))
    found = cells(study, MICRO, [0])
    Checker({}).check(study, found)
    assert [cell.row.label for cell in found] == ["a"] == list(count_costs(study.rows))
    own = studies.load(written(tmp_path, bare + 'backbone = "udit-t"\noverrides = { rope = false }\n'))
    assert own.rows[0].model == "udit-t" and own.rows[0].published is not None
    assert own.rows[0].published.printed["fid"] == "62.06" and len(cells(own, MICRO, [0])) == 1


def test_a_plan_needs_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from bench import studies; from bench.training import protocols\n"
        "from bench.studies import cells, plan, staleness; from bench.studies.executors import local\n"
        "study = studies.load('components'); protocol = protocols.load('micro')\n"
        "found = cells.cells(study, protocol, study.seeds); records = cells.known(Path('results'))\n"
        "cells.missing(found, records); cells.missing_costs(study, {})\n"
        "cells.expected_seconds(found, records)\n"
        "staleness.stale_records(records, found, study, {})\n"
        "plan.plan('components').groups()\n"
        "assert not {'torch', 'altair', 'pandas'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
