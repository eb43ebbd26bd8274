"""The datasets that draw themselves."""

import hashlib
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
from ultralytics import YOLO
from ultralytics.data import utils
from ultralytics.data.utils import check_cls_dataset, check_det_dataset
from ultralytics.utils import YAML
from ultralytics.utils.checks import check_yaml

from yolov12_plugin.datasets.shapes import make, make_classes
from yolov12_plugin.errors import NotRunnable

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


def drawn(kind):
    """Image and rows of labels of every image of a kind."""
    data = check_det_dataset(f"shapes-{kind}.yaml")
    for split, count in ("train", 64), ("val", 16):
        files = sorted((data["path"] / "images" / split).iterdir())
        assert len(files) == count
        for file in files:
            rows = (data["path"] / "labels" / split / f"{file.stem}.txt").read_text().splitlines()
            yield cv2.imread(str(file)), [np.array(row.split(), float) for row in rows]


def test_many_classes():
    """Few images of 20 classes: each is a shape of one colour, and both splits have all of them."""
    data = check_det_dataset("shapes-20.yaml")
    colors = {}
    for split, count in ("train", 280), ("val", 60):
        files = sorted((data["path"] / "images" / split).iterdir())
        assert len(files) == count
        seen = set()
        for file in files:
            image = cv2.imread(str(file))
            for row in (data["path"] / "labels" / split / f"{file.stem}.txt").read_text().splitlines():
                label, x, y, *_ = map(float, row.split())
                seen.add(int(label))
                hue = data["names"][int(label)].split()[0]
                colors.setdefault(hue, set()).add(tuple(image[int(y * 160), int(x * 160)].tolist()))
        assert seen == set(range(20))
    assert len(colors) == 5 and all(len(found) == 1 for found in colors.values())
    assert len(set.union(*colors.values())) == 5


def shape_at(image, point):
    """Where the colour of a point is, in one piece with it."""
    x, y = map(int, point)
    _, pieces = cv2.connectedComponents((image == image[y, x]).all(2).astype(np.uint8), connectivity=8)
    return pieces == pieces[y, x]


def filled(corners):
    """Share of each pixel that is within a polygon, from a drawing ten times as large."""
    large = np.zeros((1600, 1600), np.uint8)
    cv2.fillPoly(large, [np.rint(corners * 10 - 0.5).astype(np.int32)], 255)
    return cv2.resize(large, (160, 160), interpolation=cv2.INTER_AREA) / 255


def test_outlines():
    classes = set()
    for image, rows in drawn("seg"):
        for label, *corners in rows:
            classes.add(label)
            corners = np.reshape(corners, (-1, 2)) * 160
            shape = shape_at(image, (corners.min(0) + corners.max(0)) / 2)
            inside = filled(corners) >= 0.5
            assert (shape & inside).sum() > 0.95 * (shape | inside).sum()
    assert classes == {0, 1, 2, 3}


def test_keypoints():
    """They lie on the edge of the shape, and the box around it is tight; mirrored, flip_idx puts them in order."""
    flip = YAML.load(check_yaml("shapes-pose.yaml"))["flip_idx"]
    for image, rows in drawn("pose"):
        for _, x, y, w, h, *points in rows:
            points = np.reshape(points, (4, 3))
            assert (points[:, 2] == 2).all()
            points = points[:, :2] * 160
            shape = shape_at(image, points.mean(0))
            down, across = np.nonzero(shape)
            box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * 160
            assert box == pytest.approx((across.min(), down.min(), across.max() + 1, down.max() + 1), abs=1e-3)
            edge = cv2.dilate(shape.astype(np.uint8), np.ones((3, 3))) - cv2.erode(
                shape.astype(np.uint8), np.ones((5, 5))
            )
            assert all(edge[int(j), int(i)] for i, j in points)
            for seen in points, (points * (-1, 1))[flip]:
                assert seen[0, 1] == seen[:, 1].min() and seen[2, 1] == seen[:, 1].max()  # top and bottom
                assert cv2.contourArea(seen.astype(np.float32), oriented=True) > 0  # clockwise


