"""The whole contact with Ultralytics, in one table: what the plugin replaces, by what, and why."""

import functools
import importlib
import logging
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder

from yolov12_plugin import autoload, ownership, patching
from yolov12_plugin.patching import Patch, Unsupported

LOGGER = logging.getLogger("yolov12_plugin")

TESTED = ("8.3.200", "8.4.190")  # the oldest and the newest Ultralytics that the tests have passed on

# fmt: off
PATCHES = (
    Patch("ultralytics.utils.checks", "check_yolov5u_filename", "yolov12_plugin.training.presets:find_plugin_yaml",
          "every look-up of a YAML passes here: yolov12*.yaml, presets and datasets are found by name",
          wrapper=True),
    Patch("ultralytics.utils.checks", "check_file", "yolov12_plugin.names:name_missing",
          "a misspelt name of a model, preset or dataset is answered with the nearest ones",
          wrapper=True, reexports=("ultralytics.nn.tasks", "ultralytics.engine.trainer", "ultralytics.data.build",
                                   "ultralytics.data.utils", "ultralytics.data.converter",
                                   "ultralytics.models.yolo.world.train_world")),
    Patch("ultralytics.cfg", "check_dict_alignment", "yolov12_plugin.training.presets:leave_out_of_presets",
          "arguments of a preset that this Ultralytics does not have are left out, with a notice",
          wrapper=True),
    Patch("ultralytics.utils.downloads", "GITHUB_ASSETS_STEMS", "yolov12_plugin.models:add_released_names",
          "yolov12n alone means yolov12n.pt, as yolo12n does yolo12n.pt",
          wrapper=True, reexports=("ultralytics.solutions.streamlit_inference",)),
    Patch("ultralytics.utils.downloads", "download", "yolov12_plugin.datasets.shapes:draw_by_name",
          "data=shapes-cls is drawn where Ultralytics would download the folder of a classification dataset",
          wrapper=True, reexports=("ultralytics", "ultralytics.data.utils", "ultralytics.data.converter")),
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
    Patch("ultralytics.nn.tasks", "parse_model", "yolov12_plugin.nn.modules:read_a2c2f_section",
          "reads the a2c2f: section of a model YAML",
          wrapper=True, reexports=("ultralytics.nn",)),
    Patch("ultralytics.nn.tasks", "yaml_model_load", "yolov12_plugin.names:prefer_user_yaml",
          "a user's own yolov12n.yaml wins (older Ultralytics looks for yolov12.yaml first)",
          wrapper=True, reexports=("ultralytics.nn", "ultralytics.engine.model")),
    Patch("ultralytics.nn.tasks", "torch_safe_load", "yolov12_plugin.checkpoints.loading:read_checkpoint",
          "yolov12*.pt are found or downloaded, and a checkpoint's YAML comes to say what its tensors show",
          wrapper=True, reexports=("ultralytics.nn",)),
    Patch("ultralytics.nn.tasks:BaseModel", "load", "yolov12_plugin.checkpoints.loading:load_other_layouts",
          "weights are converted where that is exact, and what does not fit is said",
          wrapper=True),
    Patch("ultralytics.utils.callbacks.base", "get_default_callbacks", "yolov12_plugin.training.guard:add_guard",
          "YOLO12_GUARD=1 guards trainings",
          wrapper=True, reexports=("ultralytics.utils.callbacks",)),
    Patch("ultralytics.utils.callbacks.base", "add_integration_callbacks",
          "yolov12_plugin.benchmark.exporting:prepare_exports",
          "an export's copy of a model gets the attention that its format takes; YOLO12_BENCH=1 verifies and times it",
          wrapper=True, reexports=("ultralytics.utils.callbacks",)),
)
# fmt: on


def register() -> bool:
    """Make this process's Ultralytics build YOLOv12; runs by itself when Ultralytics is imported.

    Returns:
        Whether the plugin is registered: False where YOLO12_PLUGIN=off, or where this Ultralytics is older than the
        oldest supported one or lacks one of the symbols in `PATCHES`, which leaves Ultralytics untouched and prints one
        warning.

    Examples:
        >>> import yolov12_plugin as y12
        >>> y12.register()
        True
    """
    if autoload.is_off():
        return False
    if line := too_old(version()):
        _warn(f"yolov12-plugin is off, and Ultralytics untouched: {line}, or set YOLO12_PLUGIN=off.")
        return False
    try:
        _apply(PATCHES)
    except Unsupported as e:
        unregister()
        _warn(unsupported(str(e)))
        return False
    return True


def unregister() -> None:
    """Put back the very objects that `register` replaced, and stop waiting for Ultralytics to be imported.

    Examples:
        >>> import yolov12_plugin as y12
        >>> y12.unregister()
        >>> y12.is_registered()
        False
        >>> y12.register()
        True
    """
    autoload.uninstall()
    patching.restore()


def is_registered() -> bool:
    """Whether every replacement of `PATCHES` is in place.

    Examples:
        >>> import ultralytics.nn.tasks, yolov12_plugin as y12
        >>> y12.is_registered()
        True
    """
    return all(map(patching.is_in_place, PATCHES))


def loaded(module: str) -> None:
    """Apply what can be applied once a module of `autoload.WATCHED` is there; `import ultralytics` goes on anyhow."""
    try:
        if module == autoload.TASKS:
            autoload.uninstall()
            register()
        elif too_old(version()):  # which is said once it has loaded
            return
        elif not _has_tasks():
            autoload.uninstall()
            _warn(unsupported(autoload.TASKS))
        elif not autoload.is_off():
            _apply(patch for patch in PATCHES if patch.owner == module)
    except Exception as e:
        if module == autoload.TASKS:  # what failed for the names fails, and is said, here
            unregister()
            LOGGER.warning("yolov12-plugin is off: %s: %s", type(e).__name__, e)


def _apply(patches: Iterable[Patch]) -> None:
    if replaced := patching.replaced_classes(patching.apply(patches)):
        ownership.tell(replaced)


def _has_tasks() -> bool:
    # Importing it here would be too early: the module that was just imported is needed by it.
    nn = PathFinder.find_spec("ultralytics.nn", sys.modules["ultralytics"].__path__)
    return nn is not None and PathFinder.find_spec(autoload.TASKS, nn.submodule_search_locations) is not None


def too_old(version: str) -> str | None:
    """What to say of an Ultralytics below the oldest supported one; None of any other."""
    from packaging.version import InvalidVersion, Version

    try:
        if Version(version) >= Version(TESTED[0]):
            return None
    except InvalidVersion:
        return None
    return (
        f"Ultralytics {version} is older than {TESTED[0]}, the oldest that it supports: "
        f'pip install --upgrade "ultralytics>={TESTED[0]}"'
    )


def unsupported(symbol: str) -> str:
    return (
        f"yolov12-plugin: Ultralytics {version()} has no {symbol}. YOLOv12 is off and Ultralytics untouched: update "
        "yolov12-plugin, or set YOLO12_PLUGIN=off."
    )


def version() -> str:
    """Of the Ultralytics in this process."""
    return str(importlib.import_module("ultralytics").__version__)


@functools.cache
def _warn(line: str) -> None:
    """Say a line once."""
    LOGGER.warning("%s", line)
