"""The command as a user meets it: output, JSON, one-line errors, exit status."""

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from bench import cli, studies
from bench.cli import command
from bench.studies.cells import cells
from bench.training import protocols
from tests import docs
from tests.bench import made
from tests.conftest import ROOT


def test_help_and_list_import_nothing_heavy():
    code = (
        "import sys\n"
        "from bench import cli\n"
        "sys.argv = ['bench', *{args}]\n"
        "try: cli.main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {{'torch', 'pandas', 'diffusers', 'numpy'}} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    for args in (["--help"], ["flops", "--help"], ["list", "udit*"], ["describe", "udit-t"]):
        subprocess.run([sys.executable, "-c", code.format(args=args)], check=True, capture_output=True)


COMMANDS = [(name, function) for panel in cli.PANELS.values() for name, function in panel.items()]


@pytest.mark.parametrize(("name", "function"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_help_has_examples_that_exist_and_whole_sentences(run_bench, name, function):
    _, shown = command.parted(inspect.getdoc(function))
    assert shown
    for example in shown:
        (arguments,) = docs.commands(example)
        docs.parse(arguments)
        assert arguments[0] == name
    for width in (80, 120):
        code, out, _ = run_bench(name, "--help", width=width)
        assert code == 0 and all(f"$ {example}\n" in trimmed(out) for example in shown)
        assert not re.search(r"<(bool|str|int|float|path|list)|\bTEXT\b.*\bTEXT\b", out)
        assert not re.search(r"--[\w-]*…", out)  # a name that is cut off
        prose = trimmed(out).split("╭")[0]
        for paragraph in prose.strip().split("\n\n"):  # lines are as long as the terminal lets them be
            lines = paragraph.split("\n")
            for line, following in pairwise(lines):
                assert len(line) + 1 + len(following.split()[0]) > width - 2, (line, following)


def trimmed(text):
    return "\n".join(line.strip() for line in text.splitlines()) + "\n"


def test_commands_stand_in_panels(run_bench):
    out = run_bench("--help", width=100)[1]
    assert re.findall(r"╭─ (.*?) ─", out) == ["Options", *cli.PANELS]
    assert "<" not in out and all(f"│ {name} " in out for name, _ in COMMANDS)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            ("flops", "--modle", "x"),
            "No such option: --modle. Did you mean --model? See `bench flops --help`.",
        ),
        (("flosp",), "No such command 'flosp'. Did you mean 'flops'? See `bench --help`."),
        (("eval", "--samples", "x"), "Missing option '--reference'. See `bench eval --help`."),
        (
            ("throughput", "-m", "udit-t", "--dtype", "fp8"),
            "'fp8' is not one of 'fp32', 'tf32', 'bf16', 'fp16'",
        ),
        (
            ("throughput", "-m", "udit-t", "--repeats", "4"),
            "'--repeats': Input should be greater than or equal to 6",
        ),
        (("throughput", "-m", "udit-t", "--batch-size", "0"), "--batch-size takes a number of images"),
        (("throughput", "-m", "udit-t", "--train", "--sampling"), "leave --train or --sampling out"),
        (("profile", "-m", "udit-t", "--repeats", "0"), "'--repeats'"),
        (
            ("eval", "--samples", "x", "--reference", "y", "--device", "gpu"),
            "--device takes cpu, cuda or cuda:N",
        ),
    ],
)
def test_a_mistake_in_an_option_is_one_line_before_torch_is_loaded(args, says):
    code = f"import sys; from bench import cli; sys.argv = ['bench', *{args}]\n"
    code += "try: cli.main()\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert says in done.stderr
    assert "torch" not in done.stdout.split()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("flops", "-m", "udit-bb"), "Did you mean 'udit-b'"),
        (("flops", "-m", "nope*"), "no backbone matches 'nope*'"),
        (("flops", "-m", "udit-t", "--set", "downsampeler=conv"), "Did you mean 'downsampler'?"),
        (("flops", "-m", "udit-t", "--set", "ffn=reparm"), "Did you mean 'reparam'?"),
        (("flops", "-m", "udit-t", "--set", "ffn"), "KEY=VALUE"),
        (("flops", "-m", "udit-t", "--set", "depth=1,2"), "depth"),
        (("flops", "-m", "udit-t", "--set", "num_heads=5"), "multiple of num_heads 5"),
        (("flops", "-m", "udit-t", "--input-size", "30"), "multiples of 8"),
        (("flops", "-m", "udit-t", "--input-size", "0"), "multiples of 8"),
        (("flops", "-m", "udit-t", "--input-size", "big"), "--input-size"),
        (("flops", "-m", "udit-t", "--plugin", "not_there.py"), "no such plugin file"),
        (("flops", "-m", "udit-t", "--plugin", "not_there"), "no such plugin module: not_there"),
        (("describe", "udit-x"), "unknown backbone"),
        (
            ("describe", "kid"),
            "'kid' is no backbone, but a score: `bench describe kid --kind score`",
        ),
        (("describe", "udit-t", "--kind", "score"), "`bench describe udit-t --kind backbone`"),
        (("list", "zzz"), "no backbone matches"),
        (("tables", "--table", "9"), "'--table': Input should be less than or equal to 6"),
        (("check", "-m", "udit-t", "--device", "tpu9"), "device"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(run_bench, args, says):
    code, out, err = run_bench(*args)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and says in err


def test_a_warning_is_one_line_and_is_told_once(run_bench, tmp_path):
    """The plan and the estimate of the time both read the damaged record; a plugin's warnings are its own."""
    study = studies.load("downsampler")
    made.put(tmp_path, made.quality(next(iter(cells(study, protocols.load("smoke"), [0]))).request))
    (damaged,) = tmp_path.iterdir()
    damaged.write_text("{")
    (tmp_path / "noisy.py").write_text("import warnings\nwarnings.warn('of a plugin')\n")
    plan = ("ablate", "downsampler", "--protocol", "smoke", "--seeds", "0", "--dry-run")
    with pytest.warns(UserWarning) as others:
        code, _, err = run_bench(*plan, "--results", tmp_path, "--plugin", tmp_path / "noisy.py")
    assert code == 0 and [str(each.message) for each in others] == ["of a plugin"]
    assert re.fullmatch(rf"warning: skipped .*{damaged.name}.*\n", err)


def test_describe_names_the_choices(run_bench):
    out = run_bench("describe", "U-DiT-T")[1]
    assert "pixel-shuffle" in out and "reparam" in out and "48" in out
    found = json.loads(run_bench("describe", "sit-s-2", "--json")[1])
    assert found["options"]["hidden_size"] == {"type": "int", "default": 384, "required": False}
    assert (found["objective"], found["beta_schedule"], found["guided_channels"]) == ("flow", "linear", 3)


@pytest.mark.parametrize(
    ("kind", "name", "option"),
    [
        ("backbone", "uvit-s-2", "depth"),
        ("dataset", "latents", "root"),
        ("extractor", "inception", "weights"),
        ("objective", "ddpm", None),
        ("sampler", "ancestral", None),
        ("score", "fid_infinity", None),
    ],
)
def test_every_kind_is_listed_and_described(run_bench, kind, name, option):
    listed = json.loads(run_bench("list", "--kind", kind, "--json")[1])
    assert name in [thing["name"] for thing in listed]
    assert name in run_bench("list", "--kind", kind)[1]
    described = json.loads(run_bench("describe", name, "--kind", kind, "--json")[1])
    assert described["name"] == name and described["summary"]
    assert option is None or option in described["options"]
    shown = run_bench("describe", name, "--kind", kind)[1]
    assert described["summary"] in shown and (option or "Option") in shown


def test_a_needed_option_is_marked(run_bench):
    lines = run_bench("describe", "latents", "--kind", "dataset")[1].splitlines()
    shown = next(line.split() for line in lines if line.startswith("root"))
    assert shown[:3] == ["root", "(required)", "Path"] and shown[3:]  # and what it means


OWN = '''
import torch, registry

@registry.register("my-net")
class MyNet(registry.Backbone):
    """One convolution."""

    def __init__(self, input_size=32, num_classes=1000, width=8):
        super().__init__(input_size=input_size, num_classes=num_classes)
        self.conv = torch.nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x, t, y):
        return self.conv(x)
'''


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "scratch_net.py"
    path.write_text(OWN)
    yield str(path)
    from registry import backbones

    backbones._entries.pop("mynet", None)
    sys.modules.pop("bench_plugin_scratch_net", None)
    sys.path.remove(str(tmp_path))


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("command", [("list",), ("studies", "--json"), ("--help",)])
def test_where_nothing_can_be_printed_there_is_one_line(command, buffered):
    words = shlex.join([sys.executable, "-m", "bench.cli", *command])
    for where, says in ((">/dev/full", "No space left on device"), (">&-", "standard output is closed")):
        environment = os.environ | {"PYTHONUNBUFFERED": buffered}
        done = subprocess.run(f"{words} {where}", shell=True, capture_output=True, env=environment, cwd=ROOT)
        err = done.stderr.decode()
        assert done.returncode == 2 and err.count("\n") == 1 and says in err, (where, err)


@pytest.mark.slow
def test_a_reader_that_has_enough_is_no_mistake_and_stderr_may_be_closed():
    words = shlex.join([sys.executable, "-m", "bench.cli", "list"])
    for line in (f"{words} | true", f"{words} 2>&-"):
        done = subprocess.run(line, shell=True, capture_output=True, cwd=ROOT)
        assert (done.returncode, done.stderr) == (0, b"")


def test_a_network_from_a_scratch_file(run_bench, own):
    code, out, _ = run_bench("flops", "--plugin", own, "--model", "my-net", "--json")
    assert code == 0 and json.loads(out)[0]["macs"] == 4 * 4 * 9 * 32 * 32
    assert "scratch_net.py" in run_bench("list", "my*", "--plugin", own)[1]


def test_options_that_json_has_no_form_for_are_text(run_bench, tmp_path):
    path = tmp_path / "odd.py"
    path.write_text(
        "import registry, torch\n\n\n@registry.register('odd-net')\n"
        "def make(act=torch.nn.SiLU, most: float = float('inf')):\n    return None\n"
    )
    code, out, _ = run_bench("describe", "odd-net", "--plugin", path, "--json")
    options = json.loads(out, parse_constant=pytest.fail)["options"]
    assert code == 0 and "SiLU" in options["act"]["default"] and options["most"]["default"] == "inf"


def test_check_fails_a_network_that_ignores_the_step(run_bench, own):
    code, out, _ = run_bench("check", "--plugin", own, "--model", "my-net")
    assert code == 1 and "fail" in out


def test_check_shows_where_a_network_raises(run_bench, own):
    path = Path(own)
    path.write_text(path.read_text().replace("self.conv(x)", "self.conv(x) + undefined"))
    code, out, _ = run_bench("check", "--plugin", own, "--model", "my-net", "--json")
    assert code == 1
    line = 1 + path.read_text().split("undefined")[0].count("\n")
    reasons = {result["check"]: result["reason"] for result in json.loads(out)}
    assert reasons["gradients"] == f"NameError: name 'undefined' is not defined ({path}, line {line})"


@pytest.mark.parametrize("command", [("check",), ("flops",), ("describe", "my-net")])
def test_a_mistake_on_import_or_in_the_constructor_is_shown_with_its_line(run_bench, own, command):
    path = Path(own)
    if command[0] == "describe":
        path.write_text(path.read_text() + "\nnothing.here\n")
    else:
        path.write_text(path.read_text().replace("super().__init__(", "super().__init__(depth=3, "))
        command = (*command, "-m", "my-net")
    code, out, err = run_bench(*command, "--plugin", own)
    assert code == 1 and out == ""
    assert f"{path}, line" in err and err.startswith("error: ")


def test_check_passes_a_network(run_bench):
    args = ("check", "-m", "tiny-unet", "--set", "widths=16,16,16", "--set", "time_width=8", "--json")
    code, out, _ = run_bench(*args)
    assert code == 0
    assert {result["status"] for result in json.loads(out)} <= {"pass", "n/a"}


def test_tables_json(run_bench):
    rows = json.loads(run_bench("tables", "--table", "5", "--json")[1])
    assert [row["row"] for row in rows] == [
        "Pixel Shuffle (PS)",
        "Depthwise (DW) Conv. + PS",
        "DW Conv. Shortcut + PS",
    ]
    assert rows[0]["overrides"]["downsampler"] == "pixel-shuffle"
    assert rows[0]["published"]["fid"] == 96.15 and rows[0]["measured"]["fid"] is None


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.slow
def test_tables_lose_nothing_at_the_terminals_width(run_bench, width):
    out = run_bench("tables", "--table", "6", width=width)[1]
    assert "…" not in out and all(len(line) <= width for line in out.splitlines())
    assert out.count("107.00") == 1 and out.count("0.95") == 4
