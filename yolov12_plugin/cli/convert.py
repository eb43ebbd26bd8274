"""`yolov12 convert`."""

import json
from enum import Enum
from typing import Annotated, Any

import typer

from yolov12_plugin.cli.common import Json, Trust, one_line


def on_stock(stock: dict[str, Any]) -> str:
    if stock["trains"]:
        return "predicts, validates, exports and trains"
    can = "predicts, validates and exports; does not train it whole" if stock["predicts"] else "does not run"
    return f"{can}: {'; '.join(stock['why'])}"


class Form(str, Enum):
    stock = "stock"
    plugin = "plugin"


def convert(
    src: Annotated[str, typer.Argument(help="A .pt file, or a name as yolov12n-turbo.pt.")],
    dst: Annotated[str, typer.Argument(help="The .pt file to write.")],
    to: Annotated[Form, typer.Option(help="What shall run it: Ultralytics without the plugin, or with it.")],
    force: Annotated[bool, typer.Option("--force", help="Replace DST where it is there; it may be SRC.")] = False,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint in the layout of stock Ultralytics, or as the plugin rebuilds it; exactly, or not at all."""
    from yolov12_plugin.checkpoints.convert import convert as convert_checkpoint

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
