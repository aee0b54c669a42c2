"""Throughput: runners, batches, what is refused, and what a result holds; never how fast."""

import copy
import functools
import math
import re

import pytest
import torch
from torch import nn

import registry
from bench import cost
from bench.records.schema import Device, SamplingSpeed, Speed, TrainingTime
from bench.sampling import Plan
from bench.speed import batch, device, runners, throughput
from bench.speed.batch import choose_batch, largest_batch
from bench.speed.nominal import nominal_flops
from bench.speed.throughput import Settings, measure
from bench.speed.traffic import Traffic
from registry.errors import UsageError

SMALL = {"depth": (1, 1, 1, 1, 1), "input_size": 16}
TINY = ("tiny-unet", {"input_size": 8})
UDIT = ("udit-t", SMALL)
MODES = ["inference", "training"]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setitem(runners.TURN_SECONDS, "cpu", 0.0)
    monkeypatch.setitem(device.LIMIT_SECONDS, "cpu", 0.0)


@pytest.fixture
def small_uvit2d(monkeypatch):
    small = {"hidden_size": 64, "block_out_channels": 64, "num_hidden_layers": 1, "block_num_heads": 2}
    small |= {"num_attention_heads": 2, "num_res_blocks": 1, "intermediate_size": 64, "codebook_size": 32}
    from registry.networks import uvit2d

    monkeypatch.setattr(uvit2d, "UVit2DModel", functools.partial(uvit2d.UVit2DModel, **small))


def runner(model, **settings):
    """A runner on the CPU."""
    network = registry.create(model[0], **model[1])
    cpu = torch.device("cpu")
    make = runners.TrainingRunner if settings.get("mode") == "training" else runners.InferenceRunner
    return make(network, Settings(**settings).request(network, cpu), cpu)


# ---- turns ----


def test_a_turn_warms_up_rotates_inputs_and_uses_every_output(monkeypatch):
    timed = runner(TINY, batch_size=2)
    timed.prepare(2, "")
    ticks = iter(range(1000))
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(ticks))
    seen, sizes = [], []

    def see(_, inputs):
        seen.append(inputs[0].data_ptr())
        sizes.append(len(inputs[0]))

    timed.network.register_forward_pre_hook(see)
    timed.calls, before = 5, timed.total.item()
    assert timed.turn() == 1 / 5 / 2
    assert sizes == [2] * 6 + [1] * (1 + runners.LATENCY_CALLS)
    assert len(set(seen[:6])) == runners.DISTINCT_INPUTS and len(set(seen[:4])) == 4
    timed.finish()
    assert timed.latency_ms == (1000, 1000)
    assert timed.total.item() != before


def test_a_turn_of_training_tells_the_parts_of_a_step(monkeypatch):
    timed = runner(TINY, mode="training")
    timed.prepare(2, "")
    now = 0.0

    def spend(function, seconds):
        def run(*args, **kwargs):
            nonlocal now
            now += seconds
            return function(*args, **kwargs)

        return run

    monkeypatch.setattr(device.time, "perf_counter", lambda: now)
    monkeypatch.setattr(timed.network, "forward", spend(timed.network.forward, 1))
    monkeypatch.setattr(torch.Tensor, "backward", spend(torch.Tensor.backward, 10))
    monkeypatch.setattr(timed.update, "step", spend(timed.update.step, 100))
    timed.calls = 3
    assert timed.turn() == pytest.approx(111 / 2)
    timed.finish()
    assert timed.training_time == TrainingTime(forward=1, backward=10, optimizer=100)


# ---- the batch ----


@pytest.mark.parametrize(
    ("limit", "cap", "number", "why"),
    [
        (0, 8, 0, "1 does not fit"),
        (1, 8, 1, "2 does not fit"),
        (5, 256, 4, "8 does not fit"),
        (7, 256, 6, "8 does not fit"),
        (99, 16, 16, "ends at 16"),
    ],
)
def test_largest_batch(limit, cap, number, why):
    found, reason = largest_batch(lambda n: "does not fit" if n > limit else "", cap)
    assert found == number and why in reason


