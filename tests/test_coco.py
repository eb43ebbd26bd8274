"""AP as the paper reports it, on the samples of COCO and on files of other kinds."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import SHARED, needs, yolov12
from ultralytics import YOLO
from ultralytics.utils import ops

from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.evaluate import ground_truth, predict
from yolov12_plugin.evaluate.ground_truth import read_annotations
from yolov12_plugin.evaluate.predict import map_categories
from yolov12_plugin.evaluate.score import METRICS, evaluate, score
from yolov12_plugin.published import table6

pytest.importorskip("pycocotools")
TINY = SHARED / "data/coco-tiny"
samples = needs("data/coco-tiny")


@pytest.fixture(scope="module")
def talkative(tmp_path_factory):
    """YOLOv12-N that was never trained, but detects: with the classes of COCO, as a checkpoint."""
    torch.manual_seed(0)
    model = YOLO("yolov12n.yaml")
    for layers in model.model.model[-1].cv3:
        layers[-1].bias.data[::5] += 9
    from ultralytics.utils import YAML
    from ultralytics.utils.checks import check_yaml

    model.model.names = YAML.load(check_yaml("coco8.yaml"))["names"]
    path = tmp_path_factory.mktemp("coco") / "yolov12n-talkative.pt"
    model.save(path)
    return path


@pytest.fixture
def small(tmp_path):
    """Four drawn images, of other sizes, with two kinds of things; the folder, and a writer of its ground truth."""
    (tmp_path / "images/deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for i, (width, height) in enumerate([(96, 64), (64, 96), (120, 80), (64, 64)]):
        name = f"deep/{i}.png" if i == 3 else f"{i}.jpg"
        cv2.imwrite(str(tmp_path / "images" / name), rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        images.append({"id": 100 + i, "file_name": name, "width": width, "height": height})
        for j in range(2):
            box = [5.5 + 20 * j, 8.25, 14, 30 + i]
            boxes.append({"id": len(boxes) + 7, "image_id": 100 + i, "category_id": 3 + 4 * j, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})  # fmt: skip

    def write(**changes):
        truth = {
            "images": images,
            "annotations": boxes,
            "categories": [{"id": 3, "name": "Cat"}, {"id": 7, "name": "fire hydrant"}],
        }
        (tmp_path / "truth.json").write_text(json.dumps(truth | changes))
        return tmp_path / "truth.json"

    return tmp_path / "images", write


@pytest.fixture
def oracle(monkeypatch):
    """Have the validator detect just what the ground truth has, through its own scaling of images and boxes."""

    def use(truth, names, confidence=0.9, shift=0.0):
        truth = json.loads(Path(truth).read_text())
        label = {
            c["id"]: next(i for i, name in names.items() if predict.plain(name) == predict.plain(c["name"]))
            for c in truth["categories"]
        }
        by_stem = {Path(image["file_name"]).stem: image["id"] for image in truth["images"]}

        def preprocess(self, batch):
            self.batch = batch
            return stock_preprocess(self, batch)

        def postprocess(self, preds):
            found = []
            for file, ratio_pad in zip(self.batch["im_file"], self.batch["ratio_pad"]):
                unit = ops.scale_boxes((64, 64), torch.tensor([[0.0, 0, 1, 1]]), (64, 64), ratio_pad, xywh=True)
                (gain_x, gain_y), (pad_x, pad_y) = (1 / unit[0, 2:]).tolist(), ratio_pad[1]
                rows = [a for a in truth["annotations"] if a["image_id"] == by_stem[Path(file).stem]]
                boxes = torch.tensor([a["bbox"] for a in rows], dtype=torch.float64).reshape(-1, 4)
                boxes[:, 2:] += boxes[:, :2]
                boxes = (boxes + shift) * torch.tensor([gain_x, gain_y] * 2) + torch.tensor([pad_x, pad_y] * 2)
                labels = torch.tensor([label[a["category_id"]] for a in rows], dtype=torch.float64)
                found.append(
                    {
                        "bboxes": boxes,
                        "conf": torch.full((len(rows),), confidence),
                        "cls": labels,
                        "extra": boxes[:, :0],
                    }
                )
            return found

        stock_preprocess = predict.Detections.preprocess
        monkeypatch.setattr(predict.Detections, "preprocess", preprocess)
        monkeypatch.setattr(predict.Detections, "postprocess", postprocess)

    return use


def images_in(folder):
    return ground_truth.images_in([folder])


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return [(str(p), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]


@pytest.mark.slow
@samples
def test_detections_are_those_of_ultralytics_own_validation(talkative, tmp_path):
    """Same boxes, scores and classes; and nothing is written beside the images."""
    data = tmp_path / "data"
    shutil.copytree(TINY, data)
    before = digest(data)
    scores = evaluate(
        str(talkative),
        images_in(data / "images/val"),
        data / "instances_val.json",
        imgsz=96,
        detections=tmp_path / "d.json",
    )
    assert digest(data) == before
    ours = json.loads((tmp_path / "d.json").read_text())
    assert scores["detections"] == len(ours) > 1000
    YOLO(talkative).val(
        data=data / "coco-tiny.yaml", imgsz=96, save_json=True, plots=False, project=str(tmp_path), name="stock"
    )
    stock = json.loads((tmp_path / "stock/predictions.json").read_text())
    ids = sorted(c["id"] for c in json.loads((data / "instances_val.json").read_text())["categories"])

    def rows(boxes, category):
        return sorted((int(b["image_id"]), category(b["category_id"]), *b["bbox"], b["score"]) for b in boxes)

    assert rows(ours, lambda i: i) == rows(
        stock, lambda i: ids[i - 1]
    )  # Ultralytics counts from 1 where it is not COCO


@pytest.mark.slow
@samples
@pytest.mark.parametrize("given", ["data", "folder", "list"])
def test_perfect_detections_of_coco(talkative, oracle, tmp_path, given):
    """AP is 100 where every object is found: images, sizes, scaling and categories are matched."""
    oracle(TINY / "instances_val.json", YOLO(talkative).names)
    places = {
        "data": ["--data", TINY / "coco-tiny.yaml"],
        "folder": ["--images", TINY / "images/val", "--annotations", TINY / "instances_val.json"],
        "list": ["--images", tmp_path / "list.txt", "--annotations", TINY / "instances_val.json"],
    }[given]
    (tmp_path / "list.txt").write_text("".join(f"{p}\n" for p in (TINY / "images/val").iterdir()))
    done = yolov12("coco", talkative, *places, "--imgsz", 64, "--out", tmp_path / "d.json", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [found[name] for name in METRICS] == pytest.approx([100] * 6, abs=1e-6)
    assert found["images"] == 80 and found["annotations"] == 815 and not found["missing"] and not found["unreadable"]
    assert [found["paper"][name] for name in METRICS] == list(table6("n"))


def test_shown_as_table_6(talkative, small, oracle, tmp_path):
    folder, write = small
    oracle(write(), YOLO(talkative).names)
    done = yolov12(
        "coco", talkative, "--images", folder, "--annotations", write(), "--imgsz", 64, "--out", tmp_path / "d.json"
    )
    assert done.exit_code == 0, done.output
    lines = [re.findall(r"[\w.–-]+", line) for line in done.stdout.splitlines()]
    assert ["YOLOv12-N", "paper", *map(str, table6("n"))] in lines
    assert ["yolov12n-talkative.pt", "100.0", "100.0", "100.0", "100.0", "–", "–"] in lines  # no other sizes are there
    assert f"8 detections: {tmp_path / 'd.json'}" in done.stdout.replace("\n", "")


def test_worse_boxes_score_less(talkative, small, oracle):
    """Boxes moved by 2 of 14 and 2 of 30 pixels overlap by about 0.67: AP counts 4 of its 10 thresholds."""
    folder, write = small
    oracle(write(), YOLO(talkative).names, shift=2.0)
    scores = evaluate(str(talkative), images_in(folder), write(), imgsz=64)
    assert (scores["AP"], scores["AP50"], scores["AP75"]) == pytest.approx((40, 100, 0))
    assert Path(scores["file"]).is_file()


@pytest.mark.parametrize("amount", [0.0, 0.05, 0.2, 0.5])
@samples
def test_both_evaluators_agree(amount):
    """Detections of every quality; faster-coco-eval where it is installed."""
    pytest.importorskip("faster_coco_eval")
    rng, said = np.random.default_rng(0), []
    truth = read_annotations(TINY / "instances_val.json", said.append)
    boxes = []
    for box in truth["annotations"]:
        x, y, w, h = box["bbox"]
        for _ in range(2):
            moved = np.array([x, y, w, h]) + amount * rng.normal(size=4) * [w, h, w, h]
            boxes.append(
                {
                    "image_id": box["image_id"],
                    "category_id": box["category_id"],
                    "bbox": moved.tolist(),
                    "score": rng.random(),
                }
            )
    scores = score(truth, boxes, said.append)
    assert scores["evaluators"] == ["pycocotools", "faster-coco-eval"] and said == []
    assert 0 < scores["AP"] <= 100


def test_disagreement_is_said(monkeypatch, small):
    """pycocotools' scores are shown; one that fails costs nothing."""
    faster = pytest.importorskip("faster_coco_eval")
    _, write = small
    truth, said = read_annotations(write(), print), []
    boxes = [{**{k: box[k] for k in ("image_id", "category_id", "bbox")}, "score": 0.9} for box in truth["annotations"]]
    monkeypatch.setattr(faster.COCOeval_faster, "summarize", lambda self: setattr(self, "stats", [0.5] * 12))
    scores = score(truth, boxes, said.append)
    assert scores["AP"] == pytest.approx(100) and scores["difference"] == pytest.approx(1.5)  # no large object: -1
    assert said == ["faster-coco-eval differs from pycocotools by 1.5e+00; pycocotools' scores are shown"]
    monkeypatch.setattr(faster.COCOeval_faster, "evaluate", lambda self: 1 / 0)
    assert score(truth, boxes, said.append)["evaluators"] == ["pycocotools"]
    assert said[1] == "faster-coco-eval does not run: ZeroDivisionError: division by zero"


