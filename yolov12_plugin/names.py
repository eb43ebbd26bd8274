"""Where the plugin's YAML files are, and how they are found by name."""

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Any

from yolov12_plugin.errors import either
from yolov12_plugin.models import MODELS

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


def missing(file: str | os.PathLike[str]) -> str | None:
    """What to say of a file that is not there and has nearly the name of a model, preset or dataset, or of weights.

    None where the name is of another family: yolov11n.yaml is no misspelt yolov12n.yaml.
    """
    name = os.fspath(file).strip()
    stem, typed = os.path.splitext(os.path.basename(name))
    suffix = None
    if typed:
        near = get_close_matches(typed.lower(), (".yaml", ".yml", ".pt"), n=1, cutoff=0.7)
        if not near:  # an exported file
            return None
        suffix = near[0].replace("yml", "yaml")
    family = re.match(r"yolo\D*(\d+)", stem, re.IGNORECASE)
    if family and set(family[1]) != set("12"):
        return None
    if near := nearest(stem, _known(suffix)):
        return f"'{name}' does not exist; did you mean {either(other + (suffix or '') for other in near)}?"
    if suffix and re.match(r"yolov\W?12", stem, re.IGNORECASE):
        tasks = "-turbo|-seg|-cls|-pose|-obb" if suffix == ".yaml" else "-turbo|-seg|-cls"
        return f"'{name}' does not exist; the plugin has yolov12{{n,s,m,l,x}}[{tasks}]{suffix}"
    return None


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Names that a misspelt one may stand for, the likeliest first; case, _ for - and doubled letters do not count."""

    def plain(name: str) -> str:
        return re.sub(r"(.)\1+", r"\1", re.sub(r"[\s_-]+", "-", name.lower()))

    likeness = {other: SequenceMatcher(None, plain(name), plain(other)).ratio() for other in known}
    best = max(likeness.values(), default=0)
    near = [other for other in likeness if likeness[other] >= max(0.8, best - 0.06)]
    return sorted(near, key=lambda other: -likeness[other])


@functools.cache
def _known(suffix: str | None) -> tuple[str, ...]:
    """Stems of what the plugin finds by name: YAMLs, weights, and models where there is no suffix."""
    if suffix is None:
        return tuple(MODELS)
    if suffix == ".pt":
        return tuple(model.name for model in MODELS.values() if model.weights)
    stems = [path.stem for path in sorted(CFG.rglob("*.yaml"))]
    scaled = [stem.replace("yolov12", f"yolov12{scale}", 1) for stem in stems for scale in "nsmlx"]
    return tuple(dict.fromkeys(stems + [stem for stem in scaled if re.match(r"yolov12[nsmlx](-|$)", stem)]))


def name_missing(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Answer a misspelt name of the plugin's with the nearest ones."""

    @functools.wraps(stock)
    def check_file(file: Any, *args: Any, **kwargs: Any) -> Any:
        with _naming(file):
            return stock(file, *args, **kwargs)

    return check_file


@contextmanager
def _naming(file: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as e:
        if "does not exist" in str(e) and (line := missing(str(file))):
            raise FileNotFoundError(line) from e
        raise


def prefer_user_yaml(stock: Callable) -> Callable:
    """Load a YOLOv12 YAML that exists by its full path, which no search by name can mistake."""

    @functools.wraps(stock)
    def yaml_model_load(path):
        if not (os.path.basename(path).startswith("yolov12") and os.path.isfile(path)):
            with _naming(path):  # Ultralytics says the name without its scale
                return stock(path)
        return stock(os.path.abspath(path)) | {"yaml_file": str(path)}

    return yaml_model_load
