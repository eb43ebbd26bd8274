"""Which number of a training step is not finite first, and what to try."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import unwrap_model

from yolov12_plugin.nn.modules import A2C2f


class NonFinite(NamedTuple):
    """The first number of a training step that is not finite; epoch and batch count from 1."""

    epoch: int
    batch: int
    kind: str  # input, weight, activation, loss or gradient
    layer: str  # dotted name and class; of an input or the loss its item
    advice: str

    def __str__(self) -> str:
        what = {
            "input": f"the batch's {self.layer} is",
            "weight": f"the weights of {self.layer} are, before this step,",
            "activation": f"the output of {self.layer} is the first that is",
            "loss": f"every activation is finite, but the loss {self.layer} is",
            "gradient": f"the gradient of {self.layer} is the first that is",
        }[self.kind]
        process = f"process {RANK}, " if RANK != -1 else ""
        return f"{process}epoch {self.epoch}, batch {self.batch}: {what} not finite. {self.advice}"


def nonfinite_gradient(model: nn.Module) -> str | None:
    """The last parameter, so the first in the backward pass, whose gradient is not finite."""
    named = [(name, p.grad) for name, p in unwrap_model(model).named_parameters() if p.grad is not None]
    if not named or finite(torch.stack([torch.linalg.vector_norm(g, torch.inf) for _, g in named])):
        return None
    return next(name for name, g in reversed(named) if not finite(g))


def first_nonfinite(trainer: Any, batch: dict[str, Any]) -> tuple[str, str] | None:
    """Kind and name of what is not finite first when the network computes `batch` once more, as it is now.

    Weights, buffers and the gradients collected so far are left as they are. None where everything is finite.
    """
    net: Any = unwrap_model(trainer.model)
    for key, value in batch.items():
        if isinstance(value, Tensor) and not finite(value):
            return "input", key
    for name, parameter in net.named_parameters():
        if not finite(parameter):
            return "weight", name
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    try:
        with recorded(net) as (outputs, gradients):
            with autocast(trainer):
                loss, items = net.loss(batch)
            if outputs:
                return "activation", outputs[0]
            if not finite(loss):
                items = items if isinstance(items, dict) else dict(zip(trainer.loss_names, torch.atleast_1d(items)))
                return "loss", next((name for name, item in items.items() if not finite(item)), "as a whole")
            weights = {name: p for name, p in net.named_parameters() if p.requires_grad}
            found = torch.autograd.grad(loss.sum(), list(weights.values()), allow_unused=True)
    finally:
        for name, buffer in net.named_buffers():
            buffer.copy_(buffers[name])
    backwards = reversed([*zip(weights, found)])  # the last layer first
    gradients += [name for name, g in backwards if g is not None and not finite(g)]
    return ("gradient", gradients[0]) if gradients else None


@contextmanager
def recorded(net: nn.Module) -> Iterator[tuple[list[str], list[str]]]:
    """Names of the modules whose output is not finite though their input is, innermost first; then of gradients.

    A module in whose backward pass the numbers went wrong is the one behind the output whose gradient is listed first.
    """
    outputs: list[str] = []
    gradients: list[str] = []
    entered: dict[nn.Module, bool] = {}

    def enter(module: nn.Module, inputs: Any) -> None:
        entered[module] = all(map(finite, tensors(inputs)))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        name = f"{names[module]} ({type(module).__name__})"
        if entered.pop(module) and not all(map(finite, tensors(output))):
            outputs.append(name)
        for tensor in tensors(output):
            if tensor.requires_grad:
                # Before SiLU changes it in place: a hook of the tensor sees what it was.
                tensor.register_hook(lambda g: None if finite(g) else gradients.append(name))

    names = {module: name or "model" for name, module in net.named_modules()}
    places = Counter(module for _, module in net.named_modules(remove_duplicate=False))
    names = {module: name for module, name in names.items() if places[module] == 1}  # SiLU is one for all
    hooks = [h for m in names for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))]
    try:
        yield outputs, gradients
    finally:
        for hook in hooks:
            hook.remove()


def tensors(values: Any) -> Iterator[Tensor]:
    """Floating-point tensors within what a module takes or returns."""
    if isinstance(values, Tensor):
        if values.is_floating_point():
            yield values
    elif isinstance(values, dict):
        yield from tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors(value)


def finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def autocast(trainer: Any) -> torch.autocast:
    dtype = torch.bfloat16 if trainer.args.amp == "bf16" else torch.float16
    return torch.autocast(trainer.device.type, dtype=dtype, enabled=bool(trainer.amp))


def advise(trainer: Any, kind: str, layer: str, batch: dict[str, Any]) -> str:
    """What to try, in one line."""
    if kind == "input":
        rows = torch.where(~torch.isfinite(batch[layer]).reshape(len(batch[layer]), -1).all(1))[0]
        labels = batch.get("batch_idx")
        images = rows if labels is None or len(batch[layer]) != len(labels) else labels[rows]
        files = {str(batch["im_file"][int(i)]) for i in images} if "im_file" in batch else set()
        return f"Look at these images and their labels: {', '.join(sorted(files)[:3])}"
    args = trainer.args
    slower = f"a lower lr0 than {args.lr0:g}, or a longer warm-up than warmup_epochs={args.warmup_epochs:g}"
    if kind == "weight":
        return f"An earlier step or the checkpoint made them so: try {slower}"
    tries = [slower]
    if getattr(args, "quantize", None) == 8:  # measured before the first step, the ranges are those of these weights
        tries.insert(0, "quantize=8 on a checkpoint that was trained without it")
    if trainer.amp and args.amp != "bf16":
        tries.append("amp=False, as float16 ends at 65504")
    if "attn" in layer:
        tries.append("YOLO12_ATTENTION=math, to leave attention kernels out")
    blocks = (m for m in trainer.model.modules() if isinstance(m, A2C2f) and isinstance(m.m[0], nn.Sequential))
    if any(block.gamma is None for block in blocks):
        tries.append("a2c2f: {residual: 0.01} in the model's YAML")
    return f"Try {'; '.join(tries)}"
