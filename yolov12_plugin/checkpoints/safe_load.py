"""Read a checkpoint of Ultralytics without executing anything that its pickle carries."""

import ast
import enum
import importlib
import os
import pickle
import pickletools
import re
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from ultralytics.utils import IterableSimpleNamespace

from yolov12_plugin.errors import CheckpointError
from yolov12_plugin.nn.modules import CHECKPOINT_MODULE, A2C2f, AAttn, ABlock

# What a checkpoint may name: the modules, losses and transforms that it holds objects of ...
MODULES = ("torch.nn.modules.", "ultralytics.nn.modules.", "ultralytics.nn.tasks.")
CLASSES = (
    "ultralytics.utils.loss.",  # Ultralytics leaves the loss in a checkpoint that a training may resume from
    "ultralytics.utils.tal.",
    *(f"torchvision.transforms.transforms.{name}" for name in ("CenterCrop", "Compose", "Normalize", "Resize")),
    "torchvision.transforms.transforms.ToTensor",
)
# ... of what PyTorch allows, that which makes plain tensors and containers: other functions call what they get ...
PLAIN = {
    "_codecs.encode",
    "builtins.set",
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
}


class Attribute(NamedTuple):
    """A `getattr` of a checkpoint: fused modules store their own forward method, transforms a member of an enum."""

    of: Any
    name: str


