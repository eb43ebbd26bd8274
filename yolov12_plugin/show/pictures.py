"""Pictures of the paper's figures: one style, and one way into a file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.files import replacing

KINDS = (".png", ".svg", ".pdf", ".jpg")
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
    if file.suffix.lower() not in KINDS:
        raise NotRunnable(f"{file} is no picture that can be drawn: name a file ending in {', '.join(KINDS)}")
    if not file.parent.is_dir():
        raise NotRunnable(f"{file.parent} is no folder: make it first, or name a file in one that is there")
    with matplotlib.rc_context(STYLE):
        figure = draw()
        metadata = {"Date": None} if file.suffix.lower() == ".svg" else None
        try:
            with replacing(file) as part:
                figure.savefig(part, dpi=150, metadata=metadata)
        except OSError as e:
            raise NotRunnable(f"{file} could not be written: {e.strerror}; name another file") from e