@pytest.mark.parametrize("kind", ["words", "digits", "numbers"])
def test_ids_of_any_kind(small, talkative, oracle, kind):
    """COCO's format asks for no integers."""
    folder, write = small
    other = {"words": lambda i: f"im{i}", "digits": str, "numbers": lambda i: i + 0.5}[kind]
    truth = json.loads(write().read_text())
    for part, keys in ("images", ["id"]), ("annotations", ["image_id", "category_id"]), ("categories", ["id"]):
        for entry in truth[part]:
            entry.update({key: other(entry[key]) for key in keys})
    oracle(write(**truth), YOLO(talkative).names)
    said = []
    scores = evaluate(str(talkative), images_in(folder), write(**truth), imgsz=64, report=said.append)
    assert scores["AP"] == pytest.approx(100) and not said
    assert {box["image_id"] for box in json.loads(Path(scores["file"]).read_text())} == {
        i["id"] for i in truth["images"]
    }


NAMES = {0: "person", 1: "fire-hydrant", 2: "cat"}


@pytest.mark.parametrize(
    "names, categories, by, mapped, words",
    [
        (NAMES, {3: "Cat", 7: "Fire hydrant", 1: "person"}, "auto", {0: 1, 1: 7, 2: 3}, None),
        (NAMES, {3: "cat"}, "name", {2: 3}, None),
        (NAMES, {3: "cat", 9: "zebra"}, "auto", {2: 3}, "1 categories are no class of the model, and never found: zebra"),
        (NAMES, {5: "chat", 9: "zèbre", 2: "chien"}, "auto", {0: 2, 1: 5, 2: 9},
         "matched by their ids: class 0 (person) is category 2 (chien), class 1 (fire-hydrant) is category 5 (chat)"),
        (NAMES, {5: "cat", 9: "person", 2: "x"}, "id", {0: 2, 1: 5, 2: 9}, "class 2 (cat) is category 9 (person)"),
        (NAMES, {0: "cat", 2: "dog"}, "id", {0: 0, 2: 2}, "class 2 (cat) is category 2 (dog)"),
        (NAMES, {"b": "cat", "a": 1, "c": "person"}, "name", {0: "c", 2: "b"}, "never found: 1"),
    ],
)  # fmt: skip
def test_categories(names, categories, by, mapped, words):
    said = []
    assert map_categories(names, [{"id": i, "name": name} for i, name in categories.items()], by, said.append) == mapped
    assert (words in said[0]) if words else not said


