"""YOLOv12 for the Ultralytics that people already have.

This file runs at every interpreter start: it imports nothing, and loads each public name when it is first used.
"""

__version__ = "0.1.0"

_PUBLIC = {
    "A2C2f": "yolov12_plugin.nn.modules",
    "AAttn": "yolov12_plugin.nn.modules",
    "ABlock": "yolov12_plugin.nn.modules",
    "is_registered": "yolov12_plugin.registry",
    "preset": "yolov12_plugin.presets",
    "register": "yolov12_plugin.registry",
    "unregister": "yolov12_plugin.registry",
}
__all__ = tuple(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'yolov12_plugin' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__():
    return sorted((*globals(), *_PUBLIC))
