"""How files are written: whole, or not at all."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from yolov12_plugin.errors import NotRunnable

UNFINISHED = ".yolov12-"  # with what begin the names of folders for what is not whole yet
STALE = 86400  # seconds after which such a folder is of a process that was killed


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """A new folder beside a place, of its file system, for what is moved there when it is whole; gone after the block.

    What killed processes left of such folders goes too, a day later.
    """
    with suppress(OSError), os.scandir(place.parent) as entries:
        for entry in entries:
            if entry.name.startswith(UNFINISHED) and time.time() - entry.stat(follow_symlinks=False).st_ctime > STALE:
                shutil.rmtree(entry, ignore_errors=True)
    with _named(place):
        folder = tempfile.mkdtemp(prefix=UNFINISHED, dir=place.parent)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path of the same name to write to, in a folder that is the user's alone, which becomes `file` after the block.

    Where the block fails, `file` is as it was and nothing lies beside it. A link is followed; what is no regular file,
    as a device or a pipe, is given as it is.
    """
    file = Path(os.path.realpath(file)) if file.is_file() or not file.exists() else file
    if file.exists() and not file.is_file():
        yield file
        return
    with beside(file) as folder:
        part = folder / file.name
        yield part
        if not part.exists():
            raise FileNotFoundError(f"{file} was not written")
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        if file.exists():
            shutil.copymode(file, part)
        os.replace(part, file)


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Say of `file`, not of what is written beside it, why it cannot be written."""
    try:
        yield
    except OSError as e:
        raise type(e)(e.errno, e.strerror, str(file)) from e


def write_text(file: Path, text: str) -> None:
    """Write a text file whole, or leave what is there."""
    with replacing(file) as part:
        part.write_text(text, encoding="utf-8")


def write_checkpoint(file: Path, ckpt: dict[str, Any]) -> None:
    """Write a checkpoint whole, or leave what is there."""
    import torch

    with replacing(file) as part, part.open("wb") as opened:  # or PyTorch says of a full disk that a position is off
        torch.save(ckpt, opened)


@contextmanager
def adding(folder: Path) -> Iterator[Path]:
    """A folder to write to, all of which comes into `folder`, new or not, at the end of the block.

    What has the same name there is replaced, what has another stays. Where the block fails, `folder` is as it was.
    """
    folder = Path(os.path.realpath(folder))
    new = not folder.exists()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with beside(folder if new else folder / "new") as part, _named(folder):
        (part / "new").mkdir()
        yield part / "new"
        if new:
            (part / "new").rename(folder)
        else:
            _move_all(part / "new", folder, part / "old")


def _move_all(source: Path, folder: Path, old: Path) -> None:
    """Move what is in `source` into `folder`, in the order of the names; what it replaces lies in `old` meanwhile."""
    old.mkdir()
    moved: list[Path] = []
    try:
        for file in sorted(source.iterdir()):
            place = folder / file.name
            if place.exists():
                shutil.copy2(place, old / file.name)
            os.replace(file, place)
            moved.append(place)
    except BaseException:
        for place in moved:
            if (old / place.name).exists():
                os.replace(old / place.name, place)
            elif place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink()
        raise


def check_folder(folder: Path) -> None:
    """Raises NotADirectoryError or PermissionError where a folder, there or not, cannot be written to."""
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"{nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK):
        raise PermissionError(f"{nearest} is read-only: name another folder")


def check_place(file: Path) -> None:
    """Raises NotRunnable where a file cannot be written, before there is anything to write."""
    folder = (Path(os.path.realpath(file)) if file.is_symlink() else file.absolute()).parent
    device = file.exists() and not file.is_file()  # is written to, where all else is put in the place of what is there
    if file.is_dir():
        why = "it is a folder: name a file in it"
    elif not folder.exists():
        why = f"there is no folder {folder}: make it, or name a file elsewhere"
    elif not folder.is_dir():
        why = f"{folder} is no folder: name a file elsewhere"
    elif not device and not os.access(folder, os.W_OK):
        why = f"the folder {folder} is read-only: name a file elsewhere"
    elif file.exists() and not os.access(file, os.W_OK):
        why = "it is read-only: name another file"
    else:
        return
    raise NotRunnable(f"{file} cannot be written: {why}")