@pytest.mark.parametrize(
    "categories, by, words",
    [
        ({5: "chat", 9: "chien"}, "auto", r"the categories are not those of the model: the model has 3 classes \(person, "
                                          r"fire-hydrant, cat\), the annotations 2 categories \(chat, chien\)"),
        ({5: "a", 6: "b", 7: "c"}, "name", "no category has the name of a class"),
        ({5: "cat", 9: "x"}, "id", "the categories are not those of the model"),
        ({5: "cat", 9: "Cat"}, "auto", "two categories have the name 'cat': map them by id"),
    ],
)  # fmt: skip
def test_categories_that_do_not_match(categories, by, words):
    with pytest.raises(NotRunnable, match=words):
        map_categories(NAMES, [{"id": i, "name": name} for i, name in categories.items()], by, print)


def test_every_class_by_its_id(talkative, small, oracle):
    """Names in another language: the categories' order is that of the classes."""
    folder, write = small
    names = YOLO(talkative).names
    other = [{"id": 2 * i + 1, "name": f"Ding {i}"} for i in names]
    label = {3: 2 * 15 + 1, 7: 2 * 10 + 1}  # cat, fire hydrant
    oracle(write(), names)
    boxes = json.loads(write().read_text())["annotations"]
    file = write(categories=other, annotations=[box | {"category_id": label[box["category_id"]]} for box in boxes])
    assert evaluate(str(talkative), images_in(folder), file, imgsz=64)["AP"] == pytest.approx(100)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[]", "needs lists of images, annotations, categories"),
        ('{"images": [], "annotations": [], "categories": []}', "has no images"),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
         "has no annotations; nothing can be scored"),
        ('{"images": [{"id": 1}], "annotations": [1], "categories": [{"id": 1, "name": "a"}]}', "entry 0 of images has no id or no file_name"),
        ('{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": [1], "categories": [{"id": 1, "name": "a"}]}',
         "images have the id 1 more than once"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 2}], "categories": [{"id": 1, "name": "a"}]}',
         "has no annotation that can be scored"),
    ],
)  # fmt: skip
def test_no_ground_truth(small, talkative, text, words):
    folder, write = small
    file = write()
    file.write_text(text)
    done = yolov12("coco", talkative, "--images", folder, "--annotations", file)
    lines = done.stderr.splitlines()
    assert done.exit_code == 2 and re.search(words, lines[-1]) and lines[-1].startswith("Error: ") and not done.stdout


