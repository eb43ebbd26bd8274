"""Files that nobody would write: whatever they hold, nothing of it runs, and inspecting and converting end in one line."""

import copy
import importlib
import io
import os
import sys
import time
import warnings
import zipfile
from collections import OrderedDict
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from ultralytics.nn.tasks import DetectionModel, parse_model

from yolov12_plugin.checkpoints.convert import convert
from yolov12_plugin.checkpoints.grammar import ACTIVATIONS
from yolov12_plugin.checkpoints.inspect import inspect
from yolov12_plugin.errors import PluginError

resource = pytest.importorskip("resource", reason="tells the memory of a process, not on Windows")

SECONDS, MEGABYTES = 60, 1024  # that a file may take of the processor, and of memory beyond what the process had

WATCHED = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.startfile",
    "subprocess.",
    "socket.",
    "ctypes.dlopen",
)
IMPORTED = ("torch", "torchvision", "ultralytics", "numpy", "yolov12_plugin", "encodings", "sympy", "mpmath")


class Watch:
    """What the interpreter does for Python code while a file is read."""

    folder = None  # where files may be written; None while nothing is watched
    seen = ()

    @classmethod
    def audit(cls, event, args):
        if cls.folder is None:
            return
        unlisted = False
        if event == "open":
            writes = set(str(args[1] or "")) & set("wax+") or (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)
            of_path = not isinstance(args[0], int)  # a descriptor was opened before
            unlisted = of_path and writes and not os.fsdecode(args[0]).startswith((cls.folder, os.devnull))
        elif event == "import":
            unlisted = args[0].partition(".")[0] not in IMPORTED
        elif event == "exec":
            own = {"torch", "nn", *ACTIVATIONS}.issuperset(args[0].co_names)
            unlisted = not (own or Path(args[0].co_filename).is_file())
        elif event == "compile":  # what is parsed alone has no name of a file
            unlisted = args[1] not in ("<unknown>", "<string>") and not Path(os.fsdecode(args[1])).is_file()
        if unlisted or event.startswith(WATCHED):
            cls.seen.append(f"{event} {args}"[:300])


@pytest.fixture(scope="session")
def audited():
    sys.addaudithook(Watch.audit)  # for the rest of the process: no hook can be taken away


@contextmanager
def nothing_runs(folder):
    Watch.folder, Watch.seen = str(folder), []
    try:
        yield
    finally:
        Watch.folder = None
    assert not Watch.seen, Watch.seen


