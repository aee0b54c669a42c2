"""Groups of jobs: who may begin which, and what becomes of those that another process is at."""

import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import studies
from bench.cli import watch
from bench.cli.watch import View
from bench.records.schema import CostRequest
from bench.studies import worker
from bench.studies.cells import cells
from bench.studies.executors import Backlog, executor, local
from bench.studies.jobs import Group, Job
from bench.studies.watching import Activity, Watcher
from bench.training import protocols
from bench.utils import locks
from bench.utils.text import span
from registry.errors import UsageError
from tests.bench import made


def group(folder: Path, name: str) -> Group:
    """One job in the folder of a run."""
    return Group(run=folder / "runs" / name, jobs=(made.job(name, folder),))


def test_what_another_process_is_at_waits(tmp_path: Path) -> None:
    a, b = group(tmp_path, "a"), group(tmp_path, "b")
    backlog = Backlog([a, b])
    with locks.held(a.run):
        assert backlog.take() == b and backlog.take() is None and len(backlog) == 1
        assert worker.work(a, [], pytest.fail)  # nothing of it is done
    assert backlog.take() == a and not backlog


def test_a_crash_is_of_the_first_job_without_a_record(tmp_path: Path) -> None:
    jobs = [
        Job(title=name, request=CostRequest(model=name, config={}), results=tmp_path)
        for name in ("failed", "measured", "crashed", "later")
    ]
    made.put(tmp_path, made.cost(jobs[1].request))
    told = dict[str, str | None]()
    backlog = Backlog([], told.__setitem__)
    backlog.crash(Group(run=None, jobs=tuple(jobs[1:])), "its node is gone")
    assert told == {"measured": None, "crashed": "its node is gone"} and backlog.failed.keys() == {"crashed"}
    backlog = Backlog([])
    backlog.crash(Group(run=None, jobs=(jobs[0], jobs[1], jobs[3])), "its node is gone")
    assert backlog.failed.keys() == {"failed"}
    assert [job.title for job in backlog.take().jobs] == ["later"]


def test_the_gpus_of_a_machine_are_divided_among_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [local._share("abcd", i, 2) for i in range(2)] == [["a", "b"], ["c", "d"]]
    assert [local._share("ab", i, 1) for i in range(3)] == [["a"], ["b"], ["a"]]
    monkeypatch.setattr(local, "_gpus", lambda: ["a", "b", "c"])
    pair = made.pair(tmp_path)
    with pytest.raises(UsageError, match="2 cells at once of 2 processes each need 4 GPUs, but there are 3"):
        executor("local", jobs=2).run([pair], work=tmp_path)
    with pytest.raises(UsageError, match=r"2 processes needs whole GPUs, not gpus = 0.5"):
        executor("ray", gpus=0.5).run([pair], work=tmp_path)


def test_clusters_are_told_what_a_cell_needs(tmp_path: Path) -> None:
    pair = made.pair(tmp_path)
    one = group(tmp_path, "a")
    on_ray, on_gpus = executor("ray", cpus=4), executor("ray", gpus=1)
    assert on_ray.resources(pair).items() >= {"num_cpus": 8, "memory": None}.items()
    assert on_gpus.resources(pair).items() >= {"num_gpus": 2, "memory": None}.items()
    assert executor("ray", memory=7).resources(pair)["memory"] == 7 * 2**30
    array = executor("slurm", cpus=3).parameters([one, pair])
    assert array["cpus_per_task"] == 6 and not array.keys() & {"gpus_per_node", "mem_gb"}
    on_gpus = executor("slurm", gpus=1).parameters([one, pair])
    assert on_gpus["gpus_per_node"] == 2 and "mem_gb" not in on_gpus
    told = executor("slurm", partition="long", hours=2.5, memory=7.0, jobs=1, account="me").parameters([pair])
    expected = {"slurm_partition": "long", "slurm_account": "me", "slurm_array_parallelism": 1}
    assert told.items() >= (expected | {"timeout_min": 150, "mem_gb": 7.0}).items()


def test_a_record_is_measured_unless_it_changed_since_it_was_planned(tmp_path: Path) -> None:
    study = studies.load("downsampler")
    cell = cells(study, protocols.load("smoke"), [0])[0]

    def planned() -> Job:
        (found,) = made.groups([cell], {}, results=tmp_path, work=tmp_path)
        return found.jobs[0]

    first = planned()
    assert first.replaces is None and not first.done
    made.put(tmp_path, made.quality(cell.request), "smoke")
    second = planned()
    assert first.done and second.replaces and not second.done
    made.put(tmp_path, made.quality(cell.request, fid=21.0), "smoke")
    assert second.done


