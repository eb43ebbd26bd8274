"""Run at every interpreter start by yolov12_plugin.pth: calls `registry` when Ultralytics is imported."""

import os
import sys

# Names and arguments come first: a process reads a preset (yolo cfg=...) before it loads a model.
TASKS = "ultralytics.nn.tasks"
WATCHED = ("ultralytics.utils.checks", "ultralytics.cfg", TASKS)


class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in WATCHED:
            try:
                from yolov12_plugin import registry
            except Exception as e:  # a plugin must not break `import ultralytics`
                uninstall()
                print(f"yolov12-plugin is off: {type(e).__name__}: {e}", file=sys.stderr)
            else:
                return registry.spec_that_registers(name, path, target)


OFF = ("off", "0", "false", "no")


def is_off():
    return os.environ.get("YOLO12_PLUGIN", "").lower() in OFF


def install():
    if TASKS in sys.modules:
        from yolov12_plugin import registry

        registry.register()
    elif Finder not in sys.meta_path and not is_off():
        sys.meta_path.insert(0, Finder)


def uninstall():
    if Finder in sys.meta_path:
        sys.meta_path.remove(Finder)
