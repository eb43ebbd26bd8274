"""Which checkpoints Ultralytics may load: those that were read as data before, or that the user trusts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from ultralytics.utils import SETTINGS

from yolov12_plugin.checkpoints.grammar import is_fetched
from yolov12_plugin.checkpoints.safe_load import read
from yolov12_plugin.checkpoints.weights import find
from yolov12_plugin.errors import CheckpointError

trusted: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """Let `check` pass files within that hold what would be executed, if `trust`."""
    token = trusted.set(trust)
    try:
        yield
    finally:
        trusted.reset(token)


def check(path: str | os.PathLike[str]) -> None:
    """Read a checkpoint as data before Ultralytics loads it, which executes what it carries; other files are passed.

    Raises:
        CheckpointError: as `read`, of a .pt that is here and not trusted; and of one that Ultralytics would download,
            but by a name of its releases.
        FileNotFoundError: as `weights.find`.
    """
    file = Path(find(path))
    if file.suffix == ".pt" and is_fetched(str(path)) and not trusted.get():
        raise CheckpointError(f"{path} would be loaded as it arrives: download it and give the file, or trust=True")
    here = (place for place in (file, Path(SETTINGS["weights_dir"]) / file) if place.is_file())  # as Ultralytics looks
    if file.suffix == ".pt" and not trusted.get() and (found := next(here, None)):
        read(found)
