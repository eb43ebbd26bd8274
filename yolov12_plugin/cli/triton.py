"""`yolov12 export-triton`."""

import shlex
from enum import Enum
from typing import Annotated

import typer

from yolov12_plugin.cli.common import one_line


class Served(str, Enum):
    onnx = "onnx"
    engine = "engine"


def export_triton(
    model: Annotated[str, typer.Argument(help="A .pt or .yaml, or an .onnx or .engine exported with dynamic=True.")],
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The model repository; made if it is not there.")],
    name: Annotated[str | None, typer.Option(help="By default that of MODEL.")] = None,
    to: Annotated[Served | None, typer.Option("--format", help="By default that of MODEL, else onnx.")] = None,
    imgsz: Annotated[int | None, typer.Option(min=32, help="Pixels; by default those of the training.")] = None,
    half: Annotated[bool, typer.Option("--half", help="FP16.")] = False,
    max_batch: Annotated[int, typer.Option(min=1, help="Images in one run of the model, and in one request.")] = 16,
    max_delay: Annotated[int, typer.Option(min=0, help="Microseconds that a request may wait for others.")] = 1000,
    instances: Annotated[int, typer.Option(min=1, help="Copies of the model on each GPU.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Where NAME is there, write its next version.")] = False,
) -> None:
    """Write a model folder for NVIDIA Triton Inference Server, with dynamic batching; whole, or not at all."""
    from yolov12_plugin.deploy.triton import export_triton as export

    options = ({} if imgsz is None else {"imgsz": imgsz}) | ({"half": True} if half else {})
    with one_line():
        written = export(
            model,
            folder,
            name=name,
            format=to.value if to else None,
            max_batch=max_batch,
            max_delay=max_delay,
            instances=instances,
            force=force,
            **options,
        )
    typer.echo(f"{written}: tritonserver --model-repository={shlex.quote(str(written.parent.absolute()))}")
    typer.echo(f'YOLO("http://localhost:8000/{written.name}", task=...) predicts through it')
