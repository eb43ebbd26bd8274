"""Errors of one line, and their words."""

import difflib
import reprlib
from collections.abc import Iterable
from pathlib import PurePath


def printable(text: str) -> str:
    """A text as a terminal may get it, in one line: the names of files, and of what is within them, may be odd."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


class PluginError(Exception):
    """What went wrong, in one line: with which value, and what to do. The command line prints it and ends with 2."""

    def __init__(self, message: str):
        super().__init__(printable(message))


class NotRunnable(PluginError, RuntimeError):
    """What was asked for does not run here: a runtime, a file for it, or options that do not go together."""


class SettingError(PluginError, ValueError):
    """A choice that there is not."""


class CheckpointError(PluginError, ValueError):
    """A file that is no whole checkpoint of Ultralytics, is no YOLOv12, or holds what would be executed."""


class ExportError(PluginError, ValueError):
    """A model that cannot be exported, or served, as asked."""


class ResultsError(PluginError, ValueError):
    """A file that holds no results of `yolov12 bench`."""


class RunError(PluginError, OSError):
    """A run of Ultralytics that cannot be read."""


def choices(name: object, known: Iterable[str], kind: str) -> str:
    """What to say of the valid names where `name` is none: the nearest first, the others in their order."""
    names = [str(other) for other in known]
    near = difflib.get_close_matches(str(name).lower(), names)
    # Another number is another thing: 9 is no misspelt 3.
    near = [other for other in near if not (digits := _digits(str(name))) or _digits(other) == digits]
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}{kind} are {', '.join(near + [other for other in names if other not in near]) or 'none'}"


def _digits(name: str) -> str:
    return "".join(filter(str.isdigit, name))


def either(names: Iterable[str]) -> str:
    """Names as an alternative: a, b or c."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def first_line(e: Exception) -> str:
    """What an exception says first; of a file that the system refuses, in words."""
    if isinstance(e, OSError) and e.strerror:
        if not e.filename:
            return e.strerror
        return f"{e.filename} does not exist" if isinstance(e, FileNotFoundError) else f"{e.filename}: {e.strerror}"
    return next((line.strip() for line in str(e).splitlines() if line.strip()), "no reason given")


class _Short(reprlib.Repr):
    """Values in a few characters, however deep and large they are, without a method of their own."""

    def repr_instance(self, x: object, level: int) -> str:
        return repr(x) if type(x).__name__ == "Tensor" or isinstance(x, PurePath) else f"<{type(x).__name__}>"

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 256 else f"<int of {x.bit_length()} bits>"


_short = _Short()
_short.maxlevel = 2


def shown(value: object, most: int = 80) -> str:
    """A value that a file holds, as text: printable, and of at most so many characters."""
    text = value if isinstance(value, str) else _short.repr(value)
    text = printable(text[: 10 * most])
    return text if len(text) <= most else f"{text[: most - 3]}..."
