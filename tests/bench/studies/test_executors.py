"""Groups of jobs: who may begin which, and what becomes of those that another process is at."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from bench import studies
from bench.cli import app, watch
from bench.cli.watch import View
from bench.studies import worker
from bench.studies.cells import cells
from bench.studies.executors import Backlog, Group, Job, executor, groups
from bench.studies.watching import Watcher
from bench.training import protocols
from bench.utils import leases
from registry.errors import UsageError
from tests.bench import made


def group(folder: Path, name: str) -> Group:
    """One job under two leases, as of a training run."""
    job = Job(name, folder / f"{name}.json", None, {})
    return Group((folder / "records" / name, folder / "runs" / name), (job,))


def test_what_another_process_is_at_waits_and_what_the_dead_left_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = (group(tmp_path, name) for name in "abc")
    now = [0.0]
    backlog = Backlog([a, b, c])
    backlog._watch.clock = lambda: now[0]
    with monkeypatch.context() as patch:
        patch.setattr(leases, "_machine", lambda: "another")
        of_a = [leases.claim(place) for place in a.leases]
        of_b = leases.claim(b.leases[1])
    assert backlog.take() == c and backlog.take() is None and len(backlog) == 2
    backlog.put_back(c)
    assert backlog.take() == c
    for lease in of_a:
        lease.release()
    assert backlog.take() == a and backlog.take() is None
    backlog.put_back(a.after(1))  # nothing is left of it
    for _ in range(4):
        now[0] += leases.EXPIRY / 4
        of_b.beat()
        assert backlog.take() is None
    now[0] += leases.EXPIRY + 1
    assert backlog.take() == b and not backlog  # both leases of it are free
    assert leases.look(b.leases[1]) is None


def test_a_group_is_begun_under_all_of_its_leases_or_not(tmp_path: Path) -> None:
    one = group(tmp_path, "a")
    with leases.claim(one.leases[1]):
        assert "process" in worker.work(one.message, pytest.fail)
        assert leases.look(one.leases[0]) is None


def test_a_record_is_measured_unless_it_changed_since_it_was_planned(tmp_path: Path) -> None:
    study = studies.load("downsampler")
    cell = cells(study, protocols.load("smoke"), [0])[0]

    def planned() -> Job:
        (found,) = groups([cell], {}, results=tmp_path, work=tmp_path, data_options={})
        return found.jobs[0]

    first = planned()
    assert first.replaces is None and not first.done
    made.put(tmp_path, made.quality(cell.request), "smoke")
    second = planned()
    assert first.done and second.replaces and not second.done
    made.put(tmp_path, made.quality(cell.request, fid=21.0), "smoke")
    assert second.done


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("rai", {}, "unknown executor 'rai'. Did you mean 'ray'"),
        ("local", {"address": "auto"}, "executor 'local' takes no option 'address'. It takes: jobs"),
        ("local", {"jobs": 0}, "executor local: jobs = 0 is no number of processes"),
    ],
)
def test_a_wrong_executor_is_one_clear_line(name: str, options: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError) as raised:
        executor(name, **options)
    assert told in str(raised.value)


def test_what_is_under_way_is_read_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = studies.load("downsampler")
    every = cells(study, protocols.load("smoke"), [0])
    made.put(tmp_path, made.quality(every[1].request), "smoke")
    arguments = ["studies", "--watch", "downsampler", "--protocol", "smoke", "--seeds", "0", "--json"]
    lease = leases.claim(tmp_path / ".leases" / every[0].run)
    other = leases.claim(tmp_path / ".leases" / "of-another-study")
    now = [5.0]
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: now[0]))
    job = {"protocol": {"training": {"batch_size": 16}}}
    progress = worker._telling([lease], every[0].title, job, lambda: None)
    progress("training", 1, 8)
    now[0] += 4
    progress("training", 3, 8)
    lease.beat()
    found = json.loads(CliRunner().invoke(app, [*arguments, "--results", str(tmp_path)]).stdout)
    assert (found["cells"], found["measured"]) == (len(every), 1)
    (one,) = found["under_way"]
    assert (one["title"], one["description"], one["done"], one["total"]) == (every[0].title, "training", 3, 8)
    assert one["images_per_second"] == 2 * 16 / 4 and one["seconds_left"] == 5 * 4 / 2
    assert {each.name for each in Watcher(tmp_path).look()} == {every[0].run, "of-another-study"}
    view = View(len(every), lambda: 1, Watcher(tmp_path, {every[0].run}))
    cell, where, doing, counted, rate, left = [next(column.cells).plain for column in view.table().columns]
    assert (cell, doing, counted) == (every[0].title, "training", "3 of 8") and str(one["pid"]) in where
    assert (rate, left) == ("8.0", "10 s")
    assert view.table().title == f"1 of {len(every)} measured, 1 under way"
    monkeypatch.setattr(watch, "EVERY", 0.05)
    with view:
        time.sleep(0.3)
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first == view.table().title
    assert second == f"  {every[0].title} ({where}): training, 3 of 8, 8.0, 10 s"
    progress("held-out loss", 64, 512)
    progress("training", 4, 8)
    now[0] += 100
    progress("held-out loss", 64, 512)  # of the next checkpoint
    now[0] += 4
    progress("held-out loss", 192, 512)
    lease.beat()
    (one,) = Watcher(tmp_path, {every[0].run}).look()
    assert (one.images_per_second, one.seconds_left) == ((192 - 64) / 4, 10.0)
    lease.release()
    other.release()
    assert Watcher(tmp_path).look() == []