def test_the_time_left_is_that_of_the_cells_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes do 21 cells, of which the last seven take three times as long as the others."""
    clock = [0.0]
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    jobs = {f"cell {i}": 3.0 if i >= 14 else 1.0 for i in range(21)}
    lasts = {title: 5.0 * weight for title, weight in jobs.items()}  # seconds, which the view does not know
    found: list[Activity] = []
    ended: dict[str, str | None] = {}
    watcher: Any = SimpleNamespace(look=lambda: found)
    view = View(jobs, ended, watcher)
    waiting, under_way, told = list(jobs), dict[str, float](), list[tuple[float, str]]()
    while waiting or under_way:
        for title in [title for title, begun in under_way.items() if clock[0] - begun >= lasts[title]]:
            ended[title] = None
            del under_way[title]
        while waiting and len(under_way) < 2:
            under_way[waiting.pop(0)] = clock[0]
        # As smoke has it: the part that is trained says little of a cell that is mostly sampled and scored.
        found[:] = [Activity(each, "here", "training", 0, 8, None, None) for each in under_way]
        told.append((clock[0], view.summary(found)))
        clock[0] += 0.5
    whole = told[-1][0]
    assert "left" not in told[0][1] and "left" not in told[-1][1]
    estimates = [
        (at, float(text.rpartition("about ")[2].split()[0])) for at, text in told if " s left" in text
    ]
    assert estimates[0][0] == 5.0  # as soon as the first cells are measured
    for at, left in estimates:
        assert abs(left - (whole - at)) <= 8.0  # half of the longest cell: who does the last one is not known


def test_the_time_left_counts_what_an_earlier_call_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    ended: dict[str, str | None] = {}
    watcher: Any = SimpleNamespace(look=list)
    view = View(dict.fromkeys(("first", "second", "third"), 1.0), ended, watcher)
    activity = Activity("first", "here", "training", 75, 100, 2.0, 10.0)
    # 10 s of the first, and two whole ones of 40 s.
    assert view.summary([activity]) == f"0 of 3 measured, 1 under way, about {span(90)} of training left"
    clock[0], ended["first"] = 12.0, None
    # A quarter took 12 s.
    assert view.summary([replace(activity, title="second", done=0)]).endswith("about 2 min left")
    clock[0], ended["second"] = 36.0, "it broke"
    assert view.summary([]).endswith("about 48 s left")


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("rai", {}, "unknown executor 'rai'. Did you mean 'ray'"),
        ("local", {"address": "auto"}, "executor 'local' takes no option 'address'. It takes: jobs"),
        ("local", {"jobs": 0}, "executor local: jobs must be at least 1, not 0"),
        ("ray", {"jobs": 0}, "executor ray: jobs must be at least 1, not 0"),
    ],
)
def test_a_wrong_executor_is_one_clear_line(name: str, options: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError) as raised:
        executor(name, **options)
    assert told in str(raised.value)


def test_locks_and_logs_tell_what_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = studies.load("downsampler")
    every = cells(study, protocols.load("smoke"), [0])
    made.put(tmp_path, made.quality(every[1].request), "smoke")
    run = tmp_path / "runs" / every[0].run
    run.mkdir(parents=True)
    watcher = Watcher(tmp_path, tmp_path / "runs", every)
    assert watcher.look() == []
    log = run / "log.jsonl"
    log.write_text('{"step": 1, "images_per_second": 4.0}\n{"step": 3, "images_per_second": 8.0}\n{"step": 5')
    with locks.held(run):
        batch = every[0].protocol.training.batch_size
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        assert watcher.look() == [Activity(every[0].title, holder, "training", 3, 8, 8.0, 5 * batch / 8)]
        jobs = {cell.title: 1.0 for cell in every}
        view = View(jobs, {every[1].title: None}, watcher)
        shown = [next(column.cells).plain for column in view.table().columns]
        left = span(5 * batch / 8)
        assert shown == [every[0].title, holder, "training", "3 of 8", "8.0", left]
        # Of three cells two are left, less the 3 of 8 steps.
        rest = span((len(every) - 1 - 3 / 8) * 8 * batch / 8)
        title = f"1 of {len(every)} measured, 1 under way, about {rest} of training left"
        assert view.table().title == title
        monkeypatch.setattr(watch, "EVERY", 0.05)
        with view:
            time.sleep(0.3)
        first, second, *_, last = capsys.readouterr().err.splitlines()
        assert first == last == title
        assert second == f"  {every[0].title} ({holder}): training, step 3 of 8, 8.0 images/s, {left} left"
        log.write_text('{"step": 8, "images_per_second": 8.0}\n')
        (one,) = watcher.look()
        assert (one.description, one.images_per_second, one.seconds_left) == (
            "sampling and scoring",
            None,
            None,
        )
    assert watcher.look() == []
