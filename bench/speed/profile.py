"""Where the time of a forward pass goes, beside where its multiply-accumulates go.

The deployed network runs in inference mode. By stage, time is taken when a stage is entered and left; by
operator, from torch.profiler, in the classes in which `bench.cost` counts. A part with a larger share of
the time than of the multiply-accumulates is slower than its FLOPs promise. Depthwise convolutions, which
do little work for each byte they move, are also timed alone: what is left if all around them is made free.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity
from torch.utils._python_dispatch import TorchDispatchMode

import registry
from bench import cost
from bench.speed.device import TORCH_DTYPES, Dtype, bandwidth, check_dtype, precision
from bench.utils.device import device_name, find_device, on_cuda
from bench.utils.files import write_whole
from registry.backbone import Size
from registry.errors import UsageError, reason

if TYPE_CHECKING:
    from matplotlib.axes import Axes

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler complains on stderr where there is no GPU

WARM_UP = 2  # forward passes before any is timed
VISIBLE = 0.02  # a smaller excess of time over work is none


@dataclass(frozen=True)
class Row:
    """Time and multiply-accumulates of a stage or of a class of operators.

    Attributes:
        seconds: of one forward pass of the batch, median.
        time_share: of the sum over all rows.
        macs: of one sample, as `bench.cost` counts them.
        ratio: time_share / macs_share; None without multiply-accumulates.
    """

    name: str
    seconds: float
    time_share: float
    macs: int
    macs_share: float
    ratio: float | None

    @property
    def excess(self) -> float:
        """By how much the share of time is above the share of multiply-accumulates."""
        return self.time_share - self.macs_share


@dataclass(frozen=True)
class Depthwise:
    """The depthwise convolutions of a forward pass without the rest of it.

    Attributes:
        count: how many there are.
        memory_format: in which they are fastest, `contiguous` or `channels-last`.
        seconds: of all of them in that format, those of one shape in a row; median, by the profiler.
        copy_seconds: the time in which a copy moves as many bytes as their inputs, weights and outputs have.
    """

    count: int
    memory_format: str
    seconds: float
    copy_seconds: float


@dataclass(frozen=True)
class Profile:
    """Time beside multiply-accumulates of one network on one device.

    Attributes:
        device: name of the GPU, or of the processor and how many threads.
        dtype: one of `bench.speed.device.Dtype`.
        seconds: one whole forward pass of the batch, neither hooked nor profiled; median.
        overhead: how much longer the stages took together, as a fraction of that.
        stages: in order of execution; what runs in no stage is "(between)".
        operators: by time, on the device: what waits for no operator is in none.
        depthwise: its depthwise convolutions alone; None if it has none.
    """

    model: str
    overrides: dict[str, Any]
    input_size: Size
    batch_size: int
    device: str
    dtype: str
    seconds: float
    overhead: float
    stages: list[Row] = field(repr=False)
    operators: list[Row] = field(repr=False)
    depthwise: Depthwise | None

    @property
    def title(self) -> str:
        """The model with its overrides."""
        return registry.label(self.model, self.overrides)

    @property
    def operator_seconds(self) -> float:
        """What all operators take together under the profiler."""
        return sum(row.seconds for row in self.operators)

    @property
    def finding(self) -> str:
        """The stage, and the operator, whose share of time is farthest above that of its work."""
        first, second = "No stage takes more than its share of the time", "none does"
        if stage := _slowest(self.stages):
            first = (
                f"{stage.name} takes {stage.time_share:.0%} of the time for {stage.macs_share:.0%} of the "
                "multiply-accumulates"
            )
        if operator := _slowest(self.operators):
            second = f"{operator.name} takes {operator.time_share:.0%} for {operator.macs_share:.0%}"
        return f"{first}; of the operators, {second}."

    @property
    def floor(self) -> str:
        """What the depthwise convolutions take in the network, and how little they could; "" without any."""
        alone = self.depthwise
        if alone is None:
            return ""
        text = f"Depthwise convolutions ({alone.count}): "
        for row in self.operators:
            if row.name == _DEPTHWISE:
                text += (
                    f"{row.time_share:.1%} of the time for {row.macs_share:.1%} of the multiply-accumulates; "
                )
        return text + (
            f"alone, in {alone.memory_format} memory, they take {alone.seconds * 1e3:.2f} ms "
            f"({alone.seconds / self.operator_seconds:.1%}); a copy moves their bytes in "
            f"{alone.copy_seconds * 1e3:.2f} ms."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"finding": self.finding}


def profile(
    network: Any,
    *,
    device: str = "cpu",
    dtype: Dtype = "fp32",
    batch_size: int = 8,
    repeats: int = 10,
    trace: Path | None = None,
) -> Profile:
    """Profile the forward pass of a network's deployed form.

    Args:
        network: a network that honours the contract of `registry.Backbone`; left as it is.
        device: `cpu`, `cuda`, `cuda:1`.
        dtype: to which weights and inputs are cast; tf32 is float32 with products in TF32, on CUDA.
        batch_size: samples in one forward pass.
        repeats: how often each of three ways of running is timed: plain, by stage, by operator.
        trace: also write a Chrome trace of the last profiled pass here (`.json`, `.json.gz`).

    Raises:
        UsageError: no such device, a dtype it lacks, a network or batch that fails on it, or
            an unwritable trace.
    """
    if batch_size < 1 or repeats < 1:
        raise UsageError(f"needs batch_size >= 1 and repeats >= 1, not {batch_size}, {repeats}")
    place = find_device(device)
    check_dtype(dtype, place)
    deployed = network.deploy()
    counted = cost.measure(deployed)
    wanted = {part.name for part in counted.stages}
    stages = {name: module for name, module in deployed.stages().items() if name in wanted}
    try:
        with torch.inference_mode(), precision(dtype, place):
            deployed = deployed.to(place, TORCH_DTYPES[dtype])
            run = _Runner(deployed, deployed.example_inputs(batch_size), place)
            for _ in range(WARM_UP):
                run.plain()
            run.by_operator(stages)  # the first profiled pass waits for the profiler
            # Taking turns, so that a change of the machine's pace meets all alike.
            turns = [(run.plain(), run.by_stage(stages), run.by_operator(stages)) for _ in range(repeats)]
            depthwise = _alone(run.depthwise(), repeats, place)
    except torch.OutOfMemoryError:
        raise UsageError(f"{counted.model}: a batch of {batch_size} does not fit on {device}") from None
    except RuntimeError as error:
        raise UsageError(f"{counted.model} fails on {device} in {dtype}: {reason(error)}") from error
    if trace is not None:
        write_whole(trace, lambda path: run.profiler.export_chrome_trace(str(path)))
    by_stage = dict.fromkeys((*stages, "(between)"), 0.0) | _medians([found for _, found, _ in turns])
    whole = statistics.median(seconds for seconds, _, _ in turns)
    by_operator = _medians([found for _, _, found in turns])
    macs, by_operator = _operator_macs(counted, deployed, by_operator)
    return Profile(
        model=counted.model,
        overrides=counted.overrides,
        input_size=counted.input_size,
        batch_size=batch_size,
        device=device_name(place) + ("" if on_cuda(place) else f", {torch.get_num_threads()} threads"),
        dtype=dtype,
        seconds=whole,
        overhead=sum(by_stage.values()) / whole - 1,
        stages=_rows(by_stage, {part.name: part.macs for part in counted.stages}),
        operators=sorted(_rows(by_operator, macs), key=lambda row: -row.seconds),
        depthwise=depthwise,
    )


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    """Median of each part, over passes in some of which it may be missing."""
    names = dict.fromkeys(name for one in found for name in one)
    return {name: statistics.median(one.get(name, 0.0) for one in found) for name in names}


def _rows(seconds: dict[str, float], macs: dict[str, int]) -> list[Row]:
    all_time, all_macs = sum(seconds.values()) or 1.0, sum(macs.values()) or 1
    rows = []
    for name in dict.fromkeys((*seconds, *macs)):
        took, work = seconds.get(name, 0.0), macs.get(name, 0)
        time_share, macs_share = took / all_time, work / all_macs
        rows.append(Row(name, took, time_share, work, macs_share, time_share / macs_share if work else None))
    return rows


def _slowest(rows: list[Row]) -> Row | None:
    """The row whose share of time is farthest above that of its work, if that can be seen at all."""
    row = max(rows, key=lambda row: row.excess)
    return row if row.excess >= VISIBLE else None


# ---- one forward pass, timed ----


class _Runner:
    """Runs a network on its example inputs, in the three ways in which it is timed."""

    def __init__(self, network: nn.Module, inputs: tuple[Any, ...], device: torch.device) -> None:
        self.network, self.inputs, self.device = network, inputs, device
        self.profiler: Any = None  # of the last pass by operator

    def plain(self) -> float:
        """Seconds of one forward pass."""
        start = self._mark()
        self.network(*self.inputs)
        return _between([start, self._mark()])[0]

    def by_stage(self, stages: dict[str, nn.Module]) -> dict[str, float]:
        """Seconds of each stage, and of what is in none."""
        names: list[str] = []
        running = ["(between)"]

        def enter(stage: str) -> None:
            marks.append(self._mark())
            names.append(running[-1])
            running.append(stage)

        def leave(stage: str) -> None:
            marks.append(self._mark())
            names.append(running.pop())

        with _at_stages(stages, enter, leave):
            marks = [self._mark()]
            self.network(*self.inputs)
            marks.append(self._mark())
        names.append("(between)")
        seconds: dict[str, float] = dict.fromkeys(names, 0.0)
        for name, took in zip(names, _between(marks), strict=True):
            seconds[name] += took
        return seconds

    def by_operator(self, stages: dict[str, nn.Module]) -> dict[str, float]:
        """Seconds of each class of operators on the device; the trace shows the stages too."""
        ranges: list[Any] = []

        def enter(stage: str) -> None:
            ranges.append(torch.profiler.record_function(stage))
            ranges[-1].__enter__()

        def leave(stage: str) -> None:
            ranges.pop().__exit__(None, None, None)

        with _at_stages(stages, enter, leave):
            seconds, self.profiler = _profiled(lambda: self.network(*self.inputs), self.device)
        return seconds

    def depthwise(self) -> Counter[Any]:
        """The depthwise convolutions that run (see `_DepthwiseSeen`)."""
        # Under inference mode the dispatcher does not show which convolution an operator comes to.
        with torch.inference_mode(False), torch.no_grad(), _DepthwiseSeen() as seen:
            self.network(*self.inputs)
        return seen.found

    def _mark(self) -> Any:
        """A point in time: on CUDA an event in the stream, which nothing waits for until all is done."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


