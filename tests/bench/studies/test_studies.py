"""Studies: what a file says, what follows from it, and mistakes told in one line; nothing is trained here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import registry
from bench import records, studies
from bench.studies import published, running
from bench.studies.cells import Cell, cells, cost_asked, known
from bench.training import protocols
from registry.errors import UsageError

ROW = '[[rows]]\nlabel = "a"\nbackbone = "udit-t"\n'
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
def test_the_families_cost_about_alike(scaled: bool, grid: int | None) -> None:
    from bench.cost import measure

    costs = []
    for cell in cells(studies.load("backbones"), MICRO, [0]):
        options = registry.backbones.options(cell.row.model)
        fit = {"input_size": grid, "in_channels": 4, "num_classes": 10} if grid else {}
        overrides = cell.asked["scaled"] if scaled else cell.row.overrides
        costs.append(
            measure(cell.row.model, **{k: v for k, v in fit.items() if k in options}, **overrides).macs
        )
    assert max(costs) < 1.35 * min(costs)


def test_names_are_in_the_order_of_the_tables() -> None:
    assert studies.names() == [*TABLES, "backbones"]


# ---- what follows from a file ----


def test_cells_go_seed_by_seed_and_share_training_where_nothing_trains_otherwise(tmp_path: Path) -> None:
    more = ROW.replace('"a"', '"b"') + "step = 500\ncfg_scale = 2.0\n"
    flow = ROW.replace('"a"', '"c"') + 'training = { objective = "flow" }\nsampling = { sampler = "euler" }\n'
    made = studies.load(written(tmp_path, ROW + more + flow))
    found = cells(made, MICRO, [3, 4])
    assert [cell.title for cell in found] == [f"{row}, seed {seed}" for seed in (3, 4) for row in "abc"]
    a, b, c = found[:3]
    assert a.run == b.run != c.run and a.run != found[3].run
    assert len({cell.file for cell in found}) == 6
    assert b.asked["sampling"]["cfg_scale"] == 2.0 and b.asked["step"] == 500
    assert a.asked["step"] == MICRO.training.steps
    assert c.asked["training"]["objective"] == "flow" and c.asked["sampling"]["sampler"] == "euler"
    assert a.asked["scaled"] == MICRO.overrides("udit-t") and a.asked["overrides"] == {}
    assert running._groups(found) == [[b, a], [c], [found[4], found[3]], [found[5]]]


def test_a_question_knows_neither_the_study_nor_its_labels(tmp_path: Path) -> None:
    row = ROW.replace("udit-t", "U-DiT-T") + 'overrides = { cosine = false, rope = false, ffn = "mlp" }'
    mine = cells(studies.load(written(tmp_path, row)), MICRO, [0])[0]
    theirs = cells(studies.load("downsampler"), MICRO, [0])[2]
    assert mine.file == theirs.file == records.name(json.loads(json.dumps(mine.asked)))


def test_logging_and_checkpoints_change_no_question() -> None:
    row = studies.load("toy").rows[0]
    often = MICRO.model_copy(
        update={"training": MICRO.training.model_copy(update={"log_every": 1, "keep": 9})}
    )
    longer = MICRO.model_copy(update={"training": MICRO.training.model_copy(update={"steps": 3000})})
    usual = Cell(row, MICRO, 0)
    assert Cell(row, often, 0).file == usual.file
    assert Cell(row, longer, 0).file != usual.file and Cell(row, longer, 0).run == usual.run


def test_time_is_expected_from_the_same_network_first() -> None:
    found = cells(studies.load("training-steps"), MICRO, [0, 1])
    assert running.expected_seconds(found, {}) == [None] * 12

    def record(cell: Cell, train: float) -> dict[str, Any]:
        seconds = {"train": train, "sample": 3.0, "eval": 2.0}
        return {"asked": cell.asked, "values": {"seconds": seconds}, "file": cell.file}

    dit, udit = (
        record(found[2], 1.0 * found[2].step),
        record(found[5], 2.0 * found[5].step),
    )  # 1 and 2 seconds a step
    first, second = found[3].step, found[4].step
    other = running.expected_seconds(found[3:5], {dit["file"]: dit})
    assert other == [first + 5, second - first + 5]  # of another network; the second goes on from the first
    both = running.expected_seconds(found[:1] + found[3:4], {dit["file"]: dit, udit["file"]: udit})
    assert both == [first + 5, 2 * first + 5]


# ---- what is missing ----


def test_records_are_found_and_damaged_ones_named(tmp_path: Path) -> None:
    made = studies.load("downsampler")
    found = cells(made, MICRO, [0])
    assert running.missing(found + found, known(tmp_path / "none")) == found
    records.write(found[1].asked, {"fid": 1.0}, tmp_path)
    damaged = records.write(found[2].asked, {"fid": 1.0}, tmp_path)
    damaged.write_text(damaged.read_text()[:-30])
    with pytest.warns(UserWarning, match=damaged.name):
        assert running.missing(found, known(tmp_path)) == [found[0], found[2]]
    row = made.rows[0]
    records.write(cost_asked(row.model, row.overrides), {"macs": 1}, tmp_path)
    damaged.unlink()
    assert list(running.missing_costs(made, known(tmp_path))) == [row.label for row in made.rows[1:]]


# ---- mistakes ----


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"own.toml: it has no rows"),
        ("rows = 3", r"rows = 3"),
        ("= 3", r"no valid TOML: .*line 2"),
        ("colums = []\n" + ROW, r"there is no key 'colums'\. Did you mean 'columns'\?"),
        ('columns = ["fids"]\n' + ROW, r"columns: there is no column 'fids'\. Did you mean .*'fid'"),
        ("seeds = [0, 0]\n" + ROW, r"seeds = \[0, 0\]: each"),
        ("seeds = []\n" + ROW, r"seeds = \[\]"),
        (ROW + ROW, r"2 rows have the label 'a'"),
        (ROW.replace("udit-t", "udit-tt"), r"1 \(a\): unknown backbone 'udit-tt'\. Did you mean 'udit-t'"),
        (ROW + "overides = {}", r"1 \(a\): there is no key 'overides'\. Did you mean 'overrides'"),
        ('[[rows]]\nlabel = "x"', r"\[\[rows\]\] 1 \(x\): it needs the key 'backbone'"),
        ('[[rows]]\nbackbone = "udit-t"', r"\[\[rows\]\] 1: it needs the key 'label'"),
        ('[[rows]]\npublished = "5/Pixel Shufle (PS)"', r"no row .* Did you mean 'Pixel Shuffle \(PS\)'"),
        ('[[rows]]\npublished = "9/x"', r"there is no table 9"),
        ('[[rows]]\npublished = "Pixel Shuffle (PS)"', r'it is written "TABLE/LABEL"'),
        ('[[rows]]\npublished = "4/U-DiT-B"', r"Table 4 has 5 rows 'U-DiT-B': give step, one of 200000, "),
        ('[[rows]]\npublished = "1/DiT-UNet"\nextra = true', r"extra = true goes with"),
        (ROW + "step = 0", r"\[\[rows\]\] 1 \(a\): step = 0"),
        (ROW + 'protocols = ["mikro"]', r"unknown protocol 'mikro'\. Did you mean 'micro'"),
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
        ("training = { stepz = 3 }", r"row 'a': training.stepz"),
        ("training = { steps = 0 }", r"row 'a': training.steps = 0"),
        ("sampling = { num = 0 }", r"row 'a': sampling.num = 0"),
    ],
)
def test_a_row_cannot_make_a_protocol_that_is_none(tmp_path: Path, more: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        cells(studies.load(written(tmp_path, ROW + more)), MICRO, [0])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("overrides = { fnn = 1 }", r"row 'a': .*takes no override 'fnn'\. Did you mean 'ffn'"),
        ("overrides = { hidden_size = 'x' }", r"row 'a': .*hidden_size must be int"),
        ("training = { batch_size = 2000 }", r"row 'a': .*batches of 2000, but digits has 1797 images"),
        ("training = { flip = true }", r"row 'a': .*mirrors images"),
        ("training = { objective = 'flow' }", r"row 'a': sampler ancestral is for objective ddpm, not flow"),
        ("overrides = { input_size = 16 }", r"row 'a': .*takes grids of \(4, 16, 16\)"),
        ("overrides = { num_heads = 5 }", r"row 'a': .*5"),
    ],
)
def test_what_cannot_run_is_told_before_anything_runs(tmp_path: Path, row: str, told: str) -> None:
    from bench.studies.checking import check

    made = studies.load(written(tmp_path, ROW + row))
    with pytest.raises(UsageError, match=told) as raised:
        check(made, cells(made, MICRO, [0]), {})
    assert "\n" not in str(raised.value)


def test_a_report_needs_no_torch() -> None:
    code = (
        "import sys; from bench import studies; from bench.training import protocols\n"
        "from bench.studies import cells, running\n"
        "made = studies.load('components'); how = protocols.load('micro')\n"
        "running.missing(cells.cells(made, how, made.seeds), {}); running.missing_costs(made, {})\n"
        "assert not {'torch', 'matplotlib', 'pandas'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
