"""The command as a user meets it: output, JSON, one-line errors, exit status."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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
        (("list", "zzz"), "no backbone matches"),
        (("tables", "--table", "9"), "no table 9"),
        (("check", "-m", "udit-t", "--device", "tpu9"), "device"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(run_bench, args, says):
    code, out, err = run_bench(*args)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and says in err


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
    assert next(line.split() for line in lines if line.startswith("root")) == ["root", "(required)", "Path"]


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


def test_a_reader_that_has_enough_is_no_mistake_and_stderr_may_be_closed():
    words = shlex.join([sys.executable, "-m", "bench.cli", "list"])
    for line in (f"{words} | true", f"{words} 2>&-"):
        done = subprocess.run(line, shell=True, capture_output=True, cwd=ROOT)
        assert (done.returncode, done.stderr) == (0, b"")


def test_a_network_from_a_scratch_file(run_bench, own):
    code, out, _ = run_bench("flops", "--plugin", own, "--model", "my-net", "--json")
    assert code == 0 and json.loads(out)[0]["macs"] == 4 * 4 * 9 * 32 * 32
    assert "scratch_net.py" in run_bench("list", "my*", "--plugin", own)[1]


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


def test_tables_json_and_pages(run_bench, tmp_path):
    rows = json.loads(run_bench("tables", "--table", "5", "--json")[1])
    assert [row["row"] for row in rows] == [
        "Pixel Shuffle (PS)",
        "Depthwise (DW) Conv. + PS",
        "DW Conv. Shortcut + PS",
    ]
    assert rows[0]["overrides"]["downsampler"] == "pixel-shuffle"
    assert rows[0]["published"]["fid"] == 96.15 and rows[0]["measured"]["fid"] is None
    code, out, _ = run_bench("tables", "--table", "5", "--out", str(tmp_path / "new"))
    assert code == 0 and "table-5.md" in out
    page = (tmp_path / "new/table-5.md").read_text("utf-8")
    assert "| DW Conv. Shortcut + PS" in page and " 96.15 |" in page
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["table-5.md"]


@pytest.mark.parametrize("width", [80, 160])
def test_tables_lose_nothing_at_the_terminals_width(run_bench, width):
    out = run_bench("tables", "--table", "6", width=width)[1]
    assert "…" not in out and all(len(line) <= width for line in out.splitlines())
    assert out.count("107.00") == 1 and out.count("0.95") == 4