@pytest.mark.parametrize(
    "change, words",
    [
        ({"image_id": 999}, "their image_id is none of the images"),
        ({"category_id": 4}, "their category_id is none of the categories"),
        ({"bbox": [1, 2, 3]}, "their bbox is not"),
        ({"bbox": [1, 2, -3, 4]}, "their bbox is negative or not finite"),
        ({"bbox": [1, 2, float("nan"), 4]}, "their bbox is negative or not finite"),
        ({"bbox": None}, "their bbox is not"),
    ],
)
def test_annotations_out_of_range(small, talkative, oracle, change, words):
    """They are said and left out; the others are scored."""
    folder, write = small
    oracle(write(), YOLO(talkative).names)
    boxes = json.loads(write().read_text())["annotations"]
    said = []
    scores = evaluate(
        str(talkative),
        images_in(folder),
        write(annotations=[boxes[0] | change, *boxes[1:]]),
        imgsz=64,
        report=said.append,
    )
    assert scores["annotations"] == 7 and scores["AP50"] > 80
    assert any(f"1 annotations are left out, as {words}" in line and "(first: annotation 7)" in line for line in said)


def test_boxes_without_area_or_crowd(small, talkative, oracle):
    folder, write = small
    oracle(write(), YOLO(talkative).names)
    boxes = [
        {k: box[k] for k in ("image_id", "category_id", "bbox")}
        for box in json.loads(write().read_text())["annotations"]
    ]
    assert evaluate(str(talkative), images_in(folder), write(annotations=boxes), imgsz=64)["AP"] == pytest.approx(100)


def test_images_that_are_missing_or_unreadable(small, talkative, oracle):
    """Zero bytes, text, a torn file, one that is gone, and one that nobody annotated: all are said, the rest scored."""
    folder, write = small
    oracle(write(), YOLO(talkative).names)
    (folder / "0.jpg").write_bytes(b"")
    (folder / "deep/3.png").write_bytes((folder / "deep/3.png").read_bytes()[:60])
    (folder / "1.jpg").unlink()
    shutil.copy(folder / "2.jpg", folder / "extra.jpg")
    said = []
    scores = evaluate(str(talkative), images_in(folder), write(), imgsz=64, report=said.append)
    assert scores["images"] == 1 and scores["missing"] == 1 and len(scores["unreadable"]) == 2
    assert scores["AP"] == pytest.approx(100) and scores["annotations"] == 2
    text = "\n".join(said)
    assert "1 of 4 annotated images are missing (first: 1.jpg)" in text
    assert "2 images cannot be read" in text and "0.jpg" in text and "3.png" in text
    assert "1 images have no entry in" in text


