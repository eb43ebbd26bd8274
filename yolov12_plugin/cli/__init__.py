"""The `yolov12` command: one module a command."""

import os

import typer

from yolov12_plugin.cli import bench, coco, convert, doctor, heatmap, paper, triton
from yolov12_plugin.cli.common import Group

app = typer.Typer(cls=Group, help="Tools for YOLOv12 in Ultralytics.", no_args_is_help=True, add_completion=False)
app.command()(doctor.doctor)
app.command()(convert.convert)
app.command("export-triton")(triton.export_triton)
app.command()(bench.bench)
app.command()(coco.coco)
app.command()(heatmap.heatmap)
app.add_typer(paper.app, name="paper")


@app.callback()
def main(context: typer.Context) -> None:
    """Tools for YOLOv12 in Ultralytics; models are built, trained and exported by `yolo` itself."""
    os.environ.setdefault("YOLO_VERBOSE", "false")  # Ultralytics logs to the standard output, where the tables go
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # what is missing is said
    if context.invoked_subcommand != "doctor":  # which tells of it
        os.environ.pop("YOLO12_BENCH", None)  # of `yolo export`; what `bench` exports, it verifies itself
