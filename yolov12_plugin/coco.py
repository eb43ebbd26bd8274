"""AP of a detector on any COCO-format ground truth, by pycocotools (paper, Table 6)."""

import contextlib
import io
import json
import math
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from PIL import Image
from ultralytics import YOLO
from ultralytics.data import YOLODataset
from ultralytics.data.utils import IMG_FORMATS, check_det_dataset, exif_size
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import NUM_THREADS

from yolov12_plugin.benchmark.errors import NotRunnable, first_line
from yolov12_plugin.checkpoints import inspect
from yolov12_plugin.safe_load import CheckpointError

METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")  # the order of COCOeval.stats
AGREEMENT = 1e-6
Boxes = dict[str, Any]  # an annotation or a detection of a COCO file
Found = dict[Any, tuple[Path, tuple[int, int]]]  # image id -> (file, (height, width))


def evaluate(
    model: str,
    images: Iterable[Path],
    annotations: Path,
    *,
    categories: str = "auto",
    detections: Path | None = None,
    report: Callable[[str], None] = print,
    **arguments: Any,
) -> dict[str, Any]:
    """Predict the annotated ones of `images` by Ultralytics' validator, score them, and write the detections.

    Args:
        model: what `YOLO` loads, exported files too.
        annotations: ground truth in COCO's format; images are found by file name, wherever they are.
        categories: how the model's classes are those of the file: `name`, `id`, or `auto`, by name where any is equal.
        detections: the file to write; by default `detections.json` in a new folder of Ultralytics' runs.
        report: takes what a reader of the scores must know, line by line.
        arguments: of Ultralytics' validation, as `imgsz`, `batch`, `device`, `conf`, `iou`, `max_det`.

    Returns:
        `METRICS` in %, and what they are of: images, missing, unreadable, annotations, detections, file, evaluators.

    Raises:
        NotRunnable: the ground truth, the categories, all images or the model do not serve; one line says which.
        OSError: the detections could not be written; `scores` of the exception has what would have been returned.
    """
    if find_spec("pycocotools") is None:
        raise NotRunnable("pycocotools is not installed: pip install pycocotools")
    truth = read_annotations(annotations, report)
    found = find_images(truth, images, annotations, report)
    readable, unreadable = check_images(truth, found, report)
    truth = only(truth, set(readable))
    if not truth["annotations"]:
        raise NotRunnable(f"{annotations}: the images that were found have no annotations; nothing can be scored")

    def map_names(names: dict[int, str]) -> dict[int, Any]:
        return map_categories(names, truth["categories"], categories, report)

    validator = predict(model, readable, map_names, arguments)
    jdict, folder = validator.jdict, Path(validator.save_dir)
    if validator.cut_short:
        report(
            f"suppression ran out of Ultralytics' time in {validator.cut_short} batches, so detections are missing and "
            "the scores too low; take a smaller batch, or a higher conf"
        )
    scores = score(truth, jdict, report) if jdict else dict.fromkeys(METRICS, 0.0) | {"evaluators": []}
    if not jdict:
        report(f"{model} detects nothing in these images")
    file = detections or folder / "detections.json"
    scores |= {
        "images": len(readable),
        "missing": len(found) - sum(path is not None for path in found.values()),
        "unreadable": [str(path) for path in unreadable],
        "annotations": len(truth["annotations"]),
        "detections": len(jdict),
        "file": str(file),
    }
    try:
        file.write_text(json.dumps(jdict), encoding="utf-8")
    except OSError as e:
        e.scores = scores  # type: ignore[attr-defined]
        raise
    return scores


