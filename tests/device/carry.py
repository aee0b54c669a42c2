"""Wheels and data for a machine without a network: `python -m tests.device.carry --out DIR --data CIFAR`.

    DIR/wheels          what this project needs beside PyTorch, torchvision and the usual scientific packages
    DIR/cifar-1, …      CIFAR-10 in parts of some 35 MB, images as lossless WebP
    DIR/released        the authors' networks and licenses from a folder of their clones; see `released`

There, `pip install --no-index --no-deps --target SITE DIR/wheels/*.whl`, put SITE on PYTHONPATH, and bring
each part back to its files with `python -m tests.device.carry --unpack DIR/cifar-1 --out CIFAR`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data import cifar10
from bench.data.cifar10 import RECORD
from bench.utils.files import write_bytes, write_whole
from tests.conftest import ROOT
from tests.device.released import FILES

NAMES = """
    diffusers nvidia-ml-py importlib_metadata zipp regex pydantic pydantic_core annotated-types
    typing-inspection typing_extensions tabulate termcolor torch_fidelity yacs
""".split()
SOURCES = ["fvcore", "iopath"]  # published as source alone, of plain Python
PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64"]
IMPORTED = ["einops", "timm"]  # by the authors' networks
ACROSS = 100  # images in a line of a mosaic


def wheels(folder: Path, python: str, others: Sequence[str] = ()) -> None:
    """Download the wheels, in the versions of constraints.txt.

    Args:
        python: version of that machine's, such as `3.12`.
        others: packages that are not pinned there.
    """
    text = (ROOT / "constraints.txt").read_text("utf-8")
    versions = {_plain(name): version for name, version in re.findall(r"^(\S+)==(\S+)$", text, re.MULTILINE)}
    pip = [sys.executable, "-m", "pip"]
    wanted, built = ([f"{name}=={versions[_plain(name)]}" for name in names] for names in (NAMES, SOURCES))
    there = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    there += [part for platform in PLATFORMS for part in ("--platform", platform)]
    subprocess.run(
        [*pip, "download", "-q", "--no-deps", *there, "-d", str(folder), *wanted, *others], check=True
    )
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(folder), *built], check=True)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def bring(clones: Path, folder: Path) -> None:
    """Copy the authors' networks, each with the license that lies beside it."""
    for file in map(Path, FILES):
        for path in [clones / file, *(clones / file).parent.glob("LICENSE*")]:
            write_bytes(folder / file.parent / path.name, path.read_bytes())


def pack(data: Path, out: Path) -> None:
    """Write the parts of CIFAR-10's binary version, two files in each."""
    names = [name for split in cifar10.FILES.values() for name in split]
    for number, name in enumerate(names):
        records = np.fromfile(data / "cifar-10-batches-bin" / name, np.uint8).reshape(-1, RECORD)
        lines = -(-len(records) // ACROSS)
        images = np.zeros((lines * ACROSS, 3, 32, 32), np.uint8)
        images[: len(records)] = records[:, 1:].reshape(-1, 3, 32, 32)
        mosaic = images.reshape(lines, ACROSS, 3, 32, 32).transpose(0, 3, 1, 4, 2)
        picture = Image.fromarray(np.ascontiguousarray(mosaic).reshape(32 * lines, 32 * ACROSS, 3))
        part = out / f"cifar-{number // 2 + 1}"
        write_whole(part / f"{name}.webp", partial(picture.save, lossless=True, quality=60))
        write_whole(part / f"{name}.labels", records[:, 0].tofile)


def unpack(part: Path, data: Path) -> None:
    """Bring the files of one part back."""
    for path in sorted(part.glob("*.webp")):
        labels = np.fromfile(path.with_suffix(".labels"), np.uint8)
        with Image.open(path) as picture:
            mosaic = np.asarray(picture.convert("RGB"))
        lines = len(mosaic) // 32
        images = mosaic.reshape(lines, 32, ACROSS, 32, 3).transpose(0, 2, 4, 1, 3)
        images = images.reshape(-1, RECORD - 1)[: len(labels)]
        records = np.concatenate([labels[:, None], images], axis=1)
        write_whole(data / "cifar-10-batches-bin" / path.stem, records.tofile)


def main() -> None:
    """Pack, or unpack."""
    parser = argparse.ArgumentParser(prog="python -m tests.device.carry", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--python", default="3.12", help="version of the other machine's Python")
    parser.add_argument("--data", type=Path, metavar="CIFAR", help="folder of CIFAR-10 to pack")
    parser.add_argument("--released", type=Path, metavar="CLONES", help="folder of the authors' clones")
    parser.add_argument("--unpack", type=Path, metavar="PART", help="bring a part back to files in --out")
    args = parser.parse_args()
    if args.unpack:
        unpack(args.unpack, args.out)
        return
    wheels(args.out / "wheels", args.python, IMPORTED if args.released else ())
    if args.released:
        bring(args.released, args.out / "released")
    if args.data:
        pack(args.data, args.out)


if __name__ == "__main__":
    main()
