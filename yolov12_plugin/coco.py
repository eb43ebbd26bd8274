"""AP of a detector on any COCO-format ground truth, by pycocotools (paper, Table 6)."""

import contextlib
import gzip
import io
import json
import math
import os
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from ultralytics import YOLO
from ultralytics.data import YOLODataset
from ultralytics.data.utils import IMG_FORMATS, check_det_dataset
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import NUM_THREADS
from ultralytics.utils.patches import imread

from yolov12_plugin.checkpoints import inspect
from yolov12_plugin.errors import NotRunnable, check_place, first_line
from yolov12_plugin.presets import SCALES
from yolov12_plugin.safe_load import CheckpointError

METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")  # the order of COCOeval.stats
AGREEMENT = 1e-6
SPLITS = ("train", "val", "test")
Box = dict[str, Any]  # an annotation or a detection of a COCO file
Images = dict[Any, tuple[Path, tuple[int, int]]]  # image id -> (file, (height, width))


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
    """Predict the annotated ones of `images` by Ultralytics' validator, keep the detections, and score them.

    Args:
        model: what `YOLO` loads, exported files too.
        annotations: ground truth in COCO's format; images are found by file name, wherever they are.
        categories: how the model's classes are those of the file: `name`, `id`, or `auto`, by name where any is equal.
        detections: the file to write; by default `detections.json` in a new folder of Ultralytics' runs.
        report: takes what a reader of the scores must know, line by line.
        arguments: of Ultralytics' validation, as `imgsz`, `batch`, `device`, `conf`, `iou`, `max_det`.

    Returns:
        `METRICS` in %, and what they are of: images, missing, unreadable, annotations, detections, arguments as they
        were used, evaluators; `file`, or None and why in `not_written`, where the scores are all that there is.

    Raises:
        NotRunnable: the ground truth, the categories, the images or the model do not serve; one line says which.
        OSError: a file that is given is not there.
    """
    if find_spec("pycocotools") is None:
        raise NotRunnable("pycocotools is not installed: pip install pycocotools")
    if detections is not None:
        check_place(detections)
        if detections.exists() and annotations.exists() and detections.samefile(annotations):
            raise NotRunnable(f"{detections} is the ground truth: name another file for the detections")
    truth = read_annotations(annotations, report)
    found = find_images(truth, images, annotations, report)
    readable, unreadable = check_images(truth, found, report)
    truth = only(truth, set(readable))
    if not truth["annotations"]:
        raise NotRunnable(f"{annotations}: the images that were found have no annotations; nothing can be scored")

    def map_names(names: dict[int, str]) -> dict[int, Any]:
        return map_categories(names, truth["categories"], categories, report)

    validator = predict(model, readable, map_names, arguments, keep=detections is None)
    if validator.cut_short:
        report(
            f"suppression ran out of Ultralytics' time in {validator.cut_short} batches, so detections are missing and "
            "the scores too low; take a smaller batch, or a higher conf"
        )
    boxes: list[Box] = validator.jdict
    file, problem = detections or Path(validator.save_dir) / "detections.json", None
    try:
        write(file, json.dumps(boxes))
    except OSError as e:
        problem = f"the detections could not be written to {file}: {e.strerror}"
    if not boxes:
        report(f"{model} detects nothing in these images that is one of the categories")
    scores = score(truth, boxes, report) if boxes else dict.fromkeys(METRICS, 0.0) | {"evaluators": []}
    used = {key: getattr(validator.args, key, None) for key in ("imgsz", "batch", "conf", "iou", "max_det")}
    return scores | {
        "images": len(readable),
        "missing": sum(path is None for path in found.values()),
        "unreadable": [str(path) for path in unreadable],
        "annotations": len(truth["annotations"]),
        "detections": len(boxes),
        "arguments": used,
        "file": None if problem else str(file),
        "not_written": problem,
    }


