"""Image files of a dataset."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from yolov12_plugin.errors import NotRunnable


def images_in(places: Sequence[Path]) -> list[Path]:
    """Image files within folders, and those that text files list; each path is there once.

    Raises:
        NotRunnable: a place is neither, or there is no image.
    """
    from ultralytics.data.utils import IMG_FORMATS

    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += files_in(place)
        elif place.is_file() and place.suffix == ".txt":
            lines = place.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            listed_paths = [Path(line.strip()) for line in lines if line.strip()]
            beside = [path if path.is_file() else place.parent / path for path in listed_paths]
            found += [path for path in beside if path.is_file()]
        else:
            raise NotRunnable(f"{place} is no folder of images, and no .txt that lists them")
    images = {os.path.abspath(path): path for path in found if path.suffix[1:].lower() in IMG_FORMATS}
    if not images:
        raise NotRunnable(f"there are no images in {listed(places)}")
    return list(images.values())


def files_in(folder: Path) -> Iterator[Path]:
    """Files within a folder, through links too; of folders that links lead to again, once."""
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(here) / name for name in names)


def listed(names: Iterable[Any]) -> str:
    first = [str(name) for name in names]
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")
