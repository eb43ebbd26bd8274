"""Errors of one line, and their words."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path


class NotRunnable(RuntimeError):
    """A runtime, or a file for it, does not run here; the message is one line with the reason and what to do."""


def check_place(file: Path) -> None:
    """Raises NotRunnable where a file cannot be written, before there is anything to write."""
    place = file if file.exists() else file.parent
    if file.is_dir() or not file.parent.is_dir() or not os.access(place, os.W_OK):
        raise NotRunnable(f"{file} cannot be written: name a file in a folder that is there")


def choices(name: object, known: Iterable[str], kind: str) -> str:
    """What to say of the valid names where `name` is none: the nearest first, the others in their order."""
    names = [str(other) for other in known]
    near = difflib.get_close_matches(str(name).lower(), names)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}{kind} are {', '.join(near + [other for other in names if other not in near]) or 'none'}"


def first_line(e: Exception) -> str:
    """What an exception says first."""
    return next((line.strip() for line in str(e).splitlines() if line.strip()), "no reason given")
