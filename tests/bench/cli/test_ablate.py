"""`bench ablate` as a user runs it: whole studies in seconds, interrupted, broken and asked for again."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import bench
from bench import data, records, studies
from bench.cli import app
from bench.metrics.held_out import held_out_loss
from bench.metrics.scores import scores
from bench.records.schema import HeldOutSettings, Quality
from bench.studies.cells import cells, cost_request, known
from bench.studies.executors import executor, local
from bench.studies.jobs import Group
from bench.studies.staleness import fingerprints
from bench.training import protocols
from bench.training.trained import open_run
from bench.utils import locks
from tests.bench import made
from tests.bench.place import PROTOCOL, Place


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """In all processes: another number of threads rounds otherwise, and the same numbers are expected."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def whole(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The study, measured by two processes that nothing disturbed."""
    place = Place(tmp_path_factory.mktemp("whole"))
    done = place.bench("--jobs", "2")
    assert done.exit_code == 0, done.output
    assert "6 of 6 measured, 0 under way" in done.stderr  # cells, not the rows' costs
    yield place


@pytest.fixture
def again(whole: Place, tmp_path: Path) -> Place:
    """A copy of it."""
    shutil.copytree(whole.folder, tmp_path / "again")
    return Place(tmp_path / "again")


# ---- that it measures what it says ----


@pytest.mark.slow
def test_every_cell_has_its_record_and_little_else_is_kept(whole: Place) -> None:
    every = whole.cells()
    assert {cell.file for cell in every} == whole.scores().keys() and len(every) == 6
    runs = {cell.run for cell in every}
    assert len(runs) == 4  # "guided" and "plain" are one training run
    kept = sorted(str(path.relative_to(whole.work)) for path in whole.work.rglob("*") if path.is_file())
    assert not [path for path in kept if path.endswith(".npz") and not path.startswith("references")]
    for run in runs:
        assert [p.name for p in (whole.work / run / "checkpoints").iterdir()] == ["00000012"]
        assert (whole.work / run / "samples" / "00000012.png").exists()
    for cell in every:
        grid = np.asarray(Image.open(whole.work / cell.run / f"images-{cell.file[-17:-5]}.grid.png"))
        strip = np.asarray(Image.open((whole.results / cell.file).with_suffix(".png")))
        np.testing.assert_array_equal(strip, grid[:130])  # two lines of images of 64 pixels, and a gap
    record = known(whole.results)[every[0].file]
    one = record.result
    assert isinstance(one, Quality)
    assert one.sample_count == 20 and one.reference_count == 1437 and one.request.extractor == "digits"
    assert all(value > 0 for model in (one.seconds, one.images_per_second) for _, value in model)
    assert [each.step for each in one.held_out] == [4, 8, 12]
    assert 0 < one.held_out[0].seconds < one.held_out[1].seconds < one.held_out[2].seconds
    assert 0 < one.network.parameters < 1e6 and record.context.protocol == "few"
    assert record.fingerprints.code == fingerprints(one.request).code and record.fingerprints.data


