"""Read a checkpoint of Ultralytics without executing anything that its pickle carries."""

import enum
import importlib
import os
import pickle
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from ultralytics.utils import IterableSimpleNamespace

from yolov12_plugin.checkpoints.grammar import checked
from yolov12_plugin.checkpoints.unpickle import SCALARS, Call, Global, Instance, Storage, parse
from yolov12_plugin.errors import CheckpointError, shown
from yolov12_plugin.nn.modules import CHECKPOINT_MODULE, A2C2f, AAttn, ABlock

# What a checkpoint may name: the modules, losses and transforms that it holds objects of ...
MODULES = ("torch.nn.modules.", "ultralytics.nn.modules.", "ultralytics.nn.tasks.")
CLASSES = (
    "ultralytics.utils.loss.",  # Ultralytics leaves the loss in a checkpoint that a training may resume from
    "ultralytics.utils.tal.",
    *(f"torchvision.transforms.transforms.{name}" for name in ("CenterCrop", "Compose", "Normalize", "Resize")),
    "torchvision.transforms.transforms.ToTensor",
)
# ... also under the names that Ultralytics reads for the sake of its earlier releases ...
FORMER = {
    "ultralytics.yolo.utils.IterableSimpleNamespace": "ultralytics.utils.IterableSimpleNamespace",
    "ultralytics.nn.modules.block.Silence": "torch.nn.modules.linear.Identity",
    "ultralytics.nn.tasks.YOLOv10DetectionModel": "ultralytics.nn.tasks.DetectionModel",
    "ultralytics.utils.loss.v10DetectLoss": "ultralytics.utils.loss.E2EDetectLoss",
}
INTERPOLATION = "torchvision.transforms.functional.InterpolationMode"
# ... the types of its tensors' values ...
STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
# ... numbers of numpy ...
DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
SCALAR = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
PATHS = tuple(f"{m}.{name}" for m in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath"))
# ... and these calls, which make plain data; others, of those that PyTorch allows, call what they get.
FUNCTIONS = {
    *("_codecs.encode", "builtins.getattr", "builtins.set", "collections.OrderedDict", "numpy.dtype", "torch.Size"),
    *("torch.device", "torch._utils._rebuild_parameter", "torch._utils._rebuild_tensor_v2", INTERPOLATION),
    *(*SCALAR, *PATHS),
}

LARGEST_PICKLE = 2**25
PATHS_TO_MODULES = 100_000  # in a model, some of whose methods see a module as often as it is reached
DEPTH = 200


def read(
    path: str | os.PathLike[str], trust: bool = False, report: Callable[[str], object] = lambda line: None
) -> dict[str, Any]:
    """The checkpoint in a file, of which nothing is executed unless `trust`; its tensors on the CPU.

    The file is read as data: what stands for an object holds its class and its state, and can do nothing. Objects are
    made of it, without their constructors, when all of it is known: classes of Ultralytics and PyTorch whose attributes
    hide no method and hold no function. Models' YAMLs are made anew of what a YAML may say.

    Args:
        path: the file.
        trust: unpickle it as Ultralytics does, and keep the YAMLs.
        report: takes what was left out of a YAML, line by line.

    Raises:
        CheckpointError: the file is no checkpoint of Ultralytics, or holds something else.
    """
    path = Path(path)
    try:
        _check_archive(path)
        if trust:
            ckpt = torch.load(path, map_location="cpu", weights_only=False)
        else:
            with zipfile.ZipFile(path) as archive:
                ckpt = _Builder(archive).checkpoint()
        _check_contents(ckpt, path)
        if not trust:
            for line in dict.fromkeys(line for model in models_of(ckpt) for line in _rebuild_yaml(model, path)):
                report(line)
    except CheckpointError:
        raise
    except OSError as e:
        raise CheckpointError(f"{path} cannot be opened ({e.strerror or e}): check the path") from e
    except ModuleNotFoundError as e:
        raise CheckpointError(f"{path} needs the module {e.name!r}, which is not installed") from e
    except Exception as e:  # whatever a damaged or forged file leads to
        why = shown(str(e), 200) or type(e).__name__
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
    if path.suffix in (".yaml", ".yml"):
        raise CheckpointError(f"{path} is no checkpoint but a YAML, which has no weights: give a .pt file")
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
        records = archive.infolist()
        # Before any is read: what is packed, or lies in the file twice, may be far larger than the file.
        if packed := [info.filename for info in records if info.compress_type != zipfile.ZIP_STORED]:
            raise CheckpointError(
                f"{path} is compressed at {shown(packed[0])}, which PyTorch's files never are: unpack it and pack it "
                "again without compression if you know who made it"
            )
        if sum(max(info.file_size, info.compress_size) for info in records) > path.stat().st_size:
            raise CheckpointError(f"{path} is damaged, its records are larger than the file: download or copy it again")
        if damaged := archive.testzip():
            raise CheckpointError(f"{path} is damaged at {shown(damaged)}: download or copy it again")


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
    keys = ", ".join(shown(key, 40) for key in list(ckpt)[:8])
    raise CheckpointError(f"{path} holds no model (only {keys or 'nothing'}): take another file")


def _rebuild_yaml(model: Any, path: Path) -> list[str]:
    """Give a model a YAML of what a YAML may say, since Ultralytics builds from it; lines on the rest."""
    if getattr(model, "yaml", None) is None:
        return []
    try:
        model.yaml, left_out = checked(model.yaml)
    except ValueError as e:
        raise CheckpointError(
            f"{path} has a YAML that {e}, and was not executed; trust=True would keep it, so give it only if you know "
            "who made the file"
        ) from e
    return left_out


def _is_known(name: str) -> bool:
    return name in FUNCTIONS or name in STORAGES or _dtype(name) is not None or _class(name) is not None


def _dtype(name: str) -> torch.dtype | None:
    module, _, attribute = name.rpartition(".")
    found = getattr(torch, attribute, None) if module == "torch" and attribute.isidentifier() else None
    return found if isinstance(found, torch.dtype) else None


def _class(name: str) -> Any:
    """The class that a name in a pickle stands for, None for anything that a model does not need."""
    name = FORMER.get(name, name)
    module, _, attribute = name.rpartition(".")
    if name == "ultralytics.utils.IterableSimpleNamespace":
        return IterableSimpleNamespace
    if module == CHECKPOINT_MODULE and attribute in (own := {c.__name__: c for c in (AAttn, ABlock, A2C2f)}):
        return own[attribute]
    if not name.startswith((*MODULES, *CLASSES)):
        return None
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None
    if not isinstance(found, type) or not (found.__module__ == module or _was_split(found, module)):
        return None
    return found if name.startswith(CLASSES) or issubclass(found, nn.Module) else None


def _was_split(found: type, module: str) -> bool:
    """Whether a class was in a module that is a package of several now."""
    return module == "ultralytics.nn.modules" and found.__module__.startswith("ultralytics.nn.modules.")


class _Builder:
    """Makes the objects that a pickle describes, and refuses what could run, or would not end, when they are used."""

    def __init__(self, archive: zipfile.ZipFile):
        self.archive = archive
        self.built: dict[int, Any] = {}  # by the identity of what describes it
        self.storages: dict[str, torch.UntypedStorage] = {}
        self.objects: list[tuple[Any, Any]] = []  # and their states, those within others first
        self.bytes = 0  # of all tensors

    def checkpoint(self) -> Any:
        names = [info.filename for info in self.archive.infolist()]
        if len(set(names)) < len(names):
            raise pickle.UnpicklingError("records of the same name")
        if min(info.header_offset for info in self.archive.infolist()):  # PyTorch goes by what a file begins with
            raise pickle.UnpicklingError("it begins with something else than the archive")
        self.root = next(name.removesuffix("data.pkl") for name in names if name.partition("/")[2] == "data.pkl")
        if self.root + "byteorder" in names and self._read("byteorder") != sys.byteorder.encode():
            raise ValueError("its numbers have another order of bytes than this machine")
        if self.archive.getinfo(self.root + "data.pkl").file_size > LARGEST_PICKLE:
            raise pickle.UnpicklingError(f"a data.pkl of more than {LARGEST_PICKLE >> 20} MB")
        ckpt = self.build(parse(self._read("data.pkl"), _is_known, FUNCTIONS))
        # Now that nothing is added any more: an object may have been built before what its state holds.
        for new, state in self.objects:
            _check_state(new, state)
        _count_paths(self.objects)
        for new, state in self.objects:
            if hasattr(type(new), "__setstate__"):
                new.__setstate__(state)
            else:
                new.__dict__.update(state)
        return ckpt

    def _read(self, record: str) -> bytes:
        return self.archive.read(self.root + record)

    def build(self, x: Any, depth: int = 0) -> Any:
        kind: Any = type(x)
        if kind in SCALARS:
            return x
        if id(x) in self.built:
            return self.built[id(x)]
        if depth == DEPTH:
            raise pickle.UnpicklingError(f"data in more than {DEPTH} levels")
        if kind in (dict, OrderedDict):
            new: Any = kind()
            self.built[id(x)] = new
            new.update((key, self.build(value, depth + 1)) for key, value in x.items())
            if kind is OrderedDict:
                vars(new).update(self.build(vars(x), depth + 1))  # the metadata of a state dict
        elif kind is list:
            new = self.built[id(x)] = []
            new += (self.build(item, depth + 1) for item in x)
        elif kind is tuple:
            new = self.built[id(x)] = tuple(self.build(item, depth + 1) for item in x)
        elif kind is set:
            new = x
        elif kind is Instance:
            new = self._object(x, depth)
        elif kind is Call:
            new = self.built[id(x)] = self._called(x, depth)
        elif kind is Global and (found := _dtype(x.name)) is not None:
            new = found
        else:
            raise pickle.UnpicklingError(f"{x.name if kind is Global else 'a record'} as data")
        return new

    def _object(self, x: Instance, depth: int) -> Any:
        cls = _class(x.kind)
        if cls is None:
            raise pickle.UnpicklingError(f"it calls {x.kind}")
        new = self.built[id(x)] = cls.__new__(cls)
        state = self.build(x.state if x.state is not None else {}, depth + 1)
        if type(state) is not dict:
            raise pickle.UnpicklingError(f"a {cls.__name__} whose state is a {type(state).__name__}")
        self.objects.append((new, state))
        return new

    def _called(self, x: Call, depth: int) -> Any:
        if x.state is not None and x.function != "numpy.dtype":
            raise pickle.UnpicklingError(f"a state of {x.function}")
        match x.function, x.args:
            case "torch._utils._rebuild_tensor_v2", (Storage() as record, *form, bool(grad), OrderedDict() as hooks):
                return self._tensor(record, form, hooks).requires_grad_(grad)
            case "torch._utils._rebuild_parameter", (Call() as data, bool(grad), OrderedDict() as hooks) if not hooks:
                if isinstance(tensor := self.build(data, depth + 1), Tensor):
                    return nn.Parameter(tensor.detach(), requires_grad=grad)
            case "builtins.getattr", (of, str(name)):
                return self._attribute(of, name, depth)
            case "builtins.set", (list(items),) if all(type(item) in SCALARS for item in items):
                return set(items)
            case "torch.Size", (tuple(sizes),) if all(type(size) is int and 0 <= size < 2**63 for size in sizes):
                return torch.Size(sizes)
            case "torch.device", (str(device), *index) if re.fullmatch(r"(cpu|cuda|mps|xpu|npu)(:\d{1,3})?", device):
                if not index or (len(index) == 1 and type(index[0]) is int and 0 <= index[0] < 1000):
                    return torch.device(device, *index)
            case "_codecs.encode", (str(text), "latin1"):
                return text.encode("latin1")
            case "numpy.dtype", (str(code), False, True) if code in DTYPES and _is_native(x.state):
                return np.dtype(code)
            case function, (Call() as dtype, value) if function in SCALAR:
                of, data = self.build(dtype, depth + 1), self.build(value, depth + 1)
                if isinstance(of, np.dtype) and type(data) is bytes and len(data) == of.itemsize:
                    return np.frombuffer(data, of)[0]
            case function, parts if function in PATHS and all(type(part) is str for part in parts):
                return Path(*parts)
            case function, (str(value),) if function == INTERPOLATION:
                return _interpolation()(value)
        raise pickle.UnpicklingError(f"it calls {x.function} with {shown(list(x.args), 60)}")

    def _attribute(self, of: Any, name: str, depth: int) -> Any:
        """Fused modules store their own forward method, transforms a member of an enum."""
        if type(of) is Instance and name in ("forward", "forward_fuse"):
            owner = self.build(of, depth + 1)
            if isinstance(owner, nn.Module) and hasattr(type(owner), name):
                return getattr(type(owner), name).__get__(owner)
        if type(of) is Global and of.name == INTERPOLATION and name in _interpolation().__members__:
            return _interpolation()[name]
        raise pickle.UnpicklingError(f"getattr of name={shown(name, 40)!r}")

    def _tensor(self, record: Storage, form: list[Any], hooks: Any) -> Tensor:
        dtype = STORAGES.get(record.kind)
        match form:
            case [int(offset), tuple(size), tuple(stride)] if not hooks and dtype is not None:
                numbers = (offset, *size, *stride)
            case _:
                raise pickle.UnpicklingError("a tensor of another form")
        if len(size) != len(stride) or len(size) > 16 or not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
            raise pickle.UnpicklingError(f"a tensor of {shown(size, 40)}")
        storage = self._storage(record, dtype.itemsize)
        count, last = 1, offset
        for n, step in zip(size, stride):
            count, last = count * n, last + (n - 1) * step
        if count and (last >= record.count or count > max(record.count, 4096)):
            raise pickle.UnpicklingError(f"a tensor of {shown(size, 40)} in a record of {record.count}")
        self.bytes += count * dtype.itemsize
        if self.bytes > 2**20 + 2 * sum(info.file_size for info in self.archive.infolist()):
            raise pickle.UnpicklingError("tensors that share their values, and are many times larger than the file")
        return torch.empty(0, dtype=dtype).set_(storage, offset, size, stride)

    def _storage(self, record: Storage, itemsize: int) -> torch.UntypedStorage:
        name = f"{self.root}data/{record.key}"
        if name not in self.archive.NameToInfo or record.count * itemsize != self.archive.getinfo(name).file_size:
            raise pickle.UnpicklingError(f"record {shown(record.key, 20)} of {record.count} values, which it has not")
        if record.key not in self.storages:
            values = torch.empty(record.count * itemsize, dtype=torch.uint8)
            with self.archive.open(name) as file:
                values.numpy()[:] = np.frombuffer(file.read(), np.uint8)
            self.storages[record.key] = values.untyped_storage()
        return self.storages[record.key]


def _interpolation() -> type[enum.Enum]:
    module, _, name = INTERPOLATION.rpartition(".")
    kind: type[enum.Enum] = getattr(importlib.import_module(module), name)
    return kind


def _is_native(state: Any) -> bool:
    """Whether a state of a dtype says but its order of bytes, and that of this machine."""
    order = "<" if sys.byteorder == "little" else ">"
    return state is None or (
        type(state) is tuple and state in [(3, o, None, None, None, -1, -1, 0) for o in (order, "|")]
    )


def _check_state(new: Any, state: dict[str, Any]) -> None:
    """Raises UnpicklingError where an object's state hides a method, holds a hook, or is none of a module."""
    cls = type(new)
    if state.get("__overloads__") == {}:  # `torch.jit.script` leaves it on every module that it read
        del state["__overloads__"]
    for key, value in state.items():
        if type(key) is not str:
            raise pickle.UnpicklingError(f"{shown(key, 40)} of a {cls.__name__}")
        hides = callable(value) and hasattr(cls, key)
        fused = key == "forward" and getattr(value, "__self__", None) is new
        if key.startswith("__") or (hides and not fused) or ("hooks" in key and value):
            raise pickle.UnpicklingError(f"{shown(key, 40)} of a {cls.__name__}")
    if issubclass(cls, nn.Module):
        for key, kinds in ("_modules", nn.Module), ("_parameters", Tensor), ("_buffers", Tensor):
            held = state.get(key, {})
            if not isinstance(held, dict):
                raise pickle.UnpicklingError(f"{key} of a {cls.__name__}")
            for name, value in held.items():
                is_name = type(name) is str and re.fullmatch(r"(?!__)\w+", name)
                if not is_name or not isinstance(value, (kinds, type(None))):
                    raise pickle.UnpicklingError(f"{key} of a {cls.__name__}")


def _count_paths(objects: list[tuple[Any, dict[str, Any]]]) -> None:
    """Raises UnpicklingError where modules are within themselves, or reached so often that it takes for ever."""
    states = {id(new): state for new, state in objects if isinstance(new, nn.Module)}
    paths: dict[int, int] = {}

    def count(m: Any, depth: int) -> int:
        if depth == DEPTH:
            raise pickle.UnpicklingError(f"modules within modules in {DEPTH} levels")
        if id(m) not in paths:
            inner = states[id(m)].get("_modules", {}).values()
            paths[id(m)] = 1 + sum(count(child, depth + 1) for child in inner if child is not None)
        if paths[id(m)] > PATHS_TO_MODULES:
            raise pickle.UnpicklingError(
                f"a {type(m).__name__} that reaches modules in more than {PATHS_TO_MODULES} ways"
            )
        return paths[id(m)]

    for new, _ in objects:
        if isinstance(new, nn.Module):
            count(new, 0)
