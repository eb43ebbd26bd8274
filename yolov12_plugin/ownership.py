"""Whether what the plugin replaces in Ultralytics is a released class, or code of the user or of another plugin."""

import ast
import base64
import functools
import hashlib
import inspect
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

LOGGER = logging.getLogger("yolov12_plugin")

# `fingerprints` of the classes in the releases from the oldest supported one on, each with the first that has it. They
# are looked up where a file as a whole is of no release. tests/test_ownership.py says what to add for a new one.
RELEASED = {
    "AAttn": {
        "03214eb847b65293",  # 8.3.200
        "eb34ee9e50ba395e",  # 8.4.34
        "d90470b90aee69cf",  # 8.4.35
        "dc7866e1b9945836",  # 8.4.83
    },
    "ABlock": {
        "9ef8b1754bfcfe75",  # 8.3.200
        "71ce1434b91414c6",  # 8.3.242
    },
    "A2C2f": {
        "2ade758b0af0707a",  # 8.3.200
        "29ce66fb250a0483",  # 8.3.238
    },
}


def tell(symbols: Mapping[str, Any]) -> None:
    """Say in one line, once a process, which of the objects that are replaced are no released ones; never raises."""
    try:
        if _is_a_worker():
            return
        if found := foreign(symbols):
            _warn("; ".join(found))
    except Exception as e:  # a question about ownership must not keep anybody from their models
        LOGGER.debug("yolov12-plugin: whose the replaced classes are cannot be told: %s: %s", type(e).__name__, e)


@functools.cache
def _warn(replaced: str) -> None:
    LOGGER.warning(
        "yolov12-plugin replaces code that is not of an Ultralytics release: %s. To keep it, set YOLO12_PLUGIN=off.",
        replaced,
    )


def _is_a_worker() -> bool:
    """Whether another process says it already: the first of a distributed training, or the parent of a data loader."""
    process = sys.modules.get("multiprocessing.process")
    return os.environ.get("RANK", "-1") not in ("-1", "0") or bool(process and process.parent_process())


def foreign(symbols: Mapping[str, Any]) -> list[str]:
    """Those of some symbols of Ultralytics that hold no released class, each with the file it comes from.

    A symbol whose source cannot be read (compiled, frozen) is taken for released.
    """
    places: dict[str, list[str]] = {}
    seen = set()
    for symbol, found in symbols.items():
        if id(found) not in seen and (place := origin(symbol.rpartition(".")[2], found)):
            places.setdefault(place, []).append(symbol)
        seen.add(id(found))
    return [f"{', '.join(symbols)} from {place}" for place, symbols in places.items()]


def origin(name: str, found: Any) -> str | None:
    """The file of what is no released class of this name; None of a released one, and where nobody can tell."""
    module = sys.modules.get(getattr(found, "__module__", None) or "")
    if not isinstance(found, type) or found.__name__ != name or not _is_of(module, "ultralytics"):
        return _file(module)
    for function in _functions(found):
        if function.__globals__.get("__name__", "").startswith("yolov12_plugin."):  # of a registration before this one
            return None
        if function.__globals__ is not vars(module) or not function.__qualname__.startswith(f"{found.__qualname__}."):
            return function.__code__.co_filename
    file = _file(module)
    try:
        source = Path(file).read_bytes()
        if Path(file).suffix != ".py" or _is_whole(source, Path(file)):
            return None
        known = fingerprints(source).get(name) in RELEASED.get(name, ()) or _is_in(source, _other_records())
    except (OSError, SyntaxError, ValueError):
        return None
    return None if known else file


def _is_of(module: ModuleType | None, package: str) -> bool:
    return module is not None and module.__name__.partition(".")[0] == package


def _file(module: ModuleType | None) -> str:
    return str(getattr(module, "__file__", None) or getattr(module, "__name__", "an unknown module"))


def _functions(found: type) -> Iterable[Any]:
    """The functions that a class defines, without what PyTorch's decorators lay around them."""
    for value in vars(found).values():
        function = getattr(value, "__func__", value)  # of static and class methods
        if isinstance(function, FunctionType):
            torchs = function.__globals__.get("__name__", "").startswith("torch.")
            yield inspect.unwrap(function) if torchs else function


def _is_whole(source: bytes, file: Path) -> bool:
    """Whether a file is as the package beside it was installed."""
    packages = next((folder.parent for folder in file.parents if folder.name == "ultralytics"), file.parent)
    return _is_in(source, (path.read_text(encoding="utf-8") for path in packages.glob("ultralytics*.dist-info/RECORD")))


def _other_records() -> Iterable[str]:
    """What was installed of Ultralytics anywhere on the path: a copy of the package comes without it."""
    return (found.read_text("RECORD") or "" for found in metadata.distributions(name="ultralytics"))


def _is_in(source: bytes, records: Iterable[str]) -> bool:
    digest = base64.urlsafe_b64encode(hashlib.sha256(source).digest()).rstrip(b"=").decode()
    return any(f",sha256={digest}," in record for record in records)


@functools.lru_cache(maxsize=1)  # of one file, in which all of them are
def fingerprints(source: bytes) -> dict[str, str]:
    """Digests of what the classes of a source compute: comments, layout, docstrings and annotations do not count.

    Raises:
        SyntaxError, ValueError: it is no Python source.
    """
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    return {
        name: hashlib.sha256(repr(_tree(node)).encode()).hexdigest()[:16]
        for name, node in classes.items()
        if name in RELEASED
    }


def _tree(node: Any) -> Any:
    """The parts of a syntax tree that decide what it computes, alike in every version of Python."""
    if isinstance(node, list):
        return [
            _tree(part) for part in node if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        ]
    if not isinstance(node, ast.AST):
        return repr(node)
    left_out = ("annotation", "returns", "ctx", "kind", "type_comment")
    fields = ((field, value) for field, value in ast.iter_fields(node) if field not in left_out)
    return [type(node).__name__, *([field, _tree(value)] for field, value in fields if value not in (None, []))]
