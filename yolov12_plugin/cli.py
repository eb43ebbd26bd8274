"""The `yolov12` command."""

import json
import os
from typing import Annotated

import typer

app = typer.Typer(help="Tools for YOLOv12 in Ultralytics.", no_args_is_help=True, add_completion=False)
paper = typer.Typer(help="The paper's tables beside this build.", no_args_is_help=True)
app.add_typer(paper, name="paper")


@app.callback()
def main() -> None:
    """Tools for YOLOv12 in Ultralytics; models are built, trained and exported by `yolo` itself."""
    os.environ.setdefault("YOLO_VERBOSE", "false")  # Ultralytics logs to the standard output, where the tables go


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False) -> None:
    """Versions of what is installed, and which attention each device computes, and why."""
    from rich.console import Console
    from rich.table import Table

    from yolov12_plugin.doctor import report

    found = report()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    versions = Table("Package", "Version", title="Installed")
    for name, number in found["versions"].items():
        versions.add_row(name, number or "–")
    attention = Table("Device", "", "dtype", "Selected", "Attention", "flash-attn, or why not", title="Attention")
    for row in found["attention"]:
        attention.add_row(*row.values())
    console = Console()
    console.print(versions, attention)
    console.print("The plugin is registered." if found["registered"] else "The plugin is not registered.")


@paper.command()
def table1(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """FLOPs and parameters of the five models as published and as built here; the paper's AP and T4 latency."""
    from rich.console import Console
    from rich.table import Column, Table

    from yolov12_plugin.paper.table1 import rows

    table = rows()
    if as_json:
        typer.echo(json.dumps(table, indent=2))
        return
    titles = ("FLOPs (G)", "built", "Params (M)", "built", "AP", "AP50", "AP75", "T4 (ms)")
    view = Table(Column("Model", no_wrap=True), *titles, title="Table 1")
    for row in table:
        view.add_row(*map(str, row.values()))
    Console().print(view)
