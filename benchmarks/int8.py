"""What INT8 costs and gives: mAP lost, layers left in float and time, of models trained on shapes, others' beside them.

Trainings are kept in FOLDER and not repeated; those of S, of larger models and of segmenters compute in bfloat16.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from onnxruntime import quantization
from ultralytics import YOLO
from ultralytics.data.utils import check_det_dataset
from ultralytics.engine import trainer
from ultralytics.utils import torch_utils

import yolov12_plugin as y12
from yolov12_plugin.benchmark.bench import Protocol, bench
from yolov12_plugin.deploy.accuracy import images_of
from yolov12_plugin.deploy.verify import read_images

ROOT = Path(__file__).resolve().parent.parent
IMGSZ = 160  # of the drawn images
LARGE = {"yolov12s": 60, "yolov12m": 40, "yolov12l": 40, "yolov12x": 30}  # epochs
MASKS = {"yolov12n-seg": 40, "yolo11n-seg": 40}
EPOCHS = LARGE | MASKS  # 80 of those not named
MODELS = ["yolov12n", "yolov12n-turbo", "yolov12n-residual", *LARGE, "yolo12n", "yolo11n", "yolo26n"]
TIMED = ["yolo11n", "yolo12n", "yolov12n", "yolov12s"]
RUNTIMES = ["onnxruntime", "openvino"]
PARTS = ["accuracy", "speed", "unsigned", "training", "masks"]
UNSIGNED = ["yolov12n", "yolo11n"]
QUANTISED = ["yolov12n", "yolov12n-turbo", "yolo11n"]  # trained on with quantize=8


def larger(name: str, folder: Path) -> Path:
    """A YAML of shapes drawn with more images, of which 80 to validate on."""
    text = (ROOT / f"cfg/datasets/{name}.yaml").read_text(encoding="utf-8")
    place = f"path: {yaml.safe_load(text)['path']}"
    for old, new in (place, f"path: {folder / name}"), ("train=64, val=16", "train=128, val=80"):
        if text.count(old) != 1:
            raise ValueError(f"{name}.yaml has {old!r} {text.count(old)} times instead of once")
        text = text.replace(old, new)
    file = folder / f"{name}80.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def trained(name: str, data: Path, folder: Path) -> Path:
    """The checkpoint of a model, trained where it is not there yet; stock's has the weights of the plugin's."""
    if name.startswith("yolo12"):
        file = folder / f"{name}.pt"
        y12.convert(trained(name.replace("yolo12", "yolov12"), data, folder), file, to="stock", force=True)
        return file
    run = folder / name
    if not (run / "results.csv").exists():
        usual = trainer.autocast
        if name in EPOCHS:
            trainer.autocast = lambda enabled, device="cpu": torch.autocast("cpu", torch.bfloat16)
        try:
            options = dict(imgsz=IMGSZ, batch=16, epochs=EPOCHS.get(name, 80), seed=0, device="cpu", plots=False)
            YOLO(f"{name}.yaml").train(data=str(data), project=str(folder), name=name, exist_ok=True, **options)
        finally:
            trainer.autocast = usual
    file = folder / f"{name}.pt"
    file.write_bytes((run / "weights/best.pt").read_bytes())
    return file


@contextmanager
def unsigned() -> Iterator[None]:
    """Activations of 0..255, the only ones ONNX Runtime runs in INT8 on x86, and convolutions, which gain by it."""
    usual = quantization.quantize_static
    quantization.quantize_static = partial(
        usual, activation_type=quantization.QuantType.QUInt8, op_types_to_quantize=["Conv"]
    )
    try:
        yield
    finally:
        quantization.quantize_static = usual


def quantised(name: str, checkpoint: Path, data: Path, folder: Path, epochs: int) -> dict[str, Any]:
    """mAP50-95 in float, quantised by ModelOpt after training, and trained on quantised; as PyTorch simulates it."""

    def score(yolo: Any) -> float:
        options = dict(data=str(data), imgsz=IMGSZ, batch=1, rect=False, device="cpu", plots=False, verbose=False)
        return round(float(yolo.val(project=str(folder), name="val", exist_ok=True, **options).box.map), 4)

    calibrated = YOLO(checkpoint)
    images = read_images((IMGSZ, IMGSZ), images_of(data, calibrated.model, 64))
    torch_utils.prepare_qat(calibrated.model, images.split(8), lambda batch: batch, 8)
    run = folder / f"{name}-qat"
    if not (run / "results.csv").exists():
        options = dict(imgsz=IMGSZ, batch=16, epochs=epochs, seed=0, device="cpu", plots=False, quantize=8)
        steady = dict(optimizer="AdamW", lr0=1e-4, warmup_epochs=1, mosaic=0.0)
        YOLO(checkpoint).train(data=str(data), project=str(folder), name=run.name, exist_ok=True, **options, **steady)
    scores = {"float": YOLO(checkpoint), "ptq": calibrated, "qat": YOLO(run / "weights/best.pt")}
    return {"model": name, "epochs": epochs, **{kind: score(yolo) for kind, yolo in scores.items()}}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the trainings")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="made anew; others stay in the record")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/int8.json")
    args = parser.parse_args(arguments)
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    data, masks = larger("shapes", folder), larger("shapes-seg", folder)
    check_det_dataset(str(data))
    files = {name: trained(name, data, folder) for name in args.models} if args.parts != ["masks"] else {}
    record = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    judged = Protocol(imgsz=IMGSZ, int8=str(data), runs=args.runs, warmup=3)
    large = replace(judged, imgsz=640)
    for part in args.parts:
        if part == "training":
            record[part] = [quantised(name, files[name], data, folder, 20) for name in QUANTISED if name in files]
        elif part == "masks":
            chosen = [str(trained(name, masks, folder)) for name in MASKS]
            record[part] = bench(chosen, RUNTIMES, replace(judged, int8=str(masks)), report=print)
        elif part == "unsigned":
            chosen = [str(files[name]) for name in UNSIGNED if name in files]
            with unsigned():
                record[part] = {str(p.imgsz): bench(chosen, RUNTIMES[:1], p, report=print) for p in (judged, large)}
        else:
            protocol, names = (judged, files) if part == "accuracy" else (large, TIMED)
            record[part] = bench([str(files[n]) for n in names if n in files], RUNTIMES, protocol, report=print)
        args.out.write_text(json.dumps(record, indent=2).replace(f"{folder}/", "") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
