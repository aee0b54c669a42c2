"""`bench flops`: JSON, tables, units and digits, and a network that is wrong."""

import json
import re

import pytest

from bench import cost


def test_json_has_the_promised_fields(run_bench):
    args = ("--model", "U-DiT-T", "-m", "dit-s/8", "--set", "class_dropout_prob=0", "--json")
    code, out, err = run_bench("flops", *args)
    assert (code, err) == (0, "")
    first, second = json.loads(out)
    assert [one["request"]["model"] for one in (first, second)] == ["udit-t", "dit-s-8"]
    assert first["request"]["config"]["class_dropout_prob"] == 0 and first["input_size"] == 32
    assert first["paper_gflops"] == pytest.approx(0.950, abs=0.001) and first["flops"] == 2 * first["macs"]
    assert first["parameters"] == 7_995_392 - (48 + 96 + 192)  # without the three null classes
    assert first["parameters_deployed"] < first["parameters"]
    assert not {"stages", "modules", "operators", "parts"} & first.keys()


@pytest.mark.parametrize("by", ["stage", "module", "operator"])
def test_json_lists_parts(run_bench, by):
    (found,) = json.loads(run_bench("flops", "-m", "tiny-unet", "--by", by, "--json")[1])
    parts = cost.measure("tiny-unet").parts(by)
    assert [(part["name"], part["macs"]) for part in found["parts"]] == [(p.name, p.macs) for p in parts]


def test_the_table_shows_every_number_whole_when_piped(run_bench):
    code, out, _ = run_bench("flops", "-m", "udit-t", "--set", "depth=1,1,1,1,1", "--by", "operator")
    assert code == 0 and "…" not in out
    assert "udit-t depth=1,1,1,1,1 " in out and "convolution" in out


def test_a_small_network_has_digits_that_mean_something(run_bench):
    out = run_bench("flops", "-m", "tiny-unet input_size=8")[1]
    (row,) = (line.split() for line in out.splitlines() if line.startswith("tiny-unet"))
    found = cost.measure("tiny-unet", input_size=8)
    printed = [float(text) for text in row[3:]]
    exact = [found.parameters / 1e6, found.parameters_deployed / 1e6, found.paper_gflops, found.macs / 1e9]
    exact += [found.flops / 1e9, found.activation_bytes / 2**20]
    assert row[:3] == ["tiny-unet", "input_size=8", "8×8"] and printed == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("convention", ["paper", "macs", "flops"])
def test_convention_picks_the_count(run_bench, convention):
    out = run_bench("flops", "-m", "tiny-unet", "--convention", convention)[1]
    count = cost.measure("tiny-unet").count(convention)
    assert re.search(rf" {count / 1e9:.2f} |{count / 1e9:.3f} ", out)
    assert sum(heading in out for heading in ("GFLOPs (paper) ", "GMACs ", "2·MACs) ")) == 1


def test_wildcards_and_sizes(run_bench):
    found = json.loads(run_bench("flops", "-m", "dit-unet*", "--input-size", "16x24", "--json")[1])
    assert [one["request"]["model"] for one in found] == ["dit-unet", "dit-unet-slim"]
    assert found[0]["input_size"] == [16, 24]


def test_a_count_that_may_depend_on_values_says_so(run_bench, tmp_path):
    (tmp_path / "looks.py").write_text(
        "import registry, torch\n"
        "@registry.register('test-looks')\n"
        "class Looks(registry.Backbone):\n"
        "    def __init__(self):\n"
        "        super().__init__(input_size=8)\n"
        "        self.conv = torch.nn.Conv2d(4, 4, 1)\n"
        "    def forward(self, x, t, y):\n"
        "        return self.conv(x) if t.item() == 500 else x\n"
    )
    args = ("flops", "--plugin", str(tmp_path / "looks.py"), "-m", "test-looks")
    words = "the counts are for seed 0 and t = 500, and may depend on values"
    (found,) = json.loads(run_bench(*args, "--json")[1])
    assert found["macs"] == 64 * 16 and words in found["notes"][0]
    assert f"test-looks: The forward pass does not run on shapes alone: {words}." in run_bench(*args)[1]
