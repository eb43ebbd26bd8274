"""A guard of trainings: it names what first was not finite, and keeps the last good checkpoint."""

import errno
import functools
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.torch_utils import unwrap_model

from yolov12_plugin.autoload import setting
from yolov12_plugin.errors import first_line
from yolov12_plugin.files import write_text
from yolov12_plugin.nn.attention import is_compiling
from yolov12_plugin.switches import is_on, say_once
from yolov12_plugin.training.nonfinite import NonFinite, advise, finite, first_nonfinite, nonfinite_gradient, tensors

NEW = ".new"  # hidden, so that no search for last.pt finds what is being written


class TrainingGuard:
    """Names the first number of a training that is not finite, and never leaves it without a checkpoint.

    Call `TrainingGuard().attach(model)` before `model.train(...)`. YOLO12_GUARD=1 attaches one to every model of a
    process and its children, as in `YOLO12_GUARD=1 yolo train ...`. Ultralytics notices a loss that is not finite only
    at the end of an epoch. The guard says at once which epoch, batch and layer it was, and what to try: it has noted
    which of the model's layers gave finite outputs, and computes the batch again to find the layer within. In float16
    it leaves a gradient that overflows to the `GradScaler`, unless `PATIENCE` batches in a row overflow. It costs a sum
    over the output of each of the model's layers, the largest value of each gradient, and a read of each checkpoint.

    Each checkpoint is written beside the old one, read back, and then put in its place, also those that Ultralytics
    strips at the end. A process that dies, or a full disk, therefore leaves a `last.pt` that resumes. Weights that are
    not finite, which Ultralytics would save as zeros, replace no checkpoint. A resumed training drops the rows of
    `results.csv` that its checkpoint does not know.

    Attributes:
        found: what was not finite, one for each epoch in which it was.

    Raises:
        OSError: a checkpoint could not be written or does not read back; the message says what is kept.

    Examples:
        >>> from ultralytics import YOLO
        >>> import yolov12_plugin as y12
        >>> model, guard = YOLO("yolov12n.yaml", verbose=False), y12.TrainingGuard()
        >>> guard.attach(model)
        >>> model.train(data="shapes.yaml", imgsz=64, epochs=1)  # doctest: +SKIP
        >>> guard.found
        []
    """

    PATIENCE = 8

    def __init__(self) -> None:
        self.found: list[NonFinite] = []
        self.switched_on = False  # by the environment
        self._unsaved: list[int] = []
        self._restart()

    def _restart(self) -> None:
        self.batch = 0
        self._images: dict[str, Any] = {}
        self._outputs: dict[str, Tensor] = {}  # layer -> whether its output in this batch is finite
        self._said_in_epoch = -1
        self._overflows = 0  # batches in a row
        self._checked = False

    def attach(self, model: Any) -> None:
        """Guard a model's trainings, where no guard does so yet.

        Args:
            model: a `YOLO`, or a trainer of Ultralytics.
        """
        if any(isinstance(getattr(c, "__self__", None), TrainingGuard) for cs in model.callbacks.values() for c in cs):
            return
        model.callbacks["on_pretrain_routine_start"].append(self.on_pretrain_routine_start)
        model.callbacks["on_pretrain_routine_end"].append(self.on_pretrain_routine_end)
        model.callbacks["on_train_epoch_start"].append(self.on_train_epoch_start)
        model.callbacks["on_train_batch_start"].append(self.on_train_batch_start)
        model.callbacks["on_train_batch_end"].append(self.on_train_batch_end)
        model.callbacks["teardown"].append(self.teardown)
        if hasattr(model, "_do_train"):  # a trainer, whose routine has started
            self.on_pretrain_routine_start(model)

    def on_pretrain_routine_start(self, trainer: Any) -> None:
        trainer._do_train = partial(self._train, trainer, trainer._do_train)

    def _train(self, trainer: Any, do_train: Callable[[], object]) -> None:
        known, self._unsaved = len(self.found), []
        try:
            do_train()
        finally:  # older Ultralytics calls no teardown where a training raises
            self.teardown(trainer)
            self._sum_up(self.found[known:])

    def on_pretrain_routine_end(self, trainer: Any) -> None:
        self._restart()
        if self.switched_on:
            say_once(f"yolov12-plugin: trainings are guarded (YOLO12_GUARD={setting('YOLO12_GUARD')})")
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

    def _preprocess(self, preprocess: Callable[..., dict[str, Any]], batch: dict[str, Any]) -> dict[str, Any]:
        self._images = {}  # or two batches would be in memory
        self._images = preprocess(batch)
        return self._images

    def _step(self, trainer: Any, step: Callable[[], object]) -> None:
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
        if RANK < 1 and LOGGER.isEnabledFor(logging.ERROR):
            print(flush=True)  # the progress bar leaves its line open
        LOGGER.error(f"yolov12-plugin: {self.found[-1]}")

    def _sum_up(self, found: list[NonFinite]) -> None:
        """Say again at the end what scrolled by."""
        if found:
            more = f" ({len(found)} epochs had such, this is the first)" if len(found) > 1 else ""
            LOGGER.error(f"yolov12-plugin: in this training, {found[0]}{more}")
        if self._unsaved:
            epochs = ", ".join(map(str, self._unsaved))
            LOGGER.error(f"yolov12-plugin: not saved, as their weights were not finite: epochs {epochs}")

    def _metrics(self, trainer: Any, save: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        with kept(trainer, f"epoch {trainer.epoch + 1}"):
            save(*args, **kwargs)

    def _save(self, trainer: Any, save: Callable[[], Any]) -> Any:
        if trainer.last.exists() and not can_be_saved(trainer):
            self._unsaved.append(trainer.epoch + 1)
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

    def _finish(self, trainer: Any, final_eval: Callable[[], object]) -> None:
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
    write_text(csv, "".join([*lines[:1], *rows.values()]))


def add_guard(stock: Callable[[], Any]) -> Callable[[], Any]:
    """Give models and trainers the guard where YOLO12_GUARD asks for it, in every process of a training."""

    @functools.wraps(stock)
    def get_default_callbacks() -> Any:
        callbacks = stock()
        if is_on("YOLO12_GUARD"):
            guard = TrainingGuard()
            guard.switched_on = True
            guard.attach(SimpleNamespace(callbacks=callbacks))
        return callbacks

    return get_default_callbacks
