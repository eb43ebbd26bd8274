"""`yolov12 heatmap`."""

import math
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yolov12_plugin.cli.common import Device, Json, Pixels, Trust, one_line, say, status, to_json, trusting
from yolov12_plugin.errors import NotRunnable

if TYPE_CHECKING:
    from yolov12_plugin.explain.heatmap import Request


class Method(str, Enum):
    activation = "activation"
    eigencam = "eigencam"
    gradcam = "gradcam"
    attention = "attention"


def heatmap(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Names, .yaml or .pt files of any Ultralytics models.")
    ],
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="An image, a video, a folder, a glob, or a .txt that lists paths.")
    ],
    layer: Annotated[
        str | None,
        typer.Option(
            help="Index of the layer, or one for each model with commas (default: the backbone's third stage)."
        ),
    ] = None,
    method: Annotated[Method, typer.Option(help="What the maps show.")] = Method.activation,
    query: Annotated[
        str | None,
        typer.Option(
            help="X,Y of the point whose attention is shown, in pixels or as fractions (default: the centre)."
        ),
    ] = None,
    head: Annotated[int | None, typer.Option(min=0, help="Head of the attention (default: the mean of all).")] = None,
    block: Annotated[int | None, typer.Option(min=0, help="Attention within the layer (default: all).")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Classes that gradcam explains, by name or index, with commas (default: all).")
    ] = None,
    imgsz: Pixels = None,
    device: Device = None,
    stride: Annotated[int, typer.Option(min=1, help="Draw every n-th frame of a video.")] = 1,
    frames: Annotated[int, typer.Option(min=1, help="Most frames of a video to draw.")] = 50,
    trust: Trust = False,
    out: Annotated[Path, typer.Option(help="A .png file, or a folder for one .png of each image.")] = Path(
        "heatmap.png"
    ),
    as_json: Json = False,
) -> None:
    """Draw what a layer of each MODEL sees in SOURCE, side by side (Figure 5), or where a point attends to."""
    with one_line(), trusting(trust), status("heatmap ..."):
        from yolov12_plugin.explain.heatmap import heatmaps

        drawn = heatmaps(
            models,
            source,
            request=read_request(method.value, query, head, block, classes),
            layers=read_layers(layer),
            imgsz=imgsz,
            device=device,
            stride=stride,
            frames=frames,
            out=out,
            report=say,
        )
    typer.echo(to_json(drawn) if as_json else "\n".join(drawn["pictures"]))


def read_layers(layer: str | None) -> list[int]:
    try:
        return [int(part) for part in layer.split(",")] if layer is not None else []
    except ValueError as e:
        raise NotRunnable(f"--layer {layer!r} is no index: give a number, or one for each model") from e


def read_request(method: str, query: str | None, head: int | None, block: int | None, classes: str | None) -> "Request":
    """Raises NotRunnable where an option is of another method, or no point."""
    from yolov12_plugin.explain.heatmap import Request

    owners = {"--query": ("attention", query), "--head": ("attention", head), "--block": ("attention", block)}
    for option, (owner, value) in (owners | {"--classes": ("gradcam", classes)}).items():
        if value is not None and method != owner:
            raise NotRunnable(f"{option} is of --method {owner}, not of {method}")
    point = Request.query
    if query is not None:
        try:
            x, y = map(float, query.split(","))
        except ValueError as e:
            raise NotRunnable(f"--query {query!r} is no point: give X,Y in pixels, or as fractions of the image") from e
        if not (0 <= x < math.inf and 0 <= y < math.inf):
            raise NotRunnable(f"--query {query} is outside of every image: X and Y count from its upper left corner")
        point = x, y
    names = tuple(part.strip() for part in (classes or "").split(",") if part.strip())
    return Request(method, point, head, block, names)