@pytest.mark.parametrize("mode", MODES)
def test_auto_on_the_cpu_goes_by_predicted_memory(monkeypatch, mode):
    timed = runner(TINY, batch_size="auto", mode=mode)
    weights = sum(tensor.nbytes for tensor in timed.network.state_dict().values())
    each = cost.measure(TINY[0], **TINY[1]).activation_bytes
    # Training: weights, gradients, two moments, an average; activations wait for the backward pass.
    room = 5 * weights + 4 * 5 * each if mode == "training" else weights + 5 * each
    monkeypatch.setattr(batch, "available_memory", lambda: room)
    assert choose_batch(timed) == (4, "8 does not fit in memory")
    monkeypatch.setattr(batch, "available_memory", lambda: 10**15)
    assert choose_batch(timed) == (256, "the search ends at 256")
    monkeypatch.setattr(batch, "available_memory", lambda: 1)
    with pytest.raises(UsageError, match=r"a batch of 1 does not fit in the memory of cpu$"):
        choose_batch(timed)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_predicted_memory_is_not_below_what_a_step_needs(mode):
    (result,) = measure([UDIT], Settings(batch_size=4, mode=mode), repeats=6)
    timed = runner(UDIT, mode=mode)
    assert timed.own_bytes() < result.peak_bytes <= 1.3 * timed.bytes_needed(4)


@pytest.mark.slow
def test_auto_on_a_gpu_tries_and_recovers(monkeypatch):
    timed = runner(TINY, batch_size=64)
    emptied = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    call, tried = timed.call, []

    def limited(n):
        tried.append(n)
        if n > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        call(n)

    monkeypatch.setattr(timed, "call", limited)
    assert largest_batch(lambda n: batch.tried(timed, n, 1), 8192) == (4, "8 does not fit in memory")
    assert tried == [1, 2, 4, 8, 6] and len(emptied) == 5 and not timed.inputs
    monkeypatch.setattr(batch, "on_cuda", lambda device: True)
    with pytest.raises(UsageError, match=r"tiny-unet: a batch of 64 does not fit .* --batch-size, or auto"):
        choose_batch(timed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("message", "found"),
    [
        (
            "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED\nmore",
            (4, "8 fails: RuntimeError: cuDNN error: "),
        ),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling", (4, "8 does not fit in memory")),
        ("integer out of range", (4, "8 fails: RuntimeError: integer out of range")),
        ("CUDA error: an illegal memory access was encountered", None),
    ],
)
def test_kernels_that_refuse_a_batch_end_the_search(monkeypatch, message, found):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(batch, "on_cuda", lambda device: True)
    monkeypatch.setitem(batch.LARGEST_BATCH, "cpu", 8192)
    timed = runner(TINY, batch_size="auto")
    call = timed.call

    def limited(n):
        if n > 4:
            raise RuntimeError(message)
        call(n)

    monkeypatch.setattr(timed, "call", limited)
    if found is None:
        with pytest.raises(RuntimeError, match="illegal"):
            choose_batch(timed)
        return
    size, why = choose_batch(timed)
    assert size == found[0] and why.startswith(found[1]) and "\n" not in why
    own = runner(TINY, batch_size=8)
    monkeypatch.setattr(own, "call", limited)
    if "ALLOC" in message:
        with pytest.raises(UsageError, match="a batch of 8 does not fit"):
            choose_batch(own)
    else:  # asked for this batch and no other, a user wants to see what the network has raised
        with pytest.raises(RuntimeError, match=re.escape(message.splitlines()[0])):
            choose_batch(own)


