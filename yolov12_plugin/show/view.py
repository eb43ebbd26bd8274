"""Rows as a table on a terminal, or as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import typer
from rich.table import Table

from yolov12_plugin.show.tables import STYLE, markdown, show
from yolov12_plugin.training.presets import SCALES

EACH = "{}"  # in the title of a column of mappings: each of their keys is a column of its own


@dataclass
class View:
    """Rows under titles by key; columns that have nothing are left out."""

    title: str
    columns: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    notes: list[str] = field(default_factory=list)

    def table(self) -> Table:
        table = Table(title=self.title, title_justify="left", **STYLE)
        columns: list[list[str]] = []
        for key, title in self.columns.items():
            for name, values in self.parts(key, title):
                words = any(isinstance(value, str) for value in values)
                table.add_column(name, justify="left" if words else "right", no_wrap=not columns)
                digits = 2 if "ratio" in key else max(map(decimals, values), default=0)
                columns.append([cell(value, digits) for value in values])
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

    def print(self, as_markdown: bool = False) -> None:
        """Print it on the standard output."""
        if as_markdown:
            typer.echo(f"**{self.title}**\n\n{markdown(self.table())}")
        else:
            show(self.table())
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
