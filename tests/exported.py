"""Both halves of tests/test_formats.py, a process each: Ultralytics exports a network, the format's own runtime runs it."""

import copy
import sys
from pathlib import Path

import numpy as np

SIZE = 96, 160  # not square: rows and columns that are mistaken for each other show


def network(name, size=SIZE):
    """A YOLO whose answers depend on its image and on its attention.

    Those of an untrained network do not: its maps shrink from layer to layer, and all attentions together move boxes
    by a hundredth of a pixel. Here normalisations fit the maps of an image of noise, and none amplifies a channel that
    hardly varies, or the rounding would be amplified with it.
    """
    import torch
    from ultralytics import YOLO

    torch.manual_seed(0)
    yolo = YOLO(name, verbose=False)
    norms = [m for m in yolo.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    head = yolo.model.model[-1]
    with torch.no_grad():
        for branch in (*head.cv2, *head.cv3):
            for p in branch[-1].parameters():
                p.copy_(torch.randn_like(p) * 0.3)
        for norm in norms:
            norm.momentum = 1
        yolo.model.train()(torch.rand(2, 3, *size))
        for norm in norms:
            norm.running_var.clamp_(min=norm.running_var.mean())
    yolo.model.eval()
    return yolo


def predict(model, x):
    """Predictions (B, 4 + classes + coefficients, anchors), and the prototypes of masks where there are some."""
    import torch

    model = copy.deepcopy(model)
    model.model[-1].export = True  # the outputs that a graph has
    with torch.no_grad():
        out = model(torch.from_numpy(x))
    return [t.numpy() for t in (out if isinstance(out, tuple) else (out,))]


def ruined(model):
    """Copies with an attention that computes something else: no result, every token alike, or of the whole map."""
    import yolov12_plugin as y12

    for what in "result", "products", "areas":
        other = copy.deepcopy(model)
        first = next(m for m in other.modules() if isinstance(m, y12.AAttn))
        if what == "result":
            first.proj.conv.weight.data.zero_()
        elif what == "areas":
            first.area = 1
        elif hasattr(first, "qk"):
            first.qk.conv.weight.data.zero_()
        else:
            first.qkv.conv.weight.data.view(first.num_heads, 3, -1)[:, 0] = 0
        yield what, other


def export(name, format, which, folder):
    """Leave an image, what PyTorch and its ruined copies answer to it, and one of these networks exported."""
    import torch

    yolo = network(name)
    x = torch.rand(1, 3, *SIZE).numpy()
    models = {"intact": yolo.model, **dict(ruined(yolo.model))}
    answers = {f"{key}-{i}": a for key, m in models.items() for i, a in enumerate(predict(m, x))}
    np.savez(folder / "torch.npz", x=x, **answers)
    yolo.model = models[which]
    file = yolo.export(format=format, imgsz=list(SIZE), verbose=False)
    (folder / "file.txt").write_text(str(Path(file).resolve()))


def run(format, folder):
    """Leave what the exported network answers to that image."""
    file, x = Path((folder / "file.txt").read_text()), np.load(folder / "torch.npz")["x"]
    outs = sorted(map(np.asarray, RUNTIMES[format](file, x)), key=np.ndim)
    np.savez(folder / "runtime.npz", **{f"{format}-{i}": out for i, out in enumerate(outs)})


def ncnn(file, x):
    import ncnn

    net = ncnn.Net()
    options = net.opt
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
    options.use_bf16_storage = options.use_vulkan_compute = False
    net.opt = options
    assert net.load_param(str(file / "model.ncnn.param")) == 0
    assert net.load_model(str(file / "model.ncnn.bin")) == 0
    with net.create_extractor() as extractor:
        extractor.input(net.input_names()[0], ncnn.Mat(x[0]))
        return [np.array(extractor.extract(name)[1])[None] for name in net.output_names()]


def mnn(file, x):
    import MNN

    manager = MNN.nn.create_runtime_manager(({"precision": "high", "backend": "CPU", "numThread": 1},))
    net = MNN.nn.load_module_from_file(str(file), [], [], runtime_manager=manager)
    return [out.read().copy() for out in net.onForward([MNN.expr.const(x.ctypes.data, x.shape)])]


def paddle(file, x):
    from paddle import inference

    config = inference.Config(str(next(file.rglob("*.json"))), str(next(file.rglob("*.pdiparams"))))
    predictor = inference.create_predictor(config)
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(x)
    predictor.run()
    return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]


def litert(file, x):
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(str(file))
    net.allocate_tensors()
    net.set_tensor(net.get_input_details()[0]["index"], x)
    net.invoke()
    outs = [net.get_tensor(out["index"]) for out in net.get_output_details()]
    for out in outs:
        if out.ndim == 3:
            out[:, :4] *= np.array([x.shape[3], x.shape[2]] * 2)[:, None]  # boxes are in parts of the image
    return outs


def executorch(file, x):
    import torch
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(next(file.rglob("*.pte")))
    return [out.numpy() for out in program.load_method("forward").execute([torch.from_numpy(x)])]


def onnx(file, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def openvino(file, x):
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # some processors would compute in bfloat16
    compiled = openvino.Core().compile_model(next(file.rglob("*.xml")), "CPU", exact)
    return list(compiled(x).values())


def torchscript(file, x):
    import torch

    out = torch.jit.load(file)(torch.from_numpy(x))
    return [t.numpy() for t in (out if isinstance(out, tuple) else (out,))]


RUNTIMES = {f.__name__: f for f in (ncnn, mnn, paddle, litert, executorch, onnx, openvino, torchscript)}

if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    {"export": export, "run": run}[what](*arguments, Path.cwd())
