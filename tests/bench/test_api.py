"""`import bench` as a notebook user meets it: names or objects in, results out, nothing heavy on import."""

import io
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import bench
import registry
from bench.records.schema.record import RESULTS
from bench.reports import report
from bench.utils import bars
from bench.utils.frames import Results
from tests.bench import made
from tests.conftest import ROOT


def test_importing_bench_is_cheap():
    code = "import sys, bench; sys.exit(bool({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_flops_of_a_name_and_of_an_object_agree():
    by_name = bench.flops("udit-t", ffn="mlp")
    assert f"{by_name.paper_gflops:.3f}" == "0.906"
    by_object = bench.flops(registry.create("udit-t", ffn="mlp"))
    assert by_object.macs == by_name.macs and by_object.request == by_name.request


@pytest.mark.slow
def test_throughput_takes_names_overrides_and_objects():
    small = {"depth": [1, 0, 0, 0, 0], "input_size": 8}
    found = bench.throughput(
        [("udit-t", small), registry.create("tiny-unet", input_size=8)], batch_size=1, repeats=6
    )
    assert [speed.request.model for speed in found] == ["udit-t", "tiny-unet"]
    assert found[0].ratio is None and found[1].interval[0] <= found[1].ratio <= found[1].interval[1]


@pytest.mark.parametrize("one", ["tiny-unet", ("tiny-unet", {"input_size": 8}), "module"])
@pytest.mark.slow
def test_throughput_of_one_network_needs_no_list(one):
    if one == "module":
        one = registry.create("tiny-unet", input_size=8)
    (speed,) = bench.throughput(one, batch_size=1, repeats=6)
    assert speed.request.model == "tiny-unet" and speed.ratio is None


def test_one_text_stands_for_a_list_of_it(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 8, 8, 3), dtype=np.uint8)
    found = bench.evaluate(images[0], images[1], scores="inception_score", cache=tmp_path)
    assert list(found.scores) == ["inception_score"]
    made.put(tmp_path / "results", made.cost())
    files = report.files(tmp_path / "results", "md", "downsampler")
    assert "table-5.md" in files and not [name for name in files if name.endswith((".csv", ".html"))]


def test_profile():
    found = bench.profile("tiny-unet", input_size=8, batch_size=1, repeats=1)
    assert sum(stage.time_share for stage in found.stages) == pytest.approx(1)


def test_train_sample_and_evaluate(tmp_path):
    trained = bench.train("tiny-unet", tmp_path / "run", protocol="smoke")
    assert trained.step == 8 and not trained.interrupted
    path = bench.sample(tmp_path / "run", tmp_path / "samples.npz", num=12, seed=3)
    images = np.load(path)["arr_0"]
    assert images.shape == (12, 16, 16, 3)
    with pytest.raises(registry.UsageError, match=r"has no key 'cfg_scal'\. Did you mean 'cfg_scale'"):
        bench.sample(tmp_path / "run", tmp_path / "wrong.npz", cfg_scal=2)
    with pytest.raises(registry.UsageError, match="give guide and guide_scale together"):
        bench.sample(tmp_path / "run", tmp_path / "wrong.npz", guide_scale=2)
    real = np.load(bench.sample(tmp_path / "run", tmp_path / "others.npz", num=12, seed=4))["arr_0"]
    by_path = bench.evaluate(path, tmp_path / "others.npz", scores=["fid", "coverage"], cache=tmp_path / "c")
    by_array = bench.evaluate(images, real, scores=["fid", "coverage"], cache=tmp_path / "c")
    assert by_path.scores == by_array.scores and by_path.scores["fid"] > 0
    assert bench.evaluate(images, images, scores=["fid"], cache=tmp_path / "c").scores["fid"] < 1e-3


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'flop'"):
        bench.flop  # noqa: B018


def test_dir_lists_what_there_is():
    listed = dir(bench)
    assert {"ablate", "flops", "records", "throughput", "silent"} <= {*listed}
    assert all(hasattr(bench, name) for name in listed)


# ---- results as tables ----


def test_a_cost_is_a_frame_with_units():
    cost = made.cost()
    (row,) = cost.to_frame().to_dict("records")
    assert row["Model"] == registry.label("udit-t", {"ffn": "mlp", "depth": [1, 1]})
    assert row["Params (M)"] == cost.parameters / 1e6 and row["GMACs"] == cost.macs / 1e9
    assert row["GFLOPs (paper)"] == cost.paper_gflops and row["Memory (MiB)"] == cost.activation_bytes / 2**20


def test_several_speeds_are_a_list_and_one_table():
    first = made.speed(ratio=None, interval=None)
    found = Results([first, made.speed(ratio=2.0, interval=(1.5, 2.5))])
    frame = found.to_frame()
    assert frame["Times as fast"].isna().tolist() == [True, False] and len(found) == 2
    assert frame["95% high"].tolist()[1] == 2.5
    shown = found._repr_html_()
    assert shown.count("<tr>") == 2 and ">1.5<" in shown and "NaN" not in shown
    # What no row has is no column.
    assert "95% low" not in first._repr_html_()


