"""The `yolov12` command."""

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from enum import Enum
from typing import Annotated, Any

import typer

app = typer.Typer(help="Tools for YOLOv12 in Ultralytics.", no_args_is_help=True, add_completion=False)
paper = typer.Typer(help="The paper's tables beside this build.", no_args_is_help=True)
app.add_typer(paper, name="paper")


@app.callback()
def main() -> None:
    """Tools for YOLOv12 in Ultralytics; models are built, trained and exported by `yolo` itself."""
    os.environ.setdefault("YOLO_VERBOSE", "false")  # Ultralytics logs to the standard output, where the tables go


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Trust = Annotated[bool, typer.Option("--trust", help="Execute what the file carries. Only if you know who made it.")]


@contextmanager
def one_line() -> Iterator[None]:
    """End with exit code 2 and one line on the standard error where a file is not what was asked for.

    The progress of a download goes there too: the standard output is for tables.
    """
    from yolov12_plugin.safe_load import CheckpointError

    try:
        with redirect_stdout(sys.stderr):
            yield
    except (CheckpointError, OSError) as e:
        typer.echo(f"Error: {e}", err=True)
        raise typer.Exit(2) from e


@app.command()
def doctor(
    checkpoint: Annotated[str | None, typer.Argument(help="A .pt file, or a name as yolov12n-turbo.pt.")] = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """What is installed, and which attention each device computes; or what a CHECKPOINT holds."""
    from rich.console import Console
    from rich.table import Table

    from yolov12_plugin.doctor import report

    if checkpoint is not None:
        show_checkpoint(checkpoint, trust, as_json)
        return
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


def show_checkpoint(checkpoint: str, trust: bool, as_json: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from yolov12_plugin.checkpoints import inspect

    with one_line():
        found = inspect(checkpoint, trust)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    layout, stock = found.pop("layout"), found.pop("stock")
    table = Table(show_header=False)
    for key, value in {**found, **layout}.items():
        table.add_row(key.replace("_", " "), f"{value:,}" if key == "parameters" else escape(str(value)))
    table.add_row("on stock Ultralytics", on_stock(stock))
    Console().print(table)
    if not stock["trains"] and not layout["fused"]:
        typer.echo(f"For stock Ultralytics: yolov12 convert {shlex.quote(checkpoint)} NEW.pt --to stock")


def on_stock(stock: dict[str, Any]) -> str:
    if stock["trains"]:
        return "predicts, validates, exports and trains"
    can = "predicts, validates and exports; does not train it whole" if stock["predicts"] else "does not run"
    return f"{can}: {'; '.join(stock['why'])}"


class Form(str, Enum):
    stock = "stock"
    plugin = "plugin"


@app.command()
def convert(
    src: Annotated[str, typer.Argument(help="A .pt file, or a name as yolov12n-turbo.pt.")],
    dst: Annotated[str, typer.Argument(help="The .pt file to write.")],
    to: Annotated[Form, typer.Option(help="What shall run it: Ultralytics without the plugin, or with it.")],
    force: Annotated[bool, typer.Option("--force", help="DST may be SRC.")] = False,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint in the layout of stock Ultralytics, or as the plugin rebuilds it; exactly, or not at all."""
    from yolov12_plugin.checkpoints import convert as convert_checkpoint

    with one_line():
        done = convert_checkpoint(src, dst, to.value, force=force, trust=trust)
    if as_json:
        typer.echo(json.dumps(done, indent=2))
        return
    typer.echo(f"{dst}: {', '.join(done['changes']) or 'nothing to change'}")
    typer.echo(f"Largest difference of an output: {done['difference']:.1e}")
    typer.echo(f"Stock Ultralytics: {on_stock(done['stock'])}")
    if done["note"]:
        typer.echo(done["note"])


@paper.command()
def table1(as_json: Json = False) -> None:
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