def read_annotations(file: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """A COCO file whose every annotation names an image, a category and a box; what does not is left out and said.

    Raises:
        NotRunnable: not such a file, or nothing is left.
    """
    try:
        truth = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as e:
        raise NotRunnable(f"{file} is no JSON ({first_line(e)}); it must be ground truth in COCO's format") from e
    parts = ("images", "annotations", "categories")
    if not isinstance(truth, dict) or not all(isinstance(truth.get(part), list) for part in parts):
        raise NotRunnable(f"{file} is no ground truth in COCO's format: it needs lists of {', '.join(parts)}")
    if empty := [part for part in parts if not truth[part]]:
        raise NotRunnable(f"{file} has no {empty[0]}; nothing can be scored")
    try:
        for part in "images", "categories":
            ids = Counter(entry["id"] for entry in truth[part])
            if twice := [i for i, n in ids.items() if n > 1]:
                raise NotRunnable(f"{file}: {part} have the id {twice[0]} more than once")
        images = {image["id"] for image in truth["images"] if image["file_name"]}
        known = {category["id"] for category in truth["categories"] if isinstance(category["name"], str)}
    except (KeyError, TypeError) as e:
        raise NotRunnable(
            f"{file}: an entry of images has no id or file_name, or one of categories no id or name"
        ) from e

    kept: list[Boxes] = []
    wrong: dict[str, list[Any]] = defaultdict(list)
    for i, box in enumerate(truth["annotations"]):
        if reason := unusable(box, images, known):
            wrong[reason].append(box.get("id", i) if isinstance(box, dict) else i)
            continue
        x, y, w, h = box["bbox"]
        # COCO's own evaluation needs these; boxes without masks come without them from many tools.
        kept.append({"area": w * h, "iscrowd": 0} | box | {"id": len(kept) + 1, "bbox": [x, y, w, h]})
    for reason, boxes in wrong.items():
        report(f"{file}: {len(boxes)} annotations are left out, as {reason} (first: annotation {boxes[0]})")
    if not kept:
        raise NotRunnable(f"{file} has no annotation that can be scored")
    return {"info": {}, **truth, "annotations": kept}


def unusable(box: Any, images: set, categories: set) -> str | None:
    """Why an annotation cannot be scored."""
    if not isinstance(box, dict) or box.get("image_id") not in images:
        return "their image_id is none of the images"
    if box.get("category_id") not in categories:
        return "their category_id is none of the categories"
    sides = box.get("bbox")
    if not isinstance(sides, list) or len(sides) != 4 or not all(isinstance(s, int | float) for s in sides):
        return "their bbox is not [x, y, width, height]"
    if not all(map(math.isfinite, sides)) or sides[2] < 0 or sides[3] < 0:
        return "their bbox is negative or not finite"
    return None


def find_images(
    truth: dict[str, Any], images: Iterable[Path], annotations: Path, report: Callable[[str], None]
) -> dict[Any, Path | None]:
    """Annotated image -> its file, None where it is missing.

    Raises:
        NotRunnable: none is there, or a name fits several files.
    """
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(set(images)):
        by_stem[path.stem].append(path)
    files = sum(map(len, by_stem.values()))
    found: dict[Any, Path | None] = {}
    for image in truth["images"]:
        name = Path(image["file_name"])
        fit = by_stem.get(name.stem, [])
        if len(fit) > 1:
            whole = [path for path in fit if path.as_posix().endswith(f"/{name.as_posix()}")]
            fit = whole or [path for path in fit if path.name == name.name]
        if len(fit) > 1:
            raise NotRunnable(f"{annotations}: image {name} may be {fit[0]} or {fit[1]}; name one folder of images")
        found[image["id"]] = fit[0] if fit else None
    missing = [image["file_name"] for image in truth["images"] if found[image["id"]] is None]
    if len(missing) == len(found):
        raise NotRunnable(
            f"none of the {len(found)} images of {annotations} is among the {files} given (first: {missing[0]})"
        )
    if missing:
        report(
            f"{len(missing)} of {len(found)} annotated images are missing (first: {missing[0]}); "
            "the scores are of the others alone"
        )
    if extra := files - (len(found) - len(missing)):
        report(f"{extra} images have no entry in {annotations} and are left out")
    return found


def check_images(
    truth: dict[str, Any], found: dict[Any, Path | None], report: Callable[[str], None]
) -> tuple[Found, list[Path]]:
    """Readable images, id -> (file, (height, width)), and the files that are not.

    Raises:
        NotRunnable: no image is readable.
    """

    def size(path: Path) -> tuple[int, int] | None:
        try:
            with Image.open(path) as image:
                width, height = exif_size(image)
            # Its eighth is quick to decode, and says whether the whole can be.
            return (height, width) if cv2.imread(str(path), cv2.IMREAD_REDUCED_GRAYSCALE_8) is not None else None
        except Exception:
            return None

    # In the order of Ultralytics' own datasets, by which it makes batches of one shape.
    paths = dict(sorted(((i, p) for i, p in found.items() if p is not None), key=lambda entry: str(entry[1])))
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        sizes = dict(zip(paths, pool.map(size, paths.values())))
    unreadable = [paths[i] for i, hw in sizes.items() if hw is None]
    readable = {i: (paths[i], hw) for i, hw in sizes.items() if hw is not None}
    if not readable:
        raise NotRunnable(f"none of the {len(paths)} images can be read (first: {unreadable[0]})")
    if unreadable:
        names = ", ".join(str(path) for path in unreadable[:3])
        report(f"{len(unreadable)} images cannot be read, and the scores are of the others alone: {names}")
    said = {image["id"]: (image.get("height"), image.get("width")) for image in truth["images"]}
    other = [path for i, (path, hw) in readable.items() if None not in said[i] and said[i] != hw]
    if other:
        report(f"{len(other)} images have another size than annotated, so boxes may not fit (first: {other[0]})")
    return readable, unreadable


def only(truth: dict[str, Any], images: set) -> dict[str, Any]:
    """The ground truth of some of its images."""
    return truth | {
        "images": [image for image in truth["images"] if image["id"] in images],
        "annotations": [box for box in truth["annotations"] if box["image_id"] in images],
    }


class Images(YOLODataset):
    """Images alone, as id -> (file, (height, width)): no label file is read, and no cache is written beside them."""

    img_path: Any

    def get_img_files(self, img_path: Any) -> list[str]:
        return [str(path) for path, _ in img_path.values()]

    def get_labels(self) -> list[dict[str, Any]]:
        none = {"cls": np.zeros((0, 1), np.float32), "bboxes": np.zeros((0, 4), np.float32), "segments": []}
        form = {"keypoints": None, "normalized": True, "bbox_format": "xywh"}
        return [{"im_file": str(path), "shape": shape, **none, **form} for path, shape in self.img_path.values()]


class Detections(DetectionValidator):
    """Ultralytics' validator, over images without labels, that keeps its detections as COCO has them."""

    images: Found
    map_names: Callable[[dict[int, str]], dict[int, Any]]
    jdict: Any
    data: Any
    cut_short = 0  # batches

    def build_dataset(self, img_path: str, mode: str = "val", batch: int | None = None) -> Any:
        args: Any = self.args
        about: dict[str, Any] = {"hyp": args, "imgsz": args.imgsz, "rect": args.rect, "stride": self.stride}
        return Images(self.images, batch_size=batch, augment=False, pad=0.5, data=self.data, task="detect", **about)

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
    images: Found,
    map_names: Callable[[dict[int, str]], dict[int, Any]],
    arguments: dict[str, Any],
) -> Detections:
    """A validator that has been through every image."""
    net: Any = YOLO(model)
    if net.task != "detect":
        raise NotRunnable(f"{model} is a model for {net.task}; boxes are scored of task detect alone")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "images.yaml"  # a formality: Ultralytics' validation begins with such a file
        data.write_text(yaml.safe_dump({"path": folder, "train": ".", "val": ".", "names": ["object"]}))
        args = {**net.overrides, "rect": True, **arguments, "mode": "val", "data": str(data), "split": "val"}
        validator = Detections(args=args | {"plots": False, "save_json": True}, _callbacks=net.callbacks)
        validator.images, validator.map_names = images, map_names
        validator(model=net.model)
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
        mapped = {i: by_name[plain(name)] for i, name in names.items() if plain(name) in by_name}
        if twice := next((names[i] for i, found in mapped.items() if len(found) > 1), None):
            raise NotRunnable(f"two categories have the name {twice!r}: map them by id")
        if mapped:
            known = {plain(names[i]) for i in mapped}
            if unknown := [c["name"] for c in categories if plain(c["name"]) not in known]:
                report(f"{len(unknown)} categories are no class of the model, and never found: {listed(unknown)}")
            return {i: found[0] for i, found in mapped.items()}
        if by == "name":
            raise NotRunnable(f"no category has the name of a class: {shown}")
    ids = sorted(category["id"] for category in categories)
    if len(ids) == len(names):
        if by == "auto":
            report(f"no category has the name of a class, so they are taken in the order of their ids: {shown}")
        return dict(zip(sorted(names), ids))
    if by == "id" and set(ids) <= set(names):
        return {i: i for i in ids}
    raise NotRunnable(f"the categories are not those of the model: {shown}")


