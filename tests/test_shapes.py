"""The dataset that draws itself."""

import hashlib
import shutil
import subprocess
import sys
import textwrap

import cv2
import numpy as np
import pytest
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import YAML
from ultralytics.utils.checks import check_yaml

DRAW = (
    "import sys; from pathlib import Path; from ultralytics.data import utils\n"
    "utils.DATASETS_DIR = Path(sys.argv[1])\n"
    "utils.check_det_dataset('shapes.yaml')"
)


def digest(root):
    files = sorted(path for path in root.rglob("*") if path.suffix in (".png", ".txt"))
    content = b"".join(path.relative_to(root).as_posix().encode() + path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def shapes():
    return check_det_dataset("shapes.yaml")


def test_files(shapes):
    assert 3 <= shapes["nc"] <= 5
    for split, count in ("train", 64), ("val", 16):
        images = sorted((shapes["path"] / "images" / split).glob("*.png"))
        assert len(images) == count
        classes = set()
        for path in images:
            image = cv2.imread(str(path))
            height, width = image.shape[:2]
            rows = np.loadtxt(path.parents[2] / "labels" / split / f"{path.stem}.txt", ndmin=2)
            assert 1 <= len(rows) <= 5
            for label, x, y, w, h in rows:
                classes.add(int(label))
                left, right = round((x - w / 2) * width), round((x + w / 2) * width)
                top, bottom = round((y - h / 2) * height), round((y + h / 2) * height)
                assert 0 <= left < right <= width and 0 <= top < bottom <= height
                # The centre belongs to the shape, and the box is tight: its colour is on each side and not beyond.
                shape = (image == image[(top + bottom) // 2, (left + right) // 2]).all(2)
                assert shape[top:bottom, left].any() and shape[top:bottom, right - 1].any()
                assert shape[top, left:right].any() and shape[bottom - 1, left:right].any()
                assert not shape[top - 1 : bottom + 1, [left - 1, right]].any()
                assert not shape[[top - 1, bottom], left - 1 : right + 1].any()
        assert classes == set(range(shapes["nc"]))


def test_same_on_every_draw(fork, tmp_path, shapes):
    fork([sys.executable, "-c", DRAW, tmp_path])
    assert digest(tmp_path / "yolov12-shapes") == digest(shapes["path"])
    assert [path.name for path in tmp_path.iterdir()] == ["yolov12-shapes"]


def test_draws_again_what_was_deleted(fork, tmp_path):
    fork([sys.executable, "-c", DRAW, tmp_path])
    shutil.rmtree(tmp_path / "yolov12-shapes/images/val")
    fork([sys.executable, "-c", DRAW, tmp_path])
    assert len(list((tmp_path / "yolov12-shapes/images/val").iterdir())) == 16


def test_touches_nothing_that_is_there(fork, tmp_path):
    (tmp_path / "yolov12-shapes/images").mkdir(parents=True)
    (tmp_path / "yolov12-shapes/notes.txt").write_text("mine")
    fork([sys.executable, "-c", DRAW, tmp_path])
    assert (tmp_path / "yolov12-shapes/notes.txt").read_text() == "mine"
    assert len(list((tmp_path / "yolov12-shapes/images/val").iterdir())) == 16


def test_leftovers_of_a_killed_process_do_not_matter(fork, tmp_path):
    """Also those of a process of the same number, which in a container is often 1."""
    code = """
    import os
    from pathlib import Path
    from ultralytics.utils import SETTINGS
    from ultralytics.data.utils import check_det_dataset
    SETTINGS.update({"datasets_dir": os.getcwd()})
    Path(f"yolov12-shapes.{os.getpid()}/images/train").mkdir(parents=True)
    print(len(os.listdir(check_det_dataset("shapes.yaml")["train"])))
    """
    assert fork(textwrap.dedent(code), YOLO_CONFIG_DIR=str(tmp_path)).stdout.endswith("64\n")


@pytest.mark.process
def test_two_processes_at_once(tmp_path):
    """The second finds the place taken and uses what is there."""
    code = YAML.load(check_yaml("shapes.yaml"))["download"]
    script = f"import sys, pathlib\nroot = pathlib.Path(sys.argv[1])\nexec({code!r}, " + (
        "{'yaml': {'path': root, 'names': {0: 'circle', 1: 'square', 2: 'triangle', 3: 'cross'}}})"
    )
    both = [subprocess.Popen([sys.executable, "-c", script, tmp_path / "shapes"]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
