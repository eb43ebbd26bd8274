"""Exports for video pipelines: a folder that NVIDIA DeepStream's nvinfer loads with the parser of DeepStream-Yolo.

Graph and configuration are those of https://github.com/marcoslucianops/DeepStream-Yolo at 2ccf529 (24 July 2025):
utils/export_yolo11.py and export_rtdetr_ultralytics.py, nvdsinfer_custom_impl_Yolo/, and the configurations of yolo11
and rtdetr; for heads that need no non-maximum suppression that of yolo26 at 345dd3f. What is written here has not run
in DeepStream yet, nor on a GPU.
"""

import importlib
import importlib.util
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert
from ultralytics.engine.model import Model
from ultralytics.utils.checks import check_imgsz

from yolov12_plugin.deploy.runtimes import RUNTIMES
from yolov12_plugin.deploy.runtimes.pytorch import exportable, write_onnx
from yolov12_plugin.deploy.runtimes.session import as_list
from yolov12_plugin.deploy.sources import check_name, name_of, open_source
from yolov12_plugin.deploy.verify import ROWS, SUPPRESSION, verify_export
from yolov12_plugin.errors import ExportError
from yolov12_plugin.files import adding, check_folder
from yolov12_plugin.nets import channels, is_dense
from yolov12_plugin.process import undisturbed

COLORS = {3: 0, 1: 2}  # nvinfer's RGB and GRAY, by channels
REPOSITORY, PARSER = "https://github.com/marcoslucianops/DeepStream-Yolo", "nvdsinfer_custom_impl_Yolo"


@undisturbed()
def export_deepstream(
    model: str | os.PathLike[str] | Model,
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    imgsz: int | tuple[int, int] | None = None,
    batch: int = 1,
    dynamic: bool = True,
    half: bool = False,
    force: bool = False,
) -> Path:
    """Write a detector as NVIDIA DeepStream takes it: graph, nvinfer's configuration, labels, and what to do with them.

    The graph has one output of rows x1 y1 x2 y2 score class, in pixels of its input: of each anchor, or those that a
    head selects which needs no non-maximum suppression (YOLO26, YOLOv10, RT-DETR). It is held against the model first;
    the folder appears whole, or not at all. Thresholds are those of Ultralytics' predict. INT8 is left out:
    DeepStream-Yolo calibrates it where it runs.

    Args:
        model: any detection model of Ultralytics, its .pt or .yaml.
        folder: made, with `name`.onnx, config_infer_primary_`name`.txt, labels.txt and README.md.
        name: letters, digits, - and _; by default those of the model's file name.
        imgsz: pixels, or height and width; by default those of the training. Rounded up to the model's stride.
        batch: nvinfer's batch-size, the largest that its engine is built for.
        dynamic: leave the batch axis free, which DeepStream reads since 6.1; else it is `batch`.
        half: have TensorRT build the engine in FP16. The graph stays in FP32.
        force: where the folder is there, replace these files in it, and remove the engine that was built from them.

    Returns the configuration file.

    Raises:
        ExportError: an argument is out of range, the model is no detector in PyTorch, Ultralytics or PyTorch cannot
            export it, or the graph does not compute it.
        NotRunnable: onnx or onnxruntime is not installed.
        FileExistsError: the folder is there, and not `force`.
        OSError: the model is not there, or the folder cannot be written.
    """
    if batch < 1:
        raise ExportError(f"{batch=} must be positive")
    source = open_source(model)
    if isinstance(source, Path):
        raise ExportError(f"{source} is exported already: give the .pt or .yaml that it was made from")
    if source.task != "detect":
        raise ExportError(
            f"this is a {source.task} model, and DeepStream-Yolo's parser reads boxes alone: give a detection model"
        )
    net: Any = source.model
    if channels(net) not in COLORS:
        raise ExportError(f"nvinfer gives images of 3 or 1 channels, and the model takes {channels(net)}")
    name = name_of(source) if name is None else name
    check_name(name)
    folder = Path(folder)
    if folder.exists() and not force:
        raise FileExistsError(f"{folder} is there already: name another, or force=True to replace the export in it")
    check_folder(folder)
    RUNTIMES["onnxruntime"].require()  # before what takes a minute

    with tempfile.TemporaryDirectory() as work:
        graph = Path(work) / f"{name}.onnx"
        try:
            _write_graph(net, graph, imgsz or net.args["imgsz"], batch, dynamic)
        except OSError:
            raise
        except Exception as e:  # as Ultralytics or PyTorch says it
            raise ExportError(f"the model cannot be exported to ONNX ({e or type(e).__name__})") from e
        found = verify_export(net, graph)
        if not found:
            raise ExportError(f"the graph {found}: nothing was written")
        engine = f"model_b{batch}_gpu0_{'fp16' if half else 'fp32'}.engine"  # as nvinfer names what it builds
        texts = {
            "labels.txt": "".join(f"{_label(source.names, i)}\n" for i in range(net.model[-1].nc)),
            f"config_infer_primary_{name}.txt": _configuration(net, name, engine, batch, half),
            "README.md": _readme(name),
        }
        with adding(folder) as part:
            shutil.copyfile(graph, part / graph.name)
            for file, text in texts.items():
                (part / file).write_text(text, encoding="utf-8", newline="\n")
    (folder / engine).unlink(missing_ok=True)  # nvinfer would take it for that of the new graph
    return folder / f"config_infer_primary_{name}.txt"


