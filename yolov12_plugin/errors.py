"""Errors of one line, and their words."""

import difflib
from collections.abc import Iterable


class PluginError(Exception):
    """What went wrong, in one line: with which value, and what to do. The command line prints it and ends with 2."""

    def __init__(self, message: str):
        # The names of files, and of what is within them, may be odd.
        super().__init__("".join(c if c.isprintable() else "?" for c in " ".join(message.split())))


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
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}{kind} are {', '.join(near + [other for other in names if other not in near]) or 'none'}"


def first_line(e: Exception) -> str:
    """What an exception says first."""
    return next((line.strip() for line in str(e).splitlines() if line.strip()), "no reason given")