def plain(name: Any) -> str:
    return re.sub(r"[\s_-]+", " ", str(name)).strip().casefold()


def listed(names: Iterable[Any]) -> str:
    first = [str(name) for name in names]
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")


def score(truth: dict[str, Any], detections: list[Boxes], report: Callable[[str], None]) -> dict[str, Any]:
    """`METRICS` in % by pycocotools; with faster-coco-eval installed both must agree to `AGREEMENT` of 1."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def stats(coco: type, evaluation: type) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            ground = coco()
            ground.dataset = json.loads(json.dumps(truth))  # both add to what they get
            ground.createIndex()
            result = evaluation(ground, ground.loadRes([dict(box) for box in detections]), "bbox")
            for step in (result.evaluate, result.accumulate, result.summarize):
                step()
        return np.array(result.stats[: len(METRICS)], dtype=float)

    values, evaluators = stats(COCO, COCOeval), ["pycocotools"]
    if find_spec("faster_coco_eval") is not None:
        from faster_coco_eval import COCO as FasterCOCO
        from faster_coco_eval import COCOeval_faster

        evaluators.append("faster-coco-eval")
        difference = np.abs(values - stats(FasterCOCO, COCOeval_faster)).max()
        if not difference <= AGREEMENT:
            report(f"faster-coco-eval differs from pycocotools by {difference:.1e}; pycocotools' scores are shown")
    # pycocotools gives -1 where no object of a size is annotated.
    return {name: 100 * value if value >= 0 else None for name, value in zip(METRICS, values.tolist())} | {
        "evaluators": evaluators
    }


def images_of(data: str, split: str, annotations: Path | None = None) -> tuple[list[Path], Path]:
    """Images of a split of an Ultralytics dataset YAML, and the COCO file, given or found by its name.

    Raises:
        NotRunnable: the dataset or such a file is not there.
    """
    try:
        dataset = check_det_dataset(data, autodownload=False)
    except Exception as e:
        raise NotRunnable(f"{data}: {first_line(e)}") from e
    places = dataset.get(split)
    if not places:
        raise NotRunnable(f"{data} has no split {split!r}")
    places = [Path(place) for place in (places if isinstance(places, list) else [places])]
    root = Path(dataset["path"])
    names = dict.fromkeys([f"instances_{places[0].stem}.json", f"instances_{split}.json"])
    candidates = [folder / name for folder in (root / "annotations", root) for name in names]
    annotations = annotations or next((file for file in candidates if file.is_file()), None)
    if annotations is None:
        raise NotRunnable(f"{data} has no {candidates[0]}: name its COCO file by --annotations")
    return images_in(places), annotations


def images_in(places: Iterable[Path]) -> list[Path]:
    """Image files within folders, and those that text files list.

    Raises:
        NotRunnable: a place is neither, or there is no image.
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += [p for p in place.rglob("*") if p.suffix[1:].lower() in IMG_FORMATS]
        elif place.is_file() and place.suffix == ".txt":
            lines = place.read_text(encoding="utf-8").split()
            found += [place.parent / line if line.startswith("./") else Path(line) for line in lines]
        else:
            raise NotRunnable(f"{place} is no folder of images, and no .txt that lists them")
    if not found:
        raise NotRunnable(f"there are no images in {listed(places)}")
    return found


def scale_of(model: str) -> str | None:
    """The scale of a YOLOv12 by the file's own word, or by its name where it is exported; None of other models."""
    if model.endswith(".pt"):
        with contextlib.suppress(CheckpointError):
            return inspect(model)["scale"] or None
    name = re.search(r"yolov?12([nsmlx])", Path(model).name)
    return name[1] if name else None