def write(file: Path, text: str) -> None:
    """Write a file whole, or leave what is there."""
    if file.exists() and not file.is_file():  # a device
        file.write_text(text, encoding="utf-8")
        return
    part = file.with_name(f"{file.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def read_annotations(file: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """What is scored of a COCO file, plain or gzipped; annotations that cannot be are left out and said.

    Raises:
        NotRunnable: not such a file, or nothing is left.
    """
    content = file.read_bytes()
    try:
        text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        truth = json.loads(text.decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, EOFError, gzip.BadGzipFile) as e:
        raise NotRunnable(f"{file} is no JSON ({first_line(e)}); it must be ground truth in COCO's format") from e
    parts = ("images", "annotations", "categories")
    if not isinstance(truth, dict) or not all(isinstance(truth.get(part), list) for part in parts):
        raise NotRunnable(f"{file} is no ground truth in COCO's format: it needs lists of {', '.join(parts)}")
    if empty := [part for part in parts if not truth[part]]:
        raise NotRunnable(f"{file} has no {empty[0]}; nothing can be scored")
    for part, name in ("images", "file_name"), ("categories", "name"):
        for i, entry in enumerate(truth[part]):
            if not isinstance(entry, dict) or not is_id(entry.get("id")) or entry.get(name) in (None, ""):
                raise NotRunnable(f"{file}: entry {i} of {part} has no id or no {name}: {str(entry)[:80]}")
        ids = Counter(entry["id"] for entry in truth[part])
        if twice := [i for i, n in ids.items() if n > 1]:
            raise NotRunnable(f"{file}: {part} have the id {twice[0]} more than once")
    images = {image["id"] for image in truth["images"]}
    known = {category["id"] for category in truth["categories"]}

    kept: list[Box] = []
    wrong: dict[str, list[Any]] = defaultdict(list)
    for i, box in enumerate(truth["annotations"]):
        if reason := unusable(box, images, known):
            wrong[reason].append(box.get("id", i) if isinstance(box, dict) else i)
            continue
        x, y, w, h = box["bbox"]
        # COCO's evaluation needs both; boxes without masks come without them from many tools.
        area = box["area"] if is_number(box.get("area")) else w * h
        crowd = int(box.get("iscrowd") in (1, True, "1"))
        about = {"id": len(kept) + 1, "image_id": box["image_id"], "category_id": box["category_id"]}
        kept.append(about | {"bbox": [x, y, w, h], "area": area, "iscrowd": crowd})
    for reason, boxes in wrong.items():
        report(f"{file}: {len(boxes)} annotations are left out, as {reason} (first: annotation {boxes[0]})")
    if not kept:
        raise NotRunnable(f"{file} has no annotation that can be scored")
    if all(box["iscrowd"] for box in kept):
        raise NotRunnable(f"{file}: every annotation is of a crowd, which COCO does not score")
    return {"images": truth["images"], "categories": truth["categories"], "annotations": kept}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_id(value: Any) -> bool:
    return isinstance(value, str) or is_number(value)


def unusable(box: Any, images: set, categories: set) -> str | None:
    """Why an annotation cannot be scored."""
    if not isinstance(box, dict) or not is_id(box.get("image_id")) or box["image_id"] not in images:
        return "their image_id is none of the images"
    if not is_id(box.get("category_id")) or box["category_id"] not in categories:
        return "their category_id is none of the categories"
    sides = box.get("bbox")
    if not isinstance(sides, list) or len(sides) != 4 or not all(isinstance(side, int | float) for side in sides):
        return "their bbox is not [x, y, width, height]"
    if not all(map(is_number, sides)) or sides[2] < 0 or sides[3] < 0:
        return "their bbox is negative or not finite"
    return None


def find_images(
    truth: dict[str, Any], images: Iterable[Path], annotations: Path, report: Callable[[str], None]
) -> dict[Any, Path | None]:
    """Annotated image -> its file, None where it is missing.

    A file has the whole of its annotated name at its end, or that name in another folder, or at least its stem.

    Raises:
        NotRunnable: none is there, or a name fits several files.
    """
    files = sorted({path.absolute() for path in images})
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        by_stem[path.stem].append(path)
    names = {image["id"]: PurePosixPath(str(image["file_name"]).replace("\\", "/")) for image in truth["images"]}
    fits: tuple[Callable[[Path, PurePosixPath], bool], ...] = (
        lambda path, name: path.parts[-len(name.parts) :] == name.parts,
        lambda path, name: path.name == name.name,
        lambda path, name: True,
    )
    found: dict[Any, Path | None] = dict.fromkeys(names)
    claimed: set[Path] = set()
    for fit in fits:  # the closest first, so that no other image takes a file
        for i, name in names.items():
            if found[i] is not None:
                continue
            here = [path for path in by_stem.get(name.stem, ()) if path not in claimed and fit(path, name)]
            if len(here) > 1:
                raise NotRunnable(
                    f"{annotations}: image {name} may be {here[0]} or {here[1]}; name one folder of images"
                )
            if here:
                found[i] = here[0]
        claimed = {path for path in found.values() if path is not None}
        if len(claimed) < sum(path is not None for path in found.values()):
            twice = Counter(path for path in found.values() if path is not None).most_common(1)[0][0]
            raise NotRunnable(f"{annotations}: two images may be {twice}; name a folder that has both")
    missing = [str(names[i]) for i, path in found.items() if path is None]
    if len(missing) == len(found):
        raise NotRunnable(
            f"none of the {len(found)} images of {annotations} is among the {len(files)} given (first: {missing[0]})"
        )
    if missing:
        report(
            f"{len(missing)} of {len(found)} annotated images are missing (first: {missing[0]}); "
            "the scores are of the others alone"
        )
    if extra := len(files) - len(claimed):
        report(f"{extra} images have no entry in {annotations} and are left out")
    return found


def check_images(
    truth: dict[str, Any], found: dict[Any, Path | None], report: Callable[[str], None]
) -> tuple[Images, list[Path]]:
    """Readable images, id -> (file, (height, width)), and the files that are not.

    Raises:
        NotRunnable: no image is readable.
    """

    def shape(path: Path) -> tuple[int, int] | None:
        try:
            image = imread(str(path))  # as Ultralytics will: what else it accepts of a torn file is its own affair
        except Exception:
            return None
        return None if image is None else image.shape[:2]

    # In the order of Ultralytics' own datasets, by which it makes batches of one shape.
    paths = dict(sorted(((i, p) for i, p in found.items() if p is not None), key=lambda entry: str(entry[1])))
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        shapes = dict(zip(paths, pool.map(shape, paths.values())))
    unreadable = [paths[i] for i, hw in shapes.items() if hw is None]
    readable = {i: (paths[i], hw) for i, hw in shapes.items() if hw is not None}
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
    """A validator that has been through every image; with `keep` it has a folder of Ultralytics' runs.

    Raises:
        NotRunnable: the model does not load, is none for boxes, or does not run.
    """
    try:
        net: Any = YOLO(model)
        if net.task != "detect":
            raise NotRunnable(f"{model} is a model for {net.task}; boxes are scored of task detect alone")
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "images.yaml"  # a formality: Ultralytics' validation begins with such a file
            data.write_text(yaml.safe_dump({"path": folder, "train": ".", "val": ".", "names": ["object"]}))
            args = {**net.overrides, "rect": True, **arguments, "mode": "val", "data": str(data), "split": "val"}
            args |= {"plots": False, "save_json": True}
            place = None if keep else Path(folder)
            validator = Detections(save_dir=place, args=args, _callbacks=net.callbacks)
            validator.images, validator.map_names = images, map_names
            validator(model=net.model)
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


def listed(names: Iterable[Any]) -> str:
    first = [str(name) for name in names]
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")


def score(truth: dict[str, Any], detections: list[Box], report: Callable[[str], None]) -> dict[str, Any]:
    """`METRICS` in % by pycocotools; faster-coco-eval, where it is installed, must agree to `AGREEMENT` of 1."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # Both want integers for ids, which COCO's format does not ask for; the order stays.
    number = {part: {entry["id"]: n for n, entry in enumerate(truth[part], 1)} for part in ("images", "categories")}

    def numbered(box: Box) -> Box:
        ids = {"image_id": number["images"][box["image_id"]], "category_id": number["categories"][box["category_id"]]}
        return {**box, **ids}

    def stats(coco: type, evaluation: type) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            ground = coco()
            ground.dataset = {part: [{"id": n} for n in number[part].values()] for part in number}
            ground.dataset |= {"info": {}, "annotations": [numbered(box) for box in truth["annotations"]]}
            ground.createIndex()
            result = evaluation(ground, ground.loadRes([numbered(box) for box in detections]), "bbox")
            for step in (result.evaluate, result.accumulate, result.summarize):
                step()
        return np.array(result.stats[: len(METRICS)], dtype=float)

    values = stats(COCO, COCOeval)
    about: dict[str, Any] = {"evaluators": ["pycocotools"]}
    if find_spec("faster_coco_eval") is not None:
        try:
            from faster_coco_eval import COCO as FasterCOCO
            from faster_coco_eval import COCOeval_faster

            difference = float(np.abs(values - stats(FasterCOCO, COCOeval_faster)).max())
        except Exception as e:  # a second opinion, which must not cost the first
            report(f"faster-coco-eval does not run: {type(e).__name__}: {first_line(e)}")
        else:
            about |= {"evaluators": ["pycocotools", "faster-coco-eval"], "difference": difference}
            if not difference <= AGREEMENT:
                report(f"faster-coco-eval differs from pycocotools by {difference:.1e}; pycocotools' scores are shown")
    # pycocotools gives -1 where no object of a size is annotated.
    return {name: 100 * value if value >= 0 else None for name, value in zip(METRICS, values.tolist())} | about


def images_of(data: str, split: str, annotations: Path | None = None) -> tuple[list[Path], Path]:
    """Images of a split of an Ultralytics dataset YAML, and the COCO file, given or found by its name.

    Raises:
        NotRunnable: the dataset or such a file is not there.
    """
    if split not in SPLITS:
        raise NotRunnable(f"no split {split!r}; splits are {', '.join(SPLITS)}")
    try:
        dataset = check_det_dataset(data, autodownload=False)
    except Exception as e:
        raise NotRunnable(f"{data}: {first_line(e)}") from e
    places = dataset.get(split)
    if not places:
        raise NotRunnable(f"{data} has no split {split!r}")
    places = [Path(place) for place in (places if isinstance(places, list) else [places])]
    root, export = Path(dataset["path"]), "_annotations.coco.json"  # as Roboflow names it
    names = dict.fromkeys([f"instances_{places[0].stem}.json", f"instances_{split}.json"])
    candidates = [folder / name for folder in (root / "annotations", root) for name in names]
    candidates += [places[0] / export, places[0].parent / export]
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
            inside = (Path(folder) / name for folder, _, names in os.walk(place, followlinks=True) for name in names)
            found += [path for path in inside if path.suffix[1:].lower() in IMG_FORMATS]
        elif place.is_file() and place.suffix == ".txt":
            lines = place.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            listed_paths = [Path(line.strip()) for line in lines if line.strip()]
            beside = [path if path.is_file() else place.parent / path for path in listed_paths]
            found += [path for path in beside if path.is_file()]
        else:
            raise NotRunnable(f"{place} is no folder of images, and no .txt that lists them")
    if not found:
        raise NotRunnable(f"there are no images in {listed(places)}")
    return found


def scale_of(model: str) -> str | None:
    """The scale of a YOLOv12 as the paper has it, by its tensors, or by its name where it is exported."""
    if model.endswith(".pt"):
        with contextlib.suppress(CheckpointError, OSError):
            found = inspect(model)
            return found["scale"] if found["release"] == "v1.0" and found["scale"] in SCALES else None
    name = re.match(r"yolov?12([nsmlx])(?![a-z]|-(seg|cls|pose|obb|turbo))", Path(model).name, re.IGNORECASE)
    return name[1].lower() if name else None
