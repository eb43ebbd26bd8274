"""Run at interpreter start by yolov12_plugin.pth: registers the plugin once Ultralytics is imported.

Imports nothing but what the interpreter already holds, so that a process without Ultralytics pays next to nothing.
"""

import os
import sys

# A process may look up a preset (yolo cfg=...) before it loads a model.
CHECKS, TASKS = WATCHED = ("ultralytics.utils.checks", "ultralytics.nn.tasks")


class Finder:
    """Meta path finder that lets the real finders load Ultralytics, and acts right after."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name not in WATCHED:
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not cls)
        spec = next((spec for spec in specs if spec), None)
        if spec and spec.loader:
            load = spec.loader.exec_module

            def exec_module(module):
                del spec.loader.exec_module
                load(module)
                loaded(name)

            spec.loader.exec_module = exec_module
        return spec


def is_off():
    """Whether YOLO12_PLUGIN in the environment turns the plugin off for this process."""
    return os.environ.get("YOLO12_PLUGIN", "").lower() in ("off", "0", "false", "no")


def install():
    """Wait for Ultralytics, or register at once where it is loaded already."""
    if is_off():
        return
    if TASKS in sys.modules:
        loaded(TASKS)
    elif Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)


def uninstall():
    """Stop waiting."""
    if Finder in sys.meta_path:
        sys.meta_path.remove(Finder)


def has_tasks():
    """Whether Ultralytics will be able to import its model parser, found without importing it."""
    from importlib.machinery import PathFinder

    nn = PathFinder.find_spec("ultralytics.nn", sys.modules["ultralytics"].__path__)
    return nn is not None and PathFinder.find_spec(TASKS, nn.submodule_search_locations) is not None


def loaded(name):
    """Act on a loaded module of Ultralytics; never raises."""
    try:
        from yolov12_plugin import registry

        if name == TASKS:
            uninstall()
            registry.register()
        elif not has_tasks():
            uninstall()
            registry.warn_unsupported(TASKS)
        elif not is_off():
            registry.apply(patch for patch in registry.PATCHES if patch.module == name)
    except Exception as e:
        if name == TASKS:  # whatever failed earlier fails, and is reported, here
            print(f"yolov12-plugin is off: {type(e).__name__}: {e}", file=sys.stderr)
