"""Exports for servers: a model folder that NVIDIA Triton Inference Server loads and Ultralytics' client reads."""

import ast
import os
import re
import tempfile
from pathlib import Path
from typing import Any, Literal

from ultralytics.engine.exporter import export_formats
from ultralytics.engine.model import Model

from yolov12_plugin.deploy.runtimes.session import asked_for_half, in_its_words
from yolov12_plugin.deploy.sources import check_name, name_of, open_source
from yolov12_plugin.deploy.tensorrt import split_metadata
from yolov12_plugin.errors import ExportError
from yolov12_plugin.files import adding, check_folder
from yolov12_plugin.process import undisturbed

HINT = 'onnx is not installed: pip install "yolov12-plugin[export]"'

PLATFORMS = {".onnx": ("onnxruntime_onnx", "model.onnx"), ".engine": ("tensorrt_plan", "model.plan")}
DATA_TYPES = {"FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16", "UINT8": "TYPE_UINT8"}  # those that the client knows
LITERALS = ("stride", "batch", "channels", "imgsz", "names", "kpt_shape", "kpt_names", "args", "end2end")


@undisturbed()
def export_triton(
    model: str | os.PathLike[str] | Model,
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    format: Literal["onnx", "engine"] | None = None,
    max_batch: int = 16,
    max_delay: int = 1000,
    instances: int = 1,
    force: bool = False,
    **options: Any,
) -> Path:
    """Write a model into a repository of NVIDIA Triton Inference Server, where requests are batched as they come.

    `YOLO("http://localhost:8000/NAME", task=...)` then predicts and validates through the server. The model folder
    appears whole, or not at all.

    Args:
        model: any Ultralytics model, its .pt or .yaml, or what was exported from it with dynamic=True: .onnx, .engine.
        folder: the repository; made if it is not there.
        name: letters, digits, - and _; by default those of the model's file name.
        format: by default that of an exported file, else onnx. An engine runs on the GPU model and TensorRT version
            that it was built with, which must be the server's; its tensors are not in config.pbtxt, so the server must
            be left to complete that, as it is by default.
        max_batch: images in one run of the model, and in one request, so also the largest batch= of the client. The
            batch that an engine, or a graph with nms=True, was built for is the limit.
        max_delay: microseconds that a request may wait for others to be batched with it.
        instances: copies of the model on each GPU, or on the CPU where there is none.
        force: where the name is taken, write its next version, which is the one that Triton serves. Earlier versions
            stay; config.pbtxt, which is one for all of them, is written anew.
        options: of Ultralytics' export: imgsz (pixels), half, nms, device. None applies to an exported file.

    Returns the model folder, `folder`/`name`.

    Raises:
        ExportError: an argument is out of range, the file is no export of Ultralytics' or of a fixed batch, onnx is
            not installed, or Ultralytics cannot export the model so.
        FileExistsError: the name is taken, and not `force`.
        OSError: the model is not there, or the folder cannot be written.
    """
    if min(max_batch, instances) < 1 or max_delay < 0:
        raise ExportError(f"{max_batch=}, {instances=} and {max_delay=} must be positive")
    source = open_source(model)
    if isinstance(source, Path) and source.suffix not in PLATFORMS:
        raise ExportError(f"{source} is neither a model in PyTorch nor an .onnx or .engine file")
    name = name_of(source) if name is None else name
    _check_name(name)
    folder = Path(folder)
    target = folder / name
    if target.exists() and not force:
        raise FileExistsError(f"{target} is there already: give another name, or force=True for its next version")
    check_folder(target)

    with tempfile.TemporaryDirectory() as work:
        if isinstance(source, Path):
            if options or format not in (None, source.suffix[1:]):
                raise ExportError(f"{source} is exported already: give the .pt to choose its format, size or precision")
            file = source
        else:
            file = _export(source, Path(work), format or "onnx", max_batch, options)
        artefact, tensors, metadata = _read_engine(file) if file.suffix == ".engine" else _read_onnx(file)
        args = metadata["args"]
        if asked_for_half(options) and not asked_for_half(args):  # it warns of it at most
            raise ExportError("this Ultralytics exports FP16 graphs on a GPU only: give device=0")
        if file.suffix == ".engine" or args.get("nms"):
            max_batch = min(max_batch, int(metadata["batch"]))
        platform, model_file = PLATFORMS[file.suffix]
        config = f"""\
name: {quote(name)}
platform: "{platform}"
max_batch_size: {max_batch}
{tensors}dynamic_batching {{ max_queue_delay_microseconds: {max_delay} }}
instance_group [ {{ count: {instances} kind: KIND_AUTO }} ]
parameters {{
  key: "metadata"
  value: {{ string_value: {quote(repr(metadata))} }}
}}
"""
        _write(target, model_file, artefact, config)
    return target


