"""How files are written: whole, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from yolov12_plugin.errors import NotRunnable


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path of the same suffix to write to, which becomes `file` at the end of the block.

    Where the block fails, `file` is as it was and nothing lies beside it. A link is followed; what is no regular file,
    as a device or a pipe, is given as it is.
    """
    file = Path(os.path.realpath(file)) if file.is_file() or not file.exists() else file
    if file.exists() and not file.is_file():
        yield file
        return
    part = file.with_name(f".{file.stem}.{uuid4().hex[:8]}{file.suffix}")
    try:
        yield part
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        if file.exists():
            shutil.copymode(file, part)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write a text file whole, or leave what is there."""
    with replacing(file) as part:
        part.write_text(text, encoding="utf-8")


def check_place(file: Path) -> None:
    """Raises NotRunnable where a file cannot be written, before there is anything to write."""
    place = file if file.exists() else file.parent
    if file.is_dir() or not file.parent.is_dir() or not os.access(place, os.W_OK):
        raise NotRunnable(f"{file} cannot be written: name a file in a folder that is there")
