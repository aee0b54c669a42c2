"""A copy of a training run on storage that all machines see, for those whose work folders are their own.

    mirror = Mirror(Path("/shared/checkpoints/<run>"))
    mirror.fetch(run)                                    # before a cell is begun, or gone on with
    mirror.store(run)                                    # after each checkpoint

It has the run's layout (`bench.training.run`), with the newest checkpoint alone and without pictures. Every
file, and every folder of tensors, appears whole; sums are looked at before a checkpoint is taken from there.
Who calls holds the run's lease in the folder of records.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from bench.training.run import Run, check_sums
from bench.utils.files import write_whole
from registry.errors import UsageError

FILES = ("run.json", "log.jsonl", "held-out/*.json")
TENSORS = "posthoc/*"


class Mirror:
    """The copy of one run.

    Args:
        folder: of the copy.
    """

    def __init__(self, folder: Path) -> None:
        self.run = Run(folder)

    def fetch(self, run: Run) -> None:
        """Bring the copy to a run's folder, where it is further; a damaged one is left alone.

        Raises:
            UsageError: the folder cannot be written to.
        """
        if _newest(self.run) > _newest(run):
            try:
                _copy(self.run, run)
            except FileNotFoundError:  # gone meanwhile: there is no further one
                pass
            except OSError as error:
                raise UsageError(f"cannot bring {self.run.folder}: {error.strerror or error}") from None

    def store(self, run: Run) -> None:
        """Put what is new in a run's folder here, and remove older checkpoints.

        Raises:
            UsageError: it cannot be written here.
        """
        if not (run.folder / "run.json").exists():
            return
        try:
            _copy(run, self.run)
        except FileNotFoundError:  # replaced by a newer one, whose turn comes
            return
        except OSError as error:
            raise UsageError(f"cannot write {self.run.folder}: {error.strerror or error}") from None
        for old in self.run.checkpoints()[:-1]:
            shutil.rmtree(old, ignore_errors=True)

    def delete(self) -> None:
        """Remove the copy: its checkpoints first, so that nothing is brought that is half of it."""
        shutil.rmtree(self.run.folder / "checkpoints", ignore_errors=True)
        shutil.rmtree(self.run.folder, ignore_errors=True)


def _newest(run: Run) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    return max((int(path.name) for path in run.checkpoints()), default=0)


def _copy(source: Run, target: Run) -> None:
    """Files first, so that whatever checkpoint is there has its log."""
    for pattern in FILES:
        for path in source.folder.glob(pattern):
            place = target.folder / path.relative_to(source.folder)
            write_whole(place, lambda made, path=path: shutil.copyfile(path, made))  # type: ignore[misc]
    for folder in (*source.folder.glob(TENSORS), *source.checkpoints()[-1:]):
        place = target.folder / folder.relative_to(source.folder)
        if folder.name.isdecimal() and not place.exists():
            _copy_tensors(folder, place)


def _copy_tensors(folder: Path, place: Path) -> None:
    """Copy a folder of tensors, unless it is not what its sums tell."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".bench-") as beside:
        made = Path(shutil.copytree(folder, Path(beside) / place.name))
        try:
            check_sums(made)
        except UsageError:
            return
        made.rename(place)