def quote(text: str) -> str:
    """A string of protobuf's text format, UTF-8 once it is encoded."""
    escaped = re.sub(r'[\\"]', r"\\\g<0>", text)
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\{ord(m[0]):03o}", escaped) + '"'


def _check_name(name: str) -> None:
    check_name(name)
    # Ultralytics takes the URL of such a model for a file of that format
    taken = [s for s in export_formats()["Suffix"] if s and s in name.lower()]
    if taken:
        raise ExportError(f"name={name!r} must not contain {taken[0]}, which means another format to Ultralytics")


def _export(model: Model, folder: Path, format: str, max_batch: int, options: dict[str, Any]) -> Path:
    """Export a model into a folder, with a batch axis of any size up to the largest."""
    _import_onnx()  # before what takes minutes
    net: Any = model.model
    placed = net.__dict__.get("pt_path")
    net.pt_path = str(folder / "model.pt")  # Ultralytics writes beside the checkpoint, or into the current folder
    # These are limited by the batch that they are built for; of one image PyTorch's newer exporter fixes the axis
    batch = max_batch if format == "engine" or options.get("nms") else 2
    try:
        file = Path(model.export(format=format, dynamic=True, batch=batch, **in_its_words(options)))
    except OSError:
        raise
    except Exception as e:  # as Ultralytics, PyTorch or TensorRT says it
        raise ExportError(f"Ultralytics cannot export the model to {format} ({e or type(e).__name__})") from e
    finally:
        if placed is None:
            del net.pt_path
        else:
            net.pt_path = placed
    return file


def _import_onnx() -> Any:
    try:
        import onnx
    except ImportError as e:
        raise ExportError(HINT) from e
    return onnx


def _read_onnx(file: Path) -> tuple[bytes, str, dict[str, Any]]:
    """The graph, its tensors as they stand in config.pbtxt, and Ultralytics' metadata."""
    onnx = _import_onnx()
    try:
        graph = onnx.load(file)
    except Exception as e:  # of protobuf, whose releases differ
        raise ExportError(f"{file} is no ONNX graph, or its weights are not beside it: export it again") from e
    metadata = {p.key: p.value for p in graph.metadata_props}
    try:
        metadata |= {key: ast.literal_eval(metadata[key]) for key in LITERALS if key in metadata}
    except (SyntaxError, ValueError) as e:
        raise ExportError(f"{file} has metadata that is not Ultralytics' ({e})") from e
    _check(metadata, file)
    text = ""
    for field, values in ("input", graph.graph.input), ("output", graph.graph.output):
        rows = []
        for value in values:
            tensor = value.type.tensor_type
            # Triton leaves the batch axis out, and writes an axis of any size as -1
            batch, *dims = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
            if batch != -1:
                raise _fixed_batch(file, batch)
            data_type = DATA_TYPES.get(onnx.TensorProto.DataType.Name(tensor.elem_type))
            if data_type is None:
                raise ExportError(f"{file} has {value.name}, which is of a type that Ultralytics' client cannot read")
            rows.append(f"  {{ name: {quote(value.name)} data_type: {data_type} dims: {dims} }}")
            if field == "input":  # it tells the client whether sides may differ from imgsz
                metadata["args"] = {**metadata["args"], "dynamic": -1 in dims}
        text += f"{field} [\n" + ",\n".join(rows) + "\n]\n"
    return graph.SerializeToString(), text, metadata  # with the weights, which may have been in a file of their own


def _read_engine(file: Path) -> tuple[bytes, str, dict[str, Any]]:
    """As `_read_onnx`, of an engine: Ultralytics writes its metadata before it, which TensorRT does not read."""
    metadata, content = split_metadata(file)
    _check(metadata, file)
    if not metadata["args"].get("dynamic"):
        raise _fixed_batch(file, metadata["batch"])
    return content, "", metadata


def _check(metadata: dict[str, Any], file: Path) -> None:
    missing = [key for key in ("task", "names", "stride", "imgsz", "batch", "args") if key not in metadata]
    if missing or not isinstance(metadata["args"], dict):
        why = f"its metadata lacks {', '.join(missing)}" if missing else "its metadata is another's"
        raise ExportError(f"{file} is no export of this Ultralytics, {why}: export it from its .pt")


def _fixed_batch(file: Path, batch: int) -> ExportError:
    return ExportError(f"{file} is of a fixed batch of {batch}, no requests could be batched: export with dynamic=True")


def _write(target: Path, model_file: str, artefact: bytes, config: str) -> None:
    """Add the model, or its next version, under its name when it is whole."""
    versions = [int(p.name) for p in target.iterdir() if p.name.isdecimal()] if target.exists() else []
    with adding(target) as part:  # the version first, which begins with a digit, then the configuration that is its own
        version = part / str(max(versions, default=0) + 1)
        version.mkdir()
        (version / model_file).write_bytes(artefact)
        (part / "config.pbtxt").write_text(config, encoding="utf-8")