def test_no_image_is_there_or_readable(small, talkative, tmp_path):
    folder, write = small
    (tmp_path / "other").mkdir()
    with pytest.raises(NotRunnable, match="there are no images in"):
        images_in(tmp_path / "other")
    shutil.copy(folder / "0.jpg", tmp_path / "other/else.jpg")
    with pytest.raises(NotRunnable, match=r"none of the 4 images of .* is among the 1 given \(first: 0.jpg\)"):
        evaluate(str(talkative), images_in(tmp_path / "other"), write())
    for image in images_in(folder):
        image.write_bytes(b"")
    with pytest.raises(NotRunnable, match="none of the 4 images can be read"):
        evaluate(str(talkative), images_in(folder), write())


def test_images_of_another_size(small, talkative, oracle):
    folder, write = small
    oracle(write(), YOLO(talkative).names)
    cv2.imwrite(str(folder / "0.jpg"), np.zeros((32, 48, 3), np.uint8))
    said = []
    evaluate(str(talkative), images_in(folder), write(), imgsz=64, report=said.append)
    assert any("1 images have another size than annotated" in line and "0.jpg" in line for line in said)


def test_same_name_in_two_folders(small, talkative, oracle):
    folder, write = small
    oracle(write(), YOLO(talkative).names)
    shutil.copy(folder / "deep/3.png", folder / "3.png")  # the annotations say deep/3.png
    said = []
    assert evaluate(str(talkative), images_in(folder), write(), imgsz=64, report=said.append)["images"] == 4
    (folder / "more").mkdir()
    shutil.copy(folder / "0.jpg", folder / "more/0.jpg")
    (folder / "again").mkdir()
    (folder / "0.jpg").rename(folder / "again/0.jpg")
    with pytest.raises(NotRunnable, match=r"image 0\.jpg may be"):
        evaluate(str(talkative), images_in(folder), write(), imgsz=64)


def test_nothing_detected(small, tmp_path):
    folder, write = small
    model = YOLO("yolov12n.yaml")
    model.model.names = dict(enumerate(["cat", "fire hydrant", *map(str, range(78))]))
    model.save(tmp_path / "quiet.pt")
    said = []
    scores = evaluate(str(tmp_path / "quiet.pt"), images_in(folder), write(), imgsz=64, conf=0.9, report=said.append)
    assert scores["AP"] == 0 and scores["detections"] == 0 and "detects nothing" in said[-1]
    assert json.loads(Path(scores["file"]).read_text()) == []