_scalar = np.float64(0).__reduce__()[0]
# ... and this data.
DATA = {
    "builtins.getattr": Attribute,
    **{f"{m}.{name}": Path for m in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")},
    "numpy.dtype": np.dtype,
    **{f"{m}.multiarray.scalar": _scalar for m in ("numpy.core", "numpy._core")},
    **{f"numpy.dtypes.{t.__name__}": t for t in (type(np.dtype(code)) for code in "?ilqfd")},
}

_lock = threading.Lock()


def read(path: str | os.PathLike[str], trust: bool = False) -> dict[str, Any]:
    """The checkpoint in a file, of which nothing is executed unless `trust`; its tensors on the CPU.

    The file is read as data: what stands for an object holds its class and its state, and can do nothing. Objects are
    made of it, without their constructors, when all of it is known: classes of Ultralytics and PyTorch whose attributes
    hide no method and hold no function.

    Args:
        path: the file.
        trust: unpickle it as Ultralytics does.

    Raises:
        CheckpointError: the file is no checkpoint of Ultralytics, or holds something else.
    """
    path = Path(path)
    try:
        _check_archive(path)
        if trust:
            ckpt = torch.load(path, map_location="cpu", weights_only=False)
        else:
            with path.open("rb") as file, _lock, _stand_ins(file) as classes:
                ckpt = torch.load(file, map_location="cpu", weights_only=True)
            ckpt = _Builder(classes).build(ckpt)
        _check_contents(ckpt, path)
        if not trust:
            for model in models_of(ckpt):
                _check_yaml(getattr(model, "yaml", None), path)
    except CheckpointError:
        raise
    except OSError as e:
        raise CheckpointError(f"{path} cannot be opened ({e.strerror or e}): check the path") from e
    except ModuleNotFoundError as e:
        raise CheckpointError(f"{path} needs the module {e.name!r}, which is not installed") from e
    except Exception as e:  # whatever a damaged or forged file leads to
        why = next(iter(str(e).rpartition("WeightsUnpickler error: ")[2].strip().splitlines()), type(e).__name__)
        if isinstance(e, pickle.UnpicklingError) and not trust:
            raise CheckpointError(
                f"{path} holds what no checkpoint of Ultralytics holds ({why}), and was not executed; "
                "trust=True would, so give it only if you know who made the file"
            ) from e
        raise CheckpointError(f"{path} cannot be read ({why}): download or copy it again") from e
    return ckpt


def models_of(ckpt: dict[str, Any]) -> list[nn.Module]:
    """The models of a checkpoint, the averaged one first, as Ultralytics prefers it."""
    return [m for key in ("ema", "model") if isinstance(m := ckpt.get(key), nn.Module)]


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
            raise CheckpointError(f"{path} is no checkpoint of PyTorch (no zip archive): give a .pt file of weights")
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


def _check_yaml(d: Any, path: Path) -> None:
    """Ultralytics evaluates the activation of a model's YAML and calls what its rows name, when it builds the model."""
    from ultralytics.nn import tasks

    if not isinstance(d, dict):
        return
    activation = str(d.get("activation") or "")
    names = [row[2] for part in ("backbone", "head") for row in d.get(part) or () if isinstance(row[2], str)]
    called = [name for name in names if not isinstance(getattr(tasks, name, nn.Module), type)]
    if called or (activation and not _is_activation(activation)):
        raise CheckpointError(
            f"{path} has a YAML that would call {(called or [activation])[0]}, and was not executed; "
            "trust=True would keep it, so give it only if you know who made the file"
        )


def _is_activation(text: str) -> bool:
    """Whether a text is a module of torch.nn and literal arguments, and so does nothing else when it is evaluated."""
    try:
        call: Any = ast.parse(text.strip(), mode="eval").body
        name = ast.unparse(call.func)
        for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
            ast.literal_eval(argument)
    except (AttributeError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    kind = getattr(nn, name.removeprefix("torch.").removeprefix("nn."), None)
    return (
        re.fullmatch(r"(torch\.)?nn\.\w+", name) is not None and isinstance(kind, type) and issubclass(kind, nn.Module)
    )


@contextmanager
def _stand_ins(file: BinaryIO) -> Iterator[dict[type, type]]:
    """Let `torch.load(weights_only=True)` make a stand-in of every object; yields stand-in -> class.

    Raises:
        UnpicklingError: the file names what no checkpoint needs.
    """
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):  # came with stand-ins under other names
        raise CheckpointError(
            f"reading {file.name} without executing it needs PyTorch 2.6 or later, not {torch.__version__}: update "
            "it, or give trust=True"
        )
    names = _globals(file)
    if unknown := sorted(name for name in names if not _is_plain(name) and _known(name) is None):
        raise pickle.UnpicklingError(f"it names {', '.join(unknown[:3])}")
    if "numpy.dtype" in names:
        names |= {name for name in DATA if name.startswith("numpy.dtypes.")}
    classes: dict[type, type] = {}
    allowed: list[Any] = []
    for name in names:
        obj = _known(name)
        if isinstance(obj, type) and name not in DATA and not issubclass(obj, enum.Enum):
            stand_in = _StandIn(obj.__name__, (), {"__slots__": ("state",), "__setstate__": _keep})
            classes[stand_in] = obj
            obj = stand_in
        if obj is not None:
            allowed.append((obj, name))
    # Ultralytics, for one, allows its classes for the rest of the process where ULTRALYTICS_SAFE_LOAD is set.
    before = torch.serialization.get_safe_globals()
    if any(_name(entry) in names for entry in before):
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([entry for entry in before if _name(entry) not in names])
    try:
        with torch.serialization.safe_globals(allowed):
            yield classes
    finally:
        torch.serialization.add_safe_globals(before)


def _globals(file: BinaryIO) -> set[str]:
    # As PyTorch reads it: what begins with another pickle is that pickle to `torch.load`, whatever archive follows, and
    # of records that are there twice other readers may see the other.
    begin = file.read(4)
    file.seek(0)
    if begin != b"PK\x03\x04":
        raise pickle.UnpicklingError("it begins with something else than the archive")
    data = torch._C.PyTorchFileReader(file).get_record("data.pkl")
    file.seek(0)
    pairs = (str(text).partition(" ") for opcode, text, _ in pickletools.genops(data) if opcode.name == "GLOBAL")
    return {f"{'builtins' if module == '__builtin__' else module}.{name}" for module, _, name in pairs}


def _name(entry: Any) -> str:
    return entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}"


