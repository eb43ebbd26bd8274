"""Run at every interpreter start by yolov12_plugin.pth: hands over to `registry` once Ultralytics is imported."""

import os
import sys

# Names come first: a process may look up a preset (yolo cfg=...) before it loads a model.
CHECKS, TASKS = WATCHED = ("ultralytics.utils.checks", "ultralytics.nn.tasks")


class Finder:
    """Lets the real finders load Ultralytics, and acts right after."""

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


def loaded(name):
    try:
        from yolov12_plugin import registry

        registry.on_load(name)
    except Exception as e:  # a plugin must not break `import ultralytics`
        if name == TASKS:
            print(f"yolov12-plugin is off: {type(e).__name__}: {e}", file=sys.stderr)


def is_off():
    return os.environ.get("YOLO12_PLUGIN", "").lower() in ("off", "0", "false", "no")


def install():
    if is_off():
        return
    if TASKS in sys.modules:
        loaded(TASKS)
    elif Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)


def uninstall():
    if Finder in sys.meta_path:
        sys.meta_path.remove(Finder)
