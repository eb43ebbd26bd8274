"""Activation checkpointing of the attention blocks: less memory in training for more time, off unless asked for."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from yolov12_plugin.autoload import setting
from yolov12_plugin.nn.attention import attention_backend, is_recorded, is_transformed
from yolov12_plugin.switches import Switch, is_on, say_once


class checkpointing(Switch):
    """Checkpoint the attention blocks in this process from here on, or within a `with` block.

    In training each `ABlock` then keeps only its input and computes itself again for its gradients. This gives the same
    gradients with less memory, in a longer step. Random numbers are drawn again, and batch-norm statistics count once.
    `checkpointing(False)` ends it. YOLO12_CHECKPOINT=1 in the environment sets what a process starts with, also in the
    workers of a training on several GPUs. Models that are compiled, exported or transformed by `torch.func` stay as
    they are.

    Args:
        enabled: whether to; False where a process or an outer block has it on.

    Raises, where a model trains:
        RuntimeError: a block that communicates in its forward pass (SyncBatchNorm), or that is not in the backward pass
            what it was in the forward pass: other weights, or train() or eval() since.

    Examples:
        >>> import torch, yolov12_plugin as y12
        >>> block = y12.A2C2f(64, 64, area=4)
        >>> with y12.checkpointing():
        ...     block(torch.rand(2, 64, 8, 8)).mean().backward()
    """

    default = is_on("YOLO12_CHECKPOINT")

    def __init__(self, enabled: bool = True):
        super().__init__(bool(enabled))


def checkpointed(block: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of a map, where checkpointing is on computed again by `block`, whose function it is, for gradients."""
    if not checkpointing.current() or not torch.is_grad_enabled() or isinstance(x, torch.fx.Proxy):
        return function(x)
    if is_recorded() or is_transformed(x):
        return function(x)
    if any(isinstance(m, nn.SyncBatchNorm) for m in block.modules()):
        raise RuntimeError(
            "checkpointing cannot be right with SyncBatchNorm, whose processes would wait for each other in the "
            "backward pass: switch one of them off (YOLO12_CHECKPOINT=0)"
        )
    if checkpointing.default:
        say_once(
            f"checkpointing: attention blocks keep their input alone (YOLO12_CHECKPOINT={setting('YOLO12_CHECKPOINT')})"
        )
    before, backend, again = _State(block), attention_backend.current(), False

    def run(x: Tensor) -> Tensor:
        if not again:
            return function(x)
        if why := _State(block).differs(before):
            raise RuntimeError(
                f"checkpointing cannot compute a block again: {why} between its forward and backward pass"
            )
        with attention_backend.block(backend), _CopiesOfBuffers(block):
            return function(x)

    out = checkpoint(run, x, use_reentrant=False)
    again = True
    return out


class _State:
    """What a block computes with."""

    def __init__(self, block: nn.Module):
        modules = list(block.modules())
        self.modes = [m.training for m in modules]
        # Statistics change in training, and do not matter there
        tensors = [t for m in modules for t in (*m._parameters.values(), *(() if m.training else m._buffers.values()))]
        self.tensors = [t for t in tensors if t is not None]
        self.versions = [0 if t.is_inference() else t._version for t in self.tensors]

    def differs(self, other: "_State") -> str | None:
        """What has changed since another time."""
        if self.modes != other.modes:
            return "train() or eval() was called"
        same = len(self.tensors) == len(other.tensors) and all(a is b for a, b in zip(self.tensors, other.tensors))
        if not same or self.versions != other.versions:
            return "its weights were changed or replaced"
        return None


class _CopiesOfBuffers(TorchFunctionMode):
    """Let functions write into copies of a module's buffers: what is computed a second time counts once.

    A mode is its thread's own: others may train the module meanwhile.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.buffers = {id(buffer): buffer for buffer in module.buffers()}
        self.copies: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(self._copy, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _copy(self, value: Any) -> Any:
        key = id(value)
        if key not in self.buffers:
            return value
        if key not in self.copies:
            self.copies[key] = self.buffers[key].clone()
        return self.copies[key]
