"""Throughput: statistics, turns, batches, what is refused, and what a result holds; never how fast."""

import functools
import json
import math
import re

import numpy as np
import pytest
import torch

import registry
from bench import cli
from bench.cli import options
from bench.speed import device, throughput
from bench.speed.throughput import Settings, interleave, largest_batch, measure, paired_ratio
from bench.studies import published
from registry.errors import UsageError

SMALL = {"depth": (1, 1, 1, 1, 1), "input_size": 16}
TINY = ("tiny-unet", {"input_size": 8})
UDIT = ("udit-t", SMALL)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(throughput, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(device, "LIMIT_SECONDS", 0.0)


@pytest.fixture
def small_uvit2d(monkeypatch):
    small = {"hidden_size": 64, "block_out_channels": 64, "num_hidden_layers": 1, "block_num_heads": 2}
    small |= {"num_attention_heads": 2, "num_res_blocks": 1, "intermediate_size": 64, "codebook_size": 32}
    from registry import uvit2d

    monkeypatch.setattr(uvit2d, "UVit2DModel", functools.partial(uvit2d.UVit2DModel, **small))


@pytest.fixture
def bench(run_bench, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where records go
    return functools.partial(run_bench, "throughput")


# ---- statistics ----


def noise(kind, rng, rounds):
    """Seconds of two equal networks on one machine."""
    white = rng.normal(0, 0.03, (2, rounds))
    if kind == "spikes":
        return np.exp(white + (rng.random((2, rounds)) < 0.1) * rng.exponential(1.0, (2, rounds)))
    if kind == "drift":  # what is alike in neighbouring rounds is not alike for both
        alike = np.zeros((2, rounds))
        for i in range(1, rounds):
            alike[:, i] = 0.5 * alike[:, i - 1] + rng.normal(0, 0.03, 2)
        return np.exp(alike + np.linspace(0, 0.5, rounds) + white / 3)
    return np.exp(white)


@pytest.mark.parametrize(
    ("kind", "rounds"),
    # Few rounds cannot tell that neighbours are alike.
    [*((kind, n) for kind in ("white", "spikes") for n in (6, 13, 30, 60)), ("drift", 30), ("drift", 60)],
)
def test_equals_differ_from_one_by_less_than_the_interval(kind, rounds):
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        _, (low, high) = paired_ratio(*noise(kind, rng, rounds), turn=2)
        held += low <= 1 <= high
    assert held >= 0.92 * 200  # two standard errors below 19 of 20


def test_the_interval_is_neither_too_narrow_nor_too_wide():
    rng, bounds = np.random.default_rng(0), []
    for _ in range(400):
        common = 0.1 * rng.normal(0, 1, 60).cumsum() + rng.normal(0, 0.2, 60)  # the machine's, for both alike
        _, interval = paired_ratio(*np.exp(common + rng.normal(0, 0.03, (2, 60))), turn=2)
        bounds.append(np.log(interval))
    low, high = np.transpose(bounds)

    def coverage(scale):
        middle, half = (low + high) / 2, scale * (high - low) / 2
        return np.mean(abs(middle) <= half)

    assert 0.9 <= coverage(1) <= 0.995
    assert coverage(0.4) < 0.9 and coverage(1.5) > 0.995  # so what is asserted above can fail


def test_the_ratio_is_paired_by_round():
    rng = np.random.default_rng(0)
    machine = np.exp(rng.normal(0, 1.0, 40))  # slow and fast rounds, for both alike
    ratio, (low, high) = paired_ratio(3 * machine, machine, turn=2)
    assert ratio == pytest.approx(3) and low == pytest.approx(3) and high == pytest.approx(3)


def test_the_place_in_a_round_cancels():
    place = np.array([1.0, 1.2] * 10)  # whoever goes second is slower
    ratio, interval = paired_ratio(place, place[::-1], turn=2)
    assert ratio == pytest.approx(1) and interval == pytest.approx((1, 1))


def test_an_interval_is_the_same_from_call_to_call_and_finds_a_difference():
    rng = np.random.default_rng(0)
    a, b = noise("white", rng, 30)
    assert paired_ratio(a, b, 2) == paired_ratio(a, b, 2)
    ratio, (low, high) = paired_ratio(1.2 * a, b, 2)
    assert 1.1 < low < ratio < high < 1.3


@pytest.mark.parametrize(("n", "k"), [(6, 1), (8, 1), (9, 2), (12, 3), (30, 10)])
def test_sign_interval_is_the_tables(n, k):
    assert throughput._sign_interval(np.arange(1.0, n + 1)) == (k, n + 1 - k)


# ---- turns ----


def test_every_round_begins_one_further():
    calls, clock = [], iter(range(100))

    def turn(name):
        def call():
            calls.append(name)
            return next(clock)

        return call

    found = interleave([turn(name) for name in "abc"], 4)
    assert "".join(calls) == "abcbcacababc"
    assert found == [[0, 5, 7, 9], [1, 3, 8, 10], [2, 4, 6, 11]]


def test_a_turn_warms_up_rotates_inputs_and_uses_every_output(monkeypatch):
    runner = throughput._Runner(*TINY, Settings(batch_size=2), torch.device("cpu"))
    runner.prepare()
    ticks = iter(range(1000))
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(ticks))
    seen, sizes = [], []

    def see(_, inputs):
        seen.append(inputs[0].data_ptr())
        sizes.append(len(inputs[0]))

    runner.network.register_forward_pre_hook(see)
    runner.calls, before = 5, runner.total.item()
    turn = runner.turn()
    assert sizes == [2] * 6 + [1] * (1 + throughput.LATENCY_CALLS)
    assert len(set(seen[:6])) == throughput.DISTINCT_INPUTS and len(set(seen[:4])) == 4
    assert turn.seconds_per_image == 1 / 5 / 2 and turn.latencies == [1] * throughput.LATENCY_CALLS
    assert runner.total.item() != before


# ---- the batch ----


@pytest.mark.parametrize(
    ("limit", "cap", "batch", "why"),
    [(0, 8, 0, "1 does not fit"), (5, 256, 4, "8 does not fit"), (99, 16, 16, "ends at 16")],
)
def test_largest_batch(limit, cap, batch, why):
    found, reason = largest_batch(lambda n: n <= limit, cap)
    assert found == batch and why in reason


@pytest.mark.parametrize("train", [False, True])
def test_auto_on_the_cpu_goes_by_predicted_memory(monkeypatch, train):
    runner = throughput._Runner(*TINY, Settings(batch_size="auto", train=train), torch.device("cpu"))
    weights, each = runner._own_bytes(), runner.activation_bytes
    room = 4 * weights + 4 * 5 * each if train else weights + 5 * each
    monkeypatch.setattr(throughput, "available_memory", lambda: room)
    assert runner._batch() == (4, "8 does not fit in memory")
    monkeypatch.setattr(throughput, "available_memory", lambda: 10**15)
    assert runner._batch() == (256, "the search ends at 256")
    monkeypatch.setattr(throughput, "available_memory", lambda: 1)
    with pytest.raises(UsageError, match=r"a batch of 1 does not fit in the memory of cpu$"):
        runner._batch()


def test_predicted_memory_is_not_below_what_a_step_needs():
    for train in (False, True):
        (result,) = measure([UDIT], Settings(batch_size=4, train=train), repeats=6)
        runner = throughput._Runner(*UDIT, Settings(train=train), torch.device("cpu"))
        weights, each = runner._own_bytes(), runner.activation_bytes
        predicted = 4 * weights + 16 * each if train else weights + 4 * each
        assert weights < result.peak_bytes <= 1.3 * predicted


def test_auto_on_a_gpu_tries_and_recovers(monkeypatch):
    runner = throughput._Runner(*TINY, Settings(batch_size="auto"), torch.device("cpu"))
    emptied = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    step, tried = runner.step, []

    def limited(n):
        tried.append(n)
        if n > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(n)

    monkeypatch.setattr(runner, "step", limited)
    assert largest_batch(runner._tried, 8192) == (4, "8 does not fit in memory")
    assert tried == [1, 2, 4, 8] and len(emptied) == 4 and not runner._inputs
    runner.settings = Settings(batch_size=64)
    monkeypatch.setattr(throughput, "on_cuda", lambda device: True)
    with pytest.raises(UsageError, match=r"tiny-unet: a batch of 64 does not fit .* --batch-size, or auto"):
        runner._batch()


def test_memory_that_runs_out_later_is_one_line(monkeypatch):
    runner = throughput._Runner(*TINY, Settings(batch_size=2), torch.device("cpu"))
    runner.prepare()

    def fail(n):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(runner, "step", fail)
    with pytest.raises(UsageError, match="a batch of 2 does not fit"):
        runner.turn()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "tf32"}, "the cpu has no tf32"),
        ({"dtype": "int8"}, "dtype must be one of fp32, tf32, bf16, fp16, not 'int8'"),
        ({"device": "cuba"}, "no device 'cuba'"),
        ({"device": "meta"}, "run on cpu or cuda, not on 'meta'"),
        ({"device": "cuda:99"}, "no device 'cuda:99' here"),
        ({"batch_size": 0}, "batch size must be at least 1"),
        ({"batch_size": 2**40}, "does not fit in the memory of cpu; try a smaller --batch-size, or auto"),
        ({"train": True, "sampling": True}, "leave train out"),
        ({"sampling": True, "steps": 0}, "1 to 1000 steps, not 0"),
    ],
)
def test_bad_settings_are_one_line(settings, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        measure([TINY], Settings(**settings), repeats=6)


def test_bad_calls_are_one_line():
    with pytest.raises(UsageError, match="repeats must be at least 6"):
        measure([TINY], Settings(), repeats=5)
    with pytest.raises(UsageError, match="at least one model"):
        measure([], Settings(), repeats=6)
    with pytest.raises(UsageError, match="no override"):
        measure([("tiny-unet", {"colour": 1})], Settings(), repeats=6)


def test_a_network_that_fails_is_one_line(monkeypatch):
    runner = throughput._Runner(*TINY, Settings(batch_size=2), torch.device("cpu"))
    monkeypatch.setattr(type(runner.network), "forward", lambda *_: 1 / 0)
    with pytest.raises(UsageError, match="tiny-unet fails on its example inputs, inference in fp32: ZeroDiv"):
        runner.prepare()


def test_networks_with_other_inputs_cannot_be_sampled_from(small_uvit2d):
    with pytest.raises(UsageError, match="its inputs are not x"):
        throughput._check_samples(registry.create("uvit2d", input_size=4))


# ---- results ----


def test_json_has_the_promised_fields():
    first, second = measure([TINY, UDIT], Settings(batch_size=2), repeats=6)
    for result, name in ((first, "tiny-unet"), (second, "udit-t")):
        found = json.loads(json.dumps(result.to_dict()))
        assert found["model"] == name and found["batch_size"] == 2 and found["batch_reason"] == "as asked"
        assert len(found["seconds_per_image"]) == 6
        low, high = found["quartiles"]
        assert 0 < low <= found["images_per_second"] <= high
        p50, p95 = found["latency_ms"]
        assert 0 < p50 <= p95
        assert found["flops_per_second"] == pytest.approx(2 * found["macs"] * found["images_per_second"])
        device = found["device"]
        assert found["peak_share"] == pytest.approx(found["flops_per_second"] / device["peak_flops"])
        assert found["ridge"] == pytest.approx(device["peak_flops"] / device["bandwidth"])
        assert found["bound"] == ("compute" if found["intensity"] >= found["ridge"] else "memory")
        assert device["name"] and device["threads"] == 1
        assert found["compiled"] == "no" and found["compile_seconds"] is None and found["sampling"] is None
    assert first.ratio is None and first.interval is None
    assert second.interval[0] <= second.ratio <= second.interval[1]


def test_bytes_moved_and_peak_of_known_operators():
    weight, x = torch.ones(4, 8), torch.ones(2, 8)
    with throughput._Follower(own=weight.nbytes) as follower, torch.no_grad():
        y = x @ weight.t()  # reads 2·8 and 4·8, writes 2·4; the transpose moves nothing
        y.view(-1).relu_()  # reads and writes 2·4
        del y
        torch.zeros(3)  # writes 3
    assert follower.moved == 4 * (16 + 32 + 8 + 8 + 8 + 3)
    assert follower.peak == 4 * (32 + 8)
    assert follower.live == follower.peak - 4 * 8


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_inference_casts_and_training_autocasts(dtype):
    cast = throughput._Runner(*TINY, Settings(dtype=dtype, batch_size=1), torch.device("cpu"))
    assert {p.dtype for p in cast.network.parameters()} == {device.TORCH_DTYPES[dtype]}
    trained = throughput._Runner(*TINY, Settings(dtype=dtype, batch_size=1, train=True), torch.device("cpu"))
    assert {p.dtype for p in trained.network.parameters()} == {torch.float32} and trained.network.training
    for runner in (cast, trained):
        runner.prepare()
        assert math.isfinite(runner.total.item())


def test_training_changes_the_weights_and_tells_no_latency():
    (result,) = measure([UDIT], Settings(batch_size=2, train=True, channels_last=True), repeats=6)
    assert result.latency_ms is None
    assert result.flops_per_second == pytest.approx(6 * result.macs * result.images_per_second)
    runner = throughput._Runner(*TINY, Settings(batch_size=2, train=True), torch.device("cpu"))
    before = [p.clone() for p in runner.network.parameters()]
    runner.prepare()
    assert all(not torch.equal(a, b) for a, b in zip(before, runner.network.parameters(), strict=True))


@pytest.mark.parametrize("train", [False, True])
def test_networks_with_other_inputs(train, small_uvit2d):
    (result,) = measure([("uvit2d", {"input_size": 4})], Settings(batch_size=2, train=train), repeats=6)
    assert result.images_per_second > 0


def test_compile_that_fails_is_told_and_timed_eager(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no compiler here\nlong story")

    monkeypatch.setattr(torch, "compile", broken)
    (result,) = measure([TINY], Settings(batch_size=2, compile=True), repeats=6)
    assert result.compiled == "compile failed: RuntimeError: no compiler here; timed eager"
    assert result.compile_seconds is None and result.images_per_second > 0


def test_compile_that_fails_on_the_first_call_is_timed_eager(monkeypatch):
    def late(function, **_):
        def call(*args):
            raise RuntimeError("no kernel")

        return call

    monkeypatch.setattr(torch, "compile", late)
    (result,) = measure([TINY], Settings(batch_size=2, compile=True), repeats=6)
    assert result.compiled.startswith("compile failed: RuntimeError: no kernel")


def test_compile_that_works_is_timed_on_its_own(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    (result,) = measure([TINY], Settings(batch_size=2, compile=True), repeats=6)
    assert result.compiled == "yes" and result.compile_seconds > 0


def test_random_numbers_are_left_as_they_were():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    measure([TINY], Settings(batch_size=1), repeats=6)
    assert torch.equal(torch.rand(1), expected)


# With a learned variance and a null class, and without: guided are 2 images on a batch of 4.
@pytest.mark.parametrize(("model", "guided"), [(UDIT, 2 / 2), (TINY, None)])
def test_sampling_counts_whole_loops(monkeypatch, model, guided):
    monkeypatch.setattr(throughput, "seconds", lambda call, times, device: (call(), 2.0)[1])
    (result,) = measure([model], Settings(batch_size=4, sampling=True, steps=2), repeats=6)
    assert result.sampling == throughput.Sampling(2, 4 / 2, guided)


# ---- the command ----


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["U-DiT-T"], [("udit-t", {"rope": True})]),
        (["DiT XL/2", "dit-xl-2"], [("dit-xl-2", {"rope": True})]),
        (["udit-t rope=false depth=1,1,2,1,1"], [("udit-t", {"rope": False, "depth": [1, 1, 2, 1, 1]})]),
        (["dit-unet*  ffn=mlp"], [(n, {"rope": True, "ffn": "mlp"}) for n in ("dit-unet", "dit-unet-slim")]),
    ],
)
def test_overrides_of_one_model_come_before_those_of_all(texts, expected):
    assert options.parse_models(texts, {"rope": True}) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "--model takes a name"),
        ("rope=false", "--model takes a name"),
        ("udit-t ffn=mlp rope", "--model takes KEY=VALUE, not 'rope'"),
        ("udit-t rope", "unknown backbone 'udit-t rope'"),
        ("nothing* ffn=mlp", "no backbone matches 'nothing*'"),
    ],
)
def test_bad_models_are_one_line(text, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        options.parse_models([text], {})


def test_networks_of_tables_are_timed_once_after_those_named():
    named, tables = ["dit-s-4", "dit-s-2", "udit-s", "dit-s-2"], [1, 5, 6, 5]
    found = cli.throughput._networks(named, tables, {})
    assert [name for name, _ in found[:4]] == named
    expected = {(r.model, repr(r.overrides)) for t in (1, 5, 6) for r in published.rows(t)}
    rest = [(name, repr(overrides)) for name, overrides in found[4:]]
    assert len(rest) == len(set(rest)) and set(rest) == expected - {("dit-s-4", "{}")}
    # Quoted and replicated rows are one network.
    assert len(cli.throughput._networks([], [2], {})) == 8
    assert cli.throughput._networks([], [4], {"num_classes": 9})[0] == ("dit-xl-2", {"num_classes": 9})


def test_networks_that_differ_by_overrides_are_timed_in_one_call(bench):
    args = ("-m", "tiny-unet", "-m", "tiny-unet time_width=8", "--input-size", "8", "--batch-size", "1")
    code, out, err = bench(*args, "--repeats", "6", "--json")
    first, second = json.loads(out)
    assert (code, err) == (0, "") and first["overrides"] == {} and second["overrides"] == {"time_width": 8}
    assert second["interval"] and first["input_size"] == second["input_size"] == 8


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_shows_every_number(bench, width):
    args = ("-m", "tiny-unet", "-m", "tiny-unet", "--input-size", "8", "--batch-size", "2", "--repeats", "6")
    code, out, err = bench(*args, width=width)
    assert (code, err) == (0, "") and "…" not in out
    assert all(len(line) <= width for line in out.splitlines())
    rows = [line for line in out.splitlines() if re.match(r"tiny-unet +2 ", line)]
    assert len(rows) == 2  # one network twice is a control, and stays twice
    assert re.search(r"\d\.\d{3}–\d\.\d{3}$", rows[1].strip())
    assert out.count("bound.") + out.count("bound;") == 2


def test_json_and_records(bench, tmp_path):
    args = ("-m", "tiny-unet", "--input-size", "8", "--batch-size", "2", "--repeats", "6", "--json")
    code, out, _ = bench(*args, "--out", str(tmp_path))
    (printed,) = json.loads(out)
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert code == 0 and path.name.startswith("throughput-tiny-unet-")
    assert record["values"]["images_per_second"] == printed["images_per_second"]
    assert record["asked"]["batch_size"] == 2 and record["asked"]["device_name"] == printed["device"]["name"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--batch-size", "many"], "--batch-size takes a whole number or auto, not 'many'"),
        (["--batch-size", "0"], "batch size must be at least 1"),
        (["--dtype", "tf32"], "the cpu has no tf32"),
        (["--device", "cuda:99"], "no device 'cuda:99' here"),
    ],
)
def test_errors_are_one_line(bench, args, words):
    code, out, err = bench("-m", "tiny-unet", *args)
    assert code == 2 and not out and err.startswith("error: ") and words in err and err.count("\n") == 1


@pytest.mark.parametrize(("args", "words"), [([], "--model"), (["--table", "7"], "there is no table 7")])
def test_something_must_be_named(bench, args, words):
    code, out, err = bench(*args)
    assert code == 2 and not out and err.startswith("error: ") and words in err and err.count("\n") == 1