def test_rotated_boxes():
    """Rectangles, longer than wide and in any direction, that hold their shape and little more."""
    angles = []
    for image, rows in drawn("obb"):
        for _, *corners in rows:
            corners = np.reshape(corners, (4, 2)) * 160
            assert corners.min() >= 0 and corners.max() <= 160
            across, along = corners[1] - corners[0], corners[2] - corners[1]
            assert across @ along == pytest.approx(0, abs=0.01)
            assert 0.38 < np.linalg.norm(across) / np.linalg.norm(along) < 0.75
            angles.append(np.degrees(np.arctan2(along[1], along[0])) % 180)
            pixels = np.argwhere(shape_at(image, corners.mean(0)))[:, ::-1] + 0.5 - corners.mean(0)
            for side in across, along:
                length = np.linalg.norm(side)
                reach = pixels @ side / length
                assert abs(reach).max() < length / 2 + 1 and np.ptp(reach) > length - 3
    assert np.histogram(angles, 6, (0, 180))[0].min() > 5


@pytest.mark.parametrize("kind, task", [("seg", "segment"), ("pose", "pose"), ("obb", "obb")])
def test_the_others_are_the_same_on_every_draw(kind, task, tmp_path):
    data = check_det_dataset(f"shapes-{kind}.yaml")
    make(data | {"path": tmp_path / "again"}, task, 64, 16)
    assert digest(tmp_path / "again") == digest(data["path"])
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_classes():
    """`data=shapes-cls` is a folder, which Ultralytics would look for among its downloads."""
    found = check_cls_dataset("shapes-cls")
    assert found["names"] == {0: "circle", 1: "cross", 2: "square", 3: "triangle"}
    for split, count in ("train", 16), ("val", 4):
        for name in found["names"].values():
            assert len(list((found[split] / name).glob("*.png"))) == count
    assert cv2.imread(str(found["train"] / "circle/000.png")).shape == (160, 160, 3)


def test_classes_are_the_same_on_every_draw(tmp_path):
    make_classes(tmp_path / "again")
    assert digest(tmp_path / "again") == digest(check_cls_dataset("shapes-cls")["train"].parent)


def test_a_folder_where_the_user_is_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_classes(tmp_path / "shapes-cls", train=1, val=1)
    assert len(list(check_cls_dataset("shapes-cls")["train"].rglob("*.png"))) == 4


def test_other_names_are_downloaded_as_ever(monkeypatch):
    asked = []
    monkeypatch.setattr("ultralytics.utils.downloads.safe_download", lambda url, **how: asked.append((url, how["dir"])))
    utils.download("https://example.com/imagenette.zip", dir=Path("here"))
    utils.download("https://example.com/my-shapes-cls.zip", dir=Path("here"))
    utils.download("https://example.com/shapes-cls.zip", Path("here"))
    assert [Path(url).stem for url, _ in asked] == ["imagenette", "my-shapes-cls", "shapes-cls"]
    assert {place for _, place in asked} == {Path("here")}


@pytest.mark.parametrize("kind", ["", "-seg", "-pose", "-obb"])
def test_place_that_cannot_be_written(kind, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(utils, "DATASETS_DIR", tmp_path / "file")
    with pytest.raises(NotRunnable, match=r"^[^\n]*is a file, not a folder[^\n]*datasets_dir=FOLDER`$"):
        check_det_dataset(f"shapes{kind}.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.train
@pytest.mark.export
@pytest.mark.parametrize("kind", ["seg", "pose", "obb", "cls"])
def test_four_verbs(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "shapes-cls" if kind == "cls" else f"shapes-{kind}.yaml"
    how = dict(imgsz=64, device="cpu", project=str(tmp_path), verbose=False)
    model = YOLO(f"yolov12n-{kind}.yaml")
    model.train(data=name, epochs=2, batch=16, workers=0, plots=False, **how)
    best = YOLO(model.trainer.best)
    names = (
        ["circle", "cross", "square", "triangle"] if kind == "cls" else YAML.load(check_yaml(name))["names"].values()
    )
    assert list(best.names.values()) == list(names)
    scores = best.val(data=name, workers=0, plots=False, **how).results_dict
    assert scores and all(np.isfinite(value) for value in scores.values())
    image = cv2.imread(str(next((check_cls_dataset("shapes-cls")["val"]).rglob("*.png"))))
    expected = best.predict(image, conf=0.0, max_det=5, **how)[0]
    exported = YOLO(best.export(format="onnx", imgsz=64, device="cpu"), task=best.task)
    found = exported.predict(image, conf=0.0, max_det=5, **how)[0]
    part = {"cls": "probs", "obb": "obb"}.get(kind, "boxes")
    found, expected = (getattr(result, part) for result in (found, expected))
    if kind == "cls":
        np.testing.assert_allclose(found.data, expected.data, rtol=1e-3, atol=1e-4)
    else:  # which of the boxes of so short a training are suppressed is a matter of rounding
        assert float(found.conf.max()) == pytest.approx(float(expected.conf.max()), rel=1e-3)
