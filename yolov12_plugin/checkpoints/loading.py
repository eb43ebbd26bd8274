"""What Ultralytics' loading of checkpoints and weights does with the plugin."""

import contextlib
import functools
import logging
from collections.abc import Callable

from yolov12_plugin.errors import first_line

LOGGER = logging.getLogger("yolov12_plugin")


def read_checkpoint(stock: Callable) -> Callable:
    """Find the authors' weights by name, and complete what a checkpoint says of its model."""

    @functools.wraps(stock)
    def torch_safe_load(weight, *args, **kwargs):
        # Not at the start of every process: these modules need an Ultralytics that is loaded.
        from yolov12_plugin.checkpoints.complete import complete
        from yolov12_plugin.checkpoints.weights import find

        ckpt, file = stock(find(weight), *args, **kwargs)
        try:
            complete(ckpt)
        except Exception as e:  # stock manages with it as it is
            LOGGER.warning("yolov12-plugin: %s is loaded as it is: %s: %s", file, type(e).__name__, first_line(e))
        return ckpt, file

    return torch_safe_load


def load_other_layouts(stock: Callable) -> Callable:
    """Load weights of another layout where that is exact, and say which tensors a YOLOv12 did not take over."""

    @functools.wraps(stock)
    def load(self, weights, verbose=True):
        from yolov12_plugin.checkpoints.layouts import reported, transfer
        from yolov12_plugin.nets import attention_blocks

        source = (weights.get("ema") or weights.get("model")) if isinstance(weights, dict) else weights
        if not (attention_blocks(self) and hasattr(source, "model")):
            return stock(self, weights, verbose)
        try:
            source, changes = transfer(source, self)
        except ValueError:  # it cannot be loaded, and says by what command it trains
            raise
        except Exception as e:
            LOGGER.warning("yolov12-plugin: weights are loaded as by stock: %s: %s", type(e).__name__, first_line(e))
            return stock(self, weights, verbose)
        with reported(source, self, changes) if verbose else contextlib.nullcontext():
            stock(self, source, verbose=False)

    return load
