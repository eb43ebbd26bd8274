"""YOLOv12 against stock in one interleaved run: bytes kept for gradients, a training step, inference and its roofline.

On the CPU (the default), or with --device cuda on an NVIDIA GPU: training then runs under autocast and reports its peak
memory, inference runs in FP16, eagerly, compiled and as a CUDA graph.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import ultralytics
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import get_cpu_info

import yolov12_plugin as y12
from yolov12_plugin.benchmark.machine import gpu_state
from yolov12_plugin.benchmark.timing import interleave, ratios
from yolov12_plugin.nets import saved_bytes
from yolov12_plugin.show.view import View

RESULTS = Path(__file__).resolve().parent / "results"


class Traffic(TorchDispatchMode):
    """Bytes that the operations read and write, each on its own: what a roofline without fusion has to move."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(t.nbytes for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor))
        return out


def synchronized(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
    def call() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return call


class Candidate(NamedTuple):
    """What is compared: a model YAML, and how its attention is computed."""

    yaml: str
    backend: str = "auto"
    checkpointing: bool = False
    memory_format: torch.memory_format = torch.contiguous_format

    @contextmanager
    def choices(self) -> Iterator[None]:
        with y12.attention_backend(self.backend), y12.checkpointing(self.checkpointing):
            yield


def candidates(scale: str, backends: list[str], against: list[str], training: bool = False) -> dict[str, Candidate]:
    """Everything that is compared, stock first."""
    name = f"yolov12{scale}"
    stock = {f"yolo12{scale}, stock": Candidate(f"yolo12{scale}.yaml")}
    ours = {f"{name}, {backend}": Candidate(f"{name}.yaml", backend) for backend in backends}
    if training:
        ours[f"{name}, checkpointing"] = Candidate(f"{name}.yaml", checkpointing=True)
    else:
        for build in f"yolo12{scale}", name:
            last = Candidate(f"{build}.yaml", memory_format=torch.channels_last)
            ours[f"{build}, channels last"] = last
    return stock | ours | {f"{other}{scale}": Candidate(f"{other}{scale}.yaml") for other in against}


def build(yaml: str) -> DetectionModel:
    """A model by Ultralytics' own blocks, except where the YAML is the plugin's."""
    (y12.register if yaml.startswith("yolov12") else y12.unregister)()
    torch.manual_seed(0)
    model = DetectionModel(yaml, verbose=False)
    y12.register()
    return model


def training(scale: str, imgsz: int, batch: int, device: torch.device, rounds: int, **names: list[str]) -> list[dict]:
    """Rows of a training step: forward, loss, backward and SGD, on eight random boxes an image.

    On a GPU with the most memory that a step takes, weights and gradients included. What does not fit has an error.
    """
    data = {
        "img": torch.rand(batch, 3, imgsz, imgsz, device=device),
        "batch_idx": torch.arange(batch, device=device).repeat_interleave(8).float(),
        "cls": torch.randint(80, (8 * batch, 1), device=device).float(),
        "bboxes": torch.rand(8 * batch, 4, device=device) * 0.3 + 0.2,
    }
    runs, peaks, failed = {}, {}, []
    about = {"what": "training step", "imgsz": imgsz, "batch": batch}
    for name, candidate in candidates(scale, training=True, **names).items():
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        model = build(candidate.yaml).to(device).train()
        model.args = get_cfg()
        optimizer = torch.optim.SGD(model.parameters(), 1e-4)

        def step(model=model, optimizer=optimizer, candidate=candidate) -> None:
            optimizer.zero_grad()
            with candidate.choices(), torch.autocast("cuda", torch.float16, enabled=device.type == "cuda"):
                loss, _ = model(data)
            loss.sum().backward()
            optimizer.step()

        run = synchronized(step, device)
        try:
            run()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
                run()
                peaks[name] = torch.cuda.max_memory_allocated(device) - before
            runs[name] = run
        except torch.cuda.OutOfMemoryError as e:
            failed.append({**about, "model": name, "error": str(e).partition(". ")[0]})
            del model, optimizer, step, run
            torch.cuda.empty_cache()
    rows = times(interleave(runs, rounds, warmup=1), **about) if runs else []
    if failed and "stock" in failed[0]["model"]:
        rows = [row | {"ratio": None} for row in rows]
    return [row | {"peak_mb": round(peaks[row["model"]] / 1e6)} if peaks else row for row in rows] + failed


def inference(scale: str, imgsz: int, batch: int, device: torch.device, rounds: int, **names: list[str]) -> list[dict]:
    """Rows of the forward pass of fused models, and the least time that the device's roofline allows for it."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    image = torch.rand(batch, 3, imgsz, imgsz, device=device, dtype=dtype)
    runs: dict[str, dict[str, Callable[[], object]]] = {}
    floors = {}
    peak = roofs(device, dtype)
    for name, candidate in candidates(scale, **names).items():
        model = build(candidate.yaml).eval().fuse(verbose=False).to(device, dtype)
        model = model.to(memory_format=candidate.memory_format)
        given = image.to(memory_format=candidate.memory_format)

        def forward(model=model, candidate=candidate, given=given) -> object:
            with candidate.choices(), torch.inference_mode():
                return model(given)

        forward()
        with FlopCounterMode(display=False) as flops, Traffic() as traffic:
            forward()
        floors[name] = {
            "gflop": round(flops.get_total_flops() / 1e9, 2),
            "moved_mb": round(traffic.bytes / 1e6),
            "roofline_ms": round(
                1e3 * max(flops.get_total_flops() / peak["flops"], traffic.bytes / peak["bandwidth"]), 2
            ),
        }
        runs.setdefault("eager", {})[name] = synchronized(forward, device)
        if device.type == "cuda":
            if candidate.backend != "flash":  # no part of a compiled graph
                runs.setdefault("compiled", {})[name] = synchronized(partial(forward, torch.compile(model)), device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                forward()
            runs.setdefault("CUDA graph", {})[name] = synchronized(graph.replay, device)
    rows = []
    for mode, of_mode in runs.items():
        timed = times(interleave(of_mode, rounds), what=f"inference, {mode}", imgsz=imgsz, batch=batch)
        rows += [row | floors[row["model"]] for row in timed]
    return rows


def roofs(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s and bytes/s (of memory, not of a cache) as this device gives them to its best kernels now."""
    options = {"device": device, "dtype": dtype}
    a, out = torch.rand(4096, 4096, **options), torch.empty(4096, 4096, **options)
    maps, kernel = torch.rand(4, 256, 80, 80, **options), torch.rand(256, 256, 3, 3, **options)
    big, copy = (torch.zeros(128 * 2**20, **options) for _ in range(2))
    runs = {
        "product": lambda: torch.mm(a, a, out=out),
        "convolution": lambda: F.conv2d(maps, kernel, padding=1),
        "copy": lambda: copy.copy_(big),
    }
    with torch.inference_mode():
        best = {k: min(t) for k, t in interleave({k: synchronized(run, device) for k, run in runs.items()}, 9).items()}
    flops = max(2 * 4096**3 / best["product"], 2 * maps.numel() * kernel[0].numel() / best["convolution"])
    return {"flops": flops, "bandwidth": 2 * big.nbytes / best["copy"]}


def times(seconds: dict[str, list[float]], **about: Any) -> list[dict]:
    ratio = ratios(seconds, next(iter(seconds)))
    return [
        {**about, "model": name, "ms": round(1e3 * statistics.median(t), 2), "ratio": round(ratio[name], 3)}
        for name, t in seconds.items()
    ]


def memory(scale: str, imgsz: int, backends: list[str], **_: Any) -> list[dict]:
    """Rows of the bytes that a forward pass of one image keeps for gradients."""
    image, rows = torch.rand(1, 3, imgsz, imgsz), []
    for name, candidate in candidates(scale, backends, [], training=True).items():
        with candidate.choices():
            kept = saved_bytes(build(candidate.yaml).train(), image)
        rows.append(
            {"what": "kept for gradients", "imgsz": imgsz, "batch": 1, "model": name, "mb": round(kept / 1e6, 1)}
        )
    return [row | {"ratio": round(row["mb"] / rows[0]["mb"], 3)} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--scales", default="nsm", help="of inference; training is measured on n")
    parser.add_argument("--imgsz", type=int, nargs="+", default=[640, 1280], help="of training")
    parser.add_argument("--batch", type=int, help="of training: 1 on the CPU, 16 on a GPU")
    parser.add_argument("--backends", nargs="+", help="sdpa and math, and flash where it is installed")
    parser.add_argument("--against", nargs="*", default=[], help="yolo11 yolo26 ...")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cuda = args.device.type == "cuda"
    names = {"backends": args.backends or ["sdpa", "math"], "against": args.against}
    rows: list[dict[str, Any]] = []
    rounds = {imgsz: max(3, args.rounds * 640 // imgsz // 2) for imgsz in args.imgsz}
    batch = args.batch or (16 if cuda else 1)
    measures: list[Callable[[], list[dict]]] = [
        *(partial(memory, scale, imgsz, **names) for scale, imgsz in (("n", 640), ("n", 1280), ("l", 640))),
        *(partial(training, "n", imgsz, batch, args.device, rounds[imgsz], **names) for imgsz in args.imgsz),
        *(
            partial(inference, scale, 640, batch, args.device, args.rounds, **names)
            for scale in args.scales
            for batch in ((1, 32) if cuda else (1,))
        ),
    ]
    for measure in measures:
        try:
            rows += (new := measure())
        except Exception as e:  # one that fails does not cost the others
            new = [{"what": "failed", "model": f"{measure.args[:2]}: {type(e).__name__}: {e}"}]
        show(new)
    about = {
        "device": torch.cuda.get_device_name() if cuda else get_cpu_info(),
        "driver": gpu_state(args.device)["driver"] if cuda else None,
        "threads": args.threads,
        "versions": {m.__name__: m.__version__ for m in (torch, ultralytics)} | {"cuda": torch.version.cuda},
    }
    out = args.out or RESULTS / f"attention-{args.device.type}.json"
    out.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")


def show(rows: list[dict[str, Any]]) -> None:
    title = " ".join(f"{rows[0][key]}" for key in ("what", "imgsz", "batch") if key in rows[0])
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in ("what", "imgsz", "batch")]
    View(title, {key: key for key in keys}, [dict.fromkeys(keys) | row for row in rows]).print()


if __name__ == "__main__":
    main()
