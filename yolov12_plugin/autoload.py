"""Run at every interpreter start by yolov12_plugin.pth: has the plugin registered when Ultralytics is imported."""

import os
import sys
from _thread import get_ident

REGISTRY = "yolov12_plugin.registry"  # by its name, as a start-up imports nothing else of the plugin
# Names and arguments come first: a process reads a preset (yolo cfg=...) before it loads a model.
TASKS = "ultralytics.nn.tasks"
WATCHED = ("ultralytics.utils.checks", "ultralytics.cfg", TASKS)
OFF = ("off", "0", "false", "no")


def setting(variable: str) -> str:
    """What a variable of the environment is set to, without blanks around it; empty where it is not set."""
    return os.environ.get(variable, "").strip()


def is_off() -> bool:
    return setting("YOLO12_PLUGIN").lower() in OFF


_looking: set[tuple[int, str]] = set()  # by thread: another hook may ask all finders, this one too


class Finder:
    """Finds what the finders after it find, and has it registered right after its load."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        search = get_ident(), name
        if name not in WATCHED or search in _looking:
            return None
        _looking.add(search)
        try:
            here = sys.meta_path.index(cls) if cls in sys.meta_path else -1
            finders = (f for f in sys.meta_path[here + 1 :] if hasattr(f, "find_spec"))
            spec = next((spec for f in finders if (spec := f.find_spec(name, path, target))), None)
        finally:
            _looking.discard(search)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            _hook(spec.loader, name)
        return spec


def _hook(loader, name):
    load, own = loader.exec_module, "exec_module" in getattr(loader, "__dict__", ())
    if getattr(load, "hook_of", None) == name:  # a finder that gives one spec twice
        return

    def exec_module(module):
        if getattr(loader, "exec_module", None) is exec_module:  # or it is another hook's by now
            if own:  # which may take it off itself
                loader.exec_module = load
            else:
                del loader.exec_module
        load(module)
        try:
            from importlib import import_module

            import_module(REGISTRY).loaded(name)
        except Exception as e:  # a plugin must not break `import ultralytics`
            uninstall()
            print(f"yolov12-plugin is off: {type(e).__name__}: {e}", file=sys.stderr)

    exec_module.hook_of = name
    try:
        loader.exec_module = exec_module
    except (AttributeError, TypeError):  # a loader with slots: Ultralytics loads all the same
        said = f"yolov12-plugin: {loader!r} takes no hook; call yolov12_plugin.register() after the import"
        print(said, file=sys.stderr)


def install() -> None:
    if TASKS in sys.modules:
        from importlib import import_module

        import_module(REGISTRY).register()
    elif Finder not in sys.meta_path and not is_off():
        sys.meta_path.insert(0, Finder)


def uninstall() -> None:
    if Finder in sys.meta_path:
        sys.meta_path.remove(Finder)
