"""`yolov12 export-triton`."""

import shlex
from enum import Enum
from typing import Annotated

import typer

from yolov12_plugin.cli.common import Pixels, Trust, one_line, status, trusting


class Served(str, Enum):
    onnx = "onnx"
    engine = "engine"


def export_triton(
    model: Annotated[
        str, typer.Argument(help="A .pt or .yaml file, or an .onnx or .engine that was exported with dynamic=True.")
    ],
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="The model repository, which is made if it does not exist.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the served model (default: that of MODEL).")] = None,
    to: Annotated[
        Served | None, typer.Option("--format", help="Format of the served file (default: that of MODEL, else onnx).")
    ] = None,
    imgsz: Pixels = None,
    half: Annotated[bool, typer.Option("--half", help="Export in FP16.")] = False,
    max_batch: Annotated[int, typer.Option(min=1, help="Most images in a batch, and in a request.")] = 16,
    max_delay: Annotated[int, typer.Option(min=0, help="Microseconds that a request waits for others at most.")] = 1000,
    instances: Annotated[int, typer.Option(min=1, help="Copies of the model on each GPU.")] = 1,
    trust: Trust = False,
    force: Annotated[bool, typer.Option("--force", help="If the model exists, write its next version.")] = False,
) -> None:
    """Export a model for NVIDIA Triton Inference Server, with dynamic batching."""
    from yolov12_plugin.deploy.triton import export_triton as export

    options = ({} if imgsz is None else {"imgsz": imgsz}) | ({"half": True} if half else {})
    with one_line(), trusting(trust), status(f"{model} ..."):
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
