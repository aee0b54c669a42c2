"""`bench new`: a commented file for a network of one's own, a study of it, and the commands to run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.output import console

PLUGIN = '''\
"""NAME, for `bench`:

COMMANDS
"""

import torch
from torch import nn

import registry


class Net(nn.Module):
    """Put your network here, or import it. It needs nothing of `registry`."""

    def __init__(self, channels, classes, width):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width)  # the last row stands for no label
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x, t, y):
        c = self.time(t[:, None].to(x.dtype) / 1000) + self.label(y)
        return self.head(torch.relu(self.body(torch.relu(self.stem(x) + c[:, :, None, None]))))


@registry.register("NAME")
def make(input_size=32, in_channels=4, num_classes=1000, width: int = 64):
    """One line that `bench describe NAME` shows. Arguments are options: --set width=128."""
    return registry.wrap(
        Net(in_channels, num_classes, width),
        # What it returns: epsilon (the noise), x0, v_prediction, velocity (x0 - noise), -velocity, score, or
        # edm (F of EDM's preconditioning).
        predicts="epsilon",
        # What its t is: step (0 ... 999), unit (0 noise ... 1 data), -unit, sigma, log_sigma (ln(sigma) / 4),
        # alphas_cumprod, or a function of (alpha, sigma).
        time="step",
        # What its x is: vp (alpha * x0 + sigma * noise), ve (x0 + sigma * noise), edm (c_in times that). By
        # default ve for sigma and log_sigma, else vp.
        # space="vp",
        input_size=input_size,
        in_channels=in_channels,
        num_classes=num_classes,  # 0 or None for a network without labels, which is called as net(x, t)
        # In training this share of the labels becomes num_classes, so that samples can be guided. Where the
        # network drops labels itself: null_class=num_classes.
        label_dropout=0.1,
        # How it is called, if not as net(x, t, y):
        # call=lambda net, x, t, y: net(x, t, class_labels=y),
        # Where the prediction is in what it returns, if not the tensor, `.sample` or the first of a tuple:
        # output="prediction",
        # learn_sigma=True,  # if it returns twice the channels
        # losses="add",  # if it returns losses of its own in training
    )
'''

STUDY = """\
# A table: rows are networks, columns what you want to know of them.
title = "NAME beside a small U-Net"
# smoke takes seconds and shows that everything runs, micro minutes a row; `bench list --kind protocol`.
protocol = "smoke"
# Significance needs at least two seeds.
seeds = [0, 1]
columns = ["params", "gflops", "fid"]
# All rows are trained by this objective, whatever each network predicts. Without it each has its own.
training = { objective = "ddpm" }

[[rows]]
label = "NAME"
backbone = "NAME"
# Protocols such as micro train the networks of this package at a reduced size. For a similar cost:
# scale = { micro = { width = 24 } }

[[rows]]
label = "wider"
backbone = "NAME"
overrides = { width = 128 }

[[rows]]
label = "TinyUNet"
backbone = "tiny-unet"

# A row of Table 6 of the U-DiT paper, beside its published scores:
# [[rows]]
# published = "6/U-DiT-T (+Re-param.)"
"""


def new(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.py", help="File to write; the study is written beside it.")
    ],
) -> None:
    """Write a commented template for a network of your own and a study of it.

    Examples:
        bench new my_net.py
    """
    import registry
    from registry.errors import UsageError
    from registry.plugins import key

    name = re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-")
    if file.suffix != ".py" or not name:
        raise UsageError(f"{file} is not the name of a Python file: choose one such as my_net.py")
    for known in registry.names():
        if key(name) == key(known):
            raise UsageError(f"a backbone named {known!r} already exists: choose another name for the file")
    study = file.with_suffix(".toml")
    for path in (file, study):
        if path.exists():
            raise UsageError(f"{path} already exists: delete it, or choose another name")
    quoted = shlex.quote(str(file))
    commands = [
        f"bench check --plugin {quoted} --model {name}",
        f"bench flops --plugin {quoted} --model {name} --by module",
        f"bench ablate {shlex.quote(str(study))} --plugin {quoted}",
        f"bench report {shlex.quote(str(study))} --plugin {quoted}",
    ]
    listed = "\n".join(f"    {command}" for command in commands)
    try:
        file.write_text(PLUGIN.replace("COMMANDS", listed).replace("NAME", name), "utf-8")
        study.write_text(STUDY.replace("NAME", name), "utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {error.filename}: {error.strerror}") from None
    console().print(f"Wrote {file} and {study}. Put your network into {file}, then run:", markup=False)
    for command in commands:
        console().print(f"  {command}", markup=False, soft_wrap=True)
