"""How a dataset comes to its place: made beside it, and moved there when it is whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from yolov12_plugin.errors import NotRunnable, first_line
from yolov12_plugin.files import beside, check_folder


@contextmanager
def making(root: Path) -> Iterator[Path]:
    """A folder to make a dataset in, all of which comes to `root` at the end of the block.

    A `root` that is there is completed: its own files of other names stay, those of the dataset that differ from what
    was made are replaced. Where the block fails, `root` is as it was and nothing lies beside it.

    Raises:
        NotRunnable: a folder or a file cannot be written.
    """
    try:
        check_folder(root)
        root.parent.mkdir(parents=True, exist_ok=True)
        with beside(root) as part:
            (part / "new").mkdir()
            yield part / "new"
            _move(part / "new", root)
    except OSError as e:
        raise NotRunnable(
            f"{root} cannot be made: {first_line(e)}. Choose another place by `yolo settings datasets_dir=FOLDER`"
        ) from e


def write_png(file: Path, image: np.ndarray) -> None:
    file.write_bytes(cv2.imencode(".png", image)[1].tobytes())  # cv2.imwrite is silent where a disk is full


def _move(new: Path, root: Path) -> None:
    try:
        new.rename(root)
        return
    except OSError:  # it is there, perhaps from another process just now
        if not root.is_dir():
            raise
    # Ultralytics takes a dataset whose images/val is there for whole, so that comes last.
    folders = {file.parent.relative_to(new) for file in new.rglob("*") if file.is_file()}
    for folder in sorted(folders, key=lambda path: ("images" in path.parts, path.name == "val", path)):
        place = root / folder
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            (new / folder).rename(place)
        except OSError:
            if not place.is_dir():
                raise
            for file in sorted((new / folder).iterdir()):
                if not (place / file.name).is_file() or (place / file.name).read_bytes() != file.read_bytes():
                    file.replace(place / file.name)