def test_another_task(small, tmp_path):
    folder, write = small
    YOLO("yolov12n-seg.yaml").save(tmp_path / "seg.pt")
    with pytest.raises(NotRunnable, match=r"seg\.pt is a model for segment; boxes are scored of task detect alone"):
        evaluate(str(tmp_path / "seg.pt"), images_in(folder), write())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_full_disk(small, talkative, oracle, form):
    """The scores are shown before the error is."""
    folder, write = small
    oracle(write(), YOLO(talkative).names)
    done = yolov12(
        "coco", talkative, "--images", folder, "--annotations", write(), "--imgsz", 64, "--out", "/dev/full", *form
    )
    assert done.exit_code == 2 and "100.0" in done.stdout
    assert not form or json.loads(done.stdout)["file"] is None
    message = done.stderr.splitlines()[-1]
    assert (
        message
        == "Error: the detections could not be written to /dev/full: No space left on device; name another --out"
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_end_in_the_middle_keeps_the_detections(
    small, talkative, monkeypatch, tmp_path, number, code, interruptible
):
    """Those of whole batches, which are what pycocotools reads."""
    folder, write = small
    update = predict.Detections.update_metrics

    def end(self, *args):
        update(self, *args)
        if self.seen == 2:
            signal.raise_signal(number)

    monkeypatch.setattr(predict.Detections, "update_metrics", end)
    out = tmp_path / "d.json"
    done = yolov12(
        *("coco", talkative, "--images", folder, "--annotations", write(), "--imgsz", 64, "--batch", 1, "--out", out)
    )
    assert done.exit_code == code and not done.stdout
    boxes = json.loads(out.read_text())
    assert len({box["image_id"] for box in boxes}) == 2
    assert f"{len(boxes)} detections, of the first 2 of 4 images, are in {out}" in done.stderr.splitlines()[-1]


@pytest.mark.skipif(os.name != "posix", reason="names of files are text there")
def test_names_that_are_not_utf_8(small, talkative, tmp_path):
    """Of an image, of which the others need not know, and of the file of detections."""
    folder, write = small
    odd = os.fsdecode(b"odd\xff.jpg")
    try:
        (folder / "0.jpg").rename(folder / odd)
    except OSError:
        pytest.skip("this file system has no such names")
    truth = json.loads(write().read_text())
    truth["images"][0]["file_name"] = odd
    out = tmp_path / os.fsdecode(b"d\xff.json")
    done = yolov12(
        *("coco", talkative, "--images", folder, "--annotations", write(images=truth["images"])),
        *("--imgsz", 64, "--out", out, "--json"),
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"] == 4 and json.loads(out.read_text())


def test_earlier_detections_outlive_a_full_disk(small, talkative, monkeypatch, tmp_path):
    """A part of the new ones takes their place at no time."""
    folder, write = small
    (tmp_path / "d.json").write_text("[]")
    stock = Path.write_text

    def half(self, text, **options):
        if self.name.lstrip(".").startswith("d."):
            stock(self, text[:10], **options)
            raise OSError(28, "No space left on device")
        return stock(self, text, **options)

    monkeypatch.setattr(Path, "write_text", half)
    scores = evaluate(str(talkative), images_in(folder), write(), imgsz=64, detections=tmp_path / "d.json")
    assert scores["file"] is None and (tmp_path / "d.json").read_text() == "[]"
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


@pytest.mark.parametrize("out", ["no/d.json", ".", "truth.json"])
def test_where_nothing_can_be_written(small, talkative, monkeypatch, tmp_path, out):
    """Said before anything is predicted; the ground truth is not overwritten."""
    folder, write = small
    before = write().read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("yolov12_plugin.evaluate.score.predict", lambda *a, **k: pytest.fail("predicted"))
    with pytest.raises(NotRunnable, match="is the ground truth" if "truth" in out else "cannot be written"):
        evaluate(str(talkative), images_in(folder), write(), detections=Path(out))
    assert write().read_text() == before


def test_nothing_beside_the_images_is_touched(small, talkative, tmp_path, monkeypatch):
    """Neither arrays that Ultralytics would take for its cache, nor label files; and no folder of runs is made."""
    folder, write = small
    np.save(folder / "0.npy", np.zeros((5, 7)))
    (folder / "1.npy").write_text("mine")
    (folder / "1.txt").write_text("999 0.5 0.5 0.1 0.1")
    before = digest(folder)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    evaluate(str(talkative), images_in(folder), write(), imgsz=64, detections=tmp_path / "d.json", project=None)
    assert digest(folder) == before and not list((tmp_path / "empty").iterdir())


def test_two_images_of_one_name(small, talkative, oracle):
    """The file is that of the image whose folder it is in; the other is missing."""
    folder, write = small
    truth = json.loads(write().read_text())
    truth["images"][3]["file_name"] = "elsewhere/0.jpg"
    oracle(write(), YOLO(talkative).names)
    said = []
    scores = evaluate(str(talkative), images_in(folder), write(images=truth["images"]), imgsz=64, report=said.append)
    assert scores["images"] == 3 and scores["AP"] == pytest.approx(100)
    assert (
        "1 of 4 annotated images are missing (first: elsewhere/0.jpg)" in said[0]
        and "1 images have no entry" in said[1]
    )


def test_names_with_folders_from_within(small, talkative, oracle, monkeypatch):
    folder, write = small
    shutil.copy(folder / "deep/3.png", folder / "3.png")
    oracle(write(), YOLO(talkative).names)
    monkeypatch.chdir(folder)
    truth = json.loads(write().read_text())
    truth["images"][3]["file_name"] = "deep\\3.png"
    assert evaluate(str(talkative), images_in(Path(".")), write(images=truth["images"]), imgsz=64)["images"] == 4


def test_each_path_once(tmp_path):
    """Through links to files and folders, places that overlap, and lists that list themselves."""
    pool, chosen = tmp_path / "pool", tmp_path / "chosen"
    for folder in pool, chosen:
        folder.mkdir()
    for name in "a.png", "b.png":
        cv2.imwrite(str(pool / name), np.zeros((8, 8, 3), np.uint8))
    (chosen / "a.png").symlink_to(pool / "a.png")
    (chosen / "alias.png").symlink_to(pool / "a.png")  # another name, which may be annotated too
    (chosen / "round.png").symlink_to("round.png")
    (chosen / "self").symlink_to("self")
    (chosen / "pool").symlink_to(pool)
    listing = tmp_path / "list.txt"
    listing.write_text(f"list.txt\n{listing}\npool/a.png\n{pool}\nchosen/a.png\n")
    assert ground_truth.images_in([listing]) == [pool / "a.png", chosen / "a.png"]
    found = ground_truth.images_in([chosen, pool, tmp_path, listing])
    ours = [chosen / name for name in ("a.png", "alias.png", "pool/a.png", "pool/b.png", "round.png")]
    assert sorted(found) == sorted([*ours, pool / "a.png", pool / "b.png"])
    listing.write_text("list.txt\n")
    with pytest.raises(NotRunnable, match="there are no images in"):
        ground_truth.images_in([listing])


@pytest.mark.parametrize("names", [["x/1.png", "y/1.png"], ["1.png"], ["z/1.png"]])
def test_links_to_one_image_are_no_two(tmp_path, names):
    """Each annotated path is found, and a name that fits several links is the file that they lead to."""
    for folder in "xyz":
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "x/1.png"), np.zeros((8, 8, 3), np.uint8))
    for folder in "yz":
        (tmp_path / folder / "1.png").symlink_to("../x/1.png")
    truth = {"images": [{"id": i, "file_name": name} for i, name in enumerate(names)]}
    found = ground_truth.find_images(truth, ground_truth.images_in([tmp_path]), tmp_path / "a.json", pytest.fail)
    assert found == {i: tmp_path / (name if "/" in name else "x/1.png") for i, name in enumerate(names)}
    (tmp_path / "z/1.png").unlink()
    cv2.imwrite(str(tmp_path / "z/1.png"), np.ones((8, 8, 3), np.uint8))
    if names == ["1.png"]:
        with pytest.raises(NotRunnable, match="may be"):
            ground_truth.find_images(truth, ground_truth.images_in([tmp_path]), tmp_path / "a.json", pytest.fail)


