"""Samples many images, batch by batch, into a file or a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.sampling.plan import Plan, ToImages
from bench.sampling.sheets import columns, write_sheet
from bench.utils import distributed
from bench.utils.arrays import ResumableArrays, batches
from bench.utils.compilation import compile_network
from bench.utils.device import on_cuda
from bench.utils.files import write_whole
from bench.utils.progress import Progress, silent
from registry.backbone import height_width
from registry.errors import UsageError


def sample(
    network: Any,
    to_images: ToImages,
    plan: Plan,
    out: str | Path,
    *,
    identity: dict[str, Any],
    device: torch.device | str = "cpu",
    compiled: bool = False,
    progress: Progress = silent,
) -> Path:
    """Make the images of a plan. An interrupted call resumes, and several processes share the work.

    Args:
        network: a backbone; what runs is its deployed copy.
        to_images: maps grids to pictures, such as a dataset's.
        out: an `.npz` in the form of the ADM suite (`arr_0` images, `arr_1` labels), or a folder that gets
            a PNG for each image. A sheet of the first of them is put beside it.
        identity: identifies the weights and their objective, as JSON: an interrupted call resumes only with
            the same network.
        compiled: compile the network by torch.compile, on CUDA with CUDA graphs.

    Returns:
        The sheet.

    Raises:
        UsageError: see `Plan.check` and `Plan.images`; or `out` is named like an image, cannot be written,
            exists already, or there is too little space.
    """
    out, settings = Path(out), plan.settings
    if (ending := out.suffix.lower()) in (".png", ".jpg", ".jpeg", ".npy") or out.suffix != ending == ".npz":
        raise UsageError(f"{out} is no place for many images: give FILE.npz, or a folder for PNGs")
    plan.check(network, device)
    partial = out.with_name(f".{out.name}.partial")
    there = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    exists = UsageError(f"{out} exists: delete it or choose another place")
    if there and not partial.exists():
        raise exists

    def placed(network: Any, plan: Plan) -> Any:
        network = plan.deployed(network, device)
        if compiled:
            compile_network(network, graphs=on_cuda(torch.device(device)), dynamic=False)
        return network

    network = placed(network, plan)
    grid = torch.zeros(1, network.in_channels, *height_width(network.input_size), device=device)
    num, side = settings.num, to_images(grid).shape[1:]
    request = {
        "of": identity,
        "settings": settings.model_dump(),
        "classes": plan.classes,
        "seed": plan.seed,
        "precision": plan.precision,
    }
    if plan.guide is not None:
        request["guide"] = {"of": plan.guide.identity, "scale": plan.guide.scale}
        alone = settings.model_copy(update={"cfg_scale": 1.0, "encoder_every": None})
        of_guide = Plan(plan.guide.objective, alone, seed=plan.seed, precision=plan.precision)
        plan = replace(plan, guide=replace(plan.guide, network=placed(plan.guide.network, of_guide)))
    arrays = {"images": (side, "uint8"), "labels": ((), "int64")}
    rows = ResumableArrays(partial, request, num, arrays)
    if there and rows.missing():  # otherwise only removing `partial` was interrupted
        raise exists
    progress("sampling", num - rows.missing(), num)
    for batch in distributed.share(batches(num, settings.batch_size)):
        if rows.missing(batch):
            # A short last batch would be compiled again, so it is filled with images that are discarded.
            size = min(num, settings.batch_size) if compiled else len(batch)
            indices = torch.arange(batch.start, batch.start + size, device=device)
            made = plan.images(network, indices, to_images)[: len(batch)]
            labels = plan.labels_of(indices[: len(batch)], network.num_classes)
            rows.put(batch, images=made, labels=labels.cpu().numpy())
            progress("sampling", num - rows.missing(), num)
    distributed.wait()
    sheet = out.with_name(f"{out.stem if out.suffix == '.npz' else out.name}.grid.png")
    if distributed.is_main():
        if not there:
            _write(out, rows["images"], rows["labels"], progress)
        write_sheet(sheet, rows["images"][:100], columns(len(plan.classes) or network.num_classes))
        rows.delete()
    distributed.wait()
    return sheet


def _write(out: Path, images: np.ndarray, labels: np.ndarray, progress: Progress) -> None:
    """Write (N, H, W, 3) images, whole or not at all: with labels (N,) to an `.npz`, or PNGs to a folder."""

    def write_folder(folder: Path) -> None:
        from PIL import Image

        folder.mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{i:06d}.png")
            progress("writing", i + 1, len(images))

    def write_npz(path: Path) -> None:
        np.savez(path, arr_0=images, arr_1=labels)

    write_whole(out, write_npz if out.suffix == ".npz" else write_folder)