def _profiled(call: Callable[[], Any], device: torch.device) -> tuple[dict[str, float], Any]:
    """Seconds that each class of operators takes on the device in a call, and the profiler that saw it."""
    cuda = on_cuda(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    profiler = torch.profiler.profile(activities=activities, record_shapes=True, acc_events=True)
    with profiler:
        call()
        if cuda:
            torch.cuda.synchronize(device)  # or the last kernels would be missing
    seconds: dict[str, float] = {}
    for event in profiler.events():
        # Kernels are events of their own as well; they count where an operator started them.
        if event.device_type == torch.autograd.DeviceType.CPU and "::" in event.name:
            own = event.self_device_time_total if cuda else event.self_cpu_time_total
            kind = _operator(event)
            seconds[kind] = seconds.get(kind, 0.0) + own / 1e6
    return seconds, profiler


def _between(marks: list[Any]) -> list[float]:
    """Seconds from each mark to the next."""
    if isinstance(marks[0], float):
        return [end - start for start, end in pairwise(marks)]
    marks[-1].synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in pairwise(marks)]


@contextlib.contextmanager
def _at_stages(
    stages: dict[str, nn.Module], enter: Callable[[str], None], leave: Callable[[str], None]
) -> Iterator[None]:
    """Within this context `enter` and `leave` are called with the stage's name around each stage."""
    with contextlib.ExitStack() as hooks:
        for name, stage in stages.items():
            # A bare container is never called; its items are.
            for part in stage.children() if isinstance(stage, nn.ModuleList) else [stage]:
                before = part.register_forward_pre_hook(lambda *_, name=name: enter(name))
                after = part.register_forward_hook(lambda *_, name=name: leave(name))
                hooks.callback(before.remove)
                hooks.callback(after.remove)
        yield


