"""The whole contact with Ultralytics: what the plugin replaces, by what, and why."""

import functools
import importlib
import logging
import pkgutil
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from yolov12_plugin import autoload, names

LOGGER = logging.getLogger("yolov12_plugin")


class Patch(NamedTuple):
    """One attribute of Ultralytics and what stands in for it while the plugin is registered."""

    module: str
    attribute: str
    replacement: str  # "module:object"; a wrapper is called with the original
    why: str
    wrapper: bool = False
    reexport: str | None = None  # module that imports the attribute by name


# fmt: off
PATCHES = (
    Patch("ultralytics.utils.checks", "check_yolov5u_filename", "yolov12_plugin.registry:find_plugin_yaml",
          "every look-up of a YAML passes here: yolov12*.yaml, presets and datasets are found by name",
          wrapper=True),
    Patch("ultralytics.nn.modules.block", "AAttn", "yolov12_plugin.nn.modules:AAttn",
          "checkpoints name this class"),
    Patch("ultralytics.nn.modules.block", "ABlock", "yolov12_plugin.nn.modules:ABlock",
          "checkpoints name this class"),
    Patch("ultralytics.nn.modules.block", "A2C2f", "yolov12_plugin.nn.modules:A2C2f",
          "checkpoints name this class"),
    Patch("ultralytics.nn.modules", "A2C2f", "yolov12_plugin.nn.modules:A2C2f",
          "the public name of the class"),
    Patch("ultralytics.nn.tasks", "A2C2f", "yolov12_plugin.nn.modules:A2C2f",
          "parse_model looks up layers here"),
    Patch("ultralytics.nn.tasks", "parse_model", "yolov12_plugin.registry:read_a2c2f_section",
          "reads the a2c2f: section of a model YAML",
          wrapper=True, reexport="ultralytics.nn"),
)
# fmt: on

_applied: dict[Patch, tuple[Any, Any]] = {}  # patch -> (original, replacement)


def find_plugin_yaml(stock: Callable) -> Callable:
    """Resolve names of the plugin's YAML files before Ultralytics searches its own folders."""

    @functools.wraps(stock)
    def check_yolov5u_filename(file, *args, **kwargs):
        path = names.find(file)
        return str(path) if path else stock(file, *args, **kwargs)

    return check_yolov5u_filename


def read_a2c2f_section(stock: Callable) -> Callable:
    """Hand the options of a YAML's `a2c2f:` section to the blocks that the parser builds."""
    from yolov12_plugin.nn.modules import A2C2f
    from yolov12_plugin.nn.options import a2c2f_section

    @functools.wraps(stock)
    def parse_model(d, *args, **kwargs):
        with a2c2f_section(d, A2C2f) as d:
            return stock(d, *args, **kwargs)

    return parse_model


def register() -> bool:
    """Make this process's Ultralytics build YOLOv12; runs by itself when Ultralytics is imported.

    Returns whether the plugin is registered: False where YOLO12_PLUGIN=off, or where this Ultralytics lacks one of the
    symbols in `PATCHES`, which leaves Ultralytics untouched and prints one warning.
    """
    if autoload.is_off():
        return False
    try:
        apply(PATCHES)
    except Exception as e:  # a plugin must not break `import ultralytics`
        unregister()
        _warn(f"{e}. YOLOv12 is off and Ultralytics untouched: update yolov12-plugin, or set YOLO12_PLUGIN=off.")
        return False
    return True


def unregister() -> None:
    """Put back the very objects that `register` replaced, and stop waiting for Ultralytics to be imported."""
    autoload.uninstall()
    for patch, (original, replacement) in reversed(_applied.items()):
        _swap(patch, replacement, original)
    _applied.clear()


def is_registered() -> bool:
    """Whether every replacement of `PATCHES` is in place."""
    return set(_applied) == set(PATCHES) and all(
        getattr(sys.modules.get(patch.module), patch.attribute, None) is replacement
        for patch, (_, replacement) in _applied.items()
    )


def apply(patches: Iterable[Patch]) -> None:
    """Put the replacements of `patches` in place; those already there are left.

    Raises:
        RuntimeError: this Ultralytics has no such symbol; nothing of `patches` was applied.
    """
    found = {}
    for patch in patches:
        try:
            found[patch] = getattr(importlib.import_module(patch.module), patch.attribute)
        except (ImportError, AttributeError) as e:
            version = getattr(sys.modules.get("ultralytics"), "__version__", "(unknown version)")
            raise RuntimeError(f"Ultralytics {version} has no {patch.module}.{patch.attribute} ({e})") from e
    ready = {}
    for patch, current in found.items():
        if current is _applied.get(patch, (None, None))[1]:
            continue
        replacement = pkgutil.resolve_name(patch.replacement)
        ready[patch] = current, replacement(current) if patch.wrapper else replacement
    for patch, (current, replacement) in ready.items():
        _swap(patch, current, replacement)
    _applied.update(ready)


def _swap(patch: Patch, old: Any, new: Any) -> None:
    for module in (patch.module, patch.reexport):
        # While Ultralytics is being imported a re-export is not there yet: it will pick up the replacement by itself.
        if module and getattr(sys.modules.get(module), patch.attribute, None) is old:
            setattr(sys.modules[module], patch.attribute, new)


@functools.cache
def _warn(message: str) -> None:
    LOGGER.warning("yolov12-plugin: %s", message)
