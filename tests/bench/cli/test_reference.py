"""`bench ablate --reference`, on one tiny cell."""

import numpy as np
import pytest

from bench import records

STUDY = """
title = "One network"
protocol = "smoke"
seeds = [0]
sampling = { sampler = "ancestral", steps = 3 }
columns = ["gflops", "fid", "coverage"]
[[rows]]
label = "tiny"
backbone = "tiny-unet"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "one.toml").write_text(STUDY)
    return tmp_path


@pytest.mark.slow
def test_a_reference_of_the_adm_suites_layout(place, run_bench):
    # Images for precision and recall, and statistics of more than them, which here are another extractor's.
    images = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)
    np.savez(place / "reference.npz", arr_0=images, mu=np.zeros(2048), sigma=np.eye(2048))
    code, out, err = run_bench("ablate", "one.toml", "--reference", "reference.npz")
    assert code == 0, err
    (record,) = [r for r in records.read("results") if r.request.kind == "quality"]
    assert record.result.reference_count == 30 and record.result.sample_count == 16
    assert len(record.request.reference) == 12 and record.request.sampling.sampler == "ancestral"
    assert record.request.sampling.steps == "3" and "Cov.↑" in out

    # Against the dataset it is another number; both are found, and neither stands beside the other.
    assert "1 cells reused" in run_bench("ablate", "one.toml", "--reference", "reference.npz")[2]
    assert "1 cells to measure" in run_bench("ablate", "one.toml")[2]
    code, out, _ = run_bench("report", "one.toml", "--format", "md", "--out", "pages")
    page = (place / "pages/one.md").read_text()
    assert code == 0 and page.count("## Quality, protocol smoke") == 2
    assert f"reference {record.request.reference}" in page and "1,797 reference images" in page
    code, _, err = run_bench("ablate", "one.toml", "--reference", "nowhere.npz")
    assert code == 2 and "no reference file nowhere.npz" in err