# ---- depthwise convolutions alone ----


_LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


class _DepthwiseSeen(TorchDispatchMode):
    """Counts depthwise convolutions by dtype, shapes of input, weight and bias, and the other arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            x, weight, bias, *others = args
            if _convolution(x.shape[1], [*weight.shape]) == _DEPTHWISE:
                shapes = tuple(None if a is None else tuple(a.shape) for a in (x, weight, bias))
                others = [tuple(a) if isinstance(a, list) else a for a in others]
                self.found[x.dtype, shapes, *others] += 1
        return func(*args, **(kwargs or {}))


def _alone(found: Counter[Any], repeats: int, device: torch.device) -> Depthwise | None:
    """Time convolutions on random tensors, in each memory format."""
    if not found:
        return None
    times = {}
    for name, layout in _LAYOUTS.items():
        calls, moved = [], 0
        for (dtype, shapes, *others), count in found.items():
            tensors: list[Any] = [
                None if s is None else torch.randn(s, device=device).to(dtype) for s in shapes
            ]
            tensors = [a.to(memory_format=layout) if a is not None and a.dim() == 4 else a for a in tensors]
            out = torch.convolution(*tensors, *others)
            moved += count * sum(a.nbytes for a in (*tensors, out) if a is not None)
            calls += [(tensors, others)] * count

        def run(calls: list[Any] = calls) -> None:
            for tensors, others in calls:
                torch.convolution(*tensors, *others)

        run()
        times[name] = statistics.median(_profiled(run, device)[0][_DEPTHWISE] for _ in range(repeats))
    best = min(times, key=times.__getitem__)
    return Depthwise(found.total(), best, times[best], moved / bandwidth(device))


# ---- classes of operators ----

_CLASSES = {
    "convolution": """conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
        _convolution""",
    "linear": "linear matmul mm bmm addmm baddbmm addbmm mv addmv dot",
    "norm": """layer_norm group_norm batch_norm rms_norm instance_norm native_layer_norm native_group_norm
        native_batch_norm _fused_rms_norm linalg_vector_norm norm""",
    "elementwise": """add addcmul addcdiv sub rsub mul multiply div neg pow square sqrt rsqrt reciprocal exp
        log sin cos clamp clamp_min clamp_max maximum minimum where lerp mean sum""",
    "activation": """silu gelu relu leaky_relu elu mish sigmoid tanh softplus hardswish softmax _softmax
        prelu glu""",
    "copy and layout": """copy clone contiguous to _to_copy cat stack reshape view permute transpose chunk
        split unbind select slice expand squeeze unsqueeze flatten unflatten pixel_shuffle pixel_unshuffle
        pad constant_pad_nd repeat roll upsample_nearest2d upsample_bilinear2d zeros ones empty
        zeros_like ones_like""",
}
_CLASS_OF = {f"aten::{op}": name for name, ops in _CLASSES.items() for op in ops.split()}
_DEPTHWISE = "depthwise convolution"
# Where PyTorch does not fuse it, attention is matrix products, here as there.
_CLASS_OF |= {op: "attention" for op in cost.HANDLERS if "scaled_dot_product" in op}


def _operator(event: Any) -> str:
    """Class of an event: that of the outermost operator it is part of that has one."""
    found, shapes = "other", []
    while event is not None:
        if kind := _CLASS_OF.get(event.name.rstrip("_")):
            found, shapes = kind, event.input_shapes
        event = event.cpu_parent
    if found != "convolution" or len(shapes) < 2 or not shapes[1]:
        return found
    return _convolution(shapes[0][1 - len(shapes[1])], shapes[1])


def _convolution(channels: int, weight: list[int]) -> str:
    """Kind of a convolution, from its input channels and the weight's shape (out, in / groups, …)."""
    if weight[1] == 1 and channels > 1:
        return _DEPTHWISE
    return "1×1 convolution" if all(side == 1 for side in weight[2:]) else "other convolution"


