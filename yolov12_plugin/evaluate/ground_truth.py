"""Ground truth in COCO's format, and the images that it annotates."""

import gzip
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import NUM_THREADS
from ultralytics.utils.patches import imread

from yolov12_plugin.errors import NotRunnable, first_line
from yolov12_plugin.images import images_in

SPLITS = ("train", "val", "test")


Box = dict[str, Any]  # an annotation or a detection of a COCO file


Images = dict[Any, tuple[Path, tuple[int, int]]]  # image id -> (file, (height, width))


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
            if len({os.path.realpath(path) for path in here}) > 1:
                raise NotRunnable(
                    f"{annotations}: image {name} may be {here[0]} or {here[1]}; name one folder of images"
                )
            if here:
                found[i] = min(here, key=os.path.islink)
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
    if extra := {*map(os.path.realpath, files)} - {*map(os.path.realpath, claimed)}:
        report(f"{len(extra)} images have no entry in {annotations} and are left out")
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
        raise NotRunnable(f"{data} has no {candidates[0]}: name its COCO file as annotations=FILE")
    return images_in(places), annotations