def _is_plain(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    of_torch = module == "torch" and (
        attribute.endswith("Storage") or isinstance(getattr(torch, attribute, None), torch.dtype)
    )
    return of_torch or name in PLAIN


def _known(name: str) -> Any:
    """What a name in a pickle stands for, None for anything that a model does not need."""
    module, _, attribute = name.rpartition(".")
    if name in DATA:
        return DATA[name]
    if name == "ultralytics.utils.IterableSimpleNamespace":
        return IterableSimpleNamespace
    if name == "torchvision.transforms.functional.InterpolationMode":
        return importlib.import_module(module).InterpolationMode
    if module == CHECKPOINT_MODULE and attribute in (own := {c.__name__: c for c in (AAttn, ABlock, A2C2f)}):
        return own[attribute]
    if not name.startswith((*MODULES, *CLASSES)):
        return None
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None
    if not isinstance(found, type) or found.__module__ != module:
        return None
    return found if name.startswith(CLASSES) or issubclass(found, nn.Module) else None


class _StandIn(type):
    """The kind of what stands for a class: an object of it keeps its state, and its constructor is not there."""

    def __call__(cls: Any, *args: Any) -> Any:
        if args:
            raise pickle.UnpicklingError(f"it calls {cls.__name__}")
        return cls.__new__(cls)


def _keep(self: Any, state: Any) -> None:
    self.state = state


class _Builder:
    """Makes the objects that stand-ins stand for, and refuses what could run when they are used."""

    def __init__(self, classes: dict[type, type]):
        self.classes = classes
        self.built: dict[int, Any] = {}  # by the identity of what stands for it

    def build(self, x: Any) -> Any:
        if id(x) in self.built:
            return self.built[id(x)]
        kind = type(x)
        if kind in self.classes:
            return self._object(x, self.classes[kind])
        if kind in (dict, OrderedDict):
            new = self.built[id(x)] = kind()
            new.update((self.build(key), self.build(value)) for key, value in x.items())
            return new
        if kind is list:
            items = self.built[id(x)] = []
            items += map(self.build, x)
            return items
        if kind in (tuple, set):
            self.built[id(x)] = kind(map(self.build, x))
            return self.built[id(x)]
        if kind is Attribute:
            of = self.build(x.of)
            if isinstance(of, nn.Module) and x.name in ("forward", "forward_fuse") and hasattr(type(of), x.name):
                return getattr(type(of), x.name).__get__(of)
            if isinstance(of, type) and issubclass(of, enum.Enum) and x.name in of.__members__:
                return of[x.name]
            raise pickle.UnpicklingError(f"getattr of {x.name}")
        if callable(x) and not (isinstance(x, type) and issubclass(x, enum.Enum)):
            raise pickle.UnpicklingError(f"{x!r} as data")
        if isinstance(x, Tensor) and (x.__dict__ or x._backward_hooks):
            raise pickle.UnpicklingError("a tensor with attributes")
        return x

    def _object(self, x: Any, cls: Any) -> Any:
        new = self.built[id(x)] = cls.__new__(cls)
        state = self.build(getattr(x, "state", {}))
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"a {cls.__name__} whose state is a {type(state).__name__}")
        if state.get("__overloads__") == {}:  # `torch.jit.script` leaves it on every module that it read
            del state["__overloads__"]
        for key, value in state.items():
            hides = callable(value) and hasattr(cls, key)
            fused = key == "forward" and getattr(value, "__self__", None) is new
            if key.startswith("__") or (hides and not fused) or ("hooks" in key and value):
                raise pickle.UnpicklingError(f"{key} of a {cls.__name__}")
        if issubclass(cls, nn.Module):
            for key, kinds in ("_modules", nn.Module), ("_parameters", Tensor), ("_buffers", Tensor):
                for name, value in state.get(key, {}).items():
                    if not re.fullmatch(r"(?!__)\w+", name) or not isinstance(value, (kinds, type(None))):
                        raise pickle.UnpicklingError(f"{key} of a {cls.__name__}")
        if hasattr(cls, "__setstate__"):
            new.__setstate__(state)
        else:
            new.__dict__.update(state)
        return new
