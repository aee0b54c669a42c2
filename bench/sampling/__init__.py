"""Images from a trained network: the same bytes however many processes make them.

All randomness of image i comes from the seed and i (`bench.utils.randomness`), and batches are cut by the
images' numbers, so neither the number of processes nor an interruption changes anything.
"""

from __future__ import annotations

import functools
import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import registry
from bench import data as datasets
from bench.diffusion import check_sampler, objective, sampler
from bench.diffusion.guidance import guided
from bench.training import protocols
from bench.training.protocols import Protocol, Sampling
from bench.training.run import Run, build, load
from bench.utils import distributed, randomness
from bench.utils.arrays import Rows, batches
from bench.utils.files import write_whole
from registry.backbone import height_width
from registry.errors import UsageError, reason

ToImages = Callable[[Tensor], np.ndarray]  # grids (N, C, H, W) -> (N, H', W', 3) uint8
Progress = Callable[[str, int, int], None]  # what is done, how many of how many


@dataclass(frozen=True)
class Plan:
    """How images are made, besides the network.

    Attributes:
        objective, sampler, steps: see `bench.diffusion`.
        cfg_scale, guided_channels: see `bench.diffusion.guidance.guided`; 0 guides all channels.
        labels: `uniform` draws each image's class, `balanced` goes round them.
        classes: those that images are made of; all where it is empty.
        seed: of all randomness.
        precision: bf16 runs the network under autocast.
    """

    objective: str
    sampler: str
    steps: str
    cfg_scale: float = 1.0
    guided_channels: int = 3
    labels: str = "uniform"
    classes: tuple[int, ...] = ()
    seed: int = 0
    precision: str = "fp32"

    def check(self, network: Any) -> None:
        """Find what would go wrong before anything runs.

        Raises:
            UsageError: sampler and steps that do not fit, classes that the network does not have, or
                guidance without a null class.
        """
        check_sampler(self.objective, self.sampler, self.steps)
        beyond = [c for c in self.classes if not 0 <= c < max(network.num_classes, 1)]
        if beyond:
            raise UsageError(f"{network.name} has classes 0 … {network.num_classes - 1}, not {beyond[0]}")
        guided(network, torch.zeros(1, dtype=torch.int64), self.cfg_scale)

    def labels_of(self, indices: Tensor, num_classes: int) -> Tensor:
        """Classes of images by their numbers: (N,) -> (N,) int64."""
        classes = torch.tensor(self.classes or range(max(num_classes, 1)), device=indices.device)
        if self.labels == "balanced":
            return classes[indices % len(classes)]
        drawn = randomness.uniform(self.seed, "label", indices, 1)[:, 0]
        return classes[(drawn * len(classes)).long()]

    def grids(self, network: Any, indices: Tensor) -> Tensor:
        """Samples by their numbers: (N,) on the network's device -> (N, C, H, W) float32."""
        shape = (network.in_channels, *height_width(network.input_size))
        noise = functools.partial(randomness.normal, self.seed, indices=indices, shape=shape)
        denoiser = guided(
            network,
            self.labels_of(indices, network.num_classes),
            self.cfg_scale,
            self.guided_channels,
        )
        bf16 = self.precision == "bf16"

        def predict(x: Tensor, t: Tensor) -> Tensor:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
                return denoiser(x, t).float()

        return sampler(self.sampler).sample(
            objective(self.objective),
            predict,
            noise(purpose="noise"),
            lambda step: noise(purpose="step", step=step),
            self.steps,
        )


@dataclass(frozen=True)
class Source:
    """Trained weights, and what is known of them.

    Attributes:
        network: with the weights, on the CPU.
        to_images: from its grids to pictures.
        objective: that it was trained with.
        usual: how images are made where nothing else is asked for.
        of: what tells these weights from others, as JSON can hold it.
    """

    network: Any
    to_images: ToImages
    objective: str
    usual: Sampling
    of: dict[str, Any]


def open_run(path: str | Path, weights: str = "ema", vae: str | None = None) -> Source:
    """The newest checkpoint of a training run, or the one whose folder is given.

    Args:
        weights: `ema` for the averaged ones, `model` for the last.
        vae: decoder of latents; by default that of the run's dataset.

    Raises:
        UsageError: no run, no checkpoint, or a damaged one.
    """
    path = Path(path)
    of_checkpoint = path.parent.name == "checkpoints" and path.name.isdecimal()
    run = Run(path.parent.parent if of_checkpoint else path)
    asked = run.asked
    folder = run.checkpoint(int(path.name) if of_checkpoint else None)
    protocol = Protocol.model_validate(asked["protocol"])
    network = build(asked)
    state = getattr(load(folder, (weights,)), weights)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(
            f"the checkpoint {folder} is not of the network in run.json: {reason(error)}"
        ) from None
    to_images = decoder(vae) if vae else datasets.load(asked["data"], **asked["data_options"]).to_images
    of = {"run": {**asked, "data_options": {}}, "step": int(folder.name), "weights": weights}
    return Source(network, to_images, protocol.training.objective, protocol.sampling, of)


def open_weights(
    path: str | Path, model: str, overrides: dict[str, Any], objective: str = "ddpm", vae: str | None = None
) -> Source:
    """A file of weights in the authors' layout, sampled as the papers do; see `registry.load_checkpoint`.

    Raises:
        UsageError: no such file, weights of another network, or a decoder that is not to be had.
    """
    network = registry.load_checkpoint(registry.create(model, **overrides), path)
    usual = protocols.load("paper").sampling
    if objective == "flow":
        usual = usual.model_copy(update={"sampler": "heun", "steps": "125"})
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    of = {"weights": digest, "model": network.name, "overrides": network.overrides}
    return Source(network, decoder(vae), objective, usual, of)


