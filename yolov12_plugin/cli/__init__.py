"""The `yolov12` command: one module a command."""

import os
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from yolov12_plugin import __version__
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


def show_version(value: bool) -> None:
    """Print the versions and end, without an import of what takes seconds."""
    if not value:
        return
    versions = {"yolov12-plugin": __version__}
    for package in ("ultralytics", "torch"):
        try:
            versions[package] = version_of(package)
        except PackageNotFoundError:  # not installed, or without its metadata
            versions[package] = "unknown"
    typer.echo(", ".join(f"{package} {version}" for package, version in versions.items()))
    raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the versions.")]


@app.callback()
def main(context: typer.Context, version: Version = False) -> None:
    """Tools for YOLOv12 in Ultralytics; models are built, trained and exported by `yolo` itself."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # on Windows a file or a pipe has no ✓
    os.environ.setdefault("YOLO_VERBOSE", "false")  # Ultralytics logs to the standard output, where the tables go
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # what is missing is said
    if context.invoked_subcommand != "doctor":  # which tells of it
        os.environ.pop("YOLO12_BENCH", None)  # of `yolo export`; what `bench` exports, it verifies itself
