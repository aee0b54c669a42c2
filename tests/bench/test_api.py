"""`import bench` as a notebook user meets it: names or objects in, results out, nothing heavy on import."""

import subprocess
import sys

import numpy as np
import pytest

import bench
import registry
from bench import reports
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


def test_throughput_takes_names_overrides_and_objects():
    small = {"depth": [1, 0, 0, 0, 0], "input_size": 8}
    found = bench.throughput(
        [("udit-t", small), registry.create("tiny-unet", input_size=8)], batch_size=1, repeats=6
    )
    assert [speed.request.model for speed in found] == ["udit-t", "tiny-unet"]
    assert found[0].ratio is None and found[1].interval[0] <= found[1].ratio <= found[1].interval[1]


@pytest.mark.parametrize("one", ["tiny-unet", ("tiny-unet", {"input_size": 8}), "module"])
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
    files = reports.files(tmp_path / "results", "md", "downsampler")
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
    real = np.load(bench.sample(tmp_path / "run", tmp_path / "others.npz", num=12, seed=4))["arr_0"]
    by_path = bench.evaluate(path, tmp_path / "others.npz", scores=["fid", "coverage"], cache=tmp_path / "c")
    by_array = bench.evaluate(images, real, scores=["fid", "coverage"], cache=tmp_path / "c")
    assert by_path.scores == by_array.scores and by_path.scores["fid"] > 0
    assert bench.evaluate(images, images, scores=["fid"], cache=tmp_path / "c").scores["fid"] < 1e-3


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'flop'"):
        bench.flop  # noqa: B018
