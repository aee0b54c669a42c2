"""Anybody's samples on record: what is written, shown, compared and refused."""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import bench
from bench import records
from bench.metrics.extractors import create
from bench.records.schema import Scored
from bench.reports import site
from bench.reports.differences import differences
from bench.reports.report import check, files, write
from bench.studies import scored
from bench.studies.published import field
from bench.studies.staleness import fingerprints, stale
from registry.errors import UsageError

HOSTILE = '<script>alert("&lt;")</script> | ../../etc/passwd =1+1 `x` ' + "é" * 50


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def sets(tmp_path) -> Path:
    """Two sets of 16×16 images, with labels or without."""
    draws = np.random.default_rng(0)
    for name, count in (("samples", 60), ("others", 60), ("reference", 80)):
        images = draws.integers(0, 256, (count, 16, 16, 3), np.uint8)
        np.savez(tmp_path / f"{name}.npz", arr_0=images)
    images = np.load(tmp_path / "samples.npz")["arr_0"]
    for name, labels in (
        ("balanced", np.arange(60) % 10),
        ("drawn", draws.integers(0, 10, 60)),
        ("few", np.arange(60)),
        ("one-class", np.zeros(60, int)),
        ("no-labels", np.zeros(60)),
    ):
        np.savez(tmp_path / f"{name}.npz", arr_0=images, arr_1=labels)
    return tmp_path


def evaluated(sets: Path, samples: str = "samples", **options):
    return bench.evaluate(
        sets / f"{samples}.npz",
        sets / "reference.npz",
        scores=options.pop("scores", ["fid", "kid"]),
        **options,
    )


def only(folder: Path) -> records.Record:
    (record,) = records.read(folder)
    return record


def test_a_record_holds_what_made_the_scores(sets) -> None:
    found = evaluated(
        sets, label="Mine, guidance 1.4", record=sets / "r", provenance="my cluster", model="DiT-S/2"
    )
    record = only(sets / "r")
    result = record.result
    assert isinstance(result, Scored)
    assert result.scores == {name: found.scores[name] for name in ("fid", "kid")}
    assert (result.samples.count, result.reference.count, result.samples.size) == (60, 80, (16, 16))
    assert (result.samples.file, result.reference.file) == ("samples.npz", "reference.npz")
    assert (result.model, result.provenance) == ("dit-s-2", "my cluster")
    assert (record.request.extractor, record.fingerprints.extractor) == ("digits", create("digits").digest)
    assert record.fingerprints.versions["score fid"] == 1 and record.environment.torch
    assert record.file.startswith("scored-Mine-guidance-1.4-")
    assert str(sets) not in (sets / "r" / record.file).read_text("utf-8")  # no place of this machine


def test_digests_stand_for_the_content(sets) -> None:
    one, again, other = (evaluated(sets, name) for name in ("samples", "few", "others"))
    assert one.sample_set.digest == again.sample_set.digest != other.sample_set.digest
    # Statistics in the reference's file enter FID: they are part of what it is.
    images = np.load(sets / "reference.npz")["arr_0"]
    np.savez(sets / "with.npz", arr_0=images, mu=np.zeros(2048), sigma=np.eye(2048))
    more = bench.evaluate(sets / "samples.npz", sets / "with.npz", scores="kid")
    assert more.reference_sets["digits"].digest != one.reference_sets["digits"].digest


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ("balanced", ("balanced", "file")),
        ("drawn", ("drawn", "file")),
        ("few", ("unknown", None)),
        ("one-class", ("unknown", None)),
        ("no-labels", ("unknown", None)),
        ("samples", ("unknown", None)),
    ],
)
def test_labels_are_read_from_the_file(sets, samples, expected) -> None:
    evaluated(sets, samples, scores=["fid"], label="x", record=sets / "r")
    result = only(sets / "r").result
    assert (result.labels, result.labels_from) == expected


def test_labels_are_declared_but_not_against_the_file(sets) -> None:
    evaluated(sets, scores=["fid"], label="x", labels="balanced", record=sets / "r")
    result = only(sets / "r").result
    assert (result.labels, result.labels_from) == ("balanced", "declaration")
    with pytest.raises(UsageError, match=r"--labels balanced: the labels in .*drawn.npz \(arr_1\) are drawn"):
        evaluated(sets, "drawn", scores=["fid"], label="y", labels="balanced", record=sets / "r")


