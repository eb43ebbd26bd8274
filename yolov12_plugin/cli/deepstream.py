"""`yolov12 export-deepstream`."""

from pathlib import Path
from typing import Annotated

import typer

from yolov12_plugin.cli.common import Pixels, Trust, one_line, status, trusting


def export_deepstream(
    model: Annotated[str, typer.Argument(help="The .pt or .yaml of a detector.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    name: Annotated[str | None, typer.Option(help="Name of the files (default: that of MODEL).")] = None,
    imgsz: Pixels = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch, nvinfer's batch-size.")] = 1,
    dynamic: Annotated[
        bool, typer.Option("--dynamic/--static", help="Accept any batch size up to --batch, or only --batch.")
    ] = True,
    half: Annotated[bool, typer.Option("--half", help="Let DeepStream build the engine in FP16.")] = False,
    trust: Trust = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the files of an earlier export in DIR.")] = False,
) -> None:
    """Export a detector for NVIDIA DeepStream: the ONNX graph, nvinfer's configuration and the labels."""
    from yolov12_plugin.deploy.deepstream import export_deepstream as export

    with one_line(), trusting(trust), status(f"{model} ..."):
        written = export(model, folder, name=name, imgsz=imgsz, batch=batch, dynamic=dynamic, half=half, force=force)
    typer.echo(f"{written}: the graph computes the model; {written.parent / 'README.md'} says how to run it")