@pytest.mark.slow
@pytest.mark.parametrize("index", [1, 2])
def test_scores_are_those_of_the_commands_one_by_one(whole: Place, tmp_path: Path, index: int) -> None:
    cell = whole.cells()[index]  # of one training run, at step 5 with guidance, and at step 12 without
    how = tmp_path / "few.toml"
    how.write_text(PROTOCOL.replace("steps = 12", f"steps = {cell.step}"))
    run, images, reference = (str(tmp_path / name) for name in ("run", "images.npz", "digits.npz"))
    scale = str(cell.row.cfg_scale or 1.0)
    for command in (
        ["train", "--model", "dit-s-2", "--protocol", str(how), "--out", run],
        ["sample", "--checkpoint", run, "--cfg-scale", scale, "--out", images],
        ["export", "--data", "digits", "--data-option", "split=train", "--out", reference],
    ):
        assert CliRunner().invoke(app, command).exit_code == 0
    names = ("fid", "sfid", "inception_score", "precision", "recall", "kid")
    chosen = [word for name in names for word in ("--score", name)]
    places = ["--samples", images, "--reference", reference, "--cache", str(tmp_path)]
    scored = CliRunner().invoke(app, ["eval", *places, *chosen, "--json"])
    alone, here = json.loads(scored.stdout)["scores"], whole.scores()[cell.file]
    for score in names:
        assert here[score] == pytest.approx(alone[score], rel=1e-6, abs=1e-9), score
    record = known(whole.results)[cell.file].result
    assert isinstance(record, Quality)
    log = map(json.loads, (Path(run) / "log.jsonl").read_text().splitlines())
    errors = {entry["step"]: entry["mse"] for entry in log}  # each the mean of the steps since the last
    steps = [0, *sorted(errors)]
    by_step = {step: errors[last] for first, last in pairwise(steps) for step in range(first + 1, last + 1)}
    before = 0
    for each in record.held_out:
        wanted = np.mean([by_step[step] for step in range(before + 1, each.step + 1)])
        assert each.training_error == pytest.approx(wanted, rel=1e-6), each.step
        before = each.step
    source = open_run(run)
    held_out = held_out_loss(
        source.network.deploy(),
        source.objective,
        data.held_out("digits", split="train"),
        HeldOutSettings(images=64),
    )
    assert here["held out"][-1] == (cell.step, held_out.bands)


@pytest.mark.slow
def test_the_table_shows_paper_and_here(whole: Place) -> None:
    shown = whole.bench()
    assert shown.exit_code == 0
    line = next(line for line in shown.output.splitlines() if "token downsampling" in line)
    assert "89.43" in line and "0.90" in line and "±" in line
    assert "plain" in shown.output and "guided [1]" in shown.output
    assert "6 cells reused, measured 20" in shown.stderr and "to measure" not in shown.stderr
    assert "a few steps" in shown.output
    assert shown.output.index("not with published scores") < shown.output.index("89.43")


# ---- that nothing is done twice ----


@pytest.mark.slow
def test_what_is_measured_needs_neither_torch_nor_a_process(whole: Place, tmp_path: Path) -> None:
    study = studies.load("downsampler")
    for cell in cells(study, protocols.load("smoke"), study.seeds):
        scores = dict.fromkeys(("fid", "sfid", "inception_score", "precision", "recall"), 1.25)
        made.put(tmp_path, made.quality(cell.request, **scores), "smoke")
    for row in study.rows:
        made.put(tmp_path, made.cost(cost_request(row)))
    arguments = ["ablate", "downsampler", "--protocol", "smoke", "--results", str(tmp_path)]
    code = (
        "import sys; from bench.cli import app; from bench.studies.executors import local\n"
        "del local.Local.run\n"
        f"app({arguments!r}, standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert (
        shown.stdout.count("1.25 ± 0.00") == 9
        and shown.stdout.count("1.250 ± 0.000") == 6
        # No published figure stands beside scores that say nothing.
        and "96.15" not in shown.stdout
        and "Scores of this protocol do not measure quality" in shown.stdout
    )


@pytest.mark.slow
def test_a_missing_record_alone_is_measured_again_and_comes_out_the_same(again: Place) -> None:
    before, cell = again.scores(), again.cells()[1]  # whose checkpoint is kept no longer
    stays = {
        path: path.stat().st_mtime_ns for path in again.results.glob("q*") if path.stem != cell.file[:-5]
    }
    (again.results / cell.file).unlink()
    done = again.bench()
    assert done.exit_code == 0 and again.scores() == before
    assert stays == {path: path.stat().st_mtime_ns for path in stays}


