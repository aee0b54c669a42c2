"""Whether a record was made by the code and data that are here now. Nothing here imports torch by itself.

Fingerprints are compared that both sides have. The backbone's code is read from source; the content of a
dataset that lies in files of the user's is looked at where its options name a path.

The harness's own code has versions instead: constants beside the code, which people raise when numbers
change. Better code that gives the same numbers makes no record stale. `tests/test_versions.py` fails when
numbers change and no version was raised.
"""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import registry
from bench import data as datasets
from bench.diffusion import objectives, samplers
from bench.metrics.extractors import extractors, shipped_weights
from bench.metrics.scores import SCORES, scores
from bench.records.schema import (
    Fingerprints,
    NetworkRequest,
    QualityRequest,
    Record,
    Request,
    ScoredRequest,
)
from bench.studies import Study
from bench.studies.cells import Cell, cost_request
from registry import source
from registry.errors import UsageError
from registry.fingerprints import equivalent
from registry.plugins import Registry
from registry.values import split_options

_WORDS = {
    "code": "the backbone's code has changed",
    "reader": "the dataset's options have changed",
    "data": "the dataset's content has changed",
    "held_out_data": "the held-out images have changed",
    "scorer": "the extractor's code has changed",
    "extractor": "the extractor's weights have changed",
}


def fingerprints(
    request: Request, data_options: Mapping[str, Any] | None = None, scores: Iterable[str] | None = None
) -> Fingerprints:
    """Of the code and data that would answer a request now.

    Args:
        request: of a measurement.
        scores: names of those that samples get; by default those that are marked as recorded, and of samples
            of no cell all.
        data_options: of its dataset; None where they are not known, as in a report.
    """
    if isinstance(request, ScoredRequest):
        return Fingerprints(
            scorer=_code("extractor", request.extractor),
            extractor=shipped_weights(request.extractor),
            versions=score_versions(SCORES if scores is None else scores),
        )
    assert isinstance(request, NetworkRequest)
    code = _code("backbone", request.model)
    if not isinstance(request, QualityRequest):
        return Fingerprints(code=code, versions=_versions(request))
    reader = content = held_out = None
    if data_options is not None:
        given = request.data_options | dict(data_options)
        options = datasets.datasets.check(request.data, given)
        paths = {key: value for key, value in options.items() if isinstance(value, Path)}
        reader = " ".join(f"{key}={value}" for key, value in sorted(options.items()) if key not in paths)
        if paths:
            content = datasets.load(request.data, **given).digest
            held_out = datasets.held_out(request.data, **given).digest if request.held_out else None
    return Fingerprints(
        code=code,
        reader=reader,
        data=content,
        held_out_data=held_out,
        scorer=_code("extractor", request.extractor) if request.extractor else None,
        extractor=shipped_weights(request.extractor) if request.extractor else None,
        versions=_versions(request, scores),
    )


def _versions(request: Request, wanted: Iterable[str] | None = None) -> dict[str, int | str]:
    """Of the harness's code that answers a request; see `Fingerprints.versions`."""
    if request.kind == "cost":
        return {"cost": _constant("bench.cost.conventions")}
    if not isinstance(request, QualityRequest):
        return {}
    found: dict[str, int | str] = {"trainer": _constant("bench.training.loop")}
    found |= _version("dataset", datasets.datasets, request.data)
    if request.training.objective:
        found |= _version("objective", objectives, request.training.objective)
    if request.held_out:
        found["held_out"] = _constant("bench.metrics.held_out")
    if request.sampling:
        found["sampling"] = _constant("bench.sampling.plan")
        found |= _version("sampler", samplers, request.sampling.sampler)
        recorded = [name for name, score in SCORES.items() if score.recorded]
        found |= score_versions(recorded if wanted is None else wanted)
    return found


def score_versions(names: Iterable[str]) -> dict[str, int | str]:
    """Of scores, and of the code of extractors that they name."""
    found: dict[str, int | str] = {}
    for name in names:
        found |= _version("score", scores, name)
        extractor = SCORES[name].extractor
        if extractor and (code := _code("extractor", extractor)):
            found[f"extractor {extractor}"] = code
    return found


def _constant(module: str) -> int:
    """The `VERSION` of one of our modules, read from its source."""
    found = source.read(module, source.file(source.ROOT, module))
    assert found is not None
    version: int = found.evaluate(ast.Name("VERSION", ast.Load(), lineno=1, col_offset=0))
    return version


def _version(kind: str, plugins: Registry, text: str) -> dict[str, int | str]:
    """By kind and name, the version of a built-in plugin or the fingerprint of a user's; else nothing.

    Args:
        kind, plugins: of what.
        text: its name, and options behind it.
    """
    try:
        name, _ = split_options(text)
        module = plugins.find(name).module
        if not module.startswith("bench."):
            return {f"{kind} {name}": plugins.fingerprint(name)}
    except UsageError:
        return {}
    version = _constant(module) if plugins is datasets.datasets else plugins.attribute(name, "version")
    return {f"{kind} {name}": version}


def stale(record: Record, present: Fingerprints) -> str | None:
    """Why a record is not what would be measured now, in words; None where nothing says so.

    Equivalent code computes the same numbers, but not at the same speed.
    """
    same = operator.eq if record.request.kind == "speed" else equivalent
    for name, words in _WORDS.items():
        then, now = getattr(record.fingerprints, name), getattr(present, name)
        if then is not None and now is not None and not same(then, now):
            return words
    for name, version in present.versions.items():
        if record.fingerprints.versions.get(name, version) != version:
            return f"the harness's own code of {name} has changed"
    return None


def outdated(record: Record, data_options: Mapping[str, Any] | None = None) -> str | None:
    """Why a record is stale, in words; None where nothing says so. `data_options`: see `fingerprints`."""
    return stale(record, fingerprints(record.request, data_options, SCORES))


def compared(record: Record) -> bool:
    """Whether the code of a record's backbone is registered here, so that it can be compared."""
    request = record.request
    return not isinstance(request, NetworkRequest) or _code("backbone", request.model) is not None


def stale_records(
    records: Mapping[str, Record], cells: Iterable[Cell], study: Study, data_options: Mapping[str, Any] | None
) -> dict[str, str]:
    """Records of a study's cells and costs that are stale, by file, and why."""
    found: dict[str, str] = {}
    costs = filter(None, map(cost_request, study.rows))
    requests: list[Request] = [*(cell.request for cell in cells), *costs]
    seen: dict[str, Fingerprints] = {}
    for request in requests:
        record = records.get(request.file)
        if record is None:
            continue
        whole = ("kind", "model", "data", "data_options", "extractor", "held_out")
        deciding = dict.fromkeys(whole, True) | {"training": {"objective"}, "sampling": {"sampler"}}
        key = json.dumps(request.model_dump(include=deciding), sort_keys=True)
        if key not in seen:
            seen[key] = fingerprints(request, data_options, SCORES)
        if reason := stale(record, seen[key]):
            found[request.file] = reason
    return found


@cache
def _code(kind: str, name: str) -> str | None:
    """The fingerprint of a plugin's code; None of a name that is not registered here."""
    plugins = {"backbone": registry.backbones, "extractor": extractors}[kind]
    try:
        return plugins.fingerprint(name)
    except UsageError:
        return None