def _operator_macs(
    counted: cost.Cost, deployed: nn.Module, seconds: dict[str, float]
) -> tuple[dict[str, int], dict[str, float]]:
    """Multiply-accumulates and seconds by operator; convolutions are told apart where both can be."""
    macs = Counter({part.name: part.macs for part in counted.operators if part.macs})
    kinds: Counter[str] = Counter()
    for part in counted.modules:
        module = deployed.get_submodule(part.name)
        if isinstance(module, nn.modules.conv._ConvNd):
            kinds[_convolution(module.in_channels, [*module.weight.shape])] += part.macs
    if kinds.total() == macs["convolution"]:
        del macs["convolution"]
        return dict(macs + kinds), seconds
    # Some are in no convolution module, so their kind is not counted.
    apart = {name: took for name, took in seconds.items() if name.endswith("convolution")}
    together = {name: took for name, took in seconds.items() if name not in apart}
    return dict(macs), together | {"convolution": sum(apart.values())}


# ---- the picture ----

# Paul Tol's "light" colours: told apart by colour-blind readers, and black text is legible on all.
_COLOURS = ["#77AADD", "#EE8866", "#EEDD88", "#44BB99", "#FFAABB", "#99DDFF", "#BBCC33", "#AAAA00"]
_OTHER = "#DDDDDD"
_SMALL = 0.03  # parts below this share in every bar are drawn as one


