"""The whole contact with Ultralytics: what the plugin replaces, by what, and why."""

import contextlib
import functools
import importlib
import logging
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from yolov12_plugin import autoload, names, ownership
from yolov12_plugin.switches import is_on

LOGGER = logging.getLogger("yolov12_plugin")

TESTED = ("8.3.200", "8.4.190")  # the oldest and the newest Ultralytics that the tests have passed on


class Patch(NamedTuple):
    """One attribute of Ultralytics and what stands in for it while the plugin is registered."""

    owner: str  # module, or "module:class"
    attribute: str
    replacement: str  # "module:object"; a wrapper is called with the original
    why: str
    wrapper: bool = False
    reexports: tuple[str, ...] = ()  # modules that import the attribute by name


# fmt: off
PATCHES = (
    Patch("ultralytics.utils.checks", "check_yolov5u_filename", "yolov12_plugin.registry:find_plugin_yaml",
          "every look-up of a YAML passes here: yolov12*.yaml, presets and datasets are found by name",
          wrapper=True),
    Patch("ultralytics.cfg", "check_dict_alignment", "yolov12_plugin.registry:leave_out_of_presets",
          "arguments of a preset that this Ultralytics does not have are left out, with a notice",
          wrapper=True),
    Patch("ultralytics.utils.downloads", "GITHUB_ASSETS_STEMS", "yolov12_plugin.registry:add_released_names",
          "yolov12n alone means yolov12n.pt, as yolo12n does yolo12n.pt",
          wrapper=True, reexports=("ultralytics.solutions.streamlit_inference",)),
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
          wrapper=True, reexports=("ultralytics.nn",)),
    Patch("ultralytics.nn.tasks", "yaml_model_load", "yolov12_plugin.registry:prefer_user_yaml",
          "a user's own yolov12n.yaml wins (older Ultralytics looks for yolov12.yaml first)",
          wrapper=True, reexports=("ultralytics.nn", "ultralytics.engine.model")),
    Patch("ultralytics.nn.tasks", "torch_safe_load", "yolov12_plugin.registry:read_checkpoint",
          "yolov12*.pt are found or downloaded, and a checkpoint's YAML comes to say what its tensors show",
          wrapper=True, reexports=("ultralytics.nn",)),
    Patch("ultralytics.nn.tasks:BaseModel", "load", "yolov12_plugin.registry:load_other_layouts",
          "weights are converted where that is exact, and what does not fit is said",
          wrapper=True),
    Patch("ultralytics.utils.callbacks.base", "get_default_callbacks", "yolov12_plugin.registry:add_guard",
          "YOLO12_GUARD=1 guards trainings",
          wrapper=True, reexports=("ultralytics.utils.callbacks",)),
    Patch("ultralytics.utils.callbacks.base", "add_integration_callbacks", "yolov12_plugin.registry:prepare_exports",
          "an export's copy of a model gets the attention that its format takes; YOLO12_BENCH=1 verifies and times it",
          wrapper=True, reexports=("ultralytics.utils.callbacks",)),
)
# fmt: on


class Unsupported(RuntimeError):
    """This Ultralytics lacks a symbol that the plugin replaces or builds on; the message names it."""


_applied: dict[Patch, tuple[Any, Any]] = {}  # patch -> (original, replacement)


def find_plugin_yaml(stock: Callable) -> Callable:
    """Resolve names of the plugin's YAML files before Ultralytics searches its own folders."""

    @functools.wraps(stock)
    def check_yolov5u_filename(file, *args, **kwargs):
        path = names.find(file)
        if path is None:
            return stock(file, *args, **kwargs)
        from yolov12_plugin.presets import announce

        announce(path)
        return str(path)

    return check_yolov5u_filename


def leave_out_of_presets(stock: Callable) -> Callable:
    """Let a preset name arguments that this Ultralytics does not have."""

    @functools.wraps(stock)
    def check_dict_alignment(base, custom, *args, **kwargs):
        from yolov12_plugin.presets import leave_out

        leave_out(custom, base)
        return stock(base, custom, *args, **kwargs)

    return check_dict_alignment


