"""Protocols: the built-in ones are those of the facts, and a wrong file is one clear line."""

import re
from pathlib import Path
from typing import Any

import pytest

import registry
from bench import data, studies
from bench.studies.cells import cells
from bench.studies.staleness import fingerprints
from bench.training import protocols
from bench.training.run import build
from registry.errors import UsageError

HUGE = {
    "nested lists": f"x = {'[' * 20_000}{']' * 20_000}",
    "a number of 5,000 digits": f"x = {'9' * 5_000}",
}
VALID = """
title = "t"
data = "digits"
[training]
steps = 10
batch_size = 4
learning_rate = 1e-3
ema_decay = 0.9
checkpoint_every = 5
[sampling]
sampler = "ddim"
steps = "ddim10"
num = 8
"""


def test_options_behind_a_name_make_the_request_that_their_fields_make(tmp_path: Path) -> None:
    study = studies.load("toy")

    def request(name: str, *lines: str) -> Any:
        text = VALID
        for table, line in (line.split(" ", 1) for line in lines):
            text = text.replace('sampler = "ddim"\n' if table == "sampling" else "[training]\n",
                                f"{line}\n" if table == "sampling" else f"[training]\n{line}\n")  # fmt: skip
        (tmp_path / f"{name}.toml").write_text(text)
        return cells(study, protocols.load(tmp_path / f"{name}.toml"), [0])[0].request

    plain = request("plain")
    by_field = request("field", 'training beta_schedule = "cosine"', "training min_snr_gamma = 5.0")
    by_name = request("name", 'training objective = "ddpm min_snr_gamma=5 beta_schedule=cosine"')
    assert by_name == by_field and by_name.file == by_field.file != plain.file
    assert (by_name.training.objective, by_name.training.beta_schedule) == ("ddpm", "cosine")
    assert request("default", 'sampling sampler = "DDIM eta=0"', 'training objective = "DDPM"') == plain
    noisy = request("noisy", 'sampling sampler = "ddim eta=0.50"')
    assert noisy.sampling.sampler == "ddim eta=0.5" and noisy.file != plain.file
    versions = fingerprints(noisy).versions
    assert versions["sampler ddim"] == versions["objective ddpm"] == 1
    for line, says in (
        ('sampling sampler = "ddim et=1"', "takes no option 'et'"),
        ('training objective = "ddpm shift=1"', "takes no option 'shift'"),
        ('training objective = "ddpm beta_schedule=cosin"', r"\[training\] beta_schedule"),
    ):
        with pytest.raises(UsageError, match=says):
            request("wrong", line)


def test_the_paper_s_protocol_is_that_of_the_facts() -> None:
    paper = protocols.load("paper")
    told = paper.training
    assert (told.steps, told.batch_size, told.learning_rate, told.weight_decay) == (400_000, 256, 1e-4, 0)
    assert (told.ema_decay, told.flip, told.warmup, told.clip, told.learning_rate_schedule) == (
        0.9999,
        True,
        0,
        None,
        "constant",
    )
    assert (told.precision, told.tf32, paper.sampling.tf32) == ("fp32", True, True)
    assert paper.evaluation.reference is None and paper.extractor == "inception"
    images = paper.sampling
    assert (images.sampler, images.steps, images.cfg_scale, images.num, images.labels) == (
        "ancestral",
        "250",
        1.0,
        50_000,
        "uniform",
    )
    assert not paper.scale


@pytest.mark.parametrize(
    ("name", "objective", "steps", "batch_size", "rate", "sampler", "number", "guidance"),
    [
        ("paper-lightningdit", "flow times=logit-normal cosine_loss=1", 80_000, 1024, 2e-4,
         "euler shift=3.3333333333", "249", (10, (0.1, 1))),
        ("paper-ddt", "flow times=logit-normal", 400_000, 256, 1e-4,
         "euler last_step=0.04", "250", (2, (0.3, 1))),
    ],
)  # fmt: skip
def test_protocols_of_flows_are_those_of_their_papers(
    name: str, objective: str, steps: int, batch_size: int, rate: float, sampler: str, number: str,
    guidance: tuple[float, tuple[float, float]],
) -> None:  # fmt: skip
    protocol = protocols.load(name)
    told = protocol.training_of(name.removeprefix("paper-") + "-xl-2")
    assert told.objective == objective
    assert (told.steps, told.batch_size, told.learning_rate) == (steps, batch_size, rate)
    assert (told.betas, told.weight_decay, told.ema_decay) == ((0.9, 0.95), 0, 0.9999)
    images = protocol.sampling
    assert (images.sampler, images.steps, images.num) == (sampler, number, 50_000)
    assert (images.cfg_scale, images.guidance_interval, images.guided_channels) == (*guidance, None)


def test_flowdcn_s_protocol_is_the_paper_s_for_the_flow() -> None:
    ours, paper = protocols.load("paper-flowdcn"), protocols.load("paper")
    assert ours.training == paper.training.model_copy(update={"objective": "flow"})
    assert ours.sampling == paper.sampling.model_copy(update={"sampler": "euler-maruyama last=euler"})