YAML = {
    "nc": 2,
    "scales": {"n": [1.0, 1.0, 64]},
    "scale": "n",
    "backbone": [[-1, 1, "Conv", [16, 3, 8]], [-1, 1, "A2C2f", [64, True, 1]]],
    "a2c2f": {"qkv_fused": False, "pe_kernel": 5},
    "head": [[-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [[1, 2], 1, "Detect", ["nc"]]],
}


@pytest.fixture(scope="module")
def base(tmp_path_factory, audited):
    """A small YOLOv12 in a checkpoint; all that its inspection and conversion import is imported."""
    importlib.import_module("torchvision.transforms")  # which a file may name
    net = DetectionModel(copy.deepcopy(YAML), verbose=False)
    ckpt = {
        "model": net,
        "ema": None,
        "epoch": -1,
        "version": "8.4.190",
        "train_args": {"imgsz": 64, "data": "coco8.yaml"},
    }
    folder = tmp_path_factory.mktemp("base")
    torch.save(ckpt, folder / "a.pt")
    convert(folder / "a.pt", folder / "b.pt", to="stock")
    return ckpt


HOSTILE = [
    *(
        "os system",
        "posix system",
        "builtins eval",
        "builtins exec",
        "builtins __import__",
        "builtins getattr",
        "nt system",
    ),
    *(
        "subprocess Popen",
        "operator attrgetter",
        "functools partial",
        "torch load",
        "torch.hub load",
        "torch._utils _rebuild_tensor",
    ),
    *(
        "torch._tensor _rebuild_from_type_v2",
        "torch.nn.modules.module Module.apply",
        "torch.nn.modules os",
        "torch UntypedStorage",
    ),
    *(
        "ultralytics.nn.tasks attempt_load_weights",
        "ultralytics.nn.tasks torch_safe_load",
        "ultralytics.nn.modules.block TorchVision",
    ),
    *(
        "ultralytics.utils.loss SETTINGS",
        "ultralytics.nn.tasks YOLOEModel",
        "numpy load",
        "numpy.core.multiarray _reconstruct",
    ),
    *(
        "importlib import_module",
        "runpy run_path",
        "webbrowser open",
        "socket create_connection",
        "antigravity x",
        "this x",
    ),
]
KNOWN = [
    *(
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch FloatStorage",
    ),
    *(
        "torch.nn.modules.container Sequential",
        "torch.nn.modules.linear Identity",
        "torch.nn.modules.conv Conv2d",
        "torch Size",
    ),
    *(
        "ultralytics.nn.tasks DetectionModel",
        "ultralytics.nn.modules.block A2C2f",
        "ultralytics.nn.modules.head Detect",
    ),
    *("_codecs encode", "__builtin__ set", "torch device", "torch float16", "pathlib PosixPath", "numpy dtype"),
    *(
        "numpy._core.multiarray scalar",
        "ultralytics.utils IterableSimpleNamespace",
        "ultralytics.utils.loss v8DetectionLoss",
    ),
    *("torchvision.transforms.transforms Compose", "torchvision.transforms.functional InterpolationMode"),
]
TEXTS = [
    *(
        "touch x",
        "latin1",
        "idna",
        "zip",
        "model",
        "yaml",
        "forward",
        "_modules",
        "_forward_hooks",
        "__class__",
        "__reduce__",
    ),
    *("storage", "0", "cpu", "\x1b[31m", "[red]", "nn.SiLU()", "https://evil/x.yaml", "x" * 3000),
]


def text(value):
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


names = st.sampled_from(KNOWN) | st.sampled_from(HOSTILE)
opcodes = st.one_of(
    st.sampled_from(
        [
            b"(",
            b")",
            b"]",
            b"}",
            b"\x8f",
            b"N",
            b"\x88",
            b"t",
            b"\x85",
            b"\x86",
            b"\x87",
            b"a",
            b"e",
            b"s",
            b"u",
            b"\x90",
        ]
    ),
    st.sampled_from(
        [b"R", b"\x81", b"b", b"Q", b"\x92", b"o", b"0", b"2", b"1", b"\x93", b"\x94", b"I1\n", b"L1L\n", b"P0\n", b"."]
    ),
    names.map(lambda name: b"c" + name.replace(" ", "\n").encode() + b"\n"),
    names.map(lambda name: b"i" + name.replace(" ", "\n").encode() + b"\n"),
    st.sampled_from(TEXTS).map(text),
    st.integers(0, 6).map(lambda i: b"q" + bytes([i])),
    st.integers(0, 6).map(lambda i: b"h" + bytes([i])),
    st.sampled_from(
        [b"r\xff\xff\xff\xff", b"j\0\0\0\0", b"\x82\x01", b"\x83\x01\x01", b"\x8a\x09" + b"\xff" * 8 + b"\x7f"]
    ),
    st.integers(-(2**31), 2**31 - 1).map(lambda i: b"J" + i.to_bytes(4, "little", signed=True)),
    st.binary(max_size=4),
    st.just(b"]" * 3000),
)
programs = st.lists(opcodes, max_size=40).map(lambda parts: b"\x80\x02" + b"".join(parts) + b".")

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**80), 2**80),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(TEXTS),
    st.sampled_from(
        [1, 2, 3, 64, -1, 10**9, "nc", "None", "d", "ast", "1e9", "(" * 50, "[" * 500, "nearest", "resnet18"]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)
calls = st.sampled_from(
    [
        *(
            "nn.SiLU()",
            "torch.nn.ReLU(inplace=True)",
            "nn.LeakyReLU(0.1)",
            "nn.Identity([x for x.y in [torch.os.system]])",
        ),
        *(
            "__import__('os').system('touch x')",
            "nn.ReLU(open('x','w'))",
            "nn.Sequential(nn.ReLU())",
            "nn.SiLU",
            "torch.hub.load('a','b')",
        ),
        *(
            "nn.SiLU(*[print(1)])",
            "eval('1')",
            "nn.SiLU() or exec('1')",
            "nn.modules.os.getcwd()",
            "[].__class__.__base__",
        ),
    ]
)
layers = st.sampled_from(
    [
        *(
            "Conv",
            "A2C2f",
            "C3k2",
            "Concat",
            "Detect",
            "nn.Upsample",
            "nn.Identity",
            "TorchVision",
            "Index",
            "DetectionModel",
        ),
        *(
            "torch_safe_load",
            "check_requirements",
            "nn.Sequential",
            "nn.utils",
            "torchvision.ops.misc",
            "AutoBackend",
            "__import__",
            "eval",
        ),
    ]
)
KEYS = [
    *(
        "nc",
        "activation",
        "scales",
        "scale",
        "depth_multiple",
        "width_multiple",
        "kpt_shape",
        "end2end",
        "reg_max",
        "text_model",
    ),
    *("channels", "ch", "backbone", "head", "a2c2f", "yaml_file", "inplace", "download", "torchvision_weights"),
]
ATTRIBUTES = [
    *(
        "forward",
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "__deepcopy__",
        "__setstate__",
        "__class__",
        "__dict__",
    ),
    *(
        "_modules",
        "_parameters",
        "_buffers",
        "_compiled_call_impl",
        "training",
        "yaml",
        "names",
        "stride",
        "args",
        "criterion",
        "save",
    ),
    *(
        "model",
        "task",
        "pt_path",
        "conv",
        "bn",
        "act",
        "padding",
        "groups",
        "eps",
        "area",
        "num_heads",
        "gamma",
        "i",
        "f",
        "type",
        "x",
    ),
]


