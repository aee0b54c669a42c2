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


def test_the_time_left_counts_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, done, found = [0.0], [0], list[Activity]()
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    watcher: Any = SimpleNamespace(look=lambda: found)
    view = View(10, lambda: done[0], watcher)

    def told(at: float, measured: int, **steps: int) -> str:
        clock[0], done[0] = at, measured
        activity = Activity("", "", "here", "training", 0, 100, 1.0, 1.0)
        found[:] = [replace(activity, run=name, done=step) for name, step in steps.items()]
        return view.summary(found).rpartition("about ")[2]

    told(0, 0, first=0, second=40)  # the second goes on with an earlier call's training
    # Of ten cells 9 − 0.9 are left; one and half a cell were done meanwhile.
    assert told(100, 1, second=90) == f"{span(100 / 1.5 * 8.1)} left"
    found[:] = [replace(found[0], description="sampling and scoring", seconds_left=None)]
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
        assert watcher.look() == [
            Activity(every[0].run, every[0].title, holder, "training", 3, 8, 8.0, 5 * batch / 8)
        ]
        view = View(len(every), lambda: 1, watcher)
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
        assert second == f"  {every[0].title} ({holder}): training, 3 of 8, 8.0, {left}"
        log.write_text('{"step": 8, "images_per_second": 8.0}\n')
        (one,) = watcher.look()
        assert (one.description, one.images_per_second, one.seconds_left) == (
            "sampling and scoring",
            None,
            None,
        )
    assert watcher.look() == []