@pytest.mark.parametrize("name", protocols.names())
def test_built_in_protocols_are_whole(name: str) -> None:
    protocol = protocols.load(name)
    assert protocol.name == name and protocol.data in data.names()
    for pattern in (*protocol.scale, *protocol.learning_rates):
        assert registry.names(pattern), f"{pattern} fits no backbone"


@pytest.mark.parametrize("name", ["smoke", "micro"])
@pytest.mark.parametrize(
    "model", ["dit-s-4", "dit-xl-2", "sit-b-2", "udit-t", "udit-l", "dit-unet", "dit-unet-slim", "uvit-s-2",
              "uvit-h-2", "lightningdit-xl-1", "lightningdit-b-2", "ddt-xl-2", "flowdcn-s-2",
              "hdit-imagenet-256", "hdit-flowers-windows", "hdit-mnist", "unet2d", "uvit2d-latent",
              "tiny-unet"],
)  # fmt: skip
def test_small_protocols_scale_every_family_to_digits(name: str, model: str) -> None:
    network = build(model, protocols.load(name).overrides(model), (4, 8, 8), 10, "digits")
    assert sum(p.numel() for p in network.parameters()) < 5e6


def test_later_patterns_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        VALID + '[scale]\n"udit-*" = { hidden_size = 16, depth = [1] }\n"udit-t" = { hidden_size = 8 }\n'
    )
    protocol = protocols.load(file)
    assert protocol.name == "mine" and protocol.sampling.steps == "ddim10"
    assert protocol.overrides("udit-t") == {"hidden_size": 8, "depth": [1]}
    assert protocol.overrides("udit-s") == {"hidden_size": 16, "depth": [1]}
    assert protocol.overrides("dit-s-4") == {}


def test_backbones_have_their_learning_rate_and_what_a_row_says_stands_above(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(VALID + '[learning_rates]\n"dit-*" = 3e-3\n"dit-b-*" = 5e-4\n')
    protocol = protocols.load(file)
    rates = {name: protocol.training_of(name).learning_rate for name in ("dit-s-4", "dit-b-2", "udit-t")}
    assert rates == {"dit-s-4": 3e-3, "dit-b-2": 5e-4, "udit-t": protocol.training.learning_rate}
    study = tmp_path / "study.toml"
    study.write_text(
        'title = "t"\n[[rows]]\nlabel = "a"\nbackbone = "dit-s-4"\n'
        '[[rows]]\nlabel = "b"\nbackbone = "dit-s-4"\ntraining = { learning_rate = 7e-4 }\n'
    )
    a, b = cells(studies.load(study), protocol, [0])
    assert (a.request.training.learning_rate, b.request.training.learning_rate) == (3e-3, 7e-4)
    assert a.run != b.run
    file.write_text(VALID + '[learning_rates]\n"dit-*" = 0\n')
    with pytest.raises(UsageError, match=r"\[learning_rates\] dit-\* = 0: "):
        protocols.load(file)
    file.write_text(VALID + '[learning_rates]\n"dit-*" = inf\n')
    with pytest.raises(UsageError, match=r"\[learning_rates\] dit-\* = inf: "):
        protocols.load(file)


@pytest.mark.parametrize(
    "table", ['[scale]\n"{}" = {{ hidden_size = 16 }}\n', '[learning_rates]\n"{}" = 1e-3\n']
)
def test_a_wildcard_that_fits_no_backbone_is_named_and_one_of_code_is_left_alone(
    tmp_path: Path, table: str
) -> None:
    file = tmp_path / "mine.toml"
    name = table.partition("]")[0][1:]
    for typo, meant in (("udti-t", "'udit-t'"), ("udit_*", "udit-"), ("DIT-*", "dit-")):
        file.write_text(VALID + table.format(typo))
        with pytest.raises(
            UsageError, match=rf"mine.*\[{name}\] {re.escape(typo)} fits no backbone.*{meant}"
        ):
            protocols.load(file)
    for pattern in ("udit-*", "mynet:Net"):
        file.write_text(VALID + table.format(pattern))
        assert pattern in getattr(protocols.load(file), name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ("learning_rate", "learnig_rate"),
            "[training] has no key 'learnig_rate'. Did you mean 'learning_rate' or ",
        ),
        (("title", "titel"), "has no key 'titel'"),
        (("num = 8\n", ""), "[sampling] needs the key 'num'"),
        (("num = 8", "num = 0"), "[sampling] num = 0: "),
        (("steps = 10\n", 'steps = "ten"\n'), "[training] steps = 'ten': "),
        (("[training]", "[training]\nbetas = [0.9, 1.0]"), "[training.betas] 1 = 1.0: "),
        (("ema_decay = 0.9", ""), "[training] needs the key 'ema_decay', or ema_width in its place"),
        (("ema_decay = 0.9", "ema_decay = 0.9\nema_width = 0.1"), "or ema_width in its place"),
        (("ema_decay = 0.9", "ema_decay = 1.0"), "[training] ema_decay = 1.0: "),
        (('sampler = "ddim"', 'sampler = "eular"'), "'eular'"),
        (('steps = "ddim10"', 'steps = "ddim999"'), "no integer stride"),
        (("[training]", "[training"), "line 4"),
        (("[training]", '[training]\nobjective = "ddpn"'), "unknown objective 'ddpn'. Did you mean 'ddpm'?"),
        (
            ("[training]", '[evaluation]\njudged_by = ["fdi"]\n[training]'),
            "[evaluation] judged_by has 'fdi', which is not measured. Did you mean 'fid'",
        ),
        (("[training]", '[evaluation]\njudged_by = ["held_out_2"]\n[training]'), "It takes any of fid, sfid"),
        (
            (
                "[training]",
                '[evaluation]\nheld_out = { images = 64 }\njudged_by = ["fid_infinity"]\n[training]',
            ),
            "'fid_infinity', which is not measured",
        ),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_key(tmp_path: Path, change, says: str) -> None:
    file = tmp_path / "mine.toml"
    assert change[0] in VALID
    file.write_text(VALID.replace(*change))
    with pytest.raises(registry.UsageError) as caught:
        protocols.load(file)
    assert says in str(caught.value) and "mine.toml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"), [("mirco", "Did you mean 'micro'?"), ("no.toml", "cannot read"), ("../x", "unknown")]
)
def test_no_such_protocol(name: str, says: str) -> None:
    with pytest.raises(registry.UsageError, match=says.replace("?", r"\?")):
        protocols.load(name)