def tensors(draw):
    shared = torch.zeros(8)
    return draw(
        st.sampled_from(
            [
                shared,
                shared[2:4],
                nn.Parameter(shared.view(2, 4)),
                torch.zeros(1).expand(10**6, 10**6),
                torch.zeros(0, 10**9),
                torch.full((3,), torch.nan),
                torch.ones(2, dtype=torch.int8),
                torch.ones((), dtype=torch.bool),
            ]
        )
    )


def shared_lists(levels=60):
    value = [1]
    for _ in range(levels):
        value = [value, value]
    return value


def nested(levels, value=None):
    for _ in range(levels):
        value = [value]
    return value


def some_value(draw, modules):
    """Anything that may stand where something else is meant."""
    kind = draw(st.sampled_from(["value", "tensor", "module", "method", "circle", "shared", "deep", "hook"]))
    if kind == "value":
        return draw(values)
    if kind == "tensor":
        return tensors(draw)
    if kind == "module":
        return draw(st.sampled_from(modules))
    if kind == "method":
        return draw(st.sampled_from(modules)).forward
    if kind == "circle":
        circle = [draw(st.sampled_from(modules))]
        circle.append({"x": circle, "net": modules[0]})
        return circle
    if kind == "hook":
        hooks = OrderedDict({0: draw(st.sampled_from(modules))})
        draw(st.sampled_from(modules)).__dict__["_forward_hooks"] = hooks
        return [hooks]
    return shared_lists() if kind == "shared" else nested(draw(st.sampled_from([10, 150, 190])))


def change_objects(draw, ckpt):
    net = ckpt["model"]
    modules = list(net.modules())  # as they were: what is changed may be none any more
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.sampled_from(["checkpoint", "yaml", "row", "activation", "attribute", "child", "arguments"]))
        if where == "checkpoint":
            ckpt[draw(st.sampled_from(["version", "epoch", "ema", "optimizer", "x", "modelopt", "train_args"]))] = (
                some_value(draw, modules)
            )
        elif where == "yaml":
            net.yaml[draw(st.sampled_from(KEYS))] = some_value(draw, modules)
        elif where == "row":
            rows = net.yaml.get(draw(st.sampled_from(["backbone", "head"])))
            row = draw(st.sampled_from(rows)) if isinstance(rows, list) and rows else None
            if isinstance(row, list) and row:
                at = draw(st.integers(0, len(row) - 1))
                row[at] = draw(layers if at == 2 and draw(st.booleans()) else values)
        elif where == "activation":
            net.yaml["activation"] = draw(calls)
        elif where == "attribute":
            owner = draw(st.sampled_from(modules))
            owner.__dict__[draw(st.sampled_from(ATTRIBUTES))] = some_value(draw, modules)
        elif where == "child":
            owner = draw(st.sampled_from(modules))
            kind = draw(st.sampled_from(["_modules", "_parameters", "_buffers"]))
            if isinstance(owner.__dict__.get(kind), dict):
                owner.__dict__[kind][draw(st.sampled_from(["x", "__deepcopy__", "0", "a b", "conv", "forward"]))] = (
                    some_value(draw, modules)
                )
        else:
            key = draw(st.sampled_from(["data", "model", "project", "cfg", "save_dir", "imgsz"]))
            ckpt["train_args"] = {"imgsz": 64, key: some_value(draw, modules)}
    return ckpt