def draw(profiles: list[Profile], folder: str | Path) -> list[Path]:
    """Draw profiles side by side, two stacked bars each, into `profile-<names>.png` and `.svg`.

    The same profiles give the same files, byte for byte.

    Raises:
        UsageError: the folder cannot be made or written to.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    ours = {"svg.hashsalt": "bench", "font.size": 10, "hatch.linewidth": 0.4}
    with matplotlib.style.context(["default", ours]):  # and not what the user's own settings say
        width = 4.6 + 5.6 * len(profiles)
        figure = Figure(figsize=(width, 8.6), layout="constrained")
        both = figure.subplots(1, 2)
        _bars(both[0], "By stage", [(p.title, p.stages) for p in profiles])
        _bars(both[1], "By operator", [(p.title, p.operators) for p in profiles])
        first = profiles[0]
        where = f"{first.device}, batch {first.batch_size}, {first.dtype}"
        figure.suptitle(f"Share of time beside share of multiply-accumulates\n{where}", fontsize=14)
        findings = [f"{p.title} ({p.seconds * 1e3:,.1f} ms): {p.finding}" for p in profiles]
        wrapped = "\n".join(textwrap.fill(text, int(width * 11)) for text in findings)
        figure.supxlabel(wrapped, fontsize=11)
        name = "profile-" + "-".join(re.sub(r"[^\w.-]+", "-", p.title) for p in profiles)
        png, svg = Path(folder) / f"{name}.png", Path(folder) / f"{name}.svg"
        write_whole(png, lambda path: figure.savefig(path, dpi=150, metadata={"Software": None}))
        write_whole(svg, lambda path: figure.savefig(path, metadata={"Date": None}))
    return [png, svg]


def _bars(axes: Axes, title: str, networks: list[tuple[str, list[Row]]]) -> None:
    """For each network a bar of time and one of multiply-accumulates, equal parts joined by lines."""
    from matplotlib.patches import Patch

    names = _drawn([rows for _, rows in networks])
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)} | {"other parts": _OTHER}
    hatches = {name: "///" if i >= len(_COLOURS) else "" for i, name in enumerate(names)}
    for i, (_, rows) in enumerate(networks):
        slowest = _slowest(rows)
        left, right, edge = 2.6 * i, 2.6 * i + 1.2, 0.42
        low_left = low_right = 0.0
        for name, (took, work) in reversed(_shares(rows, names).items()):
            style: Any = {"color": colours[name], "hatch": hatches.get(name), "edgecolor": "white"}
            axes.bar([left, right], [took, work], 2 * edge, [low_left, low_right], linewidth=1, **style)
            for x, low, share in ((left, low_left, took), (right, low_right, work)):
                if share >= 0.018:
                    weight = "bold" if slowest and name == slowest.name else "normal"
                    text = f"{name.replace('convolution', 'conv')} {share:.0%}"
                    axes.text(x, low + share / 2, text, ha="center", va="center", weight=weight, fontsize=9)
            low_left, low_right = low_left + took, low_right + work
            axes.plot([left + edge, right - edge], [low_left, low_right], color="0.6", linewidth=0.8)
    ticks = [(2.6 * i + x, text) for i in range(len(networks)) for x, text in ((0, "time"), (1.2, "MACs"))]
    axes.set_xticks([x for x, _ in ticks], [text for _, text in ticks], fontsize=11)
    for i, (network, _) in enumerate(networks):
        axes.text(2.6 * i + 0.6, 1.012, network, ha="center", fontsize=11, weight="bold")
    axes.legend(
        handles=[
            Patch(facecolor=colours[name], hatch=hatches.get(name), edgecolor="white", label=name)
            for name in colours
        ],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.05),
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    axes.set_title(title, pad=24, fontsize=13)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _drawn(networks: list[list[Row]]) -> list[str]:
    """Names of the rows that are large enough to be drawn by themselves, in the order of the rows."""
    return [
        name
        for name in dict.fromkeys(row.name for rows in networks for row in rows)
        if any(max(r.time_share, r.macs_share) >= _SMALL for rows in networks for r in rows if r.name == name)
    ]


def _shares(rows: list[Row], names: list[str]) -> dict[str, tuple[float, float]]:
    """Shares of time and of multiply-accumulates of the named rows, and of the others together."""
    shares = {row.name: (row.time_share, row.macs_share) for row in rows}
    found = {name: shares.get(name, (0.0, 0.0)) for name in names}
    times, works = zip((0.0, 0.0), *found.values(), strict=True)
    return found | {"other parts": (max(1 - sum(times), 0.0), max(1 - sum(works), 0.0))}