class _Rows(nn.Module):
    """A network that answers in rows x1 y1 x2 y2 score class (B, N, 6)."""

    def __init__(self, net: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.net, self.size, self.head = net, size, net.model[-1]
        if is_dense(self.head):
            self.head.xyxy = True  # it decodes corners, not centres that would be taken apart again

    def forward(self, images: Tensor) -> Tensor:
        out = as_list(self.net(images))[0]
        if is_dense(self.head):
            out = out.transpose(1, 2)  # (B, 4 + nc, A) -> (B, A, 4 + nc)
        boxes, rest = out[..., :4], out[..., 4:]
        if _is_rtdetr(self.head):
            boxes = box_convert(boxes, "cxcywh", "xyxy") * boxes.new_tensor(self.size[::-1] * 2)
        if is_dense(self.head) or (_is_rtdetr(self.head) and not hasattr(self.head, "postprocess")):
            score, kind = rest.max(-1, keepdim=True)
            rest = torch.cat((score, kind.to(score.dtype)), -1)
        return torch.cat((boxes, rest), -1)


def _suppressed(head: nn.Module) -> bool:
    """Whether non-maximum suppression is to follow a head; of two branches the one that needs none is exported."""
    return is_dense(head) and getattr(head, "one2one_cv2", None) is None


def _is_rtdetr(head: nn.Module) -> bool:
    return type(head).__name__ == "RTDETRDecoder"


def _write_graph(net: Any, file: Path, imgsz: int | tuple[int, int], batch: int, dynamic: bool) -> None:
    size = tuple(check_imgsz(imgsz, stride=net.stride, min_dim=2))
    traced = 2 if dynamic else batch
    rows = _Rows(exportable(net, size, traced, format="engine"), size)  # what compiles the graph is TensorRT
    images = next(net.parameters()).new_zeros(traced, channels(net), *size, dtype=torch.float32)
    axes = {"input": {0: "batch"}, "output": {0: "batch"}} if dynamic else None
    write_onnx(rows, images, str(file), input_names=["input"], output_names=["output"], dynamic_axes=axes)
    onnx = importlib.import_module("onnx")
    graph = onnx.load(file)
    if importlib.util.find_spec("onnxslim"):
        with suppress(Exception):  # as in Ultralytics' exporter, the graph then stays as it is
            graph = importlib.import_module("onnxslim").slim(graph)
    onnx.helper.set_model_props(graph, {"layout": ROWS})
    onnx.save(graph, file)


def _label(names: dict[int, str], index: int) -> str:
    """A name in one line as nvinfer reads it: it skips empty lines, and takes what follows a semicolon for another."""
    return " ".join(str(names.get(index, "")).replace(";", ",").split()) or str(index)


def _configuration(net: Any, name: str, engine: str, batch: int, half: bool) -> str:
    head = net.model[-1]
    letterbox = int(not _is_rtdetr(head))  # whose images Ultralytics stretches
    suppression = f"nms-iou-threshold={SUPPRESSION['iou_thres']}\n" if _suppressed(head) else ""
    return f"""\
[property]
gpu-id=0
net-scale-factor=0.0039215697906911373
model-color-format={COLORS[channels(net)]}
onnx-file={name}.onnx
model-engine-file={engine}
labelfile-path=labels.txt
batch-size={batch}
network-mode={2 if half else 0}
num-detected-classes={head.nc}
interval=0
gie-unique-id=1
process-mode=1
network-type=0
cluster-mode={2 if _suppressed(head) else 4}
maintain-aspect-ratio={letterbox}
symmetric-padding={letterbox}
workspace-size=2000
parse-bbox-func-name=NvDsInferParseYolo
custom-lib-path={PARSER}/lib{PARSER}.so
engine-create-func-name=NvDsInferYoloCudaEngineGet

[class-attrs-all]
{suppression}pre-cluster-threshold={SUPPRESSION["conf_thres"]}
topk={SUPPRESSION["max_det"]}
"""


def _readme(name: str) -> str:
    return (
        f"`{name}.onnx`, made by `yolov12 export-deepstream`, its labels, and nvinfer's configuration for them.\n"
        f"Copy `{PARSER}/` and `deepstream_app_config.txt` of {REPOSITORY} into this folder, build the parser with "
        f"`CUDA_VER=12.6 make -C {PARSER}` (that of DeepStream 7.1), and set "
        f"`config-file=config_infer_primary_{name}.txt` under `[primary-gie]` of `deepstream_app_config.txt`.\n"
        "Run `deepstream-app -c deepstream_app_config.txt` here: its first run builds the engine into this folder.\n"
    )