def decoder(vae: str | None) -> ToImages:
    """The decoder of latents: a folder or a hub name; by default the one of the papers."""
    from bench.data import autoencoder

    return autoencoder.load(vae).decode


def sample(
    network: Any,
    to_images: ToImages,
    plan: Plan,
    num: int,
    out: str | Path,
    *,
    of: dict[str, Any],
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    compiled: bool = False,
    progress: Progress = lambda *_: None,
) -> Path:
    """Make `num` images; an interrupted call goes on where it stopped, several processes share the work.

    Args:
        network: a backbone; what runs is its deployed copy.
        to_images: from grids to pictures, as of a dataset.
        out: an `.npz` in the form of the ADM suite (`arr_0` images, `arr_1` labels), or a folder that gets
            a PNG for each image. A picture of the first of them is put beside it.
        of: what tells these weights from others, as JSON can hold it, so that an interrupted call is
            never continued with another network.
        batch_size: images at once; another one changes results by rounding alone.
        compiled: run what torch.compile makes of the network.

    Returns:
        The picture.

    Raises:
        UsageError: see `Plan.check`; or the place cannot be written to or holds something already.
    """
    out = Path(out)
    plan.check(network)
    if num < 1:
        raise UsageError(f"the number of images must be at least 1, not {num}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} exists: delete it or choose another place")
    network = network.deploy().to(device)
    if compiled:
        network.compile()
    asked = {"plan": asdict(plan), "of": of, "batch_size": batch_size}
    side = to_images(
        torch.zeros(1, network.in_channels, *height_width(network.input_size), device=device)
    ).shape[1:]
    arrays = {"images": (side, "uint8"), "labels": ((), "int64")}
    rows = Rows(out.with_name(f".{out.name}.partial"), asked, num, arrays)
    progress("sampling", num - rows.missing(), num)
    for batch in distributed.share(batches(num, batch_size)):
        if rows.missing(batch):
            indices = torch.arange(batch.start, batch.stop, device=device)
            made = to_images(plan.grids(network, indices))
            rows.put(batch, images=made, labels=plan.labels_of(indices, network.num_classes).cpu().numpy())
            progress("sampling", num - rows.missing(), num)
    distributed.wait()
    picture = out.with_name(f"{out.stem if out.suffix == '.npz' else out.name}.grid.png")
    if distributed.is_main():
        _finish(rows, out, progress)
        write_picture(picture, rows["images"][:100], columns(len(plan.classes) or network.num_classes))
        rows.delete()
    distributed.wait()
    return picture


def columns(classes: int) -> int:
    """How many images a line of a grid has: one of each class where there are few."""
    return classes if 0 < classes <= 10 else 10


def export(dataset: datasets.Dataset, out: str | Path, progress: Progress = lambda *_: None) -> None:
    """Write a dataset's images as an `.npz` in the ADM suite's form: the reference of what is trained on it.

    Raises:
        UsageError: the place cannot be written to or holds something, or an image cannot be read.
    """
    out = Path(out)
    if out.suffix != ".npz" or out.exists():
        raise UsageError(f"{out} exists: delete it" if out.exists() else f"{out}: a reference ends in .npz")
    side = dataset.to_images(dataset.grids(np.arange(1))).shape[1:]
    arrays = {"images": (side, "uint8"), "labels": ((), "int64")}
    of = {"data": dataset.name, "digest": dataset.digest}
    rows = Rows(out.with_name(f".{out.name}.partial"), of, len(dataset), arrays)
    for batch in batches(len(dataset), 256):
        indices = np.arange(batch.start, batch.stop)
        images = dataset.to_images(dataset.grids(indices))
        rows.put(batch, images=images, labels=dataset.labels(indices).numpy())
        progress("exporting", batch.stop, len(dataset))
    _finish(rows, out, progress)
    rows.delete()


def write_picture(path: Path, images: np.ndarray, columns: int) -> None:
    """Images (N, H, W, 3) uint8 side by side in rows of `columns`, as a PNG; small ones are magnified."""
    from PIL import Image

    count, height, width, _ = images.shape
    lines = -(-count // columns)
    sheet = np.zeros((lines * columns, height, width, 3), np.uint8)
    sheet[:count] = images
    sheet = sheet.reshape(lines, columns, height, width, 3).swapaxes(1, 2)
    sheet = sheet.reshape(lines * height, columns * width, 3)
    times = max(1, 64 // max(height, width))
    sheet = sheet.repeat(times, axis=0).repeat(times, axis=1)
    write_whole(path, lambda made: Image.fromarray(sheet).save(made))


def _finish(rows: Rows, out: Path, progress: Progress) -> None:
    """Turn finished rows into what was asked for, whole or not at all."""
    if out.suffix == ".npz":
        write_whole(out, lambda made: _write_npz(made, arr_0=rows["images"], arr_1=rows["labels"]))
    else:
        write_whole(out, lambda made: _write_folder(made, rows["images"], progress))


def _write_npz(path: Path, **arrays: np.ndarray) -> None:
    """`np.savez`, but straight from the disk; images hardly compress."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _write_folder(folder: Path, images: np.ndarray, progress: Progress) -> None:
    from PIL import Image

    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:06d}.png")
        progress("writing", i + 1, len(images))
