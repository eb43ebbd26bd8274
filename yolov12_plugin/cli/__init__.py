"""The `yolov12` command: one module a command."""

import os
import signal
import sys
import threading
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from yolov12_plugin import __version__
from yolov12_plugin.cli import bench, coco, convert, deepstream, doctor, heatmap, paper, triton
from yolov12_plugin.cli.common import Group, Terminated

app = typer.Typer(cls=Group, help="Tools for YOLOv12 in Ultralytics.", no_args_is_help=True, add_completion=False)
app.command()(doctor.doctor)
app.command()(convert.convert)
app.command("export-triton")(triton.export_triton)
app.command("export-deepstream")(deepstream.export_deepstream)
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


def end_at_sigterm(context: typer.Context) -> None:
    def end(number: int, frame: object) -> None:
        raise Terminated

    if threading.current_thread() is threading.main_thread():  # no other may say so
        before = signal.signal(signal.SIGTERM, end)
        context.call_on_close(lambda: signal.signal(signal.SIGTERM, before))


def refuse_an_old_ultralytics() -> None:
    """End with one line where Ultralytics lacks what the commands import."""
    from yolov12_plugin.registry import too_old

    with suppress(PackageNotFoundError):
        if line := too_old(version_of("ultralytics")):
            typer.echo(f"Error: {line}", err=True)
            raise typer.Exit(2)


Version = Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the versions.")]


@app.callback()
def main(context: typer.Context, version: Version = False) -> None:
    """Tools for YOLOv12 in Ultralytics. The `yolo` command itself builds, trains and exports the models."""
    end_at_sigterm(context)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # on Windows a file or a pipe has no ✓
    os.environ.setdefault("YOLO_VERBOSE", "false")  # Ultralytics logs to the standard output, where the tables go
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # what is missing is said
    if context.invoked_subcommand != "doctor":  # which tells of it
        refuse_an_old_ultralytics()
        os.environ.pop("YOLO12_BENCH", None)  # of `yolo export`; what `bench` exports, it verifies itself
