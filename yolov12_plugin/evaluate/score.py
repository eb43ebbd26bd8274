"""AP of a detector on any COCO-format ground truth, by pycocotools (paper, Table 6)."""

import contextlib
import io
import json
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from yolov12_plugin.errors import NotRunnable, first_line
from yolov12_plugin.evaluate.ground_truth import Box, check_images, find_images, only, read_annotations
from yolov12_plugin.evaluate.predict import map_categories, predict
from yolov12_plugin.files import check_place, write_text
from yolov12_plugin.process import undisturbed

METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")  # the order of COCOeval.stats


AGREEMENT = 1e-6


@undisturbed()
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
        KeyboardInterrupt: it was interrupted; what was detected by then is written, and said.
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
        write_text(file, json.dumps(boxes))
    except OSError as e:
        problem = f"the detections could not be written to {file}: {e.strerror}"
    if validator.interrupted:
        kept = (
            problem
            or f"{len(boxes)} detections, of the first {validator.seen} of {len(readable)} images, are in {file}"
        )
        raise type(validator.interrupted)(kept) from validator.interrupted
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


def score(truth: dict[str, Any], detections: list[Box], report: Callable[[str], None]) -> dict[str, Any]:
    """`METRICS` in % by pycocotools; faster-coco-eval, where it is installed, must agree to `AGREEMENT` of 1.

    Args:
        truth: what `read_annotations` made of a COCO file.
        detections: boxes in COCO's format.
        report: takes what a reader of the scores must know.
    """
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