@pytest.mark.slow
def test_a_search_ends_before_tensors_that_kernels_cannot_index(monkeypatch):
    """U-DiT-S at 8,192 images: 2^31 numbers and more in one tensor."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(batch, "on_cuda", lambda device: True)
    timed = runner(TINY, batch_size="auto")
    made = []
    for module in timed.network.modules():
        module.register_forward_hook(
            lambda _, __, out: made.append(out.numel()) if isinstance(out, torch.Tensor) else None
        )
    assert timed.widest(4) == max(made) == 4 * timed.widest(1)
    monkeypatch.setattr(batch, "INDEXED", 7 * timed.widest(1))
    size, why = choose_batch(timed)
    assert (size, why) == (6, "8 makes tensors of 2³¹ numbers or more, which not all kernels can index")


def test_a_failed_training_step_leaves_no_gradients(monkeypatch):
    timed = runner(TINY, mode="training")

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(timed.update, "step", fail)
    assert batch.tried(timed, 1, 1) == "does not fit in memory"
    assert all(parameter.grad is None for parameter in timed.network.parameters())


def test_memory_that_runs_out_later_is_one_line(monkeypatch):
    timed = runner(TINY)
    timed.prepare(2, "")

    def fail(n):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(timed, "call", fail)
    with pytest.raises(UsageError, match="a batch of 2 does not fit"):
        timed.turn()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "tf32"}, "the cpu has no tf32"),
        ({"dtype": "int8"}, "dtype: Input should be 'fp32', 'tf32', 'bf16' or 'fp16', not 'int8'"),
        ({"batchsize": 2}, "batchsize: Extra inputs are not permitted"),
        ({"device": "cuba"}, "no device 'cuba'"),
        ({"device": "meta"}, "run on cpu or cuda, not on 'meta'"),
        ({"device": "cuda:99"}, "no device 'cuda:99' here"),
        ({"batch_size": 0}, "batch size must be at least 1"),
        ({"batch_size": 2**40}, "does not fit in the memory of cpu; try a smaller --batch-size, or auto"),
        ({"mode": "training", "num_inference_steps": 9}, "leave training out"),
        ({"num_inference_steps": 0}, "1 to 1000 steps, not 0"),
        ({"mode": "training", "dtype": "fp16"}, "fp16 needs a CUDA device"),
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
    with pytest.raises(UsageError, match="takes no option"):
        measure([("tiny-unet", {"colour": 1})], Settings(), repeats=6)


@pytest.mark.parametrize("mode", MODES)
def test_a_mistake_in_a_network_is_shown_as_it_is(monkeypatch, mode):
    network = registry.create(*TINY[:1], **TINY[1])

    def forward(x, t, y):
        if type(x) is torch.Tensor:  # not when it is costed
            raise ZeroDivisionError("my mistake")
        return x

    network.forward = forward
    with pytest.raises(ZeroDivisionError, match="my mistake"):
        measure([network], Settings(batch_size=2, mode=mode), repeats=6)


def test_a_network_without_weights_cannot_be_trained():
    network = registry.create(*TINY[:1], **TINY[1]).requires_grad_(False)
    with pytest.raises(UsageError, match="tiny-unet cannot be trained: it has no trainable parameters"):
        measure([network], Settings(batch_size=2, mode="training"), repeats=6)


def test_networks_with_other_inputs_cannot_be_sampled_from(small_uvit2d):
    with pytest.raises(UsageError, match="uvit2d cannot be sampled from: its inputs are not x"):
        runner(("uvit2d", {"input_size": 4}), num_inference_steps=2)


# ---- results ----


def test_a_peak_has_no_gaps_and_is_kept_up(monkeypatch):
    """Calls are marked by the twenty; the first are the fastest, as of a GPU that is cold."""
    now, calls = 0.0, 0

    def call():
        nonlocal now, calls
        calls += 1
        now += 0.5 if calls <= 21 else 1.0

    monkeypatch.setattr(device.time, "perf_counter", lambda: now)
    monkeypatch.setitem(device.LIMIT_CALLS, "cpu", 20)
    monkeypatch.setitem(device.LIMIT_SECONDS, "cpu", 100.0)
    assert device._rate(6.0, call, torch.device("cpu")) == device.Rate(burst=12.0, sustained=6.0)
    assert calls == 1 + 20 * 6


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),  # by which papers divide
        ("NVIDIA H200", "fp16", 989e12),
        ("NVIDIA H200", "tf32", 494.5e12),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5e12),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16", None),
        ("Some CPU", "fp32", None),
    ],
)
def test_nominal_peaks(name, dtype, expected):
    assert nominal_flops(name, dtype) == expected


@pytest.mark.parametrize(("share", "bound"), [(0.5, None), (0.95, "launch")])
@pytest.mark.parametrize("mode", MODES)
def test_a_gpu_that_waits_for_launches_is_bound_by_them(monkeypatch, mode, share, bound):
    """The processor stands for a GPU that takes a second for a call of 4 images."""
    timed = runner(TINY, batch_size=4, mode=mode)
    sizes = []

    def enqueue(call, _):
        sizes.clear()
        call()
        return share

    monkeypatch.setattr(runners, "on_cuda", lambda _: True)
    monkeypatch.setattr(runners, "enqueue_seconds", enqueue)
    monkeypatch.setattr(runners, "seconds", lambda call, times, _: float(times))
    monkeypatch.setattr(timed, "_cuda_peak", lambda: 64)
    timed.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    timed.prepare(4, "")
    rounds = [timed.turn() for _ in range(6)]
    assert rounds == [0.25] * 6 and sizes[0] == 1  # so many kernels, and none that the GPU is behind with
    where = Device(name="d", threads=1, clock_mhz=None, peak_flops=1e12, bandwidth=1e9, nominal_flops=2e12)
    found = throughput._speed(timed, rounds, None, None, where)
    assert found.launch_share == share
    assert found.bound == (bound or ("compute" if found.intensity >= found.ridge else "memory"))
    assert found.nominal_share == found.peak_share / 2
    monkeypatch.setattr(timed, "enqueue_seconds", [])
    assert throughput._speed(timed, rounds, None, None, where).launch_share is None


def test_memory_of_a_cuda_graph_is_seen_while_it_is_recorded(monkeypatch):
    """Replays allocate nothing: the first call compiles, the second records, those after it replay."""
    timed = runner(TINY, batch_size=4, compile=True)
    calls, seen = [], []

    def compiled(function, **_):
        def call(*inputs):
            calls.append(len(inputs[0]))
            return function(*inputs)

        return call

    def peak():
        seen.append(list(calls))
        timed.call(4)
        return 10 + len(seen)

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(runners, "on_cuda", lambda _: True)
    monkeypatch.setattr(timed, "_cuda_peak", peak)
    timed.prepare(4, "")
    assert seen == [[4]] and timed.peak_bytes == 11 and calls[:3] == [4, 4, 1]


@pytest.mark.slow
def test_results_agree_with_themselves_and_fill_a_record():
    first, second = measure([TINY, UDIT], Settings(batch_size=2), repeats=6)
    for result, (name, overrides) in ((first, TINY), (second, UDIT)):
        request = result.request
        assert (request.model, request.config) == (name, registry.canonical(name, overrides))
        assert request.device_name == result.device.name and request.mode == "inference"
        assert result.batch_size == request.batch_size == 2 and result.batch_reason == "as requested"
        assert Speed.model_validate_json(result.model_dump_json()) == result
        assert len(result.seconds_per_image) == 6
        low, high = result.quartiles
        assert 0 < low <= result.images_per_second <= high
        p50, p95 = result.latency_ms
        assert 0 < p50 <= p95
        assert result.macs == cost.measure(name, **overrides).macs
        assert result.flops_per_second == pytest.approx(2 * result.macs * result.images_per_second)
        where = result.device
        assert result.peak_share == pytest.approx(result.flops_per_second / where.peak_flops)
        assert result.ridge == pytest.approx(where.peak_flops / where.bandwidth)
        assert result.bound == ("compute" if result.intensity >= result.ridge else "memory")
        assert where.name and where.threads == 1
        assert result.compiled == "no" and result.compile_seconds is None
        assert result.sampling is None and result.training is None
    assert first.ratio is None and first.interval is None
    assert second.interval[0] <= second.ratio <= second.interval[1]


@pytest.mark.slow
def test_a_network_is_timed_as_its_name_is_and_left_alone():
    network = registry.create(TINY[0], **TINY[1])
    before = copy.deepcopy(network.state_dict())
    for mode in MODES:
        built, named = measure([network, TINY], Settings(batch_size=1, mode=mode), repeats=6)
        assert built.request == named.request and built.macs == named.macs
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_bytes_moved_and_peak_of_known_operators():
    weight, x = torch.ones(4, 8), torch.ones(2, 8)
    with Traffic(own=weight.nbytes) as traffic, torch.no_grad():
        y = x @ weight.t()  # reads 2·8 and 4·8, writes 2·4; the transpose moves nothing
        y.view(-1).relu_()  # reads and writes 2·4
        del y
        torch.zeros(3)  # writes 3
    assert traffic.moved == 4 * (16 + 32 + 8 + 8 + 8 + 3)
    assert traffic.peak == 4 * (32 + 8)
    assert traffic.memory.live == traffic.peak - 4 * 8


def test_what_is_changed_in_place_in_lists_is_read_and_written():
    averages, weights = [torch.zeros(3), torch.zeros(5)], [torch.ones(3), torch.ones(5)]
    with Traffic(own=0) as traffic, torch.no_grad():
        torch._foreach_lerp_(averages, weights, 0.5)
    assert averages[0].tolist() == [0.5] * 3
    assert traffic.moved == 4 * 3 * (3 + 5)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_inference_casts(dtype):
    timed = runner(TINY, dtype=dtype)
    assert {p.dtype for p in timed.network.parameters()} == {device.TORCH_DTYPES[dtype]}
    timed.prepare(1, "")
    assert math.isfinite(timed.total.item())


class Rotated(registry.Backbone):
    """A table of complex numbers, as of rotary embeddings, and a convolution over three axes."""

    def __init__(self, num_classes=0, input_size=8):
        super().__init__(input_size=input_size, in_channels=2, num_classes=num_classes)
        self.conv, self.volume = nn.Conv2d(2, 2, 1), nn.Conv3d(1, 1, 1)
        self.register_buffer("turns", torch.polar(torch.ones(8), torch.arange(8.0)))

    def forward(self, x, t, y):
        turned = torch.view_as_complex(x.movedim(1, -1).float().contiguous()) * self.turns
        x = torch.view_as_real(turned).movedim(-1, 1).to(x.dtype)
        return self.conv(x) + self.volume(x[:, None])[:, 0]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_complex_numbers_stay_complex_and_volumes_in_their_layout(dtype):
    network = Rotated()
    wanted = network.turns.clone()
    placed = device.cast(network, torch.device("cpu"), dtype)
    device.channels_last(placed)
    assert torch.equal(placed.turns, wanted) and placed.conv.weight.dtype == device.TORCH_DTYPES[dtype]
    assert placed.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert placed.volume.weight.is_contiguous()


def test_networks_with_complex_numbers_are_timed_as_they_are(monkeypatch):
    registry.register("test-rotated")(Rotated)
    timed = runner(("test-rotated", {}), channels_last=True)
    timed.prepare(1, "")
    inputs = timed.network.example_inputs(2)
    torch.testing.assert_close(timed.network(*inputs), timed._trained(*inputs))


def test_attention_of_a_module_of_pytorch_is_counted_as_it_is_timed():
    """Its fused path for inference, one operator to whoever counts, would hide what it writes."""

    class Attending(registry.Backbone):
        def __init__(self, num_classes=0, input_size=16):
            super().__init__(input_size=input_size, in_channels=16, num_classes=num_classes)
            self.inside = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x, t, y):
            tokens = x.flatten(2).mT
            return self.inside(tokens, tokens, tokens, need_weights=False)[0].mT.reshape(x.shape)

    registry.register("test-attending")(Attending)
    timed = runner(("test-attending", {}))
    timed.prepare(2, "")
    seen = set()

    class Names(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.add(func._schema.name)
            return func(*args, **(kwargs or {}))

    with Names():
        timed.call(2)
    assert not any("native_multi_head" in name for name in seen)
    assert any("attention" in name for name in seen)


def test_training_runs_under_autocast():
    timed, seen = runner(TINY, dtype="bf16", mode="training"), set()
    assert {p.dtype for p in timed.network.parameters()} == {torch.float32} and timed.network.training
    timed.network.register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    timed.prepare(1, "")
    assert seen == {torch.bfloat16} and math.isfinite(timed.total.item())


def test_training_takes_the_step_of_bench_train():
    timed = runner(TINY, mode="training")
    theirs = copy.deepcopy(timed.network)
    before = [p.clone() for p in theirs.parameters()]
    timed.make_inputs(2)
    *inputs, target = next(timed.inputs[2])
    timed.inputs[2] = iter([(*inputs, target)])
    torch.manual_seed(1)
    timed.call(2)
    torch.manual_seed(1)  # of the dropped labels
    torch.nn.functional.mse_loss(theirs(*inputs), target).backward()
    torch.optim.AdamW(theirs.parameters(), lr=1e-4, weight_decay=0).step()
    for (name, ours), other, old in zip(
        timed.network.named_parameters(), theirs.parameters(), before, strict=True
    ):
        torch.testing.assert_close(ours, other)
        torch.testing.assert_close(timed.update.ema[name], old.lerp(other, 1e-4))
        assert not torch.equal(ours, old) and ours.grad is None


@pytest.mark.slow
def test_training_tells_its_parts_and_no_latency():
    settings = Settings(batch_size=2, mode="training", channels_last=True)
    (result,) = measure([UDIT], settings, repeats=6)
    assert result.latency_ms is None
    assert result.flops_per_second == pytest.approx(6 * result.macs * result.images_per_second)
    assert min(result.training.model_dump().values()) > 0


@pytest.mark.parametrize("mode", MODES)
def test_networks_with_other_inputs(mode, small_uvit2d):
    (result,) = measure([("uvit2d", {"input_size": 4})], Settings(batch_size=2, mode=mode), repeats=6)
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


@pytest.mark.slow
def test_every_call_compiles_whatever_was_compiled_before(monkeypatch):
    """PyTorch compiles a function eight times and runs it eager from then on, without a word."""
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    compiled = functools.partial(torch.compile, backend=backend)
    monkeypatch.setattr(torch, "compile", compiled)
    network = registry.create(TINY[0], **TINY[1]).deploy()
    call = compiled(network, dynamic=False)
    for size in range(2, 12):
        call(*network.example_inputs(size))
    assert len(graphs) == 8
    measure([TINY], Settings(batch_size=12, compile=True), repeats=6)
    assert len(graphs) == 8 + 2  # for this batch and for single images


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_nothing_is_compiled_while_a_loop_is_timed(monkeypatch, dtype):
    graphs, during = [], []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    def timed(call, times, where):
        before = len(graphs)
        spent = seconds(call, times, where)
        during.append(len(graphs) - before)
        return spent

    seconds = runners.seconds
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    monkeypatch.setattr(runners, "seconds", timed)
    settings = Settings(batch_size=4, dtype=dtype, compile=True, num_inference_steps=5)
    (result,) = measure([UDIT], settings, repeats=6)
    assert result.compiled == "yes" and result.sampling.guided_images_per_second > 0
    assert during[0] == 1 and not any(during[1:])  # the first is told apart, as the time to compile
    # For the batch and single images; 2 guided images are a batch of 4. Loops in bf16 run under autocast.
    assert len(graphs) == (2 if dtype == "fp32" else 3)


@pytest.mark.slow
def test_loops_are_those_of_bench_sample(monkeypatch):
    """Whole plans, with their random numbers, and a network whose weights are cast once."""
    seen = []
    grids = Plan.grids

    def see(plan, network, indices):
        seen.append((plan, network, indices))
        return grids(plan, network, indices)

    monkeypatch.setattr(Plan, "grids", see)
    measure([UDIT], Settings(batch_size=4, dtype="bf16", num_inference_steps=5), repeats=6)
    plans = [plan for plan, _, _ in seen]
    assert [(p.settings.steps, p.settings.cfg_scale, p.settings.num) for p in plans] == [
        *[("3", 1.0, 4)] * 2, *[("5", 1.0, 4)] * 3, *[("3", 1.5, 2)] * 2, *[("5", 1.5, 2)] * 3
    ]  # fmt: skip
    ways = {(p.precision, p.settings.sampler, p.settings.tf32) for p in plans}
    assert ways == {("bf16", "ancestral", False)}
    for _, network, indices in seen:
        cast = [m.weight.dtype for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert set(cast) == {torch.bfloat16}
        assert torch.float32 in {p.dtype for p in network.parameters()}  # of the embedding, as in training
        assert len(indices) in (2, 4)


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
@pytest.mark.slow
def test_sampling_counts_whole_loops(monkeypatch, model, guided):
    monkeypatch.setattr(runners, "seconds", lambda call, times, device: (call(), 2.0)[1])
    (result,) = measure([model], Settings(batch_size=4, num_inference_steps=2), repeats=6)
    assert result.sampling == SamplingSpeed(steps=2, images_per_second=4 / 2, guided_images_per_second=guided)