def add_released_names(stock: Iterable[str]) -> frozenset[str]:
    """The names of models that Ultralytics takes for those of their weights, with the plugin's."""
    from yolov12_plugin.models import MODELS

    return frozenset((*stock, *MODELS))


def prefer_user_yaml(stock: Callable) -> Callable:
    """Load a YOLOv12 YAML that exists by its full path, which no search by name can mistake."""

    @functools.wraps(stock)
    def yaml_model_load(path):
        if not (os.path.basename(path).startswith("yolov12") and os.path.isfile(path)):
            return stock(path)
        return stock(os.path.abspath(path)) | {"yaml_file": str(path)}

    return yaml_model_load


def read_a2c2f_section(stock: Callable) -> Callable:
    """Hand the options of a YAML's `a2c2f:` section to the blocks that the parser builds."""
    from yolov12_plugin.nn.modules import A2C2f
    from yolov12_plugin.nn.options import read_section

    @functools.wraps(stock)
    def parse_model(d, *args, **kwargs):
        return stock(read_section(d, A2C2f), *args, **kwargs)

    return parse_model


def read_checkpoint(stock: Callable) -> Callable:
    """Find the authors' weights by name, and complete what a checkpoint says of its model."""

    @functools.wraps(stock)
    def torch_safe_load(weight, *args, **kwargs):
        # Not at the start of every process: these modules need an Ultralytics that is loaded.
        from yolov12_plugin.checkpoints import complete
        from yolov12_plugin.weights import find

        ckpt, file = stock(find(weight), *args, **kwargs)
        complete(ckpt)
        return ckpt, file

    return torch_safe_load


def load_other_layouts(stock: Callable) -> Callable:
    """Load weights of another layout where that is exact, and say which tensors a YOLOv12 did not take over."""

    @functools.wraps(stock)
    def load(self, weights, verbose=True):
        from yolov12_plugin.layouts import attention_blocks, reported, transfer

        source = (weights.get("ema") or weights.get("model")) if isinstance(weights, dict) else weights
        if not (attention_blocks(self) and hasattr(source, "model")):
            return stock(self, weights, verbose)
        source, changes = transfer(source, self)
        with reported(source, self, changes) if verbose else contextlib.nullcontext():
            stock(self, source, verbose=False)

    return load


def add_guard(stock: Callable) -> Callable:
    """Give models and trainers the guard where YOLO12_GUARD asks for it, in every process of a training."""

    @functools.wraps(stock)
    def get_default_callbacks():
        callbacks = stock()
        if is_on("YOLO12_GUARD"):
            from yolov12_plugin.guard import TrainingGuard

            TrainingGuard().attach(SimpleNamespace(callbacks=callbacks))
        return callbacks

    return get_default_callbacks


def prepare_exports(stock: Callable) -> Callable:
    """Have an exporter prepare the attention of its copy of the model, and benchmark it where YOLO12_BENCH asks."""

    @functools.wraps(stock)
    def add_integration_callbacks(instance):
        stock(instance)
        if not hasattr(instance, "export_engine"):
            return
        start, end = (instance.callbacks[f"on_export_{event}"] for event in ("start", "end"))
        if prepare_export not in start:  # a model keeps its callbacks from export to export
            start.insert(0, prepare_export)
        if is_on("YOLO12_BENCH"):
            from yolov12_plugin.benchmark.hook import TensorRTBenchmark

            if not any(isinstance(c, TensorRTBenchmark) for c in end):
                TensorRTBenchmark(exits=True).attach(instance)

    return add_integration_callbacks


def prepare_export(exporter: Any) -> None:
    """Give the exporter's fused copy of a model the form of attention that its format takes."""
    from yolov12_plugin.nn.modules import fuse_attention

    fuse_attention(exporter.model, exporter.args.format)


def spec_that_registers(name: str, path: Any, target: Any) -> ModuleSpec | None:
    """What the real finders give for a watched module of Ultralytics, with the registration right after its load."""
    finders = (f for f in sys.meta_path if f is not autoload.Finder and hasattr(f, "find_spec"))
    spec = next((spec for finder in finders if (spec := finder.find_spec(name, path, target))), None)
    loader: Any = spec and spec.loader
    if hasattr(loader, "exec_module"):
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            load(module)
            _loaded(name)

        try:
            loader.exec_module = exec_module
        except AttributeError:  # a loader with slots: Ultralytics loads all the same
            LOGGER.warning("yolov12-plugin: %r takes no hook; call yolov12_plugin.register() after the import", loader)
    return spec