def test_a_list_of_images(small, talkative, oracle, tmp_path):
    """Names with spaces, beside the list or where the user is; what is not there is missing."""
    folder, write = small
    (folder / "1.jpg").rename(folder / "sp ace ü.jpg")
    truth = json.loads(write().read_text())
    truth["images"][1]["file_name"] = "sp ace ü.jpg"
    oracle(write(images=truth["images"]), YOLO(talkative).names)
    (tmp_path / "list.txt").write_text(f"images/0.jpg\n./images/sp ace ü.jpg\n\n{folder / '2.jpg'}\nimages/gone.jpg\n")
    said = []
    scores = evaluate(
        str(talkative), images_in(tmp_path / "list.txt"), write(images=truth["images"]), imgsz=64, report=said.append
    )
    assert scores["images"] == 3 and scores["missing"] == 1 and not scores["unreadable"]


@pytest.mark.parametrize("form", ["torn.jpg", "one.png", "grey.png", "alpha.png", "deep.png"])
def test_images_of_every_kind(small, talkative, tmp_path, form):
    """What Ultralytics reads is scored, and what it does not is left out; nothing ends the run."""
    folder, write = small
    rng = np.random.default_rng(0)
    pixels = {"one.png": (1, 1, 3), "grey.png": (64, 96), "alpha.png": (64, 96, 4)}.get(form, (64, 96, 3))
    dtype = np.uint16 if form == "deep.png" else np.uint8
    cv2.imwrite(str(folder / form), rng.integers(0, 255, pixels).astype(dtype))
    if form == "torn.jpg":
        (folder / form).write_bytes((folder / form).read_bytes()[:1500])
    truth = json.loads(write().read_text())
    truth["images"][0]["file_name"] = form
    scores = evaluate(str(talkative), images_in(folder), write(images=truth["images"]), imgsz=64)
    assert scores["images"] + len(scores["unreadable"]) == 4 and scores["images"] >= 3


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gzip"])
def test_forms_of_the_file(small, talkative, oracle, encoding):
    import gzip

    folder, write = small
    oracle(write(), YOLO(talkative).names)
    file, text = write(), write().read_text()
    file.write_bytes(gzip.compress(text.encode()) if encoding == "gzip" else text.encode("utf-8-sig"))
    assert evaluate(str(talkative), images_in(folder), file, imgsz=64)["AP"] == pytest.approx(100)