def smoke(**training: object) -> protocols.Protocol:
    whole = protocols.load("smoke")
    return whole.model_copy(update={"training": whole.training.model_copy(update=training)})


def test_the_objective_is_the_backbone_s_own() -> None:
    assert [smoke().training_of(model).objective for model in ("udit-t", "sit-s-2")] == ["ddpm", "flow"]
    flow = smoke(objective="flow")
    assert flow.training_of("SiT-S/2").objective == "flow"
    assert flow.training_of("udit-t").objective == "flow"
    with pytest.raises(registry.UsageError, match="unknown objective 'flwo'"):
        smoke(objective="flwo").training_of("udit-t")


def test_what_changes_no_number_is_no_part_of_the_settings() -> None:
    other = smoke(log_every=7, checkpoint_every=7, keep=7)
    assert smoke().training_of("udit-t") == other.training_of("udit-t")


def test_a_protocol_beside_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text(VALID + '[evaluation]\nreference = "suite.npz"\n')
    for name in ("mine", "mine.toml"):
        assert protocols.load(name, beside=tmp_path).evaluation.reference == str(tmp_path / "suite.npz")
    assert protocols.load("micro", beside=tmp_path) == protocols.load("micro")
    with pytest.raises(registry.UsageError, match="unknown protocol 'mien'"):
        protocols.load("mien", beside=tmp_path)


@pytest.mark.parametrize("text", HUGE.values(), ids=HUGE)
@pytest.mark.parametrize("load", [protocols.load, studies.load])
def test_what_no_reader_of_toml_takes_is_one_line(tmp_path, load, text):
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        load(file)
    assert str(file) in str(error.value) and "no valid TOML" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    plain, marked = tmp_path / "plain.toml", tmp_path / "marked.toml"
    plain.write_text(VALID, "utf-8")
    marked.write_text(VALID, "utf-8-sig")
    assert marked.read_bytes()[:3] == b"\xef\xbb\xbf"
    assert protocols.load(marked).training == protocols.load(plain).training


def test_a_protocol_lists_scores_and_changes_no_request(tmp_path: Path) -> None:
    def load(evaluation: str) -> protocols.Protocol:
        (tmp_path / "own.toml").write_text(VALID + f"[evaluation]\n{evaluation}\n")
        return protocols.load(tmp_path / "own.toml")

    usual, listed = load(""), load('scores = ["fd_*", "fid"]')
    assert listed.evaluation.scored_by == ["fid", "fd_dinov2", "fd_efficientnet"]
    assert listed.extractors == ["digits", "dinov2", "efficientnet"] and usual.extractors == ["digits"]
    assert "sfid" in usual.evaluation.measured and "fd_dinov2" not in usual.evaluation.measured
    assert "sfid" not in listed.evaluation.measured and listed.evaluation.judges == ("fid",)
    assert load('scores = ["cmmd"]\njudged_by = ["cmmd"]').extractors == ["clip"]
    study = studies.load("toy")
    assert [cell.file for cell in cells(study, listed, [0])] == [
        cell.file for cell in cells(study, usual, [0])
    ]
    with pytest.raises(UsageError, match=r"unknown score 'fd_dinov3'\. Did you mean 'fd_dinov2'"):
        load('scores = ["fd_dinov3"]')
    with pytest.raises(UsageError, match="judged_by has 'sfid', which is not measured"):
        load('scores = ["fid"]\njudged_by = ["sfid"]')
