"""What an earlier training left in a run's folder, kept until another has a checkpoint of its own."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yolov12_plugin.show.convergence import CSV

# Hidden, so that no search for checkpoints finds them: what is on its way, and what a training has yet to replace.
MOVING, BEFORE = ".moving", ".before"


@contextmanager
def set_aside(folder: Path) -> Iterator[None]:
    """Let a training begin in a folder without the checkpoints and results of another.

    They are gone once it has a last.pt, and where it ends before that, they are as they were.

    Raises:
        OSError: they cannot be moved, or what a training before replaced cannot be deleted; all is where it was.
    """
    put_back(folder)
    if (folder / BEFORE).exists():  # it was open in another process, on Windows
        shutil.rmtree(folder / BEFORE)
    if left := written(folder):
        for file in left:
            _move(file, folder, folder / MOVING)
        os.replace(folder / MOVING, folder / BEFORE)
    try:
        yield
    finally:
        put_back(folder)


def put_back(folder: Path) -> None:
    """End a `set_aside`, also one that its process did not live to end."""
    moving, before = folder / MOVING, folder / BEFORE
    if before.is_dir() and (folder / "weights/last.pt").exists():
        shutil.rmtree(before, ignore_errors=True)
    elif before.is_dir():
        for file in written(folder):  # without a checkpoint, nothing can be made of it
            file.unlink()
        os.replace(before, moving)
    if moving.is_dir():
        for file in [path for path in moving.rglob("*") if path.is_file()]:
            _move(file, moving, folder)
        shutil.rmtree(moving)


def written(folder: Path) -> list[Path]:
    """The files by which a run is taken for begun or finished."""
    return [file for file in (*folder.glob("weights/*.pt"), folder / CSV) if file.is_file()]


def _move(file: Path, root: Path, to: Path) -> None:
    place = to / file.relative_to(root)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(file, place)
