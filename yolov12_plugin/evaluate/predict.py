"""Detections of a model by Ultralytics' validator, as COCO has them."""

import contextlib
import os
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ultralytics import YOLO
from ultralytics.data import YOLODataset
from ultralytics.models.yolo.detect import DetectionValidator

from yolov12_plugin.checkpoints.inspect import inspect
from yolov12_plugin.checkpoints.trust import check
from yolov12_plugin.deploy.runtimes.session import in_its_words
from yolov12_plugin.errors import CheckpointError, NotRunnable, first_line
from yolov12_plugin.evaluate.ground_truth import Images
from yolov12_plugin.images import listed
from yolov12_plugin.training.presets import SCALES


class Unlabelled(YOLODataset):
    """Images alone: nothing beside them is read, neither labels nor pixels that were cached, and nothing written."""

    img_path: Any

    def __init__(self, images: Images, **options: Any) -> None:
        super().__init__(images, **options)
        self.npy_files = [Path(os.devnull) / "none.npy"] * self.ni

    def get_img_files(self, img_path: Any) -> list[str]:
        return [str(path) for path, _ in img_path.values()]

    def get_labels(self) -> list[dict[str, Any]]:
        none = {"cls": np.zeros((0, 1), np.float32), "bboxes": np.zeros((0, 4), np.float32), "segments": []}
        form = {"keypoints": None, "normalized": True, "bbox_format": "xywh"}
        return [{"im_file": str(path), "shape": shape, **none, **form} for path, shape in self.img_path.values()]


class Detections(DetectionValidator):
    """Ultralytics' validator, over images without labels, that keeps its detections as COCO has them."""

    images: Images
    map_names: Callable[[dict[int, str]], dict[int, Any]]
    jdict: Any
    data: Any
    cut_short = 0  # batches
    interrupted: KeyboardInterrupt | None = None

    def build_dataset(self, img_path: str, mode: str = "val", batch: int | None = None) -> Any:
        args: Any = self.args
        about: dict[str, Any] = {"hyp": args, "imgsz": args.imgsz, "rect": args.rect, "stride": self.stride}
        return Unlabelled(self.images, batch_size=batch, augment=False, pad=0.5, data=self.data, task="detect", **about)

    def init_metrics(self, model: Any) -> None:
        super().init_metrics(model)
        self.category = self.map_names(model.names)
        self.image_id = {str(path): i for i, (path, _) in self.images.items()}

    def pred_to_json(self, predn: dict[str, Any], pbatch: dict[str, Any]) -> None:
        boxes = predn["bboxes"].clone()
        boxes[:, 2:] -= boxes[:, :2]  # (n, 4) as x, y, width, height
        image = {"image_id": self.image_id[str(pbatch["im_file"])]}
        for box, confidence, label in zip(boxes.tolist(), predn["conf"].tolist(), predn["cls"].tolist()):
            if (category := self.category.get(int(label))) is not None:
                found = {"bbox": [round(side, 3) for side in box], "score": round(confidence, 5)}
                self.jdict.append(image | {"category_id": category} | found)

    def postprocess(self, preds: Any) -> Any:
        begin = time.perf_counter()
        found: Any = super().postprocess(preds)
        # Ultralytics' suppression gives up after this time, and leaves the rest of the batch without detections.
        self.cut_short += time.perf_counter() - begin > 2.0 + 0.05 * len(found)
        return found

    def finalize_metrics(self) -> None:
        self.args.save_json = False  # they are written, and scored, by the caller


def predict(
    model: str,
    images: Images,
    map_names: Callable[[dict[int, str]], dict[int, Any]],
    arguments: dict[str, Any],
    keep: bool = False,
) -> Detections:
    """A validator that has been through every image, or those before it was `interrupted`.

    With `keep` it has a folder of Ultralytics' runs.

    Raises:
        CheckpointError: the model holds what would be executed.
        NotRunnable: it does not load, is none for boxes, or does not run.
    """
    try:
        check(model)
        net: Any = YOLO(model)
        if net.task != "detect":
            raise NotRunnable(f"{model} is a model for {net.task}; boxes are scored of task detect alone")
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "images.yaml"  # a formality: Ultralytics' validation begins with such a file
            data.write_text(yaml.safe_dump({"path": folder, "train": ".", "val": ".", "names": ["object"]}))
            args = {
                **net.overrides,
                "rect": True,
                **in_its_words(arguments),
                "mode": "val",
                "data": str(data),
                "split": "val",
            }
            args |= {"plots": False, "save_json": True}
            place = None if keep else Path(folder)
            validator = Detections(save_dir=place, args=args, _callbacks=net.callbacks)
            validator.images, validator.map_names = images, map_names
            try:
                validator(model=net.model)
            except KeyboardInterrupt as e:  # what it found is not lost
                validator.interrupted = e
    except (NotRunnable, CheckpointError):
        raise
    except Exception as e:  # of Ultralytics, PyTorch or a runtime, in many classes and lines
        raise NotRunnable(f"{model} cannot be evaluated: {type(e).__name__}: {first_line(e)}") from e
    return validator


def map_categories(
    names: dict[int, str], categories: list[dict[str, Any]], by: str, report: Callable[[str], None]
) -> dict[int, Any]:
    """Class of the model -> id of the category that it is; classes that are none are left out.

    Raises:
        NotRunnable: no category is a class of the model, or two are the same one.
    """
    shown = f"the model has {len(names)} classes ({listed(names.values())}), the annotations {len(categories)} " + (
        f"categories ({listed(c['name'] for c in categories)})"
    )
    if by != "id":
        by_name: dict[str, list[Any]] = defaultdict(list)
        for category in categories:
            by_name[plain(category["name"])].append(category["id"])
        fits = {i: by_name[plain(name)] for i, name in names.items() if plain(name) in by_name}
        if twice := next((names[i] for i, found in fits.items() if len(found) > 1), None):
            raise NotRunnable(f"two categories have the name {twice!r}: map them by id")
        if fits:
            known = {plain(names[i]) for i in fits}
            if unknown := [c["name"] for c in categories if plain(c["name"]) not in known]:
                report(f"{len(unknown)} categories are no class of the model, and never found: {listed(unknown)}")
            return {i: found[0] for i, found in fits.items()}
        if by == "name":
            raise NotRunnable(f"no category has the name of a class: {shown}")
    title = {category["id"]: str(category["name"]) for category in categories}
    ids = sorted(title, key=lambda i: (isinstance(i, str), i))
    if len(ids) == len(names):
        mapped = dict(zip(sorted(names), ids))
    elif by == "id" and set(ids) <= set(names):
        mapped = {i: i for i in ids}
    else:
        raise NotRunnable(f"the categories are not those of the model: {shown}")
    pairs = listed(f"class {i} ({names[i]}) is category {id_} ({title[id_]})" for i, id_ in mapped.items())
    report(f"classes and categories are matched by their ids: {pairs}")
    return mapped


def plain(name: Any) -> str:
    return re.sub(r"[\s_-]+", " ", str(name)).strip().casefold()


def scale_of(model: str) -> str | None:
    """The scale of a YOLOv12 as the paper has it, by its tensors, or by its name where it is exported."""
    if model.endswith(".pt"):
        with contextlib.suppress(CheckpointError, OSError):
            found = inspect(model)
            return found["scale"] if found["release"] == "v1.0" and found["scale"] in SCALES else None
    name = re.match(r"yolov?12([nsmlx])(?![a-z]|-(seg|cls|pose|obb|turbo))", Path(model).name, re.IGNORECASE)
    return name[1].lower() if name else None
