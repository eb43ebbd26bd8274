"""A guard of trainings: it names what first was not finite, and keeps the last good checkpoint."""

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yolov12_plugin.benchmark.errors import first_line

NEW = ".new"  # hidden, so that no search for last.pt finds what is being written


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
        return f"epoch {self.epoch}, batch {self.batch}: {what} not finite. {self.advice}"


class TrainingGuard:
    """Names the first number of a training that is not finite, and never leaves it without a checkpoint.

    `TrainingGuard().attach(model)` before `model.train(...)`; YOLO12_GUARD=1 attaches one to every training of a
    process and its children, as in `YOLO12_GUARD=1 yolo train ...`. Ultralytics notices a loss that is not finite at
    the end of an epoch and goes back to the last checkpoint; the guard says at the step itself which epoch, batch and
    layer it was, and what to try. Until then it costs the largest absolute value of each gradient, once a step. In
    float16 a gradient that overflows is left to the `GradScaler`, as long as its scale is above 1.

    Checkpoints are written beside the old ones, read back, and put in their place at once, also those that Ultralytics
    strips at the end; so a process that dies, or a disk that is full, leaves `last.pt` of the epoch before. A resumed
    training drops the rows of `results.csv` that its checkpoint does not know.

    Attributes:
        found: what was not finite, one for each epoch in which it was.

    Raises:
        OSError: a checkpoint could not be written or does not read back; the message says what is kept.
    """

    def __init__(self) -> None:
        self.found: list[NonFinite] = []
        self.batch = 0
        self._said_in_epoch = -1
        self._images: dict[str, Any] = {}

    def attach(self, model: Any) -> None:
        """Add the callbacks to a `YOLO` or to a trainer."""
        for event in ("on_pretrain_routine_end", "on_train_epoch_start", "on_train_batch_start", "on_train_batch_end"):
            model.callbacks[event].append(getattr(self, event))

    def on_pretrain_routine_end(self, trainer: Any) -> None:
        trainer.preprocess_batch = partial(self._preprocess, trainer.preprocess_batch)
        trainer.optimizer_step = partial(self._step, trainer, trainer.optimizer_step)
        if int(os.getenv("RANK", -1)) > 0:
            return  # writes no files
        shutil.rmtree(trainer.wdir / NEW, ignore_errors=True)  # of a process that died
        if trainer.resume and trainer.csv.exists():
            drop_rows(trainer.csv, after=trainer.start_epoch)
        trainer.save_metrics = partial(self._metrics, trainer, trainer.save_metrics)
        trainer.save_model = partial(self._save, trainer, trainer.save_model)
        trainer.final_eval = partial(self._finish, trainer, trainer.final_eval)

    def on_train_epoch_start(self, trainer: Any) -> None:
        self.batch = 0

    def on_train_batch_start(self, trainer: Any) -> None:
        self.batch += 1

    def on_train_batch_end(self, trainer: Any) -> None:
        if not torch.isfinite(trainer.loss):  # its step may come batches later
            self._report(trainer)

    def _preprocess(self, preprocess: Callable, batch: dict[str, Any]) -> dict[str, Any]:
        self._images = preprocess(batch)
        return self._images

    def _step(self, trainer: Any, step: Callable) -> None:
        # Before the gradients are clipped, which makes all of them NaN where one was.
        if not torch.isfinite(trainer.loss):
            self._report(trainer)
        elif trainer.scaler.get_scale() <= 1:  # 1 where there is no scaling
            gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
            if not finite(torch.stack([torch.linalg.vector_norm(g, torch.inf) for g in gradients])):
                self._report(trainer)
        step()

    def _report(self, trainer: Any) -> None:
        from ultralytics.utils import LOGGER

        if self._said_in_epoch == trainer.epoch:
            return
        self._said_in_epoch = trainer.epoch
        kind, layer = first_nonfinite(trainer, self._images)
        advice = advise(trainer, kind, layer, self._images)
        self.found.append(NonFinite(trainer.epoch + 1, self.batch, kind, layer, advice))
        LOGGER.error(f"yolov12-plugin: {self.found[-1]}")

    def _write(self, trainer: Any, what: str, write: Callable, *args: Any, **kwargs: Any) -> Any:
        try:
            return write(*args, **kwargs)
        except (OSError, RuntimeError) as e:
            if not of_the_disk(e):
                raise
            kept = f"{trainer.last} is kept as it was" if trainer.last.exists() else "there was no checkpoint yet"
            raise OSError(
                f"{what} could not be written to {trainer.save_dir}: {getattr(e, 'strerror', None) or e}; {kept}. "
                f"Make room there and go on with: yolo train resume model={trainer.last}"
            ) from e

    def _save(self, trainer: Any, save: Callable) -> Any:
        return self._write(trainer, f"epoch {trainer.epoch + 1}", self._beside, trainer, save)

    def _metrics(self, trainer: Any, save: Callable, *args: Any, **kwargs: Any) -> None:
        self._write(trainer, f"epoch {trainer.epoch + 1}", save, *args, **kwargs)

    def _finish(self, trainer: Any, final_eval: Callable) -> None:
        def strip() -> None:
            for file in (last, best):
                if file.exists():
                    shutil.copyfile(file, trainer.wdir / file.name)
            final_eval()

        last, best = trainer.last, trainer.best
        self._write(trainer, "checkpoints without their optimizer", self._beside, trainer, strip)

    def _beside(self, trainer: Any, write: Callable) -> Any:
        folder, last, best = trainer.wdir, trainer.last, trainer.best
        new = folder / NEW
        trainer.wdir, trainer.last, trainer.best = new, new / last.name, new / best.name
        try:
            new.mkdir(exist_ok=True)
            done = write()
            for file in sorted(new.iterdir()):
                read_back(file)
            for file in sorted(new.iterdir()):
                os.replace(file, folder / file.name)
        finally:
            trainer.wdir, trainer.last, trainer.best = folder, last, best
            shutil.rmtree(new, ignore_errors=True)
        return done


