"""What the commands of `yolov12` have in common: their options, and errors of one line."""

import json
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from yolov12_plugin.errors import PluginError, choices, first_line, printable
from yolov12_plugin.files import check_place, write_text

if TYPE_CHECKING:
    from rich.status import Status

UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # Click's, or of the copy of it that Typer has


def one_form(context: typer.Context, param: typer.CallbackParam, value: bool) -> bool:
    """Refuse a second form of the output."""
    if value and any(context.params.get(form) for form in {"as_json", "as_markdown"} - {param.name}):
        raise typer.BadParameter("the output has one form: name --json or --markdown")
    return value


Device = Annotated[str | None, typer.Option(help="Device, as cpu, 0 or cuda:1 (default: the first GPU, else the CPU).")]
Pixels = Annotated[
    int | None, typer.Option(min=32, help="Image size in pixels (default: that of the training, else 640).")
]
Out = Annotated[Path | None, typer.Option("--out", help="Write the record to this file, as JSON.")]
Json = Annotated[bool, typer.Option("--json", callback=one_form, help="Print JSON instead of tables.")]
Trust = Annotated[bool, typer.Option("--trust", help="Execute what the file carries; only if you know who made it.")]
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
        say(f"Error: {first_line(e)}")
        raise typer.Exit(2) from e


@contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """Let Ultralytics load checkpoints within that hold what would be executed, if `trust`."""
    from yolov12_plugin.checkpoints import trust as trusts

    with trusts.trusting(trust):
        yield


def status(what: str) -> "Status":
    """Say on a terminal what takes a while."""
    from rich.console import Console
    from rich.markup import escape

    return Console(stderr=True).status(escape(printable(what)))


def output(record: Any, out: Path | None, as_json: bool) -> bool:
    """Write a record where --out names a file, and print it for --json; whether it was printed."""
    text = to_json(record) + "\n"
    if out:
        with one_line():
            check_place(out)
            write_text(out, text)
    if as_json:
        typer.echo(text, nl=False)
    return as_json


def to_json(record: Any) -> str:
    """A record as JSON, whatever the values: what JSON has no form of is null, a list or a text."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [plain(item) for item in value]
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else None
        return value

    return json.dumps(
        plain(record), indent=2, default=lambda value: value.item() if hasattr(value, "item") else str(value)
    )


def say(line: str) -> None:
    """Print a line on the standard error."""
    typer.echo(in_flags(printable(line)), err=True)


def in_flags(line: str) -> str:
    """What the library says of its arguments, as `imgsz=33`, in the words of the command that runs: `--imgsz 33`."""

    def flag(match: re.Match[str]) -> str:
        name, value = match.groups()
        return f"{flags[name]} {value}" if name in flags and value != "True" else flags.get(name, match[0])

    options = [p for p in getattr(running.get(), "params", ()) if p.param_type_name == "option"]
    flags = {option.name: max(option.opts, key=len) for option in options}
    return re.sub(r"\b(\w+)=(\S*?)(?=[,;:.)]*(?:\s|$))", flag, line)


running: ContextVar[Any] = ContextVar("running", default=None)  # the command


class Terminated(KeyboardInterrupt):
    """By SIGTERM, which ends a command as Ctrl-C does: what it keeps is kept, nothing is left half-made."""


@contextmanager
def readable() -> Iterator[None]:
    """End a command as its reader wants: silently where nobody reads on, in one line where nothing can be written."""
    for name in "stdout", "stderr":
        if getattr(sys, name) is None:  # closed, as by >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
        return
    except KeyboardInterrupt as e:
        typer.echo(f"Interrupted{': ' if str(e) else ''}{e}", err=True)
        raise typer.Exit(143 if isinstance(e, Terminated) else 130) from e
    except SystemExit as e:
        if not isinstance(e.__context__, BrokenPipeError):  # rich's way to end
            raise
        code = 141
    except BrokenPipeError:
        code = 141  # as of a program that SIGPIPE ends
    except OSError as e:
        say(f"Error: {'' if e.filename else 'the output cannot be written: '}{first_line(e)}")
        code = 2
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try once more as it ends
    raise typer.Exit(code)


class Group(TyperGroup):
    """Commands by names in any case; what is wrong with a command line is said in one line, with the valid names."""

    kind = "commands"

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with readable(), one_line_of_usage():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with readable(), one_line_of_usage():
            return super().invoke(ctx)

    def name_of(self, given: str) -> str:
        """The command that is meant by a name in lower case."""
        return given

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = self.name_of(args[0].lower())
        if name not in self.commands:
            groups = (group for group, command in self.commands.items() if name in getattr(command, "commands", ()))
            inner = next((f"did you mean {ctx.command_path} {group} {name}? " for group in groups), "")
            known = inner + choices(name, self.list_commands(ctx), self.kind)
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
    if getattr(getattr(e, "param", None), "nargs", 1) == -1:  # Click gives one word to the last, and misses the first
        arguments = [p.metavar or p.name.upper() for p in e.ctx.command.params if p.param_type_name == "argument"]
        if len(arguments) > 1:
            return f"Missing argument: {' and '.join(arguments)} are needed; see `{e.ctx.command_path} --help`"
    said = " ".join(e.format_message().split()).rstrip(".").replace(": Value error, ", ": ")  # as Pydantic begins
    return f"{said}; see `{e.ctx.command_path} --help`" if e.ctx else said
