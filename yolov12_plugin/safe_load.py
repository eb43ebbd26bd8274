"""Read a checkpoint of Ultralytics without executing anything that its pickle carries."""

import enum
import importlib
import os
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from ultralytics.utils import IterableSimpleNamespace

from yolov12_plugin.nn.modules import CHECKPOINT_MODULE, A2C2f, AAttn, ABlock


class CheckpointError(ValueError):
    """A file that is not what is asked for; the message says in one line what is wrong and what to do."""


# What a checkpoint may name: the classes of these packages ...
PACKAGES = (
    "torch.nn.modules",
    "torchvision.transforms.transforms",  # of classification
    "ultralytics.nn.modules",
    "ultralytics.nn.tasks",
    "ultralytics.utils.loss",  # Ultralytics leaves the loss in a checkpoint that a training may resume from
    "ultralytics.utils.tal",
)


def _forward(obj: Any, name: str) -> Any:
    """The `getattr` of checkpoints: fused modules store their own forward method, transforms their mode."""
    if isinstance(obj, nn.Module) and name in ("forward", "forward_fuse"):
        return getattr(type(obj), name).__get__(obj)
    if isinstance(obj, type) and issubclass(obj, enum.Enum) and name in obj.__members__:
        return obj[name]
    raise pickle.UnpicklingError(f"getattr of {name}")


