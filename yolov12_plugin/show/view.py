"""Rows as a table on a terminal, or as Markdown."""

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from yolov12_plugin.errors import printable
from yolov12_plugin.training.presets import SCALES

EACH = "{}"  # in the title of a column of mappings: each of their keys is a column of its own
STYLE: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
PLAIN: dict[str, Any] = {"markup": False, "emoji": False}  # names of files may look like either
MARKDOWN: dict[str, Any] = {"box": box.MARKDOWN, "padding": (0, 1)}


@dataclass
class View:
    """Rows under titles by key; columns that have nothing are left out."""

    title: str
    columns: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    notes: list[str] = field(default_factory=list)

    def table(self, **style: Any) -> Table:
        table = Table(**style)
        columns: list[list[str]] = []
        for key, title in self.columns.items():
            for name, values in self.parts(key, title):
                words = not columns or any(isinstance(value, str) and not value[:1].isdigit() for value in values)
                table.add_column(name, justify="left" if words else "right", no_wrap=not columns)
                digits = 2 if "ratio" in key else max(map(decimals, values), default=0)
                columns.append([printable(cell(value, digits)) for value in values])
        for cells in zip(*columns):
            table.add_row(*cells)
        return table

    def parts(self, key: str, title: str) -> list[tuple[str, list[Any]]]:
        """Title and values of each column that a key makes."""
        values = [row[key] for row in self.rows]
        if EACH in title:
            kinds = dict.fromkeys(kind for value in values for kind in value)
            return [(title.format(kind), [value.get(kind) for value in values]) for kind in kinds]
        return [(title, values)] if any(value is not None for value in values) else []

    def markdown(self) -> str:
        """The table alone, a row a line."""
        console = Console(width=10_000, file=io.StringIO(), **PLAIN)
        with console.capture() as captured:
            console.print(self.table(**MARKDOWN))
        return "\n".join(line.strip() for line in captured.get().splitlines() if line.strip()) + "\n"

    def print(self, as_markdown: bool = False) -> None:
        """Print it on the standard output; in a file as wide as its longest words need."""
        if as_markdown:
            typer.echo(f"**{self.title}**\n\n{self.markdown()}")
        else:
            table = self.table(title=self.title, title_justify="left", **STYLE)
            needed = Console(width=10_000, **PLAIN).measure(table).minimum
            Console(width=None if sys.stdout.isatty() else max(160, needed), **PLAIN).print(table)
        for note in self.notes:
            typer.echo(f"- {note}" if as_markdown else note)


def decimals(value: Any) -> int:
    return len(str(value).partition(".")[2]) if isinstance(value, float) else 0


def cell(value: Any, digits: int) -> str:
    """A value as a table has it; of a mapping one after the other, but only once what is the same at all scales."""
    if isinstance(value, Mapping):
        same = list(value) == list(SCALES) and len(set(value.values())) == 1
        return "/".join(cell(part, digits or decimals(part)) for part in list(value.values())[: 1 if same else None])
    if isinstance(value, bool):
        return "✓" if value else "✗"
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return "–" if value is None else str(value)