def read_back(file: Path) -> None:
    """Load a checkpoint that was just written, from the disk as far as the system allows.

    Raises:
        OSError: it does not load.
    """
    with open(file, "rb+") as f:
        os.fsync(f.fileno())
    try:
        torch.load(file, map_location="cpu", weights_only=False)
    except Exception as e:
        raise OSError(errno.EIO, f"{file.name} does not read back ({type(e).__name__}: {first_line(e)})") from e


def of_the_disk(e: Exception) -> bool:
    """Whether an exception says that a disk is full or failing; PyTorch has no class of its own for that."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
    return e.errno in codes if isinstance(e, OSError) else "PytorchStreamWriter failed" in str(e)


def drop_rows(csv: Path, after: int) -> None:
    """Keep the rows of `results.csv` up to epoch `after`, each epoch once, and no line that was cut off."""
    header, *lines = csv.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = {}
    for line in lines:
        cells = line.split(",")
        if line.endswith("\n") and len(cells) == len(header.split(",")) and int(cells[0]) <= after:
            rows[int(cells[0])] = line
    kept = csv.with_name(f".{csv.name}")
    kept.write_text(header + "".join(rows.values()), encoding="utf-8")
    os.replace(kept, csv)


def first_nonfinite(trainer: Any, batch: dict[str, Any]) -> tuple[str, str]:
    """Kind and name of what is not finite first when the network computes `batch` once more, as it is now.

    Weights, buffers and the gradients collected so far are left as they are.
    """
    from ultralytics.utils.torch_utils import unwrap_model

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
                items = items if isinstance(items, dict) else dict(zip(trainer.loss_names, items))
                return "loss", next((name for name, item in items.items() if not finite(item)), "as a whole")
            weights = {name: p for name, p in net.named_parameters() if p.requires_grad}
            scale = trainer.scaler.get_scale()
            found = torch.autograd.grad(loss.sum() * scale, list(weights.values()), allow_unused=True)
    finally:
        for name, buffer in net.named_buffers():
            buffer.copy_(buffers[name])
    if gradients:
        return "gradient", gradients[0]
    # Backward in the order of the layers, the last first.
    backwards = reversed([*zip(weights, found)])
    return "gradient", next((name for name, g in backwards if g is not None and not finite(g)), "an earlier batch")


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
    from yolov12_plugin.nn.modules import A2C2f

    if kind == "input":
        return f"Look at these images and their labels: {', '.join(map(str, batch.get('im_file', ())))}"
    args = trainer.args
    slower = f"a lower lr0 than {args.lr0:g}, or a longer warm-up than warmup_epochs={args.warmup_epochs:g}"
    if kind == "weight":
        return f"An earlier step or the checkpoint made them so: try {slower}"
    tries = [slower]
    if trainer.amp and args.amp != "bf16":
        tries.append("amp=False, as float16 ends at 65504")
    if "attn" in layer:
        tries.append("YOLO12_ATTENTION=math, to leave attention kernels out")
    blocks = (m for m in trainer.model.modules() if isinstance(m, A2C2f) and isinstance(m.m[0], nn.Sequential))
    if any(block.gamma is None for block in blocks):
        tries.append("a2c2f: {residual: 0.01} in the model's YAML")
    return f"Try {'; '.join(tries)}"