@pytest.mark.slow
def test_scores_are_added_without_training(again: Place) -> None:
    before, cell = again.scores(), again.cells()[0]
    record = records.read_file(again.results / cell.file)
    fewer = {name: value for name, value in record.result.scores.items() if name != "kid"}
    old = record.model_copy(update={"result": record.result.model_copy(update={"scores": fewer})})
    (again.results / cell.file).write_text(records.dumps(old))
    weights = {path: path.stat().st_mtime_ns for path in again.work.rglob("model.safetensors")}
    with pytest.warns(
        UserWarning, match="neither samples nor the checkpoint of 2 cells, guided, seed 0 first"
    ):
        done = again.bench("--add-score", "kid", "--add-score", "mind")
    assert done.exit_code == 0, done.output
    assert "4 of 4 measured" in done.stderr and "MIND" in done.stdout
    assert not any("does not measure" in line and "MIND" in line for line in done.stdout.splitlines())
    assert weights == {path: path.stat().st_mtime_ns for path in weights}
    found = known(again.results)
    assert found[cell.file].result.scores["kid"] == record.result.scores["kid"]  # of the same images again
    for each in again.cells():
        made = found[each.file]
        added = {"mind"} if each.row.label != "guided" else set()
        assert set(made.result.scores) - set(fewer) - {"kid"} == added
        assert added <= {name.removeprefix("score ") for name in made.fingerprints.versions}
        assert not added or made.result.scores["mind"] > 0
        assert all(made.result.scores[key] == before[each.file][key] for key in fewer)
    assert found[cell.file].environment == record.environment
    assert not list(again.work.rglob("images-*.npz"))


@pytest.mark.slow
def test_force_and_only_measure_one_row_and_its_cost_from_the_start(again: Place) -> None:
    before, cell = again.scores(), again.cells()[0]
    stays = {path: path.stat().st_mtime_ns for path in again.results.iterdir() if path.is_file()}
    checkpoint = again.work / cell.run / "checkpoints"
    old = checkpoint.stat().st_ino
    done = again.bench("--force", "--only", "token downsampling", "--seeds", "0")
    assert done.exit_code == 0 and again.scores() == before
    assert checkpoint.stat().st_ino != old
    changed = {p.stem for p, t in stays.items() if p.stat().st_mtime_ns != t}
    assert changed == {cell.file[:-5], cost_request(cell.row).file[:-5]}


@pytest.mark.slow
def test_a_dry_run_tells_and_does_nothing(again: Place) -> None:
    every = again.cells()
    (again.results / every[0].file).unlink()
    files = sorted(again.folder.rglob("*"))
    shown = again.bench("--dry-run")
    assert shown.exit_code == 0 and "1 of 6 cells are to be measured, expected to take" in shown.output
    assert shown.output.count("to do") == 1 and sorted(again.folder.rglob("*")) == files
    other = Place(again.folder / "work").bench("--dry-run", "--seeds", "7", "--only", "plain")
    assert "unknown" in other.output and "1 of 1 cells" in other.output and "no record" in other.output
    parts = [Place(again.folder / "work").bench("--dry-run", "--shard", f"{i}/2").output for i in (1, 2)]
    assert [text.count("to do") for text in parts] == [3, 3]
    part = again.bench("--dry-run", "--shard", "1/2").output  # all machines together see the difference
    assert shown.output.partition("With ")[2][:60] == part.partition("With ")[2][:60] != ""


@pytest.mark.slow
def test_two_calls_on_one_folder_share_the_work(whole: Place, tmp_path: Path) -> None:
    place = Place(tmp_path)
    processes = [place.begin("--jobs", "1") for _ in range(2)]
    for process in processes:
        told = process.communicate(timeout=300)
        assert process.returncode == 0, told
    assert place.scores() == whole.scores()
    begun = [json.loads(line) for log in place.work.glob("*/log.jsonl") for line in log.open()]
    assert len(begun) == sum(len(list(log.open())) for log in whole.work.glob("*/log.jsonl"))  # none twice
    pids = {process.pid for process in processes}
    assert {int(log.stem.split("-")[-2]) for log in place.work.glob("worker-*.log")} == pids  # both worked


# ---- that it can be stopped ----


