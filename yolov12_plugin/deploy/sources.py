"""What an export is given, and the name that it gets."""

import os
import re
from pathlib import Path
from typing import Any

from torch import nn
from ultralytics.engine.model import Model

from yolov12_plugin.checkpoints.weights import find
from yolov12_plugin.deploy.runtimes import runtime_of
from yolov12_plugin.deploy.verify import load
from yolov12_plugin.errors import CheckpointError, ExportError


def open_source(model: str | os.PathLike[str] | Model) -> Path | Model:
    """A model in PyTorch, or the path of what was exported from one.

    Args:
        model: a `YOLO` or its like, or what names one: a .pt, a .yaml, an exported file.

    Raises:
        ExportError: it cannot be loaded.
        OSError: it is not there.
    """
    if isinstance(model, Model):
        loaded: Model = model
    else:
        path = Path(find(model))
        if runtime_of(path):
            if not path.exists():
                raise FileNotFoundError(f"{path} does not exist")
            return path
        try:
            loaded = load(path)
        except (OSError, CheckpointError):
            raise
        except Exception as e:
            raise ExportError(f"{path} cannot be loaded ({e})") from e
    held: Any = loaded.model
    if isinstance(held, nn.Module):
        return loaded
    if runtime_of(Path(held)):  # of an exported file, a YOLO object holds the path
        return open_source(held)
    raise ExportError(f"{held} is neither a model in PyTorch nor an exported file")


def name_of(source: Path | Model) -> str:
    """The name of a model's file, in the characters that `check_name` takes."""
    path = source if isinstance(source, Path) else Path(source.ckpt_path or source.model_name or "")
    return re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem)


def check_name(name: str) -> None:
    """Raises ExportError where a name is not of letters, digits, - and _."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ExportError(f"name={name!r} must be of letters, digits, - and _")
