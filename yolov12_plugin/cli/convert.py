"""`yolov12 convert`."""

from enum import Enum
from typing import Annotated, Any

import typer

from yolov12_plugin.cli.common import Json, Trust, one_line, status, to_json


def on_stock(stock: dict[str, Any]) -> str:
    if stock["trains"]:
        return "predicts, validates, exports and trains"
    can = "predicts, validates and exports; does not train it whole" if stock["predicts"] else "does not run"
    return f"{can}: {'; '.join(stock['why'])}"


class Form(str, Enum):
    stock = "stock"
    plugin = "plugin"


def convert(
    src: Annotated[str, typer.Argument(help="A .pt file, or the name of released weights, as yolov12n-turbo.pt.")],
    dst: Annotated[str, typer.Argument(help="The .pt file to write.")],
    to: Annotated[Form, typer.Option(help="Convert for stock Ultralytics, or for Ultralytics with the plugin.")],
    force: Annotated[bool, typer.Option("--force", help="Replace DST if it exists; it may be SRC itself.")] = False,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Convert a checkpoint for stock Ultralytics, or for the plugin; exactly, or not at all."""
    with one_line(), status(f"{src} ..."):
        from yolov12_plugin.checkpoints.convert import convert as convert_checkpoint

        done = convert_checkpoint(src, dst, to.value, force=force, trust=trust)
    if as_json:
        typer.echo(to_json(done))
        return
    typer.echo(f"{dst}: {', '.join(done['changes']) or 'nothing to change'}")
    typer.echo(f"Largest difference of an output: {done['difference']:.1e}")
    typer.echo(f"Stock Ultralytics: {on_stock(done['stock'])}")
    if done["note"]:
        typer.echo(done["note"])
