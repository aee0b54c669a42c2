"""A study that takes seconds, in a folder of its own, as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from bench import studies
from bench.cli import app
from bench.records import read_file
from bench.records.schema import Quality
from bench.studies.cells import cells, known
from bench.training import protocols

PROTOCOL = """
title = "a few steps"
data = "digits"
data_options = { split = "train" }
[training]
steps = 12
batch_size = 8
learning_rate = 1e-3
ema_decay = 0.5
log_every = 2
checkpoint_every = 4
[sampling]
sampler = "ddim"
steps = 3
num = 20
batch_size = 4
labels = "balanced"
[evaluation]
held_out = { images = 64 }
[scale]
"udit-*" = { hidden_size = 16, depth = [1, 1, 1, 1, 1], num_heads = 2 }
"dit-?-*" = { hidden_size = 48, depth = 2, num_heads = 2 }
"""
STUDY = """
title = "Two networks, one of them twice"
columns = ["params", "gflops", "fid", "kid", "held_out", "held_out_3"]
seeds = [0, 1]
[[rows]]
label = "token downsampling"
published = "1/+ Token Downsampling"
[[rows]]
label = "guided"
backbone = "dit-s-2"
step = 5
cfg_scale = 2.0
extra = true
[[rows]]
label = "plain"
backbone = "dit-s-2"
"""


class Place:
    """A folder with a study, a protocol, records and runs."""

    def __init__(self, folder: Path, text: str = STUDY) -> None:
        self.folder, self.results, self.work = folder, folder / "results", folder / "work"
        (folder / "few.toml").write_text(PROTOCOL)
        (folder / "own.toml").write_text(text)

    def arguments(self, *more: str) -> list[str]:
        return [
            "ablate", str(self.folder / "own.toml"), "--protocol", str(self.folder / "few.toml"),
            "--results", str(self.results), "--work", str(self.work), *more,
        ]  # fmt: skip

    def bench(self, *more: str) -> Any:
        return CliRunner().invoke(app, self.arguments(*more))

    def begin(self, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bench.cli", *self.arguments(*more)]
        return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def scores(self) -> dict[str, dict[str, Any]]:
        """By record, what does not depend on the clock."""
        found = {file: read_file(self.results / file).result for file in known(self.results)}
        return {
            file: {
                **r.scores,
                "loss": r.loss,
                "samples": r.sample_count,
                "reference": r.reference_count,
                "held out": [(each.step, each.bands) for each in r.held_out],
            }
            for file, r in found.items()
            if isinstance(r, Quality)
        }

    def cells(self) -> list[Any]:
        made = studies.load(self.folder / "own.toml")
        return cells(made, protocols.load(self.folder / "few.toml"), made.seeds)
