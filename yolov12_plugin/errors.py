"""What keeps a model from being measured."""

import os
from pathlib import Path


class NotRunnable(RuntimeError):
    """A runtime, or a file for it, does not run here; the message is one line with the reason and what to do."""


def check_place(file: Path) -> None:
    """Raises NotRunnable where a file cannot be written, before there is anything to write."""
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise NotRunnable(f"{file} cannot be written: name a file in a folder that is there")


def first_line(e: Exception) -> str:
    """What an exception says first."""
    return next((line.strip() for line in str(e).splitlines() if line.strip()), "no reason given")
