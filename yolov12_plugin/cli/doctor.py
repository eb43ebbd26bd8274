"""`yolov12 doctor`."""

import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from yolov12_plugin.cli.common import Json, Out, Trust, one_line, output
from yolov12_plugin.cli.convert import on_stock


def doctor(
    checkpoint: Annotated[str | None, typer.Argument(help="A .pt file, or a name as yolov12n-turbo.pt.")] = None,
    trust: Trust = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """What is installed, registered and chosen here, and what to do where that is wrong; or what a CHECKPOINT holds.

    Exit code 1: YOLOv12 does not run here.
    """
    if checkpoint is not None:
        show_checkpoint(checkpoint, trust, out, as_json)
        return
    from yolov12_plugin.doctor import report

    with redirect_stdout(sys.stderr):
        found = report()
    if not output(found, out, as_json):
        show_report(found)
    if any(finding["level"] == "error" for finding in found["findings"]):
        raise typer.Exit(1)


def show_report(found: dict[str, Any]) -> None:
    from itertools import groupby

    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from yolov12_plugin.doctor import PACKAGES
    from yolov12_plugin.show.view import STYLE

    def table(title: str, *columns: str) -> Table:
        folded = (Column(column, overflow="fold") for column in columns)
        return Table(*folded, title=title, title_justify="left", **STYLE)

    versions = table("Installed", "Package", "Version")
    optional = {package.name for package in PACKAGES}  # which are among the findings
    for package, version in found["versions"].items():
        if package not in optional:
            versions.add_row(package, version or "-")
    versions.add_row("platform", found["platform"])
    devices = table("Devices", "Device", "Name", "GiB", "")
    for row in found["devices"]:
        (_, device), (_, name), (_, memory), *more = row.items()
        about = (f"{key.replace('_', ' ')} {value}" for key, value in more if value is not None)
        devices.add_row(device, name, str(memory), ", ".join(about))
    attention = table("Attention", "Device", "dtype", "Selected", "Attention", "flash-attn, or why not")
    for (device, *chosen), rows in groupby(
        found["attention"], key=lambda row: [row[key] for key in ("device", "selected", "backend", "why")]
    ):
        attention.add_row(device, ", ".join(row["dtype"] for row in rows), *chosen)
    patches = table("Registered in Ultralytics", "Attribute", "In place", "Why")
    for row in found["patches"]:
        patches.add_row(row["attribute"], "yes" if row["in_place"] else "no", row["why"])
    findings = table("Findings", "Level", "")
    findings.columns[0].no_wrap = True
    colours = {"error": "red", "warning": "yellow", "note": "cyan", "ok": "green"}
    for row in found["findings"]:
        remedy = f"\n-> {row['remedy']}" if row["remedy"] else ""
        findings.add_row(Text(row["level"], style=colours[row["level"]]), row["what"] + remedy)
    console = Console(markup=False, emoji=False)
    console.print(*(part for part in (versions, devices, attention, patches, findings) if part.row_count))
    console.print("The plugin is registered." if found["registered"] else "The plugin is not registered.")


def show_checkpoint(checkpoint: str, trust: bool, out: Path | None, as_json: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from yolov12_plugin.checkpoints.inspect import inspect

    with one_line():
        found = inspect(checkpoint, trust)
    if output(found, out, as_json):
        return
    layout, stock = found.pop("layout"), found.pop("stock")
    table = Table(show_header=False)
    for key, value in {**found, **layout}.items():
        table.add_row(key.replace("_", " "), f"{value:,}" if key == "parameters" else escape(str(value)))
    table.add_row("on stock Ultralytics", on_stock(stock))
    Console().print(table)
    if not stock["trains"] and not layout["fused"]:
        typer.echo(f"For stock Ultralytics: yolov12 convert {shlex.quote(checkpoint)} NEW.pt --to stock")