def _loaded(name: str) -> None:
    try:
        if name == autoload.TASKS:
            autoload.uninstall()
            register()
        elif not _has_tasks():
            autoload.uninstall()
            _warn_unsupported(autoload.TASKS)
        elif not autoload.is_off():
            apply(patch for patch in PATCHES if patch.owner == name)
    except Exception as e:  # a plugin must not break `import ultralytics`
        if name == autoload.TASKS:  # what failed for the names fails, and is said, here
            unregister()
            LOGGER.warning("yolov12-plugin is off: %s: %s", type(e).__name__, e)


def _has_tasks() -> bool:
    # Importing it here would be too early: the module that was just imported is needed by it.
    nn = PathFinder.find_spec("ultralytics.nn", sys.modules["ultralytics"].__path__)
    return nn is not None and PathFinder.find_spec(autoload.TASKS, nn.submodule_search_locations) is not None


def register() -> bool:
    """Make this process's Ultralytics build YOLOv12; runs by itself when Ultralytics is imported.

    Returns whether the plugin is registered: False where YOLO12_PLUGIN=off, or where this Ultralytics lacks one of the
    symbols in `PATCHES`, which leaves Ultralytics untouched and prints one warning.
    """
    if autoload.is_off():
        return False
    try:
        apply(PATCHES)
    except Unsupported as e:
        unregister()
        _warn_unsupported(str(e))
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
    return all(map(is_in_place, PATCHES))


def is_in_place(patch: Patch) -> bool:
    """Whether the plugin's replacement is what Ultralytics has there now."""
    if patch not in _applied:
        return False
    return getattr(pkgutil.resolve_name(patch.owner), patch.attribute, None) is _applied[patch][1]


def apply(patches: Iterable[Patch]) -> None:
    """Put the replacements of `patches` in place; those already there are left.

    Raises:
        Unsupported: this Ultralytics lacks a symbol; nothing of `patches` was applied.
    """
    found = {}
    for patch in patches:
        try:
            found[patch] = getattr(pkgutil.resolve_name(patch.owner), patch.attribute)
        except (ImportError, AttributeError) as e:
            raise Unsupported(f"{patch.owner}.{patch.attribute}") from e
    ready = {}
    for patch, current in found.items():
        if current is _applied.get(patch, (None, None))[1]:
            continue
        try:
            replacement = pkgutil.resolve_name(patch.replacement)
            ready[patch] = current, replacement(current) if patch.wrapper else replacement
        except ImportError as e:  # of what the plugin builds on
            raise Unsupported(f"{e.name} as it was ({e})") from e
    for patch, (current, replacement) in ready.items():
        _swap(patch, current, replacement)
    _applied.update(ready)
    if replaced := replaced_classes(ready):
        ownership.tell(replaced)


def replaced_classes(patches: Iterable[Patch] = PATCHES) -> dict[str, Any]:
    """What the plugin's classes stand in for now: the names in Ultralytics, and the objects found there."""
    return {
        f"{patch.owner}.{patch.attribute}": _applied[patch][0]
        for patch in patches
        if patch in _applied and not patch.wrapper
    }


def _swap(patch: Patch, old: Any, new: Any) -> None:
    # While Ultralytics is being imported a re-export is not there yet: it will pick up the replacement by itself.
    for place in (pkgutil.resolve_name(patch.owner), *map(sys.modules.get, patch.reexports)):
        if getattr(place, patch.attribute, None) is old:
            setattr(place, patch.attribute, new)


@functools.cache
def _warn_unsupported(symbol: str) -> None:
    """Say once which symbol this Ultralytics lacks, and what follows."""
    LOGGER.warning(
        "yolov12-plugin: Ultralytics %s has no %s. YOLOv12 is off and Ultralytics untouched: update yolov12-plugin, "
        "or set YOLO12_PLUGIN=off.",
        importlib.import_module("ultralytics").__version__,
        symbol,
    )