@pytest.mark.parametrize(
    "name, content",
    [("empty.pt", b""), ("junk.pt", b"junk"), ("junk.onnx", b"junk"), ("other.yaml", b"a: 1"), ("gone.pt", None)],
)
def test_no_model(small, tmp_path, name, content):
    folder, write = small
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = yolov12("coco", tmp_path / name, "--images", folder, "--annotations", write())
    assert (
        done.exit_code == 2
        and done.stderr.splitlines()[-1].startswith("Error: ")
        and name in done.stderr
        and not done.stdout
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["0", "nonsense"])
def test_no_such_device(small, talkative, device):
    folder, write = small
    done = yolov12("coco", talkative, "--images", folder, "--annotations", write(), "--device", device)
    assert done.exit_code == 2 and "cannot be evaluated" in done.stderr.splitlines()[-1] and not done.stdout


@pytest.mark.parametrize(
    "words, error",
    [
        ([], "name the images by --data, or by --images and --annotations"),
        (["--images", "."], "name the images by --data, or by --images and --annotations"),
        (
            ["--images", "nowhere", "--annotations", "truth.json"],
            "nowhere is no folder of images, and no .txt that lists them",
        ),
        (["--images", ".", "--annotations", "nowhere.json"], "nowhere.json"),
        (["--data", "nowhere.yaml"], "nowhere.yaml"),
        (["--data", "shapes.yaml", "--split", "test"], "shapes.yaml has no split 'test'"),
        (["--data", "shapes.yaml", "--split", "names"], "no split 'names'; splits are train, val, test"),
        (["--data", "shapes.yaml"], "name its COCO file as --annotations FILE"),
    ],
)
def test_what_was_not_said(tmp_path, small, talkative, monkeypatch, words, error):
    folder, write = small
    from ultralytics.data.utils import check_det_dataset

    check_det_dataset("shapes.yaml")
    shutil.copy(write(), folder / "truth.json")
    monkeypatch.chdir(folder)
    done = yolov12("coco", talkative, *words)
    assert done.exit_code == 2 and error in done.stderr.splitlines()[-1], done.output
    assert len([line for line in done.stderr.splitlines() if line.startswith("Error")]) == 1


def test_without_pycocotools(small, talkative, monkeypatch):
    folder, write = small
    monkeypatch.setattr("yolov12_plugin.evaluate.score.find_spec", lambda name: None)
    with pytest.raises(NotRunnable, match="pycocotools is not installed: pip install pycocotools"):
        evaluate(str(talkative), images_in(folder), write())


def test_suppression_that_is_cut_short(small, talkative, monkeypatch):
    folder, write = small
    monkeypatch.setattr(predict.time, "perf_counter", iter(range(0, 10**6, 3)).__next__)
    said = []
    evaluate(str(talkative), images_in(folder), write(), imgsz=64, report=said.append)
    assert "suppression ran out of Ultralytics' time in 1 batches" in said[-1]


@pytest.mark.export
def test_an_exported_model(talkative, small, oracle, tmp_path):
    pytest.importorskip("onnxruntime")
    folder, write = small
    exported = YOLO(talkative).export(format="onnx", imgsz=64, simplify=False)
    oracle(write(), YOLO(talkative).names)
    scores = evaluate(exported, images_in(folder), write(), imgsz=64, device="cpu")
    assert scores["AP"] == pytest.approx(100)
    assert predict.scale_of(exported) == "n"


@pytest.mark.parametrize(
    "name, scale", [("yolov12m.onnx", "m"), ("yolo12x_openvino_model", "x"), ("yolo11n.onnx", None)]
)
def test_scale_by_name(name, scale):
    assert predict.scale_of(name) == scale


def test_scale_of_a_file(talkative, tmp_path):
    shutil.copy(talkative, tmp_path / "best.pt")
    assert predict.scale_of(str(tmp_path / "best.pt")) == "n"
    for other in ("yolo11n", "yolov12n-turbo"):  # neither is in the paper's table
        YOLO(f"{other}.yaml").save(tmp_path / f"{other}.pt")
        assert predict.scale_of(str(tmp_path / f"{other}.pt")) is None


@pytest.mark.process
def test_as_a_command(talkative, small, tmp_path):
    """The table on the standard output, everything else beside it."""
    folder, write = small
    done = subprocess.run(
        ["yolov12", "coco", talkative, "--images", folder, "--annotations", write(), "--imgsz", "64", "--json", "--device", "cpu"],
        cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["detections"] > 0


def test_links_that_lead_back_end(tmp_path):
    """Each file once, although a link leads to the folder above it, and two lead to each other's."""
    for name in "a", "b":
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / f"{name}.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/beside").symlink_to(tmp_path / "b")
    (tmp_path / "b/beside").symlink_to(tmp_path / "a")
    assert sorted(path.name for path in ground_truth.images_in([tmp_path])) == ["a.png", "b.png"]
