"""Pictures of the paper's figures: one style, and one way into a file."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.files import check_place, replacing

KINDS = (".png", ".svg", ".pdf", ".jpg")
DPI = 150
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "yolov12",  # equal bytes in every run
    "svg.fonttype": "none",  # text stays text
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def write(draw: Callable[[], Figure], file: Path) -> None:
    """Draw a figure into a file, of the kind that its suffix names; of an SVG, the same bytes every time.

    Raises:
        NotRunnable: No such folder, or no such kind, before anything is drawn; or it cannot be written.
    """
    check(file)
    with matplotlib.rc_context(STYLE):
        figure = draw()
        metadata = {"Date": None} if file.suffix.lower() == ".svg" else None
        with written(file) as part:
            figure.savefig(part, dpi=DPI, metadata=metadata)


def copy(kept: Path, file: Path) -> None:
    """Write a picture that is kept as `kept`.svg and `kept`.png; of another kind, it is made from the latter.

    Raises:
        NotRunnable: As `write`.
    """
    check(file)
    source = kept.with_suffix(file.suffix.lower())
    with written(file) as part:
        if source.exists():
            shutil.copyfile(source, part)
        else:
            Image.open(kept.with_suffix(".png")).convert("RGB").save(part, resolution=DPI)


def check(file: Path) -> None:
    if file.suffix.lower() not in KINDS:
        raise NotRunnable(f"{file} is no picture that can be drawn: name a file ending in {', '.join(KINDS)}")
    check_place(file)


@contextmanager
def written(file: Path) -> Iterator[Path]:
    try:
        with replacing(file) as part:
            yield part
    except OSError as e:
        raise NotRunnable(f"{file} could not be written: {e.strerror}; name another file") from e
