"""Where the plugin's YAML files are, and how they are found by name."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# Inside the package in a wheel, beside it in a checkout.
CFG = next((p for p in (PACKAGE / "cfg", PACKAGE.parent / "cfg") if p.is_dir()), PACKAGE / "cfg")

# Where the authors' repository has its model YAMLs: the path in it, and its ends, by which Ultralytics finds files too.
OF_THE_AUTHORS = ("ultralytics/cfg/models/v12", "cfg/models/v12", "models/v12", "v12")


def find(file: str | os.PathLike[str]) -> Path | None:
    """Path of the plugin's YAML file of this name or trailing path, None if there is none.

    A model's path in the authors' repository, ultralytics/cfg/models/v12/, is one too. A file that exists where the
    user is, of whatever name, is the user's: it is never replaced.
    """
    name = os.fspath(file).strip()
    if not name.endswith((".yaml", ".yml")) or os.path.isfile(name):
        return None
    path = Path(name)
    if path.parent.as_posix() in OF_THE_AUTHORS:
        model = CFG / "models" / path.name
        return model if os.path.isfile(model) else None  # Path.is_file raises at a name that is too long
    tail = "/" + path.as_posix()
    return next((p for p in sorted(CFG.rglob("*.yaml")) if p.as_posix().endswith(tail)), None)


def prefer_user_yaml(stock: Callable) -> Callable:
    """Load a YOLOv12 YAML that exists by its full path, which no search by name can mistake."""

    @functools.wraps(stock)
    def yaml_model_load(path):
        if not (os.path.basename(path).startswith("yolov12") and os.path.isfile(path)):
            return stock(path)
        return stock(os.path.abspath(path)) | {"yaml_file": str(path)}

    return yaml_model_load
