"""Records made up for tests: complete, with numbers that a test chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import records, studies
from bench.records.schema import (
    Context,
    Cost,
    CostRequest,
    Device,
    Environment,
    Fingerprints,
    Network,
    Part,
    Profile,
    ProfileRequest,
    Quality,
    QualityRequest,
    Rates,
    Record,
    Result,
    SamplingSettings,
    Seconds,
    Share,
    Speed,
    SpeedRequest,
    TrainingSettings,
)
from bench.studies import Study
from bench.studies.cells import Cell
from bench.studies.cells import cells as cells_of
from bench.studies.jobs import Group, Job
from bench.studies.plan import Plan
from bench.training import protocols

ENVIRONMENT = Environment(
    device="Some CPU",
    cpu="Some CPU",
    cores=2,
    threads=2,
    python="3.11.7",
    torch="2.15.0",
    diffusers=None,
    version="0.1.0",
    commit="0123456789abcdef",
    clean=True,
    date="2026-11-21T00:00:00+00:00",
)
COST_REQUEST = CostRequest(model="udit-t", config={"ffn": "mlp", "depth": [1, 1]})
SPEED_REQUEST = SpeedRequest(
    model="udit-t", config={"ffn": "mlp", "input_size": 32}, device_name="Some CPU", batch_size=8
)
PROFILE_REQUEST = ProfileRequest(model="udit-t", config={"ffn": "mlp"}, device_name="Some CPU")
QUALITY_REQUEST = QualityRequest(
    model="udit-t",
    config={"ffn": "mlp"},
    data="digits",
    training=TrainingSettings(objective="ddpm", steps=9, batch_size=8, learning_rate=1e-3, ema_decay=0.9),
    sampling=SamplingSettings(sampler="ddim", steps="3", num=1000),
    step=9,
    seed=0,
    extractor="digits",
)
FINGERPRINTS = Fingerprints(data="d1", extractor="d63e10104591")  # of the `digits` that is shipped


def cost(request: CostRequest = COST_REQUEST, **changed: Any) -> Cost:
    """A cost of one million parameters in three stages."""
    values = {
        "parameters": 10**6,
        "parameters_deployed": 10**6,
        "macs": 7,
        "flops": 14,
        "paper_gflops": 0.5,
        "activation_bytes": 2**20,
        "uncounted": {},
        "stages": [Part(name=f"stage{i}", paper=10**8, macs=1) for i in range(3)],
    }
    return Cost(request=request, **values | changed)


def speed(request: SpeedRequest = SPEED_REQUEST, **changed: Any) -> Speed:
    """A speed of a hundred images a second."""
    values = {
        "batch_size": 8,
        "batch_reason": "as asked",
        "images_per_second": 100.0,
        "quartiles": (90.0, 110.0),
        "latency_ms": (11.0, 12.0),
        "peak_bytes": 64,
        "macs": 7,
        "flops_per_second": 1e9,
        "peak_share": 0.5,
        "intensity": 3.0,
        "ridge": 2.0,
        "bound": "compute",
        "ratio": None,
        "interval": None,
        "compiled": "no",
        "compile_seconds": None,
        "sampling": None,
        "seconds_per_image": (0.01, 0.01),
        "device": Device(name="Some CPU", threads=2, clock_mhz=None, peak_flops=2e9, bandwidth=1e9),
    }
    return Speed(request=request, **values | changed)


def profile(request: ProfileRequest = PROFILE_REQUEST, **changed: Any) -> Profile:
    """A profile of one stage and one operator."""
    parts = (Share(name="all", seconds=1.0, time_share=1.0, macs=7, macs_share=1.0, ratio=1.0),)
    values = {"input_size": 32, "threads": 2, "seconds": 1.0, "overhead": 0.0}
    return Profile(request=request, stages=parts, operators=parts, **values | changed)


def quality(request: QualityRequest = QUALITY_REQUEST, gflops: float = 0.01, **scores: Any) -> Quality:
    """A FID of 20; `loss` is told as the scores are."""
    values = {"fid": 20.0, "sfid": None, "inception_score": 7.0, "precision": 0.5, "recall": 0.25}
    loss = scores.pop("loss", 0.1)
    return Quality(
        request=request,
        scores={**values, "kid": 2e-4} | scores,
        loss=loss,
        sample_count=2000,
        reference_count=1797,
        network=Network(parameters=10, parameters_deployed=10, macs=10, paper_gflops=gflops),
        seconds=Seconds(train=1.0, sample=3.0, eval=2.0),
        images_per_second=Rates(train=10.0, sample=5.0),
    )


def put(
    folder: Path,
    result: Result,
    protocol: str | None = None,
    fingerprints: Fingerprints = FINGERPRINTS,
    environment: Environment = ENVIRONMENT,
) -> Path:
    """Write the record of a result; its file."""
    record = Record(
        request=result.request,  # type: ignore[attr-defined]
        result=result,  # type: ignore[arg-type]
        context=Context(protocol=protocol),
        fingerprints=fingerprints,
        environment=environment,
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / record.file
    path.write_text(records.dumps(record), encoding="utf-8")
    return path


def alter(path: Path, *place: str, value: Any) -> None:
    """Put another value at a place of a record's file."""
    table = json.loads(path.read_text(encoding="utf-8"))
    inner = table
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(table), encoding="utf-8")


def job(title: str, folder: Path) -> Job:
    """One whose record nobody writes."""
    return Job(title=title, request=COST_REQUEST, results=folder)


def pair(folder: Path) -> Group:
    """A group whose only cell is trained by two processes."""
    smoke = protocols.load("smoke")
    training = smoke.training.model_copy(update={"processes": 2})
    cell = cells_of(studies.load("toy"), smoke.model_copy(update={"training": training}), [0])[0]
    (found,) = groups([cell], {}, results=folder, work=folder)
    return found


def groups(
    cells: Sequence[Cell], costs: Mapping[str, CostRequest], *, results: Path, work: Path
) -> list[Group]:
    """What a plan of these cells and costs has done, without a look at whether it can be."""
    study = Study("", "", "", (), (), ())
    whole = {"cells": cells, "wanted": cells, "todo": cells, "records": {}, "outdated": {}, "costs": costs}
    places = {"results": results, "work": work, "data_options": {}, "reference": None, "fresh": False}
    plan = Plan(study=study, protocol=cells[0].protocol, **whole, **places)
    vars(plan)["_checker"] = None
    return plan.groups()
