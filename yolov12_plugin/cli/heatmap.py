"""`yolov12 heatmap`."""

import json
import math
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yolov12_plugin.cli.common import Json, one_line, say
from yolov12_plugin.errors import NotRunnable

if TYPE_CHECKING:
    from yolov12_plugin.explain.heatmap import Request


class Method(str, Enum):
    activation = "activation"
    eigencam = "eigencam"
    gradcam = "gradcam"
    attention = "attention"


def heatmap(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Names, .yaml, or .pt of any Ultralytics.")],
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Image, video, folder, glob, or a .txt of paths.")],
    layer: Annotated[
        str | None,
        typer.Option(help="An index, or one for each model with commas; by default the backbone's third stage."),
    ] = None,
    method: Annotated[Method, typer.Option(help="What a map shows.")] = Method.activation,
    query: Annotated[
        str | None, typer.Option(help="X,Y of the point whose attention is shown: pixels, or fractions. The centre.")
    ] = None,
    head: Annotated[int | None, typer.Option(min=0, help="Of the attention; by default their mean.")] = None,
    block: Annotated[int | None, typer.Option(min=0, help="Of the layer's attentions; by default all.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names or indices, with commas, that gradcam is to explain; by default all.")
    ] = None,
    imgsz: Annotated[int | None, typer.Option(min=32, help="Pixels; by default those of the training, or 640.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, 0, cuda:1.")] = None,
    stride: Annotated[int, typer.Option(min=1, help="Every how many frames of a video.")] = 1,
    frames: Annotated[int, typer.Option(min=1, help="Of a video, at most.")] = 50,
    out: Annotated[Path, typer.Option(help="A .png, or a folder with a .png of each image.")] = Path("heatmap.png"),
    as_json: Json = False,
) -> None:
    """Figure 5: what a layer of each MODEL sees in SOURCE, side by side; --method attention: where a point looks."""
    from yolov12_plugin.explain.heatmap import heatmaps

    with one_line():
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
    typer.echo(json.dumps(drawn, indent=2) if as_json else "\n".join(drawn["pictures"]))


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
