"""`yolov12 doctor`."""

import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from yolov12_plugin.cli.common import Json, Out, Trust, one_line, output, status
from yolov12_plugin.cli.convert import on_stock

SHOWN = ("yolov12-plugin", "ultralytics", "torch", "python")
COLOURS = {"error": "red", "warning": "yellow", "note": "cyan", "ok": "green"}


def doctor(
    checkpoint: Annotated[
        str | None, typer.Argument(help="A .pt file, or the name of released weights, as yolov12n-turbo.pt.")
    ] = None,
    trust: Trust = False,
    every: Annotated[
        bool, typer.Option("--all", help="Show everything that was checked, not only what matters here.")
    ] = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Check whether YOLOv12 runs here and say what to do if it does not, or show what a CHECKPOINT holds.

    Exit code 1 means that YOLOv12 does not run here.
    """
    if checkpoint is not None:
        show_checkpoint(checkpoint, trust, out, as_json)
        return
    from yolov12_plugin.doctor import report

    with redirect_stdout(sys.stderr), status("doctor ..."):
        found = report()
    if not output(found, out, as_json):
        show_verdict(found)
        if every:
            show_report(found)
        else:
            typer.echo("More, and how to install what is not: yolov12 doctor --all")
    if any(finding["level"] == "error" for finding in found["findings"]):
        raise typer.Exit(1)


def show_verdict(found: dict[str, Any]) -> None:
    """One line with the verdict, then the devices, and what of the findings asks for something."""
    from rich.console import Console
    from rich.text import Text

    from yolov12_plugin.doctor import missing

    findings = [row for row in found["findings"] if row["level"] != "ok"]
    counts = {level: sum(row["level"] == level for row in findings) for level in ("error", "warning")}
    counted = " and ".join(f"{n} {level}{'s' * (n > 1)}" for level, n in counts.items() if n)
    registered = f"The plugin is{'' if found['registered'] else ' not'} registered."
    runs = "does not run" if counts["error"] else "runs" if found["registered"] else "is off"
    console = Console(markup=False, emoji=False, highlight=False)
    colour = "red" if counts["error"] else "yellow" if counted else "green"
    console.print(Text(f"YOLOv12 {runs} here{f', with {counted}' if counted else ''}. {registered}", style=colour))
    versions = found["versions"]
    console.print(", ".join(f"{name} {versions.get(name) or '-'}" for name in SHOWN))
    for row in found["devices"]:
        chosen = dict.fromkeys(how["backend"] for how in found["attention"] if how["device"] == row["device"])
        attention = f"; attention: {', '.join(chosen)}" if chosen else ""
        console.print(f"{row['device']}: {row['name']}, {row['memory_gib']} GiB{attention}")
    optional = missing(findings)
    for row in findings:
        if row not in optional:
            console.print(Text(f"{row['level']}: ", style=COLOURS[row["level"]]), row["what"], sep="")
            if row["remedy"]:
                console.print(f"-> {row['remedy']}")
    if wanted := [row for row in optional if row["remedy"]]:
        names = ", ".join(row["what"].replace(" is not installed", "", 1) for row in wanted)
        console.print(f"Not installed, and of use here: {names}")


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
    patches = table("Registered in Ultralytics", "In place", "Attribute, and why")
    for row in found["patches"]:
        patches.add_row("yes" if row["in_place"] else "no", f"{row['attribute']}\n{row['why']}")
    findings = table("Findings", "Level", "")
    findings.columns[0].no_wrap = True
    for row in found["findings"]:
        remedy = f"\n-> {row['remedy']}" if row["remedy"] else ""
        findings.add_row(Text(row["level"], style=COLOURS[row["level"]]), row["what"] + remedy)
    console = Console(markup=False, emoji=False)
    console.print(*(part for part in (versions, devices, attention, patches, findings) if part.row_count))


def show_checkpoint(checkpoint: str, trust: bool, out: Path | None, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from yolov12_plugin.checkpoints.inspect import inspect
    from yolov12_plugin.errors import printable

    with one_line(), status(f"{checkpoint} ..."):
        found = inspect(checkpoint, trust)
    if output(found, out, as_json):
        return
    layout, stock, left_out = found.pop("layout"), found.pop("stock"), found.pop("left_out")
    table = Table(show_header=False)
    for key, value in {**found, **layout}.items():
        table.add_row(key.replace("_", " "), f"{value:,}" if key == "parameters" else printable(str(value)))
    table.add_row("on stock Ultralytics", on_stock(stock))
    if left_out:
        table.add_row("convert leaves out", "\n".join(line.removeprefix("without ") for line in left_out))
    Console(markup=False, emoji=False).print(table)
    if not stock["trains"] and not layout["fused"]:
        typer.echo(f"For stock Ultralytics: yolov12 convert {shlex.quote(checkpoint)} NEW.pt --to stock")