def test_a_table_in_a_notebook_is_escaped():
    request = made.COST_REQUEST.model_copy(update={"model": "<script>alert(1)</script>", "config": {}})
    shown = made.cost(request)._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown


def test_a_profile_has_a_row_for_each_part():
    profile = made.profile()
    frame = profile.to_frame()
    assert frame["Name"].tolist() == [share.name for share in (*profile.stages, *profile.operators)]
    assert frame["Time (ms)"].tolist()[0] == 1e3 * profile.stages[0].seconds


def test_scores_are_rows():
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 8, 8, 3), dtype=np.uint8)
    found = bench.evaluate(images[0], images[1], scores=["fid", "precision"], progress=bench.silent)
    assert found.to_frame()["Value"].tolist() == list(found.scores.values())
    assert "Precision" in found._repr_html_()


def test_notes_name_no_file_that_is_there_for_an_array_alone(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "r.npz", arr_0=images[1])
    found = bench.evaluate(images[0], images[1], scores="fid")
    assert (found.samples, found.reference) == ("the array given as samples", "the array given as reference")
    assert "Samples: the array given as samples, 40 images of 8×8." in found.notes[0]
    assert ".npz" not in " ".join(found.notes)
    found = bench.evaluate(images[0], tmp_path / "r.npz", scores="fid")
    assert found.reference == str(tmp_path / "r.npz")
    with pytest.raises(registry.UsageError, match=r"^the array given as samples: arr_0 is float32 40 × 8"):
        bench.evaluate(images[0].astype(np.float32), images[1], scores="fid")


def test_rows_of_scores_are_in_the_unit_of_their_names():
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 8, 8, 3), dtype=np.uint8)
    found = bench.evaluate(images[0], images[1], scores=["fid", "kid"], intervals=True)
    rows = found.to_frame().set_index("Score")
    for name, row, factor in (("fid", "FID", 1), ("kid", "KID·10³", 1000)):
        assert rows.loc[row, "Value"] == pytest.approx(factor * found.scores[name])
        ends = rows.loc[row, ["95% low", "95% high"]].tolist()
        assert ends == pytest.approx([factor * end for end in found.intervals[name]])


def test_every_kind_of_result_has_columns():
    for kind in RESULTS.values():
        assert "columns" in vars(kind), kind


def test_load_has_the_columns_that_people_look_for_first(tmp_path):
    made.put(tmp_path, made.quality(fid=12.5), "micro")
    made.put(tmp_path, made.cost())
    frame = bench.records.load(tmp_path)
    assert frame.columns.tolist()[:3] == ["Kind", "Model", "Protocol"]
    assert frame.columns.tolist()[-1] == "File" and not [name for name in frame if "." in name]
    quality = frame.set_index("Kind").loc["quality"]
    assert quality["fid"] == 12.5 and quality["Protocol"] == "micro" and quality["Seed"] == 0
    assert quality["File"] == made.QUALITY_REQUEST.file
    assert len(bench.records.load(tmp_path, full=True).columns) > 2 * len(frame.columns)


# ---- progress ----


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_is_shown_where_somebody_looks(monkeypatch):
    def shown(stream, **options):
        monkeypatch.setattr(sys, "stderr", stream)
        with bars.interactive(options.get("progress")) as tell:
            for done in range(4):
                tell("timing", done, 3)
        return stream.getvalue()

    monkeypatch.setenv("TERM", "xterm")
    assert "timing" in shown(Terminal())
    assert shown(io.StringIO()) == "" and shown(Terminal(), progress=bench.silent) == ""


def test_many_stages_are_one_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with bars.bar() as tell:
        for stage in ("looking", "features [red]", "distances"):
            tell(stage, 0, 0)
            tell(stage, 2, 2)
    text = stream.getvalue()
    assert "distances" in text
    assert not re.search("looking.*\n.*features", text)  # no second line


def test_a_notebook_needs_no_widgets(monkeypatch):
    told = []

    class Handle:
        def update(self, html):
            told.append(html)

    module = SimpleNamespace(HTML=str, display=lambda html, display_id: Handle())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=module))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(bars, "Console", lambda **_: SimpleNamespace(is_jupyter=True))
    with bars.interactive(None) as tell:
        tell("<i>timing</i>", 3, 3)
    assert told[0].startswith("&lt;i&gt;timing") and 'value="3" max="3"' in told[0] and told[-1] == ""


@pytest.mark.slow
def test_every_function_that_takes_long_tells_how_far_it_is(tmp_path):
    told = []

    def progress(description, done, total):
        told.append(description)

    bench.throughput("tiny-unet", batch_size=1, repeats=6, progress=progress)
    bench.train("tiny-unet", tmp_path / "run", protocol="smoke", progress=progress)
    bench.sample(tmp_path / "run", tmp_path / "a.npz", num=8, progress=progress)
    bench.evaluate(tmp_path / "a.npz", tmp_path / "a.npz", scores=["fid"], progress=progress)
    assert {"timing", "training", "sampling"} <= {*told} and any("a.npz" in each for each in told)
