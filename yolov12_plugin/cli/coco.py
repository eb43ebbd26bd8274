"""`yolov12 coco`."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from yolov12_plugin.cli.common import Device, Json, Pixels, Trust, one_line, say, to_json, trusting


class Categories(str, Enum):
    auto = "auto"
    name = "name"
    id = "id"


def coco(
    model: Annotated[str, typer.Argument(help="A .pt file, or an exported file.")],
    data: Annotated[
        str | None, typer.Option(help="A dataset YAML, in whose folder the COCO file is looked for.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of --data.")] = "val",
    images: Annotated[Path | None, typer.Option(help="A folder of images, or a .txt that lists them.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="Ground truth in COCO's format.")] = None,
    categories: Annotated[Categories, typer.Option(help="How to match classes with categories.")] = Categories.auto,
    imgsz: Pixels = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 16,
    device: Device = None,
    half: Annotated[bool, typer.Option("--half", help="Run in FP16.")] = False,
    conf: Annotated[float, typer.Option(min=0, max=1, help="Least confidence of a detection.")] = 0.001,
    iou: Annotated[float, typer.Option(min=0, max=1, help="Overlap (IoU) above which a box is suppressed.")] = 0.7,
    max_det: Annotated[int, typer.Option(min=1, help="Most detections in an image.")] = 300,
    trust: Trust = False,
    out: Annotated[
        Path | None, typer.Option(help="File for the detections, as JSON (default: in a new folder of runs).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute the AP of a detector by pycocotools, on ground truth in COCO's format, beside the paper's Table 6."""
    from yolov12_plugin.errors import NotRunnable
    from yolov12_plugin.evaluate.ground_truth import images_of
    from yolov12_plugin.evaluate.predict import scale_of
    from yolov12_plugin.evaluate.score import METRICS, evaluate
    from yolov12_plugin.images import images_in
    from yolov12_plugin.published import table6
    from yolov12_plugin.show.view import View

    options = {"imgsz": imgsz, "device": device} | ({"half": True} if half else {})
    with one_line(), trusting(trust):
        if data is not None and images is None:
            found, beside = images_of(data, split, annotations)
        elif data is None and images is not None and annotations is not None:
            found, beside = images_in([images]), annotations
        else:
            raise NotRunnable("name the images by --data, or by --images and --annotations")
        scale = scale_of(model)
        scores = evaluate(
            model,
            found,
            beside,
            categories=categories.value,
            detections=out,
            report=say,
            batch=batch,
            conf=conf,
            iou=iou,
            max_det=max_det,
            **{key: value for key, value in options.items() if value is not None},
        )
    paper = dict(zip(METRICS, table6(scale))) if scale is not None else None
    if as_json:
        typer.echo(to_json(scores | {"model": model, "paper": paper}))
    else:
        rows: list[dict[str, Any]] = [{"of": f"YOLOv12-{scale.upper()} (paper)", **paper}] if scale and paper else []
        rows.append({"of": Path(model).name, **{m: scores[m] and round(scores[m], 1) for m in METRICS}})
        title = f"AP (%) of {scores['images']} images, {scores['annotations']} objects"
        View(title, {"of": "", **{m: m.replace("_", " ") for m in METRICS}}, rows).print()
    if scores["not_written"]:
        typer.echo(f"Error: {scores['not_written']}; name {'another' if out else 'an'} --out", err=True)
        raise typer.Exit(2)
    if not as_json:
        typer.echo(f"{scores['detections']} detections: {scores['file']}")