def change_records(draw, records):
    """The records of an archive, and how they are packed: (names and contents, compression, bytes that are then changed)."""
    kind = draw(st.sampled_from(["program", "splice", "record", "name", "compressed", "bytes", "tail", "twice"]))
    pickle = next(name for name in records if name.endswith("data.pkl"))
    entries = list(records.items())
    compression, edit = zipfile.ZIP_STORED, lambda data: data
    if kind == "program":
        entries = [(name, draw(programs) if name == pickle else data) for name, data in entries]
    elif kind == "splice":
        data = bytearray(records[pickle])
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(2, len(data) - 1))
            data[at : at + draw(st.integers(0, 8))] = draw(opcodes)
        entries = [(name, bytes(data) if name == pickle else content) for name, content in entries]
    elif kind == "record":
        victim = draw(st.sampled_from([name for name in records if "/data/" in name]))
        entries = [
            (name, data[: draw(st.integers(0, len(data)))] if name == victim else data) for name, data in entries
        ]
    elif kind == "name":
        entries = [
            (name.replace("data/", draw(st.sampled_from(["data//", "../data/", "x/"]))), data) for name, data in entries
        ]
    elif kind == "compressed":
        compression = draw(st.sampled_from([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
        entries.append(("a/zeros", bytes(10**7)))
    elif kind == "twice":
        entries.append((pickle, draw(programs)))
    elif kind == "bytes":
        at, new = draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=16))
        edit = lambda data: data[: int(at * len(data))] + new + data[int(at * len(data)) + len(new) :]  # noqa: E731
    elif kind == "tail":
        at = draw(st.integers(1, 4000))
        new = draw(st.binary(min_size=1, max_size=8))
        edit = lambda data: data[:-at] + new + data[len(data) - at + len(new) :]  # noqa: E731
    return entries, compression, edit


class File(bytes):
    def __repr__(self):
        return f"<{len(self)} bytes>"


@st.composite
def files(draw, ckpt):
    """The bytes of a file that may have been a checkpoint."""
    buffer = io.BytesIO()
    objects = draw(st.booleans())
    try:
        torch.save(change_objects(draw, copy.deepcopy(ckpt)) if objects else ckpt, buffer)
    except (RecursionError, TypeError, AttributeError, ValueError, RuntimeError):  # cannot be pickled
        buffer = io.BytesIO()
        torch.save(ckpt, buffer)
    if objects:
        return File(buffer.getvalue())
    with zipfile.ZipFile(buffer) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    entries, compression, edit = change_records(draw, records)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name, data in entries:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that are there twice
                archive.writestr(name, data)
    return File(edit(packed.getvalue()))


def harmless(data, folder):
    """Inspect and convert a file: it is a checkpoint or one line says why not, and nothing runs; whether it is one."""
    src, dst = folder / "src.pt", folder / "dst.pt"
    src.write_bytes(data)
    dst.write_bytes(written := b"as it was")
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with nothing_runs(folder):
        for step in (inspect, *(partial(convert, dst=dst, to=to, force=True) for to in ("plugin", "stock"))):
            try:
                step(src)
            except PluginError as e:
                assert len(str(e)) < 1000 and str(e).isprintable(), e
                assert dst.read_bytes() == written
            else:
                written = dst.read_bytes()
                if step is not inspect:  # what is taken for clean is loaded and built as a training does
                    content = torch.load(dst, weights_only=False)
                    with suppress(Exception):  # of a YAML that is of another model
                        parse_model(copy.deepcopy(content["model"].yaml), 3, verbose=False)
    assert time.process_time() - begin < SECONDS
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> (20 if sys.platform == "darwin" else 10)
    assert grown < MEGABYTES, f"{grown} MB"
    assert sorted(path.name for path in folder.iterdir()) == ["dst.pt", "src.pt"]
    return written != b"as it was"


def fuzz(base, folder, count, derandomize):
    tried = []

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=derandomize,
        database=None,
        phases=[Phase.generate],  # a file that fails stays where it was written
        suppress_health_check=list(HealthCheck),
    )
    @given(files(base))
    def run(data):
        tried.append(harmless(data, folder))

    run()
    return tried


def test_the_hook_sees_what_runs(audited, tmp_path):
    for code in "import this", "os.system('true')", "open('x', 'w')", "eval('os')", "__import__('socket').socket()":
        sys.modules.pop("this", None)
        with pytest.raises(AssertionError), nothing_runs(tmp_path / "folder"):
            exec(
                compile(code, __file__, "exec"),
                {"os": os, "__name__": "x", "open": lambda *a: open(tmp_path / "x", "w").close()},
            )


def test_the_base_is_converted(base, tmp_path):
    buffer = io.BytesIO()
    torch.save(base, buffer)
    assert harmless(buffer.getvalue(), tmp_path)


def test_files_that_are_anything(base, tmp_path):
    fuzz(base, tmp_path, 60, derandomize=True)


@pytest.mark.slow
def test_thousands_of_files_that_are_anything(base, tmp_path):
    tried = fuzz(base, tmp_path, 2000, derandomize=True)
    assert any(tried) and not all(tried)