@pytest.mark.slow
def test_killed_at_random_it_ends_in_the_same_records(whole: Place, tmp_path: Path) -> None:
    place, seed = Place(tmp_path), random.randrange(2**32)
    chance = random.Random(seed)
    for kill in range(5):
        process = place.begin("--seeds", "0")
        time.sleep(chance.uniform(4, 8))  # importing torch takes most of the first
        if kill % 2:  # a measuring process, which fails its cell alone; and then all of it
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            for child in children.read_text().split() if children.exists() else []:
                os.kill(int(child), signal.SIGKILL)
            time.sleep(0.3)
        process.kill()
        process.communicate()
    process = place.begin("--seeds", "0")
    told = process.communicate()
    assert process.returncode == 0, (seed, told)
    expected = {cell.file: whole.scores()[cell.file] for cell in place.cells() if cell.seed == 0}
    assert place.scores() == expected, seed


def training_without_end(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """A study whose first cell has begun to train, and the log of that."""
    place = Place(folder)
    (folder / "few.toml").write_text(PROTOCOL.replace("steps = 12", "steps = 100_000"))
    process = place.begin("--seeds", "0", "--only", "plain")
    log = place.work / place.cells()[2].run / "log.jsonl"
    for _ in range(2400):
        if log.exists():
            break
        time.sleep(0.05)
    return process, log


@pytest.mark.slow
def test_a_process_that_measures_ends_with_the_one_that_began_it(tmp_path: Path) -> None:
    process, log = training_without_end(tmp_path)
    assert locks.holder(log.parent)
    process.kill()  # it alone: no child of it gets a signal
    process.communicate(timeout=30)  # which returns when no child holds its output any more
    until = time.monotonic() + 10
    while locks.holder(log.parent) and time.monotonic() < until:
        time.sleep(0.1)
    assert locks.holder(log.parent) is None


@pytest.mark.slow
def test_sigterm_stops_all_of_it(tmp_path: Path) -> None:
    process, log = training_without_end(tmp_path)
    process.terminate()
    _, told = process.communicate(timeout=30)
    assert process.returncode == 143
    assert told.splitlines()[-1] == "stopped: the same command resumes"
    saved = list((log.parent / "checkpoints").iterdir())
    assert saved, "a checkpoint is written on the way out"
    size = log.stat().st_size
    time.sleep(0.5)
    assert log.stat().st_size == size  # nobody trains any more


# ---- that one failure stays one ----

PLUGIN = """
import os
import signal
import torch
import registry


class Broken(registry.Backbone):
    def __init__(self, input_size=32, num_classes=1000, in_channels=4):
        super().__init__(input_size=input_size, num_classes=num_classes, in_channels=in_channels)
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t, y):
        if not x.is_meta and len(x) == 8:  # a batch of training, not of counting
            self.fail()
        return x + self.bias


@registry.register("raises")
class Raises(Broken):
    def fail(self):
        raise RuntimeError("not today")


@registry.register("diverges")
class Diverges(Broken):
    def fail(self):
        self.bias.data.fill_(float("nan"))


@registry.register("dies")
class Dies(Broken):
    def fail(self):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_failing_cells_do_not_stop_the_others(tmp_path: Path) -> None:
    names = ("raises", "dies", "diverges", "dit-s-2")
    rows = "".join(f'[[rows]]\nlabel = "it {name}"\nbackbone = "{name}"\n' for name in names)
    place = Place(tmp_path, f'title = "t"\nseeds = [0]\ncolumns = ["fid"]\n{rows}')
    (tmp_path / "broken.py").write_text(PLUGIN)
    done = place.bench("--plugin", str(tmp_path / "broken.py"), "--jobs", "2")
    told = " ".join(done.stderr.split())
    assert done.exit_code == 1
    place_of_it = r"failed: it raises, seed 0: RuntimeError: not today \(.*broken.py, line \d+, in fail\)"
    assert re.search(place_of_it, told)
    assert "failed: it dies, seed 0: its process ended with signal SIGKILL; see " in told
    assert "failed: it diverges, seed 0: diverges: 2048 of 2048 output values are not finite" in told
    assert told.count("failed: ") == 3 and "Traceback" not in told
    assert len(place.scores()) == 1 and "it dit-s-2" in done.stdout
    assert any("not today" in log.read_text() for log in place.work.glob("worker-*.log"))


# ---- a user's own images and score ----

SCORE = """
from bench.metrics.scores import Score, BOTH_POOLS, scores


@scores.register("share-above")
class ShareAbove(Score):
    \"\"\"Features of samples above the mean of the references.\"\"\"

    heading, full_name, higher_is_better, needs = "Above", "Share above", True, BOTH_POOLS

    def compute(self, inputs):
        samples, reference = inputs.features("pool")
        return float((samples > reference.mean()).mean())
"""


@pytest.mark.slow
def test_a_folder_of_images_and_a_score_of_the_users(tmp_path: Path, plugins: None) -> None:
    study = 'title = "t"\nseeds = [0]\ncolumns = ["fid", "share-above"]\n[[rows]]\nlabel = "it"\n'
    place = Place(tmp_path, f'{study}backbone = "dit-s-2"\n')
    protocol = PROTOCOL.replace('data = "digits"\ndata_options = { split = "train" }', 'data = "folder"')
    protocol = protocol.replace(
        "[evaluation]\nheld_out = { images = 64 }", '[evaluation]\nextractor = "digits"'
    )
    (tmp_path / "few.toml").write_text(protocol)
    (tmp_path / "above.py").write_text(SCORE)
    photos = tmp_path / "photos"
    for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)):
        inside = photos / "ab"[number % 2] / (".ipynb_checkpoints" if number < 2 else ".")
        inside.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(inside / f"{number}.bmp")
    options = ("--data-option", f"root={photos}", "--data-option", "size=8")
    done = place.bench("--plugin", str(tmp_path / "above.py"), *options)
    assert done.exit_code == 0, done.output
    assert "Above↑" in done.stdout
    (record,) = [each for each in known(place.results).values() if isinstance(each.result, Quality)]
    assert record.result.reference_count == 38 and record.context.left_out == {"hidden folders": 2}
    assert 0 < record.result.scores["share-above"] < 1
    assert record.fingerprints.versions["score share-above"] == scores.fingerprint("share-above")


# ---- that a changed network is not shown with yesterday's scores ----

MINE = """
import torch
import registry


@registry.register("mine")
class Mine(registry.Backbone):
    def __init__(self, input_size=32, num_classes=1000, in_channels=4):
        super().__init__(input_size=input_size, num_classes=num_classes, in_channels=in_channels)
        self.conv = torch.nn.Conv2d(in_channels, in_channels, 3, padding=1)

    def forward(self, x, t, y):
        return torch.relu(self.conv(x))
"""


@pytest.mark.slow
def test_a_changed_network_is_measured_again(tmp_path: Path) -> None:
    rows = '[[rows]]\nlabel = "mine"\nbackbone = "mine"\n[[rows]]\nlabel = "other"\nbackbone = "dit-s-2"\n'
    place = Place(tmp_path, f'title = "t"\nseeds = [0]\ncolumns = ["params", "fid"]\n{rows}')
    plugin = tmp_path / "mine.py"

    def run(code: str, *more: str) -> tuple[str, dict[str, float], set[str]]:
        """In a process of its own, which knows nothing of the code before."""
        plugin.write_text(code)
        before = {path: path.stat().st_mtime_ns for path in place.results.glob("*.json")}
        process = place.begin("--plugin", str(plugin), *more)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        after = {path: path.stat().st_mtime_ns for path in place.results.glob("*.json")}
        written = {path.name.rpartition("-")[0] for path, t in after.items() if before.get(path) != t}
        fids = {file.rpartition("-")[0]: scores["fid"] for file, scores in place.scores().items()}
        return out + err, fids, written

    _, first, written = run(MINE)
    assert written == {"cost-mine", "cost-dit-s-2", "quality-mine", "quality-dit-s-2"}
    commented = MINE.replace("        return", "        # a comment, which changes no number\n        return")
    text, again, written = run(commented)
    assert again == first and not written and "2 cells reused" in text
    changed = MINE.replace("torch.relu", "torch.sin").replace("3, padding=1", "5, padding=2")
    text, accepted, written = run(changed, "--stale", "accept")
    assert accepted == first and not written
    assert "the backbone's code has changed" in text and "mine [1]" in text
    text, second, written = run(changed)
    assert written == {"cost-mine", "quality-mine"} and "1 of them again, since the backbone's code" in text
    assert second["quality-mine"] != first["quality-mine"]
    assert second["quality-dit-s-2"] == first["quality-dit-s-2"] and "[1]" not in text
    _, third, _ = run(changed, "--force", "--only", "mine")
    assert third == second


@pytest.mark.slow
def test_json_has_the_rows_and_their_scores(whole: Place) -> None:
    shown = whole.bench("--json")
    rows = {row["label"]: row for row in json.loads(shown.stdout)}
    assert rows.keys() == {"token downsampling", "guided", "plain"}
    fids = [whole.scores()[cell.file]["fid"] for cell in whole.cells() if cell.row.label == "plain"]
    found = {
        name: value for name, value in rows["plain"].items() if name.startswith("fid mean (few, digits, ")
    }
    assert len(found) == 2  # with and without guidance
    (mean,) = [value for name, value in found.items() if name.endswith(", no guidance)")]
    assert {*found.values()} == {mean, None}
    assert mean == pytest.approx(np.mean(fids))


@pytest.mark.slow
def test_python_has_the_same_table(whole: Place, tmp_path: Path) -> None:
    places = {"protocol": whole.folder / "few.toml", "results": whole.results, "work": whole.work}
    found = bench.ablate(whole.folder / "own.toml", **places)
    shown = json.loads(whole.bench("--json").stdout)
    assert list(found.columns) == list(shown[0]) and len(found) == len(shown) == 3
    for name in (name for name in shown[0] if " mean (" in name):
        expected = [np.nan if row[name] is None else row[name] for row in shown]
        np.testing.assert_array_equal(found[name].astype(float), expected)
    study = tmp_path / "own.toml"
    study.write_text('title = "t"\nseeds = [0]\n[[rows]]\nlabel = "it raises"\nbackbone = "throws"\n')
    own = PLUGIN.partition('@registry.register("diverges")')[0].replace('"raises"', '"throws"')
    (tmp_path / "broken.py").write_text(own)
    places |= {"results": tmp_path / "results", "work": tmp_path / "work"}
    with pytest.warns(UserWarning, match="it raises, seed 0 failed: RuntimeError: not today"):
        found = bench.ablate(study, plugins=[str(tmp_path / "broken.py")], **places)
    assert found["parameters"].tolist() == [1]  # its cost is counted all the same


def groups_of(folder: Path, titles: str) -> list[Group]:
    """A group for each letter, with a job that does nothing."""
    return [Group(run=folder / f"run-{i}", jobs=(made.job(title, folder),)) for i, title in enumerate(titles)]


def plan_of(runs: int, processes: int) -> Any:
    """What of a plan decides how a machine is shared."""
    protocol = SimpleNamespace(training=SimpleNamespace(processes=processes))
    cells = [SimpleNamespace(run=str(i), protocol=protocol) for i in range(runs)]
    return SimpleNamespace(wanted=cells, todo=[None])


def test_threads_follow_from_jobs_and_not_from_what_is_left(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(local, "usable_cores", lambda: 8)
    begun = []

    def popen(command: list[str], env: dict[str, str], **_: Any) -> Any:
        begun.append(env.get("OMP_NUM_THREADS"))
        raise InterruptedError

    monkeypatch.setattr(subprocess, "Popen", popen)
    for processes, lists in ((4, 1), (4, 9), (2, 1), (1, 3)):
        with pytest.raises(InterruptedError):
            executor("local", jobs=processes).run(groups_of(tmp_path, "a" * lists), work=tmp_path)
    assert begun == ["2", "2", "4", None]
    begun.clear()
    for runs, left in ((20, 1), (3, 2), (1, 1)):
        with pytest.raises(InterruptedError):
            made = executor("local").for_plan(plan_of(runs, 1))
            made.run(groups_of(tmp_path, "a" * left), work=tmp_path)
    assert begun == ["1", "2", None]


def test_by_default_each_gpu_or_else_each_core_has_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: 8)

    def jobs(threads: str, gpus: str, runs: int, processes: int, given: int | None = None) -> int:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        found = executor("local", **({} if given is None else {"jobs": given})).for_plan(
            plan_of(runs, processes)
        )
        assert found.at_once(100) == found.jobs and found.at_once(1) == 1
        return found.jobs

    assert [jobs("", "", runs, 1) for runs in (20, 3, 0)] == [8, 3, 1]
    assert [jobs(threads, "", 20, 1) for threads in ("1", "4", "16", "4,2")] == [8, 2, 1, 8]
    assert [jobs("", "", 20, processes) for processes in (4, 16)] == [2, 1]
    assert [jobs("", "0,1,2,3", 20, processes) for processes in (1, 4, 8)] == [4, 1, 1]
    assert [jobs("", "0", 20, 1), jobs("1", "", 20, 4, given=5)] == [1, 5]
    # What CUDA takes for no GPU, and for the end of the list.
    assert [jobs("", gpus, 20, 1) for gpus in ("-1", "none", "NoDevFiles", " ", "-1,0", "0,-1,1")] == [
        8
    ] * 5 + [1]
    assert [jobs("", gpus, 20, 1) for gpus in ("MIG-a,MIG-b", "GPU-a,MIG-GPU-b/1/0,2")] == [2, 3]


@pytest.mark.parametrize("visible", [None, "GPU-a, GPU-b", ""])
def test_of_several_gpus_each_process_has_one(tmp_path: Path, monkeypatch: Any, visible: str | None) -> None:
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\necho GPU-a\necho GPU-b\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(driver.parent), prepend=os.pathsep)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    begun, popen = [], subprocess.Popen

    def begin(command: list[str], **options: Any) -> Any:
        if command[0] == "nvidia-smi":
            return popen(command, **options)
        begun.append(options["env"].get("CUDA_VISIBLE_DEVICES"))
        return popen(["false"], **options)

    monkeypatch.setattr(subprocess, "Popen", begin)
    groups = groups_of(tmp_path, "abc")
    assert set(executor("local", jobs=3).run(groups, work=tmp_path)) == {"a", "b", "c"}
    assert begun[:3] == (["GPU-a", "GPU-b", "GPU-a"] if visible != "" else ["", "", ""])
    begun.clear()
    executor("local").run(groups[:1], work=tmp_path)
    assert begun == [visible]


# ---- mistakes ----


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["downsamplr"], "unknown study 'downsamplr'. Did you mean 'downsampler'?"),
        (["toy", "--protocol", "mikro"], "unknown protocol 'mikro'"),
        (["toy", "--seeds", "0,x"], "--seeds takes whole numbers separated by commas, not '0,x'"),
        (["toy", "--seeds", "1,1"], "seeds = [1, 1]: each is 0 or more, below 2⁶³, and there once"),
        (["toy", "--seeds", "12345678901234567890123"], "seeds = [12345678901234567890123]: each"),
        (["toy", "--seeds", ""], "--seeds takes whole numbers"),
        (["toy", "--only", "DiT-UNett"], "has no row 'DiT-UNett'. Did you mean 'DiT-UNet'?"),
        (["toy", "--data-option", "root"], "--data-option takes KEY=VALUE"),
        (["toy", "--work", "{file}/x"], "cannot work in"),
        (["toy", "--shard", "3"], "a shard is PART/PARTS, such as 3/16"),
        (["toy", "--shard", "0/2"], "not '0/2'"),
        (["toy", "--shard", "3/2"], "not '3/2'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_runs(tmp_path: Path, arguments: list[str], told: str) -> None:
    (tmp_path / "file").write_text("")
    arguments = [text.format(file=tmp_path / "file") for text in arguments]
    places = ["--results", str(tmp_path / "r")]
    if "--work" not in arguments:
        places += ["--work", str(tmp_path / "w")]
    done = CliRunner().invoke(app, ["ablate", *arguments, *places])
    assert told in str(done.exception) and "\n" not in str(done.exception)
    assert not (tmp_path / "r").exists() and not (tmp_path / "w").exists()


def test_studies_are_listed() -> None:
    shown = CliRunner().invoke(app, ["studies"])
    assert shown.exit_code == 0 and all(name in shown.output for name in studies.names())