_scalar = np.float64(0).__reduce__()[0]
# ... and this data.
DATA = {
    "builtins.getattr": _forward,
    "ultralytics.utils.IterableSimpleNamespace": IterableSimpleNamespace,
    **{f"{m}.{name}": Path for m in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")},
    "numpy.dtype": np.dtype,
    **{f"{m}.multiarray.scalar": _scalar for m in ("numpy.core", "numpy._core")},
    **{f"numpy.dtypes.{t.__name__}": t for t in (type(np.dtype(code)) for code in "?ilqfd")},
}


def read(path: str | os.PathLike[str], trust: bool = False) -> dict[str, Any]:
    """The checkpoint in a file, of which nothing is executed unless `trust`; its tensors on the CPU.

    It may name the classes of Ultralytics and PyTorch that checkpoints hold, and can call neither them nor anything
    else.

    Raises:
        CheckpointError: the file is no checkpoint of Ultralytics, or names something else.
    """
    path = Path(path)
    try:
        _check_archive(path)
        if trust:
            ckpt = torch.load(path, map_location="cpu", weights_only=False)
        else:
            with _only_known_globals(path):
                ckpt = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except ModuleNotFoundError as e:
        raise CheckpointError(f"{path} needs the module {e.name!r}, which is not installed") from e
    except Exception as e:  # whatever a damaged or forged file leads to
        why = next(iter(str(e).rpartition("WeightsUnpickler error: ")[2].strip().splitlines()), type(e).__name__)
        if isinstance(e, pickle.UnpicklingError) and not trust:
            raise CheckpointError(
                f"{path} does what no checkpoint of Ultralytics does ({why}), and was not executed; {_TRUST}"
            ) from e
        raise CheckpointError(f"{path} cannot be read ({why}): download or copy it again") from e
    _check_contents(ckpt, path)
    return ckpt


def models_of(ckpt: dict[str, Any]) -> list[nn.Module]:
    """The models of a checkpoint, the averaged one first, as Ultralytics prefers it."""
    return [m for key in ("ema", "model") if isinstance(m := ckpt.get(key), nn.Module)]


_TRUST = "--trust (trust=True) would, so give it only if you know who made the file"


def _check_archive(path: Path) -> None:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: give the .pt file in it")
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: check the path")
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            head = file.read(512)
        if not head:
            what = "is empty"
        elif head.startswith(b"PK"):
            what = "is cut short"
        elif head.lstrip()[:1] == b"<":
            what = "is a web page that was saved in place of the weights"
        elif head.startswith(b"version https://git-lfs"):
            raise CheckpointError(f"{path} is a pointer of Git LFS, not the weights: run `git lfs pull`")
        else:
            what = "is no checkpoint of PyTorch (no zip archive)"
        raise CheckpointError(f"{path} {what}: download or copy it again")
    with zipfile.ZipFile(path) as archive:
        files = {name.partition("/")[2] for name in archive.namelist()}
        if "constants.pkl" in files:
            raise CheckpointError(f"{path} is a TorchScript export: give the .pt file that it was made from")
        if "data.pkl" not in files:
            raise CheckpointError(f"{path} is a zip archive, but no checkpoint of PyTorch (no data.pkl in it)")
        if damaged := archive.testzip():
            raise CheckpointError(f"{path} is damaged at {damaged}: download or copy it again")


def _check_contents(ckpt: Any, path: Path) -> None:
    if isinstance(ckpt, nn.Module):
        raise CheckpointError(f"{path} holds a bare module: save it with Ultralytics' YOLO(...).save()")
    if not isinstance(ckpt, dict):
        raise CheckpointError(f"{path} holds a {type(ckpt).__name__}, not a checkpoint of Ultralytics")
    if models_of(ckpt):
        return
    for part in (ckpt, *ckpt.values()):
        if isinstance(part, dict) and part and all(isinstance(t, Tensor) for t in part.values()):
            raise CheckpointError(
                f"{path} holds a state dict only ({len(part)} tensors), which does not say of what model: build it, "
                "YOLO('yolov12n.yaml'), load them with .model.load_state_dict(), and .save() it"
            )
    raise CheckpointError(f"{path} holds no model (only {', '.join(map(str, ckpt)) or 'nothing'}): take another file")


@contextmanager
def _only_known_globals(path: Path) -> Iterator[None]:
    """Let `torch.load(weights_only=True)` see what is known here, and nothing that the process allowed elsewhere."""
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        raise CheckpointError(
            f"reading {path} without executing it needs PyTorch 2.6 or later, not {torch.__version__}: update it, or "
            "give --trust (trust=True)"
        )
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        known = {name: _known(name) for name in named}
        if unknown := sorted(name for name, obj in known.items() if obj is None):
            raise CheckpointError(
                f"{path} names {', '.join(unknown[:3])}, which no model of Ultralytics needs, and was not executed; "
                f"{_TRUST}"
            )
        if "numpy.dtype" in known:
            known.update((name, obj) for name, obj in DATA.items() if name.startswith("numpy.dtypes."))
        # The classes themselves, whose objects may be filled, are there under names that no pickle holds.
        known.update((f"{name} filled", obj.cls) for name, obj in list(known.items()) if isinstance(obj, _Fillable))
        torch.serialization.add_safe_globals([(obj, name) for name, obj in known.items()])
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _known(name: str) -> Any:
    """What a name in a pickle stands for, None for anything that a model does not need."""
    module, _, attribute = name.rpartition(".")
    if name in DATA:
        return DATA[name]
    if module == CHECKPOINT_MODULE and attribute in (own := {c.__name__: c for c in (AAttn, ABlock, A2C2f)}):
        return _fillable(own[attribute])
    if name == "torchvision.transforms.functional.InterpolationMode":
        return importlib.import_module("torchvision.transforms.functional").InterpolationMode
    if not f"{module}.".startswith(tuple(f"{package}." for package in PACKAGES)):
        return None
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None
    return _fillable(found) if isinstance(found, type) and found.__module__ == module else None


class _Fillable(type):
    """The kind of what stands for a class: a pickle may make an empty object of the class, not call it.

    A model's constructor evaluates strings of the YAML that it is given.
    """

    cls: type

    def __call__(cls, *args, **kwargs):
        raise pickle.UnpicklingError(f"it calls {cls.__name__}")


def _fillable(cls: Any) -> _Fillable:
    return _Fillable(cls.__name__, (), {"__new__": lambda _, *args: cls.__new__(cls, *args), "cls": cls})