def test_a_later_score_joins_the_record_and_other_samples_replace_it(sets) -> None:
    evaluated(sets, scores=["fid"], label="x", record=sets / "r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluated(sets, scores=["kid"], label="x", record=sets / "r")
    assert set(only(sets / "r").result.scores) == {"fid", "kid"}
    with pytest.warns(UserWarning, match="replaced the record of other samples"):
        evaluated(sets, "others", scores=["fid"], label="x", record=sets / "r")
    assert set(only(sets / "r").result.scores) == {"fid"}


def test_a_later_call_keeps_what_it_does_not_declare(sets) -> None:
    told = {"labels": "drawn", "model": "dit-s-2", "provenance": "my cluster", "published": "EDM2-S"}
    evaluated(sets, scores=["fid"], label="x", record=sets / "r", **told)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluated(sets, scores=["kid"], label="x", record=sets / "r", model="DiT-S/2")
    result = only(sets / "r").result
    assert set(result.scores) == {"fid", "kid"} and result.labels_from == "declaration"
    assert {name: getattr(result, name) for name in told} == told
    # The same images, with labels that are balanced.
    with pytest.warns(UserWarning) as warned:
        evaluated(sets, "balanced", label="x", record=sets / "r", provenance="your cluster")
    assert sorted(str(each.message) for each in warned) == [
        "the record of 'x' had labels 'drawn'; now it has 'balanced'",
        "the record of 'x' had provenance 'my cluster'; now it has 'your cluster'",
    ]
    result = only(sets / "r").result
    assert (result.labels, result.labels_from, result.provenance) == ("balanced", "file", "your cluster")
    assert (result.model, result.published) == ("dit-s-2", "EDM2-S")


@pytest.mark.parametrize(("changed", "what"), [("scorer", "code"), ("extractor", "weights")])
def test_scores_that_another_extractor_drops_are_named(sets, changed, what) -> None:
    evaluated(sets, label="x", provenance="my cluster", record=sets / "r")
    record = only(sets / "r")
    fingerprints = record.fingerprints.model_copy(update={changed: "0" * 12})
    records.write(record.result, sets / "r", fingerprints=fingerprints)
    told = f"dropped kid from the record of 'x': since then the {what} of digits changed"
    with pytest.warns(UserWarning, match=told):
        evaluated(sets, scores=["fid"], label="x", record=sets / "r")
    result = only(sets / "r").result
    assert set(result.scores) == {"fid"} and result.provenance == "my cluster"
    records.write(result, sets / "r", fingerprints=fingerprints)
    with warnings.catch_warnings():  # both are computed again, so nothing is dropped
        warnings.simplefilter("error")
        evaluated(sets, label="x", record=sets / "r")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "x"}, "both --label and --record"),
        ({"record": "r"}, "both --label and --record"),
        ({"model": "dit-s-2"}, "--model is for a record, and none is wanted: add --record and --label"),
        ({"provenance": "x", "published": "EDM2-S"}, "--provenance is for a record"),
        ({"labels": "drawn"}, "--labels is for a record"),
        ({"labels": "drawn", "published": "EDM2-S"}, "no such file or folder: nowhere.npz"),
        ({"label": "  ", "record": "r"}, "--label is empty"),
        ({"label": "a\nb", "record": "r"}, r"--label holds the control character U\+000A"),
        ({"label": "a\u202eb", "record": "r"}, r"U\+202E"),
        ({"label": "x" * 201, "record": "r"}, "201 characters"),
        ({"label": "x", "record": "r", "provenance": "\x1b[0m"}, "--provenance holds"),
        ({"label": "x", "record": "r", "model": "dit-s-3"}, "dit-s-"),
        ({"published": "EDM3-S"}, "no published row is named 'EDM3-S'.*EDM2-S"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_anything_is_scored(sets, options, message) -> None:
    with pytest.raises(UsageError, match=message):
        bench.evaluate("nowhere.npz", "nowhere.npz", **options)


def test_a_record_becomes_stale_as_others_do(sets, monkeypatch) -> None:
    evaluated(sets, label="x", record=sets / "r")
    record = only(sets / "r")
    assert stale(record, fingerprints(record.request)) is None
    other = record.fingerprints.model_copy(update={"scorer": "0" * 12})
    assert "extractor's code" in (
        stale(record.model_copy(update={"fingerprints": other}), fingerprints(record.request)) or ""
    )
    versions = record.fingerprints.model_copy(update={"versions": {"score fid": 0}})
    changed = record.model_copy(update={"fingerprints": versions})
    assert "score fid" in (stale(changed, fingerprints(changed.request)) or "")


@pytest.mark.slow
def test_a_hostile_label_breaks_no_name_and_no_page(sets) -> None:
    evaluated(sets, label=HOSTILE, provenance=HOSTILE, record=sets / "r")
    record = only(sets / "r")
    assert record.request.label == HOSTILE
    assert re.fullmatch(r"[\w.-]+", record.file) and len(record.file.encode()) <= 255
    assert [path.name for path in (sets / "r").iterdir()] == [record.file]
    made = files(sets / "r", ["md", "latex", "csv"])
    assert not re.search(r"(?<!\\)<script", made["scored.md"]) and r"\<script\>" in made["scored.md"]
    written = dict(site.files(sets / "r", ["toy"]))
    for page in ("scored.html", f"records/{record.file.removesuffix('.json')}.html"):
        assert "alert(" in written[page] and "<script>alert" not in written[page], page


@pytest.mark.slow
def test_pages_show_the_samples_in_a_group_of_their_own(sets, run_bench) -> None:
    evaluated(sets, label="Mine", provenance="my cluster", published="EDM2-S", record=sets / "r")
    evaluated(sets, "others", label="Theirs", record=sets / "r")
    write(sets / "report", files(sets / "r", ["md", "csv"]).items())
    assert check(sets / "report", files(sets / "r", ["md", "csv"]).items()) == []
    text = (sets / "report" / "scored.md").read_text("utf-8")
    assert "Mine: my cluster" in text and "Theirs" in text and "digits, reference.npz, 60 samples" in text
    assert re.search(r"published: EDM2-S @512.*2\.56", text) and "Not compared" in text
    pages = dict(site.files(sets / "r", ["toy"]))
    assert "Theirs" in pages["scored.html"] and 'href="scored.html"' in pages["index.html"]
    mine, _ = records.read(sets / "r")
    code, out, _ = run_bench("show", str(sets / "r" / mine.file))
    assert code == 0 and "Mine: scored" in out and "my cluster" in out
    page = pages[f"records/{mine.file.removesuffix('.json')}.html"]
    assert "bench eval --samples samples.npz --reference reference.npz --extractor digits" in page


@pytest.mark.slow
def test_without_such_records_reports_are_as_before() -> None:
    assert not [name for name in files("results", ["md", "csv"]) if name.startswith("scored")]


def test_diff_compares_one_label_and_reference_in_two_folders(sets, run_bench) -> None:
    for folder, samples in (("a", "samples"), ("b", "others")):
        evaluated(sets, samples, label="x", intervals=True, record=sets / folder, scores=["fid"])
    evaluated(sets, label="y", record=sets / "b", scores=["fid"])
    found = differences(sets / "a", sets / "b")
    assert (found.compared, len(found.added)) == (1, 1)
    (judged,) = found.judgements
    (before,), (after, _) = records.read(sets / "a"), records.read(sets / "b")
    assert (judged.before, judged.after) == (before.result.scores["fid"], after.result.scores["fid"])
    assert judged.subject.startswith("x (digits, reference ") and judged.interval
    evaluated(sets, label="z", record=sets / "c", scores=["fid"])
    np.savez(sets / "noise.npz", arr_0=np.zeros((60, 16, 16, 3), np.uint8))
    evaluated(sets, "noise", label="z", record=sets / "d", scores=["fid"])
    (judged,) = differences(sets / "c", sets / "d").judgements
    assert judged.verdict == "no interval"  # without intervals nothing is claimed
    code, out, _ = run_bench("diff", str(sets / "c"), str(sets / "d"), "--markdown")
    assert code == 0 and "## Changed, without intervals for a test (bench eval --intervals)" in out


def test_diff_judges_no_scores_that_do_not_compare(sets, run_bench) -> None:
    images = np.load(sets / "samples.npz")["arr_0"]
    np.savez(sets / "half.npz", arr_0=images[:30])
    evaluated(sets, label="count", record=sets / "a")
    evaluated(sets, "half", label="count", record=sets / "b")
    evaluated(sets, "drawn", label="labels", record=sets / "a")
    evaluated(sets, "balanced", label="labels", record=sets / "b")
    evaluated(sets, label="weights", record=sets / "a")
    kept = {record.request.label: record for record in records.read(sets / "a")}["weights"]
    fingerprints = kept.fingerprints.model_copy(update={"extractor": "0" * 12})
    scores = {name: value / 2 for name, value in kept.result.scores.items()}
    records.write(kept.result.model_copy(update={"scores": scores}), sets / "b", fingerprints=fingerprints)
    found = differences(sets / "a", sets / "b")
    assert (found.compared, found.judgements) == (3, [])
    reference, weights = kept.request.reference, kept.fingerprints.extractor
    expected = {
        "count": "samples 60 and 30",
        "labels": "labels drawn and balanced",
        "weights": f"weights of the extractor {weights} and 000000000000",
    }
    assert sorted(found.incomparable) == [
        f"Not compared: {label} (digits, reference {reference}): {why}." for label, why in expected.items()
    ]
    code, out, _ = run_bench("diff", str(sets / "a"), str(sets / "b"))
    assert code == 0 and all(why in out for why in found.incomparable)
    assert json.loads(run_bench("diff", str(sets / "a"), str(sets / "b"), "--json")[1])["incomparable"]


# ---- beside published figures ----


def result(extractor="inception", size=512, count=50_000, file="VIRTUAL_imagenet512.npz", fid=2.0) -> Scored:
    return Scored.model_validate(
        {
            "request": {"kind": "scored", "label": "x", "extractor": extractor, "reference": "0" * 12},
            "scores": {"fid": fid},
            "samples": {"file": "s", "digest": "1" * 12, "count": count, "size": size and (size, size)},
            "reference": {"file": file, "digest": "0" * 12, "count": 1000},
            "published": "edm2-s @512",
        }
    )


def test_differences_are_those_of_the_printed_figures() -> None:
    printed = [row.fid for row in field.rows() if row.row == "EDM2-S @512"]
    found = scored.beside(result())
    assert [each.scores["fid"][0] for each in found] == printed
    assert [each.scores["fid"][2] for each in found] == [pytest.approx(2.0 - fid) for fid in printed]
    notes = " ".join(found[0].notes)
    assert "By its name, the reference is VIRTUAL_imagenet512.npz" in notes and "which program" in notes
    assert "50,000" not in notes


@pytest.mark.parametrize(
    ("changed", "note", "compared"),
    [
        ({"size": 256}, "Not compared: published at 512×512 pixels, these samples have 256×256", False),
        ({"extractor": "digits"}, "Not compared: published scores are of Inception", False),
        ({"count": 5000}, "Published from 50,000 samples, these are 5,000", True),
        ({"file": "mine.npz"}, "Papers at this resolution use other references than mine.npz", True),
        ({"size": None}, "The resolution of these samples is unknown", True),
    ],
)
def test_what_differs_is_refused_or_noted(changed, note, compared) -> None:
    for each in scored.beside(result(**changed)):
        assert note in " ".join(each.notes)
        assert (each.scores["fid"][2] is not None) == compared


@pytest.mark.parametrize(
    ("row", "size", "count", "noted"),
    [
        ("DiT-XL/2 @512", 512, 1000, None),
        ("DiT-XL/2 @512", 512, 10_000, "published ones compare with 1,000 images, these with 10,000"),
        ("DiT-XL/2", 256, 10_000, None),
        ("DiT-XL/2", 256, 1000, "published ones compare with 10,000 images, these with 1,000"),
    ],
)
def test_precision_compares_with_as_many_images_as_the_official_file_has(row, size, count, noted) -> None:
    ours = result(size=size)
    reference = ours.reference.model_copy(update={"count": count})
    for each in scored.beside(ours.model_copy(update={"published": row, "reference": reference})):
        if "precision" in each.scores:
            told = [note for note in each.notes if note.startswith("Precision and recall: ")]
            assert told == ([f"Precision and recall: {noted}."] if noted else [])


def test_rows_of_the_u_dit_paper_are_found_where_the_field_has_none() -> None:
    found = scored.named("+ Token Downsampling")
    assert [row.figures["fid"] for row in found] == [89.43]


@pytest.mark.parametrize("name", ["U-DiT-B", "DiCo-S"])
def test_a_figure_that_several_tables_print_is_named_once(name: str) -> None:
    figures = [row.figures["fid"] for row in scored.named(name)]
    assert len(set(figures)) == len(figures) > 0


def test_the_command_records_and_compares(sets, run_bench) -> None:
    code, out, err = run_bench(
        *("eval", "--samples", str(sets / "samples.npz"), "--reference", str(sets / "reference.npz")),
        *("--score", "fid", "--label", "Mine", "--record", "--results", str(sets / "r")),
        *("--published", "EDM2-S", "--labels", "drawn"),
    )
    assert code == 0, err
    assert "Beside published figures" in out and "EDM2-S @512" in out and "wrote" in out
    assert only(sets / "r").result.labels == "drawn"
    code, out, _ = run_bench(
        *("eval", "--samples", str(sets / "samples.npz"), "--reference", str(sets / "reference.npz")),
        *("--score", "fid", "--published", "EDM2-S", "--json"),
    )
    assert code == 0 and "EDM2-S @512" in [each["row"] for each in json.loads(out)["published"]]
