"""shapes.yaml, and its like for the other tasks: shapes on textured ground, drawn the same on every machine."""

import math
import os
import random
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from yolov12_plugin.datasets.folders import making, write_png

SIZE = 160
CLASSES = "shapes-cls"  # a folder and no YAML is what classification names
ROUND = [(math.cos(math.tau * i / 32), math.sin(math.tau * i / 32)) for i in range(32)]
ANGULAR = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
A = 1 / 3
# fmt: off
CORNERS: dict[str, Sequence[tuple[float, float]]] = {  # within the square from -1 to 1
    "circle": ROUND,
    "ellipse": ROUND,
    "square": ANGULAR,
    "rectangle": ANGULAR,
    "triangle": [(0, -1), (1, 1), (-1, 1)],
    "cross": [
        (-A, -1), (A, -1), (A, -A), (1, -A), (1, A), (A, A), (A, 1), (-A, 1), (-A, A), (-1, A), (-1, -A), (-A, -A),
    ],
}
# fmt: on
COLORS = {  # blue, green, red, as OpenCV has them
    "red": [60, 60, 230],
    "green": [70, 210, 70],
    "blue": [235, 120, 60],
    "yellow": [60, 225, 235],
    "white": [240, 240, 240],
}


class Shape(NamedTuple):
    """A shape as it is placed in an image: pixels of its centre and half its width and height, and degrees."""

    name: str
    x: int
    y: int
    w: float
    h: float
    angle: float = 0.0

    def place(self, points: Sequence[tuple[float, float]], around: float = 0.0) -> np.ndarray:
        """Pixels of points of the square from -1 to 1, which is made larger by some pixels around the shape.

        Shapes: (points, 2).
        """
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        scaled = np.array(points) * (self.w + around, self.h + around)
        return scaled @ [[cos, sin], [-sin, cos]] + (self.x, self.y)

    def paint(self, image: np.ndarray, color: list[int]) -> None:
        if self.name == "circle":
            cv2.circle(image, (self.x, self.y), int(self.h), color, -1)
        else:
            cv2.fillPoly(image, [np.rint(self.place(CORNERS[self.name])).astype(np.int32)], color)


def box(shape: Shape) -> np.ndarray:
    """Centre and size."""
    pixels = np.rint(shape.place(CORNERS[shape.name]))
    low, high = pixels.min(0), pixels.max(0) + 1
    return np.concatenate(((low + high) / 2, high - low))


def outline(shape: Shape) -> np.ndarray:
    """Around the pixels of an upright shape: a painted polygon has all that its edge crosses, a circle half of them."""
    corners = shape.place(CORNERS[shape.name])
    return 0.5 + (corners if shape.name == "circle" else np.rint(corners) + np.sign(CORNERS[shape.name]) / 2)


def box_and_ends(shape: Shape) -> np.ndarray:
    """Centre and size of the box; where the shape's axes leave it, at the top, right, bottom and left, all visible."""
    side = 0.5 if shape.name == "triangle" else 1
    ends = shape.place([(0, -1), (side, 0), (0, 1), (-side, 0)]) + 0.5
    return np.concatenate((box(shape), np.column_stack((ends, np.full(4, 2 * SIZE))).ravel()))


def turned_box(shape: Shape) -> np.ndarray:
    return shape.place(ANGULAR, around=0.5) + 0.5


LABELS: dict[str, Callable[[Shape], np.ndarray]] = {  # in pixels
    "detect": box,
    "segment": outline,
    "pose": box_and_ends,
    "obb": turned_box,
}


def make(data: dict[str, Any], task: str, train: int, val: int) -> None:
    """Draw the dataset of a YAML that Ultralytics has read, with so many images.

    Raises:
        NotRunnable: its folder cannot be written.
    """
    rng = random.Random(0)
    with making(Path(data["path"])) as folder:
        for split, count in ("train", train), ("val", val):
            for part in "images", "labels":
                (folder / part / split).mkdir(parents=True)
            for i in range(count):
                image, labels = draw(rng, data["names"], task)
                write_png(folder / "images" / split / f"{i:03}.png", image)
                (folder / "labels" / split / f"{i:03}.txt").write_text("".join(labels), encoding="utf-8")


def make_classes(root: Path, train: int = 16, val: int = 4) -> None:
    """Draw a folder of images for each class, as classification takes them, with so many images each.

    Raises:
        NotRunnable: `root` cannot be written.
    """
    rng = random.Random(0)
    with making(root) as folder:
        for split, count in ("train", train), ("val", val):
            for name in "circle", "cross", "square", "triangle":
                (folder / split / name).mkdir(parents=True)
                for i in range(count):
                    image, r = _ground(rng), rng.randrange(20, 60)
                    x, y = (rng.randrange(r + 1, SIZE - r - 1) for _ in range(2))
                    Shape(name, x, y, r, r).paint(image, _color(rng))
                    write_png(folder / split / name / f"{i:03}.png", image)


def draw(rng: random.Random, names: dict[int, str], task: str) -> tuple[np.ndarray, list[str]]:
    """One image of one to five shapes that do not overlap, and its labels."""
    image = _ground(rng)
    placed: list[tuple[int, int, int]] = []
    labels = []
    for _ in range(rng.randrange(1, 6)):
        r = rng.randrange(10, 28)
        reach = math.ceil(1.42 * r) if task in ("pose", "obb") else r  # a turned square reaches as far as its diagonal
        x, y = (rng.randrange(reach + 1, SIZE - reach - 1) for _ in range(2))
        if any(max(abs(x - i), abs(y - j)) < reach + k + 2 for i, j, k in placed):
            continue
        placed.append((x, y, reach))
        label = rng.randrange(len(names))
        *hue, name = names[label].split()  # a class may be a shape of one colour
        color, shape = COLORS[hue[0]] if hue else _color(rng), Shape(name, x, y, r, r)
        if task == "obb":  # longer than wide: a box that is nearly square has no angle to be learned
            shape = shape._replace(w=rng.uniform(0.4, 0.7) * r, angle=rng.uniform(0, 180))
        elif task == "pose" and shape.name != "circle":  # farther than this a square's top could as well be its side
            shape = shape._replace(angle=rng.uniform(-30, 30))
        shape.paint(image, color)
        labels.append(" ".join([str(label), *(f"{v:.6f}" for v in (LABELS[task](shape) / SIZE).ravel())]) + "\n")
    return image, labels


def _ground(rng: random.Random) -> np.ndarray:
    dark = rng.randrange(20, 90)
    image = np.full((SIZE, SIZE, 3), dark, np.uint8)
    for _ in range(60):
        a, b = ((rng.randrange(SIZE), rng.randrange(SIZE)) for _ in range(2))
        cv2.line(image, a, b, [dark + rng.randrange(-20, 20) for _ in range(3)], rng.randrange(1, 4))
    return image


def _color(rng: random.Random) -> list[int]:
    return [rng.randrange(120, 256) for _ in range(3)]


def draw_by_name(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Draw shapes-cls where Ultralytics would download the folder of that name."""

    @wraps(stock)
    def download(url: Any, *args: Any, **kwargs: Any) -> Any:
        if not ("dir" in kwargs and str(url).endswith(f"/{CLASSES}.zip")):
            return stock(url, *args, **kwargs)
        return make_classes(Path(os.fspath(kwargs["dir"])) / CLASSES)

    return download
