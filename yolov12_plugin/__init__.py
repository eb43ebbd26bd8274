"""YOLOv12 for the Ultralytics that people already have."""

__version__ = "0.1.0"

# Run at every interpreter start: public names are imported when they are first used.
_MODULES = {
    "benchmark.hook": ("TensorRTBenchmark",),
    "deploy.verify": ("verify_export",),
    "checkpoints.convert": ("convert",),
    "checkpoints.hub": ("pull", "push"),
    "training.guard": ("TrainingGuard",),
    "nn.attention": ("attention_backend",),
    "nn.checkpointing": ("checkpointing",),
    "nn.modules": ("A2C2f", "AAttn", "ABlock"),
    "training.presets": ("preset",),
    "registry": ("is_registered", "register", "unregister"),
}  # their types are in __init__.pyi
__all__ = [name for names in _MODULES.values() for name in names]


def __getattr__(name):
    from importlib import import_module

    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*globals(), *__all__]
