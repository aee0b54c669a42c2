"""Groups of jobs: who may begin which, and what becomes of those that another process is at."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from bench import studies
from bench.cli import app, watch
from bench.cli.output import span
from bench.cli.watch import View
from bench.studies import worker
from bench.studies.cells import cells
from bench.studies.executors import Backlog, Group, Job, executor, groups, local
from bench.studies.watching import Activity, Meter, Usage, Watcher
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
        assert "process" in worker.work(one.message, [], pytest.fail)
        assert leases.look(one.leases[0]) is None


def test_no_more_is_begun_than_fits_in_memory(tmp_path: Path) -> None:
    small, large, huge = (
        replace(group(tmp_path, name), memory=need) for name, need in (("s", 3), ("l", 6), ("h", 99))
    )

    def room(beside: list[Group | None], gpus: tuple[str, ...] = ("a", "a", "a")) -> Callable[[Group], bool]:
        busy = [SimpleNamespace(group=each, gpus=[gpu]) for each, gpu in zip(beside, gpus[1:], strict=False)]
        ours = SimpleNamespace(group=None, gpus=[gpus[0]])
        return local._room(ours, [ours, *busy], 10)

    backlog = Backlog([huge, large, small])
    assert backlog.take(room([large])) == small  # the others wait
    assert backlog.take(room([small])) == large
    assert backlog.take(room([small, large])) is None
    assert backlog.take(room([small], ("a", "b"))) == huge  # alone on its GPU, whatever it needs


def test_the_gpus_of_a_machine_are_divided_among_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [local._share("abcd", i, 2) for i in range(2)] == [["a", "b"], ["c", "d"]]
    assert [local._share("ab", i, 1) for i in range(3)] == [["a"], ["b"], ["a"]]
    monkeypatch.setattr(local, "_gpus", lambda: ["a", "b", "c"])
    message = {"protocol": {"training": {"processes": 2}}}
    pair = Group((tmp_path / "lease",), (Job("pair", tmp_path / "none", None, message),))
    with pytest.raises(UsageError, match="2 cells at once of 2 processes each need 4 GPUs, but there are 3"):
        executor("local", jobs=2).run([pair], work=tmp_path)
    with pytest.raises(UsageError, match=r"2 processes needs whole GPUs, not gpus = 0.5"):
        executor("ray", gpus=0.5).run([pair], work=tmp_path)


def test_clusters_are_told_what_a_cell_needs(tmp_path: Path) -> None:
    message = {"protocol": {"training": {"processes": 2}}}
    pair = Group((tmp_path / "lease",), (Job("pair", tmp_path / "none", None, message),), 3 * 2**30)
    one = replace(group(tmp_path, "a"), memory=2**30)
    on_ray, on_gpus = executor("ray", cpus=4), executor("ray", gpus=1)
    assert on_ray.resources(pair, 1e12).items() >= {"num_cpus": 8, "memory": 6 * 2**30}.items()
    assert on_ray.resources(pair, 2e9)["memory"] == 2e9  # all that the largest node has
    assert on_gpus.resources(pair, 1e12).items() >= {"num_gpus": 2, "memory": None}.items()
    assert executor("ray", memory=7).resources(pair, 1e12)["memory"] == 7 * 2**30
    array = executor("slurm", cpus=3).parameters([one, pair])
    assert array.items() >= {"cpus_per_task": 6, "mem_gb": 12}.items() and "gpus_per_node" not in array
    on_gpus = executor("slurm", gpus=1).parameters([one, pair])
    assert on_gpus["gpus_per_node"] == 2 and "mem_gb" not in on_gpus
    assert executor("slurm", memory=7.0).parameters([pair])["mem_gb"] == 7.0


def test_what_measuring_took_is_read_from_the_records(tmp_path: Path) -> None:
    study = studies.load("downsampler")
    first, second, third = cells(study, protocols.load("smoke"), [0])[:3]
    on_gpu = made.ENVIRONMENT.model_copy(update={"device": "Some GPU"})
    made.put(tmp_path, made.quality(first.request))
    made.put(tmp_path, made.quality(second.request))
    made.put(tmp_path, made.quality(third.request), environment=on_gpu)
    runs = {first.file: "a", second.file: "a", third.file: "b", "nowhere": "b"}
    usage = Meter(tmp_path, runs).usage(runs)
    assert usage == Usage(cores=2 * (1 + 5 + 5), gpus=6)  # "a" was trained once
    assert str(Usage(7200, 9000)) == "2.00 core-hours and 2.50 GPU-hours" and str(Usage()) == "0 core-hours"


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


def test_the_time_left_counts_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, done, found = [0.0], [0], list[Activity]()
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    watcher: Any = SimpleNamespace(look=lambda: found)
    view = View(10, lambda: done[0], watcher, Usage)

    def told(at: float, measured: int, **steps: int) -> str:
        clock[0], done[0] = at, measured
        activity = Activity("", "here", 1, "", "training", 0, 100, 1.0, 1.0, 0.0, Usage())
        found[:] = [replace(activity, name=name, done=step) for name, step in steps.items()]
        return view.summary(found).rpartition("about ")[2]

    told(0, 0, first=0, second=40)  # the second goes on with an earlier call's training
    # Of ten cells 9 − 0.9 are left; one and half a cell were done meanwhile.
    assert told(100, 1, second=90) == f"{span(100 / 1.5 * 8.1)} left"
    found[:] = [replace(found[0], description="held-out loss", done=1)]
    assert view.summary(found).endswith(f"about {span(100 / 1.5 * 8.1)} left")
    assert told(120, 2) == f"{span(120 / 1.6 * 8)} left"
    assert "left" not in told(500, 10)


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
    job = {"protocol": {"training": {"batch_size": 16, "processes": 1}}}
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
    assert one["usage"] == {"cores": 4.0 * torch.get_num_threads(), "gpus": 0.0}
    assert found["usage"] == {"cores": 2 * (1.0 + 3.0 + 2.0), "gpus": 0.0}  # as the record says
    assert {each.name for each in Watcher(tmp_path).look()} == {every[0].run, "of-another-study"}
    view = View(len(every), lambda: 1, Watcher(tmp_path, {every[0].run}), lambda: Usage(cores=5400))
    cell, where, doing, counted, rate, left = [next(column.cells).plain for column in view.table().columns]
    assert (cell, doing, counted) == (every[0].title, "training", "3 of 8") and str(one["pid"]) in where
    assert (rate, left) == ("8.0", "10 s")
    # Of three cells two are left, less the 3 of 8 steps, at 16 s each.
    title = "1 of 3 measured, 1 under way, 1.50 core-hours so far, about 26 s of training left"
    assert view.table().title == title
    monkeypatch.setattr(watch, "EVERY", 0.05)
    with view:
        time.sleep(0.3)
    first, second, *_, last = capsys.readouterr().err.splitlines()
    assert first == last == title
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
