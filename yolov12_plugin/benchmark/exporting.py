"""What Ultralytics' exporter does with the plugin."""

import functools
from collections.abc import Callable
from typing import Any

from yolov12_plugin.switches import is_on


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
    """Give the exporter's fused copy of a model the form of blocks that its format takes."""
    from yolov12_plugin.deploy.runtimes.session import export_format
    from yolov12_plugin.nn.modules import fuse_blocks

    fuse_blocks(exporter.model, export_format(exporter))
