"""A guard of trainings: it names what first was not finite, and keeps the last good checkpoint."""

import errno
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.torch_utils import unwrap_model

from yolov12_plugin.errors import first_line
from yolov12_plugin.nn.attention import is_compiling
from yolov12_plugin.nn.modules import A2C2f

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
        process = f"process {RANK}, " if RANK != -1 else ""
        return f"{process}epoch {self.epoch}, batch {self.batch}: {what} not finite. {self.advice}"


class TrainingGuard:
    """Names the first number of a training that is not finite, and never leaves it without a checkpoint.

    `TrainingGuard().attach(model)` before `model.train(...)`; YOLO12_GUARD=1 attaches one to every model of a process
    and its children, as in `YOLO12_GUARD=1 yolo train ...`. Ultralytics notices a loss that is not finite at the end of
    an epoch; the guard says at the batch itself which epoch, batch and layer it was, and what to try: it has noted
    which of the model's layers gave finite outputs, and computes the batch again for the layer within. In float16 a
    gradient that overflows is left to the `GradScaler`, unless `PATIENCE` batches in a row do. It costs a sum over the
    output of each of the model's layers, the largest value of each gradient, and a read of each checkpoint.

    Checkpoints are written beside the old ones, read back, and put in their place at once, also those that Ultralytics
    strips at the end; so a process that dies, or a disk that is full, leaves a `last.pt` that resumes. Weights that are
    not finite, of which Ultralytics makes zeros, replace no checkpoint. A resumed training drops the rows of
    `results.csv` that its checkpoint does not know.

    Attributes:
        found: what was not finite, one for each epoch in which it was.

    Raises:
        OSError: a checkpoint could not be written or does not read back; the message says what is kept.
    """

    PATIENCE = 8

    def __init__(self) -> None:
        self.found: list[NonFinite] = []
        self._restart()

    def _restart(self) -> None:
        self.batch = 0
        self._images: dict[str, Any] = {}
        self._outputs: dict[str, Tensor] = {}  # layer -> whether its output in this batch is finite
        self._said_in_epoch = -1
        self._overflows = 0  # batches in a row
        self._checked = False

    def attach(self, model: Any) -> None:
        """Add the callbacks to a `YOLO` or to a trainer that has no guard yet."""
        if any(isinstance(getattr(c, "__self__", None), TrainingGuard) for cs in model.callbacks.values() for c in cs):
            return
        model.callbacks["on_pretrain_routine_end"].append(self.on_pretrain_routine_end)
        model.callbacks["on_train_epoch_start"].append(self.on_train_epoch_start)
        model.callbacks["on_train_batch_start"].append(self.on_train_batch_start)
        model.callbacks["on_train_batch_end"].append(self.on_train_batch_end)
        model.callbacks["teardown"].append(self.teardown)

    def on_pretrain_routine_end(self, trainer: Any) -> None:
        self._restart()
        self._watch(trainer)
        trainer.preprocess_batch = partial(self._preprocess, trainer.preprocess_batch)
        trainer.optimizer_step = partial(self._step, trainer, trainer.optimizer_step)
        if RANK > 0:
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
        self._checked = False
        self._outputs.clear()

    def on_train_batch_end(self, trainer: Any) -> None:
        if not self._checked:  # a step comes batches later
            self._check(trainer)

    def teardown(self, trainer: Any) -> None:
        self._images, self._outputs = {}, {}
        if hasattr(trainer, "layers_watched"):
            trainer.layers_watched.remove()

    def _watch(self, trainer: Any) -> None:
        # A hook of all modules: one of a module would be copied with it, and pickled into checkpoints.
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            if module not in layers or not module.training or is_compiling():
                return
            sums = [tensor.detach().sum(dtype=torch.float32) for tensor in tensors(output)]
            if sums:
                self._outputs[layers[module]] = torch.isfinite(torch.stack(sums)).all()

        net: Any = unwrap_model(trainer.model)
        named = getattr(net, "model", net).named_children()
        layers = WeakKeyDictionary({m: f"model.{name} ({type(m).__name__})" for name, m in named})
        trainer.layers_watched = register_module_forward_hook(note)

    def _preprocess(self, preprocess: Callable, batch: dict[str, Any]) -> dict[str, Any]:
        self._images = {}  # or two batches would be in memory
        self._images = preprocess(batch)
        return self._images

    def _step(self, trainer: Any, step: Callable) -> None:
        self._check(trainer)  # before the gradients are clipped, which makes all of them NaN where one was
        step()

    def _check(self, trainer: Any) -> None:
        self._checked = True
        if not torch.isfinite(trainer.loss):
            self._report(trainer, "loss")
        elif gradient := nonfinite_gradient(trainer.model):
            self._overflows += 1
            if trainer.scaler.get_scale() <= 1 or self._overflows == self.PATIENCE:  # 1 where there is no scaling
                self._report(trainer, gradient)
        else:
            self._overflows = 0

    def _report(self, trainer: Any, seen: str) -> None:
        if self._said_in_epoch == trainer.epoch:
            return
        noted = next((layer for layer, good in self._outputs.items() if not good), None)
        again, doubt = None, "Computed again, the batch is finite: a kernel is not deterministic, or a memory faulty"
        try:
            again = first_nonfinite(trainer, self._images)
        except Exception as e:  # as out of memory: what was noted is said all the same
            doubt = f"The batch could not be computed again: {first_line(e)}"
        if again is not None:
            kind, layer = again
        elif noted is not None:
            kind, layer = "activation", noted
        elif seen == "loss":
            kind, layer = "loss", "as a whole"
        elif trainer.scaler.get_scale() > 1:
            return  # the scaled gradients overflow
        else:
            kind, layer = "gradient", seen
        self._said_in_epoch = trainer.epoch
        advice = advise(trainer, kind, layer, self._images)
        if again is None and kind == "gradient" and RANK != -1:
            advice = "It may come from another process, which says more"
        elif again is None:
            advice = f"{doubt}. {advice}"
        self.found.append(NonFinite(trainer.epoch + 1, self.batch, kind, layer, advice))
        LOGGER.error(f"yolov12-plugin: {self.found[-1]}")

    def _metrics(self, trainer: Any, save: Callable, *args: Any, **kwargs: Any) -> None:
        with kept(trainer, f"epoch {trainer.epoch + 1}"):
            save(*args, **kwargs)

    def _save(self, trainer: Any, save: Callable) -> Any:
        if trainer.last.exists() and not can_be_saved(trainer):
            LOGGER.error(
                f"yolov12-plugin: epoch {trainer.epoch + 1} is not saved, as its weights are not finite; "
                f"{trainer.last} is kept as it was"
            )
            return False
        folder, last, best = trainer.wdir, trainer.last, trainer.best
        new = folder / NEW
        with kept(trainer, f"epoch {trainer.epoch + 1}"):
            trainer.wdir, trainer.last, trainer.best = new, new / last.name, new / best.name
            try:
                new.mkdir(exist_ok=True)
                done = save()
                for file in new.iterdir():
                    read_back(file)
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise
            finally:
                trainer.wdir, trainer.last, trainer.best = folder, last, best
            for file in new.iterdir():
                # What ends a training does not resume: the epoch before stays until Ultralytics has finished.
                if not (trainer.stop and file.name == last.name and last.exists()):
                    os.replace(file, folder / file.name)
        return done

    def _finish(self, trainer: Any, final_eval: Callable) -> None:
        engine: Any = sys.modules["ultralytics.engine.trainer"]
        new = trainer.wdir / NEW
        stripped = new / f"stripped-{trainer.last.name}"

        def strip_optimizer(f: Any, s: str = "", updates: dict[str, Any] | None = None) -> Any:
            file = Path(f)
            target = new / f"stripped-{file.name}"
            with kept(trainer, "what the training ended with"):
                new.mkdir(exist_ok=True)
                done = in_place(new / file.name if (new / file.name).exists() else file, str(target), updates)
                read_back(target)
                if target != stripped:
                    os.replace(target, file)
            return done

        in_place = engine.strip_optimizer
        engine.strip_optimizer = strip_optimizer
        try:
            final_eval()
        finally:
            engine.strip_optimizer = in_place
        if stripped.exists():
            os.replace(stripped, trainer.last)
        shutil.rmtree(new, ignore_errors=True)


