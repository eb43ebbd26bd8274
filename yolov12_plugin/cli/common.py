"""What the commands of `yolov12` have in common: their options, and errors of one line."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from yolov12_plugin.errors import PluginError, choices
from yolov12_plugin.files import check_place, write_text

UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # Click's, or of the copy of it that Typer has


def one_form(context: typer.Context, param: typer.CallbackParam, value: bool) -> bool:
    """Refuse a second form of the output."""
    if value and any(context.params.get(form) for form in {"as_json", "as_markdown"} - {param.name}):
        raise typer.BadParameter("the output has one form: name --json or --markdown")
    return value


Out = Annotated[Path | None, typer.Option("--out", help="A file for the record, as JSON.")]
Json = Annotated[bool, typer.Option("--json", callback=one_form, help="Print JSON instead of tables.")]
Trust = Annotated[bool, typer.Option("--trust", help="Execute what the file carries. Only if you know who made it.")]
Markdown = Annotated[bool, typer.Option("--markdown", callback=one_form, help="Print tables as Markdown.")]


@contextmanager
def one_line() -> Iterator[None]:
    """End with exit code 2 and one line on the standard error where a file is not what was asked for.

    The progress of a download goes there too: the standard output is for tables.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (PluginError, OSError) as e:
        say(f"Error: {e}")
        raise typer.Exit(2) from e


def output(record: Any, out: Path | None, as_json: bool) -> bool:
    """Write a record where --out names a file, and print it for --json; whether it was printed."""
    text = json.dumps(record, indent=2) + "\n"
    if out:
        with one_line():
            check_place(out)
            write_text(out, text)
    if as_json:
        typer.echo(text, nl=False)
    return as_json


def say(line: str) -> None:
    """Print a line on the standard error."""
    typer.echo(in_flags(line), err=True)


def in_flags(line: str) -> str:
    """What the library says of its arguments, as `imgsz=33`, in the words of the command that runs: `--imgsz 33`."""

    def flag(match: re.Match[str]) -> str:
        name, value = match.groups()
        return f"{flags[name]} {value}" if name in flags and value != "True" else flags.get(name, match[0])

    options = [p for p in getattr(running.get(), "params", ()) if p.param_type_name == "option"]
    flags = {option.name: max(option.opts, key=len) for option in options}
    return re.sub(r"\b(\w+)=(\S*?)(?=[,;:.)]*(?:\s|$))", flag, line)


running: ContextVar[Any] = ContextVar("running", default=None)  # the command


class Group(TyperGroup):
    """Commands by names in any case; what is wrong with a command line is said in one line, with the valid names."""

    kind = "commands"

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with one_line_of_usage():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with one_line_of_usage():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0].lower()
        if name not in self.commands:
            known = choices(name, self.list_commands(ctx), self.kind)
            typer.echo(f"Error: there is no {ctx.command_path} {args[0]}; {known}", err=True)
            raise typer.Exit(2)
        running.set(self.commands[name])
        return name, self.commands[name], args[1:]


@contextmanager
def one_line_of_usage() -> Iterator[None]:
    try:
        yield
    except UsageError as e:
        if type(e).__name__ == "NoArgsIsHelpError":  # no error, but how Click shows the help
            raise
        typer.echo(f"Error: {describe(e)}", err=True)
        raise typer.Exit(2) from e


def describe(e: Any) -> str:
    """What an error of Click says, in one line; of an option that is none, with those that are."""
    if hasattr(e, "possibilities"):
        options = [p for p in e.ctx.command.get_params(e.ctx) if p.param_type_name == "option" and not p.hidden]
        known = [name for option in options for name in option.opts]
        return f"{e.ctx.command_path} has no option {e.option_name}; {choices(e.option_name, known, 'options')}"
    said = " ".join(e.format_message().split()).rstrip(".").replace(": Value error, ", ": ")  # as Pydantic begins
    return f"{said}; see `{e.ctx.command_path} --help`" if e.ctx else said