@contextmanager
def kept(trainer: Any, what: str) -> Iterator[None]:
    """Say in one line what a full or failing disk leaves.

    Raises:
        OSError: in place of what the disk made of the block.
    """
    try:
        yield
    except (OSError, RuntimeError) as e:
        if not of_the_disk(e):
            raise
        left = "there was no checkpoint yet; make room there and start again"
        if trainer.last.exists():
            left = (
                f"{trainer.last} is kept as it was. "
                f"Make room there and go on with: yolo train resume model={trainer.last}"
            )
        reason = getattr(e, "strerror", None) or first_line(e)
        raise OSError(f"{what} could not be written to {trainer.save_dir}: {reason}; {left}") from e


def can_be_saved(trainer: Any) -> bool:
    """Whether each weight is finite in the averaged model, or in the one that trains, from which it is mended."""
    live = unwrap_model(trainer.model).state_dict()
    averaged = unwrap_model(trainer.ema.ema).state_dict()
    return all(finite(value) or (key in live and finite(live[key])) for key, value in averaged.items())


def nonfinite_gradient(model: nn.Module) -> str | None:
    """The last parameter, so the first in the backward pass, whose gradient is not finite."""
    named = [(name, p.grad) for name, p in unwrap_model(model).named_parameters() if p.grad is not None]
    if not named or finite(torch.stack([torch.linalg.vector_norm(g, torch.inf) for _, g in named])):
        return None
    return next(name for name, g in reversed(named) if not finite(g))


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
    lines = csv.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = {}
    for line in lines[1:]:
        cells = line.split(",")
        whole = line.endswith("\n") and len(cells) == len(lines[0].split(",")) and cells[0].strip().isdigit()
        if whole and int(cells[0]) <= after:
            rows[int(cells[0])] = line
    fresh = csv.with_name(f".{csv.name}")
    fresh.write_text("".join([*lines[:1], *rows.values()]), encoding="utf-8")
    os.replace(fresh, csv)


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
    if trainer.amp and args.amp != "bf16":
        tries.append("amp=False, as float16 ends at 65504")
    if "attn" in layer:
        tries.append("YOLO12_ATTENTION=math, to leave attention kernels out")
    blocks = (m for m in trainer.model.modules() if isinstance(m, A2C2f) and isinstance(m.m[0], nn.Sequential))
    if any(block.gamma is None for block in blocks):
        tries.append("a2c2f: {residual: 0.01} in the model's YAML")
    return f"Try {'; '.join(tries)}"
